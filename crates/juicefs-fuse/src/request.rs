//! Requests as dispatch sees them, whatever transport they came by: a header, arguments, a payload. Decoding checks every
//! bound; what does not fit is EINVAL.

use bytes::Bytes;
use juicefs_core::Errno;

use crate::abi::{self, InHeader, Wire};

/// One request, in the memory of the transport that received it.
pub(crate) trait Request {
    /// The fixed head of every request.
    fn header(&self) -> &InHeader;

    /// Everything behind the header; nothing any more once the payload was taken and the memory went with it.
    fn args(&self) -> Args<'_>;

    /// Takes the data of a WRITE that says to carry `size` bytes. EINVAL when it carries more or fewer.
    fn take_payload(&mut self, size: u32) -> Result<Bytes, Errno>;
}

/// Arguments not yet decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args<'a> {
    rest: &'a [u8],
}

impl<'a> Args<'a> {
    /// The arguments in `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next fixed structure.
    pub(crate) fn fixed<T: Wire>(&mut self) -> Result<T, Errno> {
        let (value, rest) = abi::split(self.rest).ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(value)
    }

    /// The next NUL-terminated string, which may be empty.
    pub(crate) fn text(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(Errno::EINVAL)?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// The next string as the name of a directory entry: not empty and without `/`.
    pub(crate) fn name(&mut self) -> Result<&'a [u8], Errno> {
        let name = self.text()?;
        if name.is_empty() || name.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        Ok(name)
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_with_nul() {
        let mut args = Args::new(b"ab\0\0a/b\0");
        assert_eq!(args.name(), Ok(&b"ab"[..]));
        assert_eq!(args.name(), Err(Errno::EINVAL), "an empty name");
        assert_eq!(args.name(), Err(Errno::EINVAL), "a slash");
        assert_eq!(args.text(), Err(Errno::EINVAL), "nothing left");
    }
}
