//! The locks of files that flock(2) and fcntl(2) know. They are advisory, and their owners may be in different clients.

use std::{fmt, future::Future, pin::Pin};

use crate::ids::SessionId;

/// The kinds of locks, by what they leave to others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockKind {
    /// Others may hold it too, for reading (`LOCK_SH`, `F_RDLCK`).
    Read,
    /// Nobody else holds anything (`LOCK_EX`, `F_WRLCK`).
    Write,
}

impl LockKind {
    /// Whether two owners cannot hold these at the same time.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        self == Self::Write || other == Self::Write
    }
}

/// Who holds a lock: a number that one client chose, and the session of that client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LockOwner {
    /// Session of the client.
    pub sid: SessionId,
    /// Number within the client; the kernel makes it up for each process or open file.
    pub number: u64,
}

/// A range of bytes of a file, both ends included. The bytes need not exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// Last byte, not before the first.
    pub end: u64,
}

impl LockRange {
    /// The last byte of a range without end.
    pub const LAST: u64 = i64::MAX as u64;
    /// The whole file, however long it becomes.
    pub const ALL: Self = Self { start: 0, end: Self::LAST };

    /// Whether the two have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Whether all bytes of `other` are in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Display for LockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.start, self.end)
    }
}

/// A lock on bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RangeLock {
    /// What it leaves to others.
    pub kind: LockKind,
    /// The bytes.
    pub range: LockRange,
    /// Process that holds it, 0 when it is in another client.
    pub pid: u32,
}

/// All locks of one file, of all clients.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileLocks {
    /// Locks of flock(2), by owner.
    pub flocks: Vec<(LockOwner, LockKind)>,
    /// Locks of fcntl(2), by owner and range. The process is the one that the client of the holder knows.
    pub ranges: Vec<(LockOwner, RangeLock)>,
}

/// A future that completes when whoever asked for a lock does not want to wait for it any longer.
pub type GiveUp = Pin<Box<dyn Future<Output = ()> + Send>>;
