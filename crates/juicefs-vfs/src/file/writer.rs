//! The dirty data of one file: which slices are open, and in which order they must be committed.
//!
//! Everything here works on memory only and runs under one short lock. What waits is in `drain.rs` and in `accept`.

mod accept;
mod slice;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    time::Duration,
};

use juicefs_core::{
    ChunkError, ChunkIndex, Errno, Joint, SliceId, SliceKey, SliceWriter, Timestamp, limits::CHUNK_SIZE,
};
use smallvec::SmallVec;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::accept::WriteAt;
pub(super) use self::slice::{Failure, Phase, Slice};
use self::slice::{Part, Taken};
use super::claim::Claim;

pub(super) type Drain = Joint<()>;

/// After this long a flush may fail by a try that began before it. In a long outage one try may take minutes, so that
/// its end says enough.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// What exists and what has been tried at some moment.
#[derive(Clone, Copy)]
pub(super) struct Stand {
    /// The number that the next slice gets. Slices with lower numbers exist.
    pub(super) next_seq: u64,
    tries: u64,
    late: u64,
    at: Instant,
}

impl Stand {
    /// Whether a failure says something about now: its try has begun since, or the failure came so much later that
    /// another try would hardly end otherwise.
    fn is_before(&self, failure: &Failure) -> bool {
        failure.number > self.tries || failure.at >= self.at + ASKED_WITHIN
    }
}

/// A commit under way.
pub(super) struct Commit {
    pub(super) stop: CancellationToken,
    late: bool,
}

impl Commit {
    pub(super) fn begin(stop: CancellationToken) -> Self {
        Self { stop, late: false }
    }
}

/// The dirty data of a file.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) chunks: BTreeMap<ChunkIndex, VecDeque<Slice>>,
    next_seq: u64,
    /// How many tries there were to upload slices, and to commit them. Those that begin together count as one.
    tries: u64,
    /// How many commits took longer than anybody should wait.
    late: u64,
    /// How many appending slices are pending.
    appends: usize,
    /// Somebody else changed the length of the file while appends were pending, so that they will lie elsewhere than
    /// they say. Until they are committed no other data is accepted for the end of the file.
    adrift: bool,
    /// The commit that is under way.
    pub(super) committing: Option<Commit>,
    /// Some of what was to be committed together was refused, so that slices go one by one until nothing is pending.
    pub(super) one_by_one: bool,
    mtime: Timestamp,
    /// Room for what the file grew by.
    pub(super) claim: Claim,
    /// The future that uploads and commits. Whoever needs its result polls a clone of it.
    pub(super) drain: Option<Drain>,
    /// A task polls the drain.
    pub(super) driven: bool,
}

impl Writer {
    /// End of the furthest pending slice, 0 without any.
    pub(super) fn end(&self) -> u64 {
        for (index, slices) in self.chunks.iter().rev() {
            if let Some(end) = slices.iter().filter(|slice| !slice.lost).map(Slice::end).max() {
                return u64::from(*index) * CHUNK_SIZE + u64::from(end);
            }
        }
        0
    }

    /// When the application wrote last.
    pub(super) fn mtime(&self) -> Timestamp {
        self.mtime
    }

    fn position(&self, index: ChunkIndex, seq: u64) -> Option<usize> {
        self.chunks.get(&index)?.iter().position(|slice| slice.seq == seq)
    }

    fn get_mut(&mut self, index: ChunkIndex, seq: u64) -> Option<&mut Slice> {
        let at = self.position(index, seq)?;
        self.chunks.get_mut(&index)?.get_mut(at)
    }

    /// A slice that a drain works on. It stays where it is until that work has ended.
    pub(super) fn pending_mut(&mut self, index: ChunkIndex, seq: u64) -> Option<&mut Slice> {
        let slice = self.get_mut(index, seq);
        if slice.is_none() {
            tracing::error!(index, seq, "a slice went away while it was uploaded or committed");
            debug_assert!(false, "invariant: slice {seq} of chunk {index} is pending");
        }
        slice
    }

    /// Where pending appends begin, as far as is known here.
    fn first_append(&self) -> Option<(u64, &Slice)> {
        if self.appends == 0 {
            return None;
        }
        let mut slices = self.chunks.iter().flat_map(|(index, slices)| slices.iter().map(move |slice| (index, slice)));
        let (index, slice) = slices.find(|(_, slice)| slice.append && !slice.lost)?;
        Some((u64::from(*index) * CHUNK_SIZE + u64::from(slice.pos), slice))
    }

