//! The views of a file, which say where its committed content lies. They are cached per chunk.

use std::{collections::HashMap, ops::RangeInclusive, sync::Arc};

use juicefs_core::{
    ChunkIndex, Errno, Ino, Joint, MetaError, Piece, SliceKey, SliceRecord, WeakJoint,
    limits::CHUNK_SIZE,
    slice::{plan_compaction, resolve},
    store::Stretch,
};
use smallvec::SmallVec;

use super::File;
use crate::{context::Context, fault, metrics::MetaOp};

/// How many records and pieces the views of one file may have in all, of some 30 bytes each. It is enough for a
/// terabyte that is written in one go. When there are more, all views are dropped.
const MAX_ENTRIES: usize = 1 << 18;
/// A view of this many pieces is worth compacting.
const MANY_PIECES: usize = 5;

/// A stretch of a file: a part of one slice, or zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    /// Nothing was written here.
    Zeros { len: u64 },
    /// `[off, off + len)` of a slice.
    Data { key: SliceKey, off: u32, len: u32 },
}

impl Extent {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Zeros { len } => *len,
            Self::Data { len, .. } => u64::from(*len),
        }
    }

    /// What is to be read of a slice; `None` for zeros.
    pub(super) fn stretch(&self) -> Option<Stretch> {
        match *self {
            Self::Zeros { .. } => None,
            Self::Data { key, off, len } => Some(Stretch { slice: key, off, len }),
        }
    }
}

/// The views of a file's chunks.
#[derive(Default)]
pub(super) struct Views {
    /// Grows with every change. A view that was asked for before is not kept.
    generation: u64,
    chunks: HashMap<ChunkIndex, View>,
    /// Records and pieces of all chunks, and one more for each.
    entries: usize,
    /// Lists that are being asked for, with the generation of the question, so that reads beside each other ask once.
    /// Only those who wait own the question: one that nobody polls any more would keep what it holds of the engine for
    /// ever.
    asked: HashMap<ChunkIndex, (u64, WeakJoint<Result<View, Errno>>)>,
}

/// The list of a chunk and what it shows.
#[derive(Clone)]
struct View {
    records: Arc<Vec<SliceRecord>>,
    pieces: Arc<[Piece]>,
}

impl View {
    fn entries(&self) -> usize {
        self.records.len() + self.pieces.len() + 1
    }
}

impl Views {
    /// Keeps a view, within bounds.
    fn keep(&mut self, index: ChunkIndex, view: View) {
        self.take(index);
        let more = view.entries();
        if self.entries + more > MAX_ENTRIES {
            self.chunks.clear();
            self.entries = 0;
        }
        // One that is larger than all may be is used once.
        if more <= MAX_ENTRIES {
            self.entries += more;
            self.chunks.insert(index, view);
        }
    }

    fn take(&mut self, index: ChunkIndex) -> Option<View> {
        let view = self.chunks.remove(&index)?;
        self.entries -= view.entries();
        Some(view)
    }

    /// Takes note of a commit of ours that made the list `count` records long. If the list is otherwise the known one,
    /// the view goes on with the new records; if somebody else has changed it too, the view is forgotten.
    pub(super) fn committed(&mut self, index: ChunkIndex, new: impl Iterator<Item = SliceRecord>, count: usize) {
        self.generation += 1;
        if let Some(mut view) = self.take(index) {
            Arc::make_mut(&mut view.records).extend(new);
            if view.records.len() == count {
                view.pieces = resolve(&view.records).into();
                self.keep(index, view);
            }
        }
    }

    pub(super) fn forget(&mut self, chunks: RangeInclusive<u64>) {
        self.generation += 1;
        self.asked.clear();
        self.chunks.retain(|index, view| {
            let stays = !chunks.contains(&u64::from(*index));
            self.entries -= if stays { 0 } else { view.entries() };
            stays
        });
    }
}

impl File {
    /// The view of one chunk, from memory or from the metadata. ENOENT when the inode is gone.
    pub(super) async fn view(self: &Arc<Self>, index: ChunkIndex) -> Result<Arc<[Piece]>, Errno> {
        let (generation, asked) = {
            let mut views = self.views.lock();
            if let Some(view) = views.chunks.get(&index) {
                return Ok(Arc::clone(&view.pieces));
            }
            let generation = views.generation;
            let asked = views.asked.get(&index).filter(|(since, _)| *since == generation);
            let asked = asked.and_then(|(_, asked)| asked.upgrade()).unwrap_or_else(|| {
                let asked = Joint::new(ask(Arc::clone(&self.cx), self.ino, index));
                views.asked.insert(index, (generation, asked.downgrade()));
                asked
            });
            (generation, asked)
        };
        let answer = asked.await;
        let mut views = self.views.lock();
        if views.generation != generation {
            return answer.map(|view| view.pieces);
        }
        views.asked.remove(&index);
        let view = answer?;
        let pieces = Arc::clone(&view.pieces);
        views.keep(index, view);
        Ok(pieces)
    }

    /// The stretches that make up `[off, off + len)`, neighbouring zeros joined.
    pub(crate) async fn extents(self: &Arc<Self>, off: u64, len: u64) -> Result<SmallVec<[Extent; 4]>, Errno> {
        let mut out = SmallVec::new();
        for (index, from, to) in parts(off, len) {
            let index = index.ok_or(Errno::EFBIG)?;
            cut(&self.view(index).await?, from, to, &mut out);
        }
        Ok(out)
    }

