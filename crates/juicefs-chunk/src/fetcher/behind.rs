//! Behind a read of a part of a block, the whole block may be fetched.
//!
//! Each cold random read of a file on a distant store waits for a round trip. Where the file is small beside the cache, and
//! the link has little else to do, the block of such a read is fetched behind it, so that the next read there is a hit. Such
//! a fetch is a guess: it takes memory that nobody waits for, and a reader who only wants a part does not wait for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    block::BlockId,
    config::{CachePlace, ChunkConfig},
};

/// A file is small beside the cache if it fills at most this part of it.
const CACHE_PART: u64 = 8;
/// No longer file is small.
const MOST_BYTES: u64 = 1 << 30;
/// A store that has a block there in this time is quick.
pub(super) const QUICK: Duration = Duration::from_millis(100);
/// Blocks that are fetched at once from a quick store for each of `--prefetch`, in the place of one.
const QUICK_BLOCKS: usize = 4;

/// The blocks that are being fetched behind reads.
#[derive(Debug, Default)]
pub(super) struct Behind {
    blocks: Mutex<Vec<BlockId>>,
    /// Whether the last block was there soon.
    is_quick: AtomicBool,
}

impl Behind {
    /// Whether a block is being fetched.
    pub(super) fn has(&self, id: BlockId) -> bool {
        self.blocks.lock().contains(&id)
    }

    /// Notes that a block is fetched. `None` when it is already, or when as many others are as `prefetch` allows.
    pub(super) fn begin(behind: &Arc<Self>, id: BlockId, prefetch: usize) -> Option<Fetching> {
        let most = prefetch * if behind.is_quick.load(Relaxed) { QUICK_BLOCKS } else { 1 };
        let mut blocks = behind.blocks.lock();
        if blocks.len() >= most || blocks.contains(&id) {
            return None;
        }
        blocks.push(id);
        Some(Fetching { behind: Arc::clone(behind), id })
    }

    /// How many blocks are being fetched.
    pub(super) fn len(&self) -> usize {
        self.blocks.lock().len()
    }
}

/// One fetch, however its task ends.
pub(super) struct Fetching {
    behind: Arc<Behind>,
    id: BlockId,
}

impl Fetching {
    /// The block is there; whether that was soon decides how many are fetched at once from now on.
    pub(super) fn arrived(self, is_quick: bool) {
        self.behind.is_quick.store(is_quick, Relaxed);
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.behind.blocks.lock().retain(|id| *id != self.id);
    }
}

/// Length up to which a file is small beside the cache, in bytes; 0 where nothing is fetched behind reads.
pub(crate) fn small_file_bytes(config: &ChunkConfig) -> u64 {
    if config.local_store || config.prefetch == 0 || config.cache.place == CachePlace::None {
        return 0;
    }
    (config.cache.size_bytes / CACHE_PART).min(MOST_BYTES)
}

#[cfg(test)]
mod tests;
