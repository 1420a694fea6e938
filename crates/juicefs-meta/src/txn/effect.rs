//! One change of the stored records, by what it is made to: a layout says for each what it does to keys or rows.

use bytes::Bytes;
use juicefs_core::{
    acl::AclRule,
    attr::Attr,
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    lock::{LockKind, LockOwner},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};

use super::{node::NodePatch, usage::Usage};
use crate::record::{
    AccountKey, Counter, DelFile, DelaySlices, DirStat, Edge, HolderKey, Key, NoteKey, Plock, Session, Value,
};

/// One change of the stored records.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// A change of an inode.
    Node(Ino, NodeEffect),
    /// A change of the entry that a directory has of this name.
    Edge(Ino, Name, EdgeEffect),
    /// A change of the list of a chunk.
    Chunk(Ino, ChunkIndex, ChunkEffect),
    /// A change of what is known of slices and of the data of removed files.
    Slice(SliceEffect),
    /// A change of what is counted.
    Account(AccountEffect),
    /// A change of a session and of what it keeps alive.
    Session(SessionId, SessionEffect),
    /// A change of what an owner holds locked of a file.
    Lock(Ino, LockOwner, LockEffect),
    /// A change of what belongs to the volume as a whole.
    Volume(VolumeEffect),
}

impl Effect {
    /// The one record that the effect stores or removes (`None`), whatever was there. `None` for an effect that depends on
    /// what is stored, or that is about several records.
    ///
    /// It is how stores that keep records one by one apply most effects.
    #[must_use]
    pub fn record(&self) -> Option<(Key, Option<Value>)> {
        match self {
            Self::Node(ino, effect) => effect.record(*ino),
            Self::Edge(ino, name, effect) => {
                let edge = match effect {
                    EdgeEffect::Insert(edge) | EdgeEffect::Update(edge) => Some(Value::Edge(*edge)),
                    EdgeEffect::Delete => None,
                };
                Some((Key::Edge(*ino, name.clone()), edge))
            }
            Self::Chunk(ino, index, effect) => {
                let list = match effect {
                    ChunkEffect::Put(list) => Some(list.clone()).filter(|list| !list.is_empty()).map(Value::Chunk),
                    ChunkEffect::Delete => None,
                    ChunkEffect::Append(_) | ChunkEffect::ReplaceHead(..) => return None,
                };
                Some((Key::Chunk(*ino, *index), list))
            }
            Self::Slice(effect) => effect.record(),
            Self::Account(effect) => effect.record().map(|(key, value)| (Key::Account(key), value)),
            Self::Session(sid, effect) => {
                let (key, value) = match effect {
                    SessionEffect::Put(session) => (HolderKey::Session(*sid), Some(Value::Session(session.clone()))),
                    SessionEffect::Delete => (HolderKey::Session(*sid), None),
                    SessionEffect::Sustain(ino) => (HolderKey::Sustained(*sid, *ino), Some(Value::Sustained)),
                    SessionEffect::Release(ino) => (HolderKey::Sustained(*sid, *ino), None),
                    SessionEffect::DeleteLocks => return None,
                };
                Some((Key::Holder(key), value))
            }
            Self::Lock(..) => None,
            Self::Volume(VolumeEffect::PutAcl(id, rule)) => Some((Key::Acl(*id), Some(Value::Acl(rule.clone())))),
            Self::Volume(VolumeEffect::PutSetting(json)) => Some((Key::Setting, Some(Value::Bytes(json.clone())))),
        }
    }
}

/// Changes of an inode.
#[derive(Clone, PartialEq, Debug)]
pub enum NodeEffect {
    /// Stores a new node; the inode number was never used before (trash directories and loads included).
    Insert(Attr),
    /// Replaces the attributes of an existing node.
    Update(Attr),
    /// Changes an existing node relatively.
    Patch(NodePatch),
    /// Removes a node.
    Delete,
    /// Stores a symlink's target.
    PutSymlink(Bytes),
    /// Removes a symlink's target.
    DeleteSymlink,
    /// Stores an extended attribute.
    PutXattr(Name, Bytes),
    /// Removes an extended attribute.
    DeleteXattr(Name),
    /// Removes all extended attributes.
    DeleteXattrs,
    /// Adds to the number of names that this directory holds of the inode. Engines that derive parents from entries ignore
    /// it.
    AddParent(Ino, i64),
    /// Removes the parent records, likewise.
    DeleteParents,
    /// Notes a directory that has no name yet, and the second it was made.
    PutDetached(i64),
    /// It has one now, or is gone.
    DeleteDetached,
}

impl NodeEffect {
    /// See [`Effect::record`].
    fn record(&self, ino: Ino) -> Option<(Key, Option<Value>)> {
        Some(match self {
            Self::Insert(attr) | Self::Update(attr) => (Key::Node(ino), Some(Value::Node(attr.clone()))),
            Self::Delete => (Key::Node(ino), None),
            Self::PutSymlink(target) => (Key::Symlink(ino), Some(Value::Bytes(target.clone()))),
            Self::DeleteSymlink => (Key::Symlink(ino), None),
            Self::PutXattr(name, value) => (Key::Xattr(ino, name.clone()), Some(Value::Bytes(value.clone()))),
            Self::DeleteXattr(name) => (Key::Xattr(ino, name.clone()), None),
            Self::DeleteParents => (Key::Parents(ino), None),
            Self::PutDetached(secs) => (Key::Note(NoteKey::Detached(ino)), Some(Value::Detached(*secs))),
            Self::DeleteDetached => (Key::Note(NoteKey::Detached(ino)), None),
            Self::Patch(_) | Self::DeleteXattrs | Self::AddParent(..) => return None,
        })
    }
}

