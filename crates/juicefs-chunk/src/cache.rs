//! What is kept locally of blocks: in memory, and on disk in JuiceFS' layout.
//!
//! The memory part is always there. It is what lets a sequential reader take a fetched block piece by piece, so it
//! stays small unless the whole cache was asked to be in memory: what lies on disk is in the kernel's page cache when it
//! is hot, and read from there in microseconds. Bytes in memory are counted by a limit of their own and not by the
//! budget: cached bytes must never stand in the way of a read.

mod dir;
mod disk;
mod file;
mod gate;
mod health;
mod index;
mod memory;
mod open_files;
mod place;
mod ring;
mod scan;
mod stage;
mod tidy;
#[cfg(test)]
pub(crate) mod trouble;

use std::{
    io,
    sync::{Arc, OnceLock, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use juicefs_core::{Segments, store::DiskCounts};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    block::BlockId,
    body::join,
    config::{CacheConfig, CachePlace, ChunkConfig},
    counters::Counters,
    pool,
};
use disk::DiskCache;
pub(crate) use disk::OnDisk;
use memory::MemoryCache;
pub(crate) use open_files::OpenFiles;
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
    /// In an open file of the disk cache.
    Disk(OnDisk),
    /// In a file of the disk cache, or perhaps there: finding out would wait. [`Cache::open_file`] does.
    Closed,
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
    /// Takes the place of `memory` when all disks are down.
    instead: OnceLock<MemoryCache>,
    /// Whether memory is the cache proper, and not only a stage for readers.
    all_in_memory: bool,
    disk: Option<Arc<DiskCache>>,
}

impl Parts {
    fn memory(&self) -> &MemoryCache {
        self.instead.get().unwrap_or(&self.memory)
    }

