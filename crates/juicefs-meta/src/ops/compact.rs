//! Putting one slice in the place of many (format: metadata.md §5.3 "Compaction algorithm", steps 6 to 8).

use juicefs_core::{
    Timestamp,
    ids::{ChunkIndex, Ino, SliceId, SliceKey},
    limits::CHUNK_SIZE,
    meta::Compacted,
    slice::{CompactionPlan, SliceRecord},
};

use super::{
    Verdict, decision,
    file_data::{references, release},
};
use crate::{
    record::{DelaySlices, Key},
    txn::{ChunkEffect, Decision, Effect, Effects, Operation, ReadSet, SliceEffect},
};

/// Commits what was made by `plan`.
#[derive(Debug)]
pub(crate) struct CommitCompaction {
    pub(crate) ino: Ino,
    pub(crate) index: ChunkIndex,
    pub(crate) plan: CompactionPlan,
    /// The new slice, whose objects are in place.
    pub(crate) slice: SliceId,
    /// The replaced slices stay for as long as the trash keeps files.
    pub(crate) trash: bool,
    pub(crate) now: Timestamp,
}

impl Operation for CommitCompaction {
    type Reply = Compacted;
    const NAME: &'static str = "compact";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Chunk(self.ino, self.index)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Compacted> {
        decision(self.judge(read))
    }
}

impl CommitCompaction {
    fn judge(&self, read: &ReadSet) -> Verdict<Compacted> {
        let made = SliceKey { id: self.slice, size: self.plan.size };
        let mut effects = Effects::none();
        let stored = read.chunk(self.ino, self.index);
        // What is written meanwhile comes behind what was read, and stays.
        let planned = self.plan.records.len();
        effects.heads.push((self.ino, self.index, planned.min(stored.len())));
        if !stored.starts_with(&self.plan.records) {
            effects.push(Effect::Slice(SliceEffect::PutGarbage(made)));
            return Ok((Compacted::Lost, effects));
        }
        let (kept, replaced) = self.plan.records.split_at(self.plan.skipped);
        let record = SliceRecord { pos: self.plan.pos, id: made.id, size: made.size, off: 0, len: made.size };
        // Slices have no zeros at their ends. What told of a cut goes on telling it, below everything that shows.
        let shows_last_byte = |record: &SliceRecord| record.pos + record.len == CHUNK_SIZE as u32;
        let cut = replaced.iter().any(SliceRecord::tells_cut) && !kept.iter().any(shows_last_byte);
        let mark = cut.then_some(SliceRecord::CUT);
        let head = kept.iter().copied().chain(mark).chain([record]).collect();
        effects.push(Effect::Chunk(self.ino, self.index, ChunkEffect::ReplaceHead(planned, head)));
        effects.push(Effect::Slice(SliceEffect::InsertRef(made)));
        let mut dead = Vec::new();
        if self.trash {
            let slices: Vec<_> = replaced.iter().filter_map(SliceRecord::key).collect();
            if !slices.is_empty() {
                let delayed = DelaySlices { since_secs: self.now.secs, slices };
                effects.push(Effect::Slice(SliceEffect::PutDelayed(self.slice, delayed)));
            }
        } else {
            dead = release(read, references(replaced), &mut effects)?;
        }
        Ok((Compacted::Done(dead), effects))
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::slice::plan_compaction;

    use super::*;
    use crate::record::Value;

    fn record(pos: u32, id: u64, len: u32) -> SliceRecord {
        SliceRecord { pos, id: SliceId(id), size: len, off: 0, len }
    }

    fn commit(stored: &[SliceRecord], planned: &[SliceRecord], trash: bool) -> (Compacted, Effects) {
        let plan = plan_compaction(planned, 1000).expect("worth it");
        let op =
            CommitCompaction { ino: Ino(9), index: 0, plan, slice: SliceId(50), trash, now: Timestamp::from_secs(3) };
        let mut read = ReadSet::default();
        read.insert(Key::Chunk(Ino(9), 0), Some(Value::Chunk(stored.to_vec())));
        for slice in references(planned).into_keys() {
            let uses = if slice.id.0 == 1 { 2 } else { 1 };
            read.insert(Key::SliceRef(slice), Some(Value::SliceRef(uses)));
        }
        match op.decide(&read) {
            Decision::Done(reply, effects) => (reply, effects),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn later_records_stay_and_shared_slices_live_on() {
        let planned = [record(0, 1, 10), record(10, 2, 10)];
        let stored = [planned[0], planned[1], record(5, 3, 1)];
        let (reply, effects) = commit(&stored, &planned, false);
        assert_eq!(reply, Compacted::Done(vec![SliceKey { id: SliceId(2), size: 10 }]));
        assert!(effects.list.contains(&Effect::Chunk(Ino(9), 0, ChunkEffect::ReplaceHead(2, vec![record(0, 50, 20)]))));
        assert_eq!(effects.heads, [(Ino(9), 0, 2)]);
    }

    #[test]
    fn a_cut_stays_known() {
        let planned = [record(0, 1, 10), record(10, 2, 10), SliceRecord::zeros(15, CHUNK_SIZE as u32 - 15)];
        let (_, effects) = commit(&planned, &planned, false);
        let head = vec![SliceRecord::CUT, record(0, 50, 15)];
        assert!(effects.list.contains(&Effect::Chunk(Ino(9), 0, ChunkEffect::ReplaceHead(3, head))));
    }

    #[test]
    fn the_trash_holds_replaced_slices_back() {
        let planned = [record(0, 1, 10), record(10, 2, 10)];
        let (reply, effects) = commit(&planned, &planned, true);
        assert_eq!(reply, Compacted::Done(vec![]));
        assert!(
            effects
                .list
                .iter()
                .any(|e| matches!(e, Effect::Slice(SliceEffect::PutDelayed(_, d)) if d.slices.len() == 2))
        );
        assert!(!effects.list.iter().any(|e| matches!(e, Effect::Slice(SliceEffect::AddRef(..)))));
    }

    #[test]
    fn a_changed_list_makes_the_new_slice_garbage() {
        let planned = [record(0, 1, 10), record(10, 2, 10)];
        let (reply, effects) = commit(&[planned[1], planned[0]], &planned, false);
        assert_eq!(reply, Compacted::Lost);
        assert_eq!(effects.list, [Effect::Slice(SliceEffect::PutGarbage(SliceKey { id: SliceId(50), size: 20 }))]);
    }
}
