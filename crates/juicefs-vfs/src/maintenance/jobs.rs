//! The clean-up jobs, of which one client of the volume does each round (format: metadata.md §6.15).

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use juicefs_core::{
    MetaError, MetaResult, SliceKey, Timestamp,
    meta::{Freed, Job},
};
use tokio::time::Instant;

use super::jittered;
use crate::{context::Context, upkeep::Garbage};

/// The time between two rounds of the hourly jobs.
const ROUND: Duration = Duration::from_secs(3600);
/// A job that another client did within this time is not due.
const CLAIM_SECS: u64 = 3240;
/// After this time a job stops and leaves the rest to the next round.
const JOB_LIMIT: Duration = Duration::from_secs(50 * 60);
/// How many records are asked for at once.
const BATCH: usize = 4096;
/// How many expired sessions are removed in one round.
const MAX_SESSIONS: usize = 1000;
/// A removed file is left to the client that removed it for this long.
const GRACE_SECS: i64 = 3600;
/// A copy of a tree that was not completed for this long never will be.
const DETACHED_SECS: i64 = 24 * 3600;

impl Context {
    /// Looks at the sessions of other clients with every heartbeat, in a task of its own, because to end one may take long.
    pub(super) async fn stale_sessions(self: Arc<Self>) {
        loop {
            tokio::time::sleep(jittered(self.config.heartbeat)).await;
            match self.meta.clean_stale_sessions(MAX_SESSIONS).await {
                Ok(freed) => freed.into_iter().for_each(|file| self.upkeep.free(file)),
                Err(MetaError::Fenced) => {}
                Err(error) => tracing::warn!(%error, "stale sessions are left to the next round"),
            }
        }
    }

    pub(super) async fn hourly_jobs(self: Arc<Self>) {
        // Mounts that live for less than an hour do their share too.
        tokio::time::sleep(jittered(Duration::from_secs(120))).await;
        loop {
            for job in [Job::DeletedFiles, Job::Slices, Job::Trash] {
                let done = match self.meta.claim(job, CLAIM_SECS).await {
                    Ok(true) => self.run_job(job).await,
                    Ok(false) => Ok(()),
                    Err(error) => Err(error),
                };
                match done {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(?job, %error, "job is left for the next round"),
                }
            }
            tokio::time::sleep(jittered(ROUND)).await;
        }
    }

    async fn run_job(&self, job: Job) -> MetaResult<()> {
        let until = Instant::now() + JOB_LIMIT;
        match job {
            Job::StaleSessions => Ok(()),
            Job::DeletedFiles => self.clean_deleted_files(until).await,
            Job::Slices => self.clean_dead_slices(until).await,
            Job::Trash => self.clean_trash(until).await,
        }
    }

    fn before(&self, secs: i64) -> Timestamp {
        Timestamp::from_secs(self.clock.now().secs - secs)
    }

    async fn clean_deleted_files(&self, until: Instant) -> MetaResult<()> {
        let mut last: Vec<Freed> = Vec::new();
        while self.upkeep.max_deletes > 0 && Instant::now() < until {
            let files = self.meta.deleted_files(self.before(GRACE_SECS), BATCH).await?;
            // The same answer again means that deletion fails: the next round goes on.
            if files.is_empty() || files == last {
                break;
            }
            stream::iter(&files)
                .for_each_concurrent(self.upkeep.max_deletes, |file| self.delete(Garbage::File(*file)))
                .await;
            last = files;
        }
        for file in self.meta.clean_detached(self.before(DETACHED_SECS), BATCH).await? {
            self.queue_garbage(Garbage::File(file)).await;
        }
        Ok(())
    }

    async fn clean_dead_slices(&self, until: Instant) -> MetaResult<()> {
        let mut last: Vec<SliceKey> = Vec::new();
        while self.upkeep.max_deletes > 0 && Instant::now() < until {
            let slices = self.meta.dead_slices(BATCH).await?;
            if slices.is_empty() || slices == last {
                break;
            }
            stream::iter(&slices).for_each_concurrent(self.upkeep.max_deletes, |slice| self.delete_dead(*slice)).await;
            last = slices;
        }
        Ok(())
    }

    /// Empties the trash and lets delayed slices go. If one fails the other still has its turn.
    async fn clean_trash(&self, until: Instant) -> MetaResult<()> {
        let days = self.meta.format().trash_days.max(0);
        let emptied = self.empty_trash(self.before((24 * days + 2) * 3600), until).await;
        let released = self.release_delayed(self.before(24 * days * 3600), until).await;
        emptied.and(released)
    }

    async fn empty_trash(&self, before: Timestamp, until: Instant) -> MetaResult<()> {
        while Instant::now() < until {
            let (freed, more) = self.meta.clean_trash(before, BATCH).await?;
            for file in freed {
                self.queue_garbage(Garbage::File(file)).await;
            }
            if !more {
                break;
            }
        }
        Ok(())
    }

    async fn release_delayed(&self, before: Timestamp, until: Instant) -> MetaResult<()> {
        while Instant::now() < until {
            let (slices, more) = self.meta.release_delayed_slices(before, BATCH).await?;
            for slice in slices {
                self.queue_garbage(Garbage::Dead(slice)).await;
            }
            if !more {
                break;
            }
        }
        Ok(())
    }
}
