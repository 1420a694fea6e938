//! One open inode: what all handles of a file share.
//!
//! A [`File`] owns the dirty data that was accepted and not yet committed ([`writer`]), carries it to the store and the
//! metadata ([`drain`]), and knows where committed data lies ([`view`], [`reader`]).
//!
//! Invariants:
//! * a slice is committed only after its objects are durable, and slices of one chunk are committed strictly in the order
//!   in which they were begun;
//! * whoever sees no pending slice over a range also sees views that include everything ever accepted there;
//! * data that the store or the metadata engine does not take is kept, in its place in that order, until they do or the
//!   last handle is gone;
//! * a file stays in the table of open files until nothing of it is dirty, so that only one `File` changes an inode;
//! * `length` is what applications see, which is at least the end of every pending slice.

mod aging;
mod claim;
mod drain;
mod lost;
mod reader;
mod view;
mod writer;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering},
};

use juicefs_core::{Attr, Errno, Ino, Timestamp, limits::CHUNK_SIZE, stamps::Moment};
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) use self::{reader::push_zeros, view::Extent, writer::WriteAt};
use self::{view::Views, writer::Writer};
use crate::{context::Context, lockers::Lockers};

/// What attributes said about the content when they were last asked for. Answers to changes of our own are not noted
/// here, because they would hide what another client changed at the same time. So after a change of ours the next look
/// makes us forget all views.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Seen {
    mtime: Timestamp,
    ctime: Timestamp,
    length: u64,
}

impl From<&Attr> for Seen {
    fn from(attr: &Attr) -> Self {
        Self { mtime: attr.mtime, ctime: attr.ctime, length: attr.length }
    }
}

/// What a handle knows of its data that was not stored when it should have been, and whether the handle is lost. Writes
/// through a handle with such data fail until a flush of it has succeeded.
#[derive(Default, Debug)]
pub(crate) struct Unsent {
    errno: AtomicI32,
    lost: AtomicBool,
}

impl Unsent {
    /// Fails with the error that was noted, or with EIO when the handle is lost.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        self.check_kept()?;
        match self.errno.load(Ordering::Acquire) {
            0 => Ok(()),
            number => Err(Errno(number)),
        }
    }

    /// Fails with EIO when the handle is lost, because what it held was lost with a session.
    pub(crate) fn check_kept(&self) -> Result<(), Errno> {
        if self.is_lost() { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Whether the handle is lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Forgets the error, because a flush has succeeded.
    pub(crate) fn clear(&self) {
        self.errno.store(0, Ordering::Release);
    }

    fn note(&self, errno: Errno) {
        self.errno.store(errno.0, Ordering::Release);
    }

    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }
}

/// An open inode.
pub(crate) struct File {
    pub(crate) cx: Arc<Context>,
    pub(crate) ino: Ino,
    tier: u8,
    /// Writes share it. Truncate, fallocate and copies hold it alone.
    gate: RwLock<()>,
    length: AtomicU64,
    /// The length that is known to be committed.
    stored: AtomicU64,
    /// How often handles of this file were lost with a session.
    losses: AtomicU64,
    /// Counts changes of the committed content. What was read ahead in another epoch is dropped.
    epoch: AtomicU64,
    /// Counts changes that may have made the file shorter here.
    cuts: AtomicU64,
    /// How many slices are not committed yet. It is changed under the lock of `writer` only.
    pending: AtomicUsize,
    /// The first error of a lost write, 0 for none. It stays until the last handle is released.
    failed: AtomicI32,
    /// Tells a running drain that there is more to do.
    more: Notify,
    /// Tells whoever flushes that a commit takes longer than they should wait.
    late: Notify,
    writer: Mutex<Writer>,
    views: Mutex<Views>,
    seen: Mutex<Seen>,
    pub(crate) lockers: Lockers,
}

impl File {
    pub(crate) fn new(cx: Arc<Context>, ino: Ino, attr: &Attr) -> Arc<Self> {
        Arc::new(Self {
            cx,
            ino,
            tier: attr.tier,
            gate: RwLock::new(()),
            length: AtomicU64::new(attr.length),
            stored: AtomicU64::new(attr.length),
            losses: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            failed: AtomicI32::new(0),
            more: Notify::new(),
            late: Notify::new(),
            writer: Mutex::default(),
            views: Mutex::default(),
            seen: Mutex::new(attr.into()),
            lockers: Lockers::default(),
        })
    }