    /// The stretches of [`File::extents`], if they are known without asking.
    pub(crate) fn known_extents(&self, off: u64, len: u64) -> Option<SmallVec<[Extent; 4]>> {
        let views = self.views.lock();
        let mut out = SmallVec::new();
        for (index, from, to) in parts(off, len) {
            cut(&views.chunks.get(&index?)?.pieces, from, to, &mut out);
        }
        Some(out)
    }

    /// The offset at which the next chunk begins that was ever written to, from `at` on, where a chunk begins. `length`
    /// when there is none before.
    pub(crate) async fn next_stored(&self, at: u64, length: u64) -> Result<u64, Errno> {
        let index = |at: u64| ChunkIndex::try_from(at / CHUNK_SIZE).unwrap_or(ChunkIndex::MAX);
        let range = index(at)..index(length.saturating_sub(1)).saturating_add(1);
        let stored = self.cx.timed(MetaOp::Read, self.cx.meta.stored_chunks(self.ino, range, 1)).await;
        let stored = stored.map_err(|error| fault::of_meta("search for data", self.ino, &error))?;
        Ok(stored.first().map_or(length, |index| u64::from(*index) * CHUNK_SIZE).clamp(at, length))
    }
}

/// The parts of `[off, off + len)` by chunk, with the offsets at which they begin and end there. The chunk is `None`
/// beyond the last one.
fn parts(off: u64, len: u64) -> impl Iterator<Item = (Option<ChunkIndex>, u32, u32)> {
    let end = off + len;
    let mut at = off;
    std::iter::from_fn(move || {
        let base = at - at % CHUNK_SIZE;
        let upto = end.min(base + CHUNK_SIZE);
        // Both lie within one chunk, so they fit.
        let part = (ChunkIndex::try_from(base / CHUNK_SIZE).ok(), (at - base) as u32, (upto - base) as u32);
        let more = at < end;
        at = upto;
        more.then_some(part)
    })
}

/// What `[from, to)` of a chunk shows.
fn cut(view: &[Piece], from: u32, to: u32, out: &mut SmallVec<[Extent; 4]>) {
    let first = view.partition_point(|piece| piece.pos + piece.len <= from);
    let mut covered = from;
    for piece in view[first..].iter().map_while(|piece| piece.clip(from, to)) {
        covered = piece.pos + piece.len;
        match piece.key() {
            Some(key) => out.push(Extent::Data { key, off: piece.off, len: piece.len }),
            None => push_hole(out, u64::from(piece.len)),
        }
    }
    push_hole(out, u64::from(to - covered));
}

/// Asks for the list of a chunk.
async fn ask(cx: Arc<Context>, ino: Ino, index: ChunkIndex) -> Result<View, Errno> {
    let records = match cx.timed(MetaOp::Read, cx.meta.read_chunk(ino, index)).await {
        Ok(chunk) => chunk.records,
        Err(MetaError::Posix(errno)) => return Err(errno),
        Err(error) => return Err(fault::of_meta("read of a slice list", ino, &error)),
    };
    let pieces: Arc<[Piece]> = resolve(&records).into();
    if (records.len() >= MANY_PIECES || pieces.len() >= MANY_PIECES) && plan_compaction(&records, 1000).is_some() {
        cx.compact_soon(ino, index);
    }
    Ok(View { records: Arc::new(records), pieces })
}

fn push_hole(out: &mut SmallVec<[Extent; 4]>, more: u64) {
    match out.last_mut() {
        _ if more == 0 => {}
        Some(Extent::Zeros { len }) => *len += more,
        _ => out.push(Extent::Zeros { len: more }),
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::SliceId;

    use super::*;

    fn view(records: usize) -> View {
        let record = |n: usize| SliceRecord { pos: n as u32 * 8, id: SliceId(n as u64 + 1), size: 4, off: 0, len: 4 };
        let records: Vec<_> = (0..records).map(record).collect();
        View { pieces: resolve(&records).into(), records: Arc::new(records) }
    }

    /// Of a terabyte that is written at random each of 16,384 chunks has a thousand records.
    #[test]
    fn the_views_of_a_file_are_bounded() {
        let mut views = Views::default();
        let big = view(1000);
        for index in 0..16384 {
            views.keep(index, big.clone());
            let counted: usize = views.chunks.values().map(View::entries).sum();
            assert!(views.entries <= MAX_ENTRIES && (index % 100 != 0 || counted == views.entries));
            assert!(views.chunks.contains_key(&index), "the last one is there");
        }
        let held = views.chunks.len();
        assert!(held > 10, "{held}");
        // What is committed counts, too.
        let more = SliceRecord { pos: 1 << 20, id: SliceId(9999), size: 4, off: 0, len: 4 };
        let before = views.entries;
        views.committed(16383, std::iter::once(more), 1001);
        assert!(views.entries > before);
        views.committed(16383, std::iter::once(more), 7);
        assert!(!views.chunks.contains_key(&16383), "somebody else changed it");
        views.forget(0..=16384);
        assert_eq!((views.entries, views.chunks.len()), (0, 0));
    }
}
