//! The `.control` file: requests written, replies read from the position after them (format: data.md §5.6).

use bytes::Bytes;
use juicefs_core::Errno;

/// Bytes of command and size before the body.
const HEADER_BYTES: usize = 8;
/// A request larger than this is refused.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Replies read already are dropped once the buffer holds more than this.
const KEPT_BYTES: usize = 2 << 20;

/// One open control file. Requests and replies share one sequence of bytes, because clients go on reading at the file
/// position where their request ended.
#[derive(Default)]
pub(super) struct Control {
    /// Position of the first byte of `stream`.
    base: u64,
    stream: Vec<u8>,
    /// The request that is arriving.
    request: Vec<u8>,
}

impl Control {
    /// Takes a piece of a request and answers once it is complete.
    pub(super) fn write(&mut self, data: &[u8]) {
        self.stream.extend_from_slice(data);
        self.request.extend_from_slice(data);
        let Some((header, body)) = self.request.split_first_chunk::<HEADER_BYTES>() else { return };
        let command = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if size > MAX_REQUEST_BYTES || body.len() > size {
            self.finish(Errno::EIO);
        } else if body.len() == size {
            tracing::debug!(command, "unknown control command");
            self.finish(Errno::EINVAL);
        }
    }

    /// Ends a request with the byte that says how it went.
    fn finish(&mut self, errno: Errno) {
        self.request.clear();
        self.stream.push(u8::try_from(errno.0).unwrap_or(u8::MAX));
    }

    /// Bytes at position `off`; none while no reply is there. EIO below what was dropped.
    pub(super) fn read(&mut self, off: u64, size: u32) -> Result<Bytes, Errno> {
        let from = usize::try_from(off.checked_sub(self.base).ok_or(Errno::EIO)?).map_err(|_| Errno::EINVAL)?;
        let from = from.min(self.stream.len());
        let to = from.saturating_add(size as usize).min(self.stream.len());
        let bytes = Bytes::copy_from_slice(&self.stream[from..to]);
        if self.stream.len() > KEPT_BYTES {
            self.stream.drain(..from);
            self.base += from as u64;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: u32, size: u32, body: &[u8]) -> Vec<u8> {
        [&command.to_be_bytes(), &size.to_be_bytes(), body].concat()
    }

    #[test]
    fn the_reply_follows_the_request() {
        let mut control = Control::default();
        let bytes = request(4711, 3, b"abc");
        control.write(&bytes[..5]);
        assert_eq!(control.read(5, 100), Ok(Bytes::new()));
        control.write(&bytes[5..]);
        assert_eq!(control.read(11, 100), Ok(Bytes::from_static(&[22])));
        assert_eq!(control.read(12, 100), Ok(Bytes::new()));
        control.write(&request(1, 0, b"x"));
        assert_eq!(control.read(21, 100), Ok(Bytes::from_static(&[5])));
    }
}
