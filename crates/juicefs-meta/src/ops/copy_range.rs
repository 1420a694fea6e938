//! copy_file_range by reference: the target shows the same slices (format: metadata.md §6.18).

use std::collections::BTreeMap;

use juicefs_core::{
    attr::{Attr, flags},
    errno::Errno,
    ids::{ChunkIndex, Ino},
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    meta::Copied,
    slice::{SliceRecord, resolve},
};

use super::{
    Halt, Scope, Verdict,
    account::{Growth, count_resize, exceeds, space_delta},
    decision, need,
    truncate::{index_of, offset},
};
use crate::{
    record::{CHUNKS_AT_ONCE, Key},
    txn::{ChunkEffect, Decision, Effect, Effects, NodeEffect, Operation, ReadSet, SliceEffect},
};

/// Most chunks of the source that one operation reads; what is beyond is left to the caller's next request. So many have
/// their copies in one more, and no more than that are told at once.
const MAX_CHUNKS: u64 = CHUNKS_AT_ONCE as u64 - 1;

/// Chunks of the target that get a record of the holes of the source without asking whether they hold anything.
const FEW: ChunkIndex = 16;

/// Copies `[from_off, from_off + size)` of `from` to `to_off` of `to`.
#[derive(Debug)]
pub(crate) struct CopyRange {
    pub(crate) scope: Scope,
    pub(crate) from: Ino,
    pub(crate) from_off: u64,
    pub(crate) to: Ino,
    pub(crate) to_off: u64,
    pub(crate) size: u64,
    /// Most bytes that the target may grow by.
    pub(crate) allowed: Option<u64>,
}

impl Operation for CopyRange {
    type Reply = Growth<Copied>;
    const NAME: &'static str = "copy_file_range";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.from), Key::Node(self.to)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Growth<Copied>> {
        decision(self.judge(read))
    }
}

impl CopyRange {
    fn judge(&self, read: &ReadSet) -> Verdict<Growth<Copied>> {
        let source = read.node(self.from).ok_or(Errno::ENOENT)?;
        let target = read.node(self.to).ok_or(Errno::ENOENT)?;
        if !source.is_file() || !target.is_file() {
            return Err(Errno::EINVAL.into());
        }
        if target.has_flag(flags::IMMUTABLE | flags::APPEND) {
            return Err(Errno::EPERM.into());
        }
        let window_end = (self.from_off / CHUNK_SIZE + MAX_CHUNKS) * CHUNK_SIZE;
        let end = self.from_off.saturating_add(self.size).min(source.length).min(window_end);
        let size = end.saturating_sub(self.from_off);
        if size == 0 {
            return Ok((Growth::Done(Copied { bytes: 0, length: target.length }), Effects::none()));
        }
        let to_end = self.to_off.checked_add(size).filter(|end| *end <= MAX_FILE_BYTES).ok_or(Errno::EFBIG)?;
        if self.from == self.to && self.from_off < to_end && self.to_off < end {
            return Err(Errno::EINVAL.into());
        }
        let length = target.length.max(to_end);
        if let Some(wanted) = exceeds(self.allowed, space_delta(target.length, length)) {
            return Ok((Growth::Short(wanted), Effects::none()));
        }
        let mut effects = Effects::none();
        self.copy(read, end, &mut effects)?;
        count_resize(read, &self.scope, &mut effects, self.to, target, length)?;
        let next = Attr { length, mtime: self.scope.now, ctime: self.scope.now, ..target.clone() };
        effects.push(Effect::Node(self.to, NodeEffect::Update(next)));
        Ok((Growth::Done(Copied { bytes: size, length }), effects))
    }

    /// Appends what `[from_off, end)` of the source shows to the chunks of the target; holes only to those that hold
    /// something, when there may be many.
    fn copy(&self, read: &ReadSet, end: u64, effects: &mut Effects) -> Result<(), Halt> {
        let indexes = index_of(self.from_off)..=index_of(end - 1);
        need(read, indexes.clone().map(|index| Key::Chunk(self.from, index)))?;
        let mut lists: BTreeMap<ChunkIndex, Vec<SliceRecord>> = BTreeMap::new();
        for index in indexes {
            let start = u64::from(index) * CHUNK_SIZE;
            let mut records = vec![SliceRecord::zeros(0, offset(CHUNK_SIZE))];
            records.extend_from_slice(read.chunk(self.from, index));
            let from = offset(self.from_off.saturating_sub(start));
            let to = offset((end - start).min(CHUNK_SIZE));
            for piece in resolve(&records).iter().filter_map(|piece| piece.clip(from, to)) {
                let at = start + u64::from(piece.pos) - self.from_off + self.to_off;
                for (index, record) in placed(at, record_of(&piece)) {
                    lists.entry(index).or_default().push(record);
                }
            }
        }
        self.leave_holes(read, &mut lists)?;
        for slice in lists.values().flatten().filter_map(SliceRecord::key) {
            effects.push(Effect::Slice(SliceEffect::AddRef(slice, 1)));
        }
        for (index, records) in lists {
            effects.push(Effect::Chunk(self.to, index, ChunkEffect::Append(records)));
        }
        Ok(())
    }

    /// Takes the chunks of the target out of `lists` that are a hole and get one.
    fn leave_holes(&self, read: &ReadSet, lists: &mut BTreeMap<ChunkIndex, Vec<SliceRecord>>) -> Result<(), Halt> {
        let is_hole = |records: &[SliceRecord]| records.iter().all(|record| record.id.is_hole());
        let mut holes = lists.iter().filter(|(_, records)| is_hole(records)).map(|(index, _)| *index);
        let Some(first) = holes.next() else { return Ok(()) };
        let behind = holes.next_back().unwrap_or(first) + 1;
        if behind - first <= FEW {
            return Ok(());
        }
        need(read, [Key::ChunkIndexes(self.to, first, behind)])?;
        let stored = read.chunk_indexes(self.to, first, behind);
        lists.retain(|index, records| !is_hole(records) || stored.binary_search(index).is_ok());
        Ok(())
    }
}

fn record_of(piece: &juicefs_core::Piece) -> SliceRecord {
    match piece.key() {
        Some(slice) => SliceRecord { pos: 0, id: slice.id, size: slice.size, off: piece.off, len: piece.len },
        None => SliceRecord::zeros(0, piece.len),
    }
}

/// The record at byte `at` of a file: cut in two where it crosses into the next chunk.
pub(super) fn placed(at: u64, record: SliceRecord) -> impl Iterator<Item = (ChunkIndex, SliceRecord)> {
    let pos = at % CHUNK_SIZE;
    let here = offset((CHUNK_SIZE - pos).min(u64::from(record.len)));
    let first = SliceRecord { pos: offset(pos), len: here, ..record };
    let off = if record.id.is_hole() { 0 } else { record.off + here };
    let rest = SliceRecord { pos: 0, off, len: record.len - here, ..record };
    [(index_of(at), first), (index_of(at) + 1, rest)].into_iter().filter(|(_, record)| record.len > 0)
}
