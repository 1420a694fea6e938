//! Session records (format: metadata.md §6.16).

use juicefs_core::ids::SessionId;

use super::{Verdict, decision};
use crate::{
    record::{Key, Session},
    txn::{Decision, Effect, Effects, Operation, ReadSet},
};

/// Registers a session under a fresh number; false when the number is taken.
#[derive(Debug)]
pub(crate) struct NewSession {
    pub(crate) sid: SessionId,
    pub(crate) session: Session,
}

impl Operation for NewSession {
    type Reply = bool;
    const NAME: &'static str = "new_session";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Session(self.sid)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<bool> {
        decision(self.judge(read))
    }
}

impl NewSession {
    fn judge(&self, read: &ReadSet) -> Verdict<bool> {
        let mut effects = Effects::none();
        let free = read.session(self.sid).is_none();
        if free {
            effects.push(Effect::PutSession(self.sid, self.session.clone()));
        }
        Ok((free, effects))
    }
}

/// Moves the expiry of a session on. Whether it was still there: one that was cleaned up does not come back, because what
/// its client has not heard of meanwhile cannot be made up for.
#[derive(Debug)]
pub(crate) struct Refresh {
    pub(crate) sid: SessionId,
    pub(crate) expire_secs: i64,
}

impl Operation for Refresh {
    type Reply = bool;
    const NAME: &'static str = "refresh_session";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Session(self.sid)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<bool> {
        decision(self.judge(read))
    }
}

impl Refresh {
    fn judge(&self, read: &ReadSet) -> Verdict<bool> {
        let mut effects = Effects::none();
        let stored = read.session(self.sid);
        if let Some(Session { info, .. }) = stored {
            let session = Session { expire_secs: self.expire_secs, info: info.clone() };
            effects.push(Effect::PutSession(self.sid, session));
        }
        Ok((stored.is_some(), effects))
    }
}

/// Removes a session and its locks; its sustained inodes are released before.
#[derive(Debug)]
pub(crate) struct EndSession {
    pub(crate) sid: SessionId,
    /// Only if it has expired by then: its client may have come back. `None` for its own client, and when that is known to be
    /// dead.
    pub(crate) expired_before_secs: Option<i64>,
}

impl Operation for EndSession {
    type Reply = ();
    const NAME: &'static str = "end_session";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Session(self.sid)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        decision(self.judge(read))
    }
}

impl EndSession {
    fn judge(&self, read: &ReadSet) -> Verdict<()> {
        let mut effects = Effects::none();
        let expire_secs = read.session(self.sid).map_or(i64::MIN, |session| session.expire_secs);
        if self.expired_before_secs.is_none_or(|now| expire_secs < now) {
            effects.push(Effect::DeleteLocks(self.sid));
            effects.push(Effect::DeleteSession(self.sid));
        }
        Ok(((), effects))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::Value;

    #[test]
    fn a_session_that_came_back_is_not_cleaned_up() {
        let ended = |expire_secs, expired_before_secs| {
            let mut read = ReadSet::default();
            let session = Session { expire_secs, info: Bytes::new() };
            read.insert(Key::Session(SessionId(3)), Some(Value::Session(session)));
            match (EndSession { sid: SessionId(3), expired_before_secs }).decide(&read) {
                Decision::Done((), effects) => effects.list.contains(&Effect::DeleteSession(SessionId(3))),
                other => panic!("{other:?}"),
            }
        };
        assert!(ended(99, Some(100)));
        assert!(!ended(100, Some(100)));
        assert!(ended(1000, None), "its own client may end it");
    }
}
