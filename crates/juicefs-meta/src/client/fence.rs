//! The end of a client that was taken for dead (`docs/adr/0008-fencing.md`).

use std::sync::atomic::{AtomicBool, Ordering};

use juicefs_core::{
    error::{MetaError, MetaResult},
    ids::SessionId,
};

/// Shut once another client has ended the session of this one; never opened again.
#[derive(Debug, Default)]
pub(super) struct Fence {
    shut: AtomicBool,
}

impl Fence {
    /// Whether this client may change nothing any more.
    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// `Fenced` once it is shut.
    pub(super) fn check(&self) -> MetaResult<()> {
        if self.is_shut() { Err(MetaError::Fenced) } else { Ok(()) }
    }

    /// Shuts it, and says so the first time.
    pub(super) fn shut(&self, sid: SessionId) {
        if !self.shut.swap(true, Ordering::AcqRel) {
            tracing::error!(
                sid = sid.0,
                "another client has ended the session of this one, which was silent for too long; every change fails \
                 with EIO from now on and what was not yet written is lost, reading goes on: unmount and mount again"
            );
        }
    }
}
