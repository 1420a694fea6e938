//! What waits for the upkeep of the volume, and what of it is under way. The loops that do it are in `maintenance`.

use std::collections::{HashMap, HashSet};

use juicefs_core::{ChunkIndex, ChunkStore, Ino, SliceKey, meta::Freed};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::VfsConfig;

/// How many files and slices may wait for deletion. The hourly job finds what comes beyond.
const MAX_GARBAGE: usize = 1 << 16;
/// How many chunks are compacted at the same time.
const MAX_COMPACTIONS: usize = 10;
/// Something whose objects nobody needs any more.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Garbage {
    /// All data of a removed file.
    File(Freed),
    /// A slice whose last reference is gone. Its record goes after its objects.
    Dead(SliceKey),
    /// A slice that never got a record.
    Uncommitted(SliceKey),
}

/// What the upkeep has queued and under way.
pub(crate) struct Upkeep {
    pub(crate) garbage: mpsc::Sender<Garbage>,
    pub(crate) garbage_queue: Mutex<Option<mpsc::Receiver<Garbage>>>,
    pub(crate) compacting: Mutex<HashSet<(Ino, ChunkIndex)>>,
    /// Chunks whose compaction waits until nobody writes to them, with the time of the last write that was seen.
    pub(crate) postponed: Mutex<HashMap<(Ino, ChunkIndex), Instant>>,
    pub(crate) max_compactions: usize,
    pub(crate) max_deletes: usize,
    pub(crate) fatal: watch::Sender<Option<String>>,
}

impl Upkeep {
    pub(crate) fn new(config: &VfsConfig, chunks: &dyn ChunkStore) -> Self {
        let (garbage, queue) = mpsc::channel(MAX_GARBAGE);
        // Each compaction holds a block and reads another; all together must leave room for applications.
        let by_memory = chunks.budget().cap_bytes() / (4 * chunks.block_size().max(1));
        Self {
            garbage,
            garbage_queue: Mutex::new(Some(queue)),
            compacting: Mutex::default(),
            postponed: Mutex::default(),
            max_compactions: by_memory.clamp(1, MAX_COMPACTIONS),
            max_deletes: if config.read_only { 0 } else { config.max_deletes },
            fatal: watch::Sender::new(None),
        }
    }

    /// Queues the data of a removed file for deletion.
    pub(crate) fn free(&self, file: Freed) {
        self.queue(Garbage::File(file));
    }

    /// Queues the objects of a slice that was never committed for deletion.
    pub(crate) fn discard(&self, slice: SliceKey) {
        self.queue(Garbage::Uncommitted(slice));
    }

    fn queue(&self, garbage: Garbage) {
        if self.max_deletes > 0 && self.garbage.try_send(garbage).is_err() {
            tracing::debug!(?garbage, "deletion is left to the hourly job");
        }
    }

    /// Waits until this mount can no longer serve and returns the sentence that says why.
    pub(crate) async fn fatal(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        // The sender lives as long as self, so waiting cannot fail.
        let reason = fatal.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }
}
