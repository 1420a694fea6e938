//! Identifiers of a volume: inodes, slices, sessions, handles and names.

use std::fmt;

use bytes::Bytes;

/// Inode number. Numbers are permanent: they are never handed out twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ino(pub u64);

impl Ino {
    /// Root directory of the volume.
    pub const ROOT: Self = Self(1);
    /// Root of the trash; its children are the hourly directories `TRASH_ROOT + n`.
    pub const TRASH_ROOT: Self = Self(0x7FFF_FFFF_1000_0000);

    /// Whether this is the trash root or one of its hourly directories.
    #[must_use]
    pub fn is_trash(self) -> bool {
        self.0 >= Self::TRASH_ROOT.0
    }

    /// Whether this is an hourly directory of the trash: the parent of whatever was removed.
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

/// Identity of one contiguous write result; 0 stands for a hole. Never reused: object keys derive from it.
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

/// A slice as the object store knows it: block keys derive from both fields (format: data.md §1.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SliceKey {
    /// Identity of the slice.
    pub id: SliceId,
    /// Full size of the slice in bytes as it was written, whatever part of it a chunk still shows.
    pub size: u32,
}

/// Number of a client session; 0 is a client without one (tools, read-only mounts).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct SessionId(pub u64);

/// Index of a 64 MiB chunk within a file.
pub type ChunkIndex = u32;

/// One entry name: 1..=255 bytes without `/` and NUL, any other byte allowed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Name(pub Bytes);

impl Name {
    /// Copies `bytes` into a name. The rules for names are the operations', not this type's.
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
