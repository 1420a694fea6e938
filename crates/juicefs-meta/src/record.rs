//! The typed records of a volume: what an engine stores and an operation reads and changes.
//!
//! Nothing here knows keys, bytes or tables; `layout/` maps records to those.

use std::{collections::BTreeMap, ops::AddAssign};

use bytes::Bytes;
use juicefs_core::{
    acl::AclRule,
    attr::{Attr, FileType},
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    lock::{LockKind, LockOwner, LockRange},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};

/// Chunks of a file that one answer to [`Key::ChunkIndexes`] tells, and so the most that one operation changes: a file may
/// have two thousand million.
pub const CHUNKS_AT_ONCE: usize = 1024;

/// A file that was cut has nothing beyond so many chunks behind its end. A store without an index of chunks looks no further
/// when the file is removed.
pub const CHUNKS_BEYOND: ChunkIndex = 4096;

/// Named numbers of a volume, in their logical meaning: [`Counter::NextInode`] and [`Counter::NextChunk`] hold the next
/// free number whatever convention an engine stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Counter {
    /// Next free inode number.
    NextInode,
    /// Next free slice id.
    NextChunk,
    /// Last session number handed out.
    NextSession,
    /// Last hourly trash directory handed out.
    NextTrash,
    /// Bytes in use.
    UsedSpace,
    /// Inodes in use.
    TotalInodes,
    /// Last ACL id handed out.
    AclMaxId,
    /// When stale sessions were last cleaned, in seconds; likewise the following.
    LastCleanupSessions,
    /// Removed files.
    LastCleanupFiles,
    /// Slices without reference.
    NextCleanupSlices,
    /// Trash.
    LastCleanupTrash,
}

/// Names one record, or one question about records, that an operation reads.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Key {
    /// Attributes of an inode.
    Node(Ino),
    /// Entry `name` of a directory.
    Edge(Ino, Name),
    /// Whether a directory has any entry.
    HasEntries(Ino),
    /// Target of a symlink.
    Symlink(Ino),
    /// One extended attribute.
    Xattr(Ino, Name),
    /// All extended attributes.
    Xattrs(Ino),
    /// Slice list of a chunk.
    Chunk(Ino, ChunkIndex),
    /// Which chunks with `from <= index < to` have a list: the last of them, [`CHUNKS_AT_ONCE`] at most.
    ChunkIndexes(Ino, ChunkIndex, ChunkIndex),
    /// Reference count of a slice.
    SliceRef(SliceKey),
    /// Directories that hold names of an inode, with the number of names in each.
    Parents(Ino),
    /// An ACL rule.
    Acl(u32),
    /// The setting of the volume, as it is stored.
    Setting,
    /// What is counted.
    Account(AccountKey),
    /// Who holds what.
    Holder(HolderKey),
    /// What is still to be done.
    Note(NoteKey),
}

/// Records of what is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum AccountKey {
    /// Statistics of the direct entries of a directory.
    DirStat(Ino),
    /// Limits and usage of a directory, user or group.
    Quota(QuotaSubject),
    /// A counter.
    Counter(Counter),
}

/// Records of sessions and of what they hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum HolderKey {
    /// A session.
    Session(SessionId),
    /// Whether a session keeps a removed inode alive.
    Sustained(SessionId, Ino),
    /// Whether a session keeps any removed inode alive.
    HasSustained(SessionId),
    /// Who holds a lock of flock(2) on a file.
    Flocks(Ino),
    /// Who holds which ranges of a file locked.
    Plocks(Ino),
}

/// Notes of what is still to be done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum NoteKey {
    /// The data of a removed file of this length is still to be deleted.
    DelFile(Ino, u64),
    /// A compaction with trash still holds the references of slices, by the id of the slice it made and its second.
    DelaySlices(SliceId, i64),
    /// A directory has no name yet: a copy of a tree is being made.
    Detached(Ino),
}

/// An entry of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    /// The inode named.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileType,
}

