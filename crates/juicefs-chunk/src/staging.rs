//! Writeback: blocks that are on the local disk, and go to the store later (format: data.md §3.3, §4.4).
//!
//! A block counts as written once it is staged (`cache/stage`). The oldest go up first, each verified as it is read back;
//! what fails is tried again for as long as it takes. A block whose slice is deleted meanwhile is dropped, and deleted from
//! the store if it got there. What is left at the end, or by a crash, is found and uploaded by the next mount of the same
//! directories.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use juicefs_core::{Segments, Share, StorageError, Timestamp, store::StagingStats};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::{
    block::BlockId,
    cache::StagedBlock,
    config::{ChunkConfig, Writeback},
    counters::OneMore,
    store::Inner,
    upload::UploadJob,
};

/// Blocks that may be staged at once, if the settings of the cache set no limit of their own.
const MAX_ITEMS: usize = 1 << 20;
/// What is due is looked for again after this long at the latest: hours begin and disks fill up.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// And while the disk is short of space.
const SHORT_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A block that could not be uploaded is left alone for this long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The stages of writing one block: who gives up waiting, and whoever writes, agree on what became of it.
const WRITING: u8 = 0;
const STAGED: u8 = 1;
const ABANDONED: u8 = 2;

/// Blocks of this mount that wait for their upload.
#[derive(Debug)]
pub(crate) struct Staging {
    rules: Option<Writeback>,
    max_bytes: u64,
    max_items: usize,
    /// Blocks being written to the disk at once.
    writes: Semaphore,
    /// Blocks on their way to the store at once.
    uploads: Arc<Semaphore>,
    blocks: Mutex<Blocks>,
    /// There may be something to upload.
    more: Notify,
    /// Writes to the disk under way, those that nobody waits for any more among them.
    writing: AtomicU64,
}

#[derive(Debug, Default)]
struct Blocks {
    waiting: HashMap<BlockId, Waiting>,
    /// Those that are not on their way up, the oldest first.
    queue: BTreeSet<(Timestamp, BlockId)>,
    bytes: u64,
    errors: u64,
    written_bytes: u64,
    delay_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Timestamp,
    /// When it may be tried again after a failure.
    not_before: Timestamp,
}

impl Staging {
    pub(crate) fn new(config: &ChunkConfig, can_stage: bool) -> Self {
        let rules = config.writeback.clone().filter(|_| can_stage);
        let items = usize::try_from(config.cache.items).unwrap_or(usize::MAX);
        Self {
            max_bytes: config.cache.size_bytes,
            max_items: if items == 0 { MAX_ITEMS } else { items },
            writes: Semaphore::new(rules.as_ref().map_or(0, |rules| rules.max_stage_writes)),
            uploads: Arc::new(Semaphore::new(config.max_uploads)),
            rules,
            blocks: Mutex::default(),
            more: Notify::new(),
            writing: AtomicU64::new(0),
        }
    }

