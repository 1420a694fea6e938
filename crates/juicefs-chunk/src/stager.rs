//! With `--writeback` the stager keeps blocks on the local disk, and takes them to the store later (format: data.md §3.3,
//! §4.4).
//!
//! A block counts as written once it is staged in the local tier. The oldest go up first, each verified as it is read back;
//! what fails is tried again for as long as it takes. A block whose slice is deleted meanwhile is dropped, and deleted from
//! the store if it got there. What is left at the end, or by a crash, is found and uploaded by the next mount of the same
//! directories.

mod queue;

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::StreamExt;
use juicefs_core::{Budget, Segments, Share, StorageError, Timestamp, store::StagingStats};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::queue::StagedQueue;
use crate::{
    block::BlockId,
    cache::{LocalTier, StagedBlock},
    config::{self, ChunkConfig},
    counters::Counters,
    request::Requests,
    tasks::Tasks,
    uploader::{FailedUpload, UploadJob, Uploader},
};

/// Stages new blocks in the local tier, and uploads staged ones.
#[derive(Debug)]
pub(crate) struct Stager {
    config: Arc<ChunkConfig>,
    queue: StagedQueue,
    /// Where blocks are staged; `None` when that is nowhere.
    tier: Option<Arc<dyn LocalTier>>,
    uploader: Arc<Uploader>,
    requests: Arc<Requests>,
    budget: Budget,
    counters: Arc<Counters>,
    tasks: Tasks,
    /// Slots of blocks that are being written to the disk.
    writes: Semaphore,
    /// Slots of blocks on their way from the disk to the store.
    replays: Arc<Semaphore>,
}

impl Stager {
    pub(crate) fn new(
        config: Arc<ChunkConfig>,
        tier: Option<&Arc<dyn LocalTier>>,
        uploader: Arc<Uploader>,
        requests: Arc<Requests>,
        budget: Budget,
        counters: Arc<Counters>,
        tasks: Tasks,
    ) -> Self {
        let queue = StagedQueue::new(&config, tier.is_some());
        let most_writes = config.writeback.as_ref().map_or(0, |rules| rules.max_stage_writes);
        Self {
            tier: tier.filter(|_| queue.is_on()).cloned(),
            queue,
            writes: Semaphore::new(most_writes),
            replays: Arc::new(Semaphore::new(config.max_uploads)),
            config,
            uploader,
            requests,
            budget,
            counters,
            tasks,
        }
    }

    /// Whether blocks are staged at all.
    pub(crate) fn is_on(&self) -> bool {
        self.tier.is_some()
    }

    /// Returns the counters of staged blocks.
    pub(crate) fn stats(&self) -> StagingStats {
        let stats = self.queue.stats(self.config.clock.now());
        StagingStats { writing: self.counters.staging_writes.load(Relaxed), ..stats }
    }

    /// Forgets a block whose slice is gone, so that it is not uploaded. What of it is on its way is deleted once it arrives.
    pub(crate) fn forget(&self, id: BlockId) {
        self.queue.forget(id);
    }

    /// Stages a block, or uploads it where that is not wanted or not possible. It is durable when this returns `Ok`. Retrying
    /// ends when `stop` is cancelled.
    ///
    /// # Errors
    /// The job comes back whole, for [`Stager::store_again`].
    pub(crate) async fn store(
        self: Arc<Self>,
        job: UploadJob,
        stop: CancellationToken,
    ) -> Result<(), Box<FailedUpload>> {
        // A staged block is among the cached ones anyway.
        if job.direct || !self.queue.wants(job.block) {
            self.uploader.keep_written(&job);
        }
        self.store_again(job, stop).await
    }

