//! Taking what applications write into slices.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{
    ChunkIndex, Errno, Lease, Timestamp,
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    store::WriteOptions,
};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{MAX_PENDING, Phase, Slice, Writer};
use crate::{
    fault,
    file::{File, Unsent},
};

/// Where written data goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// To this offset.
    At(u64),
    /// To wherever the file ends.
    End,
}

/// Data that was taken.
struct Taken {
    /// Where it lies as far as is known here.
    at: u64,
    bytes: usize,
    wants: Option<WantsId>,
}

/// What a write still needs after its data was taken.
struct WantsId {
    index: ChunkIndex,
    seq: u64,
}

impl File {
    /// Accepts `data`; it is durable after the next flush. Returns where it lies as far as is known here: data for the end
    /// of the file gets its place when it is committed.
    ///
    /// EFBIG beyond the largest file, ENOSPC when the volume has no room for it; the error of an earlier write that was lost,
    /// or that this handle knows to be not stored yet. Cancel safe: a dropped future has written a prefix of the data or none.
    pub(crate) async fn write(self: &Arc<Self>, by: &Arc<Unsent>, place: Place, data: Bytes) -> Result<u64, Errno> {
        let total = data.len();
        if let Place::At(off) = place
            && off.checked_add(total as u64).is_none_or(|end| end >= MAX_FILE_BYTES)
        {
            return Err(Errno::EFBIG);
        }
        let _pass = self.share().await;
        self.sticky_error()?;
        by.check()?;
        if self.pending.load(Ordering::Relaxed) >= MAX_PENDING || self.writer.lock().must_settle(place, total) {
            self.flush().await?;
        }
        let mut lease = self.cx.memory(total).await;
        let (mut place, mut rest, mut first) = (place, data, None);
        while !rest.is_empty() {
            let Some(taken) = self.put(by, place, &mut rest, &mut lease)? else {
                // Nothing is held while others are waited for.
                drop(std::mem::take(&mut lease));
                self.flush().await?;
                lease = self.cx.memory(rest.len()).await;
                continue;
            };
            if let Some(wants) = taken.wants {
                self.give_id(wants).await;
            }
            first = first.or(Some(taken.at));
            if let Place::At(off) = &mut place {
                *off += taken.bytes as u64;
            }
        }
        if self.cx.chunks.budget().waiting() > 0 {
            // Whoever waits must not wait for the age of what was just put here.
            self.cx.dirty.relieve(self.cx.chunks.budget(), total);
        }
        self.sticky_error()?;
        Ok(first.unwrap_or_else(|| self.length()))
    }

