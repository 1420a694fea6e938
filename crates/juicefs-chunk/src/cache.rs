//! What is kept locally of blocks: in memory, and on disk in JuiceFS' layout.
//!
//! The memory part is always there. It is what lets a sequential reader take a fetched block piece by piece, so it
//! stays small unless the whole cache was asked to be in memory: what lies on disk is in the kernel's page cache when it
//! is hot, and read from there in microseconds. Bytes in memory are counted by a limit of their own and not by the
//! budget: cached bytes must never stand in the way of a read.

mod dir;
mod disk;
mod file;
mod index;
mod memory;
mod open_files;
mod place;
mod ring;
mod scan;
mod stage;
mod tidy;

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use juicefs_core::Segments;
use parking_lot::Mutex;

use crate::{
    block::BlockId,
    body::join,
    config::{CacheConfig, CachePlace, ChunkConfig},
    counters::Counters,
    pool,
};
use disk::DiskCache;
pub(crate) use file::CachedFile;
use memory::MemoryCache;
pub use place::cache_dirs;
pub(crate) use stage::StagedBlock;

/// How often limits are looked after.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// How often memory that nobody wants is given back.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of the memory cache that stands in for a disk cache without a usable directory.
const FALLBACK_MEMORY_BYTES: u64 = 100 << 20;

/// How much a block wants to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    /// Not at all.
    No,
    /// As the settings say, if there is room in the queue.
    Normal,
    /// Whatever `--cache-partial-only` says, waiting for room.
    Forced,
}

/// Where a block was found.
pub(crate) enum Found {
    /// The whole of it in memory.
    Memory(Bytes),
    /// In a file of the disk cache.
    Disk(CachedFile),
    /// Nowhere.
    Nothing,
}

/// What the tidying thread is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TidyCall {
    /// A limit was passed.
    Now,
    /// The cache is closing.
    Stop,
}

/// The local cache of one mount.
#[derive(Debug)]
pub(crate) struct Cache {
    parts: Arc<Parts>,
    /// The full size of a block, when full blocks are not to be kept.
    unwanted_size: Option<u32>,
    tidier: Mutex<Option<JoinHandle<()>>>,
    calls: mpsc::SyncSender<TidyCall>,
}

#[derive(Debug)]
struct Parts {
    memory: MemoryCache,
    /// Whether memory is the cache proper, and not only a stage for readers.
    all_in_memory: bool,
    disk: Option<DiskCache>,
}

impl Cache {
    /// Opens the cache that the settings describe. Directories that cannot be used are logged and left out.
    pub(crate) fn open(config: &ChunkConfig, counters: &Arc<Counters>) -> Self {
        let cache = &config.cache;
        let (calls, called) = mpsc::sync_channel(1);
        let disk = match &cache.place {
            CachePlace::Disk(dirs) => DiskCache::open(config, dirs, counters, &calls),
            CachePlace::None | CachePlace::Memory => None,
        };
        let (all_in_memory, memory_bytes) = match cache.place {
            CachePlace::Memory => (true, cache.size_bytes),
            CachePlace::Disk(_) if disk.is_none() => {
                tracing::warn!("no cache directory can be used: caching up to 100 MiB in memory");
                (true, FALLBACK_MEMORY_BYTES.max(cache.memory_bytes))
            }
            CachePlace::Disk(_) | CachePlace::None => (false, cache.memory_bytes),
        };
        let memory = MemoryCache::new(memory_bytes, cache.expire);
        let parts = Arc::new(Parts { memory, all_in_memory, disk });
        let unwanted_size = u32::try_from(config.block_size).ok().filter(|_| cache.partial_only);
        let tidier = Mutex::new(spawn_tidier(Arc::clone(&parts), cache.clone(), called));
        Self { parts, unwanted_size, tidier, calls }
    }

    /// Looks for a block without waiting for a disk.
    pub(crate) fn find(&self, id: BlockId) -> Found {
        match (self.parts.memory.get(id), &self.parts.disk) {
            (Some(bytes), _) => Found::Memory(bytes),
            (None, Some(disk)) => disk.find(id),
            (None, None) => Found::Nothing,
        }
    }

    /// Lets the kernel read the file of a block that is not in use yet.
    pub(crate) fn warm(&self, id: BlockId) {
        if let Some(disk) = &self.parts.disk {
            disk.warm(id);
        }
    }

    /// Whether a block is at hand, however briefly.
    pub(crate) fn holds(&self, id: BlockId) -> bool {
        self.parts.memory.contains(id) || self.contains(id)
    }

    /// Whether a block is in the cache proper.
    pub(crate) fn contains(&self, id: BlockId) -> bool {
        match &self.parts.disk {
            Some(disk) => disk.contains(id),
            None => self.parts.all_in_memory && self.parts.memory.contains(id),
        }
    }

