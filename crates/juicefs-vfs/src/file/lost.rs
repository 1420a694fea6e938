//! What goes with a session that another client has ended.
//!
//! Locks go with it, and whoever has them next must not find changed what was written under them. So what the handles that held
//! them have written and not yet committed is never committed, and they answer EIO until they are closed. Everything here is
//! done before the next session is used, under the lock under which batches are put together: a batch that is committed in the
//! next session has nothing of it.

use std::sync::{Arc, atomic::Ordering};

use juicefs_core::SliceKey;

use super::{File, Unsent, writer::Phase};

impl File {
    /// These handles are lost, with what was written through them and is not committed yet. A handle whose data shares a slice
    /// with theirs is lost as well.
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

    /// Changes whenever handles of this file are lost.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }
}

/// What was taken away at once.
#[derive(Default)]
pub(super) struct LostSlices {
    pub(super) removed: usize,
    /// Those of them that have objects.
    pub(super) uploaded: Vec<SliceKey>,
}

impl super::writer::Writer {
    /// Takes away what lost handles have written. What is just being uploaded or committed goes when that has ended.
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