/// Changes of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EdgeEffect {
    /// Stores a new entry; there is none of this name.
    Insert(Edge),
    /// Points an existing entry elsewhere.
    Update(Edge),
    /// Removes an entry.
    Delete,
}

/// Changes of the slice list of a chunk.
#[derive(Clone, PartialEq, Debug)]
pub enum ChunkEffect {
    /// Appends to the list, creating it. Its new length is reported in [`Applied::appended`], in effect order.
    ///
    /// [`Applied::appended`]: super::Applied::appended
    Append(Vec<SliceRecord>),
    /// Replaces so many records at the start of the list by others. See [`Effects::heads`].
    ///
    /// [`Effects::heads`]: super::Effects::heads
    ReplaceHead(usize, Vec<SliceRecord>),
    /// Replaces the list.
    Put(Vec<SliceRecord>),
    /// Removes the list.
    Delete,
}

/// Changes of what is known of slices, and of removed files whose data is still there.
#[derive(Clone, PartialEq, Debug)]
pub enum SliceEffect {
    /// A slice gets its first reference.
    InsertRef(SliceKey),
    /// Adds to the references of a slice.
    AddRef(SliceKey, i64),
    /// Notes a slice that has no reference and must be deleted.
    PutGarbage(SliceKey),
    /// Removes the record of a slice.
    DeleteRef(SliceKey),
    /// Holds the slices back that a compaction replaced by this one.
    PutDelayed(SliceId, DelaySlices),
    /// Lets those of a compaction in this second go.
    DeleteDelayed(SliceId, i64),
    /// Notes data to delete.
    PutDelFile(Ino, DelFile),
    /// The data of a file that had this length is gone.
    DeleteDelFile(Ino, u64),
}

impl SliceEffect {
    /// See [`Effect::record`].
    fn record(&self) -> Option<(Key, Option<Value>)> {
        Some(match self {
            Self::InsertRef(slice) => (Key::SliceRef(*slice), Some(Value::SliceRef(1))),
            Self::PutGarbage(slice) => (Key::SliceRef(*slice), Some(Value::SliceRef(0))),
            Self::DeleteRef(slice) => (Key::SliceRef(*slice), None),
            Self::PutDelayed(id, held) => {
                (Key::Note(NoteKey::DelaySlices(*id, held.since_secs)), Some(Value::DelaySlices(held.clone())))
            }
            Self::DeleteDelayed(id, since_secs) => (Key::Note(NoteKey::DelaySlices(*id, *since_secs)), None),
            Self::PutDelFile(ino, file) => {
                (Key::Note(NoteKey::DelFile(*ino, file.length)), Some(Value::DelFile(*file)))
            }
            Self::DeleteDelFile(ino, length) => (Key::Note(NoteKey::DelFile(*ino, *length)), None),
            Self::AddRef(..) => return None,
        })
    }
}

/// Changes of what is counted.
#[derive(Clone, PartialEq, Debug)]
pub enum AccountEffect {
    /// Stores statistics of a directory.
    PutDirStat(Ino, DirStat),
    /// Removes statistics of a directory.
    DeleteDirStat(Ino),
    /// Removes the statistics of every directory: they were not kept and are stale.
    DeleteAllDirStats,
    /// Stores limits and usage.
    PutQuota(QuotaSubject, Quota),
    /// Adds to the usage of a directory that has a quota, or of a user or group: one without record gets one without
    /// limits.
    AddUsage(QuotaSubject, Usage),
    /// Removes the quota of a directory, if it has one.
    DeleteDirQuota(Ino),
    /// Removes the usage and limits of every user and group: they were not kept and are stale. Stores without such records
    /// ignore it.
    DeleteAllUserGroupQuotas,
    /// Sets a counter.
    SetCounter(Counter, i64),
    /// Adds to a counter.
    AddCounter(Counter, i64),
}

impl AccountEffect {
    /// See [`Effect::record`].
    fn record(&self) -> Option<(AccountKey, Option<Value>)> {
        Some(match self {
            Self::PutDirStat(ino, stat) => (AccountKey::DirStat(*ino), Some(Value::DirStat(*stat))),
            Self::DeleteDirStat(ino) => (AccountKey::DirStat(*ino), None),
            Self::PutQuota(subject, quota) => (AccountKey::Quota(*subject), Some(Value::Quota(*quota))),
            Self::DeleteDirQuota(ino) => (AccountKey::Quota(QuotaSubject::Dir(*ino)), None),
            Self::SetCounter(counter, value) => (AccountKey::Counter(*counter), Some(Value::Counter(*value))),
            Self::DeleteAllDirStats | Self::DeleteAllUserGroupQuotas | Self::AddUsage(..) | Self::AddCounter(..) => {
                return None;
            }
        })
    }
}

/// Changes of a session.
#[derive(Clone, PartialEq, Debug)]
pub enum SessionEffect {
    /// Stores it.
    Put(Session),
    /// Removes it.
    Delete,
    /// Removes all locks that it holds.
    DeleteLocks,
    /// It keeps the inode alive.
    Sustain(Ino),
    /// It no longer does.
    Release(Ino),
}

/// Changes of what an owner holds locked of a file.
#[derive(Clone, PartialEq, Debug)]
pub enum LockEffect {
    /// It holds a lock of flock(2).
    PutFlock(LockKind),
    /// It no longer does.
    DeleteFlock,
    /// It holds these ranges locked and no others; at least one.
    PutPlocks(Vec<Plock>),
    /// It holds no range.
    DeletePlocks,
}

/// Changes of what belongs to the volume as a whole.
#[derive(Clone, PartialEq, Debug)]
pub enum VolumeEffect {
    /// Stores an ACL rule.
    PutAcl(u32, AclRule),
    /// Stores the setting.
    PutSetting(Bytes),
}
