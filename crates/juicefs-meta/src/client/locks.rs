//! Locks: granted and taken back by the engine, waited for here.
//!
//! Calls on one file take turns, so that what is granted and taken back is known here in the order in which it happened.
//! Whoever waits holds no thread: it is rung when an owner of this client lets go, and looks again from time to time when
//! another client holds the lock, since nobody tells of that.

mod pauses;
mod table;

use std::{future::pending, sync::Arc, time::Duration};

use juicefs_core::{
    attr::Attr,
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::{Ino, SessionId},
    lock::{FileLocks, GiveUp, LockKind, LockOwner, LockRange, RangeLock},
};
use parking_lot::Mutex;
use rand::Rng;
use tokio::{sync::Notify, time::Instant};

use self::{
    pauses::Pauses,
    table::{Class, PlaceKey, Request, Table, Verdict, whole},
};
use super::Client;
use crate::{
    ops::{
        flock::{Flock, Funlock},
        locks::{LockRequest, Requested},
        plock::{ClearRange, SetRange, first_obstacle},
    },
    record::{HolderKey, Key},
    txn::Operation,
};

/// How often who waits asks the engine in full; between that it only looks at who holds the lock, which is cheaper but
/// shows neither that this client was taken for dead nor that the holder's session is gone.
const FULL_INTERVAL: Duration = Duration::from_secs(1);
/// How often releasing a lock is tried anew while others keep changing the locks of the file.
const RELEASE_TRIES: u32 = 20;

/// A file, and an owner that holds locks on it.
pub(super) type Held = (Ino, u64);

/// The locks of this client.
#[derive(Debug, Default)]
pub(super) struct Locks {
    table: Mutex<Table>,
}

impl Locks {
    /// Nothing is held any more, and from now on locks are those of the session `next`. Returns what was held: the files and
    /// owners of locks of flock(2), and those of ranges.
    pub(super) fn lose(&self, next: SessionId) -> (Vec<Held>, Vec<Held>) {
        self.table.lock().lose(next)
    }

    /// Everybody who waits has a look.
    pub(super) fn ring_all(&self) {
        self.table.lock().ring_all();
    }

    fn enter(&self, key: PlaceKey) -> Visit<'_> {
        let turn = self.table.lock().enter(key);
        Visit { locks: self, key, turn }
    }
}

/// A call on the locks of one file.
struct Visit<'a> {
    locks: &'a Locks,
    key: PlaceKey,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.locks.table.lock().leave(self.key);
    }
}

impl Visit<'_> {
    fn queue(&self, request: Request) -> MetaResult<Ticket<'_>> {
        let queued = self.locks.table.lock().queue(self.key, request);
        let (number, bell) = queued.ok_or(Errno::ENOLCK)?;
        Ok(Ticket { visit: self, number, bell })
    }

    /// What an owner has in a range is to be taken back.
    fn release(&self, owner: u64, range: LockRange) -> Releasing<'_> {
        Releasing { visit: self, owner, range }
    }
}

/// The place of a request among those who wait.
struct Ticket<'a> {
    visit: &'a Visit<'a>,
    number: u64,
    bell: Arc<Notify>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.visit.locks.table.lock().unqueue(self.visit.key, self.number);
    }
}

/// A release under way. However it ends, what was to be released does not count as held here any more: if it still is, the
/// engine says so to whoever asks.
struct Releasing<'a> {
    visit: &'a Visit<'a>,
    owner: u64,
    range: LockRange,
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        self.visit.locks.table.lock().released(self.visit.key, self.owner, self.range);
    }
}

impl Client {
    /// The owner of locks that a number names. ENOLCK without a session, with which locks go.
    fn lock_owner(&self, number: u64) -> MetaResult<LockOwner> {
        self.writable()?;
        match self.writer() {
            Some(sid) => Ok(LockOwner { sid, number }),
            None => Err(Errno::ENOLCK.into()),
        }
    }

    pub(super) async fn lock_file(
        &self,
        ino: Ino,
        owner: u64,
        kind: LockKind,
        wait: Option<GiveUp>,
    ) -> MetaResult<Attr> {
        let request = Request { owner, lock: whole(kind) };
        self.acquire((Class::File, ino), request, |owner| Flock { ino, owner, kind }, wait).await
    }

    pub(super) async fn lock_range(
        &self,
        ino: Ino,
        owner: u64,
        lock: RangeLock,
        wait: Option<GiveUp>,
    ) -> MetaResult<Attr> {
        let request = Request { owner, lock };
        self.acquire((Class::Range, ino), request, |owner| SetRange { ino, owner, lock }, wait).await
    }

    pub(super) async fn unlock_file(&self, ino: Ino, owner: u64) -> MetaResult<()> {
        let Ok(holder) = self.lock_owner(owner) else { return self.writable() };
        self.release((Class::File, ino), owner, LockRange::ALL, Funlock { ino, owner: holder }).await
    }

