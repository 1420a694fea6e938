//! What is known of the sessions of clients, and the work that clients share.

use bytes::Bytes;

use crate::{
    attr::Timestamp,
    ids::{Ino, SessionId},
};

/// A session as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its number.
    pub sid: SessionId,
    /// When it expires without a heartbeat.
    pub expire: Timestamp,
    /// The JSON text that the client stored (format: metadata.md §5.4).
    pub info: Bytes,
    /// Inodes that it keeps alive after their removal.
    pub sustained: Vec<Ino>,
}

/// What was lost with a session that another client has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLoss {
    /// The session that has ended.
    pub old: SessionId,
    /// The session that takes its place.
    pub new: SessionId,
    /// Locks of flock(2) that were held, by file and owner.
    pub flocks: Vec<(Ino, u64)>,
    /// Locks of fcntl(2) that were held, by file and owner.
    pub ranges: Vec<(Ino, u64)>,
    /// Open files without a name.
    pub unnamed: Vec<Ino>,
}

/// Background work of which one client of a volume does each round (format: metadata.md §6.15).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Job {
    /// Sessions that stopped their heartbeat.
    StaleSessions,
    /// Data of files that were removed.
    DeletedFiles,
    /// Slices without a reference.
    Slices,
    /// Expired trash directories and delayed slices.
    Trash,
}
