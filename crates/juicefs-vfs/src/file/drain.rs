//! Carries closed slices to the object store and into the metadata.
//!
//! One future per file does it, shared by everyone who waits for it: the first flush that comes polls it on its own
//! thread without any hop, others join in. When its pollers go away before the end, the future stays with the file and
//! the background pass goes on with it; nothing is lost by a cancelled flush.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use juicefs_core::{
    ChunkIndex, Errno, Joint, MetaError, SessionId, SliceId, SliceKey, SliceRecord, SliceWriter, Timestamp,
    limits::CHUNK_SIZE,
    meta::{NewSlice, Written},
};
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

use super::{
    File,
    writer::{Commit, Drain, Phase, Slice, Writer},
};
use crate::{fault, metrics::MetaOp};

/// Slices that are committed by one call at most.
const MAX_BATCH: usize = 100;

/// One step that can be taken now.
enum Job {
    Upload { index: ChunkIndex, seq: u64, sink: Box<dyn SliceWriter> },
    Commit(Batch),
}

/// A step that was taken.
enum Event {
    Uploaded { index: ChunkIndex, seq: u64, result: Result<SliceId, (Box<dyn SliceWriter>, Errno)> },
    Committed { batch: Batch, result: Result<Written, Refusal> },
}

/// Uploaded slices that are committed together, in this order.
struct Batch {
    /// The session in which they may be committed.
    session: SessionId,
    slices: Vec<Candidate>,
    /// When the application wrote last.
    mtime: Timestamp,
    /// Nobody wants the outcome any more.
    stop: CancellationToken,
}

/// One of them.
struct Candidate {
    seq: u64,
    index: ChunkIndex,
    record: SliceRecord,
    append: bool,
}

/// Why a batch was not committed.
enum Refusal {
    /// One of several was in the way.
    Mixed,
    /// The engine could not take it, and may be able to later.
    Later(Errno),
    /// The session was ended, and there is another one.
    Ended,
    Lost(Errno),
}

impl Candidate {
    /// Offset in the file as far as is known here.
    fn offset(&self) -> u64 {
        u64::from(self.index) * CHUNK_SIZE + u64::from(self.record.pos)
    }

    fn key(&self) -> SliceKey {
        SliceKey { id: self.record.id, size: self.record.size }
    }

    fn new_slice(&self) -> NewSlice {
        if self.append { NewSlice::End(self.key()) } else { NewSlice::At(self.index, self.record) }
    }
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

    /// Loses what neither the store nor the metadata engine takes, and notes the error. What waited for it is left to the
    /// next flush.
    pub(crate) fn give_up(&self) {
        let (errno, objects) = self.writer.lock().give_up();
        objects.into_iter().for_each(|slice| self.cx.upkeep.discard(slice));
        if let Some(errno) = errno {
            tracing::error!(ino = %self.ino, %errno, "data that the store or the metadata engine did not take is lost");
            self.fail(errno);
        }
    }

    /// Commits everything that was accepted, or loses what is not taken now and notes the error.
    pub(crate) async fn settle(self: &Arc<Self>) {
        while self.flush_range(0, u64::MAX).await.is_err() {
            self.give_up();
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
        writer.drain.get_or_insert_with(move || Joint::new(file.run_drain())).clone()
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
            // What is uploaded by now is committed together.
            while let Some(Some(event)) = running.next().now_or_never() {
                self.apply(event);
            }
        }
    }

