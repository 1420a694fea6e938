//! Session records (format: metadata.md §6.16).

use bytes::Bytes;
use juicefs_core::ids::SessionId;

use super::{Verdict, decision};
use crate::{
    record::{HolderKey, Key, Session},
    txn::{Decision, Effect, Effects, Operation, ReadSet, SessionEffect},
};

/// The expiry of a session that is being ended: its client finds it so and takes another one, instead of going on with part of
/// what it kept.
pub(crate) const CONDEMNED_SECS: i64 = 1;

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
        vec![Key::Holder(HolderKey::Session(self.sid))]
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
            effects.push(Effect::Session(self.sid, SessionEffect::Put(self.session.clone())));
        }
        Ok((free, effects))
    }
}

/// Moves the expiry of a session on, however long ago it has passed. Whether the session was still there: one that was ended, or
/// is being ended, does not come back under its number, because what was taken from its client is gone.
#[derive(Debug)]
pub(crate) struct Refresh {
    pub(crate) sid: SessionId,
    /// What the client registered: a session of this number that says something else belongs to somebody else, in a volume
    /// that has taken the place of this one.
    pub(crate) info: Bytes,
    pub(crate) expire_secs: i64,
}

impl Operation for Refresh {
    type Reply = bool;
    const NAME: &'static str = "refresh_session";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Holder(HolderKey::Session(self.sid))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<bool> {
        decision(self.judge(read))
    }
}

impl Refresh {
    fn judge(&self, read: &ReadSet) -> Verdict<bool> {
        let mut effects = Effects::none();
        let own = read.session(self.sid).is_some_and(|stored| stored.info == self.info && !is_condemned(stored));
        if own {
            let session = Session { expire_secs: self.expire_secs, info: self.info.clone() };
            effects.push(Effect::Session(self.sid, SessionEffect::Put(session)));
        }
        Ok((own, effects))
    }
}

/// Whether a session is being ended.
pub(crate) fn is_condemned(session: &Session) -> bool {
    session.expire_secs == CONDEMNED_SECS
}

/// Begins the end of a session that keeps files alive, which may take several steps. False when it was renewed meanwhile.
#[derive(Debug)]
pub(crate) struct Condemn {
    pub(crate) sid: SessionId,
    /// The expiry that it must still have.
    pub(crate) still: i64,
}

impl Operation for Condemn {
    type Reply = bool;
    const NAME: &'static str = "condemn_session";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Holder(HolderKey::Session(self.sid))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<bool> {
        decision(self.judge(read))
    }
}

impl Condemn {
    fn judge(&self, read: &ReadSet) -> Verdict<bool> {
        let mut effects = Effects::none();
        if was_renewed(read, self.sid, Some(self.still)) {
            return Ok((false, effects));
        }
        if let Some(Session { info, .. }) = read.session(self.sid) {
            let session = Session { expire_secs: CONDEMNED_SECS, info: info.clone() };
            effects.push(Effect::Session(self.sid, SessionEffect::Put(session)));
        }
        Ok((true, effects))
    }
}

/// How the end of a session went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// It is gone with its locks, or was gone before.
    Ended,
    /// Its client has renewed it: nothing was changed.
    Renewed,
    /// It keeps files alive, which are to be released before: nothing was changed.
    KeepsFiles,
}

/// Removes a session and its locks, once it keeps no file alive any more.
#[derive(Debug)]
pub(crate) struct EndSession {
    pub(crate) sid: SessionId,
    /// Only if it has still this expiry: its client may have come back. `None` for its own client, and when that is known to be
    /// dead.
    pub(crate) still: Option<i64>,
}

impl Operation for EndSession {
    type Reply = Ending;
    const NAME: &'static str = "end_session";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Holder(HolderKey::Session(self.sid)), Key::Holder(HolderKey::HasSustained(self.sid))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Ending> {
        decision(self.judge(read))
    }
}

impl EndSession {
    fn judge(&self, read: &ReadSet) -> Verdict<Ending> {
        let mut effects = Effects::none();
        if was_renewed(read, self.sid, self.still) {
            return Ok((Ending::Renewed, effects));
        }
        if read.has_sustained(self.sid) {
            return Ok((Ending::KeepsFiles, effects));
        }
        effects.push(Effect::Session(self.sid, SessionEffect::DeleteLocks));
        effects.push(Effect::Session(self.sid, SessionEffect::Delete));
        Ok((Ending::Ended, effects))
    }
}

/// Whether the session that had the expiry `still` has another one by now. One that is not there was not renewed.
pub(super) fn was_renewed(read: &ReadSet, sid: SessionId, still: Option<i64>) -> bool {
    let stored = read.session(sid).map(|session| session.expire_secs);
    still.is_some() && stored.is_some() && stored != still
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Value;

    const SID: SessionId = SessionId(3);

    fn stored(expire_secs: i64, files: bool) -> ReadSet {
        let mut read = ReadSet::default();
        let session = Session { expire_secs, info: Bytes::from_static(b"{}") };
        read.insert(Key::Holder(HolderKey::Session(SID)), Some(Value::Session(session)));
        read.insert(Key::Holder(HolderKey::HasSustained(SID)), Some(Value::HasSustained(files)));
        read
    }

    fn end(read: &ReadSet, still: Option<i64>) -> Ending {
        match (EndSession { sid: SID, still }).decide(read) {
            Decision::Done(ending, effects) => {
                assert_eq!(
                    effects.list.contains(&Effect::Session(SID, SessionEffect::Delete)),
                    ending == Ending::Ended
                );
                ending
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_session_that_was_not_renewed_and_keeps_nothing_ends() {
        assert_eq!(end(&stored(99, false), Some(99)), Ending::Ended);
        assert_eq!(end(&stored(100, false), Some(99)), Ending::Renewed);
        assert_eq!(end(&stored(98, false), Some(99)), Ending::Renewed, "a clock that was set back renews too");
        assert_eq!(end(&stored(99, true), Some(99)), Ending::KeepsFiles);
        assert_eq!(end(&stored(1000, false), None), Ending::Ended, "its own client may end it");
        assert_eq!(end(&stored(1000, true), None), Ending::KeepsFiles);
    }

    #[test]
    fn a_session_is_renewed_late_but_not_that_of_somebody_else() {
        let renewed = |info: &'static [u8], expire_secs| {
            let refresh = Refresh { sid: SID, info: Bytes::from_static(info), expire_secs: 1000 };
            match refresh.decide(&stored(expire_secs, true)) {
                Decision::Done(own, effects) => {
                    assert_eq!(own, !effects.list.is_empty());
                    own
                }
                other => panic!("{other:?}"),
            }
        };
        assert!(renewed(b"{}", 2));
        assert!(!renewed(b"{\"ProcessID\":1}", 2));
        assert!(!renewed(b"{}", CONDEMNED_SECS), "it is being ended");
    }
}
