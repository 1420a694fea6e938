//! An open cache file remembers which of its pieces were compared with their checksums lately (ADR 0014).
//!
//! What was compared is what the kernel holds of a piece, and not what is on the disk. So all pieces are forgotten when the
//! disk is about to be asked for any part of the file. They are also forgotten after a minute, because by then the kernel
//! may have dropped a piece and read it again by itself, or somebody else may have overwritten it.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// The longest time that a comparison counts.
const TRUST: Duration = Duration::from_secs(60);

/// One bit for each piece. No memory of this process depends on the bits, so that the order of accesses does not matter.
#[derive(Debug)]
pub(super) struct Verified {
    words: Box<[AtomicU64]>,
    since: Instant,
    /// The bits are from the period of [`TRUST`] with this number, counted from `since`.
    period: AtomicU64,
}

impl Verified {
    /// Begins with `pieces` of which none was compared.
    pub(super) fn none_of(pieces: usize) -> Self {
        let words = (0..pieces.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { words, since: Instant::now(), period: AtomicU64::new(0) }
    }

    /// Whether all of `pieces` were compared lately.
    pub(super) fn all(&self, mut pieces: Range<usize>) -> bool {
        self.end_period(self.since.elapsed());
        pieces.all(|piece| self.words.get(piece / 64).is_some_and(|word| word.load(Relaxed) & 1 << (piece % 64) != 0))
    }

    /// Notes that a piece matches its checksum.
    pub(super) fn note(&self, piece: usize) {
        if let Some(word) = self.words.get(piece / 64) {
            word.fetch_or(1 << (piece % 64), Relaxed);
        }
    }

    /// Forgets all comparisons.
    pub(super) fn forget(&self) {
        self.words.iter().for_each(|word| word.store(0, Relaxed));
    }

    /// Forgets all comparisons when a period has ended since the last call. `open_for` is the age of this value.
    pub(super) fn end_period(&self, open_for: Duration) {
        let period = open_for.as_secs() / TRUST.as_secs();
        if self.period.load(Relaxed) != period {
            self.period.store(period, Relaxed);
            self.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_count_until_they_are_forgotten_or_a_minute_has_passed() {
        let verified = Verified::none_of(130);
        let noted = [0, 1, 63, 64, 65, 129];
        noted.iter().for_each(|piece| verified.note(*piece));
        assert!(verified.all(0..2) && verified.all(63..66) && verified.all(129..130));
        assert!(!verified.all(0..3) && !verified.all(128..130) && !verified.all(129..131));
        verified.note(1000);
        assert!(!verified.all(1000..1001), "no such piece");
        verified.end_period(Duration::from_secs(59));
        assert!(verified.all(0..2));
        verified.end_period(Duration::from_secs(61));
        assert!((0..130).all(|piece| !verified.all(piece..piece + 1)));
        verified.note(5);
        verified.forget();
        assert!(!verified.all(5..6));
    }
}
