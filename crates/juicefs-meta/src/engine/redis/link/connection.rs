//! One connection, shared by everybody who has something to ask.
//!
//! Requests are appended under a mutex, in the order in which their replies come. What is sent leaves either at once,
//! from the thread of the caller, when nothing else is going on, or from the driver: the task that also reads the
//! replies. The driver first lets others run that have become ready with it, so that what they ask leaves in one write.

mod driver;

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, OnceLock},
    task::Waker,
    time::Duration,
};

use parking_lot::Mutex;
use redis::Value;
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use self::driver::Driver;
use super::{
    dialogue::Opened,
    request::Request,
    server::Origin,
    stream::{SharedEnd, Target},
};

/// Requests that may be on their way at once, counted in pieces of [`PIECE_BYTES`].
const PIECES: usize = 4096;
const PIECE_BYTES: usize = 4 << 10;
/// A buffer that has grown beyond this is given back once it is empty.
const KEEP_BYTES: usize = 256 << 10;

/// Replies to one request, and whether there is an error among them.
pub(super) struct Replies {
    pub(super) values: Vec<Value>,
    pub(super) has_error: bool,
}

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For the next byte, while a reply is owed.
    pub(super) read: Duration,
    /// For the next byte to leave, while one waits.
    pub(super) write: Duration,
}

/// A connection in use. When it is dropped, what is in flight is finished and the connection closed.
pub(super) struct Connection {
    shared: Arc<Shared>,
    target: Target,
    origin: Origin,
}

/// What callers and the driver share.
struct Shared {
    queue: Mutex<Queue>,
    /// Where callers may write themselves; `None` with TLS.
    end: Option<SharedEnd>,
    room: Semaphore,
    broken: OnceLock<String>,
}

struct Queue {
    /// Not given to the socket yet.
    outgoing: Vec<u8>,
    /// An empty buffer to take the place of `outgoing`.
    spare: Vec<u8>,
    /// What of the last buffer the socket would not take, from this index on; goes before `outgoing`.
    stuck: (Vec<u8>, usize),
    /// Somebody is writing to the socket.
    writing: bool,
    /// Requests without their replies yet, in the order in which they were sent.
    owed: VecDeque<Owed>,
    /// Since when there has been something in `owed` throughout.
    busy_since: Option<Instant>,
    /// Replies came for several requests at once, so that several requests will follow.
    crowd: bool,
    driver: Option<Waker>,
    /// No more requests.
    closing: bool,
    broken: bool,
}

struct Owed {
    replies: usize,
    pieces: usize,
    answer: oneshot::Sender<Replies>,
}

impl Connection {
    /// Takes over a stream on which nothing is owed.
    pub(super) fn start(open: Opened, limits: Limits, tasks: &TaskTracker) -> Self {
        let Opened { stream, target, origin } = open;
        let (driver_end, shared_end) = stream.split();
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                outgoing: Vec::new(),
                spare: Vec::new(),
                stuck: (Vec::new(), 0),
                writing: false,
                owed: VecDeque::new(),
                busy_since: None,
                crowd: false,
                driver: None,
                closing: false,
                broken: false,
            }),
            end: shared_end,
            room: Semaphore::new(PIECES),
            broken: OnceLock::new(),
        });
        tasks.spawn(Driver::new(Arc::clone(&shared), driver_end, limits));
        Self { shared, target, origin }
    }

    /// Where it leads to.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Whose replies come on it.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether there is no use in sending on it.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.broken.get().is_some()
    }

    /// Sends a request and waits for its replies.
    ///
    /// Cancel safe: the request may have been sent, and its replies are then thrown away.
    ///
    /// # Errors
    /// When the connection is broken or closing, with the reason. The request may have been executed.
    pub(super) async fn send(&self, request: &Request) -> Result<Replies, String> {
        let pieces = (1 + request.bytes().len() / PIECE_BYTES).min(PIECES);
        match self.shared.room.try_acquire_many(pieces as u32) {
            Ok(permit) => permit.forget(),
            Err(_) => match self.shared.room.acquire_many(pieces as u32).await {
                Ok(permit) => permit.forget(),
                Err(_closed) => return Err(self.shared.reason()),
            },
        }
        let (answer, replies) = oneshot::channel();
        self.shared.submit(request, Owed { replies: request.len(), pieces, answer })?;
        replies.await.map_err(|_dropped| self.shared.reason())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closing = true;
        let driver = queue.driver.take();
        drop(queue);
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

impl Shared {
    fn reason(&self) -> String {
        self.broken.get().cloned().unwrap_or_else(|| "the connection is closed".to_owned())
    }

    /// Queues a request, and sees to it that it is sent.
    fn submit(&self, request: &Request, owed: Owed) -> Result<(), String> {
        let mut queue = self.queue.lock();
        if queue.broken || queue.closing {
            drop(queue);
            return Err(self.reason());
        }
        queue.outgoing.extend_from_slice(request.bytes());
        if queue.owed.is_empty() {
            queue.busy_since = Some(Instant::now());
        }
        queue.owed.push_back(owed);
        let alone = queue.owed.len() == 1 && !queue.crowd && !queue.writing && queue.stuck.0.is_empty();
        if let (true, Some(end)) = (alone, &self.end) {
            queue.writing = true;
            let next = mem::take(&mut queue.spare);
            let bytes = mem::replace(&mut queue.outgoing, next);
            drop(queue);
            self.send_now(end, bytes);
            return Ok(());
        }
        // Whoever writes now looks for more when it is done.
        let driver = if queue.writing { None } else { queue.driver.take() };
        drop(queue);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(())
    }

    /// Writes from the thread of a caller, who has set `writing`.
    fn send_now(&self, end: &SharedEnd, bytes: Vec<u8>) {
        let sent = match end.try_send(&bytes) {
            Ok(sent) => sent,
            // The driver meets a broken connection again, and reports it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => 0,
        };
        let mut queue = self.queue.lock();
        queue.writing = false;
        queue.put_back(bytes, sent);
        let driver = if queue.has_bytes() { queue.driver.take() } else { None };
        drop(queue);
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

impl Queue {
    fn has_bytes(&self) -> bool {
        !self.stuck.0.is_empty() || !self.outgoing.is_empty()
    }

    /// Bytes to write next and where they begin. The caller has set `writing`.
    fn take_bytes(&mut self) -> (Vec<u8>, usize) {
        if self.stuck.0.is_empty() {
            let next = mem::take(&mut self.spare);
            (mem::replace(&mut self.outgoing, next), 0)
        } else {
            mem::take(&mut self.stuck)
        }
    }

    /// Takes back a buffer whose first `sent` bytes the socket has taken.
    fn put_back(&mut self, mut bytes: Vec<u8>, sent: usize) {
        if sent < bytes.len() {
            self.stuck = (bytes, sent);
        } else if bytes.capacity() <= KEEP_BYTES {
            bytes.clear();
            self.spare = bytes;
        }
    }
}
