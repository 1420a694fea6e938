//! Locks on whole files: flock(2) (format: metadata.md §6.17).

use juicefs_core::{
    errno::Errno,
    ids::Ino,
    lock::{LockKind, LockOwner},
};

use super::{
    Verdict, decision,
    locks::{LockRequest, Requested, all_gone},
};
use crate::{
    record::{HolderKey, Key},
    txn::{Decision, Effect, Effects, LockEffect, Operation, ReadSet},
};

/// Gives an owner a lock on a file. As on Linux, a lock of the other kind that it has is given up first, whether or not it
/// gets the new one: two readers that both want to write would otherwise wait for each other for ever.
#[derive(Clone, Debug)]
pub(crate) struct Flock {
    pub(crate) ino: Ino,
    pub(crate) owner: LockOwner,
    pub(crate) kind: LockKind,
}

impl Operation for Flock {
    type Reply = Requested;
    const NAME: &'static str = "flock";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino), Key::Holder(HolderKey::Flocks(self.ino))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Requested> {
        decision(self.judge(read))
    }
}

impl Flock {
    fn judge(&self, read: &ReadSet) -> Verdict<Requested> {
        let Self { ino, owner, kind } = *self;
        let attr = read.node(ino).ok_or(Errno::ENOENT)?;
        let held = read.flocks(ino);
        let mut effects = Effects::none();
        let obstacles: Vec<_> = self.obstacles(read).collect();
        if !all_gone(read, obstacles.iter().copied(), owner.sid)? {
            if held.get(&owner).is_some_and(|had| *had != kind) {
                effects.push(Effect::Lock(ino, owner, LockEffect::DeleteFlock));
            }
            return Ok((Requested::Busy, effects));
        }
        for gone in &obstacles {
            effects.push(Effect::Lock(ino, *gone, LockEffect::DeleteFlock));
        }
        if held.get(&owner) != Some(&kind) {
            effects.push(Effect::Lock(ino, owner, LockEffect::PutFlock(kind)));
        }
        Ok((Requested::Granted(Box::new(attr.clone())), effects))
    }

    fn obstacles(&self, read: &ReadSet) -> impl Iterator<Item = LockOwner> {
        let held = read.flocks(self.ino).iter();
        held.filter(|(owner, kind)| **owner != self.owner && kind.conflicts(self.kind)).map(|(owner, _)| *owner)
    }
}

impl LockRequest for Flock {
    fn holders(&self) -> Key {
        Key::Holder(HolderKey::Flocks(self.ino))
    }

    fn is_excluded(&self, read: &ReadSet) -> bool {
        self.obstacles(read).next().is_some()
    }
}

/// Takes the lock on a file from an owner.
#[derive(Clone, Debug)]
pub(crate) struct Funlock {
    pub(crate) ino: Ino,
    pub(crate) owner: LockOwner,
}

impl Operation for Funlock {
    type Reply = ();
    const NAME: &'static str = "funlock";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Holder(HolderKey::Flocks(self.ino))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        decision(self.judge(read))
    }
}

impl Funlock {
    fn judge(&self, read: &ReadSet) -> Verdict<()> {
        let Self { ino, owner } = *self;
        let held = read.flocks(ino);
        let mut effects = Effects::none();
        if held.contains_key(&owner) {
            effects.push(Effect::Lock(ino, owner, LockEffect::DeleteFlock));
        }
        Ok(((), effects))
    }
}

#[cfg(test)]
mod tests;
