//! From a request to its answer: decode, poll once, answer from the reader's thread if that was enough, else hand the
//! rest to tokio.
//!
//! Every request is answered exactly once or, where the protocol has no answer, not at all: a request that does not
//! decode gets EINVAL, an unknown one ENOSYS, a panic in a handler EIO.

mod content;
mod directory;
mod lock;
mod name;
mod node;
#[cfg(test)]
mod tests;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use juicefs_core::{Caller, Errno, Ino};
use smallvec::SmallVec;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    abi::{EntryOut, InHeader, InterruptIn, OpenOut, WriteIn, opcode, split},
    caller::{Callers, is_dying},
    deferred::{Deferred, Slot},
    let_go::{LetGo, Nodes},
    notify::Notifier,
    ops::Operations,
    page_buf::{PageBuf, PageBufPool},
    parked::Parked,
    reply::{Answer, Device, Reply},
    request::{Args, Request},
};

/// An operation under way.
type Work = Pin<Box<dyn Future<Output = Result<Answer, Errno>> + Send>>;
/// A copy of a name that an operation can keep; most fit without an allocation.
type NameBuf = SmallVec<[u8; 40]>;

/// Age from which an interrupted request that only looks ends with EINTR. Timers and children that exit send signals
/// too, and few programs expect EINTR from `stat`: short operations are better finished.
const INTERRUPT_AFTER: Duration = Duration::from_secs(1);

/// The answer to a request for a node that is not there any more, while the kernel still knows it. When another client
/// removed it, it is ESTALE: the kernel looks its name up again, and finds the file that took its place or, truly, none;
/// ENOENT would go to the application, for which a name that is replaced by rename would be missing for a moment. What was
/// unlinked here has been missing since the request's name was looked up, so that ENOENT is true; the kernel looks a name
/// up anew only once, and might meet the next removal.
fn gone<O: Operations>(ops: &O, node: Ino) -> impl FnOnce(Errno) -> Errno {
    move |errno| if errno == Errno::ENOENT && !ops.unlinked(node) { Errno::ESTALE } else { errno }
}

/// What the mount decided about operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The kernel checks permissions, so it need not ask for `access`.
    pub(crate) default_permissions: bool,
    /// Extended attributes are served.
    pub(crate) xattr: bool,
    /// SETXATTR has its extended form (SETXATTR_EXT was agreed on).
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
    /// There is nothing more to do.
    Done(Answer),
    /// This is to be run.
    Run(Work),
    /// Likewise; when the token is cancelled it ends soon, and says itself how.
    Wait(Work, CancellationToken),
}

/// How a request that waits can end before its time.
struct Waits {
    /// Ends it soon when cancelled.
    stop: Option<CancellationToken>,
    /// What it may change.
    changes: Option<Nodes>,
}

/// How far the first poll came.
enum Begun {
    Finished(Result<Answer, Errno>),
    Waiting(Work, Waits),
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
    /// Serves one request that was read from `device`. Returns its buffer when the payload did not go on with it.
    ///
    /// Returns when the request is answered or deferred, and waits for nothing. The thread must be in the context of the
    /// runtime.
    pub(crate) fn serve(&self, mut request: Request, device: &Arc<Device>) -> Option<PageBuf> {
        let header = request.header;
        let reply = Reply::new(header.unique, Arc::clone(device));
        let begun = self.begin_caught(&mut request);
        let buf = request.into_buf();
        match begun {
            Begun::Finished(answer) => reply.send(answer),
            Begun::Waiting(work, waits) => self.defer(header, work, waits, reply),
        }
        buf
    }

    /// Serves a write that was read from `device` and left in its pipe, once there is room for its data.
    pub(crate) fn park(self: &Arc<Self>, parked: Parked, device: &Arc<Device>, pool: &Arc<PageBufPool>) {
        let slot = self.deferred.enter(parked.header.unique, 0);
        let reply = Reply::new(parked.header.unique, Arc::clone(device));
        drop(self.rt.spawn(serve_parked(Arc::clone(self), parked, Arc::clone(pool), reply, slot)));
    }

    fn begin_caught(&self, request: &mut Request) -> Begun {
        let header = request.header;
        catch_unwind(AssertUnwindSafe(|| self.begin(request))).unwrap_or_else(|_| {
            tracing::error!(opcode = header.opcode, node = header.nodeid, "a handler panicked: EIO");
            Begun::Finished(Err(Errno::EIO))
        })
    }

    fn begin(&self, request: &mut Request) -> Begun {
        let (mut work, stop) = match self.decode(request) {
            Ok(Step::Run(work)) => (work, None),
            Ok(Step::Wait(work, stop)) => (work, Some(stop)),
            Ok(Step::Done(answer)) => return Begun::Finished(Ok(answer)),
            Err(errno) => return Begun::Finished(Err(errno)),
        };
        if self.let_go.is_any()
            && let Some(before) =
                Nodes::changed_by(&request.header, request.args()).and_then(|nodes| self.let_go.before(nodes))
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
                let changes = Nodes::changed_by(&request.header, request.args());
                Begun::Waiting(work, Waits { stop, changes })
            }
        }
    }

    fn decode(&self, request: &mut Request) -> Result<Step, Errno> {
        let header = request.header;
        let done = match header.opcode {
            // Inode numbers are permanent and nothing is kept for a node that the kernel knows.
            opcode::FORGET | opcode::BATCH_FORGET | opcode::NOTIFY_REPLY => Answer::Silence,
            opcode::INTERRUPT => {
                if let Ok(interrupt) = request.args().fixed::<InterruptIn>() {
                    self.deferred.interrupt(interrupt.unique);
                }
                Answer::Silence
            }
            opcode::DESTROY => Answer::Empty,
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
            // BMAP is for block devices, POLL has nothing to wait for; STATX and SYNCFS have older forms that the kernel falls back
            // to.
            _ => Err(Errno::ENOSYS),
        }
    }

    fn defer(&self, header: InHeader, work: Work, Waits { stop, changes }: Waits, reply: Reply) {
        let payload_bytes = if header.opcode == opcode::WRITE { header.len as usize } else { 0 };
        let slot = self.deferred.enter(header.unique, payload_bytes);
        // The slot is what joins the task: a mount is not over while one is taken.
        match stop {
            Some(stop) => drop(self.rt.spawn(finish_waiting(work, stop, reply, slot))),
            None => {
                let fate = Fate { changes, let_go: Arc::clone(&self.let_go) };
                drop(self.rt.spawn(finish(self.ops.clone(), header, work, fate, reply, slot)));
            }
        }
    }
}

