//! Compaction, which joins the many slices of a chunk into one (format: data.md §3.9).
//!
//! Small writes all over a chunk make a long list, and to join it copies the whole chunk. While such writes go on that
//! is wasted, because the list is soon as long again. So the compaction waits until the chunk is quiet, or the list is
//! [`FULL`]. The joined slice has zeros where the chunk had holes, so a sparse chunk is left alone until its list is
//! [`FULL`].

use std::{sync::Arc, time::Duration};

use juicefs_core::{
    ChunkError, ChunkIndex, Errno, Ino, MetaError, Segments, Share, SliceKey, SliceWriter,
    meta::Compacted,
    slice::{CompactionPlan, Piece},
    store::{ReadPurpose, WriteOptions},
};
use tokio::time::Instant;

use crate::{context::Context, fault, file::push_zeros, upkeep::Garbage};

/// A list of this many records is compacted before the next write goes on.
const OVERLONG: usize = 2500;
/// A list of more records than this is compacted after every write.
const LONG: usize = 350;
/// Otherwise compaction is tried whenever the list grew by this many records.
const EVERY: usize = 100;
/// How many records are joined at most. Nothing is won by waiting for more.
const FULL: usize = 1000;
/// A compaction that copies more than this for each byte that is new waits for quiet.
const PATIENCE: u64 = 4;
/// A chunk that was not written to for this long is quiet.
const QUIET: Duration = Duration::from_secs(5);
/// How long a compaction that was asked for waits until it looks again whether it is its turn.
const TURN_PAUSE: Duration = Duration::from_millis(20);
/// How often a chunk is compacted in a row: a list longer than one plan takes several.
const FORCED_ROUNDS: u32 = 64;
/// How many chunks wait for quiet at most. Others are compacted at once.
const MAX_POSTPONED: usize = 4096;

/// Why a compaction gave up.
enum GaveUp {
    Meta(MetaError),
    Data(ChunkError),
}

impl From<MetaError> for GaveUp {
    fn from(error: MetaError) -> Self {
        Self::Meta(error)
    }
}

impl From<ChunkError> for GaveUp {
    fn from(error: ChunkError) -> Self {
        Self::Data(error)
    }
}

impl Context {
    /// Compacts a chunk if it is time for that, after a commit of `more` records that left `records` in it. It waits
    /// for the end only when the list is overlong.
    pub(crate) async fn compact_after_write(
        self: &Arc<Self>,
        ino: Ino,
        index: ChunkIndex,
        records: usize,
        more: usize,
    ) {
        if self.still_waits(ino, index, records) {
            return;
        }
        if records >= OVERLONG {
            if self.begin_compaction(ino, index) {
                self.compact(ino, index).await;
            }
        } else if records > LONG || (records + 1) / EVERY > (records + 1).saturating_sub(more) / EVERY {
            self.compact_soon(ino, index);
        }
    }

    /// Compacts a chunk in the background, unless it waits for quiet or too many are being compacted already.
    pub(crate) fn compact_soon(self: &Arc<Self>, ino: Ino, index: ChunkIndex) {
        if !self.upkeep.postponed.lock().contains_key(&(ino, index)) {
            self.try_compact_soon(ino, index);
        }
    }

    /// Whether the chunk is being compacted now.
    fn try_compact_soon(self: &Arc<Self>, ino: Ino, index: ChunkIndex) -> bool {
        let begun = self.tasks.running() && self.begin_compaction(ino, index);
        if begun {
            let cx = Arc::clone(self);
            self.tasks.spawn_until_stopped("compaction", async move { cx.compact(ino, index).await });
        }
        begun
    }

    /// Compacts what was postponed and is quiet now.
    pub(super) fn compact_quiet(self: &Arc<Self>) {
        let quiet: Vec<_> = {
            let postponed = self.upkeep.postponed.lock();
            let quiet = postponed.iter().filter(|(_, written)| written.elapsed() >= QUIET);
            quiet.map(|(chunk, _)| *chunk).take(self.upkeep.max_compactions).collect()
        };
        for (ino, index) in quiet {
            if !self.try_compact_soon(ino, index) {
                return;
            }
        }
    }

    /// Whether the chunk, which was just written to, goes on waiting for quiet.
    fn still_waits(&self, ino: Ino, index: ChunkIndex, records: usize) -> bool {
        let mut postponed = self.upkeep.postponed.lock();
        if records >= FULL {
            postponed.remove(&(ino, index));
            return false;
        }
        let waits = postponed.get_mut(&(ino, index));
        waits.map(|written| *written = Instant::now()).is_some()
    }

    /// Whether this compaction had better wait, or not be done at all; it is noted for later then, once.
    fn postpones(&self, ino: Ino, index: ChunkIndex, plan: &CompactionPlan) -> bool {
        let mut postponed = self.upkeep.postponed.lock();
        let quiet = postponed.remove(&(ino, index)).is_some_and(|written| written.elapsed() >= QUIET);
        if plan.records.len() >= FULL {
            return false;
        }
        let noted = !quiet && postponed.len() < MAX_POSTPONED;
        let wait = plan.fills_holes() || (noted && plan.copies_per_byte() > PATIENCE);
        if wait && noted {
            postponed.insert((ino, index), Instant::now());
        }
        wait
    }

