//! Carries closed slices to the object store and into the metadata.
//!
//! One future per file does it, shared by everyone who waits for it: the first flush that comes polls it on its own
//! thread without any hop, others join in. When its pollers go away before the end, the future stays with the file and
//! the background pass goes on with it; nothing is lost by a cancelled flush.

use std::sync::{Arc, atomic::Ordering};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use juicefs_core::{
    ChunkIndex, Errno, MetaError, SliceId, SliceKey, SliceRecord, SliceWriter, Timestamp, limits::CHUNK_SIZE,
    meta::Written,
};
use smallvec::SmallVec;

use super::{
    File,
    writer::{Drain, Phase, Slice, Writer},
};
use crate::{fault, metrics::MetaOp};

/// One step that can be taken now.
enum Job {
    Upload { index: ChunkIndex, seq: u64, sink: Box<dyn SliceWriter> },
    Commit { index: ChunkIndex, seq: u64, record: SliceRecord, mtime: Timestamp },
}

/// A step that was taken.
enum Event {
    Uploaded { index: ChunkIndex, seq: u64, result: Result<SliceId, (Box<dyn SliceWriter>, Errno)> },
    Committed { index: ChunkIndex, seq: u64, record: SliceRecord, result: Result<Written, Errno> },
}

impl File {
    /// Makes everything accepted so far durable and visible to other clients.
    ///
    /// Fails with the error of a write that was lost, now or earlier, or of data that the store does not take now: that is
    /// kept, and another flush tries again. Cancel safe: the work goes on.
    pub(crate) async fn flush(self: &Arc<Self>) -> Result<(), Errno> {
        if self.is_dirty() {
            self.flush_range(0, u64::MAX).await?;
        }
        self.sticky_error()
    }

    /// Commits all accepted data that overlaps `[start, end)`, or loses it and notes the error.
    ///
    /// Fails when the store does not take some of it, or of what must be there before it: that is kept. Cancel safe.
    pub(crate) async fn flush_range(self: &Arc<Self>, start: u64, end: u64) -> Result<(), Errno> {
        let mut begun = None;
        loop {
            let drain = {
                let mut writer = self.writer.lock();
                let (upto, failures) = *begun.get_or_insert_with(|| (writer.next_seq(), writer.failures()));
                if !writer.overlaps(start, end, upto) {
                    return Ok(());
                }
                let pick = |index, slice: &Slice| {
                    let base = u64::from(index) * CHUNK_SIZE;
                    let from = base + u64::from(slice.pos);
                    slice.seq < upto && from < end && start < from + u64::from(slice.len)
                };
                writer.freeze_again(pick, failures)?;
                self.drain(&mut writer)
            };
            drain.await;
        }
    }

    /// Loses what the store does not take, and notes the error. What waited for it is left to the next flush.
    pub(crate) fn give_up(&self) {
        if let Some(errno) = self.writer.lock().give_up() {
            tracing::error!(ino = %self.ino, %errno, "data that the object store did not take is lost");
            self.fail(errno);
        }
    }

    /// Lets a task of its own carry on what was closed.
    pub(super) fn kick(self: &Arc<Self>) {
        let drain = {
            let mut writer = self.writer.lock();
            if writer.driven {
                self.more.notify_one();
                return;
            }
            writer.driven = true;
            self.drain(&mut writer)
        };
        self.cx.tasks.spawn("flush", drain);
    }

    /// The running drain, or a new one.
    fn drain(self: &Arc<Self>, writer: &mut Writer) -> Drain {
        self.more.notify_one();
        let file = Arc::clone(self);
        writer.drain.get_or_insert_with(move || file.run_drain().boxed().shared()).clone()
    }

    /// Takes every step that can be taken until none is left.
    async fn run_drain(self: Arc<Self>) {
        let mut running: FuturesUnordered<BoxFuture<'static, Event>> = FuturesUnordered::new();
        loop {
            let jobs = {
                let mut writer = self.writer.lock();
                let jobs = self.next_jobs(&mut writer);
                if jobs.is_empty() && running.is_empty() {
                    writer.drain = None;
                    writer.driven = false;
                    return;
                }
                jobs
            };
            running.extend(jobs.into_iter().map(|job| Arc::clone(&self).run(job).boxed()));
            tokio::select! {
                biased;
                Some(event) = running.next() => self.apply(event),
                () = self.more.notified() => {}
            }
        }
    }

    /// Starts whatever can be started: uploads of closed slices at once, commits only at the head of a chunk's queue.
    fn next_jobs(&self, writer: &mut Writer) -> SmallVec<[Job; 2]> {
        let mut jobs = SmallVec::new();
        // Chunks in ascending order: when a predecessor goes, its successors are looked at after it.
        let indexes: SmallVec<[ChunkIndex; 4]> = writer.chunks.keys().copied().collect();
        for index in indexes {
            while self.drop_failed_head(writer, index) {}
            let Some(slices) = writer.chunks.get_mut(&index) else { continue };
            for slice in slices.iter_mut() {
                if matches!(slice.phase, Phase::Frozen(_))
                    && let Phase::Frozen(sink) = std::mem::replace(&mut slice.phase, Phase::Uploading)
                {
                    jobs.push(Job::Upload { index, seq: slice.seq, sink });
                }
            }
            let waits_for = slices.front().and_then(|slice| slice.after);
            if waits_for.is_some_and(|seq| writer.is_pending_below(index, seq)) {
                continue;
            }
            if let Some(slice) = writer.chunks.get_mut(&index).and_then(|slices| slices.front_mut())
                && let Phase::Uploaded(id) = slice.phase
            {
                slice.phase = Phase::Committing;
                let record = SliceRecord { pos: slice.pos, id, size: slice.len, off: 0, len: slice.len };
                jobs.push(Job::Commit { index, seq: slice.seq, record, mtime: slice.mtime });
            }
        }
        jobs
    }

