//! Writes for whose data there is no memory yet. The data stays in a pipe, as references to the pages of the process
//! that writes.
//!
//! A request can only be taken from the kernel as a whole. Once too many writes wait with their data in our memory,
//! readers move what comes next into a pipe, which copies nothing, and look at its head. They leave a write there and
//! go on, so that they hear of other requests, and of the end of a caller, however many writes wait.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use juicefs_core::limits::MAX_FUSE_IO_BYTES;
use rustix::{
    io::Errno as IoErrno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use super::page_buf::PageBuf;
use crate::{
    abi::{InHeader, WRITE_HEAD_BYTES, opcode, split},
    device::Device,
};

/// How many writes are parked at once at most. A pipe takes two descriptors, and memory of the kernel for the list of
/// its pages.
const PARKED_MAX: usize = 2048;
/// Writes with less data are not worth a pipe.
const PARKED_BYTES_MIN: usize = 32 << 10;
/// The kernel's page size for the purpose of pipes.
const PAGE_BYTES: usize = 4096;
/// The size that a pipe may have without privileges, unless somebody has set another one.
const PIPE_BYTES: usize = 1 << 20;

/// The largest size of a READ or WRITE for which a request fits into the pipes that this process can have. The head of
/// a request lies in a page of its own.
pub(crate) fn largest_io_bytes() -> usize {
    if Pipe::new(pipe_bytes(MAX_FUSE_IO_BYTES)).is_ok() { MAX_FUSE_IO_BYTES } else { PIPE_BYTES - PAGE_BYTES }
}

/// The size of a pipe for a request: a page for its head, and the pages of its data.
fn pipe_bytes(io_bytes: usize) -> usize {
    (PAGE_BYTES + io_bytes.next_multiple_of(PAGE_BYTES)).next_power_of_two()
}

/// A pipe, empty while nobody has parked a request in it.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new(bytes: usize) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setpipe_size(&write, bytes)?;
        Ok(Self { read, write })
    }

    /// Takes `room.len()` bytes out. They are there, so it does not wait.
    fn take(&self, room: &mut [u8]) -> rustix::io::Result<()> {
        let mut done = 0;
        while done < room.len() {
            match rustix::io::read(&self.read, &mut room[done..]) {
                Ok(0) => return Err(IoErrno::IO),
                Ok(len) => done += len,
                Err(IoErrno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Counts and bounds the parked writes of a mount.
#[derive(Debug)]
pub(crate) struct Park {
    pipe_bytes: usize,
    parked: Arc<AtomicUsize>,
}

impl Park {
    /// Nothing is parked yet. Requests have up to `io_bytes` of data.
    pub(crate) fn new(io_bytes: usize) -> Self {
        Self { pipe_bytes: pipe_bytes(io_bytes), parked: Arc::default() }
    }

    /// Makes room for one more request. `None` when there are too many, or the machine has no pipe for it.
    pub(crate) fn room(&self) -> Option<Room> {
        let count = PipeCount(Arc::clone(&self.parked));
        if self.parked.fetch_add(1, Ordering::Relaxed) >= PARKED_MAX {
            return None;
        }
        match Pipe::new(self.pipe_bytes) {
            Ok(pipe) => Some(Room { pipe, _count: count }),
            Err(error) => {
                tracing::debug!(%error, "no pipe for a write that waits");
                None
            }
        }
    }
}

/// Counts one pipe until it is dropped.
#[derive(Debug)]
struct PipeCount(Arc<AtomicUsize>);

impl Drop for PipeCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pipe for one request.
#[derive(Debug)]
pub(crate) struct Room {
    pipe: Pipe,
    _count: PipeCount,
}

/// What came into a room.
pub(crate) enum Received {
    /// A write with much data, which stays where it is.
    Write(Parked),
    /// Anything else. All of it lies in the buffer now, and the pipe is empty.
    Other(Room),
}

impl Room {
    /// Waits for a message of the kernel with up to `max_bytes`, moves it into the pipe, and returns its length.
    ///
    /// # Errors
    /// Those of `read` on the device; the pipe is empty then.
    pub(crate) fn receive(&self, device: &Device, max_bytes: usize) -> rustix::io::Result<usize> {
        splice(device, None, &self.pipe.write, None, max_bytes, SpliceFlags::empty())
    }

    /// Looks at the message of `len` bytes that was received, and decides whether it stays in the pipe.
    pub(crate) fn sort(self, len: usize, buf: &mut PageBuf) -> rustix::io::Result<Received> {
        let room = buf.request_room().get_mut(..len).ok_or(IoErrno::INVAL)?;
        let (head, data) = room.split_at_mut(len.min(WRITE_HEAD_BYTES));
        self.pipe.take(head)?;
        if let Some((header, _)) = split::<InHeader>(head)
            && let Ok(head) = <[u8; WRITE_HEAD_BYTES]>::try_from(&*head)
            && header.opcode == opcode::WRITE
            && header.len as usize == len
            && data.len() >= PARKED_BYTES_MIN
        {
            return Ok(Received::Write(Parked { header, head, room: self }));
        }
        self.pipe.take(data)?;
        Ok(Received::Other(self))
    }
}

/// A write whose data lies in a pipe. To drop it forgets it, and leaves its caller without an answer.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) header: InHeader,
    head: [u8; WRITE_HEAD_BYTES],
    room: Room,
}

impl Parked {
    /// The length of the request in bytes.
    pub(crate) fn len(&self) -> usize {
        self.header.len as usize
    }

    /// Copies the request into `buf`, which has room for it. It waits for nothing.
    pub(crate) fn copy_to(self, buf: &mut PageBuf) -> rustix::io::Result<()> {
        let room = buf.request_room().get_mut(..self.len()).ok_or(IoErrno::INVAL)?;
        room[..WRITE_HEAD_BYTES].copy_from_slice(&self.head);
        self.room.pipe.take(&mut room[WRITE_HEAD_BYTES..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::{WriteIn, bytes_of},
        request::Request as _,
        transport::dev::{DevRequest, page_buf::PageBufPool},
    };

    /// What comes of a message that the kernel sends, a pipe here.
    fn came(park: &Park, message: &[u8], buf: &mut PageBuf) -> Received {
        let (kernel, ours) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        fcntl_setpipe_size(&ours, PIPE_BYTES).expect("its size");
        assert_eq!(rustix::io::write(&ours, message), Ok(message.len()));
        let room = park.room().expect("room");
        let len = room.receive(&Device::new(kernel), buf.request_room().len()).expect("a message");
        assert_eq!(len, message.len());
        room.sort(len, buf).expect("all of it is there")
    }

    fn write(data: &[u8]) -> Vec<u8> {
        let len = (WRITE_HEAD_BYTES + data.len()) as u32;
        let header = InHeader { len, opcode: opcode::WRITE, unique: 6, nodeid: 7, ..Default::default() };
        let head = WriteIn { size: data.len() as u32, ..Default::default() };
        [bytes_of(&header), bytes_of(&head), data].concat()
    }

    #[test]
    fn large_writes_stay_in_their_pipe_and_nothing_else_does() {
        let (park, pool) = (Park::new(128 << 10), PageBufPool::new(128 << 10));
        let mut buf = pool.take().expect("a mapping");
        let data: Vec<u8> = (0..100_000_u32).map(|i| (i * 7) as u8).collect();
        let Received::Write(parked) = came(&park, &write(&data), &mut buf) else { panic!("it is large") };
        assert_eq!((parked.header.unique, parked.header.nodeid, parked.len()), (6, 7, 100_080));
        buf.request_room().fill(0xff);
        parked.copy_to(&mut buf).expect("it is there");
        let mut request = DevRequest::new(buf, 100_080).expect("a request");
        assert!(request.take_payload(100_000).expect("its data") == data);

        let small = write(&data[..4096]);
        let getattr = InHeader { len: 40, opcode: opcode::GETATTR, unique: 8, ..Default::default() };
        for message in [&small[..], bytes_of(&getattr), b"no request"] {
            let mut buf = pool.take().expect("a mapping");
            assert!(matches!(came(&park, message, &mut buf), Received::Other(_)));
            assert_eq!(buf.request(message.len()), message);
        }
    }

    #[test]
    fn their_number_is_bounded() {
        let park = Park::new(4096);
        park.parked.store(PARKED_MAX - 1, Ordering::Relaxed);
        let last = park.room().expect("one more");
        assert!(park.room().is_none());
        drop(last);
        assert!(park.room().is_some());
    }

    #[test]
    fn requests_fit_into_their_pipes() {
        assert_eq!([4096, 128 << 10, 1020 << 10, 1 << 20].map(pipe_bytes), [8 << 10, 256 << 10, 1 << 20, 2 << 20]);
        assert!([1020 << 10, 1 << 20].contains(&largest_io_bytes()));
    }
}
