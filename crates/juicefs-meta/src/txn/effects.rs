//! Everything an operation changes, and what has to hold for it.

use juicefs_core::{
    ids::{ChunkIndex, Ino, SessionId},
    quota::{Quota, QuotaSubject},
};

use super::{effect::Effect, node::NodeGuard, usage::Usage};
use crate::record::{AccountKey, DirStat, HolderKey, Key, Value};

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
    /// in the same atomic step, and answers [`Fenced`](juicefs_core::error::MetaError::Fenced) otherwise: a client that was taken for dead writes
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
        let room = if let Key::Account(AccountKey::Quota(subject)) = key { self.room(*subject) } else { None };
        match room {
            Some(room) => was.limits() == is.limits() && is.used_space <= room.space && is.used_inodes <= room.inodes,
            None => was == is,
        }
    }

    /// The record that has to be there for the changes to be made: the session that wants them.
    #[must_use]
    pub fn condition(&self) -> Option<Key> {
        self.writer.filter(|_| !self.list.is_empty()).map(|sid| Key::Holder(HolderKey::Session(sid)))
    }

    /// Adds a change.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }
}

/// What the engine learned while applying.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Number of records in the list after each [`ChunkEffect::Append`](super::ChunkEffect::Append), in order.
    pub appended: Vec<usize>,
}
