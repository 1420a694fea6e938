//! The errors that cross the edges of crates. They are grouped by what the caller must do.

use thiserror::Error;

use crate::errno::Errno;

/// Why a metadata call did not succeed.
#[derive(Debug, Error, Clone)]
pub enum MetaError {
    /// The operation itself answers with this error, which is for the application.
    #[error("{0}")]
    Posix(Errno),
    /// The engine could not be reached or did not answer within the retry budget.
    #[error("metadata engine is unavailable: {0}")]
    Unavailable(String),
    /// The operation kept losing against concurrent changes until its retries were used up.
    #[error("metadata transaction gave up after {0} conflicts")]
    Conflict(u32),
    /// A stored record does not decode. This is damage; no answer is ever made of guesses.
    #[error("corrupt metadata record {what}: {why}")]
    Corrupt {
        /// Which record.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another client has ended the session in which the call was made, and nothing has happened.
    #[error("the session of this client was ended by another one")]
    Fenced,
    /// The volume setting is missing or this client cannot use it. The sentence is for the user.
    #[error("{0}")]
    Setting(String),
    /// The engine, or this version of it, cannot do this.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

impl From<Errno> for MetaError {
    fn from(errno: Errno) -> Self {
        Self::Posix(errno)
    }
}

impl MetaError {
    /// The number that an application sees for this error.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Posix(errno) => *errno,
            Self::Unavailable(_) | Self::Conflict(_) | Self::Corrupt { .. } | Self::Fenced | Self::Setting(_) => {
                Errno::EIO
            }
            Self::Unsupported(_) => Errno::EOPNOTSUPP,
        }
    }
}

/// Outcome of a metadata call.
pub type MetaResult<T> = Result<T, MetaError>;

/// Failure of one request to an object store.
#[derive(Debug, Error, Clone)]
pub enum StorageError {
    /// There is no such object. For a block this is damage, not an answer.
    #[error("no such object: {0}")]
    NotFound(String),
    /// The store is full.
    #[error("no space left in the object store: {0}")]
    NoSpace(String),
    /// A fault that a later try may not meet, such as a time-out, a reset, throttling or 5xx.
    #[error("object store: {0}")]
    Transient(String),
    /// The store does not accept the access keys. Another try will meet that too, unless the volume has other keys by then.
    #[error("object store refused: {0}")]
    Keys(String),
    /// A fault that every try will meet, such as a missing bucket, no permission or a bad request.
    #[error("object store refused: {0}")]
    Permanent(String),
}

/// Failure of the data path.
#[derive(Debug, Error, Clone)]
pub enum ChunkError {
    /// The object store failed after all retries, or refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Bytes do not match their checksum, size or codec. They are never served.
    #[error("corrupt block {key}: {why}")]
    Corrupt {
        /// Object key of the block.
        key: String,
        /// What does not match.
        why: String,
    },
    /// The caller broke the contract of a slice (order, bounds). It is a bug, and answered as EIO.
    #[error("slice misuse: {0}")]
    Misuse(&'static str),
    /// Memory is short, and nobody waits for what was to be read. Only [`crate::store::ReadPurpose::ReadAhead`] meets this.
    #[error("there is no memory to read ahead")]
    NoMemory,
    /// The store is shutting down.
    #[error("the data path is closed")]
    Closed,
}

impl ChunkError {
    /// The number that an application sees for this error.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Storage(StorageError::NoSpace(_)) => Errno::ENOSPC,
            Self::NoMemory => Errno(libc::ENOMEM),
            Self::Storage(
                StorageError::NotFound(_)
                | StorageError::Transient(_)
                | StorageError::Keys(_)
                | StorageError::Permanent(_),
            )
            | Self::Corrupt { .. }
            | Self::Misuse(_)
            | Self::Closed => Errno::EIO,
        }
    }
}
