//! The memory part of the cache keeps whole blocks, and lets the least recently used go first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use moka::{policy::EvictionPolicy, sync::Cache};

use crate::{block::BlockId, counters::Counters};

/// An entry takes so many bytes beside its data.
const ENTRY_BYTES: u32 = 512;
/// The part of the limit that may be put in before entries beyond the limit are let go.
const OVERSHOOT_PART: u64 = 16;

/// Keeps whole blocks up to a limit in bytes.
#[derive(Debug)]
pub(crate) struct MemoryCache {
    blocks: Cache<BlockId, Bytes>,
    max_bytes: u64,
    /// How many bytes were put in since entries were let go.
    unsettled: AtomicU64,
}

impl MemoryCache {
    /// Makes an empty cache. If it is the cache proper, evicted blocks are counted in `counters`.
    pub(crate) fn new(max_bytes: u64, expire: Duration, counters: Option<Arc<Counters>>) -> Self {
        // Not the default policy: it refuses newcomers for the sake of often used blocks, and a sequential reader whose
        // newly fetched block is refused would fetch it again for each of its pieces.
        let builder = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX).saturating_add(ENTRY_BYTES))
            .eviction_policy(EvictionPolicy::lru());
        let builder = if expire.is_zero() { builder } else { builder.time_to_idle(expire) };
        let builder = match counters {
            Some(counters) => builder.eviction_listener(move |_, _, why| {
                if why.was_evicted() {
                    counters.evicted(1);
                }
            }),
            None => builder,
        };
        Self { blocks: builder.build(), max_bytes, unsettled: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, id: BlockId) -> Option<Bytes> {
        self.blocks.get(&id)
    }

    pub(crate) fn contains(&self, id: BlockId) -> bool {
        self.blocks.contains_key(&id)
    }

    pub(crate) fn insert(&self, id: BlockId, bytes: Bytes) {
        let added = bytes.len() as u64 + u64::from(ENTRY_BYTES);
        self.blocks.insert(id, bytes);
        if self.unsettled.fetch_add(added, Ordering::Relaxed) + added >= self.max_bytes / OVERSHOOT_PART {
            self.settle();
        }
    }

    pub(crate) fn remove(&self, id: BlockId) {
        self.blocks.invalidate(&id);
    }

    /// Lets all blocks go.
    pub(crate) fn clear(&self) {
        self.blocks.invalidate_all();
        self.settle();
    }

    /// Lets the blocks go that are expired or beyond the limit. By itself the cache does that only after many operations.
    pub(crate) fn settle(&self) {
        self.unsettled.store(0, Ordering::Relaxed);
        self.blocks.run_pending_tasks();
    }

    /// Returns the number of blocks held and their bytes.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let (count, weight) = (self.blocks.entry_count(), self.blocks.weighted_size());
        (count, weight.saturating_sub(count * u64::from(ENTRY_BYTES)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_newcomers_stay() {
        const MIB: usize = 1 << 20;
        let counters = Arc::<Counters>::default();
        let cache = MemoryCache::new(8 << 20, Duration::ZERO, Some(Arc::clone(&counters)));
        let id = |index| BlockId { slice: 1, index, size: 1 << 20 };
        for index in 0..100 {
            cache.insert(id(index), Bytes::from(vec![0; MIB]));
            assert!(cache.get(id(index)).is_some(), "block {index} was refused");
            let (_, bytes) = cache.usage();
            assert!(bytes <= 9 << 20, "{bytes} bytes are held");
        }
        assert!(cache.get(id(0)).is_none());
        let evicted = counters.cache_evicts.load(Ordering::Relaxed);
        assert!((92..=93).contains(&evicted), "{evicted} of 100 blocks left, 7 fit");
        cache.remove(id(99));
        assert!(!cache.contains(id(99)));
    }
}
