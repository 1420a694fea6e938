//! Whether a cache disk can be relied on is decided here, from the operations that failed (format: data.md §4.7). There is no
//! I/O and no clock in this file.
//!
//! A disk is *normal* until three operations fail within a minute. Then it is *unstable*: little is asked of it, and probes
//! find out how it does. A minute of operations without a failure makes it normal again. Half an hour without such a minute
//! takes it *down* for the rest of the mount.

use std::{io, time::Instant};

use crate::config::HealthRules;

/// So many failures within a window make a disk unstable.
const MAX_FAILURES: usize = 3;
/// So many operations of a window say enough to trust a disk again.
const MIN_OPERATIONS: u64 = 60;

/// How far a disk is relied on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DiskState {
    /// The disk is used for everything.
    Normal,
    /// A few reads at a time are tried, and nothing is written.
    Unstable,
    /// The disk is used only for blocks that are nowhere else.
    Down,
}

/// Remembers what is known of one disk.
#[derive(Debug)]
pub(super) struct Health {
    rules: HealthRules,
    state: DiskState,
    since: Instant,
    /// When the last operations failed while the disk was normal.
    failures: Vec<Instant>,
    /// When the window began in which an unstable disk is judged.
    window_began: Instant,
    operations: u64,
    failed: u64,
}

impl Health {
    pub(super) fn new(rules: HealthRules, now: Instant) -> Self {
        Self {
            rules,
            state: DiskState::Normal,
            since: now,
            failures: Vec::new(),
            window_began: now,
            operations: 0,
            failed: 0,
        }
    }

    pub(super) fn state(&self) -> DiskState {
        self.state
    }

    /// Notes that an operation went well.
    pub(super) fn succeeded(&mut self) {
        self.operations += 1;
    }

    /// Notes that an operation failed or took too long.
    pub(super) fn failed(&mut self, now: Instant) {
        self.operations += 1;
        self.failed += 1;
        if self.state != DiskState::Normal {
            return;
        }
        let window = self.rules.window;
        self.failures.retain(|at| now.duration_since(*at) < window);
        self.failures.push(now);
        if self.failures.len() >= MAX_FAILURES {
            self.enter(DiskState::Unstable, now);
        }
    }

    /// Notes that time has passed, by which an unstable disk may become normal or go down.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.state != DiskState::Unstable {
            return;
        }
        if now.duration_since(self.window_began) >= self.rules.window {
            #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
            let failed_part = self.failed as f64 / self.operations.max(1) as f64;
            if self.operations >= MIN_OPERATIONS && failed_part <= self.rules.max_failed_part {
                self.enter(DiskState::Normal, now);
                return;
            }
            self.begin_window(now);
        }
        if now.duration_since(self.since) >= self.rules.down_after {
            self.enter(DiskState::Down, now);
        }
    }

    fn enter(&mut self, state: DiskState, now: Instant) {
        self.state = state;
        self.since = now;
        self.failures.clear();
        self.begin_window(now);
    }

    fn begin_window(&mut self, now: Instant) {
        self.window_began = now;
        self.operations = 0;
        self.failed = 0;
    }
}

/// Whether an error says that the disk is in trouble. A missing file, a lack of space or of descriptors does not.
pub(super) fn is_trouble(error: &io::Error) -> bool {
    if error.kind() == io::ErrorKind::TimedOut {
        return true;
    }
    matches!(
        error.raw_os_error(),
        Some(
            libc::EIO
                | libc::EROFS
                | libc::ENODEV
                | libc::ENXIO
                | libc::EUCLEAN
                | libc::ESTALE
                | libc::ENOTCONN
                | libc::EREMOTEIO
                | libc::ESHUTDOWN
        )
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn health() -> (Health, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Health::new(HealthRules::default(), start), move |secs| start + Duration::from_secs(secs))
    }

    fn unstable() -> (Health, impl Fn(u64) -> Instant) {
        let (mut health, at) = health();
        (0..3).for_each(|secs| health.failed(at(secs)));
        assert_eq!(health.state(), DiskState::Unstable);
        (health, at)
    }

    #[test]
    fn three_failures_within_a_minute_make_a_disk_unstable() {
        let (mut health, at) = health();
        for secs in [0, 50, 70, 121, 140] {
            health.failed(at(secs));
            health.tick(at(secs));
            assert_eq!(health.state(), DiskState::Normal, "after {secs} s");
        }
        health.failed(at(170));
        assert_eq!(health.state(), DiskState::Unstable);
    }

    #[test]
    fn a_minute_without_failures_makes_it_normal_again() {
        let (mut health, at) = unstable();
        (0..100).for_each(|_| health.succeeded());
        health.tick(at(61));
        assert_eq!(health.state(), DiskState::Unstable, "the minute is not over");
        health.tick(at(62));
        assert_eq!(health.state(), DiskState::Normal);
        // The old failures are forgotten.
        health.failed(at(63));
        health.failed(at(64));
        assert_eq!(health.state(), DiskState::Normal);
    }

    #[test]
    fn few_operations_or_one_failure_among_many_do_not() {
        let (mut health, at) = unstable();
        (0..59).for_each(|_| health.succeeded());
        health.tick(at(62));
        assert_eq!(health.state(), DiskState::Unstable, "59 operations");
        (0..1000).for_each(|_| health.succeeded());
        health.failed(at(90));
        health.tick(at(122));
        assert_eq!(health.state(), DiskState::Unstable, "one of 1001 failed");
        (0..60).for_each(|_| health.succeeded());
        health.tick(at(182));
        assert_eq!(health.state(), DiskState::Normal);
    }

    #[test]
    fn half_an_hour_takes_it_down_for_good() {
        let (mut health, at) = unstable();
        for minute in 1..=30 {
            health.failed(at(60 * minute));
            health.tick(at(60 * minute));
            assert_eq!(health.state(), DiskState::Unstable, "minute {minute}");
        }
        health.tick(at(1802));
        assert_eq!(health.state(), DiskState::Down);
        (0..1000).for_each(|_| health.succeeded());
        health.tick(at(4000));
        assert_eq!(health.state(), DiskState::Down);
    }

    #[test]
    fn only_some_errors_are_the_disk_s_fault() {
        for number in [libc::EIO, libc::EROFS, libc::ENODEV] {
            assert!(is_trouble(&io::Error::from_raw_os_error(number)));
        }
        for number in [libc::ENOENT, libc::ENOSPC, libc::EMFILE, libc::EDQUOT, libc::EACCES] {
            assert!(!is_trouble(&io::Error::from_raw_os_error(number)));
        }
        assert!(is_trouble(&io::ErrorKind::TimedOut.into()) && !is_trouble(&io::ErrorKind::InvalidData.into()));
    }
}
