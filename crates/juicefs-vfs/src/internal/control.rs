//! The `.control` file: requests written, replies read from the position after them (format: data.md §5.6).

mod request;

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{Errno, tree::Progress};
use parking_lot::Mutex;

pub(crate) use self::request::{Command, Malformed};

/// Bytes of command and size before the body.
const HEADER_BYTES: usize = 8;
/// A request larger than this is refused.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Replies read already are dropped once the buffer holds more than this; while nobody reads, no progress is told.
const KEPT_BYTES: usize = 2 << 20;
/// What a report of progress begins with.
const PROGRESS: u8 = 0xFE;
/// What data begin with.
const DATA: u8 = 0xFF;

/// The end of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// How it went.
    Done(Result<(), Errno>),
    /// A JSON text.
    Data(Vec<u8>),
    /// A text for people, as clients of long ago want it.
    Text(Vec<u8>),
}

/// A complete request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) command: u32,
    pub(crate) body: Vec<u8>,
}

/// One open control file. Requests and replies share one sequence of bytes, because clients go on reading at the file
/// position where their request ended.
#[derive(Default)]
pub(crate) struct Control {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Position of the first byte of `stream`.
    base: u64,
    stream: Vec<u8>,
    /// The request that is arriving.
    request: Vec<u8>,
    /// The job that answers the last one.
    running: Option<Arc<Progress>>,
}

impl Control {
    /// Takes a piece of a request, and gives the request once it is complete. What is too large is answered here. EBUSY
    /// while a job runs: its reply comes first.
    pub(super) fn write(&self, data: &[u8]) -> Result<Option<Request>, Errno> {
        let mut state = self.state.lock();
        if state.running.is_some() {
            return Err(Errno::EBUSY);
        }
        state.stream.extend_from_slice(data);
        state.request.extend_from_slice(data);
        let Some((header, body)) = state.request.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let command = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if size > MAX_REQUEST_BYTES || body.len() > size {
            state.request.clear();
            state.finish(&Reply::Done(Err(Errno::EIO)));
        } else if body.len() == size {
            let body = body.to_vec();
            state.request.clear();
            return Ok(Some(Request { command, body }));
        }
        Ok(None)
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

    /// Ends the reply.
    pub(crate) fn finish(&self, reply: &Reply) {
        let mut state = self.state.lock();
        state.running = None;
        state.finish(reply);
    }

    /// Asks the job to stop: who wanted it is gone.
    pub(super) fn cancel(&self) {
        if let Some(progress) = &self.state.lock().running {
            progress.stop();
        }
    }

    /// Bytes at position `off`; none while no reply is there. EIO below what was dropped.
    pub(super) fn read(&self, off: u64, size: u32) -> Result<Bytes, Errno> {
        let mut state = self.state.lock();
        let from = usize::try_from(off.checked_sub(state.base).ok_or(Errno::EIO)?).map_err(|_| Errno::EINVAL)?;
        let from = from.min(state.stream.len());
        let to = from.saturating_add(size as usize).min(state.stream.len());
        let bytes = Bytes::copy_from_slice(&state.stream[from..to]);
        if state.stream.len() > KEPT_BYTES {
            state.stream.drain(..from);
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