    /// Does what [`Stager::store`] does for a block that came back from it.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn store_again(
        self: Arc<Self>,
        job: UploadJob,
        stop: CancellationToken,
    ) -> Result<(), Box<FailedUpload>> {
        if self.stage(&job).await { Ok(()) } else { self.uploader.upload(job, &stop).await }
    }

    /// Writes a block to the local disk in place of the store. Returns `false` when that is not wanted or not possible.
    async fn stage(&self, job: &UploadJob) -> bool {
        let Some(tier) = &self.tier else { return false };
        // What was packed for the store is not what belongs on the disk.
        if job.direct || job.packed || !self.queue.wants(job.block) {
            return false;
        }
        let Ok(_slot) = self.writes.try_acquire() else { return false };
        let patience = self.config.put_timeout.min(self.config.cache.health.max_operation);
        match Arc::clone(tier).stage(job.block, job.body.clone(), job.tier, patience).await {
            Ok(()) => {
                self.queue.add_written(job.block, self.config.clock.now());
                true
            }
            // The disk takes none now, and its state was told.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                tracing::warn!("block {} goes to the store at once: it cannot be staged: {e}", self.key(job.block));
                false
            }
        }
    }

    /// Uploads staged blocks until the data path closes. First finds what earlier clients left.
    pub(crate) async fn replay(self: Arc<Self>) {
        let closing = self.tasks.closing();
        let Some(tier) = &self.tier else { return };
        // A disk that hangs must not keep the mount from ending.
        if closing.run_until_cancelled(self.find_staged(tier)).await.is_none() {
            return;
        }
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&self.replays).acquire_owned() => slot,
                () = closing.cancelled() => return,
            };
            let wait = match self.next_staged(tier) {
                Ok(id) => {
                    let (stager, tier) = (Arc::clone(&self), Arc::clone(tier));
                    self.tasks.spawn(async move {
                        stager.replay_one(&*tier, id).await;
                        drop(slot);
                    });
                    continue;
                }
                Err(wait) => wait,
            };
            drop(slot);
            tokio::select! {
                () = self.queue.more.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = closing.cancelled() => return,
            }
        }
    }

    async fn find_staged(&self, tier: &Arc<dyn LocalTier>) {
        let (mut staged, mut count) = (tier.staged(), 0);
        while let Some(StagedBlock { id, since_secs }) = staged.next().await {
            self.queue.add(id, Timestamp::from_secs(since_secs));
            count += 1;
        }
        if count > 0 {
            tracing::info!("{count} staged blocks were found and will be uploaded");
        }
    }

    fn next_staged(&self, tier: &Arc<dyn LocalTier>) -> Result<BlockId, Duration> {
        let now = self.config.clock.now();
        self.queue.take_due(now, config::local_hour(now), tier.is_short_of_space())
    }

    /// Takes one staged block to the store.
    async fn replay_one(&self, tier: &dyn LocalTier, id: BlockId) {
        match self.try_replay(tier, id).await {
            Ok(()) => {}
            Err(why) => {
                tracing::warn!("staged block {} is tried again: {why}", self.key(id));
                self.queue.put_back(id, self.config.clock.now());
            }
        }
        self.queue.more.notify_one();
    }

    async fn try_replay(&self, tier: &dyn LocalTier, id: BlockId) -> Result<(), String> {
        if !self.queue.is_known(id) {
            return Ok(());
        }
        let lease = self.budget.acquire(Share::Background, id.size as usize).await;
        let bytes = match tier.read_staged(id).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Another client of the directory was faster, or the slice is gone.
                self.queue.forget(id);
                self.unstage(tier, id).await;
                return Ok(());
            }
            Err(e) => return Err(e.to_string()),
        };
        let body = Segments::from_iter([bytes]);
        let job = UploadJob { block: id, body, packed: false, lease, direct: true, tier: 0 };
        self.queue.upload_begins(id, self.config.clock.now());
        self.uploader.upload(job, self.tasks.closing()).await.map_err(|failed| failed.error.to_string())?;
        if self.queue.forget(id) {
            self.unstage(tier, id).await;
            return Ok(());
        }
        // Its slice was deleted while it was on its way.
        match self.requests.delete(&self.key(id)).await {
            Ok(()) | Err(StorageError::NotFound(_)) => Ok(()),
            Err(e) => {
                tracing::warn!("block {} of a deleted slice stays in the store: {e}", self.key(id));
                Ok(())
            }
        }
    }

    async fn unstage(&self, tier: &dyn LocalTier, id: BlockId) {
        if let Err(e) = tier.unstage(id).await {
            // The next mount uploads it once more, which does no harm.
            tracing::warn!("the staged file of block {} stays: {e}", self.key(id));
        }
    }

    fn key(&self, id: BlockId) -> String {
        id.key(self.config.hash_prefix)
    }
}
