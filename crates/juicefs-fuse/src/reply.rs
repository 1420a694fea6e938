//! Answers: what is said, and the handle that says it exactly once.

use std::{
    io::IoSlice,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use juicefs_core::{Errno, Segments, buffer::segments_len};
use rustix::io::Errno as IoErrno;
use smallvec::SmallVec;

use crate::abi::{OutHeader, Wire, bytes_of};

/// Pieces that one `writev` takes (UIO_MAXIOV), less the header.
const PIECES_MAX: usize = 1023;
/// Largest fixed answer: CREATE, an entry and an open file.
const FIXED_BYTES: usize = 144;

/// One open description of `/dev/fuse`. A request is answered on the one that it was read from.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
}

impl Device {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Structures of a fixed answer, side by side.
#[derive(Debug)]
pub(crate) struct Fixed {
    len: usize,
    bytes: [u8; FIXED_BYTES],
}

/// What a request is answered with when it succeeded.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Success without data.
    Empty,
    /// Structures.
    Fixed(Fixed),
    /// File data, in the pieces that it lies in.
    Data(Segments),
    /// A listing, a value, a link target.
    Bytes(Bytes),
    /// Nothing at all is sent: the kernel expects no answer.
    Silence,
}

impl Answer {
    /// One structure.
    pub(crate) fn fixed<T: Wire>(value: &T) -> Self {
        Self::Fixed(Fixed { len: 0, bytes: [0; FIXED_BYTES] }.and(value))
    }

    /// Two structures.
    pub(crate) fn fixed2<A: Wire, B: Wire>(first: &A, second: &B) -> Self {
        Self::Fixed(Fixed { len: 0, bytes: [0; FIXED_BYTES] }.and(first).and(second))
    }
}

impl Fixed {
    /// The structures.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn and<T: Wire>(mut self, value: &T) -> Self {
        let bytes = bytes_of(value);
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }
}

/// The right and the duty to answer one request. Dropped without an answer it says EIO.
#[derive(Debug)]
pub(crate) struct Reply {
    unique: u64,
    /// `None` once answered.
    device: Option<Arc<Device>>,
}

impl Reply {
    /// The handle for request number `unique`, read from `device`.
    pub(crate) fn new(unique: u64, device: Arc<Device>) -> Self {
        Self { unique, device: Some(device) }
    }

    /// Answers. An error of the device cannot be passed to anybody and is logged here.
    pub(crate) fn send(mut self, answer: Result<Answer, Errno>) {
        let Some(device) = self.device.take() else { return };
        match answer {
            Ok(Answer::Silence) => {}
            Ok(Answer::Empty) => send(&device, self.unique, 0, &[]),
            Ok(Answer::Fixed(fixed)) => send(&device, self.unique, 0, &[fixed.as_bytes()]),
            Ok(Answer::Bytes(bytes)) => send(&device, self.unique, 0, &[&bytes]),
            Ok(Answer::Data(segments)) if segments.len() <= PIECES_MAX => {
                let pieces: SmallVec<[&[u8]; 8]> = segments.iter().map(|s| &s[..]).collect();
                send(&device, self.unique, 0, &pieces);
            }
            Ok(Answer::Data(segments)) => {
                let mut joined = Vec::with_capacity(segments_len(&segments));
                segments.iter().for_each(|s| joined.extend_from_slice(s));
                send(&device, self.unique, 0, &[&joined]);
            }
            Err(errno) => send(&device, self.unique, errno.0, &[]),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            tracing::error!(unique = self.unique, "a request ended without an answer: EIO");
            send(&device, self.unique, Errno::EIO.0, &[]);
        }
    }
}

/// Sends one message and, if the device refuses its form, an error in its place.
fn send(device: &Device, unique: u64, errno: i32, pieces: &[&[u8]]) {
    // The kernel takes 1..=511 for an error number and refuses the whole message otherwise.
    let errno = if (0..512).contains(&errno) { errno } else { Errno::EIO.0 };
    match write_message(device, unique, -errno, pieces) {
        // ENOENT: the request was given up meanwhile. ENODEV: the mount is gone. Nobody waits in either case.
        Ok(()) | Err(IoErrno::NOENT | IoErrno::NODEV | IoErrno::CONNABORTED | IoErrno::PERM) => {}
        Err(error) => {
            tracing::error!(unique, %error, "the kernel refused an answer");
            // ENOENT if the kernel ended the request with the refusal, which it does for answers of a wrong size.
            let _ = write_message(device, unique, -Errno::EIO.0, &[]);
        }
    }
}

/// Writes header and pieces as one message.
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

    #[test]
    fn answers_once_and_in_order_of_the_pieces() {
        let (device, socket) = device();
        let segments: Segments =
            [Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")].into_iter().collect();
        Reply::new(5, Arc::clone(&device)).send(Ok(Answer::Data(segments)));
        assert_eq!(message(&socket), Some((5, 0, b"abc".to_vec())));
        assert_eq!(message(&socket), None);
    }

    #[test]
    fn dropped_unanswered_is_an_error() {
        let (device, socket) = device();
        drop(Reply::new(6, Arc::clone(&device)));
        assert_eq!(message(&socket), Some((6, -libc::EIO, vec![])));
        Reply::new(7, device).send(Err(Errno(4000)));
        assert_eq!(message(&socket), Some((7, -libc::EIO, vec![])));
    }

    #[test]
    fn more_pieces_than_writev_takes_are_joined() {
        let (device, socket) = device();
        let segments: Segments = (0..3000u32).map(|i| Bytes::copy_from_slice(&i.to_ne_bytes())).collect();
        Reply::new(8, device).send(Ok(Answer::Data(segments)));
        let (_, error, body) = message(&socket).expect("an answer");
        assert_eq!(error, 0);
        assert!(body.as_chunks::<4>().0.iter().enumerate().all(|(i, b)| u32::from_ne_bytes(*b) == i as u32));
    }
}
