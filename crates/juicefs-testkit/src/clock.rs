//! A clock that tests move by hand.

use std::{sync::Arc, time::Duration};

use juicefs_core::{Clock, Timestamp};
use parking_lot::Mutex;

/// A clock that moves only when it is told to. It moves by one nanosecond at every look too, so that no two moments are
/// equal.
#[derive(Debug)]
pub struct TestClock {
    now: Mutex<Timestamp>,
}

impl TestClock {
    /// A clock that shows `secs` seconds after the epoch.
    #[must_use]
    pub fn at(secs: i64) -> Arc<Self> {
        Arc::new(Self { now: Mutex::new(Timestamp::from_secs(secs)) })
    }

    /// Moves the clock on.
    pub fn advance_secs(&self, secs: i64) {
        self.now.lock().secs += secs;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let mut now = self.now.lock();
        *now = Timestamp::from_nanos(now.as_nanos() + 1);
        *now
    }

    fn awake(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.now.lock().as_nanos()).unwrap_or(0))
    }
}