    /// Whether blocks are staged at all.
    pub(crate) fn is_on(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether a block of this size should be staged, and has room.
    pub(crate) fn wants(&self, block: BlockId) -> bool {
        let Some(rules) = &self.rules else { return false };
        let size = u64::from(block.size);
        let blocks = self.blocks.lock();
        (rules.threshold_bytes == 0 || size < rules.threshold_bytes)
            && blocks.waiting.len() < self.max_items
            && blocks.bytes + size <= self.max_bytes
    }

    /// Takes note of a block that was staged just now.
    fn add_written(&self, id: BlockId, now: Timestamp) {
        self.blocks.lock().written_bytes += u64::from(id.size);
        self.add(id, now);
    }

    /// Takes note that the upload of a block begins.
    fn upload_begins(&self, id: BlockId, now: Timestamp) {
        let mut blocks = self.blocks.lock();
        if let Some(waiting) = blocks.waiting.get(&id) {
            blocks.delay_ms += millis_between(waiting.since, now);
        }
    }

    fn add(&self, id: BlockId, since: Timestamp) {
        let mut blocks = self.blocks.lock();
        if blocks.waiting.insert(id, Waiting { since, not_before: since }).is_none() {
            blocks.queue.insert((since, id));
            blocks.bytes += u64::from(id.size);
        }
        drop(blocks);
        self.more.notify_one();
    }

    /// Forgets a block, which is in the store or of no use any more. Whether it was known.
    pub(crate) fn forget(&self, id: BlockId) -> bool {
        let mut blocks = self.blocks.lock();
        let Some(waiting) = blocks.waiting.remove(&id) else { return false };
        blocks.queue.remove(&(waiting.since, id));
        blocks.bytes -= u64::from(id.size);
        true
    }

    fn is_known(&self, id: BlockId) -> bool {
        self.blocks.lock().waiting.contains_key(&id)
    }

    /// Puts a block back whose upload failed.
    fn put_back(&self, id: BlockId, now: Timestamp) {
        let mut blocks = self.blocks.lock();
        blocks.errors += 1;
        if let Some(waiting) = blocks.waiting.get_mut(&id) {
            waiting.not_before = later(now, PAUSE_AFTER_FAILURE);
            let since = waiting.since;
            blocks.queue.insert((since, id));
        }
    }

    /// Takes the oldest block that may go up now, or tells how long to wait for one.
    fn take_due(&self, now: Timestamp, hour: u8, short_of_space: bool) -> Result<BlockId, Duration> {
        let Some(rules) = &self.rules else { return Err(LOOK_INTERVAL) };
        let look = if short_of_space { SHORT_LOOK_INTERVAL } else { LOOK_INTERVAL };
        if !short_of_space && rules.upload_hours.is_some_and(|hours| !hours.contains(hour)) {
            return Err(look);
        }
        let delay = if short_of_space { Duration::ZERO } else { rules.upload_delay };
        let mut blocks = self.blocks.lock();
        let mut wait = look;
        for (since, id) in &blocks.queue {
            let due = later(*since, delay).max(blocks.waiting.get(id).map_or(*since, |waiting| waiting.not_before));
            if due <= now {
                let taken = (*since, *id);
                blocks.queue.remove(&taken);
                return Ok(taken.1);
            }
            wait = wait.min(until(now, due));
            // Those behind it are younger; only what failed waits for another reason.
            if later(*since, delay) > now {
                break;
            }
        }
        Err(wait)
    }

    pub(crate) fn stats(&self, now: Timestamp) -> StagingStats {
        let blocks = self.blocks.lock();
        let oldest = blocks.waiting.values().map(|waiting| waiting.since).min();
        StagingStats {
            blocks: blocks.waiting.len() as u64,
            bytes: blocks.bytes,
            oldest_secs: oldest.map_or(0, |since| u64::try_from(now.secs - since.secs).unwrap_or(0)),
            errors: blocks.errors,
            writing: self.writing.load(Ordering::Relaxed),
            written_bytes: blocks.written_bytes,
            delay_ms: blocks.delay_ms,
        }
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let nanos = at.nanos + by.subsec_nanos();
    let secs = at.secs.saturating_add(i64::try_from(by.as_secs()).unwrap_or(i64::MAX));
    Timestamp { secs: secs.saturating_add(i64::from(nanos / 1_000_000_000)), nanos: nanos % 1_000_000_000 }
}

fn until(now: Timestamp, due: Timestamp) -> Duration {
    let nanos = i128::from(due.secs - now.secs) * 1_000_000_000 + i128::from(due.nanos) - i128::from(now.nanos);
    Duration::from_nanos(u64::try_from(nanos.max(1_000_000)).unwrap_or(u64::MAX))
}

/// 0 when the clock was set back.
fn millis_between(earlier: Timestamp, now: Timestamp) -> u64 {
    let secs = i128::from(now.secs) - i128::from(earlier.secs);
    let millis = secs * 1000 + (i128::from(now.nanos) - i128::from(earlier.nanos)) / 1_000_000;
    u64::try_from(millis.max(0)).unwrap_or(u64::MAX)
}

impl Inner {
    /// Writes a block to the local disk in place of the store. `false` when that is not wanted or not possible, and the
    /// block must go to the store.
    pub(crate) async fn stage(self: &Arc<Self>, job: &UploadJob) -> bool {
        // What was packed for the store is not what belongs on the disk.
        if job.direct || job.packed || !self.staging.wants(job.block) {
            return false;
        }
        let Ok(_slot) = self.staging.writes.try_acquire() else { return false };
        let patience = self.config.put_timeout.min(self.config.cache.health.max_operation);
        // Goes with the write, which a hung disk may keep for longer than anybody waits.
        let turn = tokio::time::timeout(patience, self.cache.stage_slot(job.block)).await;
        let Ok(Some(turn)) = turn else { return false };
        let state = Arc::new(AtomicU8::new(WRITING));
        let (inner, written, body, block, tier) =
            (Arc::clone(self), Arc::clone(&state), job.body.clone(), job.block, job.tier);
        let write = self.handle.spawn_blocking(move || {
            let _turn = turn;
            inner.write_staged(block, &body, tier, &written)
        });
        let waited = tokio::time::timeout(patience, write).await;
        let outcome = match waited {
            Ok(Ok(done)) => done,
            Ok(Err(e)) => Err(io::Error::other(e)),
            Err(_elapsed) => {
                let given_up = state.compare_exchange(WRITING, ABANDONED, Ordering::AcqRel, Ordering::Acquire);
                if given_up.is_ok() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
            }
        };
        match outcome {
            Ok(()) => {
                self.staging.add_written(job.block, self.config.clock.now());
                true
            }
            Err(e) => {
                tracing::warn!("block {} goes to the store at once: it cannot be staged: {e}", self.key(job.block));
                false
            }
        }
    }

    /// Stages a block, unless nobody waits for that any more when it is done.
    fn write_staged(&self, block: BlockId, body: &Segments, tier: u8, state: &AtomicU8) -> io::Result<()> {
        let writing = OneMore::of(&self.staging.writing);
        self.cache.stage(block, body, tier)?;
        drop(writing);
        if state.compare_exchange(WRITING, STAGED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // On a thread that waits for the disk in any case.
            self.handle.block_on(self.cache.remove(block));
        }
        Ok(())
    }

    /// Uploads staged blocks until the data path closes: first finds what earlier clients left.
    pub(crate) async fn upload_staged(self: Arc<Self>) {
        let inner = Arc::clone(&self);
        let finding = self.handle.spawn_blocking(move || inner.cache.find_staged());
        let found = tokio::select! {
            found = finding => found,
            // A disk that hangs must not keep the mount from ending.
            () = self.closing.cancelled() => return,
        };
        match found {
            Ok(found) => {
                if !found.is_empty() {
                    tracing::info!("{} staged blocks were found and will be uploaded", found.len());
                }
                for StagedBlock { id, since_secs } in found {
                    self.staging.add(id, Timestamp::from_secs(since_secs));
                }
            }
            Err(e) => tracing::error!("looking for staged blocks ended early: {e}"),
        }
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&self.staging.uploads).acquire_owned() => slot,
                () = self.closing.cancelled() => return,
            };
            let wait = match self.next_staged() {
                Ok(id) => {
                    let inner = Arc::clone(&self);
                    let upload = async move {
                        inner.upload_one_staged(id).await;
                        drop(slot);
                    };
                    self.tasks.spawn_on(upload, &self.handle);
                    continue;
                }
                Err(wait) => wait,
            };
            drop(slot);
            tokio::select! {
                () = self.staging.more.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = self.closing.cancelled() => return,
            }
        }
    }

    fn next_staged(&self) -> Result<BlockId, Duration> {
        let now = self.config.clock.now();
        self.staging.take_due(now, crate::config::local_hour(now), self.cache.is_short_of_space())
    }

    /// Takes one staged block to the store.
    async fn upload_one_staged(self: Arc<Self>, id: BlockId) {
        match self.try_upload_staged(id).await {
            Ok(()) => {}
            Err(why) => {
                tracing::warn!("staged block {} is tried again: {why}", self.key(id));
                self.staging.put_back(id, self.config.clock.now());
            }
        }
        self.staging.more.notify_one();
    }

    async fn try_upload_staged(self: &Arc<Self>, id: BlockId) -> Result<(), String> {
        if !self.staging.is_known(id) {
            return Ok(());
        }
        let lease = self.budget.acquire(Share::Background, id.size as usize).await;
        let bytes = match self.cache.read_staged(id).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Another client of the directory was faster, or the slice is gone.
                self.staging.forget(id);
                self.unstage(id).await;
                return Ok(());
            }
            Err(e) => return Err(e.to_string()),
        };
        let body = Segments::from_iter([bytes]);
        let job = UploadJob { block: id, body, packed: false, lease, direct: true, tier: 0 };
        let stop = self.closing.clone();
        self.staging.upload_begins(id, self.config.clock.now());
        Arc::clone(self).upload(job, stop).await.map_err(|failed| failed.error.to_string())?;
        if self.staging.forget(id) {
            self.unstage(id).await;
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

    async fn unstage(&self, id: BlockId) {
        if let Err(e) = self.cache.unstage(id).await {
            // The next mount uploads it once more, which does no harm.
            tracing::warn!("the staged file of block {} stays: {e}", self.key(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CachePlace, UploadHours, store::tests::config};

    const HOUR: u8 = 12;

    fn staging(upload_delay_secs: u64, upload_hours: Option<UploadHours>) -> Staging {
        let mut config = config("none");
        config.cache.place = CachePlace::Disk(Vec::new());
        let upload_delay = Duration::from_secs(upload_delay_secs);
        config.writeback = Some(Writeback { threshold_bytes: 0, upload_delay, upload_hours, max_stage_writes: 1 });
        Staging::new(&config, true)
    }

    fn block(slice: u64) -> BlockId {
        BlockId { slice, index: 0, size: 10 }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn the_oldest_goes_first() {
        let staging = staging(0, None);
        for (slice, since) in [(1, 30), (2, 10), (3, 20)] {
            staging.add(block(slice), at(since));
        }
        let taken: Vec<_> = (0..3).map(|_| staging.take_due(at(40), HOUR, false).expect("due").slice).collect();
        assert_eq!(taken, [2, 3, 1]);
        assert!(staging.take_due(at(40), HOUR, false).is_err());
        let stats = StagingStats { blocks: 3, bytes: 30, oldest_secs: 30, ..StagingStats::default() };
        assert_eq!(staging.stats(at(40)), stats);
        assert!(staging.forget(block(2)) && !staging.forget(block(2)));
        assert_eq!(staging.stats(at(40)).oldest_secs, 20);
    }

    #[test]
    fn the_time_until_uploads_begin_is_added_up() {
        let staging = staging(0, None);
        staging.add_written(block(1), at(10));
        // Left by an earlier client: this mount did not write it.
        staging.add(block(2), at(20));
        staging.upload_begins(block(1), Timestamp { secs: 12, nanos: 500_000_000 });
        staging.upload_begins(block(1), at(15));
        staging.upload_begins(block(3), at(15));
        assert_eq!((staging.stats(at(15)).written_bytes, staging.stats(at(15)).delay_ms), (10, 7500));
        // The clock was set back.
        staging.upload_begins(block(2), at(5));
        assert_eq!(staging.stats(at(15)).delay_ms, 7500);
    }

    #[test]
    fn what_failed_waits_and_does_not_hold_up_the_others() {
        let staging = staging(0, None);
        staging.add(block(1), at(10));
        staging.add(block(2), at(20));
        assert_eq!(staging.take_due(at(30), HOUR, false), Ok(block(1)));
        staging.put_back(block(1), at(30));
        assert_eq!(staging.take_due(at(30), HOUR, false), Ok(block(2)));
        assert_eq!(staging.take_due(at(30), HOUR, false), Err(PAUSE_AFTER_FAILURE));
        assert_eq!(staging.take_due(at(35), HOUR, false), Ok(block(1)));
    }

    #[test]
    fn delay_and_hours_are_kept_unless_the_disk_is_short() {
        let hours = UploadHours { from: 22, to: 6 };
        let staging = staging(600, Some(hours));
        staging.add(block(1), at(1000));
        assert_eq!(staging.take_due(at(1590), 23, false), Err(Duration::from_secs(10)));
        assert_eq!(staging.take_due(at(1600), HOUR, false), Err(LOOK_INTERVAL));
        assert_eq!(staging.take_due(at(1600), 23, false), Ok(block(1)));
        staging.put_back(block(1), at(1600));
        assert_eq!(staging.take_due(at(1605), HOUR, true), Ok(block(1)));
    }
}
