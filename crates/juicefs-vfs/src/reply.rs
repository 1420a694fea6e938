//! The answers of operations. Front ends turn them into their own wire forms.

use std::time::Duration;

use bytes::Bytes;
use juicefs_core::{Attr, Errno, FileType, Ino};

/// The answer of an operation.
pub(crate) type VfsResult<T> = Result<T, Errno>;

/// A name that was found or made. With `ino` 0 it is a negative entry, which says for `entry_ttl` that the name does
/// not exist.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The inode, 0 for a negative entry.
    pub ino: Ino,
    /// Its attributes.
    pub attr: Attr,
    /// How long the attributes may be trusted.
    pub attr_ttl: Duration,
    /// How long the name may be trusted.
    pub entry_ttl: Duration,
}

/// Attributes of one inode.
#[derive(Clone, Debug)]
pub struct AttrReply {
    /// The attributes.
    pub attr: Attr,
    /// The inode they belong to.
    pub ino: Ino,
    /// How long they may be trusted.
    pub attr_ttl: Duration,
}

/// An opened file or directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Handle number, never 0.
    pub fh: u64,
    /// The pages that the kernel still has of this file are good.
    pub keep_cache: bool,
    /// The access time is not that of the last open, which the kernel may still have.
    pub new_atime: bool,
    /// The kernel must not cache pages (internal files).
    pub direct_io: bool,
    /// The kernel may cache the listing (directories).
    pub cache_dir: bool,
    /// No FLUSH is needed at close.
    pub noflush: bool,
    /// Direct writes may run side by side.
    pub parallel_direct_writes: bool,
}

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct DirItem {
    /// Name within the directory.
    pub name: Bytes,
    /// The inode.
    pub ino: Ino,
    /// Kind of the node.
    pub kind: FileType,
    /// The offset of the *next* entry. Whoever reads on from here gets what follows this one.
    pub cookie: u64,
    /// The whole entry, if it was asked for and is known to be fresh. `None` becomes node id 0 in READDIRPLUS.
    pub entry: Option<Entry>,
}

/// The answer to statfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Blocks of `frsize` in all.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Blocks free to everyone.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred size of I/O in bytes.
    pub bsize: u32,
    /// Bytes of a block.
    pub frsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
}
