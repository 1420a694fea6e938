//! What an operation reads ([`ReadSet`]), what it wants changed ([`Effects`]), and the shape of an operation itself.
//!
//! An operation is pure: `keys` says what it must see, `decide` turns what was seen into an answer and effects. It has no
//! clock and does no I/O; the time and fresh numbers come with its arguments. Engines run it in whatever atomic way suits
//! them: inside one of their transactions, or optimistically by checking the read set when the effects are applied.

mod node;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use juicefs_core::{
    acl::AclRule,
    attr::Attr,
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    lock::{LockKind, LockOwner},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};

pub use self::node::{NodeGuard, NodePatch, Wrote};
use crate::record::{Counter, DelFile, DelaySlices, DirStat, Edge, Key, Plock, Session, Value};

/// Everything an operation has read, absences included.
#[derive(Clone, Debug, Default)]
pub struct ReadSet {
    found: HashMap<Key, Option<Value>>,
}

macro_rules! accessor {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) -> $out:ty, $key:expr, $variant:ident) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self, $($arg: $ty),*) -> Option<&$out> {
            match self.get(&$key) {
                Some(Value::$variant(value)) => Some(value),
                _ => None,
            }
        }
    };
}

impl ReadSet {
    /// Notes what was found under `key`; `None` for nothing.
    pub fn insert(&mut self, key: Key, value: Option<Value>) {
        self.found.insert(key, value);
    }

    /// Adds everything of `other`.
    pub fn extend(&mut self, other: Self) {
        self.found.extend(other.found);
    }

