//! The `.control` file. Clients write requests, and read replies from the position after them (format: data.md §5.6).
//!
//! Everybody may write to it. Therefore nothing that is written or asked for takes more memory than the bounds here allow.

mod incoming;
mod request;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use juicefs_core::{Errno, tree::Progress};
use parking_lot::Mutex;

use self::incoming::Incoming;
pub(crate) use self::{
    incoming::Request,
    request::{Command, Malformed},
};

/// Replies that were read are dropped once the buffer holds more than this. While nobody reads, no progress is told.
const KEPT_BYTES: usize = 2 << 20;
/// How many bytes all replies together may have that nobody has read yet.
const MAX_UNREAD_BYTES: usize = 64 << 20;
/// The byte with which a report of progress begins.
const PROGRESS: u8 = 0xFE;
/// The byte with which data begin.
const DATA: u8 = 0xFF;

/// The end of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The job has ended in this way.
    Done(Result<(), Errno>),
    /// A JSON text.
    Data(Vec<u8>),
    /// A text for people, as clients of long ago want it.
    Text(Vec<u8>),
}

/// Room for the replies of all control files of a mount.
#[derive(Default)]
pub(crate) struct ReplyRoom {
    taken_bytes: AtomicUsize,
}

/// The room that a reply has taken, until this is dropped.
struct Taken {
    room: Arc<ReplyRoom>,
    bytes: usize,
}

impl ReplyRoom {
    fn take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let fits = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= MAX_UNREAD_BYTES);
        self.taken_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Taken { room: Arc::clone(self), bytes })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.taken_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// One open control file. Requests and replies share one sequence of positions, because clients go on reading at the file
/// position where their request ended.
#[derive(Default)]
pub(crate) struct Control {
    state: Mutex<State>,
    room: Arc<ReplyRoom>,
}

#[derive(Default)]
struct State {
    /// Position of the first byte of `stream`.
    base: u64,
    /// The reply, as far as it was not dropped.
    stream: Vec<u8>,
    /// How much of it was read.
    read_bytes: usize,
    taken: Option<Taken>,
    /// The request that is arriving.
    incoming: Incoming,
    /// The job that answers the last one.
    running: Option<Arc<Progress>>,
}

impl Control {
    /// Opens a control file whose replies share `room` with those of others.
    pub(super) fn new(room: Arc<ReplyRoom>) -> Self {
        Self { state: Mutex::default(), room }
    }

    /// Takes a piece of a request, and gives the request once it is complete. A request that is too large is answered
    /// here. The reply before is dropped, because whoever writes has read it or does not want it. EBUSY while a job runs,
    /// because its reply comes first.
    pub(super) fn write(&self, data: &[u8]) -> Result<Option<Request>, Errno> {
        let mut state = self.state.lock();
        if state.running.is_some() {
            return Err(Errno::EBUSY);
        }
        // Where the position of the file is after this write: what was not read did not move it.
        state.base += (state.read_bytes + data.len()) as u64;
        (state.stream, state.read_bytes, state.taken) = (Vec::new(), 0, None);
        match state.incoming.take(data) {
            Ok(request) => Ok(request),
            Err(errno) => {
                state.finish(&Reply::Done(Err(errno)));
                Ok(None)
            }
        }
    }

    /// Notes the job that will answer.
    pub(crate) fn begin(&self, progress: Arc<Progress>) {
        self.state.lock().running = Some(progress);
    }

    /// Tells how far the job is.
    pub(crate) fn report(&self, (first, second): (u64, u64)) {
        let mut state = self.state.lock();
        if state.stream.len() <= KEPT_BYTES {
            state.stream.push(PROGRESS);
            state.stream.extend_from_slice(&first.to_be_bytes());
            state.stream.extend_from_slice(&second.to_be_bytes());
        }
    }

    /// Ends the reply. A reply that is too large beside what others have not read becomes EAGAIN.
    pub(crate) fn finish(&self, reply: &Reply) {
        let mut state = self.state.lock();
        state.running = None;
        let bytes = match reply {
            Reply::Done(_) => 0,
            Reply::Data(bytes) | Reply::Text(bytes) => bytes.len(),
        };
        state.taken = self.room.take(bytes);
        match (&state.taken, reply) {
            (Some(_), reply) => state.finish(reply),
            (None, Reply::Text(_)) => state.finish(&Reply::Text(Errno::EAGAIN.to_string().into_bytes())),
            (None, _) => state.finish(&Reply::Done(Err(Errno::EAGAIN))),
        }
    }

    /// Asks the job to stop, because whoever wanted it is gone.
    pub(super) fn cancel(&self) {
        if let Some(progress) = &self.state.lock().running {
            progress.stop();
        }
    }

