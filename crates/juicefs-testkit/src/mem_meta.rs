//! A POSIX tree in memory, which is the plainest thing that answers as a metadata service should.
//!
//! Tests compare with it, and the layers above run on it in their tests. It shares nothing with the real operations: it
//! has one lock, plain maps, no transactions, and no permissions but those that the data path needs. It has no trash,
//! no quota and one client.

mod content;
mod listing;
mod locks;
mod nodes;
mod service;
mod session;
mod tree;
mod whole_trees;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use juicefs_core::{
    Attr, ChunkIndex, Clock, Errno, FileType, Format, Ino, MetaError, SliceId, SliceKey, SliceRecord,
    acl::{AclKind, AclRule},
    limits::CHUNK_SIZE,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::unsteady::Unsteady;

type Fault = Box<dyn FnMut(&'static str, Ino) -> Option<MetaError> + Send>;

/// The tree.
pub struct MemMeta {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    fault: Mutex<Option<Fault>>,
    calls: Mutex<HashMap<&'static str, u64>>,
    locks: locks::Locks,
    lives: session::Lives,
    /// While this is set, counting and reading of slice lists go on.
    held: AtomicBool,
    waiting: AtomicUsize,
    commits_held: watch::Sender<bool>,
    listings: Mutex<Option<Unsteady>>,
}

/// Counts one that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn in_line(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct State {
    nodes: HashMap<Ino, Node>,
    next_ino: u64,
    next_slice: u64,
    /// References to slices.
    references: HashMap<SliceKey, u64>,
    /// Data of removed files, by former inode.
    deleted: HashMap<Ino, BTreeMap<ChunkIndex, Vec<SliceRecord>>>,
    capacity_bytes: Option<u64>,
    /// Bytes put aside for what files grew by.
    claims: HashMap<Ino, u64>,
}

#[derive(Clone, Default)]
struct Node {
    attr: Attr,
    entries: BTreeMap<Bytes, Ino>,
    target: Bytes,
    xattrs: BTreeMap<Bytes, Bytes>,
    /// ACL rules; they do not show in the mode here.
    rules: Vec<(AclKind, AclRule)>,
    chunks: BTreeMap<ChunkIndex, Vec<SliceRecord>>,
    opens: usize,
}

impl MemMeta {
    /// A tree of a root directory.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let now = clock.now();
        let mut state = State { next_ino: 2, next_slice: 1, ..State::default() };
        let attr = Attr {
            kind: FileType::Directory,
            mode: 0o777,
            nlink: 2,
            length: 4096,
            parent: Ino::ROOT,
            atime: now,
            mtime: now,
            ctime: now,
            ..Attr::default()
        };
        state.nodes.insert(Ino::ROOT, Node { attr, ..Node::default() });
        Arc::new(Self {
            clock,
            state: Mutex::new(state),
            fault: Mutex::default(),
            calls: Mutex::default(),
            locks: locks::Locks::default(),
            lives: session::Lives::default(),
            held: AtomicBool::default(),
            waiting: AtomicUsize::default(),
            commits_held: watch::Sender::new(false),
            listings: Mutex::default(),
        })
    }

    /// Asks `fault` about every call from now on, by the name of the method and its inode; what it returns is the
    /// answer, and nothing is done.
    pub fn fail(&self, fault: impl FnMut(&'static str, Ino) -> Option<MetaError> + Send + 'static) {
        *self.fault.lock() = Some(Box::new(fault));
    }

    /// Makes listings of directories go wrong like this from now on.
    pub fn list(&self, how: Unsteady) {
        *self.listings.lock() = Some(how);
    }

    /// Bytes that are claimed for what files grew by.
    pub fn claimed_bytes(&self) -> u64 {
        self.state.lock().claimed_bytes()
    }

    /// Lets all calls succeed again.
    pub fn heal(&self) {
        *self.fault.lock() = None;
    }

    /// Makes writes beyond this many bytes in all fail with ENOSPC.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity_bytes = Some(bytes);
    }

    /// Makes counting go on until it is stopped, and counting and reading of slice lists until this is taken back.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }

    /// Holds all commits of slices back, or lets them go. They are done when they are let go.
    pub fn hold_commits(&self, held: bool) {
        self.commits_held.send_replace(held);
    }

