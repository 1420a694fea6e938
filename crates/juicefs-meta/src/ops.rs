//! What file-system operations mean: who may, what changes, which errno, in which order. Written once, for every engine.
//!
//! Each operation is a value that implements [`crate::txn::Operation`]; its `decide` is pure. Errno precedence is the
//! order of the statements in it, and follows Linux where engines of other clients disagree with one another.

pub mod setting;

use crate::{
    record::Key,
    txn::{Decision, Effects, ReadSet},
};
use juicefs_core::errno::Errno;

/// Why judging stopped before the end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The operation fails.
    Fail(Errno),
    /// It must see these first.
    More(Vec<Key>),
}

impl From<Errno> for Halt {
    fn from(errno: Errno) -> Self {
        Self::Fail(errno)
    }
}

/// What judging returns: reply and effects, or why not.
pub(crate) type Verdict<R> = Result<(R, Effects), Halt>;

/// A verdict as engines want it.
pub(crate) fn decision<R>(verdict: Verdict<R>) -> Decision<R> {
    match verdict {
        Ok((reply, effects)) => Decision::Done(reply, effects),
        Err(Halt::Fail(errno)) => Decision::Fail(errno),
        Err(Halt::More(keys)) => Decision::NeedMore(keys),
    }
}

/// Stops unless all of `keys` were read.
pub(crate) fn need(read: &ReadSet, keys: impl IntoIterator<Item = Key>) -> Result<(), Halt> {
    let missing: Vec<_> = keys.into_iter().filter(|key| !read.contains(key)).collect();
    if missing.is_empty() { Ok(()) } else { Err(Halt::More(missing)) }
}
