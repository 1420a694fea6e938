//! Some blocks are worth having whole. They are chosen here, and fetched in the background.

use std::sync::Arc;

use juicefs_core::{Budget, Lease, Share, store::ReadPurpose};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    behind::{Behind, QUICK, small_file_bytes},
    download::Downloader,
    reuse::ReuseTable,
};
use crate::{
    block::{BlockId, Piece},
    cache::Keep,
};

/// Blocks up to this size are always fetched whole: a request for a part would cost as much.
const TINY_BLOCK_BYTES: u32 = 8 << 10;
/// Of blocks up to this size the second read of a part shows that the whole is worth having.
const SMALL_BLOCK_BYTES: u32 = 128 << 10;
/// Reads of parts of a larger block after which the whole of it is worth having.
const REUSE_READS: u32 = 3;
/// The same of a block on a disk of this machine, where a read of a part costs a seek and no round trip.
const REUSE_READS_IN_PLACE: u32 = 8;
/// Requests under way beside those behind reads, from which on the link is busy.
const BUSY_REQUESTS: usize = 8;

/// Fetches whole blocks that nobody waits for, with memory that nobody waits for.
#[derive(Debug)]
pub(super) struct Prefetcher {
    budget: Budget,
    downloader: Arc<Downloader>,
    /// Slots of blocks of which parts were read several times.
    reused: Arc<Semaphore>,
    behind: Arc<Behind>,
    reuse: ReuseTable,
}

impl Prefetcher {
    pub(super) fn new(budget: Budget, downloader: Arc<Downloader>) -> Self {
        let reused = Arc::new(Semaphore::new(downloader.config.prefetch));
        Self { budget, downloader, reused, behind: Arc::default(), reuse: ReuseTable::default() }
    }

    /// Whether it is better to fetch a piece than its block. What is fetched beyond what is asked for is never more than
    /// that, until the block is read again.
    pub(super) fn wants_part(&self, piece: Piece, purpose: ReadPurpose) -> bool {
        let size = piece.block.size;
        if self.downloader.in_place().is_some() {
            if purpose == ReadPurpose::Random && self.reuse.count(piece.block) >= REUSE_READS_IN_PLACE {
                self.prefetch_reused(piece.block);
            }
            return true;
        }
        if !self.downloader.can_fetch_parts() || size <= TINY_BLOCK_BYTES || piece.len >= size.div_ceil(2) {
            return false;
        }
        match purpose {
            ReadPurpose::Sequential | ReadPurpose::ReadAhead => false,
            ReadPurpose::Once => true,
            ReadPurpose::RandomInSmall if size > SMALL_BLOCK_BYTES && self.fetch_behind(piece.block) => true,
            ReadPurpose::Random | ReadPurpose::RandomInSmall => match self.reuse.count(piece.block) {
                2.. if size <= SMALL_BLOCK_BYTES => false,
                REUSE_READS.. => {
                    self.prefetch_reused(piece.block);
                    // The prefetch may just have brought the block under way; then this read would only repeat it.
                    true
                }
                _ => true,
            },
        }
    }

    /// Whether a block is being fetched behind a read.
    pub(super) fn is_behind(&self, id: BlockId) -> bool {
        self.behind.has(id)
    }

    /// Brings a block into the cache if it is not there, memory is free and nobody does it yet.
    pub(super) fn prefetch(&self, id: BlockId) {
        let downloader = &self.downloader;
        if downloader.tasks.closing().is_cancelled() || self.budget.waiting() > 0 || downloader.flight(id).is_some() {
            return;
        }
        if downloader.cache.holds(id) {
            if downloader.cache.is_cold(id) {
                let cache = Arc::clone(&downloader.cache);
                downloader.tasks.spawn(async move { cache.warm(id).await });
            }
        } else if let Some(files) = downloader.in_place() {
            if files.is_cold(id) {
                self.warm_in_place(id, None);
            }
        } else if let Some(lease) = self.budget.try_acquire(Share::Ahead, downloader.fetch_bytes(id)) {
            self.spawn_fetch(id, Keep::Normal, lease, None);
        }
    }

    /// Brings a block into the cache of which parts were read several times, within the slots of `--prefetch`.
    pub(super) fn prefetch_reused(&self, id: BlockId) {
        let Ok(slot) = Arc::clone(&self.reused).try_acquire_owned() else { return };
        if self.downloader.in_place().is_some() {
            return self.warm_in_place(id, Some(slot));
        }
        let Some(lease) = self.budget.try_acquire(Share::Ahead, self.downloader.fetch_bytes(id)) else { return };
        self.spawn_fetch(id, Keep::Forced, lease, Some(slot));
    }

    /// Fetches a block of which a part is being read, if that is cheap now and nobody does it. Returns whether it does.
    pub(super) fn fetch_behind(&self, id: BlockId) -> bool {
        let Downloader { config, cache, requests, tasks, .. } = &*self.downloader;
        if tasks.closing().is_cancelled()
            || small_file_bytes(config) == 0
            || self.budget.waiting() > 0
            // What cannot be kept would be fetched again and again.
            || cache.is_short_of_space()
            || requests.is_download_limited()
            || requests.downloading().saturating_sub(self.behind.len()) >= BUSY_REQUESTS
        {
            return false;
        }
        let Some(fetching) = Behind::begin(&self.behind, id, config.prefetch) else { return false };
        let Some(lease) = self.budget.try_acquire(Share::Ahead, self.downloader.fetch_bytes(id)) else { return false };
        let downloader = Arc::clone(&self.downloader);
        tasks.spawn(async move {
            let begun = Instant::now();
            // A failure was logged, and meets the reader who needs the block.
            if downloader.join_or_fetch(id, Keep::Forced, lease).await.is_ok() {
                fetching.arrived(begun.elapsed() <= QUICK);
            }
        });
        true
    }

    /// Has the kernel read a block that lies on this machine.
    fn warm_in_place(&self, id: BlockId, slot: Option<OwnedSemaphorePermit>) {
        let downloader = Arc::clone(&self.downloader);
        self.downloader.tasks.spawn_blocking(move || {
            downloader.in_place().iter().for_each(|files| files.warm(id));
            drop(slot);
        });
    }

    fn spawn_fetch(&self, id: BlockId, keep: Keep, lease: Lease, slot: Option<OwnedSemaphorePermit>) {
        let downloader = Arc::clone(&self.downloader);
        self.downloader.tasks.spawn(async move {
            // A failure was logged, and meets the reader who needs the block.
            let _ = downloader.join_or_fetch(id, keep, lease).await;
            drop(slot);
        });
    }
}
