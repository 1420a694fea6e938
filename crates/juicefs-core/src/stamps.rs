//! Which inodes changed here since when, in fixed space.

use std::sync::atomic::{AtomicU64, Ordering};

use juicefs_core::Ino;

const SLOTS: usize = 8192;

/// A moment in the order of local changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Moment(u64);

/// Remembers for every inode the last local change, without growing: inodes share slots, so the answer "changed" may be
/// about another inode, the answer "unchanged" is always true.
pub(crate) struct Stamps {
    changes: AtomicU64,
    slots: Box<[AtomicU64]>,
}

impl Stamps {
    pub(crate) fn new() -> Self {
        Self { changes: AtomicU64::new(1), slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    fn slot(&self, ino: Ino) -> &AtomicU64 {
        let spread = ino.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 51;
        &self.slots[spread as usize % SLOTS]
    }

    /// The present moment: take it before asking for attributes.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.changes.load(Ordering::SeqCst))
    }

    /// Notes that `ino` changes. Call it when the change is visible to whoever asks next.
    pub(crate) fn touch(&self, ino: Ino) {
        let at = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
        self.slot(ino).fetch_max(at, Ordering::SeqCst);
    }

    /// Whether `ino` may have changed after `since`.
    pub(crate) fn changed(&self, ino: Ino, since: Moment) -> bool {
        self.slot(ino).load(Ordering::SeqCst) > since.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_by_those_who_asked_before_it() {
        let stamps = Stamps::new();
        let before = stamps.now();
        assert!(!stamps.changed(Ino(7), before));
        stamps.touch(Ino(7));
        assert!(stamps.changed(Ino(7), before));
        assert!(!stamps.changed(Ino(7), stamps.now()));
    }
}