/// Statistics over the direct entries of one directory, or a change of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirStat {
    /// Bytes of regular files.
    pub length: i64,
    /// Bytes they count in used space.
    pub space: i64,
    /// Number of entries.
    pub inodes: i64,
}

impl AddAssign for DirStat {
    fn add_assign(&mut self, other: Self) {
        self.length += other.length;
        self.space += other.space;
        self.inodes += other.inodes;
    }
}

/// A session record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// Expiry in seconds since the epoch.
    pub expire_secs: i64,
    /// JSON of the client.
    pub info: Bytes,
}

/// A removed file whose data is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DelFile {
    /// Length at removal.
    pub length: u64,
    /// Second of the removal.
    pub removed_secs: i64,
}

/// Slices held back by the trash after a compaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DelaySlices {
    /// Second of the compaction.
    pub since_secs: i64,
    /// The slices, one item per reference. Never empty.
    pub slices: Vec<SliceKey>,
}

/// A range that an owner holds locked. An owner has any number of them in a file, in order and apart from each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plock {
    /// `F_RDLCK` or `F_WRLCK` as the system of the holder's client numbers them.
    pub kind: u32,
    /// Process that holds it.
    pub pid: u32,
    /// The bytes.
    pub range: LockRange,
}

impl Plock {
    /// The number of a kind on Linux.
    #[must_use]
    pub fn number(kind: LockKind) -> u32 {
        match kind {
            LockKind::Read => 0,
            LockKind::Write => 1,
        }
    }

    /// What it leaves to others. What is not 0 may be anything, as on macOS, where 1 stands for reading: it is taken for
    /// the lock that excludes more.
    #[must_use]
    pub fn kind(&self) -> LockKind {
        if self.kind == Self::number(LockKind::Read) { LockKind::Read } else { LockKind::Write }
    }
}

/// What was found under a [`Key`].
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// For [`Key::Node`].
    Node(Attr),
    /// For [`Key::Edge`].
    Edge(Edge),
    /// For [`Key::HasEntries`].
    HasEntries(bool),
    /// For [`Key::Symlink`], [`Key::Xattr`] and [`Key::Setting`].
    Bytes(Bytes),
    /// For [`Key::Xattrs`], by name; always there, if only empty.
    Xattrs(Vec<(Name, Bytes)>),
    /// For [`Key::Chunk`]; a missing list and an empty one are the same.
    Chunk(Vec<SliceRecord>),
    /// For [`Key::ChunkIndexes`], ascending. There may be others before the first of them when they are
    /// [`CHUNKS_AT_ONCE`].
    ChunkIndexes(Vec<ChunkIndex>),
    /// For [`Key::SliceRef`]: the true number of references; a slice that was never counted apart has one where it is
    /// in use (engines map their own convention).
    SliceRef(i64),
    /// For [`Key::Parents`]: only positive counts.
    Parents(BTreeMap<Ino, u64>),
    /// For [`AccountKey::DirStat`].
    DirStat(DirStat),
    /// For [`Key::Acl`].
    Acl(AclRule),
    /// For [`HolderKey::Session`].
    Session(Session),
    /// For [`HolderKey::Sustained`]: present.
    Sustained,
    /// For [`HolderKey::HasSustained`].
    HasSustained(bool),
    /// For [`NoteKey::DelFile`].
    DelFile(DelFile),
    /// For [`NoteKey::DelaySlices`].
    DelaySlices(DelaySlices),
    /// For [`NoteKey::Detached`]: the second it was made.
    Detached(i64),
    /// For [`AccountKey::Counter`].
    Counter(i64),
    /// For [`HolderKey::Flocks`]; never empty.
    Flocks(BTreeMap<LockOwner, LockKind>),
    /// For [`HolderKey::Plocks`]; neither it nor any of its lists is empty.
    Plocks(BTreeMap<LockOwner, Vec<Plock>>),
    /// For [`AccountKey::Quota`].
    Quota(Quota),
}
