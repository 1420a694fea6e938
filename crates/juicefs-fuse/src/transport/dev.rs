//! Threads that block in `read` on `/dev/fuse`, each on a description of its own where the kernel gives one.
//!
//! A description that all threads share would share one lock and one list of requests under way too. There is no
//! polling: a thread either waits for a request or works on one.

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{io::Errno as IoErrno, ioctl};
use tokio_util::sync::CancellationToken;

use super::Transport;
use crate::{
    dispatch::Dispatcher,
    ops::Operations,
    page_buf::{PageBuf, PageBufPool},
    parked::{Came, Park, Parked, Room},
    reply::{Device, Reply},
    request::{Malformed, Request},
};

const DEVICE: &str = "/dev/fuse";

/// The classic transport.
pub(crate) struct DevTransport {
    devices: Vec<Arc<Device>>,
    pool: Arc<PageBufPool>,
    park: Arc<Park>,
}

/// What a `read` brought.
pub(crate) enum Arrived {
    /// A request.
    Request(Request),
    /// A write that stays in its pipe.
    Parked(Parked, PageBuf),
    /// Something that is not one; it was answered if it can be.
    Nothing(PageBuf),
    /// The kernel ended the session.
    End,
}

impl DevTransport {
    /// `threads` readers on the connection of `first`, with buffers from `pool`, which leave in the `park` what is too much.
    pub(crate) fn new(first: Arc<Device>, threads: usize, pool: Arc<PageBufPool>, park: Park) -> Self {
        let mut devices = vec![Arc::clone(&first)];
        while devices.len() < threads.max(1) {
            let device = clone_device(&first).map(Arc::new).unwrap_or_else(|error| {
                // Without permission to open the device (fusermount opened it for us) all read from one description.
                tracing::debug!(%error, "readers share one description of /dev/fuse");
                Arc::clone(&first)
            });
            devices.push(device);
        }
        Self { devices, pool, park: Arc::new(park) }
    }
}

impl Transport for DevTransport {
    fn start<O: Operations>(
        self,
        dispatcher: &Arc<Dispatcher<O>>,
        ended: &CancellationToken,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let last = Arc::new(EndMark(ended.clone()));
        let start = |(i, device): (usize, Arc<Device>)| {
            let (dispatcher, pool, last) = (Arc::clone(dispatcher), Arc::clone(&self.pool), Arc::clone(&last));
            let park = Arc::clone(&self.park);
            thread::Builder::new().name(format!("fuse-{i}")).spawn(move || {
                let _last = last;
                if let Err(error) = run(&dispatcher, &device, &pool, &park) {
                    tracing::error!(%error, "a reader of /dev/fuse ended");
                }
            })
        };
        self.devices.into_iter().enumerate().map(start).collect()
    }
}

/// Held by every reader; says when the last one is gone, panic or not.
struct EndMark(CancellationToken);

impl Drop for EndMark {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn run<O: Operations>(
    dispatcher: &Arc<Dispatcher<O>>,
    device: &Arc<Device>,
    pool: &Arc<PageBufPool>,
    park: &Park,
) -> io::Result<()> {
    let _context = dispatcher.rt.enter();
    let mut buf = take(pool);
    let mut spare = None;
    loop {
        let arrived = if dispatcher.deferred.is_full() {
            receive_apart(dispatcher, device, buf, park, &mut spare)?
        } else {
            receive(device, buf)?
        };
        buf = match arrived {
            Arrived::Request(request) => dispatcher.serve(request, device).unwrap_or_else(|| take(pool)),
            Arrived::Parked(parked, buf) => {
                dispatcher.park(parked, device, pool);
                buf
            }
            Arrived::Nothing(buf) => buf,
            Arrived::End => return Ok(()),
        };
    }
}

/// A buffer. When the machine has no memory for one, that is waited for: requests queue meanwhile, none is lost.
fn take(pool: &Arc<PageBufPool>) -> PageBuf {
    loop {
        match pool.take() {
            Ok(buf) => return buf,
            Err(error) => tracing::warn!(%error, "no memory for a request buffer: trying again"),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Waits for one message.
pub(crate) fn receive(device: &Arc<Device>, mut buf: PageBuf) -> io::Result<Arrived> {
    Ok(match message(|| rustix::io::read(device, buf.request_room()))? {
        Some(len) => request(device, buf, len),
        None => Arrived::End,
    })
}

/// The same while too much is in memory that is to be written. `spare` is a room of an earlier call.
fn receive_apart<O: Operations>(
    dispatcher: &Dispatcher<O>,
    device: &Arc<Device>,
    mut buf: PageBuf,
    park: &Park,
    spare: &mut Option<Room>,
) -> io::Result<Arrived> {
    let Some(room) = spare.take().or_else(|| park.room()) else {
        dispatcher.deferred.wait_for_room();
        return receive(device, buf);
    };
    let max_bytes = buf.request_room().len();
    let Some(len) = message(|| room.receive(device, max_bytes))? else { return Ok(Arrived::End) };
    Ok(match room.sort(len, &mut buf)? {
        Came::Write(parked) => Arrived::Parked(parked, buf),
        Came::Other(room) => {
            *spare = Some(room);
            request(device, buf, len)
        }
    })
}

/// The length of the next message; `None` at the end of the session.
fn message(mut read: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Option<usize>> {
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

/// What the message of `len` bytes in `buf` is.
fn request(device: &Arc<Device>, buf: PageBuf, len: usize) -> Arrived {
    match Request::new(buf, len) {
        Ok(request) => Arrived::Request(request),
        Err((malformed, buf)) => {
            tracing::error!(len, ?malformed, "a message from the kernel is not a request");
            if let Malformed::Length { unique } = malformed {
                Reply::new(unique, Arc::clone(device)).send(Err(juicefs_core::Errno::EINVAL));
            }
            Arrived::Nothing(buf)
        }
    }
}

/// One more description of the same connection, with its own list of requests under way.
fn clone_device(device: &Device) -> io::Result<Device> {
    let file = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    let source = u32::try_from(device.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    const CLONE: ioctl::Opcode = ioctl::opcode::read::<u32>(229, 0);
    // SAFETY: FUSE_DEV_IOC_CLONE takes the address of a u32 with a descriptor and only reads it.
    unsafe { ioctl::ioctl(&file, ioctl::Setter::<CLONE, u32>::new(source)) }?;
    Ok(Device::new(file.into()))
}
