//! What is lost with a session that another client has ended.
//!
//! Its locks are lost, and whoever gets them next must not see what they protect change any more. So what was written
//! through the handles that held them, and is not committed yet, is never committed; these handles answer EIO until
//! they are closed. All this is done before the next session is used, and under the lock under which batches are put
//! together, so that a batch which is committed in the next session contains nothing of it.

use std::sync::{Arc, atomic::Ordering};

use juicefs_core::SliceKey;

use super::{File, Unsent, writer::Phase};

impl File {
    /// Marks these handles as lost, with what was written through them and is not committed yet. A handle whose data
    /// shares a slice with theirs is lost as well.
    pub(crate) fn lose(&self, handles: &[Arc<Unsent>]) {
        handles.iter().for_each(|handle| handle.lose());
        let mut writer = self.writer.lock();
        let lost = writer.lose();
        for id in lost.uploaded {
            self.cx.upkeep.discard(id);
        }
        for _ in 0..lost.removed {
            self.one_less(&mut writer);
        }
        let length = self.stored.load(Ordering::Acquire).max(writer.end());
        self.length.store(length, Ordering::Release);
        self.losses.fetch_add(1, Ordering::AcqRel);
        self.cx.stamps.touch(self.ino);
    }

    /// A number that changes whenever handles of this file are lost.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }
}

/// The slices that were taken away at once.
#[derive(Default)]
pub(super) struct LostSlices {
    pub(super) removed: usize,
    /// The keys of those that have objects.
    pub(super) uploaded: Vec<SliceKey>,
}

impl super::writer::Writer {
    /// Takes away what was written through lost handles. A slice that is just being uploaded or committed goes when
    /// that has ended.
    fn lose(&mut self) -> LostSlices {
        loop {
            let fresh = |slice: &&mut super::writer::Slice| !slice.lost && slice.has_lost_handle();
            let mut any = false;
            for slice in self.chunks.values_mut().flatten().filter(fresh) {
                any = true;
                slice.lose();
            }
            if !any {
                break;
            }
        }
        let mut gone = LostSlices::default();
        let mut appends = 0;
        for slices in self.chunks.values_mut() {
            slices.retain(|slice| {
                if !slice.lost || matches!(slice.phase, Phase::Uploading | Phase::Committing) {
                    return true;
                }
                if let Phase::Uploaded(id) | Phase::Parked(id) = slice.phase {
                    gone.uploaded.push(SliceKey { id, size: slice.len });
                }
                gone.removed += 1;
                appends += usize::from(slice.append);
                false
            });
        }
        self.chunks.retain(|_, slices| !slices.is_empty());
        self.fewer_appends(appends);
        gone
    }
}
