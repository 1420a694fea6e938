//! What an operation has read.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use juicefs_core::{
    acl::AclRule,
    attr::Attr,
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    lock::{LockKind, LockOwner},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};

use crate::record::{
    AccountKey, Counter, DelFile, DelaySlices, DirStat, Edge, HolderKey, Key, NoteKey, Plock, Session, Value,
};

/// Everything an operation has read, absences included.
#[derive(Clone, Debug, Default)]
pub struct ReadSet {
    found: HashMap<Key, Option<Value>>,
    /// The stored bytes of records that we would write otherwise, for engines that compare bytes.
    stored: HashMap<Key, Bytes>,
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

    /// Notes that what was found under `key` is stored in other bytes than those that we would write.
    pub fn note_stored(&mut self, key: Key, stored: Bytes) {
        self.stored.insert(key, stored);
    }

    /// The bytes in which the record under `key` is stored; `None` when they are those that we would write.
    #[must_use]
    pub fn stored(&self, key: &Key) -> Option<&Bytes> {
        self.stored.get(key)
    }

    /// Adds everything of `other`.
    pub fn extend(&mut self, other: Self) {
        self.found.extend(other.found);
        self.stored.extend(other.stored);
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
        dir_stat(ino: Ino) -> DirStat, Key::Account(AccountKey::DirStat(ino)), DirStat);
    accessor!(/// A session.
        session(sid: SessionId) -> Session, Key::Holder(HolderKey::Session(sid)), Session);
    accessor!(/// The delfile note of an inode.
        del_file(ino: Ino, length: u64) -> DelFile, Key::Note(NoteKey::DelFile(ino, length)), DelFile);
    accessor!(/// Delayed slices of a compaction.
        delay_slices(id: SliceId, since_secs: i64) -> DelaySlices, Key::Note(NoteKey::DelaySlices(id, since_secs)), DelaySlices);
    accessor!(/// A quota.
        quota(subject: QuotaSubject) -> Quota, Key::Account(AccountKey::Quota(subject)), Quota);
    accessor!(/// Parents of an inode.
        parents(ino: Ino) -> BTreeMap<Ino, u64>, Key::Parents(ino), Parents);

    /// Who holds a lock of flock(2) on a file.
    #[must_use]
    pub fn flocks(&self, ino: Ino) -> &BTreeMap<LockOwner, LockKind> {
        static NONE: BTreeMap<LockOwner, LockKind> = BTreeMap::new();
        match self.get(&Key::Holder(HolderKey::Flocks(ino))) {
            Some(Value::Flocks(held)) => held,
            _ => &NONE,
        }
    }

    /// Who holds which ranges of a file locked.
    #[must_use]
    pub fn plocks(&self, ino: Ino) -> &BTreeMap<LockOwner, Vec<Plock>> {
        static NONE: BTreeMap<LockOwner, Vec<Plock>> = BTreeMap::new();
        match self.get(&Key::Holder(HolderKey::Plocks(ino))) {
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
        self.get(&Key::Note(NoteKey::Detached(ino))).is_some()
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
        self.get(&Key::Holder(HolderKey::Sustained(sid, ino))).is_some()
    }

    /// Whether the session keeps any inode alive.
    #[must_use]
    pub fn has_sustained(&self, sid: SessionId) -> bool {
        matches!(self.get(&Key::Holder(HolderKey::HasSustained(sid))), Some(Value::HasSustained(true)))
    }

    /// A counter, 0 when it was never set.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> i64 {
        match self.get(&Key::Account(AccountKey::Counter(counter))) {
            Some(Value::Counter(value)) => *value,
            _ => 0,
        }
    }
}
