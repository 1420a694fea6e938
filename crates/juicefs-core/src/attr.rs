//! The attributes of a node, and what can be changed of them.

use crate::{
    ids::Ino,
    limits::{ENTRY_SPACE, align_4k},
};

/// The kind of a node. The discriminants are those of the format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum FileType {
    /// Regular file.
    #[default]
    File = 1,
    /// Directory.
    Directory = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe.
    Fifo = 4,
    /// Block device.
    BlockDevice = 5,
    /// Character device.
    CharDevice = 6,
    /// Unix socket.
    Socket = 7,
}

impl FileType {
    /// The type with this number in records, `None` for a number the format does not have.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::BlockDevice,
            6 => Self::CharDevice,
            7 => Self::Socket,
            _ => return None,
        })
    }

    /// The `S_IFMT` bits of `st_mode`.
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::BlockDevice => libc::S_IFBLK,
            Self::CharDevice => libc::S_IFCHR,
            Self::Socket => libc::S_IFSOCK,
        }
    }

    /// The type that `S_IFMT` bits of a mode name; plain 0 means a regular file, as mknod(2) has it.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            0 | libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFSOCK => Self::Socket,
            _ => return None,
        })
    }
}

/// A point in time: seconds since the epoch and nanoseconds 0..1_000_000_000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    /// Whole seconds since the epoch, negative before it.
    pub secs: i64,
    /// Nanoseconds past `secs`.
    pub nanos: u32,
}

impl Timestamp {
    /// A time of whole seconds.
    #[must_use]
    pub fn from_secs(secs: i64) -> Self {
        Self { secs, nanos: 0 }
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub fn as_nanos(self) -> i128 {
        i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// The time `nanos` nanoseconds after the epoch.
    #[must_use]
    pub fn from_nanos(nanos: i128) -> Self {
        let secs = nanos.div_euclid(1_000_000_000);
        let rest = nanos.rem_euclid(1_000_000_000);
        Self {
            secs: i64::try_from(secs).unwrap_or(if secs < 0 { i64::MIN } else { i64::MAX }),
            nanos: u32::try_from(rest).unwrap_or(0),
        }
    }
}

/// Flag bits of a node (`Attr::flags`).
pub mod flags {
    /// Nothing about the node may change.
    pub const IMMUTABLE: u8 = 1;
    /// A file may only grow at its end, a directory only gain entries.
    pub const APPEND: u8 = 2;
    /// Windows attributes: hidden, system, archive.
    pub const WINDOWS: u8 = 4 | 8 | 16;
    /// Removal bypasses the trash.
    pub const SKIP_TRASH: u8 = 32;
}

/// Everything that is stored about a node except its content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attr {
    /// Bits of [`flags`].
    pub flags: u8,
    /// Kind of the node.
    pub kind: FileType,
    /// Permission bits with set-id and sticky: 0..=0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Number of names; 2 + sub-directories for a directory.
    pub nlink: u32,
    /// Size in bytes: 4096 for directories, target length for symlinks, 0 for special files.
    pub length: u64,
    /// Device number of a device node, in the kernel's `dev_t` encoding of mknod.
    pub rdev: u32,
    /// The directory that holds the node; 0 once a file was hard-linked (see the parent links then).
    pub parent: Ino,
    /// Id of the access ACL rule, 0 for none.
    pub access_acl: u32,
    /// Id of the default ACL rule, 0 for none.
    pub default_acl: u32,
    /// Storage tier of new data.
    pub tier: u8,
}

impl Attr {
    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether this is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == FileType::File
    }

    /// Whether any of the `wanted` flag bits is set.
    #[must_use]
    pub fn has_flag(&self, wanted: u8) -> bool {
        self.flags & wanted != 0
    }

    /// Bytes that the node counts in used space (format: metadata.md §6.0 "Counting").
    #[must_use]
    pub fn used_space(&self) -> u64 {
        if self.is_file() { align_4k(self.length) } else { ENTRY_SPACE }
    }

    /// Type and permission bits as `st_mode` has them.
    #[must_use]
    pub fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | u32::from(self.mode)
    }
}

/// A new value for atime or mtime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The time of the operation (utimensat `UTIME_NOW`): write access is enough.
    Now,
    /// A given time: only the owner may set it.
    At(Timestamp),
}

/// What setattr is asked to change. `None` leaves a field alone. The size is not here: see `Meta::truncate`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// New permission bits (0..=0o7777).
    pub mode: Option<u16>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// New flag bits, replacing all of [`flags`].
    pub flags: Option<u8>,
    /// New storage tier.
    pub tier: Option<u8>,
    /// Clear set-uid and set-gid as a write by a non-owner does (FATTR_KILL_SUIDGID).
    pub kill_suid_sgid: bool,
}

impl SetAttr {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
