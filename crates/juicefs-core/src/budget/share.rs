//! The kinds of work that take memory, and what is kept for each.

/// The kind of work for which memory is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Share {
    /// Data that applications write, until it is stored.
    #[default]
    Write,
    /// Data that an application reads and that has to be fetched from the store.
    Fetch,
    /// Data that an application reads from a disk of this machine.
    Disk,
    /// Data of uploads of staged blocks, fills and compaction. Nobody waits for them, and they must come to their end.
    Background,
    /// Data of read-ahead and other guesses.
    Ahead,
}

pub(super) const SHARES: [Share; 5] = [Share::Write, Share::Fetch, Share::Disk, Share::Background, Share::Ahead];

impl Share {
    /// How much of a cap is kept for it.
    pub(super) fn floor(self, cap_bytes: usize) -> usize {
        match self {
            Self::Write | Self::Fetch => cap_bytes / 4,
            // A read from disk needs little, and not for long.
            Self::Disk | Self::Background => cap_bytes / 16,
            // It uses half of what is kept for fetches.
            Self::Ahead => 0,
        }
    }

    /// How much of a cap it takes at most, the common part included.
    pub(super) fn limit(self, cap_bytes: usize) -> usize {
        match self {
            Self::Write | Self::Fetch | Self::Disk => {
                let others: usize = SHARES.iter().filter(|share| **share != self).map(|s| s.floor(cap_bytes)).sum();
                cap_bytes - others
            }
            // What a store that is away holds up of these must leave room for what can be staged and read meanwhile.
            Self::Background => cap_bytes / 4,
            Self::Ahead => cap_bytes / 2,
        }
    }

    /// Whether an application waits for it.
    pub(super) fn is_foreground(self) -> bool {
        matches!(self, Self::Write | Self::Fetch | Self::Disk)
    }
}
