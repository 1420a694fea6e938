//! Locks on ranges of bytes: fcntl(2) (format: metadata.md §6.17).

pub(crate) mod ranges;

use juicefs_core::{
    errno::Errno,
    ids::Ino,
    limits::LOCK_RANGES_MAX,
    lock::{LockOwner, LockRange, RangeLock},
};

use self::ranges::{first_overlap, replace};
use super::{
    Halt, Verdict, decision,
    locks::{LockRequest, Obstacle, Requested, all_gone},
};
use crate::{
    record::{HolderKey, Key, Plock},
    txn::{Decision, Effect, Effects, LockEffect, Operation, ReadSet},
};

/// The locks of other owners that exclude `lock`, the first of each.
fn obstacles(read: &ReadSet, ino: Ino, owner: LockOwner, lock: RangeLock) -> impl Iterator<Item = Obstacle> {
    let others = read.plocks(ino).iter().filter(move |(other, _)| **other != owner);
    others.filter_map(move |(other, held)| {
        let record = first_overlap(held, lock.range, |record| record.kind().conflicts(lock.kind))?;
        Some((*other, RangeLock { kind: record.kind(), range: record.range, pid: record.pid }))
    })
}

/// Gives an owner a lock on a range, in the place of what it has there.
#[derive(Clone, Debug)]
pub(crate) struct SetRange {
    pub(crate) ino: Ino,
    pub(crate) owner: LockOwner,
    pub(crate) lock: RangeLock,
}

impl Operation for SetRange {
    type Reply = Requested;
    const NAME: &'static str = "setlk";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino), Key::Holder(HolderKey::Plocks(self.ino))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Requested> {
        decision(self.judge(read))
    }
}

impl SetRange {
    fn judge(&self, read: &ReadSet) -> Verdict<Requested> {
        let Self { ino, owner, lock } = *self;
        let attr = read.node(ino).ok_or(Errno::ENOENT)?;
        let mut effects = Effects::none();
        let obstacles: Vec<_> = obstacles(read, ino, owner, lock).map(|(other, _)| other).collect();
        if !all_gone(read, obstacles.iter().copied(), owner.sid)? {
            return Ok((Requested::Busy, effects));
        }
        let held = read.plocks(ino);
        for gone in &obstacles {
            effects.push(Effect::Lock(ino, *gone, LockEffect::DeletePlocks));
        }
        let with = Plock { kind: Plock::number(lock.kind), pid: lock.pid, range: lock.range };
        let had = held.get(&owner).map_or(&[][..], Vec::as_slice);
        let has = replace(had, lock.range, Some(with));
        if has.len() > LOCK_RANGES_MAX.max(had.len()) {
            return Err(Errno::ENOLCK.into());
        }
        if has != had {
            effects.push(Effect::Lock(ino, owner, LockEffect::PutPlocks(has)));
        }
        Ok((Requested::Granted(Box::new(attr.clone())), effects))
    }
}

impl LockRequest for SetRange {
    fn holders(&self) -> Key {
        Key::Holder(HolderKey::Plocks(self.ino))
    }

    fn is_excluded(&self, read: &ReadSet) -> bool {
        obstacles(read, self.ino, self.owner, self.lock).next().is_some()
    }
}

/// Takes the locks on a range from an owner.
#[derive(Clone, Debug)]
pub(crate) struct ClearRange {
    pub(crate) ino: Ino,
    pub(crate) owner: LockOwner,
    pub(crate) range: LockRange,
}

impl Operation for ClearRange {
    type Reply = ();
    const NAME: &'static str = "unlk";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Holder(HolderKey::Plocks(self.ino))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        decision(self.judge(read))
    }
}

impl ClearRange {
    fn judge(&self, read: &ReadSet) -> Verdict<()> {
        let Self { ino, owner, range } = *self;
        let mut effects = Effects::none();
        let held = read.plocks(ino);
        let Some(had) = held.get(&owner) else { return Ok(((), effects)) };
        let has = replace(had, range, None);
        if has.len() > LOCK_RANGES_MAX.max(had.len()) {
            return Err(Errno::ENOLCK.into());
        }
        if has.is_empty() {
            effects.push(Effect::Lock(ino, owner, LockEffect::DeletePlocks));
        } else if has != *had {
            effects.push(Effect::Lock(ino, owner, LockEffect::PutPlocks(has)));
        }
        Ok(((), effects))
    }
}

/// The lock that lies first in the file of those that keep an owner from getting one. Its process is only told to owners of
/// the same session: elsewhere the number means another process.
pub(crate) fn first_obstacle(
    read: &ReadSet,
    ino: Ino,
    owner: LockOwner,
    lock: RangeLock,
) -> Result<Option<RangeLock>, Halt> {
    let mut first: Option<RangeLock> = None;
    for (other, held) in obstacles(read, ino, owner, lock) {
        if all_gone(read, std::iter::once(other), owner.sid)? {
            continue;
        }
        if first.is_none_or(|first| held.range.start < first.range.start) {
            let pid = if other.sid == owner.sid { held.pid } else { 0 };
            first = Some(RangeLock { pid, ..held });
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests;