    /// Keeps a fetched block. Its bytes are counted here from now on. Waits for room only when forced.
    pub(crate) async fn insert(&self, id: BlockId, bytes: &Bytes, keep: Keep) {
        if keep == Keep::No {
            return;
        }
        self.parts.memory.insert(id, bytes.clone());
        match &self.parts.disk {
            Some(disk) if keep == Keep::Forced => disk.put(id, bytes).await,
            Some(disk) if self.unwanted_size != Some(id.size) => disk.offer(id, bytes),
            _ => {}
        }
    }

    /// Keeps a block that is being written, if there is room in the queue.
    pub(crate) fn insert_written(&self, id: BlockId, body: &Segments) {
        if let Some(disk) = &self.parts.disk {
            disk.offer(id, &join(body.clone()));
        } else if self.parts.all_in_memory {
            self.parts.memory.insert(id, join(body.clone()));
        }
    }

    /// Forgets a block that is no more or turned out to be damaged. May wait for a disk.
    pub(crate) fn remove(&self, id: BlockId) {
        self.parts.memory.remove(id);
        if let Some(disk) = &self.parts.disk {
            disk.remove(id, false);
        }
    }

    /// Makes room: forgets a block unless it is not in the store yet. May wait for a disk.
    pub(crate) fn evict(&self, id: BlockId) {
        self.parts.memory.remove(id);
        if let Some(disk) = &self.parts.disk {
            disk.remove(id, true);
        }
    }

    /// Whether blocks can be staged here.
    pub(crate) fn can_stage(&self) -> bool {
        self.parts.disk.is_some()
    }

    /// Writes a block that is to go to the store later so that it survives a crash. Waits for the disk.
    ///
    /// # Errors
    /// Those of the disk, `StorageFull` when it has too little free space, `Unsupported` without one. Nothing is left.
    pub(crate) fn stage(&self, id: BlockId, body: &Segments, tier: u8) -> io::Result<()> {
        let disk = self.parts.disk.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        disk.stage(id, body, tier)
    }

    /// A staged block is in the store: its copy here may go from now on. Waits for the disk.
    pub(crate) fn unstage(&self, id: BlockId) -> io::Result<()> {
        self.parts.disk.as_ref().map_or(Ok(()), |disk| disk.unstage(id))
    }

    /// Opens a staged block to be uploaded. Waits for the disk.
    pub(crate) fn open_staged(&self, id: BlockId) -> io::Result<CachedFile> {
        self.parts.disk.as_ref().ok_or(io::ErrorKind::NotFound)?.open_staged(id)
    }

    /// What was staged by earlier clients. Waits for the disk.
    pub(crate) fn find_staged(&self) -> Vec<StagedBlock> {
        self.parts.disk.as_ref().map_or_else(Vec::new, DiskCache::find_staged)
    }

    /// Whether the disk has less free space than it should.
    pub(crate) fn is_short_of_space(&self) -> bool {
        self.parts.disk.as_ref().is_some_and(DiskCache::is_short_of_space)
    }

    /// Blocks and bytes held.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.parts.memory.settle();
        self.parts.disk.as_ref().map_or_else(|| self.parts.memory.usage(), DiskCache::usage)
    }

    /// Writes what is queued and ends all threads; waits for them.
    pub(crate) fn close(&self) {
        if let Some(tidier) = self.tidier.lock().take() {
            // The thread may have died; joining tells.
            let _ = self.calls.send(TidyCall::Stop);
            if tidier.join().is_err() {
                tracing::error!("the thread cache-tidy panicked");
            }
        }
        if let Some(disk) = &self.parts.disk {
            disk.close();
        }
        self.parts.memory.clear();
        pool::trim();
    }
}

/// Starts the thread that looks after limits, every second and when it is called.
fn spawn_tidier(parts: Arc<Parts>, config: CacheConfig, calls: mpsc::Receiver<TidyCall>) -> Option<JoinHandle<()>> {
    let work = move || {
        let rules = tidy::Rules::new(&config, parts.disk.as_ref().map_or(1, DiskCache::count));
        let (mut scanned, mut trimmed) = (Instant::now(), Instant::now());
        while matches!(calls.recv_timeout(TIDY_INTERVAL), Ok(TidyCall::Now) | Err(mpsc::RecvTimeoutError::Timeout)) {
            parts.memory.settle();
            if trimmed.elapsed() >= TRIM_INTERVAL {
                trimmed = Instant::now();
                pool::trim();
            }
            let Some(disk) = &parts.disk else { continue };
            disk.tidy(&rules);
            if config.scan_interval.is_some_and(|every| !every.is_zero() && scanned.elapsed() >= every) {
                scanned = Instant::now();
                disk.rescan();
            }
        }
    };
    let tidier = std::thread::Builder::new().name("cache-tidy".to_owned()).spawn(work);
    tidier.inspect_err(|e| tracing::error!("cannot start the thread cache-tidy: {e}")).ok()
}

#[cfg(test)]
mod tests;
