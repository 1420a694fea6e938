//! Dirty data of one file: which slices are open, in which order they must be committed.
//!
//! Everything here is memory only and runs under one short lock; waiting happens in `drain.rs` and in [`File::write`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared};
use juicefs_core::{
    ChunkIndex, Errno, Lease, SliceId, SliceWriter, Timestamp,
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    store::WriteOptions,
};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{File, Unsent};
use crate::fault;

/// Slices of one file that may wait for their commit; the next write waits for all of them.
const MAX_PENDING: usize = 1000;
/// Open slices of one chunk that a random writer may leave behind before older ones are closed.
const MAX_OPEN_BEHIND: usize = 3;

pub(super) type Drain = Shared<BoxFuture<'static, ()>>;

/// How far a slice has come.
pub(super) enum Phase {
    /// Takes more data.
    Open(Box<dyn SliceWriter>),
    /// Takes no more data and waits to be uploaded.
    Frozen(Box<dyn SliceWriter>),
    /// A drain uploads it.
    Uploading,
    /// Its objects are durable; waits for its turn to be committed.
    Uploaded(SliceId),
    /// A drain commits it.
    Committing,
    /// The store did not take it so far; the data is kept and goes up again with the next flush, or after a while.
    Stuck(Box<dyn SliceWriter>),
    /// It is lost.
    Failed,
}

/// An upload of a slice that failed.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    /// Its number among the failures of the file.
    serial: u64,
    errno: Errno,
    at: Instant,
}

/// One contiguous piece of dirty data.
pub(super) struct Slice {
    /// Order of creation within the file.
    pub(super) seq: u64,
    /// Offset within the chunk.
    pub(super) pos: u32,
    /// Bytes.
    pub(super) len: u32,
    /// It goes where the file ends when it is committed; its place here is where that was when it was begun.
    pub(super) append: bool,
    /// A write to it made the file longer.
    pub(super) grows: bool,
    /// The slice that must be committed before, so that the file never grows over a gap.
    pub(super) after: Option<u64>,
    /// What the file grew by before was lost: this slice must not be committed.
    pub(super) doomed: bool,
    born: Instant,
    touched: Instant,
    /// When the application wrote last.
    pub(super) mtime: Timestamp,
    pub(super) phase: Phase,
    /// The last upload, if it failed.
    failed: Option<Failure>,
    /// The handles whose data it has.
    from: SmallVec<[Arc<Unsent>; 1]>,
}

impl Slice {
    fn end(&self) -> u32 {
        self.pos + self.len
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        u64::from(self.pos) < end && start < u64::from(self.end())
    }

    fn open_bytes(&self) -> usize {
        match &self.phase {
            Phase::Open(writer) => (self.len - writer.sealed().min(self.len)) as usize,
            _ => 0,
        }
    }

    /// Takes no more data, and goes up with the next drain.
    fn close(&mut self) {
        if matches!(self.phase, Phase::Open(_) | Phase::Stuck(_)) {
            self.phase = match std::mem::replace(&mut self.phase, Phase::Uploading) {
                Phase::Open(sink) | Phase::Stuck(sink) => Phase::Frozen(sink),
                other => other,
            };
        }
    }

    fn note_writer(&mut self, by: &Arc<Unsent>) {
        if !self.from.iter().any(|known| Arc::ptr_eq(known, by)) {
            self.from.push(Arc::clone(by));
        }
    }
}

/// The dirty data of a file.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) chunks: BTreeMap<ChunkIndex, VecDeque<Slice>>,
    next_seq: u64,
    /// Uploads of slices that failed so far.
    failures: u64,
    /// Appending slices that are pending.
    appends: usize,
    /// Somebody else changed the length under pending appends: they will lie elsewhere than they say. Until they are
    /// committed no other data is taken for the end of the file.
    adrift: bool,
    /// A commit is under way.
    pub(super) committing: bool,
    /// Some of what was to be committed together was refused: until nothing is pending it goes one by one.
    pub(super) one_by_one: bool,
    mtime: Timestamp,
    /// The future that uploads and commits; whoever needs its result polls a clone of it.
    pub(super) drain: Option<Drain>,
    /// A task polls the drain.
    pub(super) driven: bool,
}

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

impl Writer {
    /// End of the furthest pending slice, 0 without any.
    pub(super) fn end(&self) -> u64 {
        let Some((index, slices)) = self.chunks.last_key_value() else { return 0 };
        let end = slices.iter().map(Slice::end).max().unwrap_or(0);
        u64::from(*index) * CHUNK_SIZE + u64::from(end)
    }

    /// When the application wrote last.
    pub(super) fn mtime(&self) -> Timestamp {
        self.mtime
    }

