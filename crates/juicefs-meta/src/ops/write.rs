//! Committing slices to a file (format: metadata.md §6.6).

use std::{collections::BTreeMap, sync::Arc};

use juicefs_core::{
    attr::Timestamp,
    errno::Errno,
    ids::{ChunkIndex, Ino},
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    meta::{NewSlice, Written},
    slice::SliceRecord,
};

use super::{
    Scope, Verdict,
    account::{Growth, count_resize, exceeds, space_delta},
    copy_range::placed,
    decision,
};
use crate::{
    record::Key,
    txn::{
        Applied, ChunkEffect, Decision, Effect, Effects, NodeEffect, NodeGuard, NodePatch, Operation, ReadSet,
        SliceEffect, Wrote,
    },
};

/// Puts new slices into a file, in this order.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) slices: Arc<[NewSlice]>,
    /// When the application wrote last.
    pub(crate) mtime: Timestamp,
    /// Most bytes that the file may grow by.
    pub(crate) allowed: Option<u64>,
}

/// Where slices lie in a file.
#[derive(Default)]
struct Placement {
    /// Offset of each slice, in their order.
    offsets: Vec<u64>,
    /// The records that show them, by chunk.
    lists: BTreeMap<ChunkIndex, Vec<SliceRecord>>,
}

/// Length of a file that had `length` bytes once it has `slices`.
pub(crate) fn length_with(length: u64, slices: &[NewSlice]) -> u64 {
    slices.iter().fold(length, |length, slice| match slice {
        NewSlice::At(index, record) => length.max(offset_of(*index, record) + u64::from(record.len)),
        NewSlice::End(slice) => length.saturating_add(u64::from(slice.size)),
    })
}

fn offset_of(index: ChunkIndex, record: &SliceRecord) -> u64 {
    u64::from(index) * CHUNK_SIZE + u64::from(record.pos)
}

impl Operation for Write {
    type Reply = Growth<Written>;
    const NAME: &'static str = "write";
    /// Data that may have been committed is neither committed again nor dropped.
    const NEEDS_OUTCOME: bool = true;

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Growth<Written>> {
        decision(self.judge(read))
    }

    fn claimant(&self) -> Option<Ino> {
        Some(self.ino)
    }

    fn finish(&self, mut reply: Growth<Written>, applied: &Applied) -> Growth<Written> {
        if let Growth::Done(written) = &mut reply {
            for ((_, records), now) in written.chunks.iter_mut().zip(&applied.appended) {
                *records = *now;
            }
        }
        reply
    }
}

impl Write {
    fn judge(&self, read: &ReadSet) -> Verdict<Growth<Written>> {
        let attr = read.node(self.ino).ok_or(Errno::ENOENT)?;
        if !attr.is_file() {
            return Err(Errno::EPERM.into());
        }
        let length = length_with(attr.length, &self.slices);
        if length > MAX_FILE_BYTES {
            return Err(Errno::EFBIG.into());
        }
        if let Some(wanted) = exceeds(self.allowed, space_delta(attr.length, length)) {
            return Ok((Growth::Short(wanted), Effects::none()));
        }
        let mut effects = Effects::none();
        let Placement { offsets, lists } = self.place(attr.length, &mut effects)?;
        let chunks = lists.keys().map(|index| (*index, 0)).collect();
        effects
            .list
            .extend(lists.into_iter().map(|(index, list)| Effect::Chunk(self.ino, index, ChunkEffect::Append(list))));
        count_resize(read, &self.scope, &mut effects, self.ino, attr, length)?;
        // Writers meet on a file all the time. What lies within it does so when it is longer by then, too; what makes it
        // longer is counted, and that is right for the length that was read only.
        let guard = if length > attr.length { NodeGuard::ButTimes } else { NodeGuard::ButGrowth };
        effects.narrowed.push((self.ino, guard));
        let wrote = Wrote { mtime: self.mtime, ctime: self.scope.now, end: length };
        let patch = NodePatch { wrote: Some(wrote), ..NodePatch::default() };
        effects.push(Effect::Node(self.ino, NodeEffect::Patch(patch)));
        let mut next = attr.clone();
        patch.apply(&mut next);
        Ok((Growth::Done(Written { attr: next, offsets, chunks }), effects))
    }

    /// Places the slices in a file of `length` bytes. Each record is a use of its slice.
    fn place(&self, mut length: u64, effects: &mut Effects) -> Result<Placement, Errno> {
        let Placement { mut offsets, mut lists } = Placement::default();
        for slice in self.slices.iter() {
            match *slice {
                NewSlice::At(index, record) => {
                    if u64::from(record.pos) + u64::from(record.len) > CHUNK_SIZE {
                        return Err(Errno::EINVAL);
                    }
                    offsets.push(offset_of(index, &record));
                    effects.list.extend(record.key().map(SliceEffect::InsertRef).map(Effect::Slice));
                    lists.entry(index).or_default().push(record);
                }
                NewSlice::End(key) => {
                    if u64::from(key.size) > CHUNK_SIZE {
                        return Err(Errno::EINVAL);
                    }
                    offsets.push(length);
                    let whole = SliceRecord { pos: 0, id: key.id, size: key.size, off: 0, len: key.size };
                    effects.push(Effect::Slice(SliceEffect::InsertRef(key)));
                    for (nth, (index, record)) in placed(length, whole).enumerate() {
                        if nth > 0 {
                            effects.push(Effect::Slice(SliceEffect::AddRef(key, 1)));
                        }
                        lists.entry(index).or_default().push(record);
                    }
                }
            }
            length = length_with(length, std::slice::from_ref(slice));
        }
        Ok(Placement { offsets, lists })
    }
}
