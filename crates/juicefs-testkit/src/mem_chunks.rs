//! A chunk store in memory whose uploads and reads can be made to fail, wait and be counted.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{
    Budget, ChunkError, ChunkStore, Lease, Segments, SliceId, SliceKey, SliceWriter, StorageError,
    limits::CHUNK_SIZE,
    store::{CachePresence, ChunkStats, OpStats, ReadPurpose, Stretch, WriteOptions},
};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};

/// One block: its slice, its index and its size.
pub type BlockKey = (SliceId, u32, u32);

type Fault = Box<dyn FnMut(BlockKey) -> Option<ChunkError> + Send>;

/// The store. Clones of the inner state live on in writers.
pub struct MemChunks {
    shared: Arc<Shared>,
}

struct Shared {
    block_size: usize,
    budget: Budget,
    blocks: Mutex<HashMap<BlockKey, Bytes>>,
    put_fault: Mutex<Option<Fault>>,
    get_fault: Mutex<Option<Fault>>,
    put_latency: Mutex<Duration>,
    get_latency: Mutex<Duration>,
    puts_held: watch::Sender<bool>,
    ahead_held: watch::Sender<bool>,
    puts: AtomicU64,
    gets: AtomicU64,
    deletes: AtomicU64,
    prefetches: AtomicU64,
    small_file_bytes: AtomicU64,
    reads_in_small: AtomicU64,
    closed: AtomicBool,
}

impl MemChunks {
    /// An empty store with blocks of `block_size` bytes and a budget of `budget_bytes`.
    #[must_use]
    pub fn new(block_size: usize, budget_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::new(Shared {
                block_size,
                budget: Budget::new(budget_bytes),
                blocks: Mutex::default(),
                put_fault: Mutex::default(),
                get_fault: Mutex::default(),
                put_latency: Mutex::default(),
                get_latency: Mutex::default(),
                puts_held: watch::Sender::new(false),
                ahead_held: watch::Sender::new(false),
                puts: AtomicU64::new(0),
                gets: AtomicU64::new(0),
                deletes: AtomicU64::new(0),
                prefetches: AtomicU64::new(0),
                small_file_bytes: AtomicU64::new(0),
                reads_in_small: AtomicU64::new(0),
                closed: AtomicBool::new(false),
            }),
        })
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

impl Shared {
    fn block_of(&self, slice: SliceKey, index: u32) -> BlockKey {
        let start = index as usize * self.block_size;
        let size = self.block_size.min(slice.size as usize - start);
        (slice.id, index, u32::try_from(size).unwrap_or(u32::MAX))
    }

    fn blocks_of(&self, slice: SliceKey) -> impl Iterator<Item = BlockKey> {
        let count = (slice.size as usize).div_ceil(self.block_size);
        (0..u32::try_from(count).unwrap_or(u32::MAX)).map(move |index| self.block_of(slice, index))
    }

