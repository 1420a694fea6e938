//! Dirty data of one file: which slices are open, in which order they must be committed.
//!
//! Everything here is memory only and runs under one short lock; waiting happens in `drain.rs` and in `accept`.

mod accept;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures_util::future::{BoxFuture, Shared};
use juicefs_core::{ChunkIndex, Errno, SliceId, SliceWriter, Timestamp, limits::CHUNK_SIZE};
use smallvec::SmallVec;
use tokio::time::Instant;

pub(crate) use self::accept::Place;
use super::{Unsent, claim::Claim};

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
    /// Room for what the file grew by.
    pub(super) claim: Claim,
    /// The future that uploads and commits; whoever needs its result polls a clone of it.
    pub(super) drain: Option<Drain>,
    /// A task polls the drain.
    pub(super) driven: bool,
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
