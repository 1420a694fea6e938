//! Running operations, and booking what they used.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use juicefs_core::{
    Caller,
    attr::Attr,
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::{Ino, SessionId},
};

use tokio::time::Instant;

use super::{
    Client,
    dir_stats::{Announced, DirStatBook},
    looks::{Changing, Looks},
    quotas::{self, Charges, QuotaBook, Refusal, Survey},
    usage::{Reservation, UsageBook},
};
use crate::{
    engine::Caps,
    ops::{
        Halt, Scope,
        account::{Growth, space_delta},
    },
    record::Key,
    txn::{
        AccountEffect, Applied, Effect, Effects, LockEffect, Operation, PendingOp, ReadSet, SessionEffect, Step,
        Unbooked, Usage,
    },
};

/// Tries of something that has to be begun anew because others changed meanwhile what it was prepared for: always a first
/// one, and more for as long as the engine has patience.
#[derive(Debug)]
pub(super) struct Tries {
    count: u32,
    until: Instant,
}

impl Tries {
    pub(super) fn new(patience: Duration) -> Self {
        Self { count: 0, until: Instant::now() + patience }
    }

    /// Whether there is another try.
    pub(super) fn again(&mut self) -> bool {
        let again = self.count == 0 || Instant::now() < self.until;
        self.count += u32::from(again);
        again
    }

    /// The failure after all tries.
    pub(super) fn conflict(&self) -> MetaError {
        MetaError::Conflict(self.count)
    }
}

/// Logs what only a damaged volume can answer. It is told here and not where it arises, for what an operation was judged on may
/// have been out of date; this is how it ended.
fn told(what: &'static str, error: MetaError) -> MetaError {
    if matches!(error, MetaError::Posix(Errno::EIO)) {
        tracing::error!("{what} ended in EIO: a record that another one names is missing, the volume is damaged");
    }
    error
}

/// EIO, for a record of `ino` that must be there and is not.
pub(super) fn missing(what: &'static str, ino: Ino) -> Errno {
    tracing::error!(%ino, "{what} is missing, the volume is damaged");
    Errno::EIO
}

/// How an operation ended.
enum Attempt<R> {
    Done(R),
    /// Nothing happened: it has to be counted first what is below this directory.
    Unmeasured(Ino),
}

/// What operations have changed besides records.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) usage: UsageBook,
    pub(super) dir_stats: DirStatBook,
    pub(super) quotas: QuotaBook,
    usage_in_transaction: bool,
}

impl Books {
    pub(super) fn new(caps: Caps) -> Self {
        Self {
            usage: UsageBook::default(),
            dir_stats: DirStatBook::default(),
            quotas: QuotaBook::default(),
            usage_in_transaction: caps.usage_in_transaction,
        }
    }
}

/// An operation that books what it used as soon as it is applied, whether or not somebody still waits for it.
struct Booked<O: Operation> {
    op: Unbooked<O>,
    books: Arc<Books>,
    looks: Arc<Looks>,
    changing: Option<Changing>,
    /// The session whose end makes it fail.
    writer: Option<SessionId>,
    usage: Usage,
    /// The file whose claim covers it.
    claimant: Option<Ino>,
    dir_stats: Option<Announced>,
    survey: Survey,
    /// Charged in the operation itself.
    charged: Charges,
    /// To be charged when it is done.
    charges: Charges,
    /// Why it was not applied though it could be judged.
    refusal: Option<Refusal>,
}

