//! Deleting the data of a removed file (format: metadata.md §6.25).

use std::collections::BTreeMap;

use juicefs_core::{
    ids::{ChunkIndex, Ino, SliceKey},
    slice::SliceRecord,
};

use super::{Halt, Verdict, decision, need};
use crate::{
    record::Key,
    txn::{ChunkEffect, Decision, Effect, Effects, Operation, ReadSet, SliceEffect},
};

/// Drops one chunk list of a removed file, its note with the last one. Replies the slices that lost their last
/// reference; `None` when the file has a node, so that nothing of it may be deleted.
#[derive(Debug)]
pub(crate) struct DropChunk {
    pub(crate) ino: Ino,
    /// Its length at removal.
    pub(crate) length: u64,
    /// The chunk; `None` when none is left.
    pub(crate) index: Option<ChunkIndex>,
    /// Nothing of the file is left afterwards.
    pub(crate) last: bool,
}

impl Operation for DropChunk {
    type Reply = Option<Vec<SliceKey>>;
    const NAME: &'static str = "drop_chunk";

    fn keys(&self) -> Vec<Key> {
        let chunk = self.index.map(|index| Key::Chunk(self.ino, index));
        [Key::Node(self.ino)].into_iter().chain(chunk).collect()
    }

    fn decide(&self, read: &ReadSet) -> Decision<Self::Reply> {
        decision(self.judge(read))
    }
}

impl DropChunk {
    fn judge(&self, read: &ReadSet) -> Verdict<Option<Vec<SliceKey>>> {
        let mut effects = Effects::none();
        if read.node(self.ino).is_some() {
            return Ok((None, effects));
        }
        let mut dead = Vec::new();
        if let Some(index) = self.index {
            let used = references(read.chunk(self.ino, index));
            effects.push(Effect::Chunk(self.ino, index, ChunkEffect::Delete));
            dead = release(read, used, &mut effects)?;
        }
        if self.last {
            effects.push(Effect::Slice(SliceEffect::DeleteDelFile(self.ino, self.length)));
        }
        Ok((Some(dead), effects))
    }
}

/// How often each slice is used by `records`.
pub(crate) fn references<'a>(records: impl IntoIterator<Item = &'a SliceRecord>) -> BTreeMap<SliceKey, i64> {
    counted(records.into_iter().filter_map(SliceRecord::key))
}

/// How often each slice occurs.
pub(crate) fn counted(slices: impl IntoIterator<Item = SliceKey>) -> BTreeMap<SliceKey, i64> {
    let mut counts = BTreeMap::new();
    for slice in slices {
        *counts.entry(slice).or_default() += 1;
    }
    counts
}

/// Takes references from slices; those that have none left are returned. A slice without a record of its references is
/// left alone: it may be leaked then, but is never deleted while something shows it.
pub(crate) fn release(
    read: &ReadSet,
    used: BTreeMap<SliceKey, i64>,
    effects: &mut Effects,
) -> Result<Vec<SliceKey>, Halt> {
    need(read, used.keys().map(|slice| Key::SliceRef(*slice)))?;
    let mut dead = Vec::new();
    for (slice, uses) in used {
        let Some(count) = read.slice_ref(slice) else { continue };
        effects.push(Effect::Slice(SliceEffect::AddRef(slice, -uses)));
        if count <= uses {
            dead.push(slice);
        }
    }
    Ok(dead)
}