    /// The number that the next slice gets: slices below exist now.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    fn position(&self, index: ChunkIndex, seq: u64) -> Option<usize> {
        self.chunks.get(&index)?.iter().position(|slice| slice.seq == seq)
    }

    pub(super) fn get_mut(&mut self, index: ChunkIndex, seq: u64) -> Option<&mut Slice> {
        let at = self.position(index, seq)?;
        self.chunks.get_mut(&index)?.get_mut(at)
    }

    /// Where pending appends begin, as far as is known here.
    fn first_append(&self) -> Option<(u64, &Slice)> {
        if self.appends == 0 {
            return None;
        }
        let mut slices = self.chunks.iter().flat_map(|(index, slices)| slices.iter().map(move |slice| (index, slice)));
        let (index, slice) = slices.find(|(_, slice)| slice.append)?;
        Some((u64::from(*index) * CHUNK_SIZE + u64::from(slice.pos), slice))
    }

    /// The length that applications see when `stored` is that of the metadata; `None` when that cannot be told, for an append
    /// is just being committed.
    pub(super) fn length_over(&mut self, stored: u64) -> Option<u64> {
        let Some((start, first)) = self.first_append() else { return Some(stored.max(self.end())) };
        if matches!(first.phase, Phase::Committing) {
            return None;
        }
        self.adrift |= stored > start;
        if !self.adrift {
            return Some(stored.max(self.end()));
        }
        let bytes: u64 = self.chunks.values().flatten().filter(|slice| slice.append).map(|s| u64::from(s.len)).sum();
        Some(stored + bytes)
    }

    /// Whether the place of data that ends at `end`, or goes to the end of the file, is only known once pending appends are
    /// committed.
    fn must_settle(&self, place: Place, bytes: usize) -> bool {
        match place {
            Place::End => self.adrift,
            Place::At(off) => self.first_append().is_some_and(|(start, _)| self.adrift || off + bytes as u64 > start),
        }
    }

    /// Notes that pending appends will lie elsewhere than they say.
    pub(super) fn set_adrift(&mut self) {
        if self.appends > 0 {
            self.adrift = true;
            self.freeze(|_, slice| slice.append);
        }
    }

    /// Whether pending appends will lie elsewhere than they say.
    pub(super) fn is_adrift(&self) -> bool {
        self.adrift
    }

    /// Takes the first slice of a chunk away.
    pub(super) fn pop_head(&mut self, index: ChunkIndex) {
        let Some(slices) = self.chunks.get_mut(&index) else { return };
        if slices.pop_front().is_some_and(|slice| slice.append) {
            self.appends -= 1;
            self.adrift &= self.appends > 0;
        }
        if slices.is_empty() {
            self.chunks.remove(&index);
            self.one_by_one &= !self.chunks.is_empty();
        }
    }

    /// Whether a slice that is no younger than `upto` may show in `[start, end)` of the file.
    pub(super) fn overlaps(&self, start: u64, end: u64, upto: u64) -> bool {
        if self.adrift && self.chunks.values().flatten().any(|slice| slice.append && slice.seq < upto) {
            return true;
        }
        let first = ChunkIndex::try_from(start / CHUNK_SIZE).unwrap_or(ChunkIndex::MAX);
        self.chunks.range(first..).take_while(|(index, _)| u64::from(**index) * CHUNK_SIZE < end).any(
            |(index, slices)| {
                let base = u64::from(*index) * CHUNK_SIZE;
                let (start, end) = (start.saturating_sub(base), end - base);
                slices.iter().any(|slice| slice.seq < upto && slice.overlaps(start, end))
            },
        )
    }

    /// How many uploads of slices have failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Visits every slice that `pick` names, all before it in its chunk, and those that it depends on: what must be
    /// committed so that it can be.
    fn visit_needed(&mut self, mut pick: impl FnMut(ChunkIndex, &Slice) -> bool, mut visit: impl FnMut(&mut Slice)) {
        let mut needed: SmallVec<[u64; 8]> = SmallVec::new();
        // Slices depend on lower chunks only: one pass downwards finds them all.
        for (index, slices) in self.chunks.iter_mut().rev() {
            let Some(last) = slices.iter().rposition(|slice| needed.contains(&slice.seq) || pick(*index, slice)) else {
                continue;
            };
            for slice in slices.iter_mut().take(last + 1) {
                needed.extend(slice.after);
                visit(slice);
            }
        }
    }

    /// Freezes every open slice that `pick` needs. Returns how many bytes will be freed by uploading what was open, `None`
    /// when nothing changed.
    pub(super) fn freeze(&mut self, pick: impl FnMut(ChunkIndex, &Slice) -> bool) -> Option<usize> {
        let mut freed = None;
        self.visit_needed(pick, |slice| {
            if matches!(slice.phase, Phase::Open(_)) {
                *freed.get_or_insert(0) += slice.open_bytes();
                slice.close();
            }
        });
        freed
    }

    /// Freezes every slice that `pick` needs, those included that are to go up again.
    ///
    /// Changes nothing and fails when one of them failed to go up after the first `since` failures.
    pub(super) fn freeze_again(&mut self, pick: impl Fn(ChunkIndex, &Slice) -> bool, since: u64) -> Result<(), Errno> {
        let mut failed = Ok(());
        self.visit_needed(&pick, |slice| {
            if let Some(failure) = slice.failed.filter(|failure| failure.serial > since) {
                failed = Err(failure.errno);
            }
        });
        failed?;
        self.visit_needed(pick, Slice::close);
        Ok(())
    }

    /// Takes note of how the upload of a slice ended.
    pub(super) fn sent(&mut self, index: ChunkIndex, seq: u64, result: Result<SliceId, (Box<dyn SliceWriter>, Errno)>) {
        let serial = self.failures + 1;
        let Some(slice) = self.get_mut(index, seq) else { return };
        match result {
            Ok(id) => (slice.phase, slice.failed) = (Phase::Uploaded(id), None),
            Err((sink, errno)) => {
                slice.phase = Phase::Stuck(sink);
                slice.failed = Some(Failure { serial, errno, at: Instant::now() });
                slice.from.iter().for_each(|handle| handle.note(errno));
                self.failures = serial;
            }
        }
    }

    /// Gives up what the store did not take; the error that it met.
    pub(super) fn give_up(&mut self) -> Option<Errno> {
        let mut errno = None;
        for slice in self.chunks.values_mut().flatten().filter(|slice| matches!(slice.phase, Phase::Stuck(_))) {
            errno = errno.or(slice.failed.map(|failure| failure.errno));
            // A dropped writer cleans up after itself.
            slice.phase = Phase::Failed;
        }
        errno
    }

    /// The open slice of `index` that takes `size` bytes at `pos`, by its place in the queue. Slices that a random writer
    /// has left behind are named in `left`.
    fn choose(&self, index: ChunkIndex, pos: u32, size: u32, left: &mut Option<u64>) -> Option<usize> {
        let slices = self.chunks.get(&index)?;
        // Appends lie beyond whatever has a place of its own, and so are in nobody's way.
        for (behind, (at, slice)) in slices.iter().enumerate().rev().filter(|(_, slice)| !slice.append).enumerate() {
            if let Phase::Open(writer) = &slice.phase {
                if (slice.pos + writer.sealed()..=slice.end()).contains(&pos) {
                    return Some(at);
                }
                if behind > MAX_OPEN_BEHIND && left.is_none() {
                    *left = Some(slice.seq);
                }
            }
            if slice.overlaps(u64::from(pos), u64::from(pos) + u64::from(size)) {
                // What is newer must stay above what it hides.
                return None;
            }
        }
        None
    }

    /// The open slice that an append goes on with, by its place in the queue of its chunk.
    fn choose_append(&self, index: ChunkIndex, pos: u32) -> Option<usize> {
        let slices = self.chunks.get(&index)?;
        let at = slices.iter().rposition(|slice| slice.append)?;
        let goes_on = matches!(slices[at].phase, Phase::Open(_)) && slices[at].end() == pos;
        goes_on.then_some(at)
    }

    /// The growing slice that a slice of chunk `index`, which lies beyond the end of the file, must wait for.
    fn predecessor(&self, index: ChunkIndex) -> Option<u64> {
        let (_, slices) = self.chunks.range(..index).next_back()?;
        slices.iter().rev().find(|slice| slice.grows).map(|slice| slice.seq)
    }

    /// Open bytes that freezing would set free.
    pub(super) fn open_bytes(&self) -> usize {
        self.chunks.values().flatten().map(Slice::open_bytes).sum()
    }
}