    /// Puts the first part of `rest`, as far as it lies within one chunk, into a slice. `None` when its place cannot be told
    /// before pending appends are committed.
    fn put(
        self: &Arc<Self>,
        by: &Arc<Unsent>,
        place: Place,
        rest: &mut Bytes,
        lease: &mut Lease,
    ) -> Result<Option<Taken>, Errno> {
        let (now, mtime) = (Instant::now(), self.cx.clock.now());
        let mut guard = self.writer.lock();
        let writer = &mut *guard;
        if writer.must_settle(place, rest.len()) {
            return Ok(None);
        }
        let length = self.length.load(Ordering::Relaxed);
        let (off, append) = match place {
            Place::At(off) => (off, false),
            Place::End => (length, true),
        };
        let bytes = rest.len().min(usize::try_from(CHUNK_SIZE - off % CHUNK_SIZE).unwrap_or(usize::MAX));
        let end = off.checked_add(bytes as u64).filter(|end| *end < MAX_FILE_BYTES).ok_or(Errno::EFBIG)?;
        let index = ChunkIndex::try_from(off / CHUNK_SIZE).map_err(|_| Errno::EFBIG)?;
        // For all of it: a write that does not fit is refused as a whole.
        writer.claim.grow(self.cx.meta.as_ref(), self.ino, length, off.saturating_add(rest.len() as u64))?;
        // Both lie within one chunk.
        let (pos, size) = ((off % CHUNK_SIZE) as u32, bytes as u32);
        let mut left = None;
        let chosen = if append { writer.choose_append(index, pos) } else { writer.choose(index, pos, size, &mut left) };
        let at = chosen.unwrap_or_else(|| self.begin_slice(writer, index, pos, append, length, now));
        let kick = left.is_some_and(|left| writer.freeze(|_, slice| slice.seq == left).is_some());
        let Some(slice) = writer.chunks.get_mut(&index).and_then(|slices| slices.get_mut(at)) else {
            return Err(Errno::EIO);
        };
        slice.note_writer(by);
        let Phase::Open(sink) = &mut slice.phase else { return Err(Errno::EIO) };
        let share = if bytes == rest.len() { std::mem::take(lease) } else { lease.split(bytes) };
        if let Err(error) = sink.write(pos - slice.pos, rest.split_to(bytes), share) {
            return Err(fault::of_chunk("write", self.ino, &error));
        }
        let block = u32::try_from(self.cx.chunks.block_size()).unwrap_or(u32::MAX);
        let new_block = sink.len() / block > slice.len / block;
        slice.len = sink.len();
        let full = u64::from(slice.pos + slice.len) == CHUNK_SIZE;
        (slice.touched, slice.mtime) = (now, mtime);
        writer.mtime = mtime;
        if end > length {
            slice.grows = true;
            self.length.store(end, Ordering::Release);
        }
        let mut wants = None;
        if full {
            let seq = slice.seq;
            writer.freeze(|_, slice| slice.seq == seq);
        } else if new_block && sink.id().is_some() {
            sink.flush_to(slice.len);
        } else if new_block {
            wants = Some(WantsId { index, seq: slice.seq });
        }
        drop(guard);
        self.cx.stamps.touch(self.ino);
        if kick || full {
            self.kick();
        }
        Ok(Some(Taken { at: off, bytes, wants }))
    }

    /// Begins a slice at the end of its chunk's queue and returns its place there.
    fn begin_slice(
        self: &Arc<Self>,
        writer: &mut Writer,
        index: ChunkIndex,
        pos: u32,
        append: bool,
        length: u64,
        now: Instant,
    ) -> usize {
        let beyond = u64::from(index) * CHUNK_SIZE >= length;
        let after = if beyond { writer.predecessor(index) } else { None };
        let seq = writer.next_seq;
        writer.next_seq += 1;
        writer.appends += usize::from(append);
        let sink = self.cx.chunks.writer(WriteOptions { tier: self.tier, direct: false });
        let slices = writer.chunks.entry(index).or_default();
        slices.push_back(Slice {
            seq,
            pos,
            len: 0,
            append,
            grows: false,
            after,
            doomed: false,
            born: now,
            touched: now,
            mtime: Timestamp::default(),
            phase: Phase::Open(sink),
            failed: None,
            from: SmallVec::new(),
        });
        if self.pending.fetch_add(1, Ordering::AcqRel) == 0 {
            self.cx.dirty.add(self);
        }
        slices.len() - 1
    }

    /// Gets an id for a slice that has full blocks, so that they go up while the file is still being written. A failure is
    /// not one of this write: the drain asks again.
    async fn give_id(&self, wants: WantsId) {
        let Ok(id) = self.cx.meta.new_slice_id().await else { return };
        let mut writer = self.writer.lock();
        if let Some(slice) = writer.get_mut(wants.index, wants.seq)
            && let Phase::Open(sink) = &mut slice.phase
            && sink.id().is_none()
        {
            sink.set_id(id);
            sink.flush_to(slice.len);
        }
    }

    /// Closes slices that are old or idle, or of which there are too many, and lets those go up again that failed to
    /// `again` ago. Called now and then for every dirty file.
    pub(in crate::file) fn age_out(self: &Arc<Self>, now: Instant, old: Duration, idle: Duration, again: Duration) {
        let crowded = self.pending.load(Ordering::Relaxed) > MAX_PENDING / 5 * 4;
        let stalled = {
            let mut writer = self.writer.lock();
            let newest = writer.next_seq.saturating_sub(MAX_PENDING as u64 / 10);
            writer.freeze(|_, slice| {
                now - slice.born > old || now - slice.touched > idle || (crowded && slice.seq < newest)
            });
            writer.retry(|failure| now - failure.at > again);
            !writer.driven && writer.can_go_on()
        };
        if stalled {
            self.kick();
        }
    }
}