    /// Whether `key` was read.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.found.contains_key(key)
    }

    /// All keys read with what was found.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, Option<&Value>)> {
        self.found.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// What was found under `key`.
    ///
    /// # Panics
    /// When `key` was never fetched: the operation's `keys` forgot it, and deciding on a guess would corrupt the volume.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Value> {
        match self.found.get(key) {
            Some(value) => value.as_ref(),
            None => panic!("invariant: an operation looked at {key:?}, which it did not fetch"),
        }
    }

    accessor!(/// Attributes of `ino`.
        node(ino: Ino) -> Attr, Key::Node(ino), Node);
    accessor!(/// Entry `name` of `parent`.
        edge(parent: Ino, name: &Name) -> Edge, Key::Edge(parent, name.clone()), Edge);
    accessor!(/// Target of a symlink.
        symlink(ino: Ino) -> Bytes, Key::Symlink(ino), Bytes);
    accessor!(/// Value of an extended attribute.
        xattr(ino: Ino, name: &Name) -> Bytes, Key::Xattr(ino, name.clone()), Bytes);
    accessor!(/// The setting as it is stored.
        setting() -> Bytes, Key::Setting, Bytes);
    accessor!(/// An ACL rule.
        acl(id: u32) -> AclRule, Key::Acl(id), Acl);
    accessor!(/// Statistics of a directory.
        dir_stat(ino: Ino) -> DirStat, Key::DirStat(ino), DirStat);
    accessor!(/// A session.
        session(sid: SessionId) -> Session, Key::Session(sid), Session);
    accessor!(/// The delfile note of an inode.
        del_file(ino: Ino, length: u64) -> DelFile, Key::DelFile(ino, length), DelFile);
    accessor!(/// Delayed slices of a compaction.
        delay_slices(id: SliceId, since_secs: i64) -> DelaySlices, Key::DelaySlices(id, since_secs), DelaySlices);
    accessor!(/// A quota.
        quota(subject: QuotaSubject) -> Quota, Key::Quota(subject), Quota);
    accessor!(/// Parents of an inode.
        parents(ino: Ino) -> BTreeMap<Ino, u64>, Key::Parents(ino), Parents);

    /// Who holds a lock of flock(2) on a file.
    #[must_use]
    pub fn flocks(&self, ino: Ino) -> &BTreeMap<LockOwner, LockKind> {
        static NONE: BTreeMap<LockOwner, LockKind> = BTreeMap::new();
        match self.get(&Key::Flocks(ino)) {
            Some(Value::Flocks(held)) => held,
            _ => &NONE,
        }
    }

    /// Who holds which ranges of a file locked.
    #[must_use]
    pub fn plocks(&self, ino: Ino) -> &BTreeMap<LockOwner, Vec<Plock>> {
        static NONE: BTreeMap<LockOwner, Vec<Plock>> = BTreeMap::new();
        match self.get(&Key::Plocks(ino)) {
            Some(Value::Plocks(held)) => held,
            _ => &NONE,
        }
    }

    /// All extended attributes of an inode.
    #[must_use]
    pub fn xattrs(&self, ino: Ino) -> &[(Name, Bytes)] {
        match self.get(&Key::Xattrs(ino)) {
            Some(Value::Xattrs(list)) => list,
            _ => &[],
        }
    }

    /// Whether the directory is noted as one without a name.
    #[must_use]
    pub fn detached(&self, ino: Ino) -> bool {
        self.get(&Key::Detached(ino)).is_some()
    }

    /// The slice list of a chunk, empty when there is none.
    #[must_use]
    pub fn chunk(&self, ino: Ino, index: ChunkIndex) -> &[SliceRecord] {
        match self.get(&Key::Chunk(ino, index)) {
            Some(Value::Chunk(records)) => records,
            _ => &[],
        }
    }

    /// The chunks of a range that have a list: the last ones, see [`Key::ChunkIndexes`].
    #[must_use]
    pub fn chunk_indexes(&self, ino: Ino, from: ChunkIndex, to: ChunkIndex) -> &[ChunkIndex] {
        match self.get(&Key::ChunkIndexes(ino, from, to)) {
            Some(Value::ChunkIndexes(list)) => list,
            _ => &[],
        }
    }

    /// Whether the directory has an entry.
    #[must_use]
    pub fn has_entries(&self, ino: Ino) -> bool {
        matches!(self.get(&Key::HasEntries(ino)), Some(Value::HasEntries(true)))
    }

    /// References of a slice; `None` when no record of it exists.
    #[must_use]
    pub fn slice_ref(&self, key: SliceKey) -> Option<i64> {
        match self.get(&Key::SliceRef(key)) {
            Some(Value::SliceRef(count)) => Some(*count),
            _ => None,
        }
    }

    /// Whether the session keeps the inode alive.
    #[must_use]
    pub fn sustained(&self, sid: SessionId, ino: Ino) -> bool {
        self.get(&Key::Sustained(sid, ino)).is_some()
    }

    /// Whether the session keeps any inode alive.
    #[must_use]
    pub fn has_sustained(&self, sid: SessionId) -> bool {
        matches!(self.get(&Key::HasSustained(sid)), Some(Value::HasSustained(true)))
    }

    /// A counter, 0 when it was never set.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> i64 {
        match self.get(&Key::Counter(counter)) {
            Some(Value::Counter(value)) => *value,
            _ => 0,
        }
    }
}

