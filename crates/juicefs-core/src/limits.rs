//! The fixed numbers of the format, and bounds that several crates share.

/// The size of a chunk, which is the window of a file that one list of slices describes.
pub const CHUNK_SIZE: u64 = 1 << 26;
/// Longest entry name in bytes (ENAMETOOLONG beyond).
pub const MAX_NAME_BYTES: usize = 255;
/// A symlink target must be shorter than this (ENAMETOOLONG otherwise).
pub const MAX_SYMLINK_BYTES: usize = 4096;
/// Longest xattr name in bytes (ERANGE beyond).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// Longest xattr value in bytes (ERANGE beyond).
pub const MAX_XATTR_VALUE_BYTES: usize = 65536;
/// Offsets and lengths of files stay below this (EFBIG otherwise).
pub const MAX_FILE_BYTES: u64 = CHUNK_SIZE << 31;
/// Bytes by which a directory, symlink or special file counts in the used space.
pub const ENTRY_SPACE: u64 = 4096;
/// Inode numbers reserved by one counter increment.
pub const INODE_BATCH: u64 = 1024;
/// Slice ids reserved by one counter increment.
pub const SLICE_ID_BATCH: u64 = 4096;
/// Largest FUSE request payload.
pub const MAX_FUSE_IO_BYTES: usize = 1 << 20;
/// How many requests of one client wait for locks at the same time. One more gets ENOLCK.
pub const LOCK_WAITS_MAX: usize = 2048;
/// How many ranges one owner may hold locked in one file. One more gets ENOLCK.
pub const LOCK_RANGES_MAX: usize = 16384;
/// How many entries of a directory are read from the engine at once.
pub const READDIR_PAGE: usize = 10_000;

/// Bytes that a file of `length` bytes counts in the used space: whole 4 KiB units, at least one.
#[must_use]
pub fn align_4k(length: u64) -> u64 {
    if length == 0 { ENTRY_SPACE } else { length.div_ceil(4096) * 4096 }
}
