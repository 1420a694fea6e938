//! The drain of a file, which carries closed slices to the object store and into the metadata.
//!
//! It is one future per file, and everyone who waits for it shares it: the first flush polls it on its own thread
//! without any hop, and others join in. When all of them go away before the end, the future stays with the file and the
//! background pass goes on with it, so that a cancelled flush loses nothing.

mod commit;

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use juicefs_core::{ChunkIndex, Errno, Joint, SliceId, SliceKey, SliceWriter, limits::CHUNK_SIZE, meta::Written};
use smallvec::SmallVec;

use self::commit::{Batch, Refusal};
use super::{
    File,
    writer::{Drain, Phase, Slice, Writer},
};
use crate::fault;

/// One step that can be taken now.
enum Step {
    Upload { index: ChunkIndex, seq: u64, sink: Box<dyn SliceWriter> },
    Commit(Batch),
}

/// A step that was taken.
enum Event {
    Uploaded { index: ChunkIndex, seq: u64, result: Result<SliceId, (Box<dyn SliceWriter>, Errno)> },
    Committed { batch: Batch, result: Result<Written, Refusal> },
}

impl File {
    /// Makes everything that was accepted so far durable and visible to other clients.
    ///
    /// It fails with the error of a write that was lost, now or earlier, or of data that the store does not take now:
    /// such data is kept, and another flush tries again. Cancel safe: the work goes on.
    pub(crate) async fn flush(self: &Arc<Self>) -> Result<(), Errno> {
        if self.is_dirty() {
            self.flush_range(0, u64::MAX).await?;
        }
        self.sticky_error()
    }

    /// Commits all accepted data that overlaps `[start, end)`, or loses it and notes the error.
    ///
    /// It fails when the store does not take some of that data, or of what must be there before; such data is kept.
    /// Cancel safe.
    pub(crate) async fn flush_range(self: &Arc<Self>, start: u64, end: u64) -> Result<(), Errno> {
        let mut begun = None;
        loop {
            let mut late = pin!(self.late.notified());
            late.as_mut().enable();
            let drain = {
                let mut writer = self.writer.lock();
                let begun = *begun.get_or_insert_with(|| writer.now());
                let upto = begun.next_seq;
                if !writer.overlaps(start, end, upto) {
                    return Ok(());
                }
                writer.check_late(begun)?;
                let adrift = writer.is_adrift();
                let pick = |index, slice: &Slice| {
                    let base = u64::from(index) * CHUNK_SIZE;
                    let from = base + u64::from(slice.pos);
                    let shows = from < end && start < from + u64::from(slice.len);
                    slice.seq < upto && (shows || (adrift && slice.append))
                };
                writer.freeze_again(pick, begun)?;
                self.drain(&mut writer)
            };
            tokio::select! {
                biased;
                () = drain => {}
                () = late => {}
            }
        }
    }

    /// Gives up data that the store or the metadata engine does not take, and notes the error. What waited for that
    /// data is left to the next flush.
    pub(crate) fn give_up(&self) {
        let (errno, objects) = self.writer.lock().give_up();
        objects.into_iter().for_each(|slice| self.cx.upkeep.discard(slice));
        if let Some(errno) = errno {
            tracing::error!(ino = %self.ino, %errno, "data that the store or the metadata engine did not take is lost");
            self.fail(errno);
        }
    }

    /// Commits everything that was accepted. Data that is not taken now is given up, and the error noted.
    pub(crate) async fn settle(self: &Arc<Self>) {
        while self.flush_range(0, u64::MAX).await.is_err() {
            self.give_up();
        }
    }

    /// Starts a task that carries on what was closed.
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

    /// The drain that runs, or a new one.
    fn drain(self: &Arc<Self>, writer: &mut Writer) -> Drain {
        self.more.notify_one();
        let file = Arc::clone(self);
        writer.drain.get_or_insert_with(move || Joint::new(file.run_drain())).clone()
    }

    /// Takes every step that can be taken until none is left.
    async fn run_drain(self: Arc<Self>) {
        let mut running: FuturesUnordered<BoxFuture<'static, Event>> = FuturesUnordered::new();
        loop {
            let steps = {
                let mut writer = self.writer.lock();
                let steps = self.next_steps(&mut writer);
                if steps.is_empty() && running.is_empty() {
                    writer.drain = None;
                    writer.driven = false;
                    return;
                }
                steps
            };
            running.extend(steps.into_iter().map(|step| Arc::clone(&self).run(step).boxed()));
            tokio::select! {
                biased;
                Some(event) = running.next() => self.apply(event),
                () = self.more.notified() => {}
            }
            // What is uploaded by now is committed together.
            while let Some(Some(event)) = running.next().now_or_never() {
                self.apply(event);
            }
        }
    }

    /// Starts whatever can be started: uploads of closed slices at once, and one commit of what is uploaded.
    fn next_steps(&self, writer: &mut Writer) -> SmallVec<[Step; 2]> {
        let mut steps = SmallVec::new();
        // Chunks in ascending order: when a predecessor goes, its successors are looked at after it.
        let indexes: SmallVec<[ChunkIndex; 4]> = writer.chunks.keys().copied().collect();
        for index in indexes {
            while self.drop_failed_head(writer, index) {}
            let number = writer.begin_try();
            for slice in writer.chunks.get_mut(&index).into_iter().flatten() {
                if matches!(slice.phase, Phase::Frozen(_))
                    && let Phase::Frozen(sink) = std::mem::replace(&mut slice.phase, Phase::Uploading)
                {
                    slice.tried = number;
                    steps.push(Step::Upload { index, seq: slice.seq, sink });
                }
            }
        }
        // Asked for under the lock under which handles are lost: what a batch has was not lost with an earlier session.
        if writer.committing.is_none()
            && let Some(batch) = writer.next_batch(self.cx.meta.session())
        {
            steps.push(Step::Commit(batch));
        }
        steps
    }

    /// Removes the first slice of a chunk if it is lost or must not be committed, and marks what depends on it as doomed.
    fn drop_failed_head(&self, writer: &mut Writer, index: ChunkIndex) -> bool {
        let Some(head) = writer.chunks.get(&index).and_then(|slices| slices.front()) else { return false };
        // Whoever grows the file over what is lost with a session leaves a hole there: the handles know.
        let (seq, grew) = (head.seq, head.grows && !head.lost);
        match head.phase {
            Phase::Failed => {}
            Phase::Uploaded(id) | Phase::Parked(id) if head.doomed || head.lost => {
                self.cx.upkeep.discard(SliceKey { id, size: head.len });
                if !head.lost {
                    self.fail(Errno::EIO);
                }
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
        writer.pop_head(index);
        self.one_less(writer);
    }

    /// Notes that a slice was taken away.
    pub(super) fn one_less(&self, writer: &mut Writer) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            writer.claim.release(self.cx.meta.as_ref(), self.ino);
            self.cx.dirty.remove(self);
        }
    }

    async fn run(self: Arc<Self>, step: Step) -> Event {
        match step {
            Step::Upload { index, seq, sink } => Event::Uploaded { index, seq, result: self.upload(sink).await },
            Step::Commit(batch) => {
                let result = self.commit(&batch).await;
                Event::Committed { batch, result }
            }
        }
    }

    /// Makes the objects of a slice durable. If that fails the slice comes back.
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

    fn apply(&self, event: Event) {
        match event {
            Event::Uploaded { index, seq, result } => self.writer.lock().sent(index, seq, result),
            Event::Committed { batch, result: Ok(written) } => self.committed(&batch, &written),
            Event::Committed { batch, result: Err(refusal) } => self.refused(&batch, &refusal),
        }
    }
}