    fn begin_compaction(&self, ino: Ino, index: ChunkIndex) -> bool {
        let mut compacting = self.upkeep.compacting.lock();
        !self.config.read_only && compacting.len() < self.upkeep.max_compactions && compacting.insert((ino, index))
    }

    async fn compact(self: &Arc<Self>, ino: Ino, index: ChunkIndex) {
        let _running = Running { cx: self, chunk: (ino, index) };
        match self.try_compact(ino, index, false).await {
            Ok(_) | Err(GaveUp::Meta(MetaError::Fenced)) => {}
            Err(GaveUp::Meta(MetaError::Posix(errno))) => tracing::debug!(%ino, index, %errno, "not compacted"),
            Err(GaveUp::Meta(error)) => tracing::warn!(%ino, index, %error, "compaction gave up"),
            Err(GaveUp::Data(error)) => tracing::warn!(%ino, index, %error, "compaction gave up"),
        }
    }

    /// Compacts a chunk until nothing is left to be gained, when it is its turn among all compactions. EIO when that fails,
    /// also for an unreachable store; a file that is gone is no failure.
    pub(crate) async fn compact_now(self: &Arc<Self>, ino: Ino, index: ChunkIndex) -> Result<(), Errno> {
        while !self.begin_compaction(ino, index) {
            tokio::time::sleep(TURN_PAUSE).await;
        }
        let _running = Running { cx: self, chunk: (ino, index) };
        for _ in 0..FORCED_ROUNDS {
            match self.try_compact(ino, index, true).await {
                Ok(true) => {}
                Ok(false) | Err(GaveUp::Meta(MetaError::Posix(Errno::ENOENT))) => break,
                Err(GaveUp::Meta(error)) => return Err(fault::of_meta("compaction", ino, &error)),
                Err(GaveUp::Data(error)) => return Err(fault::of_chunk("compaction", ino, &error)),
            }
        }
        Ok(())
    }

    /// Joins what is to be joined, at once when it is `forced`, and tells whether anything was.
    async fn try_compact(self: &Arc<Self>, ino: Ino, index: ChunkIndex, forced: bool) -> Result<bool, GaveUp> {
        let Some(plan) = self.meta.plan_compaction(ino, index).await? else {
            self.upkeep.postponed.lock().remove(&(ino, index));
            return Ok(false);
        };
        if !forced && self.postpones(ino, index, &plan) {
            return Ok(false);
        }
        let tier = self.meta.getattr(ino).await?.tier;
        let id = self.meta.new_slice_id().await?;
        let mut sink = self.chunks.writer(WriteOptions { tier, direct: true });
        sink.set_id(id);
        if let Err(error) = self.copy(&plan, sink.as_mut()).await {
            sink.abort().await;
            return Err(error.into());
        }
        let slice = SliceKey { id, size: plan.size };
        match self.meta.commit_compaction(ino, index, &plan, id).await {
            Ok(Compacted::Done(dead)) => {
                self.metrics.compacted_bytes(u64::from(plan.size));
                self.files.chunk_changed(ino, index);
                for slice in dead {
                    self.queue_garbage(Garbage::Dead(slice)).await;
                }
            }
            Ok(Compacted::Lost) => self.upkeep.discard(slice),
            Err(MetaError::Posix(errno)) => {
                self.upkeep.discard(slice);
                return Err(MetaError::Posix(errno).into());
            }
            // Perhaps it is in place: its objects must stay.
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Writes the content of `plan` into a new slice and makes it durable.
    async fn copy(&self, plan: &CompactionPlan, sink: &mut dyn SliceWriter) -> Result<(), ChunkError> {
        let block = u32::try_from(self.chunks.block_size()).unwrap_or(u32::MAX);
        let mut at = 0;
        let mut lease = juicefs_core::Lease::empty();
        for piece in &plan.pieces {
            let mut done = 0;
            while done < piece.len {
                if at % block == 0 {
                    // A whole block at once: holding part of one while waiting for more could block everybody.
                    lease = self.chunks.budget().acquire(Share::Background, block.min(plan.size - at) as usize).await;
                }
                let part = (piece.len - done).min(block - at % block);
                for bytes in self.read_piece(piece, done, part).await? {
                    let len = bytes.len();
                    sink.write(at, bytes, lease.split(len))?;
                    at += u32::try_from(len).unwrap_or(u32::MAX);
                }
                done += part;
                sink.flush_to(at / block * block);
            }
        }
        if at != plan.size {
            return Err(ChunkError::Misuse("compaction plan whose pieces do not add up"));
        }
        sink.finish().await
    }

    async fn read_piece(&self, piece: &Piece, done: u32, part: u32) -> Result<Segments, ChunkError> {
        match piece.key() {
            Some(key) => self.chunks.read(key, piece.off + done, part, ReadPurpose::Once).await,
            None => {
                let mut zeros = Segments::new();
                push_zeros(&mut zeros, u64::from(part));
                Ok(zeros)
            }
        }
    }
}

struct Running<'a> {
    cx: &'a Context,
    chunk: (Ino, ChunkIndex),
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.cx.upkeep.compacting.lock().remove(&self.chunk);
    }
}
