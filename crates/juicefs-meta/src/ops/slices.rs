//! Slices after their use: those that the trash holds back, and those whose objects are gone (format: metadata.md §5.3).

use juicefs_core::ids::{SliceId, SliceKey};

use super::{
    Verdict, decision,
    file_data::{counted, release},
};
use crate::{
    record::{Key, NoteKey},
    txn::{Decision, Effect, Effects, Operation, ReadSet, SliceEffect},
};

/// Drops the references that a compaction with trash left in place. Replies the slices that lost their last one.
#[derive(Debug)]
pub(crate) struct ReleaseDelayed {
    /// The slice that the compaction made.
    pub(crate) id: SliceId,
    /// When it did.
    pub(crate) since_secs: i64,
}

impl Operation for ReleaseDelayed {
    type Reply = Vec<SliceKey>;
    const NAME: &'static str = "release_delayed";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Note(NoteKey::DelaySlices(self.id, self.since_secs))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Vec<SliceKey>> {
        decision(self.judge(read))
    }
}

impl ReleaseDelayed {
    fn judge(&self, read: &ReadSet) -> Verdict<Vec<SliceKey>> {
        let mut effects = Effects::none();
        let Some(delayed) = read.delay_slices(self.id, self.since_secs) else { return Ok((Vec::new(), effects)) };
        let dead = release(read, counted(delayed.slices.iter().copied()), &mut effects)?;
        effects.push(Effect::Slice(SliceEffect::DeleteDelayed(self.id, self.since_secs)));
        Ok((dead, effects))
    }
}

/// Removes the record of a slice whose objects are gone, unless something refers to it.
#[derive(Debug)]
pub(crate) struct ForgetSlice {
    pub(crate) slice: SliceKey,
}

impl Operation for ForgetSlice {
    type Reply = ();
    const NAME: &'static str = "forget_slice";

    fn keys(&self) -> Vec<Key> {
        vec![Key::SliceRef(self.slice)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        let mut effects = Effects::none();
        if read.slice_ref(self.slice).is_some_and(|count| count <= 0) {
            effects.push(Effect::Slice(SliceEffect::DeleteRef(self.slice)));
        }
        Decision::Done((), effects)
    }
}
