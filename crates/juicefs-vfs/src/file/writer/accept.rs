//! How what applications write is taken into slices.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{
    ChunkIndex, Errno, Lease,
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    store::WriteOptions,
};
use tokio::time::Instant;

use super::{Part, Phase};
use crate::{
    fault,
    file::{File, Unsent},
};

/// Where written data goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WriteAt {
    /// To this offset.
    Offset(u64),
    /// To wherever the file ends.
    End,
}

/// A part of a write that was accepted.
struct Accepted {
    /// Its offset, as far as is known here.
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
    /// Accepts `data`, which is durable after the next flush. Returns its offset as far as is known here: data for the
    /// end of the file gets its offset when it is committed.
    ///
    /// EFBIG beyond the largest file, ENOSPC when the volume has no room for it; the error of an earlier write that was
    /// lost, or that this handle knows to be not stored yet. Cancel safe: a dropped future has written a prefix of the
    /// data or none.
    pub(crate) async fn write(self: &Arc<Self>, by: &Arc<Unsent>, place: WriteAt, data: Bytes) -> Result<u64, Errno> {
        let total = data.len();
        if let WriteAt::Offset(off) = place
            && off.checked_add(total as u64).is_none_or(|end| end >= MAX_FILE_BYTES)
        {
            return Err(Errno::EFBIG);
        }
        let _pass = self.share().await;
        self.sticky_error()?;
        by.check()?;
        if self.pending.load(Ordering::Relaxed) >= self.cx.config.write_limits.pending_slices {
            self.cx.metrics.write_pressure.pending_full.fetch_add(1, Ordering::Relaxed);
            self.flush().await?;
        }
        let mut lease = self.cx.memory(total).await;
        let (mut place, mut rest, mut first) = (place, data, None);
        while !rest.is_empty() {
            let Some(accepted) = self.put(by, place, &mut rest, &mut lease)? else {
                // Nothing is held while others are waited for.
                drop(std::mem::take(&mut lease));
                self.flush().await?;
                lease = self.cx.memory(rest.len()).await;
                continue;
            };
            if let Some(wants) = accepted.wants {
                self.give_id(wants).await;
            }
            first = first.or(Some(accepted.at));
            if let WriteAt::Offset(off) = &mut place {
                *off += accepted.bytes as u64;
            }
        }
        if self.cx.chunks.budget().waiting() > 0 {
            // Whoever waits must not wait for the age of what was just put here.
            self.cx.dirty.relieve(self.cx.chunks.budget(), total);
        }
        self.sticky_error()?;
        Ok(first.unwrap_or_else(|| self.length()))
    }

    /// Puts the first part of `rest`, as far as it lies within one chunk, into a slice. `None` when its offset is not
    /// known before pending appends are committed.
    fn put(
        self: &Arc<Self>,
        by: &Arc<Unsent>,
        place: WriteAt,
        rest: &mut Bytes,
        lease: &mut Lease,
    ) -> Result<Option<Accepted>, Errno> {
        let (now, mtime) = (Instant::now(), self.cx.clock.now());
        let mut guard = self.writer.lock();
        let writer = &mut *guard;
        // Under this lock handles are lost.
        by.check_kept()?;
        if writer.must_settle(place, rest.len()) {
            return Ok(None);
        }
        let length = self.length.load(Ordering::Relaxed);
        let (off, append) = match place {
            WriteAt::Offset(off) => (off, false),
            WriteAt::End => (length, true),
        };
        let bytes = rest.len().min(usize::try_from(CHUNK_SIZE - off % CHUNK_SIZE).unwrap_or(usize::MAX));
        let end = off.checked_add(bytes as u64).filter(|end| *end < MAX_FILE_BYTES).ok_or(Errno::EFBIG)?;
        let index = ChunkIndex::try_from(off / CHUNK_SIZE).map_err(|_| Errno::EFBIG)?;
        // For all of it: a write that does not fit is refused as a whole.
        writer.claim.grow(self.cx.meta.as_ref(), self.ino, length, off.saturating_add(rest.len() as u64))?;
        let part = Part {
            by,
            index,
            // Within one chunk, so it fits.
            pos: (off % CHUNK_SIZE) as u32,
            lease: if bytes == rest.len() { std::mem::take(lease) } else { lease.split(bytes) },
            data: rest.split_to(bytes),
            append,
            grows: end > length,
            now,
            mtime,
            block: u32::try_from(self.cx.chunks.block_size()).unwrap_or(u32::MAX),
        };
        let sink = || self.cx.chunks.writer(WriteOptions { tier: self.tier, direct: false });
        let (taken, begun) =
            writer.put(part, length, sink).map_err(|error| fault::of_chunk("write", self.ino, &error))?;
        writer.mtime = mtime;
        if end > length {
            self.length.store(end, Ordering::Release);
        }
        let mut kick = false;
        if begun {
            if self.pending.fetch_add(1, Ordering::AcqRel) == 0 {
                self.cx.dirty.add(Arc::clone(self) as _);
            }
            if writer.close_left_behind(index, self.cx.config.write_limits.open_behind) {
                self.cx.metrics.write_pressure.left_behind.fetch_add(1, Ordering::Relaxed);
                kick = true;
            }
        }
        if taken.full {
            kick |= writer.freeze(|_, slice| slice.seq == taken.seq).is_some();
        }
        drop(guard);
        self.cx.stamps.touch(self.ino);
        if kick {
            self.kick();
        }
        Ok(Some(Accepted { at: off, bytes, wants: taken.wants_id.then_some(WantsId { index, seq: taken.seq }) }))
    }

    /// Gets an id for a slice that has full blocks, so that they are uploaded while the file is still being written. A
    /// failure does not fail the write, because the drain asks again.
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

    /// Closes slices that are old or idle, or of which there are too many, and lets those go on that failed `again`
    /// ago. It is called now and then for every dirty file.
    pub(in crate::file) fn age_out(self: &Arc<Self>, now: Instant, old: Duration, idle: Duration, again: Duration) {
        let most = self.cx.config.write_limits.pending_slices;
        let crowded = self.pending.load(Ordering::Relaxed) > most / 5 * 4;
        let stalled = {
            let mut writer = self.writer.lock();
            let newest = writer.next_seq.saturating_sub(most as u64 / 10);
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
