//! The upkeep of the volume by this client: the heartbeat of the session, statistics, flushing by age, deletion,
//! compaction, and the hourly jobs of which one client of the volume does each.
//!
//! Every loop is a named task that ends when the mount shuts down. Each step can be started again, so that a later
//! round, here or in another client, finds what was cut off.

mod compaction;
mod deletion;
mod jobs;

use std::{sync::Arc, time::Duration};

use juicefs_core::MetaError;
use rand::Rng;

use crate::{context::Context, table::HandleTable};

/// The time between two passes over dirty files.
const FLUSH_TICK: Duration = Duration::from_millis(500);
/// The time between two rounds in which statistics are written.
const STATISTICS_PAUSE: Duration = Duration::from_secs(1);

impl Context {
    /// Starts all loops.
    pub(crate) fn start_upkeep(self: &Arc<Self>, handles: Arc<HandleTable>) {
        let config = &self.config;
        let tasks = &self.tasks;
        tasks.spawn_until_stopped("flusher", Arc::clone(self).flusher(handles));
        tasks.spawn_until_stopped("heartbeat", Arc::clone(self).heartbeat());
        tasks.spawn_until_stopped("refresh", Arc::clone(self).refresh());
        if config.read_only {
            return;
        }
        // Never cut off: what a round has taken to write it would be lost, while the last one at the end writes the rest.
        let cx = Arc::clone(self);
        tasks.spawn_rounds("statistics", STATISTICS_PAUSE, move || Arc::clone(&cx).statistics());
        if self.upkeep.max_deletes > 0
            && let Some(queue) = self.upkeep.garbage_queue.lock().take()
        {
            tasks.spawn_until_stopped("deletions", Arc::clone(self).deletions(queue));
        }
        if config.background_jobs {
            tasks.spawn_until_stopped("sessions", Arc::clone(self).stale_sessions());
            tasks.spawn_until_stopped("jobs", Arc::clone(self).hourly_jobs());
        }
    }

    /// Commits dirty data by age, and sees to it that whoever waits for memory gets it in the end.
    async fn flusher(self: Arc<Self>, handles: Arc<HandleTable>) {
        let mut starving = false;
        loop {
            tokio::time::sleep(FLUSH_TICK).await;
            self.dirty.age_out();
            self.compact_quiet();
            let waits = self.chunks.budget().waiting() > 0;
            if waits {
                for (_, handle) in handles.list() {
                    if let crate::table::Handle::File(handle) = handle {
                        handle.ahead.drop_window();
                    }
                }
            }
            if waits && starving {
                self.dirty.close_all();
            }
            starving = waits;
        }
    }

    /// Renews the session, and does nothing else, so that nothing delays it.
    async fn heartbeat(self: Arc<Self>) {
        loop {
            tokio::time::sleep(jittered(self.config.heartbeat)).await;
            match self.meta.heartbeat().await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "the session is not renewed"),
            }
        }
    }

    /// Takes up what other clients changed. Only when it finds twice that the volume is gone it believes that.
    async fn refresh(self: Arc<Self>) {
        let mut gone = false;
        loop {
            tokio::time::sleep(jittered(self.config.heartbeat)).await;
            match self.meta.refresh().await {
                Ok(()) => gone = false,
                Err(error @ MetaError::Setting(_)) if gone => {
                    tracing::error!("this volume can no longer be served: {error}");
                    self.upkeep.fatal.send_replace(Some(error.to_string()));
                }
                Err(error @ MetaError::Setting(_)) => {
                    tracing::warn!("the volume seems to be gone: {error}");
                    gone = true;
                }
                Err(error) => tracing::warn!(%error, "what others changed is not taken up"),
            }
        }
    }

    /// Does what is due every second.
    async fn statistics(self: Arc<Self>) {
        for file in self.meta.release_replaced().await {
            self.upkeep.free(file);
        }
        if let Err(error) = self.meta.flush_stats().await {
            tracing::warn!(%error, "statistics are kept for the next round");
        }
    }
}

/// `interval` give or take 5 %, so that clients do not move in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.95..1.05))
}
