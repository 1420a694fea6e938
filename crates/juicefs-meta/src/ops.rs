//! What file-system operations mean: who may, what changes, which errno, in which order. Written once, for every engine.
//!
//! Each operation is a value that implements [`crate::txn::Operation`]; its `decide` is pure. Errno precedence is the
//! order of the statements in it, and follows Linux where other clients disagree with one another.

pub(crate) mod access;
pub(crate) mod account;
pub(crate) mod acl;
pub(crate) mod ascent;
pub(crate) mod atime;
pub(crate) mod clone;
pub(crate) mod compact;
pub(crate) mod copy_range;
pub(crate) mod counter;
pub(crate) mod fallocate;
pub(crate) mod file_data;
pub(crate) mod flock;
pub(crate) mod link;
pub(crate) mod locks;
pub(crate) mod mknod;
pub(crate) mod open;
pub(crate) mod plock;
pub(crate) mod quota;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod rmdir;
pub(crate) mod session;
pub(crate) mod set_acl;
pub(crate) mod setattr;
pub(crate) mod setting;
pub(crate) mod slices;
pub(crate) mod sustained;
pub(crate) mod trash;
pub(crate) mod truncate;
pub(crate) mod unlink;
pub(crate) mod unnamed;
pub(crate) mod write;
pub(crate) mod xattr;

#[cfg(test)]
mod tests;

use std::time::Duration;

use juicefs_core::{Caller, Timestamp, errno::Errno, ids::SessionId};

use crate::{
    record::Key,
    txn::{Decision, Effects, ReadSet},
};

/// Under which circumstances an operation is done.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// On whose behalf.
    pub(crate) caller: Caller,
    /// The present time.
    pub(crate) now: Timestamp,
    /// A parent touched less long ago is not touched again when nothing else about it changes.
    pub(crate) skip_dir_mtime: Duration,
    /// The session of this client; 0 for one without.
    pub(crate) sid: SessionId,
    /// Statistics of directories are kept.
    pub(crate) dir_stats: bool,
}

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
