//! Which of the directories of a disk cache a block lies in is decided here.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    super::{dir::CacheDir, health::DiskState, ring::Ring},
    threads::Queued,
};
use crate::block::BlockId;

/// An entry of a write queue counts as at least so many bytes.
const MIN_ENTRY_BYTES: usize = 4 << 10;

/// All directories of a disk cache, also those that are down.
#[derive(Debug)]
pub(super) struct Dirs {
    pub(super) all: Vec<DirHandle>,
    alive: RwLock<Arc<Alive>>,
    hash_prefix: bool,
}

/// The directories that are not down.
#[derive(Debug)]
struct Alive {
    ring: Ring,
    /// Their indexes in the list of all.
    at: Vec<usize>,
}

/// A directory, and what its threads are told by.
#[derive(Debug)]
pub(super) struct DirHandle {
    pub(super) dir: Arc<CacheDir>,
    /// The ring places blocks by this id.
    pub(super) id: String,
    /// Blocks to be written by its writer; `None` once the cache is closed.
    pub(super) queue: Mutex<Option<mpsc::Sender<Queued>>>,
    /// Wakes the thread that looks after its limits; `None` once the cache is closed.
    pub(super) tidy: Mutex<Option<mpsc::SyncSender<()>>>,
    /// Free bytes of the queue.
    pub(super) room: Arc<Semaphore>,
    pub(super) room_bytes: usize,
}

impl Dirs {
    pub(super) fn new(all: Vec<DirHandle>, hash_prefix: bool) -> Self {
        Self { alive: RwLock::new(Arc::new(Alive::of(&all))), all, hash_prefix }
    }

    /// Returns the directory that a block is written to.
    pub(super) fn of(&self, id: BlockId) -> &DirHandle {
        if let [only] = &self.all[..] {
            return only;
        }
        let alive = self.alive.read();
        let at = alive.ring.of(&id.key(self.hash_prefix));
        &self.all[alive.at.get(at).copied().unwrap_or(0)]
    }

    /// Returns the directories that a block may be in: the one that it would be written to, the one that old layouts put it
    /// in, and those in which it was staged when the set of directories was another.
    pub(super) fn candidates(&self, id: BlockId) -> SmallVec<[&DirHandle; 3]> {
        let mut candidates: SmallVec<[&DirHandle; 3]> = SmallVec::new();
        candidates.push(self.of(id));
        if self.all.len() > 1 {
            let legacy = &self.all[Ring::legacy(&id.key(self.hash_prefix), self.all.len())];
            let staged = self.all.iter().filter(|handle| handle.dir.is_staged(id));
            for handle in std::iter::once(legacy).chain(staged) {
                if !candidates.iter().any(|known| std::ptr::eq(*known, handle)) {
                    candidates.push(handle);
                }
            }
        }
        candidates
    }

    pub(super) fn is_staged(&self, id: BlockId) -> bool {
        self.all.iter().any(|handle| handle.dir.is_staged(id))
    }

    /// Returns the directory that a staged block is in.
    pub(super) fn of_staged(&self, id: BlockId) -> &DirHandle {
        let handle = self.of(id);
        if self.all.len() == 1 || handle.dir.is_staged(id) {
            return handle;
        }
        self.all.iter().find(|handle| handle.dir.is_staged(id)).unwrap_or(handle)
    }

    /// Takes the directories out of the ring that are down.
    pub(super) fn leave_out_down(&self) {
        *self.alive.write() = Arc::new(Alive::of(&self.all));
    }

    /// Whether a directory is left that is not down.
    pub(super) fn any_alive(&self) -> bool {
        !self.alive.read().at.is_empty()
    }
}

impl Alive {
    fn of(all: &[DirHandle]) -> Self {
        let is_up = |at: &usize| all[*at].dir.gate.state() != DiskState::Down;
        let at: Vec<_> = (0..all.len()).filter(is_up).collect();
        let ids: Vec<_> = at.iter().map(|at| all[*at].id.clone()).collect();
        Self { ring: Ring::new(&ids), at }
    }
}

impl DirHandle {
    /// Returns how many bytes of the queue a block takes.
    pub(super) fn cost(&self, bytes: &Bytes) -> u32 {
        u32::try_from(bytes.len().max(MIN_ENTRY_BYTES).min(self.room_bytes)).unwrap_or(u32::MAX)
    }

    /// Queues a block that is pending. Once the cache is closed it is pending no more instead.
    pub(super) fn send(&self, id: BlockId, room: OwnedSemaphorePermit) {
        let sent = self.queue.lock().as_ref().is_some_and(|queue| queue.send(Queued { id, room }).is_ok());
        if !sent {
            self.dir.withdraw(id);
        }
    }
}
