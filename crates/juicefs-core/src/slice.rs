//! The slice records of a chunk, and the view that a list of them makes (format: metadata.md §5.3).

use crate::{
    ids::{SliceId, SliceKey},
    limits::CHUNK_SIZE,
};

/// Bytes of one record in a chunk's list.
pub const SLICE_RECORD_BYTES: usize = 24;

/// One entry of a chunk's list: `len` bytes from offset `off` of slice `id` show at `pos` of the chunk.
/// Later entries hide earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SliceRecord {
    /// Offset within the chunk.
    pub pos: u32,
    /// The slice; [`SliceId::HOLE`] for zeros.
    pub id: SliceId,
    /// Full size of the slice as written.
    pub size: u32,
    /// First byte of the slice that is used.
    pub off: u32,
    /// Number of bytes used.
    pub len: u32,
}

impl SliceRecord {
    /// A record that shows zeros in `[pos, pos + len)`, as truncate and fallocate append it.
    #[must_use]
    pub fn zeros(pos: u32, len: u32) -> Self {
        Self { pos, id: SliceId::HOLE, size: 0, off: 0, len }
    }

    /// The smallest record that tells that the file was once cut here. It has zeros in the last byte of the chunk.
    pub const CUT: Self = Self { pos: CHUNK_SIZE as u32 - 1, id: SliceId::HOLE, size: 0, off: 0, len: 1 };

    /// The slice that this record uses, `None` for zeros.
    #[must_use]
    pub fn key(&self) -> Option<SliceKey> {
        (!self.id.is_hole()).then_some(SliceKey { id: self.id, size: self.size })
    }

    /// Whether it has zeros up to the end of its chunk, as a file has that was cut, so that there may be chunks beyond
    /// the end of the file. Stores without an index of chunks have nothing else to tell them that.
    #[must_use]
    pub fn tells_cut(&self) -> bool {
        self.id.is_hole() && self.len > 0 && u64::from(self.pos) + u64::from(self.len) == CHUNK_SIZE
    }

    /// The 24 bytes of the format, big endian.
    #[must_use]
    pub fn encode(&self) -> [u8; SLICE_RECORD_BYTES] {
        let mut out = [0; SLICE_RECORD_BYTES];
        out[0..4].copy_from_slice(&self.pos.to_be_bytes());
        out[4..12].copy_from_slice(&self.id.0.to_be_bytes());
        out[12..16].copy_from_slice(&self.size.to_be_bytes());
        out[16..20].copy_from_slice(&self.off.to_be_bytes());
        out[20..24].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    /// Decodes a whole list; `None` when the length is not a multiple of 24 or a record leaves its chunk.
    #[must_use]
    pub fn decode_list(bytes: &[u8]) -> Option<Vec<Self>> {
        let (records, rest) = bytes.as_chunks::<SLICE_RECORD_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        records
            .iter()
            .map(|b| {
                let u32_at = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
                let record = Self {
                    pos: u32_at(0),
                    id: SliceId(u64::from(u32_at(4)) << 32 | u64::from(u32_at(8))),
                    size: u32_at(12),
                    off: u32_at(16),
                    len: u32_at(20),
                };
                (u64::from(record.pos) + u64::from(record.len) <= CHUNK_SIZE).then_some(record)
            })
            .collect()
    }

    /// Encodes a whole list.
    #[must_use]
    pub fn encode_list(records: &[Self]) -> Vec<u8> {
        records.iter().flat_map(Self::encode).collect()
    }
}

/// One visible stretch of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Piece {
    /// Offset within the chunk.
    pub pos: u32,
    /// The slice; [`SliceId::HOLE`] for zeros.
    pub id: SliceId,
    /// Full size of the slice; meaningless for zeros.
    pub size: u32,
    /// First byte of the slice that shows; meaningless for zeros.
    pub off: u32,
    /// Length of the stretch in bytes, never 0.
    pub len: u32,
}

impl Piece {
    fn end(&self) -> u32 {
        self.pos + self.len
    }

    /// The slice that shows here, `None` for zeros.
    #[must_use]
    pub fn key(&self) -> Option<SliceKey> {
        (!self.id.is_hole()).then_some(SliceKey { id: self.id, size: self.size })
    }

    /// The part of this stretch within `[start, end)` of the chunk.
    #[must_use]
    pub fn clip(&self, start: u32, end: u32) -> Option<Self> {
        let from = self.pos.max(start);
        let to = self.end().min(end);
        if from >= to {
            return None;
        }
        let off = if self.id.is_hole() { 0 } else { self.off + (from - self.pos) };
        Some(Self { pos: from, len: to - from, off, ..*self })
    }
}

