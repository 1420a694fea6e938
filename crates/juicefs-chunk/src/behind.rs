//! The rest of a block, fetched behind a read of a part of it.
//!
//! Cold random reads of a file on a distant store wait for a round trip each. Where the file is small beside the cache, and the
//! link has little else to do, the block of such a read is fetched behind it, so that the next one there is a hit. Such
//! fetches are guesses: they take memory that nobody waits for, and no reader waits for them who only wants a part.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use juicefs_core::Share;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    block::BlockId,
    cache::Keep,
    config::{CachePlace, ChunkConfig},
    store::Inner,
};

/// Part of the cache that a file may fill to be small beside it.
const CACHE_PART: u64 = 8;
/// No longer file is small.
const MOST_BYTES: u64 = 1 << 30;
/// A store that has a block there in this time is quick.
const QUICK: Duration = Duration::from_millis(100);
/// Blocks that are fetched at once from a quick store for each of `--prefetch`, in the place of one.
const QUICK_BLOCKS: usize = 4;
/// Requests under way beside these, from which on the link is busy.
const BUSY_REQUESTS: usize = 8;

/// Blocks that are fetched behind reads now.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    blocks: Mutex<Vec<BlockId>>,
    /// Whether the last block was there soon.
    is_quick: AtomicBool,
}

impl Behind {
    pub(crate) fn has(&self, id: BlockId) -> bool {
        self.blocks.lock().contains(&id)
    }

    /// Notes that a block is fetched, unless it is or `most` others are.
    fn begin(&self, id: BlockId, most: usize) -> bool {
        let mut blocks = self.blocks.lock();
        let begins = blocks.len() < most && !blocks.contains(&id);
        if begins {
            blocks.push(id);
        }
        begins
    }

    fn len(&self) -> usize {
        self.blocks.lock().len()
    }
}

/// One fetch, however its task ends.
struct Fetching {
    inner: Arc<Inner>,
    id: BlockId,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.inner.behind.blocks.lock().retain(|id| *id != self.id);
    }
}

/// Length up to which a file is small beside the cache, in bytes; 0 where nothing is fetched behind reads.
pub(crate) fn small_file_bytes(config: &ChunkConfig) -> u64 {
    if config.local_store || config.prefetch == 0 || config.cache.place == CachePlace::None {
        return 0;
    }
    (config.cache.size_bytes / CACHE_PART).min(MOST_BYTES)
}

impl Inner {
    /// Fetches a block of which a part is being read, if that is cheap now and nobody does it; whether it does.
    pub(crate) fn fetch_behind(self: &Arc<Self>, id: BlockId) -> bool {
        let most = self.config.prefetch * if self.behind.is_quick.load(Relaxed) { QUICK_BLOCKS } else { 1 };
        if self.closing.is_cancelled()
            || small_file_bytes(&self.config) == 0
            || self.budget.waiting() > 0
            // What cannot be kept would be fetched again and again.
            || self.cache.is_short_of_space()
            || self.requests.is_download_limited()
            || self.requests.downloading().saturating_sub(self.behind.len()) >= BUSY_REQUESTS
            || !self.behind.begin(id, most)
        {
            return false;
        }
        let fetching = Fetching { inner: Arc::clone(self), id };
        let Some(lease) = self.budget.try_acquire(Share::Ahead, self.fetch_bytes(id)) else { return false };
        self.tasks.spawn_on(
            async move {
                let (inner, begun) = (&fetching.inner, Instant::now());
                // A failure was logged, and meets the reader who needs the block.
                if inner.join_or_fetch(id, Keep::Forced, lease).await.is_ok() {
                    inner.behind.is_quick.store(begun.elapsed() <= QUICK, Relaxed);
                }
            },
            &self.handle,
        );
        true
    }
}

#[cfg(test)]
mod tests;
