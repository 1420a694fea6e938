//! What is kept locally of blocks: in memory, and on disk in JuiceFS' layout.
//!
//! The memory part is always there. It is what lets a sequential reader take a fetched block piece by piece, so it
//! stays small unless the whole cache was asked to be in memory. Its bytes are counted by its own limit and not by the
//! budget: cached bytes must never stand in the way of a read.

mod file;
mod memory;

use bytes::Bytes;
use juicefs_core::Segments;

use crate::{
    block::BlockId,
    config::{CachePlace, ChunkConfig},
    download::join,
};
pub(crate) use file::CachedFile;
use memory::MemoryCache;

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

/// The local cache of one mount.
#[derive(Debug)]
pub(crate) struct Cache {
    memory: MemoryCache,
    /// Whether memory is the cache proper, and not only a stage for readers.
    all_in_memory: bool,
}

impl Cache {
    pub(crate) fn open(config: &ChunkConfig) -> Self {
        let cache = &config.cache;
        let all_in_memory = cache.place == CachePlace::Memory;
        let memory_bytes = if all_in_memory { cache.size_bytes } else { cache.memory_bytes };
        Self { memory: MemoryCache::new(memory_bytes, cache.expire), all_in_memory }
    }

    /// Looks for a block without waiting.
    pub(crate) fn find(&self, id: BlockId) -> Found {
        self.memory.get(id).map_or(Found::Nothing, Found::Memory)
    }

    /// Whether a block is at hand, however briefly.
    pub(crate) fn holds(&self, id: BlockId) -> bool {
        self.memory.contains(id)
    }

    /// Whether a block is in the cache proper.
    pub(crate) fn contains(&self, id: BlockId) -> bool {
        self.memory.contains(id)
    }

    /// Keeps a fetched block. Its bytes are counted here from now on. Waits for room only when forced.
    pub(crate) async fn insert(&self, id: BlockId, bytes: &Bytes, keep: Keep) {
        if keep != Keep::No {
            self.memory.insert(id, bytes.clone());
        }
    }

    /// Keeps a block that is being written, if there is room in the queue.
    pub(crate) fn insert_written(&self, id: BlockId, body: &Segments) {
        if self.all_in_memory {
            self.memory.insert(id, join(body.clone()));
        }
    }

    /// Forgets a block.
    pub(crate) fn remove(&self, id: BlockId) {
        self.memory.remove(id);
    }

    /// Blocks and bytes held.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.memory.usage()
    }

    /// Finishes what is under way.
    pub(crate) async fn close(&self) {
        self.memory.settle();
    }
}
