//! A request as one `read` of `/dev/fuse` brings it: head and payload in one buffer.

use bytes::Bytes;
use juicefs_core::Errno;

use super::page_buf::PageBuf;
use crate::{
    abi::{self, InHeader, WRITE_HEAD_BYTES},
    request::{Args, Request},
};

/// One request and the buffer that it lies in.
#[derive(Debug)]
pub(crate) struct DevRequest {
    header: InHeader,
    buf: Option<PageBuf>,
    len: usize,
}

/// Why bytes from the device are not a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not even a header: nobody can be answered.
    NoHeader,
    /// The length in the header is not that of the message; the request with this number gets EINVAL.
    Length {
        /// Number of the request.
        unique: u64,
    },
}

impl DevRequest {
    /// Takes the message of `len` bytes that was read into `buf`. The buffer comes back when there is no request in it.
    pub(crate) fn new(buf: PageBuf, len: usize) -> Result<Self, (Malformed, PageBuf)> {
        let Some((header, _)) = abi::split::<InHeader>(buf.request(len)) else {
            return Err((Malformed::NoHeader, buf));
        };
        if header.len as usize != len {
            return Err((Malformed::Length { unique: header.unique }, buf));
        }
        Ok(Self { header, buf: Some(buf), len })
    }

    /// The buffer, unless the payload went on with it.
    pub(crate) fn into_buf(self) -> Option<PageBuf> {
        self.buf
    }
}

impl Request for DevRequest {
    fn header(&self) -> &InHeader {
        &self.header
    }

    fn args(&self) -> Args<'_> {
        let bytes = self.buf.as_ref().map_or(&[][..], |buf| buf.request(self.len));
        Args::new(bytes.get(size_of::<InHeader>()..).unwrap_or_default())
    }

    fn take_payload(&mut self, size: u32) -> Result<Bytes, Errno> {
        let size = size as usize;
        if self.len.checked_sub(WRITE_HEAD_BYTES) != Some(size) {
            return Err(Errno::EINVAL);
        }
        let (payload, buf) = self.buf.take().ok_or(Errno::EINVAL)?.into_payload(size);
        self.buf = buf;
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::{WriteIn, bytes_of},
        transport::dev::page_buf::PageBufPool,
    };

    fn read(message: &[u8]) -> Result<DevRequest, Malformed> {
        let pool = PageBufPool::new(128 << 10);
        let mut buf = pool.take().expect("a mapping");
        buf.request_room()[..message.len()].copy_from_slice(message);
        DevRequest::new(buf, message.len()).map_err(|(why, _)| why)
    }

    fn message(len: u32, rest: &[u8]) -> Vec<u8> {
        let header = InHeader { len, opcode: 16, unique: 7, ..Default::default() };
        [bytes_of(&header), rest].concat()
    }

    #[test]
    fn a_message_must_be_as_long_as_it_says() {
        assert_eq!(read(&[1; 39]).err(), Some(Malformed::NoHeader));
        assert_eq!(read(&message(41, b"")).err(), Some(Malformed::Length { unique: 7 }));
        assert!(read(&message(40, b"")).is_ok());
    }

    #[test]
    fn payload_is_all_that_the_size_says() {
        for (size, data, fits) in [(3, &b"abc"[..], true), (4, b"abc", false), (2, b"abc", false), (0, b"", true)] {
            let head = WriteIn { size, ..Default::default() };
            let body = [bytes_of(&head), data].concat();
            let mut request = read(&message(40 + body.len() as u32, &body)).expect("a request");
            assert_eq!(request.take_payload(size).ok().as_deref(), fits.then_some(data));
        }
    }
}
