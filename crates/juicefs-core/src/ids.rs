//! The identifiers in a volume: inodes, slices, sessions and names.

use std::fmt;

use bytes::Bytes;

/// The number of an inode. Numbers are permanent, and never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ino(pub u64);

impl Ino {
    /// Root directory of the volume.
    pub const ROOT: Self = Self(1);
    /// The root of the trash. Its children are the hourly directories `TRASH_ROOT + n`.
    pub const TRASH_ROOT: Self = Self(0x7FFF_FFFF_1000_0000);

    /// Whether this is the trash root or one of its hourly directories.
    #[must_use]
    pub fn is_trash(self) -> bool {
        self.0 >= Self::TRASH_ROOT.0
    }

    /// Whether this is an hourly directory of the trash, the parent of whatever was removed.
    #[must_use]
    pub fn is_hourly_trash(self) -> bool {
        self.0 > Self::TRASH_ROOT.0
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ino:{}", self.0)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a slice, which is one contiguous piece of written data. 0 stands for a hole. Numbers are never used
/// twice, because object keys derive from them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct SliceId(pub u64);

impl SliceId {
    /// The id of zeros: no object belongs to it.
    pub const HOLE: Self = Self(0);

    /// Whether this id stands for zeros.
    #[must_use]
    pub fn is_hole(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A slice as the object store knows it. The keys of blocks derive from both fields (format: data.md §1.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SliceKey {
    /// Identity of the slice.
    pub id: SliceId,
    /// Full size of the slice in bytes as it was written, whatever part of it a chunk still shows.
    pub size: u32,
}

/// The number of the session of a client. 0 stands for a client without one (tools, read-only mounts).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct SessionId(pub u64);

/// Index of a 64 MiB chunk within a file.
pub type ChunkIndex = u32;

/// The name of an entry: 1..=255 bytes of any value except `/` and NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Name(pub Bytes);

impl Name {
    /// Copies `bytes` into a name. The operations check the rules for names, this type does not.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl From<Vec<u8>> for Name {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