/// Serves a parked write. A caller that is killed while it waits is let go, and nothing was written.
async fn serve_parked<O: Operations>(
    dispatcher: Arc<Dispatcher<O>>,
    parked: Parked,
    pool: Arc<PageBufPool>,
    reply: Reply,
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
    let taken = pool.take().and_then(|mut buf| {
        parked.copy_to(&mut buf)?;
        Ok(buf)
    });
    let request = match taken {
        Ok(buf) => Request::new(buf, header.len as usize).map_err(|(why, _)| std::io::Error::other(format!("{why:?}"))),
        Err(error) => Err(error),
    };
    let mut request = match request {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(%error, "a write that waited cannot be read");
            reply.send(Err(Errno::EIO));
            return;
        }
    };
    match dispatcher.begin_caught(&mut request) {
        Begun::Finished(answer) => reply.send(answer),
        Begun::Waiting(work, Waits { changes, .. }) => {
            drop(request);
            let fate = Fate { changes, let_go: Arc::clone(&dispatcher.let_go) };
            finish(dispatcher.ops.clone(), header, work, fate, reply, slot).await;
        }
    }
}

/// What happens to deferred work that outlives its caller.
struct Fate {
    changes: Option<Nodes>,
    let_go: Arc<LetGo>,
}

/// Runs deferred work to its end. When the request is interrupted its caller is let go. Work that only looks is dropped
/// then, and so is a write, which may end anywhere. Other work that changes something is finished all the same, so that
/// nothing is torn in the middle, and what changes the same nodes waits for it from then on.
async fn finish<O: Operations>(ops: O, header: InHeader, mut work: Work, fate: Fate, reply: Reply, slot: Slot) {
    let since = Instant::now();
    tokio::select! {
        biased;
        answer = &mut work => {
            reply.send(answer);
            return;
        }
        () = interrupted(&slot, &header, since) => {}
    }
    if only_looks(header.opcode) || header.opcode == opcode::WRITE {
        // Before the answer: what comes after that must not meet it any more.
        drop(work);
        reply.send(Err(Errno::EINTR));
        return;
    }
    let _held = fate.changes.map(|nodes| fate.let_go.hold(nodes));
    reply.send(Err(Errno::EINTR));
    let late = work.await;
    if let Some(fh) = opened(header.opcode, &late) {
        // Nobody knows the handle, so nobody will release it.
        if let Err(error) = ops.release(Ino(header.nodeid), fh).await {
            tracing::warn!(fh, ?error, "releasing a file whose opener was killed");
        }
    }
}

/// Runs deferred work that waits for others to its end. Any signal ends the waiting at once; the work says whether it got
/// what it waited for all the same.
async fn finish_waiting(mut work: Work, stop: CancellationToken, reply: Reply, slot: Slot) {
    let answer = tokio::select! {
        biased;
        answer = &mut work => answer,
        () = slot.interrupted.cancelled() => {
            stop.cancel();
            work.await
        }
    };
    reply.send(answer);
}

/// Ends when the request is to be given up: at once if its caller was killed or the session is over; for any other signal
/// only work that looks, and not before [`INTERRUPT_AFTER`]. A second signal is not announced, hence the look once a second.
async fn interrupted(slot: &Slot, header: &InHeader, since: Instant) {
    // Whoever was killed closes his files on his way out, and need not have a signal any more that would be announced.
    while header.opcode == opcode::FLUSH
        && tokio::time::timeout(INTERRUPT_AFTER, slot.interrupted.cancelled()).await.is_err()
    {
        if is_dying(header.pid) {
            return;
        }
    }
    slot.interrupted.cancelled().await;
    loop {
        if slot.is_over() || is_dying(header.pid) || (only_looks(header.opcode) && since.elapsed() >= INTERRUPT_AFTER) {
            return;
        }
        tokio::time::sleep(INTERRUPT_AFTER.saturating_sub(since.elapsed()).max(Duration::from_millis(100))).await;
    }
}

/// Whether the operation changes nothing, so that it may be dropped half-way.
fn only_looks(code: u32) -> bool {
    matches!(
        code,
        opcode::LOOKUP
            | opcode::GETATTR
            | opcode::READLINK
            | opcode::READ
            | opcode::STATFS
            | opcode::GETXATTR
            | opcode::LISTXATTR
            | opcode::ACCESS
            | opcode::READDIR
            | opcode::READDIRPLUS
            | opcode::LSEEK
    )
}

/// The file handle that an answer hands out.
fn opened(code: u32, answer: &Result<Answer, Errno>) -> Option<u64> {
    let Ok(Answer::Fixed(fixed)) = answer else { return None };
    let out = match code {
        opcode::OPEN => fixed.as_bytes(),
        opcode::CREATE | opcode::TMPFILE => fixed.as_bytes().get(size_of::<EntryOut>()..)?,
        _ => return None,
    };
    split::<OpenOut>(out).map(|(out, _)| out.fh)
}