    /// Readings of slice lists that are held up now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// How often a method was called.
    #[must_use]
    pub fn calls(&self, method: &'static str) -> u64 {
        self.calls.lock().get(method).copied().unwrap_or(0)
    }

    /// All calls so far.
    #[must_use]
    pub fn all_calls(&self) -> u64 {
        self.calls.lock().values().sum()
    }

    /// Slices that something refers to.
    #[must_use]
    pub fn live_slices(&self) -> Vec<SliceId> {
        let mut ids: Vec<_> = self.state.lock().references.keys().map(|key| key.id).collect();
        ids.sort_unstable();
        ids
    }

    /// The raw list of a chunk, without counting as a call.
    #[must_use]
    pub fn chunk(&self, ino: Ino, index: ChunkIndex) -> Vec<SliceRecord> {
        let state = self.state.lock();
        state.nodes.get(&ino).and_then(|node| node.chunks.get(&index)).cloned().unwrap_or_default()
    }

    fn note(&self, method: &'static str, ino: Ino) -> Result<(), MetaError> {
        *self.calls.lock().entry(method).or_default() += 1;
        match self.fault.lock().as_mut().and_then(|fault| fault(method, ino)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn setting() -> Arc<Format> {
        Arc::new(Format { name: "test".to_owned(), storage: "mem".to_owned(), block_size: 4096, ..Format::default() })
    }
}

impl State {
    fn node(&self, ino: Ino) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::ENOENT)
    }

    fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    fn dir(&self, ino: Ino) -> Result<&Node, Errno> {
        self.node(ino).and_then(|node| if node.attr.is_dir() { Ok(node) } else { Err(Errno::ENOTDIR) })
    }

    fn file_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        self.node_mut(ino).and_then(|node| if node.attr.is_file() { Ok(node) } else { Err(Errno::EPERM) })
    }

    fn used_bytes(&self) -> u64 {
        self.nodes.values().map(|node| node.attr.used_space()).sum()
    }

    fn check_space(&self, more: u64) -> Result<(), Errno> {
        match self.capacity_bytes {
            Some(capacity) if more > 0 && self.used_bytes() + self.claimed_bytes() + more > capacity => {
                Err(Errno::ENOSPC)
            }
            _ => Ok(()),
        }
    }

    fn claimed_bytes(&self) -> u64 {
        self.claims.values().sum()
    }

    fn refer(&mut self, record: &SliceRecord) {
        if let Some(key) = record.key() {
            *self.references.entry(key).or_default() += 1;
        }
    }

    /// Takes one reference away and returns the slice when it was the last.
    fn unrefer(&mut self, record: &SliceRecord) -> Option<SliceKey> {
        let key = record.key()?;
        let count = self.references.get_mut(&key).expect("a record without a reference");
        *count -= 1;
        (*count == 0).then(|| {
            self.references.remove(&key);
            key
        })
    }

    /// Appends records of zeros over `[start, end)`.
    fn zero(&mut self, ino: Ino, start: u64, end: u64) -> Result<(), Errno> {
        let node = self.file_mut(ino)?;
        let mut at = start;
        while at < end {
            let upto = end.min((at / CHUNK_SIZE + 1) * CHUNK_SIZE);
            let index = ChunkIndex::try_from(at / CHUNK_SIZE).expect("an offset within the largest file");
            let (pos, len) = ((at % CHUNK_SIZE) as u32, (upto - at) as u32);
            if pos == 0 && u64::from(len) == CHUNK_SIZE && !node.chunks.contains_key(&index) {
                at = upto;
                continue;
            }
            node.chunks.entry(index).or_default().push(SliceRecord::zeros(pos, len));
            at = upto;
        }
        Ok(())
    }

    /// Drops a node that has neither names nor opens. Its data then waits for deletion.
    fn reap(&mut self, ino: Ino) -> Option<juicefs_core::meta::Freed> {
        let node = self.nodes.get(&ino)?;
        if node.attr.nlink > 0 || node.opens > 0 {
            return None;
        }
        let node = self.nodes.remove(&ino)?;
        if !node.attr.is_file() {
            return None;
        }
        self.deleted.insert(ino, node.chunks);
        Some(juicefs_core::meta::Freed { ino, length: node.attr.length })
    }
}
