//! Remembers, in fixed space, which inodes changed since when.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Ino;

const SLOTS: usize = 8192;

/// A moment in the order of the changes that were noted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(u64);

/// Remembers for every inode the last change that was noted, and does not grow. Inodes share slots, so the answer
/// "changed" may be about another inode, but the answer "unchanged" is always true.
#[derive(Debug)]
pub struct Stamps {
    changes: AtomicU64,
    slots: Box<[AtomicU64]>,
}

impl Stamps {
    /// Nothing has changed.
    #[must_use]
    pub fn new() -> Self {
        Self { changes: AtomicU64::new(1), slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    fn slot(&self, ino: Ino) -> &AtomicU64 {
        let spread = ino.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 51;
        &self.slots[spread as usize % SLOTS]
    }

    /// The present moment. It is to be taken before attributes are asked for.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(self.changes.load(Ordering::SeqCst))
    }

    /// Notes that `ino` has changed. It is to be called when the change is visible to whoever asks next.
    pub fn touch(&self, ino: Ino) {
        let at = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
        self.slot(ino).fetch_max(at, Ordering::SeqCst);
    }

    /// Whether `ino` may have changed after `since`.
    #[must_use]
    pub fn changed(&self, ino: Ino, since: Moment) -> bool {
        self.slot(ino).load(Ordering::SeqCst) > since.0
    }
}

impl Default for Stamps {
    fn default() -> Self {
        Self::new()
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
