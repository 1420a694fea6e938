//! The arguments and answers of operations on names.

use bytes::Bytes;

use crate::{
    attr::{Attr, FileType},
    ids::{Ino, Name},
};

/// What a new node is to be.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Kind of the node.
    pub kind: FileType,
    /// Requested permission bits (0..=0o7777), before the umask.
    pub mode: u16,
    /// The caller's umask.
    pub umask: u16,
    /// Device number; only for device nodes.
    pub rdev: u32,
    /// Target; only for symlinks.
    pub target: Bytes,
}

/// What an operation that removes a name did besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// The inode whose name went; `None` when nothing was replaced (rename).
    pub ino: Option<Ino>,
    /// Data that nothing refers to any more.
    pub freed: Option<Freed>,
}

/// A file whose last name is gone and whose data can be deleted (`Meta::delete_file_data`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freed {
    /// The former inode.
    pub ino: Ino,
    /// Its length when it was removed.
    pub length: u64,
}

/// The answer to a rename.
#[derive(Clone, Debug)]
pub struct Renamed {
    /// The node that moved.
    pub ino: Ino,
    /// Its attributes afterwards.
    pub attr: Attr,
    /// What it replaced.
    pub replaced: Removed,
}

/// `renameat2` flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RenameFlags {
    /// Fail with EEXIST when the target exists.
    pub no_replace: bool,
    /// Swap source and target.
    pub exchange: bool,
    /// Leave a whiteout behind, the character device 0:0. EINVAL with `exchange`.
    pub whiteout: bool,
    /// Move out of the trash into a directory that may itself be in the trash (`restore` only).
    pub restore: bool,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name within the directory; never `.` or `..`.
    pub name: Name,
    /// The inode it names.
    pub ino: Ino,
    /// Kind of the node as the entry records it.
    pub kind: FileType,
    /// Attributes, when they were asked for and the node exists.
    pub attr: Option<Attr>,
}

/// Where to go on reading a directory. Only the engine that gave it understands it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirCursor(pub Bytes);

/// Some entries of a directory.
#[derive(Clone, Debug, Default)]
pub struct DirPage {
    /// Entries in the engine's order. An entry present during the whole listing appears on one of the pages, and on
    /// more than one only while others are removed, or when the listing began anew.
    pub entries: Vec<DirEntry>,
    /// Where the next page starts, `None` at the end.
    pub next: Option<DirCursor>,
    /// The cursor that was given means nothing any more, because the directory is on another server now. So this is the
    /// first page again.
    pub anew: bool,
    /// All entries of the listing come in the order of their names, so that none comes twice unless the listing begins anew.
    pub by_name: bool,
}