    /// Removes the first slice of a chunk when it is lost or must not be committed; dooms what depends on it.
    fn drop_failed_head(&self, writer: &mut Writer, index: ChunkIndex) -> bool {
        let Some(head) = writer.chunks.get(&index).and_then(|slices| slices.front()) else { return false };
        let (seq, grew) = (head.seq, head.grows);
        match head.phase {
            Phase::Failed => {}
            Phase::Uploaded(id) if head.doomed => {
                self.cx.upkeep.discard(SliceKey { id, size: head.len });
                self.fail(Errno::EIO);
            }
            _ => return false,
        }
        for slice in writer.chunks.range_mut(index..).flat_map(|(_, slices)| slices) {
            // The file must not grow over what is missing now.
            slice.doomed |= grew && slice.grows && slice.seq > seq;
        }
        self.pop_head(writer, index);
        true
    }

    fn pop_head(&self, writer: &mut Writer, index: ChunkIndex) {
        if let Some(slices) = writer.chunks.get_mut(&index) {
            slices.pop_front();
            if slices.is_empty() {
                writer.chunks.remove(&index);
            }
        }
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.cx.dirty.remove(self.ino);
        }
    }

    async fn run(self: Arc<Self>, job: Job) -> Event {
        match job {
            Job::Upload { index, seq, sink } => Event::Uploaded { index, seq, result: self.upload(sink).await },
            Job::Commit { index, seq, record, mtime } => {
                Event::Committed { index, seq, record, result: self.commit(index, record, mtime).await }
            }
        }
    }

    /// Makes the objects of a slice durable. The slice comes back when that fails.
    async fn upload(&self, mut sink: Box<dyn SliceWriter>) -> Result<SliceId, (Box<dyn SliceWriter>, Errno)> {
        let id = match sink.id() {
            Some(id) => id,
            None => match self.cx.meta.new_slice_id().await {
                Ok(id) => id,
                Err(error) => return Err((sink, fault::of_meta("new slice", self.ino, &error))),
            },
        };
        if sink.id().is_none() {
            sink.set_id(id);
        }
        match sink.finish().await {
            Ok(()) => Ok(id),
            Err(error) => Err((sink, fault::of_chunk("upload", self.ino, &error))),
        }
    }

    /// Puts an uploaded slice into its chunk.
    async fn commit(&self, index: ChunkIndex, record: SliceRecord, mtime: Timestamp) -> Result<Written, Errno> {
        let call = self.cx.meta.write_slice(self.ino, index, record, mtime);
        match self.cx.timed(MetaOp::Write, call).await {
            Ok(written) => {
                self.cx.compact_after_write(self.ino, index, written.records).await;
                Ok(written)
            }
            Err(MetaError::Posix(errno)) => {
                // Definitely not committed, so the objects belong to nobody.
                self.cx.upkeep.discard(SliceKey { id: record.id, size: record.size });
                let known = [Errno::ENOENT, Errno::ENOSPC, Errno::EDQUOT].contains(&errno);
                if !known {
                    tracing::error!(ino = %self.ino, index, %errno, "commit of a slice was refused");
                }
                Err(if known { errno } else { Errno::EIO })
            }
            // The outcome is unknown: the slice may be in place and must not be deleted.
            Err(error) => Err(fault::of_meta("commit of a slice", self.ino, &error)),
        }
    }

    fn apply(&self, event: Event) {
        match event {
            Event::Uploaded { index, seq, result } => self.writer.lock().sent(index, seq, result),
            Event::Committed { index, seq, record, result } => self.committed(index, seq, record, result),
        }
    }

    /// Views first: whoever finds the slice gone must not find an old view.
    fn committed(&self, index: ChunkIndex, seq: u64, record: SliceRecord, result: Result<Written, Errno>) {
        match result {
            Ok(written) => {
                self.views.lock().committed(index, record, written.records);
                self.epoch.fetch_add(1, Ordering::AcqRel);
                let mut writer = self.writer.lock();
                self.length.fetch_max(written.attr.length, Ordering::AcqRel);
                self.cx.stamps.touch(self.ino);
                self.pop_head(&mut writer, index);
            }
            Err(errno) => {
                // Perhaps it is in place all the same.
                let start = u64::from(index) * CHUNK_SIZE;
                self.content_changed(start..start + 1);
                self.fail(errno);
                if let Some(slice) = self.writer.lock().get_mut(index, seq) {
                    slice.phase = Phase::Failed;
                }
            }
        }
    }
}

impl Writer {
    fn is_pending_below(&self, index: ChunkIndex, seq: u64) -> bool {
        self.chunks.range(..index).rev().any(|(_, slices)| slices.iter().any(|slice| slice.seq == seq))
    }
}
