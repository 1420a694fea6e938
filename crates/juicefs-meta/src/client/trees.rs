//! Walks over whole trees: removing them and copying them. Each step is an operation of its own.

mod clone;
mod reach;
mod remove;
mod summary;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use juicefs_core::{
    errno::Errno,
    error::{MetaError, MetaResult},
    tree::Progress,
};

/// What the steps of one walk share.
struct Walk<'a> {
    progress: &'a Progress,
    /// Steps that may be taken beside the first.
    spare: AtomicUsize,
    failed: AtomicBool,
}

impl<'a> Walk<'a> {
    /// A walk of at most `threads` steps side by side.
    fn new(threads: usize, progress: &'a Progress) -> Self {
        Self { progress, spare: AtomicUsize::new(threads.saturating_sub(1)), failed: AtomicBool::new(false) }
    }

    /// Lends a directory with so many entries the right to take steps beside its first one.
    fn lend(&self, entries: usize) -> Lent<'_, 'a> {
        let wanted = entries.saturating_sub(1);
        let taken = |spare: usize| Some(spare - spare.min(wanted));
        let spare = self.spare.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).unwrap_or(0);
        Lent { walk: self, steps: spare.min(wanted) }
    }

    /// Whether a step is worth taking: none is once another has failed. EINTR when the walk is to stop.
    fn goes_on(&self) -> Result<bool, Errno> {
        self.progress.go_on()?;
        Ok(!self.failed.load(Ordering::Acquire))
    }

    /// Notes a failure, so that steps which have not begun do not begin.
    fn note<T>(&self, outcome: MetaResult<T>) -> MetaResult<T> {
        if outcome.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        outcome
    }
}

/// A right to take steps side by side, given back when dropped.
struct Lent<'w, 'a> {
    walk: &'w Walk<'a>,
    steps: usize,
}

impl Drop for Lent<'_, '_> {
    fn drop(&mut self) {
        self.walk.spare.fetch_add(self.steps, Ordering::AcqRel);
    }
}

/// Whether an operation failed with this number.
fn is(error: &MetaError, errno: Errno) -> bool {
    matches!(error, MetaError::Posix(found) if *found == errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_directories_together_get_no_more_than_there_is() {
        let progress = Progress::default();
        let walk = Walk::new(5, &progress);
        let first = walk.lend(4);
        let second = walk.lend(10);
        assert_eq!((first.steps, second.steps, walk.lend(10).steps), (3, 1, 0));
        drop(first);
        assert_eq!(walk.lend(100).steps, 3);
        drop(second);
        assert_eq!(walk.lend(100).steps, 4);
        assert_eq!(walk.lend(0).steps, 0);
    }
}