/// One change of the stored records.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Stores a new node; the inode number was never used before (trash directories and loads included).
    InsertNode(Ino, Attr),
    /// Replaces the attributes of an existing node.
    UpdateNode(Ino, Attr),
    /// Changes an existing node relatively.
    PatchNode(Ino, NodePatch),
    /// Removes a node.
    DeleteNode(Ino),
    /// Stores a new entry; there is none of this name.
    InsertEdge(Ino, Name, Edge),
    /// Points an existing entry elsewhere.
    UpdateEdge(Ino, Name, Edge),
    /// Removes an entry.
    DeleteEdge(Ino, Name),
    /// Stores a symlink's target.
    PutSymlink(Ino, Bytes),
    /// Removes a symlink's target.
    DeleteSymlink(Ino),
    /// Stores an extended attribute.
    PutXattr(Ino, Name, Bytes),
    /// Removes an extended attribute.
    DeleteXattr(Ino, Name),
    /// Removes all extended attributes of an inode.
    DeleteXattrs(Ino),
    /// Appends to a chunk's list, creating it. Its new length is reported in [`Applied::appended`], in effect order.
    AppendSlices(Ino, ChunkIndex, Vec<SliceRecord>),
    /// Replaces so many records at the start of a chunk's list by others. See [`Effects::heads`].
    ReplaceHead(Ino, ChunkIndex, usize, Vec<SliceRecord>),
    /// Replaces a chunk's list.
    PutChunk(Ino, ChunkIndex, Vec<SliceRecord>),
    /// Removes a chunk's list.
    DeleteChunk(Ino, ChunkIndex),
    /// A slice gets its first reference.
    InsertSliceRef(SliceKey),
    /// Adds to the references of a slice.
    AddSliceRef(SliceKey, i64),
    /// Notes a slice that has no reference and must be deleted.
    PutGarbageSlice(SliceKey),
    /// Removes the record of a slice.
    DeleteSliceRef(SliceKey),
    /// Adds to the number of names that a directory holds of an inode. Engines that derive parents from entries ignore
    /// it.
    AddParent(Ino, Ino, i64),
    /// Removes the parent records of an inode, likewise.
    DeleteParents(Ino),
    /// Stores statistics of a directory.
    PutDirStat(Ino, DirStat),
    /// Removes statistics of a directory.
    DeleteDirStat(Ino),
    /// Removes the statistics of every directory: they were not kept and are stale.
    DeleteAllDirStats,
    /// Removes the usage and limits of every user and group, likewise. Stores without such records ignore it.
    DeleteAllUserGroupQuotas,
    /// Removes the quota of a directory, if it has one.
    DeleteDirQuota(Ino),
    /// Stores limits and usage.
    PutQuota(QuotaSubject, Quota),
    /// Adds to the usage of a directory that has a quota, or of a user or group: one without record gets one without
    /// limits.
    AddQuotaUsage(QuotaSubject, Usage),
    /// Stores an ACL rule.
    PutAcl(u32, AclRule),
    /// Stores a session.
    PutSession(SessionId, Session),
    /// Removes a session.
    DeleteSession(SessionId),
    /// Removes all locks held by a session.
    DeleteLocks(SessionId),
    /// The owner holds a lock of flock(2) on a file.
    PutFlock(Ino, LockOwner, LockKind),
    /// It no longer does.
    DeleteFlock {
        /// The file.
        ino: Ino,
        /// The owner.
        owner: LockOwner,
        /// No owner of the same session holds such a lock on the file afterwards.
        last: bool,
    },
    /// The owner holds these ranges of a file locked and no others; at least one.
    PutPlocks(Ino, LockOwner, Vec<Plock>),
    /// It holds none.
    DeletePlocks {
        /// The file.
        ino: Ino,
        /// The owner.
        owner: LockOwner,
        /// No owner of the same session holds ranges of the file locked afterwards.
        last: bool,
    },
    /// The session keeps the inode alive.
    PutSustained(SessionId, Ino),
    /// It no longer does.
    DeleteSustained(SessionId, Ino),
    /// Notes data to delete.
    PutDelFile(Ino, DelFile),
    /// The data of a file that had this length is gone.
    DeleteDelFile(Ino, u64),
    /// Holds slices back.
    PutDelaySlices(SliceId, DelaySlices),
    /// Lets those of a compaction in this second go.
    DeleteDelaySlices(SliceId, i64),
    /// Notes a directory that has no name yet, and the second it was made.
    PutDetached(Ino, i64),
    /// It has one now, or is gone.
    DeleteDetached(Ino),
    /// Sets a counter.
    SetCounter(Counter, i64),
    /// Adds to a counter.
    AddCounter(Counter, i64),
    /// Stores the volume setting.
    PutSetting(Bytes),
}

/// Everything an operation changes, applied as one.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Effects {
    /// The changes, in an order that keeps references valid.
    pub list: Vec<Effect>,
    /// Change of the volume's used space (bytes) and inodes.
    pub usage: Usage,
    /// Changes of directory statistics; engines or the client batch them.
    pub dir_stats: Vec<(Ino, DirStat)>,
    /// Changes of what belongs to a user and a group: uid, gid, and what they have more or less.
    pub owned: Vec<(u32, u32, Usage)>,
    /// Directories that move from one parent to another, with all that is below them.
    pub moved: Vec<Move>,
    /// Nodes whose guard is narrower than "unchanged".
    pub narrowed: Vec<(Ino, NodeGuard)>,
    /// Chunks of whose list no more is needed than that it still begins with so many of the records that were read.
    pub heads: Vec<(Ino, ChunkIndex, usize)>,
    /// Quotas of which no more is needed than that their limits are unchanged and their usage is at most this.
    pub rooms: Vec<(QuotaSubject, Usage)>,
    /// The session that wants the changes. An engine applies them only while the record of this session exists, checked
    /// in the same atomic step, and answers [`MetaError::Fenced`] otherwise: a client that was taken for dead writes
    /// nothing any more. `None` for clients without a session and for changes of the session itself.
    pub writer: Option<SessionId>,
}

