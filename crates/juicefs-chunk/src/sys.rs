//! The few file operations that the standard library has no words for.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Write},
    os::{fd::IntoRawFd, unix::fs::FileExt},
};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};

/// Most pieces that one writev takes.
const MAX_IOVECS: usize = 1024;

/// Reads what lies in the page cache from `off` on, without waiting for the disk; the number of bytes that it was.
///
/// A file system that cannot tell is asked to read and may wait.
pub(crate) fn read_cached(file: &File, buf: &mut [u8], off: u64) -> usize {
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buf)], off, ReadWriteFlags::NOWAIT) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP) => file.read_at(buf, off).unwrap_or(0),
        Err(_) => 0,
    }
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
