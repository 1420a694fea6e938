//! One of the two ways to the server, whichever connection it is at the time.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::{connection::Connection, stream::Target, trouble::Trouble};
use crate::engine::redis::address::Host;

/// The connection in use, and how the last ones failed.
#[derive(Default)]
pub(super) struct LaneState {
    current: Mutex<Option<Arc<Connection>>>,
    /// Held by who sets up the next one.
    pub(super) setup: tokio::sync::Mutex<Setup>,
    /// Where the slot has moved to.
    hint: Mutex<Option<Host>>,
    last_failure: Mutex<Option<String>>,
}

/// Failures in a row.
#[derive(Default)]
pub(super) struct Setup {
    failures: u32,
    not_before: Option<Instant>,
    warned: Option<(Instant, String)>,
}

impl LaneState {
    /// The connection, unless it is broken.
    pub(super) fn usable(&self) -> Option<Arc<Connection>> {
        self.current.lock().as_ref().filter(|connection| !connection.is_broken()).map(Arc::clone)
    }

    pub(super) fn install(&self, connection: &Arc<Connection>) {
        *self.current.lock() = Some(Arc::clone(connection));
    }

    /// Sends nothing more over a connection. Whether that was not so before.
    pub(super) fn retire(&self, connection: &Arc<Connection>, trouble: &Trouble) -> bool {
        let mut current = self.current.lock();
        if !current.as_ref().is_some_and(|open| Arc::ptr_eq(open, connection)) {
            return false;
        }
        *current = None;
        drop(current);
        *self.last_failure.lock() = Some(trouble.reason());
        if let Trouble::Moved(host) = trouble {
            *self.hint.lock() = Some(host.clone());
        }
        true
    }

    /// Sends nothing more.
    pub(super) fn close(&self) {
        self.current.lock().take();
    }

    /// The node to try first, once.
    pub(super) fn take_hint(&self) -> Option<Host> {
        self.hint.lock().take()
    }

    pub(super) fn note_failure(&self, why: String) {
        *self.last_failure.lock() = Some(why);
    }

    pub(super) fn last_failure(&self) -> String {
        self.last_failure.lock().clone().unwrap_or_else(|| "the server does not answer".to_owned())
    }
}

impl Setup {
    /// Until the next try is due.
    pub(super) async fn wait(&self) {
        if let Some(due) = self.not_before {
            sleep_until(due).await;
        }
    }

    pub(super) fn succeeded(&mut self, target: &Target) {
        if self.warned.is_some() {
            tracing::info!("connected to Redis {target} again");
        }
        *self = Self::default();
    }

    pub(super) fn failed(&mut self, why: &str, backoff: impl Fn(u32) -> Duration) {
        let now = Instant::now();
        self.not_before = Some(now + backoff(self.failures));
        self.failures = self.failures.saturating_add(1);
        // The same again is news only after a while.
        let known = self.warned.as_ref().is_some_and(|(when, what)| what == why && now - *when < REMIND_AFTER);
        if !known {
            tracing::warn!("Redis: {why}");
            self.warned = Some((now, why.to_owned()));
        }
    }
}

/// Between two equal warnings.
const REMIND_AFTER: Duration = Duration::from_secs(10);
