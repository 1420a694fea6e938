//! Telling dead clients from living ones.
//!
//! What a session record says of its expiry is the time of another machine's clock, and a client that could not renew it may
//! have been kept from it by the same outage as everybody. So an expiry that has passed proves nothing. What proves that a
//! client is silent is that its record stays the same while the engine answers: long enough by a clock that nobody sets.

use std::{collections::HashMap, time::Duration};

use juicefs_core::ids::SessionId;

/// What one client saw of the sessions of others that have missed heartbeats.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<SessionId, Sighting>,
    /// When the last look ended.
    looked: Option<Duration>,
}

/// An expiry, and since when it is known to be unchanged.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    expire_secs: i64,
    since: Duration,
}

/// The time that one look at the sessions took, on the clock that nobody sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) begun: Duration,
    pub(super) ended: Duration,
}

impl Watch {
    /// Takes note of what a look showed, and forgets everything else. Nothing that was seen before counts when this look ended
    /// more than `gap` after the one before: the engine was away in between, or this client was.
    pub(super) fn note(&mut self, look: Look, gap: Duration, shown: impl IntoIterator<Item = (SessionId, i64)>) {
        let throughout = self.looked.is_some_and(|looked| look.ended.saturating_sub(looked) <= gap);
        let before = std::mem::take(&mut self.seen);
        let unchanged = |sid: SessionId, expire_secs: i64| {
            before.get(&sid).filter(|sighting| throughout && sighting.expire_secs == expire_secs).copied()
        };
        for (sid, expire_secs) in shown {
            let sighting = unchanged(sid, expire_secs).unwrap_or(Sighting { expire_secs, since: look.ended });
            self.seen.insert(sid, sighting);
        }
        self.looked = Some(look.ended);
    }

    /// The engine did not answer: what was seen before does not count.
    pub(super) fn interrupted(&mut self) {
        *self = Self::default();
    }

    /// For how long a session is known to be unchanged.
    pub(super) fn silence(&self, sid: SessionId, look: Look) -> Duration {
        self.seen.get(&sid).map_or(Duration::ZERO, |sighting| look.begun.saturating_sub(sighting.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(24);
    const SID: SessionId = SessionId(7);

    fn look(watch: &mut Watch, begun: u64, ended: u64, expire_secs: i64) -> u64 {
        let look = Look { begun: Duration::from_secs(begun), ended: Duration::from_secs(ended) };
        watch.note(look, GAP, [(SID, expire_secs)]);
        watch.silence(SID, look).as_secs()
    }

    #[test]
    fn silence_grows_while_the_record_stays_the_same() {
        let mut watch = Watch::default();
        assert_eq!(look(&mut watch, 0, 1, 100), 0);
        assert_eq!(look(&mut watch, 12, 12, 100), 11, "from the end of the first look to the begin of this one");
        assert_eq!(look(&mut watch, 24, 25, 100), 23);
        assert_eq!(look(&mut watch, 36, 36, 160), 0, "it was renewed");
        assert_eq!(look(&mut watch, 48, 48, 150), 0, "by a clock that was set back");
        assert_eq!(look(&mut watch, 60, 60, 150), 12);
    }

    #[test]
    fn an_engine_that_was_away_proves_nothing() {
        let mut watch = Watch::default();
        look(&mut watch, 0, 0, 100);
        assert_eq!(look(&mut watch, 12, 87, 100), 0, "the look was answered late");
        assert_eq!(look(&mut watch, 88, 88, 100), 1, "from here on it counts");
        assert_eq!(look(&mut watch, 200, 200, 100), 0, "this client was stopped");
        assert_eq!(look(&mut watch, 212, 212, 100), 12);
        watch.interrupted();
        assert_eq!(look(&mut watch, 213, 213, 100), 0);
    }

    #[test]
    fn a_session_that_was_out_of_sight_begins_anew() {
        let mut watch = Watch::default();
        look(&mut watch, 0, 0, 100);
        watch.note(Look { begun: Duration::from_secs(5), ended: Duration::from_secs(5) }, GAP, []);
        assert_eq!(look(&mut watch, 10, 10, 100), 0);
    }
}