    /// Whether blocks are to be kept in memory, there being no disk for them.
    fn all_in_memory(&self) -> bool {
        self.all_in_memory || self.instead.get().is_some()
    }
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
        let evicts = all_in_memory.then(|| Arc::clone(counters));
        let memory = MemoryCache::new(memory_bytes, cache.expire, evicts);
        let parts = Arc::new(Parts { memory, instead: OnceLock::new(), all_in_memory, disk });
        let unwanted_size = u32::try_from(config.block_size).ok().filter(|_| cache.partial_only);
        let tidier = Mutex::new(spawn_tidier(Arc::clone(&parts), cache.clone(), Arc::clone(counters), called));
        Self { parts, unwanted_size, tidier, calls }
    }

    /// Looks for a block without waiting for a disk.
    pub(crate) fn find(&self, id: BlockId) -> Found {
        match (self.parts.memory().get(id), &self.parts.disk) {
            (Some(bytes), _) => Found::Memory(bytes),
            (None, Some(disk)) => disk.find(id),
            (None, None) => Found::Nothing,
        }
    }

    /// Looks for a block on disk, for as long as readers wait for one. Never [`Found::Closed`]. Polled within a runtime.
    pub(crate) async fn open_file(&self, id: BlockId) -> Found {
        match &self.parts.disk {
            Some(disk) => disk.open_file(id).await,
            None => Found::Nothing,
        }
    }

    /// Whether [`Cache::warm`] would do something.
    pub(crate) fn is_cold(&self, id: BlockId) -> bool {
        self.parts.disk.as_ref().is_some_and(|disk| !disk.is_open(id))
    }

    /// Lets the kernel read the file of a block that is not in use yet. Polled within a runtime.
    pub(crate) async fn warm(&self, id: BlockId) {
        if let Some(disk) = &self.parts.disk {
            disk.warm(id).await;
        }
    }

    /// Whether a block is at hand, however briefly.
    pub(crate) fn holds(&self, id: BlockId) -> bool {
        self.parts.memory().contains(id) || self.contains(id)
    }

    /// Whether a block is in the cache proper.
    pub(crate) fn contains(&self, id: BlockId) -> bool {
        self.parts.disk.as_ref().is_some_and(|disk| disk.contains(id))
            || (self.parts.all_in_memory() && self.parts.memory().contains(id))
    }

    /// Keeps a fetched block. Its bytes are counted here from now on. Waits for room only when forced.
    pub(crate) async fn insert(&self, id: BlockId, bytes: &Bytes, keep: Keep) {
        if keep == Keep::No {
            return;
        }
        self.parts.memory().insert(id, bytes.clone());
        match &self.parts.disk {
            Some(disk) if keep == Keep::Forced => disk.put(id, bytes).await,
            Some(disk) if self.unwanted_size != Some(id.size) => disk.offer(id, bytes),
            _ => {}
        }
    }

    /// Keeps a block that is being written, if there is room in the queue.
    pub(crate) fn insert_written(&self, id: BlockId, body: &Segments) {
        if self.parts.all_in_memory() {
            self.parts.memory().insert(id, join(body.clone()));
        } else if let Some(disk) = &self.parts.disk {
            disk.offer(id, &join(body.clone()));
        }
    }

    /// Forgets a block that is no more. Polled within a runtime.
    pub(crate) async fn remove(&self, id: BlockId) {
        self.drop_copy(id, false).await;
    }

    /// Forgets a block, to make room or because it turned out to be damaged, unless it is not in the store yet. Polled
    /// within a runtime.
    pub(crate) async fn evict(&self, id: BlockId) {
        self.drop_copy(id, true).await;
    }

    async fn drop_copy(&self, id: BlockId, keep_staged: bool) {
        self.parts.memory().remove(id);
        if let Some(disk) = &self.parts.disk {
            disk.remove(id, keep_staged).await;
        }
    }

    /// Whether a block waits here for its upload.
    pub(crate) fn is_staged(&self, id: BlockId) -> bool {
        self.parts.disk.as_ref().is_some_and(|disk| disk.is_staged(id))
    }

    /// Whether blocks can be staged here.
    pub(crate) fn can_stage(&self) -> bool {
        self.parts.disk.is_some()
    }

    /// Waits for its turn to stage a block, which holds the slot meanwhile. `None` when no disk takes it now.
    pub(crate) async fn stage_slot(&self, id: BlockId) -> Option<OwnedSemaphorePermit> {
        match &self.parts.disk {
            Some(disk) => disk.stage_slot(id).await,
            None => None,
        }
    }

    /// Writes a block that is to go to the store later so that it survives a crash. Waits for the disk.
    ///
    /// # Errors
    /// Those of the disk, `StorageFull` when it has too little free space, `Unsupported` without one. Nothing is left.
    pub(crate) fn stage(&self, id: BlockId, body: &Segments, tier: u8) -> io::Result<()> {
        let disk = self.parts.disk.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        disk.stage(id, body, tier)
    }

    /// A staged block is in the store: its copy here may go from now on. Polled within a runtime.
    pub(crate) async fn unstage(&self, id: BlockId) -> io::Result<()> {
        match &self.parts.disk {
            Some(disk) => disk.unstage(id).await,
            None => Ok(()),
        }
    }

    /// Reads a staged block to be uploaded, and compares all of it with its checksums. Polled within a runtime.
    ///
    /// # Errors
    /// Those of the disk, `TimedOut` when it does not answer, `InvalidData` for damage.
    pub(crate) async fn read_staged(&self, id: BlockId) -> io::Result<Bytes> {
        self.parts.disk.as_ref().ok_or(io::ErrorKind::NotFound)?.read_staged(id).await
    }

    /// What was staged by earlier clients. Waits for the disk.
    pub(crate) fn find_staged(&self) -> Vec<StagedBlock> {
        self.parts.disk.as_ref().map_or_else(Vec::new, |disk| disk.find_staged())
    }

    /// Whether the disk has less free space than it should.
    pub(crate) fn is_short_of_space(&self) -> bool {
        self.parts.disk.as_ref().is_some_and(|disk| disk.is_short_of_space())
    }

    /// Disks by their state.
    pub(crate) fn disks(&self) -> DiskCounts {
        self.parts.disk.as_ref().map_or_else(DiskCounts::default, |disk| disk.disks())
    }

    /// Blocks and bytes held.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let memory = self.parts.memory();
        memory.settle();
        match &self.parts.disk {
            Some(disk) if !self.parts.all_in_memory() => disk.usage(),
            _ => memory.usage(),
        }
    }

    /// Lets go of what is in memory, so that the disk is what a test meets.
    #[cfg(test)]
    pub(crate) fn forget_memory(&self) {
        self.parts.memory().clear();
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
        self.parts.memory().clear();
        pool::trim();
    }
}

/// Starts the thread that looks after limits, every second and when it is called.
fn spawn_tidier(
    parts: Arc<Parts>,
    config: CacheConfig,
    counters: Arc<Counters>,
    calls: mpsc::Receiver<TidyCall>,
) -> Option<JoinHandle<()>> {
    let work = move || {
        let (mut scanned, mut trimmed) = (Instant::now(), Instant::now());
        while matches!(calls.recv_timeout(TIDY_INTERVAL), Ok(TidyCall::Now) | Err(mpsc::RecvTimeoutError::Timeout)) {
            parts.memory().settle();
            if trimmed.elapsed() >= TRIM_INTERVAL {
                trimmed = Instant::now();
                pool::trim();
            }
            let Some(disk) = &parts.disk else { continue };
            if !disk.look_after_disks(Instant::now()) && parts.instead.get().is_none() {
                tracing::warn!("no cache disk is left: caching up to 100 MiB in memory");
                let bytes = FALLBACK_MEMORY_BYTES.max(config.memory_bytes);
                let evicts = Some(Arc::clone(&counters));
                parts.instead.get_or_init(|| MemoryCache::new(bytes, config.expire, evicts));
                parts.memory.clear();
            }
            disk.tidy();
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
