//! The few file operations that the standard library has no words for.

use std::{
    fs::File,
    io::{self, IoSlice, Write},
    os::fd::{AsRawFd, IntoRawFd},
};

use bytes::Bytes;

/// Most pieces that one writev takes.
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

/// Closes with its error heard: network file systems report a full disk here.
pub(crate) fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was owned by `file`, which gave it up, and is closed exactly once.
    if unsafe { libc::close(file.into_raw_fd()) } == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    if e.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(e) }
}
