//! Gaps in which other clients get the write lock. SQLite has no queue for it: who waits tries now and then, and finds it
//! free only when it is free for a while.

use std::time::{Duration, Instant};

/// How long the connection works before a gap, and how long the gap is, while another client is seen to write.
const CONTENDED: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(5));
/// The same for long runs of the writer thread while no other client is seen.
const ALONE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1));
/// Another client that held the lock is expected back for so long.
const EXPECTED: Duration = Duration::from_secs(2);

/// When the connection worked and when it rested.
#[derive(Debug)]
pub(super) struct Courtesy {
    busy_since: Instant,
    released: Instant,
    contended_until: Option<Instant>,
}

impl Courtesy {
    pub(super) fn new(now: Instant) -> Self {
        Self { busy_since: now, released: now, contended_until: None }
    }

    /// Another client has the lock.
    pub(super) fn contended(&mut self, now: Instant) {
        self.contended_until = Some(now + EXPECTED);
        self.busy_since = now;
    }

    /// The connection was given back.
    pub(super) fn released(&mut self, now: Instant) {
        self.released = now;
    }

    /// The gap that is due before the connection is used again. Callers leave it to the thread, and none at all while
    /// they are alone.
    pub(super) fn gap(&mut self, now: Instant, thread: bool) -> Option<Duration> {
        let contended = self.contended_until.is_some_and(|until| now < until);
        let (after, gap) = if contended { CONTENDED } else { ALONE };
        if now.saturating_duration_since(self.released) >= gap {
            self.busy_since = now;
        }
        let due = now.saturating_duration_since(self.busy_since) > after && (contended || thread);
        due.then_some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_come_when_another_client_writes() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut courtesy = Courtesy::new(start);
        // Alone: only long runs of the thread are interrupted.
        courtesy.released(at(60));
        assert_eq!(courtesy.gap(at(60), false), None);
        assert_eq!(courtesy.gap(at(60), true), Some(ALONE.1));
        // A pause is a gap by itself.
        assert_eq!(courtesy.gap(at(62), true), None);
        courtesy.contended(at(70));
        courtesy.released(at(80));
        assert_eq!(courtesy.gap(at(81), false), None);
        courtesy.released(at(92));
        assert_eq!(courtesy.gap(at(92), false), Some(CONTENDED.1));
        assert_eq!(courtesy.gap(at(98), false), None);
        courtesy.released(at(3000));
        assert_eq!(courtesy.gap(at(3000), false), None);
    }
}
