//! The cache keeps blocks on this machine: in memory, and in a local tier on disks ([`LocalTier`]).
//!
//! The memory part is always there. It lets a sequential reader take a fetched block piece by piece, and stays small unless
//! the user wants the whole cache in memory: a hot block on disk is in the kernel's page cache, and is read from there in
//! microseconds. Bytes in memory have a limit of their own and are not taken from the budget, because cached bytes must never
//! stand in the way of a read.

mod dir;
mod dir_list;
mod disk;
mod file;
mod gate;
mod health;
mod index;
mod memory;
mod modes;
mod open_files;
mod ring;
mod scan;
mod stage;
mod tidy;
mod tier;
#[cfg(test)]
pub(crate) mod trouble;

use std::{
    sync::{Arc, OnceLock, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use juicefs_core::{Segments, store::DiskCounts};
use parking_lot::Mutex;

use crate::{
    block::BlockId,
    body::join,
    config::{CacheConfig, CachePlace, ChunkConfig},
    counters::Counters,
    pool,
};
pub use dir_list::cache_dirs;
use disk::DiskCache;
use memory::MemoryCache;
pub(crate) use open_files::OpenFiles;
use tidy::TidyCall;
pub(crate) use tier::{Found, LocalBlock, LocalTier, StagedBlock};

/// How often the limits are looked after.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// How often recycled memory that nobody wants is given back.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// The limit, in bytes, of the memory cache that stands in for a disk cache without a usable directory.
const FALLBACK_MEMORY_BYTES: u64 = 100 << 20;

/// Whether a fetched block is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    /// The block is not kept.
    No,
    /// The block is kept if the settings want it and there is room in the queue.
    Normal,
    /// The block is kept whatever `--cache-partial-only` says, and room is waited for.
    Forced,
}

/// The cache of one mount.
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
    /// Takes the place of `memory` once all disks are down.
    instead: OnceLock<MemoryCache>,
    /// Whether memory is the cache proper, and not only a stage for readers.
    all_in_memory: bool,
    tier: Option<Arc<dyn LocalTier>>,
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
        let tier: Option<Arc<dyn LocalTier>> = match &cache.place {
            CachePlace::Disk(dirs) => DiskCache::open(config, dirs, counters, &calls).map(|disk| disk as _),
            CachePlace::None | CachePlace::Memory => None,
        };
        let (all_in_memory, memory_bytes) = match cache.place {
            CachePlace::Memory => (true, cache.size_bytes),
            CachePlace::Disk(_) if tier.is_none() => {
                tracing::warn!("no cache directory can be used: caching up to 100 MiB in memory");
                (true, FALLBACK_MEMORY_BYTES.max(cache.memory_bytes))
            }
            CachePlace::Disk(_) | CachePlace::None => (false, cache.memory_bytes),
        };
        let evicts = all_in_memory.then(|| Arc::clone(counters));
        let memory = MemoryCache::new(memory_bytes, cache.expire, evicts);
        let parts = Arc::new(Parts { memory, instead: OnceLock::new(), all_in_memory, tier });
        let unwanted_size = u32::try_from(config.block_size).ok().filter(|_| cache.partial_only);
        let tidier = Mutex::new(spawn_tidier(Arc::clone(&parts), cache.clone(), Arc::clone(counters), called));
        Self { parts, unwanted_size, tidier, calls }
    }

    /// Looks for a block without waiting for a disk.
    pub(crate) fn find(&self, id: BlockId) -> Found {
        match (self.parts.memory().get(id), &self.parts.tier) {
            (Some(bytes), _) => Found::Memory(bytes),
            (None, Some(tier)) => tier.find(id),
            (None, None) => Found::Nothing,
        }
    }

    /// Looks for a block on disk, for as long as readers wait for one. Never returns [`Found::Closed`]. Must be polled within
    /// a runtime.
    pub(crate) async fn open_block(&self, id: BlockId) -> Found {
        match &self.parts.tier {
            Some(tier) => tier.open(id).await,
            None => Found::Nothing,
        }
    }

    /// Whether [`Cache::warm`] would do something.
    pub(crate) fn is_cold(&self, id: BlockId) -> bool {
        self.parts.tier.as_ref().is_some_and(|tier| !tier.is_open(id))
    }

    /// Lets a block on disk be read ahead that is not in use yet. Must be polled within a runtime.
    pub(crate) async fn warm(&self, id: BlockId) {
        if let Some(tier) = &self.parts.tier {
            tier.warm(id).await;
        }
    }

    /// Whether a block is on this machine, even if it stays only briefly.
    pub(crate) fn holds(&self, id: BlockId) -> bool {
        self.parts.memory().contains(id) || self.contains(id)
    }

    /// Whether a block is in the cache proper, where it stays until it is evicted.
    pub(crate) fn contains(&self, id: BlockId) -> bool {
        self.parts.tier.as_ref().is_some_and(|tier| tier.contains(id))
            || (self.parts.all_in_memory() && self.parts.memory().contains(id))
    }

    /// Keeps a fetched block as `keep` says. The cache counts its bytes from now on. Waits for room only when forced.
    pub(crate) async fn insert(&self, id: BlockId, bytes: &Bytes, keep: Keep) {
        if keep == Keep::No {
            return;
        }
        self.parts.memory().insert(id, bytes.clone());
        match &self.parts.tier {
            Some(tier) if keep == Keep::Forced => tier.put(id, bytes).await,
            Some(tier) if self.unwanted_size != Some(id.size) => tier.offer(id, bytes),
            _ => {}
        }
    }

    /// Keeps a block that is being written if there is room in the queue. Copies a body of several pieces.
    pub(crate) fn insert_written(&self, id: BlockId, body: &Segments) {
        if self.parts.all_in_memory() {
            self.parts.memory().insert(id, join(body.clone()));
        } else if let Some(tier) = &self.parts.tier {
            tier.offer(id, &join(body.clone()));
        }
    }

    /// Forgets and deletes a block that is no more. Must be polled within a runtime.
    pub(crate) async fn remove(&self, id: BlockId) {
        self.drop_copy(id, false).await;
    }

    /// Forgets and deletes a block, to make room or because it turned out to be damaged. A staged block stays. Must be
    /// polled within a runtime.
    pub(crate) async fn evict(&self, id: BlockId) {
        self.drop_copy(id, true).await;
    }

    async fn drop_copy(&self, id: BlockId, keep_staged: bool) {
        self.parts.memory().remove(id);
        if let Some(tier) = &self.parts.tier {
            tier.remove(id, keep_staged).await;
        }
    }

    /// Whether a block waits here for its upload.
    pub(crate) fn is_staged(&self, id: BlockId) -> bool {
        self.parts.tier.as_ref().is_some_and(|tier| tier.is_staged(id))
    }

    /// Returns the local tier, in which blocks can be staged.
    pub(crate) fn tier(&self) -> Option<&Arc<dyn LocalTier>> {
        self.parts.tier.as_ref()
    }

    /// Whether a disk has less free space than it should.
    pub(crate) fn is_short_of_space(&self) -> bool {
        self.parts.tier.as_ref().is_some_and(|tier| tier.is_short_of_space())
    }

    /// Counts the disks by their state.
    pub(crate) fn disks(&self) -> DiskCounts {
        self.parts.tier.as_ref().map_or_else(DiskCounts::default, |tier| tier.disks())
    }

    /// Returns the number of blocks held and their bytes.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let memory = self.parts.memory();
        memory.settle();
        match &self.parts.tier {
            Some(tier) if !self.parts.all_in_memory() => tier.usage(),
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
        if let Some(tier) = &self.parts.tier {
            tier.close();
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
            let Some(tier) = &parts.tier else { continue };
            if !tier.look_after(Instant::now()) && parts.instead.get().is_none() {
                tracing::warn!("no cache disk is left: caching up to 100 MiB in memory");
                let bytes = FALLBACK_MEMORY_BYTES.max(config.memory_bytes);
                let evicts = Some(Arc::clone(&counters));
                parts.instead.get_or_init(|| MemoryCache::new(bytes, config.expire, evicts));
                parts.memory.clear();
            }
            if config.scan_interval.is_some_and(|every| !every.is_zero() && scanned.elapsed() >= every) {
                scanned = Instant::now();
                tier.rescan();
            }
        }
    };
    let tidier = std::thread::Builder::new().name("cache-tidy".to_owned()).spawn(work);
    tidier.inspect_err(|e| tracing::error!("cannot start the thread cache-tidy: {e}")).ok()
}

#[cfg(test)]
mod tests;
