//! Commits: which uploaded slices go into the metadata together, and what becomes of the file then.

use std::{pin::pin, sync::atomic::Ordering};

use juicefs_core::{
    ChunkIndex, Errno, MetaError, SessionId, SliceKey, SliceRecord, Timestamp,
    limits::CHUNK_SIZE,
    meta::{NewSlice, Written},
};
use tokio_util::sync::CancellationToken;

use super::super::{
    File,
    writer::{Commit, Phase, Writer},
};
use crate::{fault, metrics::MetaOp};

/// How many slices one call commits at most.
const MAX_BATCH: usize = 100;

/// Uploaded slices that are committed together, in this order.
pub(super) struct Batch {
    /// The session in which they may be committed.
    session: SessionId,
    slices: Vec<Candidate>,
    /// When the application wrote last.
    mtime: Timestamp,
    /// Cancelled when nobody wants the outcome any more.
    stop: CancellationToken,
}

/// One slice of a batch.
pub(super) struct Candidate {
    seq: u64,
    index: ChunkIndex,
    record: SliceRecord,
    append: bool,
}

/// Why a batch was not committed.
pub(super) enum Refusal {
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
    /// Puts uploaded slices into the file. It goes on as long as nobody can know whether they are there, because to
    /// commit them again could undo what others do meanwhile.
    pub(super) async fn commit(&self, batch: &Batch) -> Result<Written, Refusal> {
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

    /// Takes note of a commit. The views change first, because whoever finds the slices gone must not find an old view.
    pub(super) fn committed(&self, batch: &Batch, written: &Written) {
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

    pub(super) fn refused(&self, batch: &Batch, refusal: &Refusal) {
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
    /// Gathers the uploaded slices that can be committed now: those at the head of the queue of each chunk, together
    /// with what they must follow.
    pub(super) fn next_batch(&mut self, session: SessionId) -> Option<Batch> {
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
