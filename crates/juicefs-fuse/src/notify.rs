//! Messages that tell the kernel what to forget. They start here, not in the kernel.
//!
//! When the kernel drops pages or names it waits for locks, which a request that is being served may hold. So a thread
//! of its own sends those messages. To drop attributes alone takes no lock, so that is done at once, from anywhere.

use std::{
    fmt, io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use juicefs_core::Ino;
use rustix::io::Errno as IoErrno;

use crate::{
    abi::{NotifyInvalEntryOut, NotifyInvalInodeOut, bytes_of, notify_code},
    device::{Device, write_message},
};

/// How many messages wait at most.
const QUEUE_MAX: usize = 512;

/// What is called once the kernel was told. It is called too when the message is dropped.
struct Then(Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Then").field(&self.0.is_some()).finish()
    }
}

impl Drop for Then {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

#[derive(Debug)]
enum Message {
    Data { ino: Ino, off: i64, len: i64 },
    Entry { parent: Ino, name: Bytes, then: Then },
    End,
}

/// Tells the kernel what to forget. It is cheap to clone, and may outlive the mount.
#[derive(Clone, Debug)]
pub struct Notifier {
    device: Arc<Device>,
    queue: SyncSender<Message>,
}

impl Notifier {
    /// Makes a notifier on `device`, and starts the thread that sends what may wait. The thread runs until
    /// [`Notifier::end`] is called or the last clone is gone.
    pub(crate) fn start(device: Arc<Device>) -> io::Result<(Self, JoinHandle<()>)> {
        let (queue, messages) = sync_channel(QUEUE_MAX);
        let thread = thread::Builder::new().name("fuse-notify".into()).spawn({
            let device = Arc::clone(&device);
            move || run(&device, &messages)
        })?;
        Ok((Self { device, queue }, thread))
    }

    /// Makes the kernel drop the attributes of `ino` at once. It may be called while a request is served.
    pub fn inval_attr(&self, ino: Ino) {
        send_data(&self.device, ino, -1, 0);
    }

    /// Makes the kernel drop, soon, the pages `off..off + len` of `ino` and its attributes. A `len` of 0 stands for all
    /// up to the end.
    pub fn inval_inode(&self, ino: Ino, off: u64, len: u64) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.push(Message::Data { ino, off: signed(off), len: signed(len) });
    }

    /// Makes the kernel drop the name `name` of `parent` soon.
    pub fn inval_entry(&self, parent: Ino, name: Bytes) {
        self.push(Message::Entry { parent, name, then: Then(None) });
    }

    /// Makes the kernel drop the name `name` of `parent` soon, and calls `then` afterwards, also when that fails.
    pub fn inval_entry_then(&self, parent: Ino, name: Bytes, then: Box<dyn FnOnce() + Send>) {
        self.push(Message::Entry { parent, name, then: Then(Some(then)) });
    }

    /// Ends the thread once it has sent what waits. Later messages that may wait are not sent.
    pub(crate) fn end(&self) {
        let _ = self.queue.send(Message::End);
    }

    /// Queues a message. If the queue is full the message is dropped, and the kernel keeps what it names until that
    /// times out.
    fn push(&self, message: Message) {
        if let Err(TrySendError::Full(message)) = self.queue.try_send(message) {
            tracing::warn!(?message, "too many notifications wait: dropped");
        }
    }
}

fn run(device: &Device, messages: &Receiver<Message>) {
    while let Ok(message) = messages.recv() {
        match message {
            Message::End => return,
            Message::Data { ino, off, len } => send_data(device, ino, off, len),
            Message::Entry { parent, name, then } => {
                let out = NotifyInvalEntryOut { parent: parent.0, namelen: name_len(&name), padding: 0 };
                send(device, notify_code::INVAL_ENTRY, &[bytes_of(&out), &name, b"\0"]);
                drop(then);
            }
        }
    }
}

fn name_len(name: &[u8]) -> u32 {
    u32::try_from(name.len()).unwrap_or(u32::MAX)
}

fn send_data(device: &Device, ino: Ino, off: i64, len: i64) {
    send(device, notify_code::INVAL_INODE, &[bytes_of(&NotifyInvalInodeOut { ino: ino.0, off, len })]);
}

fn send(device: &Device, code: i32, pieces: &[&[u8]]) {
    match write_message(device, 0, code, pieces) {
        // ENOENT: the kernel does not know it, which is as good. ENODEV: the mount is gone.
        Ok(()) | Err(IoErrno::NOENT | IoErrno::NODEV | IoErrno::NOTDIR | IoErrno::NOTEMPTY | IoErrno::CONNABORTED) => {}
        Err(error) => tracing::warn!(code, %error, "the kernel refused a notification"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::{device, message};

    #[test]
    fn messages_carry_their_code_and_a_terminated_name() {
        let (device, socket) = device();
        let (notifier, thread) = Notifier::start(device).expect("a thread");
        notifier.inval_attr(Ino(7));
        let attr = NotifyInvalInodeOut { ino: 7, off: -1, len: 0 };
        assert_eq!(message(&socket), Some((0, 2, bytes_of(&attr).to_vec())));
        notifier.inval_entry(Ino(1), Bytes::from_static(b"ab"));
        drop(notifier);
        thread.join().expect("the thread ends with the last notifier");
        let (_, code, body) = message(&socket).expect("a message");
        assert_eq!((code, body.len()), (3, 16 + 3));
        assert!(body.ends_with(b"ab\0"));
    }
}
