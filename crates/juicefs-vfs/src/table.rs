//! The tables of open inodes and of handles, by number.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use juicefs_core::{Attr, ChunkIndex, Errno, Ino, Timestamp, limits::CHUNK_SIZE, stamps::Moment};
use parking_lot::{Mutex, RwLock};

use crate::{
    ahead::Ahead,
    context::{Context, OpenFiles},
    dir::DirHandle,
    file::{File, Unsent},
    in_flight::InFlight,
    internal::InternalHandle,
};

const SHARDS: usize = 64;
/// How many closed files are remembered at least, with their state at the last open.
const REMEMBERED: usize = 1 << 14;

struct Slot {
    file: Arc<File>,
    handles: usize,
}

/// The open inodes.
pub(crate) struct FileTable {
    shards: Vec<Mutex<HashMap<Ino, Slot>>>,
    open: AtomicUsize,
}

impl FileTable {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), open: AtomicUsize::new(0) }
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Slot>> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// The file of `ino` if it is open.
    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<File>> {
        if self.open.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.shard(ino).lock().get(&ino).map(|slot| Arc::clone(&slot.file))
    }

    /// Counts one more handle of `ino`, whose attributes were asked for after `since`.
    pub(crate) fn acquire(&self, cx: &Arc<Context>, ino: Ino, attr: &Attr, since: Moment) -> Arc<File> {
        let mut shard = self.shard(ino).lock();
        if let Some(slot) = shard.get_mut(&ino) {
            slot.handles += 1;
            let file = Arc::clone(&slot.file);
            drop(shard);
            file.merge(&mut attr.clone(), since);
            return file;
        }
        let file = File::new(Arc::clone(cx), ino, attr);
        shard.insert(ino, Slot { file: Arc::clone(&file), handles: 1 });
        self.open.fetch_add(1, Ordering::AcqRel);
        file
    }

    /// Counts one handle less. With the last one the state goes, and with that any error that the file remembers. If
    /// data still waits for its commit then, it returns false and does nothing, because that data would come over what
    /// the next opener writes.
    pub(crate) fn release(&self, file: &Arc<File>) -> bool {
        let ino = file.ino;
        let mut shard = self.shard(ino).lock();
        let Some(slot) = shard.get_mut(&ino).filter(|slot| Arc::ptr_eq(&slot.file, file)) else {
            tracing::error!(%ino, "a file that is not open was closed");
            debug_assert!(false, "invariant: a file stays in the table for as long as it has handles");
            return true;
        };
        if slot.handles == 1 && file.is_dirty() {
            return false;
        }
        slot.handles -= 1;
        if slot.handles == 0 {
            shard.remove(&ino);
            self.open.fetch_sub(1, Ordering::AcqRel);
        }
        true
    }

    /// Whether `ino` has one handle left.
    pub(crate) fn has_one_handle(&self, ino: Ino) -> bool {
        self.shard(ino).lock().get(&ino).is_some_and(|slot| slot.handles == 1)
    }

    /// How many inodes are open.
    pub(crate) fn len(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }
}

impl OpenFiles for FileTable {
    fn chunk_changed(&self, ino: Ino, index: ChunkIndex) {
        if let Some(file) = self.get(ino) {
            let start = u64::from(index) * CHUNK_SIZE;
            file.content_changed(start..start + 1);
        }
    }
}

/// What files looked like when they were opened last. By this it is decided whether the kernel may keep pages and
/// attributes.
#[derive(Default)]
pub(crate) struct LastOpens {
    looks: Mutex<Generations>,
}

/// States by inode, in two maps. When the younger map is full it becomes the older one, and what was there is forgotten.
#[derive(Default)]
struct Generations {
    younger: HashMap<Ino, Look>,
    older: HashMap<Ino, Look>,
}

#[derive(Clone, Copy)]
struct Look {
    content: u64,
    atime: Timestamp,
}

/// Which parts of a file are as they were at the last open.
#[derive(Clone, Copy)]
pub(crate) struct Unchanged {
    /// The content, as far as times and length tell.
    pub(crate) content: bool,
    /// The access time.
    pub(crate) atime: bool,
}

impl LastOpens {
    /// Notes an open and tells in what the file looks as it did at the last one.
    pub(crate) fn unchanged(&self, ino: Ino, attr: &Attr) -> Unchanged {
        let mut hasher = DefaultHasher::new();
        (attr.mtime, attr.ctime, attr.length).hash(&mut hasher);
        let look = Look { content: hasher.finish(), atime: attr.atime };
        let mut looks = self.looks.lock();
        if looks.younger.len() >= REMEMBERED {
            looks.older = std::mem::take(&mut looks.younger);
        }
        let before = looks.younger.insert(ino, look).or_else(|| looks.older.get(&ino).copied());
        Unchanged {
            content: before.is_some_and(|before| before.content == look.content),
            atime: before.is_some_and(|before| before.atime == look.atime),
        }
    }
}

/// An open regular file.
pub(crate) struct FileHandle {
    pub(crate) file: Arc<File>,
    pub(crate) write: bool,
    pub(crate) unsent: Arc<Unsent>,
    pub(crate) in_flight: InFlight,
    pub(crate) ahead: Ahead,
}

impl FileHandle {
    /// Makes everything that was written to the file durable; see [`File::flush`]. EIO when the handle is lost.
    pub(crate) async fn flush(&self) -> Result<(), Errno> {
        let flushed = self.file.flush().await.inspect(|()| self.unsent.clear());
        self.unsent.check_kept().and(flushed)
    }
}

/// Anything that is open.
#[derive(Clone)]
pub(crate) enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
    Internal(Arc<InternalHandle>),
}

impl Handle {
    fn ino(&self) -> Ino {
        match self {
            Self::File(handle) => handle.file.ino,
            Self::Dir(handle) => handle.ino,
            Self::Internal(handle) => handle.ino(),
        }
    }
}

/// Handles by number. Numbers of handles that can write are even, all others odd (format: data.md §5.5).
pub(crate) struct HandleTable {
    shards: Vec<RwLock<HashMap<u64, Handle>>>,
    next: AtomicU64,
}

impl HandleTable {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), next: AtomicU64::new(0) }
    }

    fn shard(&self, fh: u64) -> &RwLock<HashMap<u64, Handle>> {
        &self.shards[(fh >> 1) as usize % SHARDS]
    }

    /// Gives `handle` a number.
    pub(crate) fn insert(&self, handle: Handle) -> u64 {
        let order = self.next.fetch_add(1, Ordering::Relaxed);
        let writes = matches!(&handle, Handle::File(file) if file.write);
        let fh = 2 * order + if writes { 2 } else { 1 };
        self.shard(fh).write().insert(fh, handle);
        fh
    }

    /// The handle with this number, if it is one of `ino`.
    pub(crate) fn get(&self, ino: Ino, fh: u64) -> Option<Handle> {
        self.shard(fh).read().get(&fh).filter(|handle| handle.ino() == ino).cloned()
    }

    /// Takes a handle out.
    pub(crate) fn remove(&self, ino: Ino, fh: u64) -> Option<Handle> {
        let mut shard = self.shard(fh).write();
        shard.get(&fh).filter(|handle| handle.ino() == ino)?;
        shard.remove(&fh)
    }

    /// All handles of this moment.
    pub(crate) fn list(&self) -> Vec<(u64, Handle)> {
        self.shards
            .iter()
            .flat_map(|shard| shard.read().iter().map(|(fh, handle)| (*fh, handle.clone())).collect::<Vec<_>>())
            .collect()
    }
}
