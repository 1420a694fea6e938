//! The shape of an operation, and an operation on its way through an engine.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use juicefs_core::{
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::Ino,
};

use super::{
    effects::{Applied, Effects},
    read_set::ReadSet,
};
use crate::record::Key;

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

/// An operation under way, without its types: it remembers what it decided last.
pub trait PendingOp: Send {
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
}

/// What an operation under way wants next.
#[derive(Debug)]
pub enum Step {
    /// To read these as well.
    Fetch(Vec<Key>),
    /// To have these applied, all or nothing. Empty effects may be skipped, with the reservation of [`Step::Stop`].
    Apply(Effects),
    /// Nothing: it failed with an errno. Whoever read in several steps without a transaction around them has to check first
    /// that everything read still holds: the parts may never have been true together.
    Stop,
}

/// An operation under way of which nothing is booked, with its outcome.
#[derive(Debug)]
pub struct Unbooked<O: Operation> {
    op: O,
    outcome: Option<Result<O::Reply, Errno>>,
}

impl<O: Operation> Unbooked<O> {
    /// An operation that was not judged yet.
    pub fn new(op: O) -> Self {
        Self { op, outcome: None }
    }

    /// The reply of an operation that was run.
    ///
    /// # Errors
    /// The operation's errno; `Unsupported` when it was not run, which is a bug of an engine.
    pub fn reply(self) -> MetaResult<O::Reply> {
        Ok(self.outcome.ok_or(MetaError::Unsupported("an engine that does not run what it is given"))??)
    }
}

impl<O: Operation> PendingOp for Unbooked<O> {
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
                Step::Apply(effects)
            }
        }
    }

    fn applied(&mut self, applied: &Applied) {
        if let Some(Ok(reply)) = self.outcome.take() {
            self.outcome = Some(Ok(self.op.finish(reply, applied)));
        }
    }
}

/// Runs code of an operation; a panic there fails that operation alone.
///
/// # Errors
/// `Unavailable` after a panic, which is logged.
pub fn shielded<T>(name: &'static str, work: impl FnOnce() -> T) -> MetaResult<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let why = message(panic.as_ref());
        tracing::error!(operation = name, why, "a metadata operation panicked");
        MetaError::Unavailable(format!("operation {name} panicked: {why}"))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Those of `more` that were not read yet.
///
/// # Errors
/// `Corrupt` when there are none: the operation would ask for ever.
pub fn unread(name: &'static str, mut more: Vec<Key>, read: &ReadSet) -> MetaResult<Vec<Key>> {
    more.retain(|key| !read.contains(key));
    if more.is_empty() {
        let why = "it asks again for what it has read".to_owned();
        return Err(MetaError::Corrupt { what: format!("operation {name}"), why });
    }
    Ok(more)
}

/// Lets an operation judge inside a transaction: reads what it asks for until it knows what it wants. `None` when it is done
/// without a change.
///
/// # Errors
/// Those of `fetch`; `Unavailable` when the operation panics, `Corrupt` when it asks for ever.
pub fn judge<E: From<MetaError>>(
    op: &mut dyn PendingOp,
    mut fetch: impl FnMut(&[Key], &mut ReadSet) -> Result<(), E>,
) -> Result<Option<Effects>, E> {
    let name = op.name();
    let mut read = ReadSet::default();
    let mut keys = shielded(name, || op.keys())?;
    loop {
        fetch(&keys, &mut read)?;
        match shielded(name, || op.step(&read))? {
            Step::Fetch(more) => keys = unread(name, more, &read)?,
            Step::Apply(effects) => return Ok(Some(effects)),
            Step::Stop => return Ok(None),
        }
    }
}