impl<O: Operation> PendingOp for Booked<O> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn needs_outcome(&self) -> bool {
        self.op.needs_outcome()
    }

    fn keys(&self) -> Vec<Key> {
        self.op.keys()
    }

    fn step(&mut self, read: &ReadSet) -> Step {
        let mut step = self.op.step(read);
        (self.changing, self.dir_stats, self.refusal) = (None, None, None);
        if let Step::Apply(effects) = &mut step {
            self.charges = match self.books.quotas.charge(read, effects, &mut self.survey) {
                Ok(charges) => charges,
                Err(Refusal::More(keys)) => return Step::Fetch(keys),
                Err(refusal) => {
                    self.refusal = Some(refusal);
                    return Step::Stop;
                }
            };
            self.charged = quotas::charged(effects);
            if !effects.list.is_empty() {
                effects.writer = beneficiary(effects).or(self.writer);
            }
            self.changing = Some(self.looks.begin_change(&effects.list));
            self.usage = effects.usage;
            let gone = effects.list.iter().filter_map(|effect| match effect {
                Effect::Account(AccountEffect::DeleteDirStat(ino)) => Some(*ino),
                _ => None,
            });
            self.dir_stats = Some(DirStatBook::announce(&self.books, effects.dir_stats.clone(), gone.collect()));
        }
        step
    }

    fn applied(&mut self, applied: &Applied) {
        self.op.applied(applied);
        if let Some(changing) = self.changing.take() {
            changing.settle();
        }
        self.books.usage.settle(self.usage, self.books.usage_in_transaction, self.claimant);
        if let Some(dir_stats) = self.dir_stats.take() {
            dir_stats.settle();
        }
        self.books.quotas.settle(&self.charged, std::mem::take(&mut self.charges));
    }
}

/// The session for which effects put something down that goes with it. It is the one that must be alive then, whichever is in
/// use by now.
fn beneficiary(effects: &Effects) -> Option<SessionId> {
    effects.list.iter().find_map(|effect| match effect {
        Effect::Session(sid, SessionEffect::Sustain(_)) => Some(*sid),
        Effect::Lock(_, owner, LockEffect::PutFlock(_)) | Effect::Lock(_, owner, LockEffect::PutPlocks(_)) => {
            Some(owner.sid)
        }
        _ => None,
    })
}

impl Client {
    /// Under which circumstances an operation for `caller` runs now.
    pub(super) fn scope(&self, caller: &Caller) -> Scope {
        Scope {
            caller: caller.clone(),
            now: self.config.clock.now(),
            skip_dir_mtime: self.config.skip_dir_mtime,
            sid: self.sid(),
            dir_stats: self.format.borrow().dir_stats,
        }
    }

    /// Number of the session, 0 without one.
    pub(super) fn sid(&self) -> SessionId {
        SessionId(self.sid.load(Ordering::Acquire))
    }

    /// The session that wants what this client changes; `None` for a client without one.
    pub(super) fn writer(&self) -> Option<SessionId> {
        Some(self.sid()).filter(|sid| sid.0 != 0)
    }

    /// Runs an operation to its end. It fails with `Fenced`, and nothing has happened, when the session of this client is gone.
    pub(super) async fn run<O: Operation>(&self, op: O) -> MetaResult<O::Reply> {
        self.run_for(self.writer(), op).await
    }

    /// The session in which what a caller asks for is done: the one in which it was begun, if it must not outlive that.
    pub(super) fn writer_for(&self, caller: &Caller) -> Option<SessionId> {
        Some(caller.session).filter(|sid| sid.0 != 0).or_else(|| self.writer())
    }

    /// [`Client::run`] on behalf of the session `writer`; `None` for what needs no session to be alive.
    pub(super) async fn run_for<O: Operation>(&self, writer: Option<SessionId>, op: O) -> MetaResult<O::Reply> {
        match self.attempt(writer, op, Survey::default()).await? {
            Attempt::Done(reply) => Ok(reply),
            Attempt::Unmeasured(_) => Err(MetaError::Unsupported("an operation that moves a directory unmeasured")),
        }
    }

    /// [`Client::run`] for what may move directories from one quota to another: `op` makes the operation anew after what is
    /// below them has been counted.
    pub(super) async fn run_moving<O: Operation>(&self, op: impl Fn() -> O) -> MetaResult<O::Reply> {
        let mut sizes = HashMap::new();
        let mut tries = Tries::new(self.engine.patience());
        while tries.again() {
            match self.attempt(self.writer(), op(), Survey::of(sizes.clone())).await? {
                Attempt::Done(reply) => return Ok(reply),
                Attempt::Unmeasured(dir) => drop(sizes.insert(dir, self.size_below(dir).await?)),
            }
        }
        Err(tries.conflict())
    }

