//! One slice of dirty data: which data it takes, and how far it has come.

use std::{mem, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use juicefs_core::{ChunkError, ChunkIndex, Errno, Lease, SliceId, SliceWriter, Timestamp, limits::CHUNK_SIZE};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::file::Unsent;

/// How far a slice has come.
pub(in crate::file) enum Phase {
    /// Takes more data.
    Open(Box<dyn SliceWriter>),
    /// Takes no more data and waits to be uploaded.
    Frozen(Box<dyn SliceWriter>),
    /// A drain uploads it.
    Uploading,
    /// Its objects are durable, and it waits for its turn to be committed.
    Uploaded(SliceId),
    /// A drain commits it.
    Committing,
    /// The store did not take it so far. The data is kept, and is uploaded again with the next flush, or after a while.
    Stuck(Box<dyn SliceWriter>),
    /// Its objects are durable, but the metadata engine did not take it so far. It is offered again with the next
    /// flush, or after a while.
    Parked(SliceId),
    /// It is lost.
    Failed,
}

/// An upload of a slice, or its commit, that failed.
#[derive(Clone, Copy)]
pub(in crate::file) struct Failure {
    /// The number of the try that failed.
    pub(super) number: u64,
    pub(super) errno: Errno,
    pub(super) at: Instant,
}

/// One contiguous piece of dirty data.
pub(in crate::file) struct Slice {
    /// Order of creation within the file.
    pub(in crate::file) seq: u64,
    /// Offset within the chunk.
    pub(in crate::file) pos: u32,
    /// Bytes.
    pub(in crate::file) len: u32,
    /// It goes where the file ends when it is committed. Its offset here is where that was when it was begun.
    pub(in crate::file) append: bool,
    /// A write to it made the file longer.
    pub(in crate::file) grows: bool,
    /// The slice that must be committed before, so that the file never grows over a gap.
    pub(in crate::file) after: Option<u64>,
    /// What the file grew by before was lost, so that this slice must not be committed.
    pub(in crate::file) doomed: bool,
    pub(super) born: Instant,
    pub(super) touched: Instant,
    /// When the application wrote last.
    pub(in crate::file) mtime: Timestamp,
    pub(in crate::file) phase: Phase,
    /// The number of its present try, or of its last one.
    pub(in crate::file) tried: u64,
    /// A handle whose data it has was lost, so that it must not be committed, and nobody sees it any more.
    pub(in crate::file) lost: bool,
    /// The last upload or commit, if it failed.
    pub(super) failed: Option<Failure>,
    /// The handles whose data it has.
    pub(super) from: SmallVec<[Arc<Unsent>; 1]>,
}

/// A part of a write that lies within one chunk, on its way into a slice.
pub(super) struct Part<'a> {
    pub(super) by: &'a Arc<Unsent>,
    pub(super) index: ChunkIndex,
    /// Offset within the chunk.
    pub(super) pos: u32,
    pub(super) data: Bytes,
    pub(super) lease: Lease,
    /// It goes to the end of the file.
    pub(super) append: bool,
    /// It makes the file longer.
    pub(super) grows: bool,
    pub(super) now: Instant,
    pub(super) mtime: Timestamp,
    /// Bytes of a block.
    pub(super) block: u32,
}

impl Part<'_> {
    /// End within the chunk.
    fn end(&self) -> u64 {
        u64::from(self.pos) + self.data.len() as u64
    }
}

/// What became of a part.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    /// The slice that has it.
    pub(super) seq: u64,
    /// The slice is as long as its chunk allows.
    pub(super) full: bool,
    /// The slice has blocks that can go up as soon as it has an id.
    pub(super) wants_id: bool,
}

/// What a slice has after a part was put into it.
struct Filled {
    len: u32,
    full: bool,
    wants_id: bool,
}

impl Slice {
    /// Begins a slice with `part`. `Misuse` when the store does not take that.
    pub(super) fn begin(
        seq: u64,
        after: Option<u64>,
        mut sink: Box<dyn SliceWriter>,
        mut part: Part<'_>,
    ) -> Result<(Self, Taken), ChunkError> {
        let filled = fill(sink.as_mut(), part.pos, &mut part)?;
        let mut slice = Self {
            seq,
            pos: part.pos,
            len: 0,
            append: part.append,
            grows: false,
            after,
            doomed: false,
            lost: false,
            born: part.now,
            touched: part.now,
            mtime: part.mtime,
            phase: Phase::Open(sink),
            tried: 0,
            failed: None,
            from: SmallVec::new(),
        };
        let taken = slice.took(&part, &filled);
        Ok((slice, taken))
    }

