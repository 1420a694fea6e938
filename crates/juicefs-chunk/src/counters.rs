//! The data path counts here what it does.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use juicefs_core::store::OpStats;

/// Counts operations of one kind, their bytes and the time they took.
#[derive(Debug, Default)]
pub(crate) struct OpCounter {
    count: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
}

impl OpCounter {
    /// Counts one operation.
    pub(crate) fn add(&self, bytes: usize, took: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if !took.is_zero() {
            self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Counts one operation that took no time worth measuring.
    pub(crate) fn hit(&self, bytes: usize) {
        self.add(bytes, Duration::ZERO);
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds for people and dashboards")]
    pub(crate) fn stats(&self) -> OpStats {
        OpStats {
            count: self.count.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            seconds: self.nanos.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// All counters of one mount.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) get: OpCounter,
    pub(crate) put: OpCounter,
    pub(crate) delete: OpCounter,
    pub(crate) cache_hit: OpCounter,
    pub(crate) cache_miss: OpCounter,
    pub(crate) cache_write: OpCounter,
    pub(crate) cache_drops: AtomicU64,
    pub(crate) cache_evicts: AtomicU64,
    pub(crate) object_errors: AtomicU64,
    /// How many staged blocks are being written now, also those that nobody waits for any more.
    pub(crate) staging_writes: AtomicU64,
}

/// Counts as one more of something until it is dropped.
pub(crate) struct OneMore<'a>(&'a AtomicU64);

impl<'a> OneMore<'a> {
    pub(crate) fn of(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for OneMore<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Counters {
    /// Counts a block that the cache had no room for.
    pub(crate) fn dropped(&self) {
        self.cache_drops.fetch_add(1, Relaxed);
    }

    /// Counts blocks that left the cache to make room.
    pub(crate) fn evicted(&self, blocks: usize) {
        self.cache_evicts.fetch_add(blocks as u64, Relaxed);
    }

    /// Counts a request that failed.
    pub(crate) fn object_error(&self) {
        self.object_errors.fetch_add(1, Relaxed);
    }
}