    /// The length that applications see.
    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// A number that changes whenever the committed content does.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether accepted data waits to be committed.
    pub(crate) fn is_dirty(&self) -> bool {
        self.pending.load(Ordering::Acquire) > 0
    }

    /// The error of a write that was accepted and lost.
    pub(crate) fn sticky_error(&self) -> Result<(), Errno> {
        match self.failed.load(Ordering::Acquire) {
            0 => Ok(()),
            number => Err(Errno(number)),
        }
    }

    fn fail(&self, errno: Errno) {
        // The first error wins: it is the one that names the cause.
        let _ = self.failed.compare_exchange(0, errno.0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Keeps changes of length and layout out while data is written.
    pub(crate) async fn share(&self) -> RwLockReadGuard<'_, ()> {
        match self.gate.try_read() {
            Ok(guard) => guard,
            Err(_) => self.gate.read().await,
        }
    }

    /// Keeps writes out while length or layout change.
    pub(crate) async fn exclude(&self) -> RwLockWriteGuard<'_, ()> {
        match self.gate.try_write() {
            Ok(guard) => guard,
            Err(_) => self.gate.write().await,
        }
    }

    /// Takes note of attributes that were asked for after `since`, that is of the length and of changes that other clients
    /// made. Then puts into them what this file knows better.
    ///
    /// One look at the stamps under the lock of `writer` decides. Our commits and truncations leave their stamps under it,
    /// so that attributes which were asked for before one of them never bring an older length back.
    pub(crate) fn merge(&self, attr: &mut Attr, since: Moment) {
        let stored = Seen::from(&*attr);
        let fresh = {
            let mut writer = self.writer.lock();
            let known = if self.cx.stamps.changed(self.ino, since) { None } else { writer.length_over(attr.length) };
            if known.is_some() {
                self.stored.store(attr.length, Ordering::Release);
            }
            attr.length = known.unwrap_or_else(|| self.length());
            self.length.store(attr.length, Ordering::Release);
            if self.is_dirty() {
                attr.mtime = attr.mtime.max(writer.mtime());
                attr.ctime = attr.ctime.max(writer.mtime());
            }
            known.is_some()
        };
        if fresh && std::mem::replace(&mut *self.seen.lock(), stored) != stored {
            self.content_changed(0..u64::MAX);
        }
    }

    /// Puts what is accepted but not committed into attributes that were asked for after `since`. Returns false when the
    /// file changed here since, so that they are of no use.
    pub(crate) fn overlay(&self, attr: &mut Attr, since: Moment) -> bool {
        let mut writer = self.writer.lock();
        if self.is_dirty() {
            let Some(length) = writer.length_over(attr.length) else { return false };
            attr.length = length;
            attr.mtime = attr.mtime.max(writer.mtime());
            attr.ctime = attr.ctime.max(writer.mtime());
        }
        !self.cx.stamps.changed(self.ino, since)
    }

    /// Takes note of the new length and of a new layout of `range`, after truncate, fallocate or a copy into this file. The
    /// caller holds [`File::exclude`].
    pub(crate) fn relaid(&self, length: u64, range: std::ops::Range<u64>) {
        self.content_changed(range);
        let writer = self.writer.lock();
        self.cuts.fetch_add(1, Ordering::AcqRel);
        self.stored.store(length, Ordering::Release);
        self.length.store(length.max(writer.end()), Ordering::Release);
        self.cx.stamps.touch(self.ino);
    }

    /// How often the file may have been made shorter here.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    /// Takes note of attributes that were asked for when there had been `cuts`, and that cannot be [merged](File::merge)
    /// because the file is changed here all the time. Whatever another client committed before shows from now on.
    pub(crate) fn look_again(&self, attr: &Attr, cuts: u64) {
        self.content_changed(0..u64::MAX);
        let _writer = self.writer.lock();
        // Other changes of ours only make it longer, and know of it.
        if self.cuts() == cuts {
            self.length.fetch_max(attr.length, Ordering::AcqRel);
        }
    }

    /// Forgets where committed data of `range` lies.
    pub(crate) fn content_changed(&self, range: std::ops::Range<u64>) {
        let last = range.end.saturating_sub(1) / CHUNK_SIZE;
        self.views.lock().forget(range.start / CHUNK_SIZE..=last);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.writer.get_mut().claim.release(self.cx.meta.as_ref(), self.ino);
    }
}
