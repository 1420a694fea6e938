//! How long to wait between looks at a lock that another client holds.

use std::time::Duration;

/// The first pause: most locks are held for moments.
const FIRST: Duration = Duration::from_millis(1);
/// The longest: how late a release of another client is seen at most, but for the time of a look.
const LONGEST: Duration = Duration::from_millis(100);

/// Pauses that become longer, each anywhere in its upper half, so that clients that met do not go on in step.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next pause; `chance` is in 0..1.
    pub(super) fn next(&mut self, chance: f64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST);
        whole.mul_f64(0.5 + chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_double_up_to_the_longest_and_differ() {
        let mut pauses = Pauses::new();
        let longest: Vec<_> = (0..9).map(|_| pauses.next(1.0).as_millis()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 64, 100, 100]);
        assert_eq!(pauses.next(0.0), LONGEST / 2);
        assert_eq!(pauses.next(0.5), LONGEST.mul_f64(0.75));
    }
}
