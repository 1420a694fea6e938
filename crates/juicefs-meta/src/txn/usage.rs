//! Used space, which is summed up for the volume, for quotas and for owners.

/// Used bytes and inodes, or a change of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes.
    pub space: i64,
    /// Inodes.
    pub inodes: i64,
}

impl Usage {
    /// So many bytes, and no inode.
    #[must_use]
    pub fn of_space(bytes: u64) -> Self {
        Self { space: i64::try_from(bytes).unwrap_or(i64::MAX), inodes: 0 }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { space: self.space.saturating_add(other.space), inodes: self.inodes.saturating_add(other.inodes) }
    }

    /// What remains without `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { space: self.space.saturating_sub(other.space), inodes: self.inodes.saturating_sub(other.inodes) }
    }
}
