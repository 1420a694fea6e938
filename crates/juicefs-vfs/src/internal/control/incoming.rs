//! A request as it arrives, piece by piece.

use juicefs_core::Errno;

/// Bytes of command and size before the body.
const HEADER_BYTES: usize = 8;
/// A request larger than this is refused at once.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// How many bytes of a body are kept. It is more than any known request has. The rest is passed over.
const MAX_BODY_BYTES: usize = 1024;

/// A complete request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) command: u32,
    pub(crate) body: Vec<u8>,
}

/// What has arrived of a request.
#[derive(Default)]
pub(super) struct Incoming {
    header: Vec<u8>,
    body: Vec<u8>,
    /// Bytes of the body that were passed over.
    passed_bytes: usize,
}

impl Incoming {
    /// Takes the next piece, and gives the request once it is complete. EIO for a request that is too large, or longer than
    /// it says; what comes after it is a new request.
    pub(super) fn take(&mut self, data: &[u8]) -> Result<Option<Request>, Errno> {
        let (header, rest) = data.split_at(data.len().min(HEADER_BYTES - self.header.len()));
        self.header.extend_from_slice(header);
        let Some([a, b, c, d, e, f, g, h]) = self.header.first_chunk().copied() else { return Ok(None) };
        let (command, size) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]) as usize);
        let arrived = self.body.len() + self.passed_bytes + rest.len();
        if size > MAX_REQUEST_BYTES || arrived > size {
            *self = Self::default();
            return Err(Errno::EIO);
        }
        let kept = rest.len().min(MAX_BODY_BYTES - self.body.len());
        self.body.extend_from_slice(&rest[..kept]);
        self.passed_bytes += rest.len() - kept;
        if arrived < size {
            return Ok(None);
        }
        let body = std::mem::take(self).body;
        Ok(Some(Request { command, body }))
    }

    /// How much memory it holds, in bytes.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.header.capacity() + self.body.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_arrive_in_pieces_and_keep_their_beginning() {
        let mut incoming = Incoming::default();
        let whole = [&7u32.to_be_bytes()[..], &5000u32.to_be_bytes(), &[1; 1000], &[2; 4000]].concat();
        for piece in whole[..5007].chunks(13) {
            assert_eq!(incoming.take(piece), Ok(None));
        }
        let request = incoming.take(&whole[5007..]).expect("taken").expect("complete");
        assert_eq!((request.command, request.body.len()), (7, MAX_BODY_BYTES));
        assert_eq!(request.body, whole[8..8 + MAX_BODY_BYTES]);
        assert_eq!(incoming.take(&whole[..8]), Ok(None), "and the next one begins");
        assert_eq!(incoming.take(&[0; 5001]), Err(Errno::EIO));
        assert_eq!(incoming.take(b"\0\0\0\x01\0\0\0\0"), Ok(Some(Request { command: 1, body: Vec::new() })));
    }
}
