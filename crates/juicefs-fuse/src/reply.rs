//! Replies: what is said to the kernel, and the handle that says it exactly once.

use bytes::Bytes;
use juicefs_core::{Errno, Segments};
use smallvec::SmallVec;

use crate::abi::{Wire, bytes_of};

/// Bytes of the largest fixed reply, which is that to CREATE: an entry and an open file.
const FIXED_BYTES: usize = 144;

/// The way back to the kernel for the reply to one request. Each transport has its own.
pub(crate) trait ReplySink: Send + 'static {
    /// Sends the reply to request number `unique`: `error` is 0 or a negative error number, and `body` is what follows the
    /// header, in the pieces that it lies in.
    ///
    /// The sink logs what goes wrong, for nobody else could do anything about it. It does not wait for the kernel. A
    /// sink that is dropped instead belongs to a request that the kernel expects no reply to.
    fn send(self, unique: u64, error: i32, body: &[&[u8]]);
}

/// Structures of a fixed reply, side by side.
#[derive(Debug)]
pub(crate) struct Fixed {
    len: usize,
    bytes: [u8; FIXED_BYTES],
}

/// What follows the header in the reply to a request that succeeded.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// Success without data.
    Empty,
    /// Structures.
    Fixed(Fixed),
    /// File data, in the pieces that it lies in.
    Data(Segments),
    /// A listing, a value, a link target.
    Bytes(Bytes),
    /// Nothing at all is sent: the kernel expects no reply.
    Silence,
}

impl ReplyBody {
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

/// The right and the duty to reply to one request. A handle that is dropped before that replies EIO.
#[derive(Debug)]
pub(crate) struct Reply<S: ReplySink> {
    unique: u64,
    /// `None` once the reply is sent.
    sink: Option<S>,
}

impl<S: ReplySink> Reply<S> {
    /// The handle for request number `unique`, whose reply goes to `sink`.
    pub(crate) fn new(unique: u64, sink: S) -> Self {
        Self { unique, sink: Some(sink) }
    }

    /// Sends the reply.
    pub(crate) fn send(mut self, reply: Result<ReplyBody, Errno>) {
        let Some(sink) = self.sink.take() else { return };
        match reply {
            Ok(ReplyBody::Silence) => drop(sink),
            Ok(ReplyBody::Empty) => sink.send(self.unique, 0, &[]),
            Ok(ReplyBody::Fixed(fixed)) => sink.send(self.unique, 0, &[fixed.as_bytes()]),
            Ok(ReplyBody::Bytes(bytes)) => sink.send(self.unique, 0, &[&bytes]),
            Ok(ReplyBody::Data(segments)) => {
                let pieces: SmallVec<[&[u8]; 8]> = segments.iter().map(|s| &s[..]).collect();
                sink.send(self.unique, 0, &pieces);
            }
            Err(errno) => sink.send(self.unique, wire_error(errno), &[]),
        }
    }
}

impl<S: ReplySink> Drop for Reply<S> {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            tracing::error!(unique = self.unique, "a request ended without an answer: EIO");
            sink.send(self.unique, wire_error(Errno::EIO), &[]);
        }
    }
}

/// The error number as the header of a reply has it.
fn wire_error(errno: Errno) -> i32 {
    // The kernel takes 1..=511 for an error number and refuses the whole message otherwise.
    -if (0..512).contains(&errno.0) { errno.0 } else { Errno::EIO.0 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::device::tests::{device, message};

    #[test]
    fn answers_once_and_in_order_of_the_pieces() {
        let (device, socket) = device();
        let segments: Segments =
            [Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")].into_iter().collect();
        Reply::new(5, Arc::clone(&device)).send(Ok(ReplyBody::Data(segments)));
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
        Reply::new(8, device).send(Ok(ReplyBody::Data(segments)));
        let (_, error, body) = message(&socket).expect("an answer");
        assert_eq!(error, 0);
        assert!(body.as_chunks::<4>().0.iter().enumerate().all(|(i, b)| u32::from_ne_bytes(*b) == i as u32));
    }
}