/// The view that a list of records makes. It is ordered, and has no gap from 0 to the last visible byte, because gaps
/// are zeros.
///
/// A record that a later one splits makes two pieces. Neighbours that come from one slice are not merged (format: §5.3
/// "Overlay rule").
#[must_use]
pub fn resolve(records: &[SliceRecord]) -> Vec<Piece> {
    let mut view: Vec<Piece> = Vec::with_capacity(records.len() + 1);
    for record in records.iter().filter(|r| r.len > 0) {
        overlay(&mut view, record);
    }
    let mut out = Vec::with_capacity(view.len() + 1);
    let mut at = 0;
    for piece in view {
        if piece.pos > at {
            out.push(Piece { pos: at, id: SliceId::HOLE, size: 0, off: 0, len: piece.pos - at });
        }
        at = piece.end();
        out.push(piece);
    }
    out
}

/// Puts `record` over `view`, which stays ordered and free of overlaps.
fn overlay(view: &mut Vec<Piece>, record: &SliceRecord) {
    let new = Piece { pos: record.pos, id: record.id, size: record.size, off: record.off, len: record.len };
    let first = view.partition_point(|p| p.end() <= new.pos);
    let last = view.partition_point(|p| p.pos < new.end());
    let left = view.get(first).filter(|_| first < last).and_then(|p| p.clip(0, new.pos));
    let right = last.checked_sub(1).filter(|_| first < last).and_then(|at| view[at].clip(new.end(), u32::MAX));
    view.splice(first..last, left.into_iter().chain([new]).chain(right));
}

/// What a compaction of one chunk would do (format: §5.3 "Compaction algorithm").
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompactionPlan {
    /// The records that were read. The stored list must still begin with them when the compaction is committed.
    pub records: Vec<SliceRecord>,
    /// Leading records that stay as they are.
    pub skipped: usize,
    /// Where the new slice shows in the chunk.
    pub pos: u32,
    /// Size of the new slice in bytes.
    pub size: u32,
    /// Content of the new slice, in order.
    pub pieces: Vec<Piece>,
}

/// Records of at least this many bytes are worth keeping as they are.
const LARGE_BYTES: u32 = 1 << 20;

impl CompactionPlan {
    /// How many bytes would be copied for each byte that small records brought, rounded up. It is large for a few small
    /// writes that are spread over much data, and about 1 for a file that was written in small pieces.
    #[must_use]
    pub fn copies_per_byte(&self) -> u64 {
        let small = self.records[self.skipped..].iter().filter(|record| record.len < LARGE_BYTES);
        let fresh: u64 = small.map(|record| u64::from(record.len)).sum();
        u64::from(self.size).div_ceil(fresh.max(1))
    }

    /// Whether the new slice would have more than twice the bytes of those that it replaces, so that most of it would
    /// be holes.
    #[must_use]
    pub fn fills_holes(&self) -> bool {
        let replaced = self.records[self.skipped..].iter().filter(|record| !record.id.is_hole());
        let replaced: u64 = replaced.map(|record| u64::from(record.len)).sum();
        u64::from(self.size) > replaced * 2
    }
}

/// Plans the compaction of a chunk with these raw records (at most the first `max_records` of them are considered);
/// `None` when nothing is to be gained.
#[must_use]
pub fn plan_compaction(records: &[SliceRecord], max_records: usize) -> Option<CompactionPlan> {
    let records = &records[..records.len().min(max_records)];
    let mut skipped = 0;
    while let Some((first, later)) = records[skipped..].split_first() {
        let (pos, size, pieces) = trimmed_view(&records[skipped..]);
        let shows_first = pieces
            .first()
            .is_some_and(|p| pos == first.pos && p.id == first.id && p.off == first.off && p.len == first.len);
        let large = first.len >= LARGE_BYTES && u64::from(first.len) * 5 >= u64::from(size) && size != 0;
        if !large || !shows_first || later.contains(first) {
            break;
        }
        skipped += 1;
    }
    let rest = &records[skipped..];
    let (pos, size, pieces) = trimmed_view(rest);
    let clear = records[..skipped].iter().all(|r| {
        u64::from(r.pos) + u64::from(r.len) <= u64::from(pos) || u64::from(pos) + u64::from(size) <= u64::from(r.pos)
    });
    (rest.len() >= 2 && size > 0 && clear && !is_compacted(rest, pos, size)).then(|| CompactionPlan {
        records: records.to_vec(),
        skipped,
        pos,
        size,
        pieces,
    })
}

/// Whether a compaction that kept the mark of a cut made these records.
fn is_compacted(records: &[SliceRecord], pos: u32, size: u32) -> bool {
    matches!(records, [SliceRecord::CUT, only] if (only.pos, only.off, only.len, only.size) == (pos, 0, size, size))
}

