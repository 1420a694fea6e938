//! Room in the volume for what a file has grown by and what is not committed yet: so `write` says that the volume is full,
//! and not a later flush.

use juicefs_core::{Errno, Ino, Meta, limits::align_4k};

/// How far the claim of a file goes; the bytes are in the books of the metadata client.
#[derive(Default, Debug)]
pub(super) struct Claim {
    /// Length of the file that there is room for.
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

    /// After a commit, with which the file has `length` bytes: keeps what goes beyond.
    pub(super) fn committed(&self, meta: &dyn Meta, ino: Ino, length: u64) {
        if self.upto > 0 {
            meta.trim_claim(ino, align_4k(self.upto).saturating_sub(align_4k(length)));
        }
    }

    /// When nothing waits for its commit.
    pub(super) fn release(&mut self, meta: &dyn Meta, ino: Ino) {
        if std::mem::take(&mut self.upto) > 0 {
            meta.trim_claim(ino, 0);
        }
    }
}
