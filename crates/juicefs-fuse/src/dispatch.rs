//! The way of a request to its reply: it is decoded and polled once. If that was enough, the thread that received it
//! replies; otherwise the rest is handed to tokio.
//!
//! A transport calls [`Dispatcher::begin`] with a request and [`Dispatcher::end`] with the way back for its reply.
//! Nothing looks at the request between the two, so the transport may use its memory again, be it for the reply itself.
//!
//! Every request gets exactly one reply or, where the protocol has none, not any: a request that does not decode gets
//! EINVAL, an unknown one ENOSYS, and one whose handler panics EIO.

mod content;
mod directory;
mod lock;
mod name;
mod node;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use juicefs_core::{Caller, Errno, Ino};
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::waiting::{Waiting, interrupted};
use self::waiting::{Work, finish, finish_stoppable};
use crate::{
    abi::{InHeader, InterruptIn, WriteIn, opcode},
    caller::Callers,
    deferred::{Deferred, Slot},
    let_go::{LetGo, Nodes},
    notify::Notifier,
    ops::Operations,
    reply::{Reply, ReplyBody, ReplySink},
    request::{Args, Request},
};

/// A copy of a name that an operation can keep; most fit without an allocation.
type NameBuf = SmallVec<[u8; 40]>;

/// Chooses the error for a request to a node that is gone although the kernel still knows it.
///
/// When another client removed the node, the error is ESTALE: then the kernel looks the name up again, and finds the
/// file that took its place, or none. ENOENT would go to the application, which would miss a name for a moment while
/// rename replaces it. When this mount unlinked the node, its name has been missing since the kernel looked it up, so
/// ENOENT is true; and the kernel looks a name up again only once, so with ESTALE it might meet the next removal.
fn gone<O: Operations>(ops: &O, node: Ino) -> impl FnOnce(Errno) -> Errno {
    move |errno| if errno == Errno::ENOENT && !ops.unlinked(node) { Errno::ESTALE } else { errno }
}

/// What the mount decided about operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The kernel checks permissions, so that it need not ask for `access`.
    pub(crate) default_permissions: bool,
    /// Extended attributes are served.
    pub(crate) xattr: bool,
    /// SETXATTR comes in its extended form (SETXATTR_EXT was agreed on).
    pub(crate) setxattr_ext: bool,
}

/// Turns requests into operations of `O`.
pub(crate) struct Dispatcher<O> {
    pub(crate) ops: O,
    pub(crate) settings: Settings,
    pub(crate) callers: Callers,
    pub(crate) deferred: Arc<Deferred>,
    pub(crate) let_go: Arc<LetGo>,
    pub(crate) notifier: Notifier,
    pub(crate) rt: Handle,
}

/// How a decoded request goes on.
enum Step {
    /// Nothing more is to be done.
    Done(ReplyBody),
    /// This work is to be run.
    Run(Work),
    /// This work is to be run, and ends soon when the token is cancelled; it says itself how.
    Wait(Work, CancellationToken),
}

/// How far the first poll of a request came.
pub(crate) enum Begun {
    /// The request is done, and this is its reply.
    Finished(Result<ReplyBody, Errno>),
    /// It waits for something.
    Waiting(Waiting),
}

/// One request, ready to become an operation.
struct Call<'a, O> {
    ops: O,
    caller: Caller,
    /// The node that the header names.
    node: Ino,
    args: Args<'a>,
}

impl<O: Operations> Dispatcher<O> {
    /// Decodes a request and polls its operation once. A handler that panics makes it EIO.
    ///
    /// The thread must be in the context of the runtime. It waits for nothing here.
    pub(crate) fn begin(&self, request: &mut impl Request) -> Begun {
        let InHeader { opcode, nodeid, .. } = *request.header();
        catch_unwind(AssertUnwindSafe(|| self.poll_once(request))).unwrap_or_else(|_| {
            tracing::error!(opcode, node = nodeid, "a handler panicked: EIO");
            Begun::Finished(Err(Errno::EIO))
        })
    }

    /// Replies to a request that has been begun, or lets a task do so when its operation is done.
    pub(crate) fn end<S: ReplySink>(&self, begun: Begun, reply: Reply<S>) {
        match begun {
            Begun::Finished(answer) => reply.send(answer),
            Begun::Waiting(waiting) => self.defer(waiting, reply),
        }
    }

    /// Does the same within the caller's task, for a request that has a slot already and waits for no other caller.
    pub(crate) async fn end_in<S: ReplySink>(&self, slot: Slot, begun: Begun, reply: Reply<S>) {
        match begun {
            Begun::Finished(answer) => reply.send(answer),
            Begun::Waiting(waiting) => {
                finish(self.ops.clone(), waiting, Arc::clone(&self.let_go), reply, slot).await;
            }
        }
    }