    /// Reads bytes at position `off`. There are none while there is no reply. EIO for a position that was dropped.
    pub(super) fn read(&self, off: u64, size: u32) -> Result<Bytes, Errno> {
        let mut state = self.state.lock();
        let from = usize::try_from(off.checked_sub(state.base).ok_or(Errno::EIO)?).map_err(|_| Errno::EINVAL)?;
        let from = from.min(state.stream.len());
        let to = from.saturating_add(size as usize).min(state.stream.len());
        let bytes = Bytes::copy_from_slice(&state.stream[from..to]);
        state.read_bytes = state.read_bytes.max(to);
        if state.stream.len() > KEPT_BYTES {
            state.stream.drain(..from);
            state.read_bytes -= from;
            state.base += from as u64;
        }
        Ok(bytes)
    }
}

impl State {
    fn finish(&mut self, reply: &Reply) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        match reply {
            Reply::Done(outcome) => {
                let errno = outcome.err().map_or(0, |errno| errno.0);
                self.stream.push(u8::try_from(errno).unwrap_or(u8::MAX));
            }
            Reply::Data(bytes) => {
                self.stream.push(DATA);
                self.stream.extend_from_slice(&length(bytes));
                self.stream.extend_from_slice(bytes);
            }
            Reply::Text(bytes) => {
                self.stream.extend_from_slice(&length(bytes));
                self.stream.extend_from_slice(bytes);
            }
        }
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
        let control = Control::default();
        let bytes = request(4711, 3, b"abc");
        assert_eq!(control.write(&bytes[..5]), Ok(None));
        assert_eq!(control.read(5, 100), Ok(Bytes::new()));
        assert_eq!(control.write(&bytes[5..]), Ok(Some(Request { command: 4711, body: b"abc".to_vec() })));
        control.begin(Arc::default());
        assert_eq!(control.write(b"more"), Err(Errno::EBUSY));
        control.report((1, 2));
        control.finish(&Reply::Done(Err(Errno::EINVAL)));
        let progress = [&[0xFE], &1u64.to_be_bytes()[..], &2u64.to_be_bytes()[..]].concat();
        assert_eq!(control.read(11, 17), Ok(Bytes::from(progress)));
        assert_eq!(control.read(28, 100), Ok(Bytes::from_static(&[22])));
        assert_eq!(control.read(29, 100), Ok(Bytes::new()));
        assert_eq!(control.write(&request(1, 0, b"x")), Ok(None));
        assert_eq!(control.read(38, 100), Ok(Bytes::from_static(&[5])));
        control.finish(&Reply::Data(b"{}".to_vec()));
        assert_eq!(control.read(39, 100), Ok(Bytes::from_static(b"\xFF\0\0\0\x02{}")));
        assert_eq!(control.read(28, 100), Err(Errno::EIO), "the reply before went with the request after it");
    }

    /// Whatever is written and never read, a handle keeps next to nothing.
    #[test]
    fn what_is_written_takes_no_memory() {
        let control = Control::default();
        let mut at = 0;
        // The last piece is one that makes the request before it too long.
        for round in 0..5007u32 {
            let piece = match round % 4 {
                // Of a request that is never complete, of one too large, of one too long, of complete ones.
                0 => request(1002, 1 << 20, &[7; 100_000]),
                1 => request(1002, u32::MAX, &[7; 1000]),
                2 => request(1002, 3, &[7; 100_000]),
                _ => request(4711, 100_000, &[7; 100_000]),
            };
            at += piece.len() as u64;
            let _ = control.write(&piece).expect("taken");
            let state = control.state.lock();
            assert!(state.stream.capacity() + state.incoming.kept_bytes() < 4096, "round {round}");
        }
        assert!(control.read(at, 100).expect("nothing is below") == Bytes::from_static(&[5]));
    }

    #[test]
    fn replies_that_nobody_reads_take_turns() {
        let room = Arc::new(ReplyRoom::default());
        let handles: Vec<Control> = (0..4).map(|_| Control::new(Arc::clone(&room))).collect();
        let large = Reply::Data(vec![b'x'; MAX_UNREAD_BYTES / 3]);
        handles.iter().for_each(|control| control.finish(&large));
        assert_eq!(handles[2].read(0, 1), Ok(Bytes::from_static(&[DATA])));
        assert_eq!(handles[3].read(0, 9), Ok(Bytes::from_static(&[11])), "EAGAIN");
        drop(handles);
        let control = Control::new(room);
        control.finish(&large);
        assert_eq!(control.read(0, 1), Ok(Bytes::from_static(&[DATA])));
    }

    #[test]
    fn closing_asks_the_job_to_stop() {
        let (control, progress) = (Control::default(), Arc::new(Progress::default()));
        control.cancel();
        control.begin(Arc::clone(&progress));
        assert_eq!(progress.go_on(), Ok(()));
        control.cancel();
        assert_eq!(progress.go_on(), Err(Errno::EINTR));
    }
}
