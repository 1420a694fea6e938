//! The background tasks of a mount. Each has a name, stops when it is told to, and is joined at the end.

use std::{sync::OnceLock, time::Duration};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The tasks of one mount.
#[derive(Default)]
pub(crate) struct Tasks {
    runtime: OnceLock<Handle>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Says where tasks run from now on; until then they run on the runtime of whoever starts them.
    pub(crate) fn run_on(&self, runtime: &Handle) {
        // A second start changes nothing: tasks that run already stay where they are.
        let _ = self.runtime.set(runtime.clone());
    }

    /// Whether [`Tasks::run_on`] was called: somebody will join the tasks.
    pub(crate) fn running(&self) -> bool {
        self.runtime.get().is_some() && !self.stop.is_cancelled()
    }

    /// Starts a task that ends by itself soon.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let work = work.instrument(tracing::debug_span!("task", name));
        match self.runtime.get() {
            Some(runtime) => drop(self.tracker.spawn_on(work, runtime)),
            None => drop(self.tracker.spawn(work)),
        }
    }

    /// Starts a task that is dropped at its next await once [`Tasks::stop`] was called.
    pub(crate) fn spawn_until_stopped(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            let _ = stop.run_until_cancelled_owned(work).await;
        });
    }

    /// Starts a task that does `round` after each pause, until [`Tasks::stop`] is called. A round that has begun is
    /// finished.
    pub(crate) fn spawn_rounds<F>(
        &self,
        name: &'static str,
        pause: Duration,
        mut round: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                round().await;
            }
        });
    }

    /// Stops the tasks that run until stopped.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until [`Tasks::stop`] is called.
    pub(crate) async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Waits for every task to end. Call [`Tasks::stop`] before.
    pub(crate) async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_that_has_begun_is_finished() {
        let tasks = Tasks::default();
        let (begun, done) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let (begin, finish) = (Arc::clone(&begun), Arc::clone(&done));
        tasks.spawn_rounds("rounds", Duration::from_secs(1), move || {
            let (begin, finish) = (Arc::clone(&begin), Arc::clone(&finish));
            async move {
                begin.notify_one();
                tokio::time::sleep(Duration::from_secs(30)).await;
                finish.fetch_add(1, Ordering::Relaxed);
            }
        });
        begun.notified().await;
        tasks.stop();
        tasks.join().await;
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }
}
