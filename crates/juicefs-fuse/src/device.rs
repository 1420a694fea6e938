//! `/dev/fuse` itself: one open description of it, how messages are read from it and written to it.

use std::{
    fs::OpenOptions,
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use juicefs_core::Errno;
use rustix::{io::Errno as IoErrno, ioctl};
use smallvec::SmallVec;

use crate::{
    abi::{OutHeader, bytes_of},
    reply::ReplySink,
};

const DEVICE: &str = "/dev/fuse";
/// Pieces that one `writev` takes (UIO_MAXIOV), less the header.
const PIECES_MAX: usize = 1023;

/// One open description of `/dev/fuse`. A request is answered on the description that it was read from.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
}

impl Device {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens one more description of the same connection, which has its own list of requests under way.
    pub(crate) fn reopen(&self) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        let source = u32::try_from(self.fd.as_raw_fd()).map_err(io::Error::other)?;
        const CLONE: ioctl::Opcode = ioctl::opcode::read::<u32>(229, 0);
        // SAFETY: FUSE_DEV_IOC_CLONE takes the address of a u32 with a descriptor and only reads it.
        unsafe { ioctl::ioctl(&file, ioctl::Setter::<CLONE, u32>::new(source)) }?;
        Ok(Self::new(file.into()))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Calls `read` until it brings a message, and returns the length of that; `None` at the end of the session.
pub(crate) fn next_message(mut read: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match read() {
            Ok(len) => return Ok(Some(len)),
            // ENOENT: the request was given up while it was read.
            Err(IoErrno::INTR | IoErrno::AGAIN | IoErrno::NOENT) => {}
            Err(IoErrno::NODEV | IoErrno::CONNABORTED) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes header and pieces as one message. `pieces` are at most [`PIECES_MAX`].
pub(crate) fn write_message(device: &Device, unique: u64, error: i32, pieces: &[&[u8]]) -> rustix::io::Result<()> {
    let body: usize = pieces.iter().map(|p| p.len()).sum();
    let len = u32::try_from(size_of::<OutHeader>() + body).map_err(|_| IoErrno::TOOBIG)?;
    let header = OutHeader { len, error, unique };
    let mut slices: SmallVec<[IoSlice<'_>; 9]> = SmallVec::with_capacity(1 + pieces.len());
    slices.push(IoSlice::new(bytes_of(&header)));
    slices.extend(pieces.iter().map(|p| IoSlice::new(p)));
    loop {
        match rustix::io::writev(device, &slices) {
            Ok(_) => return Ok(()),
            Err(IoErrno::INTR | IoErrno::AGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}

impl ReplySink for Arc<Device> {
    /// Writes one message and, if the kernel refuses its form, an error in its place.
    fn send(self, unique: u64, error: i32, body: &[&[u8]]) {
        let written = if body.len() <= PIECES_MAX {
            write_message(&self, unique, error, body)
        } else {
            write_message(&self, unique, error, &[&body.concat()])
        };
        match written {
            // ENOENT: the request was given up meanwhile. ENODEV: the mount is gone. Nobody waits in either case.
            Ok(()) | Err(IoErrno::NOENT | IoErrno::NODEV | IoErrno::CONNABORTED | IoErrno::PERM) => {}
            Err(refused) => {
                tracing::error!(unique, error = %refused, "the kernel refused an answer");
                // ENOENT if the kernel ended the request with the refusal, which it does for answers of a wrong size.
                let _ = write_message(&self, unique, -Errno::EIO.0, &[]);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A device whose messages can be read back.
    pub(crate) fn device() -> (Arc<Device>, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().expect("a socket pair");
        theirs.set_nonblocking(true).expect("a flag");
        (Arc::new(Device::new(OwnedFd::from(ours))), theirs)
    }

    /// The next message: number, error, body.
    pub(crate) fn message(socket: &UnixDatagram) -> Option<(u64, i32, Vec<u8>)> {
        let mut buf = vec![0; 4 << 20];
        let n = socket.recv(&mut buf).ok()?;
        let (header, body) = crate::abi::split::<OutHeader>(&buf[..n]).expect("a header");
        assert_eq!(header.len as usize, n);
        Some((header.unique, header.error, body.to_vec()))
    }
}