/// A directory that moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The directory.
    pub ino: Ino,
    /// Its parent so far.
    pub from: Ino,
    /// Its parent from now on.
    pub to: Ino,
}

/// Used bytes and inodes, or a change of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes.
    pub space: i64,
    /// Inodes.
    pub inodes: i64,
}

impl Usage {
    /// So many bytes, and no inode.
    #[must_use]
    pub fn of_space(bytes: u64) -> Self {
        Self { space: i64::try_from(bytes).unwrap_or(i64::MAX), inodes: 0 }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { space: self.space.saturating_add(other.space), inodes: self.inodes.saturating_add(other.inodes) }
    }

    /// What remains without `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { space: self.space.saturating_sub(other.space), inodes: self.inodes.saturating_sub(other.inodes) }
    }
}

impl Effects {
    /// No change at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// How many records at the start of a chunk's list must be unchanged for the decision to stand; `None` when all.
    #[must_use]
    pub fn head(&self, ino: Ino, index: ChunkIndex) -> Option<usize> {
        self.heads.iter().find(|(other, at, _)| (*other, *at) == (ino, index)).map(|(_, _, records)| *records)
    }

    /// Whether what was read under `key` and now is `is` still supports the decision.
    #[must_use]
    pub fn still_holds(&self, key: &Key, was: Option<&Value>, is: Option<&Value>) -> bool {
        let narrowed = |ino: &Ino| self.narrowed.iter().find(|(narrowed, _)| narrowed == ino).map(|(_, guard)| *guard);
        match (key, was, is) {
            (Key::Node(ino), Some(Value::Node(was)), Some(Value::Node(is))) => {
                narrowed(ino).map_or(was == is, |guard| guard.holds(was, is))
            }
            (Key::Chunk(ino, index), Some(Value::Chunk(was)), Some(Value::Chunk(is))) => {
                self.head(*ino, *index).map_or(was == is, |records| is.starts_with(&was[..records.min(was.len())]))
            }
            (_, Some(Value::Quota(was)), Some(Value::Quota(is))) => self.room_holds(key, was, is),
            (_, was, is) => was == is,
        }
    }

    /// The usage that a quota may have at most for the decision to stand; `None` when it must be unchanged.
    #[must_use]
    pub fn room(&self, subject: QuotaSubject) -> Option<Usage> {
        self.rooms.iter().find(|(other, _)| *other == subject).map(|(_, room)| *room)
    }

    /// Whether a quota that was read as `was` and now is `is` still supports the decision.
    #[must_use]
    pub fn room_holds(&self, key: &Key, was: &Quota, is: &Quota) -> bool {
        let room = if let Key::Quota(subject) = key { self.room(*subject) } else { None };
        match room {
            Some(room) => was.limits() == is.limits() && is.used_space <= room.space && is.used_inodes <= room.inodes,
            None => was == is,
        }
    }

    /// Adds a change.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }
}

/// What the engine learned while applying.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Number of records in the list after each [`Effect::AppendSlices`], in order.
    pub appended: Vec<usize>,
}

/// Verdict of an operation on what it has read so far.
#[derive(Clone, PartialEq, Debug)]
pub enum Decision<R> {
    /// Succeeds with this reply once the effects are applied.
    Done(R, Effects),
    /// Fails; nothing changes.
    Fail(Errno),
    /// Must read more first; `decide` is called again with a read set that has grown.
    NeedMore(Vec<Key>),
}