    pub(super) async fn unlock_range(&self, ino: Ino, owner: u64, range: LockRange) -> MetaResult<()> {
        let Ok(holder) = self.lock_owner(owner) else { return self.writable() };
        self.release((Class::Range, ino), owner, range, ClearRange { ino, owner: holder, range }).await
    }

    pub(super) async fn range_obstacle(&self, ino: Ino, owner: u64, lock: RangeLock) -> MetaResult<Option<RangeLock>> {
        let owner = LockOwner { sid: self.sid(), number: owner };
        self.look(vec![Key::Holder(HolderKey::Plocks(ino))], |read| first_obstacle(read, ino, owner, lock)).await
    }

    pub(super) async fn list_locks(&self, ino: Ino) -> MetaResult<FileLocks> {
        let read =
            self.transactor.fetch(&[Key::Holder(HolderKey::Flocks(ino)), Key::Holder(HolderKey::Plocks(ino))]).await?;
        let mut locks = FileLocks::default();
        locks.flocks.extend(read.flocks(ino).iter().map(|(owner, kind)| (*owner, *kind)));
        for (owner, held) in read.plocks(ino) {
            let each = held.iter().map(|h| RangeLock { kind: h.kind(), range: h.range, pid: h.pid });
            locks.ranges.extend(each.map(|lock| (*owner, lock)));
        }
        Ok(locks)
    }

    /// Gets a lock, waiting for it until `wait` ends.
    async fn acquire<O: LockRequest>(
        &self,
        key: PlaceKey,
        request: Request,
        op: impl Fn(LockOwner) -> O,
        wait: Option<GiveUp>,
    ) -> MetaResult<Attr> {
        self.lock_owner(request.owner)?;
        let table = &self.locks.table;
        let visit = self.locks.enter(key);
        let ticket = wait.is_some().then(|| visit.queue(request)).transpose()?;
        let number = ticket.as_ref().map(|ticket| ticket.number);
        let mut give_up = wait.unwrap_or_else(|| Box::pin(pending()));
        let mut pauses = Pauses::new();
        let mut asked: Option<Instant> = None;
        loop {
            let turn = tokio::select! {
                biased;
                () = &mut give_up => return Err(Errno::EINTR.into()),
                turn = visit.turn.lock() => turn,
            };
            let ask = table.lock().verdict(key, request, number) == Verdict::Ask;
            if ask {
                let full = asked.is_none_or(|asked| asked.elapsed() >= FULL_INTERVAL);
                if full {
                    asked = Some(Instant::now());
                }
                let holder = self.lock_owner(request.owner)?;
                match self.request(&op(holder), key.1, full).await {
                    // One that was granted in a session which was ended by now is nobody's.
                    Ok(Requested::Granted(attr)) if table.lock().granted(key, request, holder.sid) => return Ok(*attr),
                    Ok(Requested::Granted(_)) => continue,
                    Ok(Requested::Busy) => {}
                    Err(MetaError::Fenced) => {
                        self.come_back().await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                if key.0 == Class::File {
                    table.lock().gave_up(key, request.owner);
                }
            }
            drop(turn);
            let Some(ticket) = &ticket else { return Err(Errno::EAGAIN.into()) };
            {
                let table = table.lock();
                if key.0 == Class::Range && table.is_deadlock(key, request) {
                    return Err(Errno::EDEADLK.into());
                }
                table.ring(key, ticket.number);
            }
            tokio::select! {
                biased;
                () = &mut give_up => return Err(Errno::EINTR.into()),
                () = ticket.bell.notified() => {}
                () = tokio::time::sleep(pauses.next(rand::rng().random())), if ask => {}
            }
        }
    }

    /// Asks the engine for a lock once; unless it is to be a `full` try, only if nobody seems to exclude it.
    async fn request<O: LockRequest>(&self, op: &O, ino: Ino, full: bool) -> MetaResult<Requested> {
        self.writable()?;
        if !full && op.is_excluded(&self.transactor.fetch(&[op.holders()]).await?) {
            return Ok(Requested::Busy);
        }
        let reading = self.looks.begin_reading();
        match self.run(op.clone()).await {
            Ok(Requested::Granted(attr)) => {
                self.looks.remember(reading, ino, &attr);
                Ok(Requested::Granted(attr))
            }
            // Others were quicker, again and again: they have it.
            Err(MetaError::Conflict(_)) => Ok(Requested::Busy),
            other => other,
        }
    }

    /// Takes back what an owner has in a range.
    async fn release<O: Operation<Reply = ()> + Clone>(
        &self,
        key: PlaceKey,
        owner: u64,
        range: LockRange,
        op: O,
    ) -> MetaResult<()> {
        let visit = self.locks.enter(key);
        let _turn = visit.turn.lock().await;
        let _releasing = visit.release(owner, range);
        for _ in 1..RELEASE_TRIES {
            match self.run(op.clone()).await {
                Err(MetaError::Conflict(_)) => {}
                // It went with the session in which it was had.
                Err(MetaError::Fenced) => return Ok(()),
                done => return done,
            }
        }
        self.run(op).await
    }
}
