//! Remembers which owners asked for locks through which handles of a file. So closing a handle releases what they hold,
//! and costs nothing where nobody ever asked for a lock.

use std::collections::HashMap;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Notify, futures::Notified};

/// The owners of locks of one file that belong to this mount. They are noted before they get a lock, so that none is
/// missed whatever becomes of the request.
#[derive(Default)]
pub(crate) struct Lockers {
    state: Mutex<State>,
    gone: Notify,
}

#[derive(Default)]
struct State {
    /// Owners of a lock of flock(2), by handle.
    files: HashMap<u64, u64>,
    /// Owners of ranges, with the handles through which they asked.
    ranges: HashMap<u64, SmallVec<[u64; 1]>>,
    /// How many handles that may hold locks are being released.
    leaving: usize,
}

impl Lockers {
    /// Notes that an owner asks for a lock on the whole file. Returns whether it did so before.
    pub(crate) fn note_file(&self, fh: u64, owner: u64) -> bool {
        self.state.lock().files.insert(fh, owner).is_some()
    }

    /// Takes out the owner that may hold a lock on the whole file through a handle.
    pub(crate) fn take_file(&self, fh: u64) -> Option<u64> {
        self.state.lock().files.remove(&fh)
    }

    /// Notes that an owner asks for a lock on a range. Returns whether it did so before.
    pub(crate) fn note_range(&self, fh: u64, owner: u64) -> bool {
        let mut state = self.state.lock();
        let handles = state.ranges.entry(owner).or_default();
        let before = !handles.is_empty();
        if !handles.contains(&fh) {
            handles.push(fh);
        }
        before
    }

    /// Whether an owner may hold ranges.
    pub(crate) fn has_ranges(&self, owner: u64) -> bool {
        self.state.lock().ranges.contains_key(&owner)
    }

    /// Takes out the handles through which an owner may hold ranges.
    pub(crate) fn take_ranges(&self, owner: u64) -> Option<SmallVec<[u64; 1]>> {
        self.state.lock().ranges.remove(&owner)
    }

    /// Whether a handle is lost when these owners lose their locks on the whole file, and on ranges. Nobody knows which
    /// process writes through which handle, so a handle that writes, and through which nobody asked for ranges, may
    /// belong to a process that held some.
    pub(crate) fn is_lost(&self, fh: u64, writes: bool, files: &[u64], ranges: &[u64]) -> bool {
        let state = self.state.lock();
        let held = state.files.get(&fh).is_some_and(|owner| files.contains(owner));
        let asked = |owner: &u64| state.ranges.get(owner).is_some_and(|handles| handles.contains(&fh));
        let nobodys = || writes && !state.ranges.values().any(|handles| handles.contains(&fh));
        held || ranges.iter().any(asked) || !ranges.is_empty() && nobodys()
    }

    /// Whether a handle is being released whose locks are not released yet.
    pub(crate) fn is_leaving(&self) -> bool {
        self.state.lock().leaving > 0
    }

    /// Completes when a handle has left with its locks. It misses none once it is enabled.
    pub(crate) fn gone(&self) -> Notified<'_> {
        self.gone.notified()
    }

    /// Takes out the owner of a lock on the whole file that goes with a handle, and the owners that asked for ranges
    /// through this handle alone. `None` when nothing was ever locked through it; otherwise the handle is leaving until
    /// [`Lockers::left`].
    pub(crate) fn leave(&self, fh: u64) -> Option<(Option<u64>, SmallVec<[u64; 1]>)> {
        let mut state = self.state.lock();
        let file_owner = state.files.remove(&fh);
        let mut range_owners = SmallVec::new();
        state.ranges.retain(|owner, handles| {
            handles.retain(|handle| *handle != fh);
            if handles.is_empty() {
                range_owners.push(*owner);
            }
            !handles.is_empty()
        });
        if file_owner.is_none() && range_owners.is_empty() {
            return None;
        }
        state.leaving += 1;
        Some((file_owner, range_owners))
    }

    /// Notes that a handle has left with its locks.
    pub(crate) fn left(&self) {
        self.state.lock().leaving -= 1;
        self.gone.notify_waiters();
    }
}
