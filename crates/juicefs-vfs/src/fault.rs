//! The one place where errors of the layers below become error numbers for applications. They are logged here.

use juicefs_core::{ChunkError, Errno, Ino, MetaError};

/// The error number for a failed metadata call. An errno that is the answer of the operation itself is not logged.
pub(crate) fn of_meta(what: &'static str, ino: Ino, error: &MetaError) -> Errno {
    match error {
        MetaError::Posix(_) | MetaError::Unsupported(_) => {}
        // The client has said so loudly, and comes back.
        MetaError::Fenced => tracing::debug!(%ino, %error, "{what} failed"),
        MetaError::Unavailable(_) | MetaError::Conflict(_) | MetaError::Corrupt { .. } | MetaError::Setting(_) => {
            tracing::error!(%ino, %error, "{what} failed")
        }
    }
    error.errno()
}

/// The error number for a failure of the data path.
pub(crate) fn of_chunk(what: &'static str, ino: Ino, error: &ChunkError) -> Errno {
    match error {
        ChunkError::Storage(_) | ChunkError::Corrupt { .. } | ChunkError::Misuse(_) => {
            tracing::error!(%ino, %error, "{what} failed");
        }
        // It says nothing about the data; whoever wants it reads it himself.
        ChunkError::NoMemory => tracing::debug!(%ino, "{what}: {error}"),
        ChunkError::Closed => tracing::warn!(%ino, "{what} after the data path was closed"),
    }
    error.errno()
}
