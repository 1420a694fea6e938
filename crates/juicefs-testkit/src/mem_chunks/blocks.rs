//! The blocks of a chunk store in memory, and how storing and reading them is disturbed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{Budget, ChunkError, Lease, SliceId, SliceKey};
use parking_lot::Mutex;
use tokio::sync::watch;

/// A block, named by its slice, its index and its size.
pub type BlockKey = (SliceId, u32, u32);

pub(super) type Fault = Box<dyn FnMut(BlockKey) -> Option<ChunkError> + Send>;

/// What the store and its writers share.
pub(super) struct Blocks {
    pub(super) block_size: usize,
    pub(super) budget: Budget,
    pub(super) blocks: Mutex<HashMap<BlockKey, Bytes>>,
    pub(super) put_fault: Mutex<Option<Fault>>,
    pub(super) get_fault: Mutex<Option<Fault>>,
    pub(super) put_latency: Mutex<Duration>,
    pub(super) get_latency: Mutex<Duration>,
    pub(super) puts_held: watch::Sender<bool>,
    pub(super) ahead_held: watch::Sender<bool>,
    pub(super) puts: AtomicU64,
    pub(super) gets: AtomicU64,
    pub(super) deletes: AtomicU64,
    pub(super) prefetches: AtomicU64,
    pub(super) small_file_bytes: AtomicU64,
    pub(super) reads_in_small: AtomicU64,
    pub(super) closed: AtomicBool,
}

impl Blocks {
    /// No blocks yet, of `block_size` bytes each, and a budget of `budget_bytes`.
    pub(super) fn new(block_size: usize, budget_bytes: usize) -> Self {
        Self {
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
        }
    }

    pub(super) fn block_of(&self, slice: SliceKey, index: u32) -> BlockKey {
        let start = index as usize * self.block_size;
        let size = self.block_size.min(slice.size as usize - start);
        (slice.id, index, u32::try_from(size).unwrap_or(u32::MAX))
    }

    pub(super) fn blocks_of(&self, slice: SliceKey) -> impl Iterator<Item = BlockKey> {
        let count = (slice.size as usize).div_ceil(self.block_size);
        (0..u32::try_from(count).unwrap_or(u32::MAX)).map(move |index| self.block_of(slice, index))
    }

    pub(super) fn store(&self, key: BlockKey, data: &Bytes) -> Result<(), ChunkError> {
        if let Some(error) = self.put_fault.lock().as_mut().and_then(|fault| fault(key)) {
            return Err(error);
        }
        let old = self.blocks.lock().insert(key, data.clone());
        assert!(old.is_none_or(|old| old == *data), "block {key:?} was overwritten with other bytes");
        self.puts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Whether uploads end at once.
    pub(super) fn is_instant(&self) -> bool {
        self.put_latency.lock().is_zero() && !*self.puts_held.borrow()
    }

    /// Stores a block as slowly as tests want, and gives `lease` back then.
    pub(super) async fn put(self: Arc<Self>, key: BlockKey, data: Bytes, lease: Lease) -> Result<(), Refused> {
        let latency = *self.put_latency.lock();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut held = self.puts_held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        self.store(key, &data).map_err(|error| Refused { error, lease })
    }
}

/// A block that was not stored, with the memory that it keeps.
pub(super) struct Refused {
    pub(super) error: ChunkError,
    pub(super) lease: Lease,
}
