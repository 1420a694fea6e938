//! Locks in the plainest form. What is held is a list, and whoever waits looks again after every release.

use std::future::pending;

use juicefs_core::{
    Attr, Errno, Ino, MetaResult,
    ids::SessionId,
    lock::{FileLocks, GiveUp, LockKind, LockOwner, LockRange, RangeLock},
};
use tokio::sync::Notify;

use super::MemMeta;

/// All locks of one kind that are held, by file and owner. Ranges of one owner never overlap.
#[derive(Default)]
pub(super) struct Held(Vec<(Ino, u64, RangeLock)>);

impl Held {
    fn obstacle(&self, ino: Ino, owner: u64, lock: RangeLock) -> Option<RangeLock> {
        let others = self.0.iter().filter(|(other_ino, other, _)| *other_ino == ino && *other != owner);
        let mut hits = others.filter(|(_, _, held)| held.range.overlaps(lock.range) && held.kind.conflicts(lock.kind));
        hits.next().map(|(_, _, held)| *held)
    }

    /// Takes `range` from what the owner has.
    fn clear(&mut self, ino: Ino, owner: u64, range: LockRange) {
        let (hit, mut rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(other_ino, other, held)| (*other_ino, *other) == (ino, owner) && held.range.overlaps(range));
        for (_, _, held) in hit {
            if held.range.start < range.start {
                let before = LockRange { end: range.start - 1, ..held.range };
                rest.push((ino, owner, RangeLock { range: before, ..held }));
            }
            if held.range.end > range.end {
                let after = LockRange { start: range.end + 1, ..held.range };
                rest.push((ino, owner, RangeLock { range: after, ..held }));
            }
        }
        self.0 = rest;
    }

    fn of(&self, ino: Ino) -> Vec<(LockOwner, RangeLock)> {
        let held = self.0.iter().filter(|(other, ..)| *other == ino);
        held.map(|(_, number, lock)| (LockOwner { sid: SessionId(1), number: *number }, *lock)).collect()
    }
}

/// Both kinds of locks, and who waits.
#[derive(Default)]
pub(super) struct Locks {
    files: parking_lot::Mutex<Held>,
    ranges: parking_lot::Mutex<Held>,
    released: Notify,
}

impl Locks {
    fn kind(&self, whole_file: bool) -> &parking_lot::Mutex<Held> {
        if whole_file { &self.files } else { &self.ranges }
    }
}

/// A file, and an owner that holds locks on it.
type Holders = Vec<(Ino, u64)>;

impl MemMeta {
    /// Takes all locks away. Returns who held locks of whole files, and who held ranges.
    pub(super) fn lose_locks(&self) -> (Holders, Holders) {
        let taken = [true, false].map(|whole_file| {
            let held = std::mem::take(&mut *self.locks.kind(whole_file).lock());
            held.0.into_iter().map(|(ino, owner, _)| (ino, owner)).collect()
        });
        self.locks.released.notify_waiters();
        taken.into()
    }

    pub(super) async fn take_lock(
        &self,
        whole_file: bool,
        ino: Ino,
        owner: u64,
        lock: RangeLock,
        wait: Option<GiveUp>,
    ) -> MetaResult<Attr> {
        let waits = wait.is_some();
        let mut give_up = wait.unwrap_or_else(|| Box::pin(pending()));
        loop {
            let released = self.locks.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            {
                let mut held = self.locks.kind(whole_file).lock();
                if whole_file {
                    held.clear(ino, owner, LockRange::ALL);
                }
                if held.obstacle(ino, owner, lock).is_none() {
                    held.clear(ino, owner, lock.range);
                    held.0.push((ino, owner, lock));
                    return Ok(self.state.lock().node(ino)?.attr.clone());
                }
            }
            if !waits {
                return Err(Errno::EAGAIN.into());
            }
            tokio::select! {
                () = &mut give_up => return Err(Errno::EINTR.into()),
                () = released => {}
            }
        }
    }

    pub(super) fn drop_lock(&self, whole_file: bool, ino: Ino, owner: u64, range: LockRange) {
        self.locks.kind(whole_file).lock().clear(ino, owner, range);
        self.locks.released.notify_waiters();
    }

    pub(super) fn lock_obstacle(&self, ino: Ino, owner: u64, lock: RangeLock) -> Option<RangeLock> {
        self.locks.ranges.lock().obstacle(ino, owner, lock)
    }

    pub(super) fn all_locks(&self, ino: Ino) -> FileLocks {
        let flocks = self.locks.files.lock().of(ino).into_iter().map(|(owner, lock)| (owner, lock.kind)).collect();
        FileLocks { flocks, ranges: self.locks.ranges.lock().of(ino) }
    }
}

/// A lock on a whole file.
pub(super) fn whole(kind: LockKind) -> RangeLock {
    RangeLock { kind, range: LockRange::ALL, pid: 0 }
}