    /// Takes a part that continues or overwrites what is still open here, and gives back any other.
    pub(super) fn offer<'a>(&mut self, mut part: Part<'a>) -> ControlFlow<Result<Taken, ChunkError>, Part<'a>> {
        let end = self.end();
        let Phase::Open(sink) = &mut self.phase else { return ControlFlow::Continue(part) };
        let from = if self.append { end } else { self.pos + sink.sealed() };
        if self.append != part.append || !(from..=end).contains(&part.pos) {
            return ControlFlow::Continue(part);
        }
        let filled = fill(sink.as_mut(), self.pos, &mut part);
        ControlFlow::Break(filled.map(|filled| self.took(&part, &filled)))
    }

    fn took(&mut self, part: &Part<'_>, filled: &Filled) -> Taken {
        self.len = filled.len;
        (self.touched, self.mtime) = (part.now, part.mtime);
        self.grows |= part.grows;
        if !self.from.iter().any(|known| Arc::ptr_eq(known, part.by)) {
            self.from.push(Arc::clone(part.by));
        }
        Taken { seq: self.seq, full: filled.full, wants_id: filled.wants_id }
    }

    /// Whether it has data of a handle that is lost.
    pub(in crate::file) fn has_lost_handle(&self) -> bool {
        self.from.iter().any(|handle| handle.is_lost())
    }

    /// Marks it as lost, and with it every handle whose data it has.
    pub(in crate::file) fn lose(&mut self) {
        self.lost = true;
        self.from.iter().for_each(|handle| handle.lose());
    }

    pub(super) fn end(&self) -> u32 {
        self.pos + self.len
    }

    pub(super) fn overlaps(&self, start: u64, end: u64) -> bool {
        u64::from(self.pos) < end && start < u64::from(self.end())
    }

    /// Whether it would show through `part` if that came before it.
    pub(super) fn hides(&self, part: &Part<'_>) -> bool {
        self.overlaps(u64::from(part.pos), part.end())
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    pub(super) fn open_bytes(&self) -> usize {
        match &self.phase {
            Phase::Open(writer) => (self.len - writer.sealed().min(self.len)) as usize,
            _ => 0,
        }
    }

    /// Closes it: it takes no more data, and goes on with the next drain.
    pub(super) fn close(&mut self) {
        self.phase = match mem::replace(&mut self.phase, Phase::Uploading) {
            Phase::Open(sink) | Phase::Stuck(sink) => Phase::Frozen(sink),
            Phase::Parked(id) => Phase::Uploaded(id),
            other => other,
        };
    }

    /// Whether it is kept back because the store or the metadata engine did not take it.
    pub(super) fn is_kept_back(&self) -> bool {
        matches!(self.phase, Phase::Stuck(_) | Phase::Parked(_))
    }

    /// Keeps it back as it is, until somebody closes it anew. Those who wrote to it hear of `errno`.
    pub(super) fn keep_back(&mut self, phase: Phase, errno: Errno) {
        self.phase = phase;
        self.failed = Some(Failure { number: self.tried, errno, at: Instant::now() });
        self.from.iter().for_each(|handle| handle.note(errno));
    }
}

/// Puts a part into the data of a slice that begins at `start` of its chunk, and starts to upload what is complete.
fn fill(sink: &mut dyn SliceWriter, start: u32, part: &mut Part<'_>) -> Result<Filled, ChunkError> {
    let before = sink.len();
    sink.write(part.pos - start, mem::take(&mut part.data), mem::take(&mut part.lease))?;
    let len = sink.len();
    let full = u64::from(start) + u64::from(len) == CHUNK_SIZE;
    // A full slice is closed, and then all of it goes up.
    let has_more = !full && len / part.block > before / part.block;
    if has_more && sink.id().is_some() {
        sink.flush_to(len);
    }
    Ok(Filled { len, full, wants_id: has_more && sink.id().is_none() })
}