    /// The length that applications see when the metadata says `stored`. `None` when nobody can tell, because an append
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
        let appends = self.chunks.values().flatten().filter(|slice| slice.append && !slice.lost);
        let bytes: u64 = appends.map(|slice| u64::from(slice.len)).sum();
        Some(stored + bytes)
    }

    /// Whether the offset of `bytes` of data is only known once pending appends are committed.
    fn must_settle(&self, place: WriteAt, bytes: usize) -> bool {
        match place {
            WriteAt::End => self.adrift,
            WriteAt::Offset(off) => {
                self.first_append().is_some_and(|(start, _)| self.adrift || off + bytes as u64 > start)
            }
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
        let append = slices.pop_front().is_some_and(|slice| slice.append);
        if slices.is_empty() {
            self.chunks.remove(&index);
        }
        self.fewer_appends(usize::from(append));
    }

    /// Takes note that slices were taken away, of which `appends` were appends.
    pub(super) fn fewer_appends(&mut self, appends: usize) {
        self.appends -= appends;
        self.adrift &= self.appends > 0;
        self.one_by_one &= !self.chunks.is_empty();
    }

    /// Whether a slice that is no younger than `upto` may show in `[start, end)` of the file.
    pub(super) fn overlaps(&self, start: u64, end: u64, upto: u64) -> bool {
        let waits = |slice: &Slice| !slice.lost && slice.seq < upto;
        if self.adrift && self.chunks.values().flatten().any(|slice| slice.append && waits(slice)) {
            return true;
        }
        let first = ChunkIndex::try_from(start / CHUNK_SIZE).unwrap_or(ChunkIndex::MAX);
        self.chunks.range(first..).take_while(|(index, _)| u64::from(**index) * CHUNK_SIZE < end).any(
            |(index, slices)| {
                let base = u64::from(*index) * CHUNK_SIZE;
                let (start, end) = (start.saturating_sub(base), end - base);
                slices.iter().any(|slice| waits(slice) && slice.overlaps(start, end))
            },
        )
    }

    /// What exists and what has been tried by now.
    pub(super) fn now(&self) -> Stand {
        Stand { next_seq: self.next_seq, tries: self.tries, late: self.late, at: Instant::now() }
    }

    /// The number of a try that begins now.
    pub(super) fn begin_try(&mut self) -> u64 {
        self.tries += 1;
        self.tries
    }

    /// EIO when a commit has turned out to be late since.
    pub(super) fn check_late(&self, since: Stand) -> Result<(), Errno> {
        if self.late > since.late { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Notes that the commit under way takes longer than anybody should wait. It goes on, and whoever wrote hears of it.
    pub(super) fn commit_is_late(&mut self) {
        self.late += 1;
        if let Some(commit) = &mut self.committing {
            commit.late = true;
        }
        for slice in self.chunks.values().flatten() {
            slice.from.iter().for_each(|handle| handle.note(Errno::EIO));
        }
    }

    /// Visits every slice that `pick` names, with what must be committed before it can be: all slices before it in its
    /// chunk, and those that it depends on.
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

    /// Freezes every slice that `pick` needs, also those that are to be uploaded or committed again.
    ///
    /// If a try that began since has failed for one of them, this changes nothing and fails. A try that began before
    /// says nothing about now: whoever mended the store since would hear of the time before.
    pub(super) fn freeze_again(
        &mut self,
        pick: impl Fn(ChunkIndex, &Slice) -> bool,
        since: Stand,
    ) -> Result<(), Errno> {
        let mut failed = Ok(());
        self.visit_needed(&pick, |slice| {
            if let Some(failure) = slice.failed.filter(|failure| since.is_before(failure)) {
                failed = Err(failure.errno);
            }
        });
        failed?;
        self.visit_needed(pick, Slice::close);
        Ok(())
    }

    /// Takes note of how the upload of a slice ended.
    pub(super) fn sent(&mut self, index: ChunkIndex, seq: u64, result: Result<SliceId, (Box<dyn SliceWriter>, Errno)>) {
        let Some(slice) = self.pending_mut(index, seq) else { return };
        match result {
            Err(_) if slice.lost => slice.phase = Phase::Failed,
            Ok(id) => (slice.phase, slice.failed) = (Phase::Uploaded(id), None),
            Err((sink, errno)) => slice.keep_back(Phase::Stuck(sink), errno),
        }
    }

    /// Notes that the metadata engine did not take a slice.
    pub(super) fn park(&mut self, index: ChunkIndex, seq: u64, id: SliceId, errno: Errno) {
        if let Some(slice) = self.pending_mut(index, seq) {
            if slice.lost {
                // It goes with its objects when its turn comes.
                slice.phase = Phase::Uploaded(id);
                return;
            }
            slice.keep_back(Phase::Parked(id), errno);
        }
    }

    /// Gives up what the store or the metadata engine did not take. Returns the error that it met, and what is left of
    /// it in the store. A commit that is late is broken off, and its end tells what became of it.
    pub(super) fn give_up(&mut self) -> (Option<Errno>, Vec<SliceKey>) {
        let (mut errno, mut objects) = (None, Vec::new());
        for slice in self.chunks.values_mut().flatten().filter(|slice| slice.is_kept_back()) {
            errno = errno.or(slice.failed.map(|failure| failure.errno));
            if let Phase::Parked(id) = slice.phase {
                objects.push(SliceKey { id, size: slice.len });
            }
            // A dropped writer cleans up after itself.
            slice.phase = Phase::Failed;
        }
        if let Some(commit) = self.committing.as_ref().filter(|commit| commit.late) {
            commit.stop.cancel();
        }
        (errno, objects)
    }

    /// Puts a part into the open slice that can take it, or begins a slice with it at the end of the queue of its
    /// chunk. `length` is that of the file before. The result tells also whether a slice was begun.
    ///
    /// To find the slice and to fill it is one step, so that nothing can close it in between.
    fn put(
        &mut self,
        part: Part<'_>,
        length: u64,
        sink: impl FnOnce() -> Box<dyn SliceWriter>,
    ) -> Result<(Taken, bool), ChunkError> {
        let part = match self.offer(part) {
            ControlFlow::Break(taken) => return Ok((taken?, false)),
            ControlFlow::Continue(part) => part,
        };
        let (index, append) = (part.index, part.append);
        let beyond = u64::from(index) * CHUNK_SIZE >= length;
        let after = if beyond { self.predecessor(index) } else { None };
        let (slice, taken) = Slice::begin(self.next_seq, after, sink(), part)?;
        self.next_seq += 1;
        self.appends += usize::from(append);
        self.chunks.entry(index).or_default().push_back(slice);
        Ok((taken, true))
    }

    /// Offers a part to the open slices of its chunk, the newest first, as far as order allows.
    fn offer<'a>(&mut self, mut part: Part<'a>) -> ControlFlow<Result<Taken, ChunkError>, Part<'a>> {
        let append = part.append;
        // Appends lie beyond whatever has a place of its own, and so neither is in the way of the other.
        let slices =
            self.chunks.get_mut(&part.index).into_iter().flatten().rev().filter(|slice| slice.append == append);
        for slice in slices {
            part = slice.offer(part)?;
            // What is newer must stay above what it hides, and appends in their order.
            if append || slice.hides(&part) {
                break;
            }
        }
        ControlFlow::Continue(part)
    }

    /// Closes what a random writer has left open in a chunk behind the newest slice and `behind` more. Returns whether
    /// anything was closed.
    fn close_left_behind(&mut self, index: ChunkIndex, behind: usize) -> bool {
        let slices = self.chunks.get(&index).into_iter().flatten().rev().filter(|slice| !slice.append);
        let left = slices.skip(behind + 1).find(|slice| slice.is_open()).map(|slice| slice.seq);
        left.is_some_and(|left| self.freeze(|_, slice| slice.seq == left).is_some())
    }

    /// The growing slice that a slice of chunk `index`, which lies beyond the end of the file, must wait for.
    fn predecessor(&self, index: ChunkIndex) -> Option<u64> {
        let (_, slices) = self.chunks.range(..index).next_back()?;
        slices.iter().rev().find(|slice| slice.grows && !slice.lost).map(|slice| slice.seq)
    }

    /// How many open bytes freezing would set free.
    pub(super) fn open_bytes(&self) -> usize {
        self.chunks.values().flatten().map(Slice::open_bytes).sum()
    }
}

impl Writer {
    /// Lets those slices go on again whose failure `pick` names.
    fn retry(&mut self, pick: impl Fn(&Failure) -> bool) {
        for slice in self.chunks.values_mut().flatten() {
            if slice.is_kept_back() && slice.failed.as_ref().is_some_and(&pick) {
                slice.close();
            }
        }
    }

    /// Whether a slice waits for a drain, and not only for what is kept back before it.
    fn can_go_on(&self) -> bool {
        self.chunks.values().any(|slices| {
            slices.iter().any(|slice| matches!(slice.phase, Phase::Frozen(_)))
                || slices.iter().take_while(|slice| !slice.is_kept_back()).any(|slice| !slice.is_open())
        })
    }
}
