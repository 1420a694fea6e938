//! Operations in a transaction: each succeeds or fails alone.
//!
//! An operation reads and decides before anything of it is written, so one that fails leaves the transaction as it was. When
//! writing fails, the whole transaction is undone and its operations run again, each in a transaction of its own: then only
//! the faulty one fails. Nothing is answered before the commit.

use juicefs_core::{
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::SessionId,
};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::Pending;
use crate::{
    engine::sql::sqlite::{
        apply, fetch,
        link::{Fault, Link},
    },
    txn::{Applied, Effect, Effects, SessionEffect, judge, shielded},
};

/// The operations of one transaction.
pub(super) type Slots = SmallVec<[Slot; 1]>;

/// An operation with what became of it.
pub(super) struct Slot {
    pending: Pending,
    /// `None` until it ran; then what applying showed, if anything was to be applied.
    outcome: Option<MetaResult<Option<Applied>>>,
}

impl Slot {
    pub(super) fn new(pending: Pending) -> Self {
        Self { pending, outcome: None }
    }

    pub(super) fn is_done(&self) -> bool {
        self.outcome.is_some()
    }

    pub(super) fn is_out_of_space(&self) -> bool {
        matches!(self.outcome, Some(Err(MetaError::Posix(Errno::ENOSPC))))
    }

    pub(super) fn into_pending(self) -> Pending {
        self.pending
    }

    /// For an operation that did not run and has no reply: makes one and returns its other end.
    pub(super) fn waiter(&mut self) -> Option<oneshot::Receiver<MetaResult<()>>> {
        if self.is_done() || self.pending.reply.is_some() {
            return None;
        }
        let (reply, outcome) = oneshot::channel();
        self.pending.reply = Some(reply);
        Some(outcome)
    }

    /// Answers an operation that ran and was committed, and lets go of it; the answer comes back when it has no reply.
    pub(super) fn finish(self) -> Option<MetaResult<()>> {
        let Pending { op, reply, .. } = self.pending;
        let outcome = self.outcome.unwrap_or(Ok(None)).and_then(|applied| match applied {
            Some(applied) => {
                let mut op = op.lock();
                shielded(op.name(), || op.applied(&applied))
            }
            None => Ok(()),
        });
        drop(op);
        match reply {
            Some(reply) => {
                // A caller that is gone has no use for the answer.
                let _ = reply.send(outcome);
                None
            }
            None => Some(outcome),
        }
    }

    /// Whether the caller of a queued operation is gone.
    fn is_abandoned(&self) -> bool {
        self.pending.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// Gives all operations the fault as their outcome; a busy database leaves them to run later.
pub(super) fn fail(slots: &mut Slots, fault: Fault) {
    if matches!(fault, Fault::Busy) {
        slots.iter_mut().for_each(|slot| slot.outcome = None);
        return;
    }
    let error = fault.into_error();
    slots.iter_mut().for_each(|slot| slot.outcome = Some(Err(error.clone())));
}

/// Runs the operations and those that `join` adds in one transaction. Operations are left without outcome when the database is
/// busy. Returns whether the connection may be used further.
pub(super) fn run(link: &Link, slots: &mut Slots, join: impl FnMut(&mut Slots)) -> bool {
    match together(link, slots, join) {
        Ok(()) => true,
        Err(fault) if slots.len() == 1 => {
            let healthy = is_healthy(&fault);
            fail(slots, fault);
            healthy
        }
        Err(Fault::Busy) => {
            fail(slots, Fault::Busy);
            true
        }
        Err(fault) => {
            tracing::debug!(
                ?fault,
                operations = slots.len(),
                "a shared transaction failed; its operations run one by one"
            );
            let mut healthy = true;
            for slot in slots.iter_mut() {
                match alone(link, slot) {
                    Ok(()) => {}
                    Err(Fault::Busy) => slot.outcome = None,
                    Err(fault) => {
                        healthy &= is_healthy(&fault);
                        slot.outcome = Some(Err(fault.into_error()));
                    }
                }
            }
            healthy
        }
    }
}

fn is_healthy(fault: &Fault) -> bool {
    !matches!(fault, Fault::Store(MetaError::Unavailable(_) | MetaError::Corrupt { .. }))
}

fn together(link: &Link, slots: &mut Slots, mut join: impl FnMut(&mut Slots)) -> Result<(), Fault> {
    link.frame("BEGIN IMMEDIATE")?;
    let outcome = (|| {
        let (mut at, mut alive) = (0, Alive::default());
        while at < slots.len() {
            one(link, &mut slots[at], &mut alive)?;
            at += 1;
            if at == slots.len() {
                join(slots);
            }
        }
        link.frame("COMMIT")
    })();
    if outcome.is_err() {
        link.rollback();
    }
    outcome
}

fn alone(link: &Link, slot: &mut Slot) -> Result<(), Fault> {
    link.frame("BEGIN IMMEDIATE")?;
    let outcome = one(link, slot, &mut Alive::default()).and_then(|()| link.frame("COMMIT"));
    if outcome.is_err() {
        link.rollback();
    }
    outcome
}

/// What is known in a transaction about the sessions that its operations write for. They mostly write for the same one, so
/// that one look is enough.
#[derive(Default)]
struct Alive {
    known: Option<SessionId>,
}

impl Alive {
    /// Whether the session that wants these effects is there.
    fn allows(&mut self, link: &Link, effects: &Effects) -> Result<bool, Fault> {
        if effects.list.is_empty() {
            return Ok(true);
        }
        if let Some(sid) = effects.writer.filter(|sid| self.known != Some(*sid)) {
            self.known = fetch::has_session(link, sid)?.then_some(sid);
            if self.known.is_none() {
                return Ok(false);
            }
        }
        if effects.list.iter().any(|effect| matches!(effect, Effect::Session(_, SessionEffect::Delete))) {
            self.known = None;
        }
        Ok(true)
    }
}

/// Runs an operation in the open transaction. `Err` means that the transaction must be undone.
fn one(link: &Link, slot: &mut Slot, alive: &mut Alive) -> Result<(), Fault> {
    if slot.is_abandoned() {
        slot.outcome = Some(Err(MetaError::Unavailable("the caller is gone".to_owned())));
        return Ok(());
    }
    let outcome = match judge(&mut *slot.pending.op.lock(), |keys, read| fetch::into(link, keys, read)) {
        Ok(Some(effects)) if !alive.allows(link, &effects)? => Err(MetaError::Fenced),
        Ok(Some(effects)) => Ok(Some(apply::effects(link, &effects.list)?)),
        Ok(None) => Ok(None),
        // Nothing of this operation was written.
        Err(Fault::Record(error)) => Err(error),
        Err(fault) => return Err(fault),
    };
    slot.outcome = Some(outcome);
    Ok(())
}
