//! Quotas, which say how much a directory, a user or a group may hold (format: metadata.md §5.7).

use crate::ids::Ino;

/// Whom a quota is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum QuotaSubject {
    /// What belongs to a user, wherever it is.
    User(u32),
    /// What belongs to a group, wherever it is.
    Group(u32),
    /// What is below a directory.
    Dir(Ino),
}

/// The limits and the usage of a quota. A limit of 0 or less is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quota {
    /// Most bytes.
    pub max_space: i64,
    /// Most inodes.
    pub max_inodes: i64,
    /// Bytes in use.
    pub used_space: i64,
    /// Inodes in use.
    pub used_inodes: i64,
}

impl Quota {
    /// A record that only counts, because no limit was ever set.
    pub const UNSET: Self = Self { max_space: -1, max_inodes: -1, used_space: 0, used_inodes: 0 };

    /// Whether anything is limited.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.max_space > 0 || self.max_inodes > 0
    }

    /// Whether somebody set it, even to no limit. Otherwise it only counts and is not shown.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.max_space != -1 || self.max_inodes != -1
    }

    /// The limits, without what is used.
    #[must_use]
    pub fn limits(&self) -> (i64, i64) {
        (self.max_space, self.max_inodes)
    }
}