    fn poll_once(&self, request: &mut impl Request) -> Begun {
        let (mut work, stop) = match self.decode(request) {
            Ok(Step::Run(work)) => (work, None),
            Ok(Step::Wait(work, stop)) => (work, Some(stop)),
            Ok(Step::Done(answer)) => return Begun::Finished(Ok(answer)),
            Err(errno) => return Begun::Finished(Err(errno)),
        };
        if self.let_go.is_any()
            && let Some(before) =
                Nodes::changed_by(request.header(), request.args()).and_then(|nodes| self.let_go.before(nodes))
        {
            let let_go = Arc::clone(&self.let_go);
            work = Box::pin(async move {
                let_go.ended(before).await;
                work.await
            });
        }
        // Nobody is woken through this waker: a future that waits is polled again by its task, which has one.
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Begun::Finished(answer),
            Poll::Pending => {
                let changes = Nodes::changed_by(request.header(), request.args());
                Begun::Waiting(Waiting { header: *request.header(), work, stop, changes })
            }
        }
    }

    fn decode(&self, request: &mut impl Request) -> Result<Step, Errno> {
        let header = *request.header();
        let done = match header.opcode {
            // Inode numbers are permanent and nothing is kept for a node that the kernel knows.
            opcode::FORGET | opcode::BATCH_FORGET | opcode::NOTIFY_REPLY => ReplyBody::Silence,
            opcode::INTERRUPT => {
                if let Ok(interrupt) = request.args().fixed::<InterruptIn>() {
                    self.deferred.interrupt(interrupt.unique);
                }
                ReplyBody::Silence
            }
            opcode::DESTROY => ReplyBody::Empty,
            // INIT was answered before the readers started; the kernel never sends a second one.
            opcode::INIT => {
                tracing::error!("the kernel sent a second INIT");
                return Err(Errno::EIO);
            }
            opcode::ACCESS if self.settings.default_permissions => return Err(Errno::ENOSYS),
            opcode::GETXATTR | opcode::SETXATTR | opcode::LISTXATTR | opcode::REMOVEXATTR if !self.settings.xattr => {
                return Err(Errno::ENOSYS);
            }
            opcode::WRITE => {
                let head: WriteIn = request.args().fixed()?;
                let data = request.take_payload(head.size)?;
                return Ok(Step::Run(self.call(&header, request.args()).write(&head, data)));
            }
            opcode::SETLKW => {
                let stop = CancellationToken::new();
                let work = self.call(&header, request.args()).setlk(&self.notifier, Some(stop.clone()))?;
                return Ok(Step::Wait(work, stop));
            }
            _ => return self.operation(&header, request.args()).map(Step::Run),
        };
        Ok(Step::Done(done))
    }

    fn call<'a>(&self, header: &InHeader, args: Args<'a>) -> Call<'a, O> {
        Call { ops: self.ops.clone(), caller: self.callers.caller(header), node: Ino(header.nodeid), args }
    }

    fn operation(&self, header: &InHeader, args: Args<'_>) -> Result<Work, Errno> {
        let call = self.call(header, args);
        match header.opcode {
            opcode::LOOKUP => call.lookup(),
            opcode::GETATTR => call.getattr(),
            opcode::SETATTR => call.setattr(),
            opcode::READLINK => Ok(call.readlink()),
            opcode::SYMLINK => call.symlink(),
            opcode::MKNOD => call.mknod(),
            opcode::MKDIR => call.mkdir(),
            opcode::UNLINK => call.unlink(),
            opcode::RMDIR => call.rmdir(),
            opcode::RENAME => call.rename(),
            opcode::RENAME2 => call.rename2(),
            opcode::LINK => call.link(),
            opcode::OPEN => call.open(&self.notifier),
            opcode::CREATE => call.create(),
            opcode::TMPFILE => call.tmpfile(),
            opcode::READ => call.read(),
            opcode::STATFS => Ok(call.statfs()),
            opcode::RELEASE => call.release(),
            opcode::FLUSH => call.flush(),
            opcode::FSYNC => call.fsync(),
            opcode::GETLK => call.getlk(),
            opcode::SETLK => call.setlk(&self.notifier, None),
            opcode::FALLOCATE => call.fallocate(&self.notifier),
            opcode::LSEEK => call.lseek(),
            opcode::COPY_FILE_RANGE => call.copy_file_range(false),
            opcode::COPY_FILE_RANGE_64 => call.copy_file_range(true),
            opcode::SETXATTR => call.setxattr(self.settings.setxattr_ext),
            opcode::GETXATTR => call.getxattr(),
            opcode::LISTXATTR => call.listxattr(),
            opcode::REMOVEXATTR => call.removexattr(),
            opcode::ACCESS => call.access(),
            opcode::IOCTL => call.ioctl(),
            opcode::OPENDIR => Ok(call.opendir()),
            opcode::READDIR => call.readdir(false),
            opcode::READDIRPLUS => call.readdir(true),
            opcode::RELEASEDIR => call.releasedir(),
            opcode::FSYNCDIR => call.fsyncdir(),
            // BMAP is for block devices, POLL has nothing to wait for; STATX and SYNCFS have older forms that the
            // kernel falls back to.
            _ => Err(Errno::ENOSYS),
        }
    }

    fn defer<S: ReplySink>(&self, mut waiting: Waiting, reply: Reply<S>) {
        let slot = self.deferred.enter(waiting.header.unique, waiting.payload_bytes());
        // The slot is what joins the task: a mount is not over while one is taken.
        match waiting.stop.take() {
            Some(stop) => drop(self.rt.spawn(finish_stoppable(waiting.work, stop, reply, slot))),
            None => {
                let let_go = Arc::clone(&self.let_go);
                drop(self.rt.spawn(finish(self.ops.clone(), waiting, let_go, reply, slot)));
            }
        }
    }
}