    fn store(&self, key: BlockKey, data: &Bytes) -> Result<(), ChunkError> {
        if let Some(error) = self.put_fault.lock().as_mut().and_then(|fault| fault(key)) {
            return Err(error);
        }
        let old = self.blocks.lock().insert(key, data.clone());
        assert!(old.is_none_or(|old| old == *data), "block {key:?} was overwritten with other bytes");
        self.puts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Whether uploads end at once.
    fn is_instant(&self) -> bool {
        self.put_latency.lock().is_zero() && !*self.puts_held.borrow()
    }

    /// Gives `lease` back when the block is stored.
    async fn put(self: Arc<Self>, key: BlockKey, data: Bytes, lease: Lease) -> Result<(), Refused> {
        let latency = *self.put_latency.lock();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut held = self.puts_held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        self.store(key, &data).map_err(|error| Refused { error, lease })
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
        Box::new(Writer {
            shared: Arc::clone(&self.shared),
            id: None,
            data: Vec::new(),
            leases: Vec::new(),
            sent: Vec::new(),
            done: false,
        })
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

/// A block that was not stored keeps its memory.
struct Refused {
    error: ChunkError,
    lease: Lease,
}

enum Sent {
    Stored,
    Running(JoinHandle<Result<(), Refused>>),
    Failed(Refused),
}

struct Writer {
    shared: Arc<Shared>,
    id: Option<SliceId>,
    data: Vec<u8>,
    /// Leases by the block that they cover.
    leases: Vec<Lease>,
    sent: Vec<Sent>,
    done: bool,
}

impl Writer {
    fn send_block(&mut self, id: SliceId) {
        let index = self.sent.len();
        let lease = self.leases.get_mut(index).map(std::mem::take).unwrap_or_default();
        let sent = self.start(id, index, lease);
        self.sent.push(sent);
    }

    fn start(&self, id: SliceId, index: usize, lease: Lease) -> Sent {
        let start = index * self.shared.block_size;
        let end = self.data.len().min(start + self.shared.block_size);
        let data = Bytes::copy_from_slice(&self.data[start..end]);
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let key = (id, u32::try_from(index).unwrap_or(u32::MAX), size);
        if self.shared.is_instant() {
            match self.shared.store(key, &data) {
                Ok(()) => Sent::Stored,
                Err(error) => Sent::Failed(Refused { error, lease }),
            }
        } else {
            Sent::Running(tokio::spawn(Arc::clone(&self.shared).put(key, data, lease)))
        }
    }
}

#[async_trait]
impl SliceWriter for Writer {
    fn write(&mut self, off: u32, data: Bytes, mut lease: Lease) -> Result<(), ChunkError> {
        let end = off as usize + data.len();
        if end as u64 > CHUNK_SIZE {
            return Err(ChunkError::Misuse("write beyond 64 MiB"));
        }
        if off < self.sealed() {
            return Err(ChunkError::Misuse("write below what was sealed"));
        }
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[off as usize..end].copy_from_slice(&data);
        let mut at = off as usize;
        while at < end {
            let index = at / self.shared.block_size;
            let upto = end.min((index + 1) * self.shared.block_size);
            self.leases.resize_with(self.leases.len().max(index + 1), Lease::empty);
            self.leases[index].merge(lease.split(upto - at));
            at = upto;
        }
        Ok(())
    }

    fn len(&self) -> u32 {
        u32::try_from(self.data.len()).unwrap_or(u32::MAX)
    }

    fn sealed(&self) -> u32 {
        self.len().min(u32::try_from(self.sent.len() * self.shared.block_size).unwrap_or(u32::MAX))
    }

    fn set_id(&mut self, id: SliceId) {
        assert!(self.id.replace(id).is_none(), "id set twice");
    }

    fn id(&self) -> Option<SliceId> {
        self.id
    }

    fn flush_to(&mut self, off: u32) {
        let Some(id) = self.id else { return };
        while (self.sent.len() + 1) * self.shared.block_size <= off.min(self.len()) as usize {
            self.send_block(id);
        }
    }

    async fn finish(&mut self) -> Result<(), ChunkError> {
        let id = self.id.ok_or(ChunkError::Misuse("finish without an id"))?;
        for index in 0..self.sent.len() {
            if let Sent::Failed(refused) = &mut self.sent[index] {
                let lease = std::mem::take(&mut refused.lease);
                self.sent[index] = self.start(id, index, lease);
            }
        }
        while self.sent.len() * self.shared.block_size < self.data.len() {
            self.send_block(id);
        }
        let mut result = Ok(());
        for sent in &mut self.sent {
            if let Sent::Running(task) = sent {
                *sent = match task.await {
                    Ok(Ok(())) => Sent::Stored,
                    Ok(Err(refused)) => Sent::Failed(refused),
                    Err(_) => Sent::Failed(Refused { error: ChunkError::Closed, lease: Lease::empty() }),
                };
            }
            if let Sent::Failed(refused) = sent {
                result = Err(refused.error.clone());
            }
        }
        self.done = result.is_ok();
        result
    }

    async fn abort(mut self: Box<Self>) {
        for sent in std::mem::take(&mut self.sent) {
            if let Sent::Running(task) = sent {
                let _ = task.await;
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let (Some(id), false) = (self.id, self.done) {
            self.shared.blocks.lock().retain(|(slice, ..), _| *slice != id);
        }
    }
}