    /// Starts whatever can be started: uploads of closed slices at once, and one commit of what is uploaded.
    fn next_jobs(&self, writer: &mut Writer) -> SmallVec<[Job; 2]> {
        let mut jobs = SmallVec::new();
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
                    jobs.push(Job::Upload { index, seq: slice.seq, sink });
                }
            }
        }
        // Asked for under the lock under which handles are lost: what a batch has was not lost with an earlier session.
        if writer.committing.is_none()
            && let Some(batch) = writer.next_batch(self.cx.meta.session())
        {
            jobs.push(Job::Commit(batch));
        }
        jobs
    }

    /// Removes the first slice of a chunk when it is lost or must not be committed; dooms what depends on it.
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

    /// A slice was taken away.
    pub(super) fn one_less(&self, writer: &mut Writer) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            writer.claim.release(self.cx.meta.as_ref(), self.ino);
            self.cx.dirty.remove(self);
        }
    }

    async fn run(self: Arc<Self>, job: Job) -> Event {
        match job {
            Job::Upload { index, seq, sink } => Event::Uploaded { index, seq, result: self.upload(sink).await },
            Job::Commit(batch) => {
                let result = self.commit(&batch).await;
                Event::Committed { batch, result }
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

    /// Puts uploaded slices into the file. As long as it cannot be known whether they are there this goes on: to commit
    /// them again could undo what others do meanwhile.
    async fn commit(&self, batch: &Batch) -> Result<Written, Refusal> {
        let slices = batch.slices.iter().map(Candidate::new_slice).collect();
        let call = self.cx.meta.write_slices(batch.session, self.ino, slices, batch.mtime);
        let mut call = pin!(self.cx.timed(MetaOp::Write, call));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut call => break outcome,
                () = batch.stop.cancelled() => {
                    tracing::error!(ino = %self.ino, "the outcome of a commit was not found out: its data may be lost");
                    return Err(Refusal::Lost(Errno::EIO));
                }
                () = tokio::time::sleep(self.cx.config.commit_patience) => {
                    tracing::warn!(ino = %self.ino, "a commit of slices has no answer yet, and goes on");
                    self.writer.lock().commit_is_late();
                    self.late.notify_waiters();
                }
            }
        };
        match outcome {
            Ok(written) => {
                for (index, records) in &written.chunks {
                    let more = batch.slices.iter().filter(|slice| slice.index == *index).count();
                    self.cx.compact_after_write(self.ino, *index, *records, more).await;
                }
                Ok(written)
            }
            Err(MetaError::Posix(_)) if batch.slices.len() > 1 => Err(Refusal::Mixed),
            Err(MetaError::Posix(errno)) => {
                // Definitely not committed, so the objects belong to nobody.
                batch.slices.iter().for_each(|slice| self.cx.upkeep.discard(slice.key()));
                let known = [Errno::ENOENT, Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG].contains(&errno);
                if !known {
                    tracing::error!(ino = %self.ino, %errno, "commit of a slice was refused");
                }
                Err(Refusal::Lost(if known { errno } else { Errno::EIO }))
            }
            // Nothing of it is there.
            Err(MetaError::Fenced) => match self.cx.meta.come_back().await {
                Ok(()) => Err(Refusal::Ended),
                Err(error) => Err(Refusal::Later(fault::of_meta("commit of slices", self.ino, &error))),
            },
            Err(error) => {
                let errno = fault::of_meta("commit of slices", self.ino, &error);
                Err(match error {
                    MetaError::Unavailable(_)
                    | MetaError::Conflict(_)
                    | MetaError::Corrupt { .. }
                    | MetaError::Setting(_) => Refusal::Later(errno),
                    MetaError::Fenced | MetaError::Unsupported(_) | MetaError::Posix(_) => Refusal::Lost(errno),
                })
            }
        }
    }

    fn apply(&self, event: Event) {
        match event {
            Event::Uploaded { index, seq, result } => self.writer.lock().sent(index, seq, result),
            Event::Committed { batch, result: Ok(written) } => self.committed(&batch, &written),
            Event::Committed { batch, result: Err(refusal) } => self.refused(&batch, &refusal),
        }
    }

    /// Views first: whoever finds the slices gone must not find an old view.
    fn committed(&self, batch: &Batch, written: &Written) {
        // Where something begins to lie elsewhere than was thought, for another client has changed the length.
        let places = batch.slices.iter().map(Candidate::offset).zip(written.offsets.iter().copied());
        let moved = places.filter(|(thought, real)| thought != real).map(|(thought, real)| thought.min(real)).min();
        if moved.is_some() {
            self.content_changed(0..u64::MAX);
        } else {
            let mut views = self.views.lock();
            for (index, count) in &written.chunks {
                let new = batch.slices.iter().filter(|slice| slice.index == *index).map(|slice| slice.record);
                views.committed(*index, new, *count);
            }
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        {
            let mut writer = self.writer.lock();
            writer.committing = None;
            self.stored.store(written.attr.length, Ordering::Release);
            batch.slices.iter().for_each(|slice| self.pop_head(&mut writer, slice.index));
            writer.claim.committed(self.cx.meta.as_ref(), self.ino, written.attr.length);
            if moved.is_none() {
                self.length.fetch_max(written.attr.length, Ordering::AcqRel);
            } else {
                writer.set_adrift();
                if let Some(length) = writer.length_over(written.attr.length) {
                    self.length.store(length, Ordering::Release);
                }
            }
            self.cx.stamps.touch(self.ino);
        }
        if let Some(off) = moved {
            self.cx.content_moved(self.ino, off);
        }
    }

    fn refused(&self, batch: &Batch, refusal: &Refusal) {
        if let Refusal::Lost(errno) = *refusal {
            // Perhaps it is in place all the same, appended data anywhere.
            let first = batch.slices.iter().map(Candidate::offset).min().unwrap_or(0);
            let anywhere = batch.slices.iter().any(|slice| slice.append);
            self.content_changed(if anywhere { 0 } else { first }..u64::MAX);
            self.fail(errno);
        }
        let mut writer = self.writer.lock();
        writer.committing = None;
        writer.one_by_one |= matches!(refusal, Refusal::Mixed);
        for &Candidate { index, seq, record, .. } in &batch.slices {
            match *refusal {
                // Also one that is lost: it goes with its objects when its turn comes.
                Refusal::Mixed | Refusal::Ended => writer.set_phase(index, seq, Phase::Uploaded(record.id)),
                Refusal::Later(errno) => writer.park(index, seq, record.id, errno),
                Refusal::Lost(_) => writer.set_phase(index, seq, Phase::Failed),
            }
        }
    }
}

impl Writer {
    /// The uploaded slices that can be committed now: from the head of each chunk's queue, with what they must follow.
    fn next_batch(&mut self, session: SessionId) -> Option<Batch> {
        let most = if self.one_by_one { 1 } else { MAX_BATCH };
        let mut batch =
            Batch { session, slices: Vec::new(), mtime: Timestamp::default(), stop: CancellationToken::new() };
        for (index, slices) in &self.chunks {
            for slice in slices.iter().take(most - batch.slices.len()) {
                let Phase::Uploaded(id) = slice.phase else { break };
                let follows = slice.after.is_none_or(|seq| {
                    batch.slices.iter().any(|taken| taken.seq == seq) || !self.is_pending_below(*index, seq)
                });
                if slice.doomed || slice.lost || !follows {
                    break;
                }
                let record = SliceRecord { pos: slice.pos, id, size: slice.len, off: 0, len: slice.len };
                batch.slices.push(Candidate { seq: slice.seq, index: *index, record, append: slice.append });
                batch.mtime = batch.mtime.max(slice.mtime);
            }
            if batch.slices.len() == most {
                break;
            }
        }
        if batch.slices.is_empty() {
            return None;
        }
        let number = self.begin_try();
        for candidate in &batch.slices {
            if let Some(slice) = self.pending_mut(candidate.index, candidate.seq) {
                (slice.phase, slice.tried) = (Phase::Committing, number);
            }
        }
        self.committing = Some(Commit::begin(batch.stop.clone()));
        Some(batch)
    }

    fn set_phase(&mut self, index: ChunkIndex, seq: u64, phase: Phase) {
        if let Some(slice) = self.pending_mut(index, seq) {
            slice.phase = phase;
        }
    }

    fn is_pending_below(&self, index: ChunkIndex, seq: u64) -> bool {
        self.chunks.range(..index).rev().any(|(_, slices)| slices.iter().any(|slice| slice.seq == seq))
    }
}
