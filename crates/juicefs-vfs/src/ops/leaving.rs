//! A handle that leaves its file with what was locked through it.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::file::File;

/// What is to be released with a handle. The handle has left when this is dropped.
pub(crate) struct Leaving {
    file: Arc<File>,
    /// Owner of its lock on the whole file.
    pub(crate) file_owner: Option<u64>,
    /// Owners that asked for ranges through this handle alone. Owners that are processes released theirs when they
    /// closed it; what is left are open files (`F_OFD_SETLK`).
    pub(crate) range_owners: SmallVec<[u64; 1]>,
}

impl Leaving {
    /// Takes out what goes with the handle. `None` when nothing was ever locked through it.
    pub(crate) fn begin(file: &Arc<File>, fh: u64) -> Option<Self> {
        let (file_owner, range_owners) = file.lockers.leave(fh)?;
        Some(Self { file: Arc::clone(file), file_owner, range_owners })
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.file.lockers.left();
    }
}
