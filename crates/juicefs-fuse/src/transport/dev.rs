//! The transport over `/dev/fuse`: threads that block in `read`, each on a description of its own where the kernel
//! gives one.
//!
//! A description that all threads share would share one lock and one list of requests under way too. There is no
//! polling: a thread either waits for a request or works on one. Requests lie in page-aligned buffers (`page_buf`), which a
//! large write takes along. While too much data of writes is in memory, further writes stay in pipes (`parked`).

pub(crate) mod page_buf;
pub(crate) mod parked;
mod request;

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use juicefs_core::Errno;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::request::DevRequest;
use self::{
    page_buf::{PageBuf, PageBufPool},
    parked::{Park, Parked, Received, Room},
    request::Malformed,
};
use super::Transport;
use crate::{
    deferred::Slot,
    device::{Device, next_message},
    dispatch::{Dispatcher, interrupted},
    ops::Operations,
    reply::Reply,
    request::Request,
};

/// How often buffers that were not needed go back to the machine.
const TRIM_INTERVAL: Duration = Duration::from_secs(10);

/// The transport over `/dev/fuse`.
pub(crate) struct DevTransport {
    devices: Vec<Arc<Device>>,
    pool: Arc<PageBufPool>,
    park: Arc<Park>,
}

/// What a `read` brought.
pub(crate) enum Arrived {
    /// A request.
    Request(DevRequest),
    /// A write that stays in its pipe.
    Parked(Parked, PageBuf),
    /// Something that is no request. It has its answer, if it can have one.
    Nothing(PageBuf),
    /// The kernel ended the session.
    End,
}

impl DevTransport {
    /// Prepares `threads` readers of the connection that `first` is. They take buffers from `pool`, and leave in `park`
    /// what is too much for memory.
    pub(crate) fn new(first: Arc<Device>, threads: usize, pool: Arc<PageBufPool>, park: Park) -> Self {
        let mut devices = vec![Arc::clone(&first)];
        while devices.len() < threads.max(1) {
            let device = first.reopen().map(Arc::new).unwrap_or_else(|error| {
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
        let threads = self.devices.into_iter().enumerate().map(start).collect::<io::Result<_>>()?;
        drop(dispatcher.rt.spawn(trim(self.pool, ended.clone())));
        Ok(threads)
    }
}

/// Every reader holds this, so that its drop says when the last one is gone, by a panic or otherwise.
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
            Arrived::Request(request) => serve(dispatcher, device, request).unwrap_or_else(|| take(pool)),
            Arrived::Parked(parked, buf) => {
                park_write(dispatcher, device, pool, parked);
                buf
            }
            Arrived::Nothing(buf) => buf,
            Arrived::End => return Ok(()),
        };
    }
}

/// Serves one request, or hands it on. Returns its buffer when the payload did not go on with it.
fn serve<O: Operations>(dispatcher: &Dispatcher<O>, device: &Arc<Device>, mut request: DevRequest) -> Option<PageBuf> {
    let reply = Reply::new(request.header().unique, Arc::clone(device));
    let begun = dispatcher.begin(&mut request);
    let buf = request.into_buf();
    dispatcher.end(begun, reply);
    buf
}

/// Has a write that was left in its pipe served once there is room for its data.
fn park_write<O: Operations>(
    dispatcher: &Arc<Dispatcher<O>>,
    device: &Arc<Device>,
    pool: &Arc<PageBufPool>,
    parked: Parked,
) {
    let slot = dispatcher.deferred.enter(parked.header.unique, 0);
    let reply = Reply::new(parked.header.unique, Arc::clone(device));
    drop(dispatcher.rt.spawn(serve_parked(Arc::clone(dispatcher), parked, Arc::clone(pool), reply, slot)));
}

/// Serves a parked write. A caller that is killed while it waits is let go, and nothing was written.
async fn serve_parked<O: Operations>(
    dispatcher: Arc<Dispatcher<O>>,
    parked: Parked,
    pool: Arc<PageBufPool>,
    reply: Reply<Arc<Device>>,
    mut slot: Slot,
) {
    let (header, since) = (parked.header, Instant::now());
    tokio::select! {
        biased;
        payload = dispatcher.deferred.payload(parked.len()) => slot.payload = payload,
        () = interrupted(&slot, &header, since) => {
            drop(parked);
            reply.send(Err(Errno::EINTR));
            return;
        }
    }
    match unpark(parked, &pool) {
        Ok(mut request) => {
            let begun = dispatcher.begin(&mut request);
            drop(request);
            dispatcher.end_in(slot, begun, reply).await;
        }
        Err(error) => {
            tracing::error!(%error, "a write that waited cannot be read");
            reply.send(Err(Errno::EIO));
        }
    }
}

/// Reads a parked write into memory.
fn unpark(parked: Parked, pool: &Arc<PageBufPool>) -> io::Result<DevRequest> {
    let len = parked.len();
    let mut buf = pool.take()?;
    parked.copy_to(&mut buf)?;
    DevRequest::new(buf, len).map_err(|(why, _)| io::Error::other(format!("{why:?}")))
}

/// Takes a buffer. When the machine has no memory for one, this waits: requests queue meanwhile, and none is lost.
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
    Ok(match next_message(|| rustix::io::read(device, buf.request_room()))? {
        Some(len) => request(device, buf, len),
        None => Arrived::End,
    })
}

/// Waits for one message while too much data of writes is in memory: large writes stay in a pipe. `spare` is a pipe that an
/// earlier call did not need.
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
    let Some(len) = next_message(|| room.receive(device, max_bytes))? else { return Ok(Arrived::End) };
    Ok(match room.sort(len, &mut buf)? {
        Received::Write(parked) => Arrived::Parked(parked, buf),
        Received::Other(room) => {
            *spare = Some(room);
            request(device, buf, len)
        }
    })
}

/// Makes a request of the message of `len` bytes in `buf`.
fn request(device: &Arc<Device>, buf: PageBuf, len: usize) -> Arrived {
    match DevRequest::new(buf, len) {
        Ok(request) => Arrived::Request(request),
        Err((malformed, buf)) => {
            tracing::error!(len, ?malformed, "a message from the kernel is not a request");
            if let Malformed::Length { unique } = malformed {
                Reply::new(unique, Arc::clone(device)).send(Err(Errno::EINVAL));
            }
            Arrived::Nothing(buf)
        }
    }
}

/// Gives unused buffers back until the session ends.
async fn trim(pool: Arc<PageBufPool>, ended: CancellationToken) {
    let mut ticks = tokio::time::interval(TRIM_INTERVAL);
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            _ = ticks.tick() => pool.trim(),
        }
    }
}