    async fn attempt<O: Operation>(
        &self,
        writer: Option<SessionId>,
        op: O,
        survey: Survey,
    ) -> MetaResult<Attempt<O::Reply>> {
        let booked = Booked {
            claimant: op.claimant(),
            op: Unbooked::new(op),
            books: Arc::clone(&self.books),
            looks: Arc::clone(&self.looks),
            changing: None,
            writer,
            usage: Usage::default(),
            dir_stats: None,
            survey,
            charged: Charges::new(),
            charges: Charges::new(),
            refusal: None,
        };
        let booked = self.transactor.finish(booked).await?;
        match booked.refusal {
            Some(Refusal::Unmeasured(dir)) => Ok(Attempt::Unmeasured(dir)),
            Some(_) => Err(Errno::EDQUOT.into()),
            None => booked.op.reply().map(Attempt::Done).map_err(|error| told(O::NAME, error)),
        }
    }

    /// Runs an operation for `writer` that may make the file `ino` longer, within the capacity of the volume: `new_length` tells what
    /// its length becomes, `op` makes the operation with the room that it is allowed, of which `claimed` bytes are put aside
    /// already.
    pub(super) async fn run_growing<O, T>(
        &self,
        writer: Option<SessionId>,
        ino: Ino,
        claimed: u64,
        new_length: impl Fn(&Attr) -> u64,
        op: impl Fn(Option<u64>) -> O,
    ) -> MetaResult<T>
    where
        O: Operation<Reply = Growth<T>>,
    {
        if self.setting().capacity == 0 {
            return match self.run_for(writer, op(None)).await? {
                Growth::Done(reply) => Ok(reply),
                Growth::Short(_) => Err(Errno::ENOSPC.into()),
            };
        }
        let attr = self.node(ino).await?.ok_or(Errno::ENOENT)?;
        let mut wanted = u64::try_from(space_delta(attr.length, new_length(&attr))).unwrap_or(0);
        let mut tries = Tries::new(self.engine.patience());
        while tries.again() {
            let room = Usage::of_space(wanted.saturating_sub(claimed));
            let reserved = self.reserve_for(attr.uid, attr.gid, room)?;
            match self.run_for(writer, op(Some(wanted))).await? {
                Growth::Done(reply) => return Ok(reply),
                Growth::Short(more) => wanted = more,
            }
            drop(reserved);
        }
        Err(tries.conflict())
    }

    /// Puts room of the volume aside for what will belong to this user and group. ENOSPC; EDQUOT comes first.
    pub(super) fn reserve_for(&self, uid: u32, gid: u32, want: Usage) -> Result<Reservation<'_>, Errno> {
        self.books
            .usage
            .reserve(&self.setting(), want)
            .map_err(|errno| if self.books.quotas.owner_is_full(uid, gid, want) { Errno::EDQUOT } else { errno })
    }

    /// The stored node.
    pub(super) async fn node(&self, ino: Ino) -> MetaResult<Option<Attr>> {
        let reading = self.looks.begin_reading();
        let read = self.transactor.fetch(&[Key::Node(ino)]).await?;
        let attr = read.node(ino).cloned();
        if let Some(attr) = &attr {
            self.looks.remember(reading, ino, attr);
        }
        Ok(attr)
    }

    /// Judges what is stored without changing anything, reading more as the judgement asks for it.
    pub(super) async fn look<T>(&self, keys: Vec<Key>, judge: impl Fn(&ReadSet) -> Result<T, Halt>) -> MetaResult<T> {
        let mut read = self.transactor.fetch(&keys).await?;
        loop {
            match judge(&read) {
                Ok(found) => return Ok(found),
                Err(Halt::Fail(errno)) => return Err(told("a check", errno.into())),
                Err(Halt::More(keys)) => read.extend(self.transactor.fetch(&keys).await?),
            }
        }
    }
}
