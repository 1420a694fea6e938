//! What locks of both kinds have in common.

use std::collections::BTreeSet;

use juicefs_core::{
    attr::Attr,
    ids::SessionId,
    lock::{LockOwner, RangeLock},
};

use super::{Halt, need};
use crate::{
    record::{HolderKey, Key},
    txn::{Operation, ReadSet},
};

/// How a request for a lock ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Requested {
    /// The owner holds it; the file as it was at that moment.
    Granted(Box<Attr>),
    /// Others hold what excludes it.
    Busy,
}

/// A lock that excludes one that is asked for.
pub(crate) type Obstacle = (LockOwner, RangeLock);

/// Whether all of these hold their locks in vain, because their sessions are gone. Locks of a session go with it, but for
/// some that a client did not list (JuiceFS (Go) up to 1.4.1 forgets shared flocks).
pub(crate) fn all_gone(
    read: &ReadSet,
    owners: impl Iterator<Item = LockOwner> + Clone,
    own: SessionId,
) -> Result<bool, Halt> {
    // Clients without a session have 0: nothing tells whether they are there.
    if owners.clone().any(|owner| owner.sid == own || owner.sid.0 == 0) {
        return Ok(false);
    }
    let sessions: BTreeSet<_> = owners.map(|owner| owner.sid).collect();
    need(read, sessions.iter().map(|sid| Key::Holder(HolderKey::Session(*sid))))?;
    Ok(sessions.into_iter().all(|sid| read.session(sid).is_none()))
}

/// A request for a lock of either kind.
pub(crate) trait LockRequest: Operation<Reply = Requested> + Clone + Sync {
    /// The record that says who holds what.
    fn holders(&self) -> Key;
    /// Whether somebody holds what excludes it, as far as that record alone tells.
    fn is_excluded(&self, read: &ReadSet) -> bool;
}
