//! What the cache expects of a store of blocks on disks of this machine.
//!
//! The cache and everything above it know a local tier by [`LocalTier`] alone, so that one engine can take the place of
//! another. Methods that are not `async` never wait for a disk: a reader thread calls them between two requests. Futures
//! may be dropped at any time; what was begun on a disk then ends by itself.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use juicefs_core::{Segments, store::DiskCounts};

use crate::block::BlockId;

/// How much an operation on a block is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// The object store can be asked instead.
    Spare,
    /// No other copy exists: the operation is tried in every state of the disk, and waited for longer.
    Only,
}

impl Need {
    /// How much operations on a block are needed that is staged, or is not.
    pub(super) fn of(is_staged: bool) -> Self {
        if is_staged { Self::Only } else { Self::Spare }
    }
}

/// Where a block was found.
pub(crate) enum Found {
    /// The whole block is in memory.
    Memory(Bytes),
    /// A local tier has the block open.
    Open(LocalBlock),
    /// A local tier has the block, or may have it: finding out would wait. Opening it does.
    Closed,
    /// The block is nowhere on this machine.
    Nothing,
}

/// A block that a local tier has open. It can be read to the end, whatever becomes of the block meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct LocalBlock {
    pub(super) block: Arc<dyn OpenBlock>,
    pub(super) need: Need,
}

impl LocalBlock {
    /// Returns how many bytes of memory reading `[off, off + len)` takes.
    pub(crate) fn read_bytes(&self, off: u32, len: u32) -> usize {
        self.block.read_bytes(off, len)
    }

    /// Reads and verifies a range that is in memory. Returns `None` when that would wait for the disk, or when the bytes
    /// are not as they should be.
    pub(crate) fn read_now(&self, off: u32, len: u32) -> Option<Bytes> {
        self.block.read_now(off, len)
    }

    /// Reads and verifies a range. Must be polled within a runtime. Memory of a read that is left behind is not counted any
    /// more; there are few of them.
    ///
    /// # Errors
    /// `TimedOut` and `WouldBlock` when the disk does not answer or is not asked now. With any other error the copy is not
    /// what it should be.
    pub(crate) async fn read(&self, off: u32, len: u32) -> io::Result<Bytes> {
        Arc::clone(&self.block).read(off, len, self.need).await
    }
}

/// The side of a [`LocalBlock`] that a tier implements.
#[async_trait]
pub(crate) trait OpenBlock: fmt::Debug + Send + Sync {
    /// See [`LocalBlock::read_bytes`].
    fn read_bytes(&self, off: u32, len: u32) -> usize;
    /// See [`LocalBlock::read_now`]. Hot reads end here, so it takes no lock that is held while somebody waits.
    fn read_now(&self, off: u32, len: u32) -> Option<Bytes>;
    /// See [`LocalBlock::read`].
    async fn read(self: Arc<Self>, off: u32, len: u32, need: Need) -> io::Result<Bytes>;
}

/// A staged block that an earlier client left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StagedBlock {
    pub(crate) id: BlockId,
    /// When it was staged, in seconds since the epoch.
    pub(crate) since_secs: i64,
}

/// A store of blocks on disks of this machine.
///
/// A *cached* block is a copy, which the tier may lose at any time. A *staged* block is the only copy of its bytes: it
/// survives a crash of the machine, and stays until its upload or the end of its slice. A block that a tier gives back is
/// the block that was put in, or the tier says that it has none.
#[async_trait]
pub(crate) trait LocalTier: fmt::Debug + Send + Sync {
    /// Looks for a block without waiting.
    fn find(&self, id: BlockId) -> Found;
    /// Looks for a block for as long as readers wait for a disk. Never returns [`Found::Closed`].
    async fn open(&self, id: BlockId) -> Found;
    /// Whether the tier has a block that may be read now, as far as is known without waiting.
    fn contains(&self, id: BlockId) -> bool;
    /// Whether a block is open, so that [`LocalTier::warm`] has nothing to do.
    fn is_open(&self, id: BlockId) -> bool;
    /// Opens a block and lets it be read ahead.
    async fn warm(&self, id: BlockId);
    /// Takes a block to be cached if there is room for it now; otherwise counts it as dropped.
    fn offer(&self, id: BlockId, bytes: &Bytes);
    /// Takes a block to be cached, waiting for room, but not longer than a reader would for a disk.
    async fn put(&self, id: BlockId, bytes: &Bytes);
    /// Forgets and deletes a block. With `keep_staged` a staged one stays.
    async fn remove(&self, id: BlockId, keep_staged: bool);
    /// Stages a block with the storage class `tier`. When this returns `Ok` the block is durable and readable; calls that
    /// wait at the same time may share one commit. Waits at most `patience` for its turn and as long again for the disk.
    ///
    /// # Errors
    /// `WouldBlock` when no disk takes a block now, `StorageFull` when the disk has too little free space, `TimedOut` when
    /// the disk is too slow, else those of the disk. After an error nothing of the block is left, or will be left once the
    /// disk answers.
    async fn stage(self: Arc<Self>, id: BlockId, body: Segments, tier: u8, patience: Duration) -> io::Result<()>;
    /// Makes a staged block that is in the store now an ordinary copy.
    ///
    /// # Errors
    /// Those of the disk; the block may be found as staged again by the next client then.
    async fn unstage(&self, id: BlockId) -> io::Result<()>;
    /// Reads a staged block to be uploaded, and verifies all of it.
    ///
    /// # Errors
    /// `NotFound` when the block is not staged any more, `TimedOut` when the disk does not answer, `InvalidData` for damage,
    /// else those of the disk.
    async fn read_staged(&self, id: BlockId) -> io::Result<Bytes>;
    /// Whether a block waits here for its upload.
    fn is_staged(&self, id: BlockId) -> bool;
    /// Finds the blocks that were staged before the tier was opened. They count as staged once the stream has named them.
    fn staged(&self) -> BoxStream<'static, StagedBlock>;
    /// Whether a disk has less free space than it should.
    fn is_short_of_space(&self) -> bool;
    /// Returns the number of blocks held and their bytes.
    fn usage(&self) -> (u64, u64);
    /// Counts the disks by their state.
    fn disks(&self) -> DiskCounts;
    /// Looks after the limits and the disks; called once a second, and when the tier asked for it. Returns `false` when all
    /// disks are down.
    fn look_after(&self, now: Instant) -> bool;
    /// Looks again for what lies on the disks, where others may have put or taken blocks.
    fn rescan(&self);
    /// Writes what is queued, takes no more and ends all threads. Waits for the disks, but not for one that hangs.
    fn close(&self);
}