impl File {
    /// Accepts `data`; it is durable after the next flush. Returns where it lies as far as is known here: data for the end
    /// of the file gets its place when it is committed.
    ///
    /// EFBIG beyond the largest file; the error of an earlier write that was lost, or that this handle knows to be not
    /// stored yet. Cancel safe: a dropped future has written a prefix of the data or none.
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
    pub(super) fn age_out(self: &Arc<Self>, now: Instant, old: Duration, idle: Duration, again: Duration) {
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

impl Writer {
    /// Lets slices go up again that failed as `pick` says.
    fn retry(&mut self, pick: impl Fn(&Failure) -> bool) {
        for slice in self.chunks.values_mut().flatten() {
            if matches!(slice.phase, Phase::Stuck(_)) && slice.failed.as_ref().is_some_and(&pick) {
                slice.close();
            }
        }
    }

    /// Whether something waits for a drain, and not only for what is stuck before it.
    fn can_go_on(&self) -> bool {
        self.chunks.values().any(|slices| {
            slices.iter().any(|slice| matches!(slice.phase, Phase::Frozen(_)))
                || slices
                    .iter()
                    .take_while(|slice| !matches!(slice.phase, Phase::Stuck(_)))
                    .any(|slice| !matches!(slice.phase, Phase::Open(_)))
        })
    }
}
