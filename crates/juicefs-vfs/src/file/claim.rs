//! Claims room in the volume for what a file has grown by and what is not committed yet, so that `write` says that the
//! volume is full, and not a later flush.

use juicefs_core::{Errno, Ino, Meta, limits::align_4k};

/// How far the claim of a file goes. The metadata client keeps account of the bytes.
#[derive(Default, Debug)]
pub(super) struct Claim {
    /// The length of the file for which there is room.
    upto: u64,
}

impl Claim {
    /// Makes sure of room for a file of `length` bytes to become `end` bytes long. ENOSPC when the volume has none.
    pub(super) fn grow(&mut self, meta: &dyn Meta, ino: Ino, length: u64, end: u64) -> Result<(), Errno> {
        let more = align_4k(end).saturating_sub(align_4k(length.max(self.upto)));
        if more > 0 {
            meta.claim_space(ino, more)?;
            self.upto = end;
        }
        Ok(())
    }

    /// Keeps the claim only for what goes beyond `length`, which the file has since a commit.
    pub(super) fn committed(&self, meta: &dyn Meta, ino: Ino, length: u64) {
        if self.upto > 0 {
            meta.trim_claim(ino, align_4k(self.upto).saturating_sub(align_4k(length)));
        }
    }

    /// Gives the whole claim back, because nothing waits for its commit any more.
    pub(super) fn release(&mut self, meta: &dyn Meta, ino: Ino) {
        if std::mem::take(&mut self.upto) > 0 {
            meta.trim_claim(ino, 0);
        }
    }
}
