//! The kernel's wire format. This module takes the structures from fuse-backend-rs, adds what newer kernels have, and
//! is the only place where bytes become structures and structures bytes.

use std::mem::size_of;

pub(crate) use fuse_backend_rs::abi::fuse_abi::{
    AccessIn, Attr, AttrOut, BatchForgetIn, CopyFileRangeIn, CreateIn, Dirent, EntryOut, FallocateIn, FileLock,
    FlushIn, FsyncIn, GetattrIn, GetxattrIn, GetxattrOut, InHeader, InitIn, InitIn2, InitOut, InterruptIn, IoctlIn,
    IoctlOut, Kstatfs, LinkIn, LkIn, LkOut, LseekIn, LseekOut, MkdirIn, MknodIn, NotifyInvalEntryOut,
    NotifyInvalInodeOut, OpenIn, OpenOut, OutHeader, ReadIn, ReleaseIn, Rename2In, RenameIn, SetattrIn, SetxattrIn,
    WriteIn, WriteOut,
};

/// The major version of the protocol. A kernel with another one speaks another protocol.
pub(crate) const MAJOR: u32 = 7;
/// The newest minor version whose additions this client knows and, where it wants them, answers.
pub(crate) const MINOR: u32 = 45;
/// The oldest minor version that is served (Linux 4.20). From this one on INIT limits the size of requests in pages.
pub(crate) const MINOR_MIN: u32 = 28;

/// Bytes in front of the data of a WRITE: header and fixed arguments.
pub(crate) const WRITE_HEAD_BYTES: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// Numbers of the operations.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const GETLK: u32 = 31;
    pub(crate) const SETLK: u32 = 32;
    pub(crate) const SETLKW: u32 = 33;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const NOTIFY_REPLY: u32 = 41;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;
}

/// Bits of INIT, low word first.
pub(crate) mod init_flag {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const POSIX_LOCKS: u64 = 1 << 1;
    pub(crate) const EXPORT_SUPPORT: u64 = 1 << 4;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const DONT_MASK: u64 = 1 << 6;
    pub(crate) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(crate) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const ABORT_ERROR: u64 = 1 << 21;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const SETXATTR_EXT: u64 = 1 << 29;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
}

/// Bits of `SetattrIn::valid`.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// Bits of `OpenOut::open_flags`.
pub(crate) mod fopen {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
    pub(crate) const NOFLUSH: u32 = 1 << 5;
    pub(crate) const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// `GetattrIn::flags`: the handle is valid.
pub(crate) const GETATTR_FH: u32 = 1;
/// `FsyncIn::fsync_flags`: data only.
pub(crate) const FSYNC_FDATASYNC: u32 = 1;
/// In `fuse_flags` of WRITE: it comes from the kernel's cache, through any handle.
pub(crate) const WRITE_CACHE: u32 = 1;
/// `LkIn::lk_flags`: the lock is one of flock(2).
pub(crate) const LK_FLOCK: u32 = 1;
/// `IoctlIn::flags`: the arguments are not described by the command number; refused.
pub(crate) const IOCTL_UNRESTRICTED: u32 = 1 << 1;

/// Codes of the messages that we start, in the place of an error number.
pub(crate) mod notify_code {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
}

/// The answer to COPY_FILE_RANGE_64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CopyFileRangeOut {
    pub(crate) bytes_copied: u64,
}

/// What SETXATTR_EXT adds to [`SetxattrIn`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SetxattrExt {
    /// Only [`SETXATTR_ACL_KILL_SGID`] is looked at.
    pub(crate) flags: u32,
    pub(crate) padding: u32,
}

/// `SetxattrExt::flags`: the ACL is set by who is not in the group of the file.
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

/// A structure of the wire format.
///
/// # Safety
/// The type is `repr(C)`, has no padding and any bytes are a value of it.
pub(crate) unsafe trait Wire: Copy {}

macro_rules! wire {
    ($($name:ident: $bytes:literal),* $(,)?) => {
        $(
            // SAFETY: repr(C) of unsigned integers only, and as large as the sum of its fields (asserted below).
            unsafe impl Wire for $name {}
            const _: () = assert!(size_of::<$name>() == $bytes);
        )*
    };
}

wire!(
    AccessIn: 8, AttrOut: 104, BatchForgetIn: 8, CopyFileRangeIn: 56, CopyFileRangeOut: 8, CreateIn: 16, Dirent: 24,
    EntryOut: 128, FallocateIn: 32, FlushIn: 24, FsyncIn: 16, GetattrIn: 16, GetxattrIn: 8, GetxattrOut: 8,
    InHeader: 40, InitIn: 16, InitIn2: 48, InitOut: 64, InterruptIn: 8, IoctlIn: 32, IoctlOut: 16, Kstatfs: 80,
    LinkIn: 8, LkIn: 48, LkOut: 24, LseekIn: 24, LseekOut: 8, MkdirIn: 8, MknodIn: 16, NotifyInvalEntryOut: 16,
    NotifyInvalInodeOut: 24, OpenIn: 8, OpenOut: 16, OutHeader: 16, ReadIn: 40, ReleaseIn: 24, Rename2In: 16,
    RenameIn: 8, SetattrIn: 88, SetxattrExt: 8, SetxattrIn: 8, WriteIn: 40, WriteOut: 8,
);

/// The first bytes as a `T`, and the rest; `None` when there are too few.
pub(crate) fn split<T: Wire>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    // SAFETY: `head` is size_of::<T>() readable bytes, any bytes are a T (Wire), and the read is unaligned.
    Some((unsafe { head.as_ptr().cast::<T>().read_unaligned() }, rest))
}

/// The bytes of `value`.
pub(crate) fn bytes_of<T: Wire>(value: &T) -> &[u8] {
    // SAFETY: a Wire type has no padding, so all its size_of::<T>() bytes are initialised; the borrow keeps it alive.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_split_off_in_order() {
        let bytes: Vec<u8> = (0..20).collect();
        let (first, rest) = split::<MkdirIn>(&bytes).expect("20 bytes hold 8");
        assert_eq!(first.mode, u32::from_ne_bytes([0, 1, 2, 3]));
        assert_eq!(bytes_of(&first), &bytes[..8]);
        assert_eq!(rest, &bytes[8..]);
        assert!(split::<MknodIn>(rest).is_none());
    }
}
