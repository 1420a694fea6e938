//! The staged blocks of a mount wait in a queue for their upload, the oldest first.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use juicefs_core::{Timestamp, store::StagingStats};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    block::BlockId,
    config::{ChunkConfig, Writeback},
};

/// So many blocks may be staged at once, if the settings of the cache set no limit of their own.
const MAX_ITEMS: usize = 1 << 20;
/// Blocks that are due are looked for again after this time at the latest, because hours begin and disks fill up.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The same while the disk is short of space.
const SHORT_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A block that could not be uploaded is left alone for this long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The blocks of a mount that wait on the local disk for their upload, or are on their way up from there.
#[derive(Debug)]
pub(super) struct StagedQueue {
    /// `None` when nothing is staged.
    rules: Option<Writeback>,
    max_bytes: u64,
    max_items: usize,
    blocks: Mutex<Blocks>,
    /// Is notified when there may be something to upload.
    pub(super) more: Notify,
}

#[derive(Debug, Default)]
struct Blocks {
    waiting: HashMap<BlockId, Waiting>,
    /// The blocks that are not on their way up, the oldest first.
    queue: BTreeSet<(Timestamp, BlockId)>,
    bytes: u64,
    errors: u64,
    written_bytes: u64,
    delay_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Timestamp,
    /// When the upload may be tried again after a failure.
    not_before: Timestamp,
}

impl StagedQueue {
    /// An empty queue. When blocks cannot be staged it wants none, whatever the settings say.
    pub(super) fn new(config: &ChunkConfig, can_stage: bool) -> Self {
        let rules = config.writeback.clone().filter(|_| can_stage);
        let items = usize::try_from(config.cache.items).unwrap_or(usize::MAX);
        Self {
            max_bytes: config.cache.size_bytes,
            max_items: if items == 0 { MAX_ITEMS } else { items },
            rules,
            blocks: Mutex::default(),
            more: Notify::new(),
        }
    }

    /// Whether blocks are staged at all.
    pub(super) fn is_on(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether a block of this size should be staged, and has room.
    pub(super) fn wants(&self, block: BlockId) -> bool {
        let Some(rules) = &self.rules else { return false };
        let size = u64::from(block.size);
        let blocks = self.blocks.lock();
        (rules.threshold_bytes == 0 || size < rules.threshold_bytes)
            && blocks.waiting.len() < self.max_items
            && blocks.bytes + size <= self.max_bytes
    }

    /// Takes note of a block that was staged just now.
    pub(super) fn add_written(&self, id: BlockId, now: Timestamp) {
        self.blocks.lock().written_bytes += u64::from(id.size);
        self.add(id, now);
    }

    /// Takes note that the upload of a block begins.
    pub(super) fn upload_begins(&self, id: BlockId, now: Timestamp) {
        let mut blocks = self.blocks.lock();
        if let Some(waiting) = blocks.waiting.get(&id) {
            blocks.delay_ms += millis_between(waiting.since, now);
        }
    }

    /// Takes note of a block that was staged at `since`.
    pub(super) fn add(&self, id: BlockId, since: Timestamp) {
        let mut blocks = self.blocks.lock();
        if blocks.waiting.insert(id, Waiting { since, not_before: since }).is_none() {
            blocks.queue.insert((since, id));
            blocks.bytes += u64::from(id.size);
        }
        drop(blocks);
        self.more.notify_one();
    }

    /// Forgets a block, which is in the store or of no use any more. Whether it was known.
    pub(super) fn forget(&self, id: BlockId) -> bool {
        let mut blocks = self.blocks.lock();
        let Some(waiting) = blocks.waiting.remove(&id) else { return false };
        blocks.queue.remove(&(waiting.since, id));
        blocks.bytes -= u64::from(id.size);
        true
    }

    /// Whether a block waits, or is on its way up.
    pub(super) fn is_known(&self, id: BlockId) -> bool {
        self.blocks.lock().waiting.contains_key(&id)
    }

    /// Puts a block back whose upload failed.
    pub(super) fn put_back(&self, id: BlockId, now: Timestamp) {
        let mut blocks = self.blocks.lock();
        blocks.errors += 1;
        if let Some(waiting) = blocks.waiting.get_mut(&id) {
            waiting.not_before = later(now, PAUSE_AFTER_FAILURE);
            let since = waiting.since;
            blocks.queue.insert((since, id));
        }
    }

    /// Takes the oldest block that may go up now, or tells how long to wait for one.
    pub(super) fn take_due(&self, now: Timestamp, hour: u8, short_of_space: bool) -> Result<BlockId, Duration> {
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

    /// Returns the counters, without the writes under way.
    pub(super) fn stats(&self, now: Timestamp) -> StagingStats {
        let blocks = self.blocks.lock();
        let oldest = blocks.waiting.values().map(|waiting| waiting.since).min();
        StagingStats {
            blocks: blocks.waiting.len() as u64,
            bytes: blocks.bytes,
            oldest_secs: oldest.map_or(0, |since| u64::try_from(now.secs - since.secs).unwrap_or(0)),
            errors: blocks.errors,
            writing: 0,
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

/// Returns the time between in milliseconds, or 0 when the clock was set back.
fn millis_between(earlier: Timestamp, now: Timestamp) -> u64 {
    let secs = i128::from(now.secs) - i128::from(earlier.secs);
    let millis = secs * 1000 + (i128::from(now.nanos) - i128::from(earlier.nanos)) / 1_000_000;
    u64::try_from(millis.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CachePlace, UploadHours, store::tests::config};

    const HOUR: u8 = 12;

    fn staging(upload_delay_secs: u64, upload_hours: Option<UploadHours>) -> StagedQueue {
        let mut config = config("none");
        config.cache.place = CachePlace::Disk(Vec::new());
        let upload_delay = Duration::from_secs(upload_delay_secs);
        config.writeback = Some(Writeback { threshold_bytes: 0, upload_delay, upload_hours, max_stage_writes: 1 });
        StagedQueue::new(&config, true)
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