/// A file-system operation: the only place where what it means is written.
pub trait Operation: Send + 'static {
    /// What it answers.
    type Reply: Send + 'static;

    /// Short name for logs and metrics.
    const NAME: &'static str;

    /// Whether an engine that lost contact with its store goes on asking, for as long as somebody waits, until it knows
    /// what became of the change: `Err` then means for certain that nothing was applied.
    const NEEDS_OUTCOME: bool = false;

    /// What it must read first.
    fn keys(&self) -> Vec<Key>;

    /// Judges what was read. Pure: the same read set gives the same verdict. Called anew after every conflict.
    fn decide(&self, read: &ReadSet) -> Decision<Self::Reply>;

    /// The file for which room was claimed that covers what the operation uses.
    fn claimant(&self) -> Option<Ino> {
        None
    }

    /// Completes the reply with what applying showed.
    fn finish(&self, reply: Self::Reply, _applied: &Applied) -> Self::Reply {
        reply
    }
}

/// An [`Operation`] without its types, as engines run it.
pub trait Job: Send {
    /// Name of the operation.
    fn name(&self) -> &'static str;
    /// See [`Operation::NEEDS_OUTCOME`].
    fn needs_outcome(&self) -> bool {
        false
    }
    /// What it must read first.
    fn keys(&self) -> Vec<Key>;
    /// Judges; remembers the outcome.
    fn step(&mut self, read: &ReadSet) -> Step;
    /// The effects of the last [`Step::Apply`] are in place.
    fn applied(&mut self, applied: &Applied);
    /// For taking the concrete job back.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

/// What a job wants next.
#[derive(Debug)]
pub enum Step {
    /// To read these as well.
    Fetch(Vec<Key>),
    /// To have these applied, all or nothing. Empty effects may be skipped, with the reservation of [`Step::Stop`].
    Apply(Effects),
    /// Nothing: it failed with an errno. An engine that read in several steps without a transaction around them has to
    /// check first that everything read still holds: the parts may never have been true together.
    Stop,
}

/// An operation under way with its outcome.
pub struct OperationJob<O: Operation> {
    op: O,
    outcome: Option<Result<O::Reply, Errno>>,
    usage: Usage,
    dir_stats: Vec<(Ino, DirStat)>,
}

/// A finished operation: its reply, and what it added to counters that the client batches.
#[derive(Debug)]
pub struct Finished<R> {
    /// The reply.
    pub reply: R,
    /// Change of the volume's usage.
    pub usage: Usage,
    /// Changes of directory statistics.
    pub dir_stats: Vec<(Ino, DirStat)>,
}

impl<O: Operation> OperationJob<O> {
    /// Wraps `op` for an engine.
    pub fn new(op: O) -> Box<Self> {
        Box::new(Self { op, outcome: None, usage: Usage::default(), dir_stats: Vec::new() })
    }

    /// The outcome of a job that an engine has given back.
    ///
    /// # Errors
    /// The operation's errno; `Unsupported` when the engine gave the job back without running it, which is a bug.
    pub fn outcome(job: Box<dyn Job>) -> MetaResult<Finished<O::Reply>> {
        let unrun = || MetaError::Unsupported("an engine that returns an operation without running it");
        let job = job.into_any().downcast::<Self>().map_err(|_| unrun())?;
        let reply = job.outcome.ok_or_else(unrun)??;
        Ok(Finished { reply, usage: job.usage, dir_stats: job.dir_stats })
    }
}

impl<O: Operation> Job for OperationJob<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn needs_outcome(&self) -> bool {
        O::NEEDS_OUTCOME
    }

    fn keys(&self) -> Vec<Key> {
        self.op.keys()
    }

    fn step(&mut self, read: &ReadSet) -> Step {
        match self.op.decide(read) {
            Decision::NeedMore(keys) => Step::Fetch(keys),
            Decision::Fail(errno) => {
                self.outcome = Some(Err(errno));
                Step::Stop
            }
            Decision::Done(reply, effects) => {
                self.outcome = Some(Ok(reply));
                self.usage = effects.usage;
                self.dir_stats.clone_from(&effects.dir_stats);
                Step::Apply(effects)
            }
        }
    }

    fn applied(&mut self, applied: &Applied) {
        if let Some(Ok(reply)) = self.outcome.take() {
            self.outcome = Some(Ok(self.op.finish(reply, applied)));
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
