//! The way from a directory up to the root, as everything goes it that asks what is above a directory: whoever moves one,
//! copies one, charges quotas, or tells a path.
//!
//! In a volume that is damaged directories may be above each other in a circle. The way up ends there, as where a directory
//! is missing: what lies on a circle is below nothing else.

use std::collections::BTreeSet;

use juicefs_core::ids::Ino;

/// The directories that were passed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ascent {
    passed: BTreeSet<Ino>,
}

/// What there is at a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A directory with something above it.
    Up,
    /// The end: the root, the trash, or nothing.
    Top,
    /// A directory that was passed before: the volume is damaged, and the way ends.
    Circle,
}

impl Ascent {
    /// Comes to a directory.
    pub(crate) fn step(&mut self, dir: Ino) -> Step {
        if dir == Ino::ROOT || dir == Ino(0) || dir.is_trash() {
            Step::Top
        } else if self.passed.insert(dir) {
            Step::Up
        } else {
            tracing::warn!(%dir, "directories lie above each other in a circle: the volume is damaged");
            Step::Circle
        }
    }

    /// All directories that were passed, the first one included.
    pub(crate) fn into_passed(self) -> BTreeSet<Ino> {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_ends_at_the_top_and_on_a_circle() {
        let mut way = Ascent::default();
        assert_eq!([Ino(7), Ino(8), Ino(7)].map(|dir| way.step(dir)), [Step::Up, Step::Up, Step::Circle]);
        assert_eq!([Ino::ROOT, Ino::TRASH_ROOT, Ino(0)].map(|dir| way.step(dir)), [Step::Top; 3]);
        assert_eq!(way.into_passed(), [Ino(7), Ino(8)].into());
    }
}
