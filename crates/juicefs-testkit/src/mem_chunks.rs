//! A chunk store in memory whose uploads and reads can be made to fail, wait and be counted.

mod blocks;
mod writer;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use juicefs_core::{
    Budget, ChunkError, ChunkStore, Segments, SliceId, SliceKey, SliceWriter, StorageError,
    store::{CachePresence, ChunkStats, OpStats, ReadPurpose, Stretch, WriteOptions},
};

pub use self::blocks::BlockKey;
use self::{blocks::Blocks, writer::Writer};

/// The store. Its blocks live on in writers.
pub struct MemChunks {
    shared: Arc<Blocks>,
}

impl MemChunks {
    /// An empty store with blocks of `block_size` bytes and a budget of `budget_bytes`.
    #[must_use]
    pub fn new(block_size: usize, budget_bytes: usize) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(Blocks::new(block_size, budget_bytes)) })
    }

    /// Asks `fault` about every upload of a block from now on; what it returns is the outcome.
    pub fn fail_puts(&self, fault: impl FnMut(BlockKey) -> Option<ChunkError> + Send + 'static) {
        *self.shared.put_fault.lock() = Some(Box::new(fault));
    }

    /// Asks `fault` about every read of a block from now on.
    pub fn fail_gets(&self, fault: impl FnMut(BlockKey) -> Option<ChunkError> + Send + 'static) {
        *self.shared.get_fault.lock() = Some(Box::new(fault));
    }

    /// Lets uploads and reads succeed again.
    pub fn heal(&self) {
        *self.shared.put_fault.lock() = None;
        *self.shared.get_fault.lock() = None;
    }

    /// Makes every upload take this long.
    pub fn set_put_latency(&self, latency: Duration) {
        *self.shared.put_latency.lock() = latency;
    }

    /// Makes every read take this long.
    pub fn set_get_latency(&self, latency: Duration) {
        *self.shared.get_latency.lock() = latency;
    }

    /// Holds all uploads back, or lets them go.
    pub fn hold_puts(&self, held: bool) {
        self.shared.puts_held.send_replace(held);
    }

    /// Holds all read-ahead back, or lets it go.
    pub fn hold_ahead(&self, held: bool) {
        self.shared.ahead_held.send_replace(held);
    }

    /// Uploads of blocks that succeeded.
    #[must_use]
    pub fn puts(&self) -> u64 {
        self.shared.puts.load(Ordering::SeqCst)
    }

    /// Reads of blocks.
    #[must_use]
    pub fn gets(&self) -> u64 {
        self.shared.gets.load(Ordering::SeqCst)
    }

    /// Deleted blocks.
    #[must_use]
    pub fn deletes(&self) -> u64 {
        self.shared.deletes.load(Ordering::SeqCst)
    }

    /// Ranges that were suggested for fetching.
    #[must_use]
    pub fn prefetches(&self) -> u64 {
        self.shared.prefetches.load(Ordering::SeqCst)
    }

    /// Says up to which length files are small from now on.
    pub fn set_small_file_bytes(&self, bytes: u64) {
        self.shared.small_file_bytes.store(bytes, Ordering::SeqCst);
    }

    /// Reads at random places of small files.
    #[must_use]
    pub fn reads_in_small(&self) -> u64 {
        self.shared.reads_in_small.load(Ordering::SeqCst)
    }

    /// Ids of all slices that have a block here.
    #[must_use]
    pub fn slices(&self) -> Vec<SliceId> {
        let mut ids: Vec<_> = self.shared.blocks.lock().keys().map(|(id, ..)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

#[async_trait]
impl ChunkStore for MemChunks {
    fn block_size(&self) -> usize {
        self.shared.block_size
    }

    fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    async fn read(&self, slice: SliceKey, off: u32, len: u32, purpose: ReadPurpose) -> Result<Segments, ChunkError> {
        if off.checked_add(len).is_none_or(|end| end > slice.size) {
            return Err(ChunkError::Misuse("read beyond the slice"));
        }
        if purpose == ReadPurpose::RandomInSmall {
            self.shared.reads_in_small.fetch_add(1, Ordering::SeqCst);
        }
        let latency = *self.shared.get_latency.lock();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if purpose == ReadPurpose::ReadAhead {
            let _ = self.shared.ahead_held.subscribe().wait_for(|held| !held).await;
        }
        let mut out = Segments::new();
        let (mut at, end) = (off as usize, (off + len) as usize);
        while at < end {
            let index = at / self.shared.block_size;
            let key = self.shared.block_of(slice, u32::try_from(index).unwrap_or(u32::MAX));
            self.shared.gets.fetch_add(1, Ordering::SeqCst);
            if let Some(error) = self.shared.get_fault.lock().as_mut().and_then(|fault| fault(key)) {
                return Err(error);
            }
            let block = self.shared.blocks.lock().get(&key).cloned();
            let block = block.ok_or_else(|| StorageError::NotFound(format!("{key:?}")))?;
            let start = at % self.shared.block_size;
            let take = (block.len() - start).min(end - at);
            out.push(block.slice(start..start + take));
            at += take;
        }
        Ok(out)
    }

    async fn read_all(&self, stretches: &[Stretch], purpose: ReadPurpose) -> Result<Vec<Segments>, ChunkError> {
        let reads = stretches.iter().map(|part| self.read(part.slice, part.off, part.len, purpose));
        futures_util::future::try_join_all(reads).await
    }

    fn prefetch(&self, _slice: SliceKey, _off: u32, _len: u32) {
        self.shared.prefetches.fetch_add(1, Ordering::SeqCst);
    }

    fn small_file_bytes(&self) -> u64 {
        self.shared.small_file_bytes.load(Ordering::SeqCst)
    }

    fn writer(&self, _options: WriteOptions) -> Box<dyn SliceWriter> {
        Box::new(Writer::new(Arc::clone(&self.shared)))
    }

    async fn remove(&self, slice: SliceKey) -> Result<(), ChunkError> {
        let keys: Vec<_> = self.shared.blocks_of(slice).collect();
        let mut blocks = self.shared.blocks.lock();
        for key in keys {
            if blocks.remove(&key).is_some() {
                self.shared.deletes.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    async fn fill(&self, _slice: SliceKey) -> Result<(), ChunkError> {
        Ok(())
    }

    async fn evict(&self, _slice: SliceKey) {}

    async fn presence(&self, slice: SliceKey) -> CachePresence {
        CachePresence { cached_bytes: slice.size.into(), missing_bytes: 0 }
    }

    fn stats(&self) -> ChunkStats {
        let count = |count: u64| OpStats { count, ..OpStats::default() };
        ChunkStats {
            get: count(self.gets()),
            put: count(self.puts()),
            delete: count(self.deletes()),
            ..Default::default()
        }
    }

    async fn shutdown(&self) {
        assert!(!self.shared.closed.swap(true, Ordering::SeqCst), "closed twice");
    }
}
