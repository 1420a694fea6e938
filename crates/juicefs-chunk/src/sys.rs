//! File operations that the standard library does not have.

use std::{
    fs::File,
    io::{self, IoSlice, Write},
    os::{
        fd::{AsRawFd, IntoRawFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

/// The most pieces that one writev takes.
const MAX_IOVECS: usize = 1024;

/// Appends to `buf` what lies in the page cache from `off` on, at most `len` bytes and what fits, without waiting for the
/// disk.
///
/// A file system that cannot tell is asked to read and may wait.
pub(crate) fn read_cached(file: &File, buf: &mut Vec<u8>, len: usize, off: u64) {
    if let Err(e) = append(file, buf, len, off, libc::RWF_NOWAIT)
        && e.raw_os_error() == Some(libc::EOPNOTSUPP)
    {
        // What cannot be read is met again by the read that waits.
        let _ = append(file, buf, len, off, 0);
    }
}

/// Does what [`read_cached`] does, but never waits: where the file system cannot tell, nothing is read.
pub(crate) fn read_cached_only(file: &File, buf: &mut Vec<u8>, len: usize, off: u64) {
    // What cannot be read is met again by the read that waits.
    let _ = append(file, buf, len, off, libc::RWF_NOWAIT);
}

/// Flags for files that may be read without waiting. Such a read must not note its time: that waits for the journal of the
/// file system even if the bytes are at hand.
const QUIET: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOATIME);

/// Opens a file whose reads leave its access time as it is, unless it belongs to somebody else. Waits for the disk.
///
/// # Errors
/// Those of the file system.
pub(crate) fn open_quiet(path: &Path) -> io::Result<File> {
    match rustix::fs::open(path, QUIET, Mode::empty()) {
        Ok(file) => Ok(file.into()),
        Err(rustix::io::Errno::PERM) => File::open(path),
        Err(e) => Err(e.into()),
    }
}

/// Sets the access time of a file that is used `now`, in seconds since the epoch, if it is a day old or that of a file never
/// used. Waits for the disk.
pub(crate) fn note_use(file: &File, now: u32) {
    const DAY_SECS: i64 = 24 * 60 * 60;
    let Ok(meta) = file.metadata() else { return };
    if i64::from(now) - meta.atime() >= DAY_SECS || meta.atime() <= meta.mtime() {
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // It may belong to somebody else, and is only a hint.
        let _ = rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: keep });
    }
}

/// Does what [`open_quiet`] does if all names on the way to the file are in the kernel's memory. Returns `None` when opening
/// would wait, or when that cannot be told.
///
/// # Errors
/// `NotFound` when it is known to be missing.
pub(crate) fn open_cached(path: &Path) -> io::Result<Option<File>> {
    match rustix::fs::openat2(rustix::fs::CWD, path, QUIET, Mode::empty(), ResolveFlags::CACHED) {
        Ok(file) => Ok(Some(file.into())),
        Err(rustix::io::Errno::NOENT) => Err(io::ErrorKind::NotFound.into()),
        // Old kernels do not know the call, others may not allow it.
        Err(_) => Ok(None),
    }
}

/// What a file system lies on, which decides what has to be waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Medium {
    /// Memory: nothing ever waits.
    Memory,
    /// A disk: what is in the kernel's caches does not wait.
    Disk,
    /// A server or another process, which anything may have to wait for.
    Remote,
}

/// Finds out what the file system of `path` lies on.
pub(crate) fn medium(path: &Path) -> Medium {
    /// tmpfs and ramfs.
    const MEMORY: [i128; 2] = [0x0102_1994, 0x8584_58f6];
    /// FUSE, NFS, CIFS, SMB 2, 9P and Ceph.
    const REMOTE: [i128; 6] = [0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400];
    // The type of the field differs between architectures, the numbers do not.
    let Ok(kind) = rustix::fs::statfs(path).map(|stat| i128::from(stat.f_type) & 0xffff_ffff) else {
        return Medium::Remote;
    };
    match () {
        () if MEMORY.contains(&kind) => Medium::Memory,
        () if REMOTE.contains(&kind) => Medium::Remote,
        () => Medium::Disk,
    }
}

/// Appends to `buf` what can be read of a file on `medium` without waiting, at most `len` bytes from `off` on.
pub(crate) fn read_at_hand(file: &File, buf: &mut Vec<u8>, len: usize, off: u64, medium: Medium) {
    match medium {
        Medium::Memory => read_cached(file, buf, len, off),
        Medium::Disk => read_cached_only(file, buf, len, off),
        Medium::Remote => {}
    }
}

/// Appends to `buf`, which holds the first of the `len` bytes at `off` already, the rest of them; waits for the disk.
///
/// # Errors
/// Those of the file system, and `UnexpectedEof` when the file ends before.
pub(crate) fn read_rest(file: &File, buf: &mut Vec<u8>, len: usize, off: u64) -> io::Result<()> {
    buf.reserve(len.saturating_sub(buf.len()));
    while buf.len() < len {
        let (left, at) = (len - buf.len(), off + buf.len() as u64);
        match append(file, buf, left, at, 0) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// One read of at most `len` bytes at `off` into the spare capacity of `buf`; how many it was.
fn append(file: &File, buf: &mut Vec<u8>, len: usize, off: u64, flags: i32) -> io::Result<usize> {
    let off = i64::try_from(off).map_err(|_| io::ErrorKind::InvalidInput)?;
    let spare = buf.spare_capacity_mut();
    let iov = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: len.min(spare.len()) };
    // SAFETY: `iov` describes spare capacity of `buf`, which is borrowed for us alone and lives through the call.
    let got = unsafe { libc::preadv2(file.as_raw_fd(), &raw const iov, 1, off, flags) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the call has written `got` bytes, at most `iov_len`, right after those that `buf` had.
    unsafe { buf.set_len(buf.len() + got) };
    Ok(got)
}

/// Writes all of `body` at the file's position.
pub(crate) fn write_all(file: &mut File, body: &[Bytes]) -> io::Result<()> {
    if let [only] = body {
        return file.write_all(only);
    }
    let mut slices: Vec<_> = body.iter().filter(|b| !b.is_empty()).map(|b| IoSlice::new(b)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let batch = rest.len().min(MAX_IOVECS);
        match file.write_vectored(&rest[..batch]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Closes a file and returns the error of that. Network file systems report a full disk here.
pub(crate) fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was owned by `file`, which gave it up, and is closed exactly once.
    if unsafe { libc::close(file.into_raw_fd()) } == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    if e.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(e) }
}