/// The view of `records` without leading and trailing zeros, its position and size; all zeros shrink to one byte.
fn trimmed_view(records: &[SliceRecord]) -> (u32, u32, Vec<Piece>) {
    let mut pieces = resolve(records);
    while pieces.len() > 1 && pieces[0].id.is_hole() {
        pieces.remove(0);
    }
    while pieces.len() > 1 && pieces.last().is_some_and(|p| p.id.is_hole()) {
        pieces.pop();
    }
    if let [only] = pieces.as_mut_slice()
        && only.id.is_hole()
    {
        only.len = 1;
    }
    let size = pieces.iter().map(|p| p.len).sum();
    (pieces.first().map_or(0, |p| p.pos), size, pieces)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(pos: u32, id: u64, size: u32, off: u32, len: u32) -> SliceRecord {
        SliceRecord { pos, id: SliceId(id), size, off, len }
    }

    #[test]
    fn record_bytes_are_those_of_the_format() {
        let bytes = record(100, 7, 200, 50, 60).encode();
        assert_eq!(bytes[..4], [0, 0, 0, 100]);
        assert_eq!(bytes[4..12], [0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(bytes[12..], [0, 0, 0, 200, 0, 0, 0, 50, 0, 0, 0, 60]);
        assert_eq!(SliceRecord::decode_list(&bytes), Some(vec![record(100, 7, 200, 50, 60)]));
        assert_eq!(SliceRecord::decode_list(&bytes[1..]), None);
    }

    #[test]
    fn a_plan_knows_whether_it_fills_holes() {
        let plan = |second| plan_compaction(&[record(0, 1, 10, 0, 10), record(second, 2, 10, 0, 10)], 1000);
        let fills = |second| plan(second).expect("two records").fills_holes();
        assert_eq!([10, 30, 31].map(fills), [false, false, true]);
        let punched = [record(0, 1, 90, 0, 90), SliceRecord::zeros(5, 80), record(0, 2, 1, 0, 1)];
        assert!(!plan_compaction(&punched, 1000).expect("three records").fills_holes(), "it frees what is hidden");
    }

    #[test]
    fn compaction_keeps_a_large_head_and_joins_the_tail() {
        let big = record(0, 1, 4 << 20, 0, 4 << 20);
        let tail = [record(4 << 20, 2, 100, 0, 100), record((4 << 20) + 100, 3, 100, 0, 100)];
        let plan = plan_compaction(&[big, tail[0], tail[1]], 1000).expect("two small records are worth joining");
        assert_eq!((plan.skipped, plan.pos, plan.size), (1, 4 << 20, 200));
        assert_eq!(plan_compaction(&[big], 1000), None);
    }

    #[test]
    fn a_slice_with_the_mark_of_a_cut_is_as_compact_as_can_be() {
        let whole = record(10, 4, 100, 0, 100);
        assert_eq!(plan_compaction(&[SliceRecord::CUT, whole], 1000), None);
        assert!(plan_compaction(&[whole, SliceRecord::zeros(50, CHUNK_SIZE as u32 - 50)], 1000).is_some());
        assert!(plan_compaction(&[SliceRecord::CUT, record(10, 4, 200, 0, 100)], 1000).is_some());
        assert!(SliceRecord::CUT.tells_cut() && !whole.tells_cut() && !SliceRecord::zeros(0, 10).tells_cut());
    }

    /// The obvious reference: paint bytes one record after the other.
    fn painted(records: &[SliceRecord]) -> Vec<(u64, u32)> {
        let end = records.iter().map(|r| r.pos + r.len).max().unwrap_or(0);
        let mut bytes = vec![(0, 0); end as usize];
        for r in records {
            for i in 0..r.len {
                bytes[(r.pos + i) as usize] = (r.id.0, if r.id.is_hole() { 0 } else { r.off + i });
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn view_shows_what_painting_shows(raw in prop::collection::vec((0..200u32, 0..6u64, 0..50u32, 0..60u32), 0..20)) {
            let records: Vec<_> = raw.into_iter().map(|(pos, id, off, len)| record(pos, id, 200, off, len)).collect();
            let view = resolve(&records);
            let mut at = 0;
            let mut bytes = Vec::new();
            for piece in &view {
                prop_assert_eq!(piece.pos, at);
                prop_assert!(piece.len > 0);
                at = piece.end();
                bytes.extend((0..piece.len).map(|i| (piece.id.0, if piece.id.is_hole() { 0 } else { piece.off + i })));
            }
            let filled: Vec<_> = records.into_iter().filter(|r| r.len > 0).collect();
            prop_assert_eq!(bytes, painted(&filled));
        }
    }
}
