//! A live mount, from mount(2) and INIT to the last answer.

#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use juicefs_vfs::Vfs;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    abi::{Wire, bytes_of, init_flag, opcode},
    caller::Callers,
    deferred::Deferred,
    device::{Device, write_message},
    dispatch::{Dispatcher, Settings},
    init::{self, Agreed, Negotiation, Wanted},
    mount::{self, MountEntry, MountError, MountOptions, Resolved, abort_session, mounted_at, unmount_path},
    notify::Notifier,
    ops::Operations,
    reply::Reply,
    request::Request as _,
    transport::{
        Transport,
        dev::{Arrived, DevRequest, DevTransport, page_buf::PageBufPool, parked::Park, receive},
    },
};

/// How long the kernel may take to begin a session that it has just mounted.
const INIT_WAIT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// A mounted file system that is being served.
///
/// To drop it stops nothing: the mount lives until somebody unmounts it, by [`Mounted::unmount`] or otherwise.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    /// The line of the mount table, if it could be read.
    entry: Option<MountEntry>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    notify_thread: Mutex<Option<JoinHandle<()>>>,
    notifier: Notifier,
    deferred: Arc<Deferred>,
    ended: CancellationToken,
}

impl Mounted {
    /// Mounts `vfs` and serves it. When this returns the mount is live: the kernel has its answer to INIT, and readers wait.
    ///
    /// Requests that must wait run on `rt`, which must have its timer on and outlive the mount. The call blocks for as
    /// long as mount(2) and one exchange with the kernel take.
    ///
    /// # Errors
    /// [`MountError`]; nothing is left mounted then.
    pub fn mount(vfs: Arc<Vfs>, rt: Handle, options: MountOptions) -> Result<Self, MountError> {
        let mounted = Self::mount_operations(Arc::clone(&vfs), rt, &options)?;
        let notifier = mounted.notifier();
        vfs.on_moved({
            let notifier = notifier.clone();
            move |ino, off| notifier.inval_inode(ino, off, 0)
        });
        vfs.on_forget(move |parent, name, then| notifier.inval_entry_then(parent, name, then));
        Ok(mounted)
    }

    /// Does what [`Mounted::mount`] does, for anything that has the operations.
    pub(crate) fn mount_operations<O: Operations>(
        ops: O,
        rt: Handle,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let resolved = options.resolve()?;
        let device = Arc::new(Device::new(mount::mount(&resolved)?));
        Self::serve(ops, rt, options, &resolved, device).inspect_err(|_| {
            if let Err(error) = unmount_path(&resolved.mountpoint, true) {
                tracing::warn!(%error, "taking back a mount that cannot be served");
            }
        })
    }

    fn serve<O: Operations>(
        ops: O,
        rt: Handle,
        options: &MountOptions,
        resolved: &Resolved,
        device: Arc<Device>,
    ) -> Result<Self, MountError> {
        let pool = PageBufPool::new(resolved.wanted.max_io_bytes);
        let agreed = handshake(&device, &pool, resolved.wanted)?;
        tracing::debug!(?agreed, source = resolved.source, "FUSE session begins");
        let (notifier, notify_thread) = Notifier::start(Arc::clone(&device)).map_err(MountError::Start)?;
        let deferred = Arc::new(Deferred::new(options.waiting_bytes));
        let dispatcher = Arc::new(Dispatcher {
            ops,
            settings: Settings {
                default_permissions: resolved.default_permissions,
                xattr: options.enable_xattr || options.enable_acl,
                setxattr_ext: agreed.flags & init_flag::SETXATTR_EXT != 0,
            },
            callers: Callers::new(!resolved.default_permissions, options.root_squash, options.all_squash),
            deferred: Arc::clone(&deferred),
            let_go: Arc::default(),
            notifier: notifier.clone(),
            rt,
        });
        let ended = CancellationToken::new();
        let readers = options.threads.unwrap_or_else(default_readers);
        let threads = DevTransport::new(device, readers, pool, Park::new(resolved.wanted.max_io_bytes))
            .start(&dispatcher, &ended)
            .map_err(MountError::Start)?;
        Ok(Self {
            mountpoint: resolved.mountpoint.clone(),
            entry: mounted_at(&resolved.mountpoint).unwrap_or_default(),
            threads: Mutex::new(threads),
            notify_thread: Mutex::new(Some(notify_thread)),
            notifier,
            deferred,
            ended,
        })
    }

    /// The mount point as an absolute path without links.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The handle through which the kernel is told what to forget.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// How many requests wait for something at this moment.
    #[must_use]
    pub fn waiting_requests(&self) -> usize {
        self.deferred.len()
    }

    /// Unmounts. With `lazy` the mount point is free at once, and the session ends with its last user. It is a success when
    /// nothing of ours is mounted any more; another mount on top of ours is left alone.
    ///
    /// # Errors
    /// [`MountError::Busy`] with the holders (never with `lazy`), [`MountError::Unmount`].
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        let present = mounted_at(&self.mountpoint).unwrap_or_default();
        match (&self.entry, present) {
            (Some(ours), Some(present)) if ours.id != present.id => {
                if mount::mounts().unwrap_or_default().iter().all(|m| m.id != ours.id) {
                    return Ok(());
                }
                let why = std::io::Error::other(format!("{} is mounted on top", present.source));
                Err(MountError::Unmount { path: self.mountpoint.clone(), why })
            }
            (Some(_), None) => Ok(()),
            _ => match unmount_path(&self.mountpoint, lazy) {
                Err(MountError::NotMounted(_)) => Ok(()),
                other => other,
            },
        }
    }

    /// Breaks the session, whoever uses it and even if it was unmounted lazily before, and unmounts. Requests under way
    /// and later ones end with an error. What was acknowledged stays; what is only buffered in the layers above is not
    /// flushed.
    ///
    /// # Errors
    /// [`MountError::Unmount`] when the kernel does not let us.
    pub fn abort(&self) -> Result<(), MountError> {
        let unknown = || MountError::Unmount {
            path: self.mountpoint.clone(),
            why: std::io::Error::other("its line of the mount table is not known"),
        };
        if !self.ended.is_cancelled() {
            abort_session(self.entry.as_ref().ok_or_else(unknown)?)?;
        }
        self.unmount(true)
    }

    /// Waits until the kernel has ended the session, because it was unmounted and nobody uses it any more, or because it was
    /// aborted. Cancel safe.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Waits until the session has ended, and then for `patience` at most until every request that was taken is served
    /// to its end. Returns how many requests are still under way; if there are none, the VFS gets no more calls from
    /// here. Requests that only look are dropped, and so are writes that nobody acknowledged. The call blocks its
    /// thread, so it is not for use in a task.
    ///
    /// # Errors
    /// [`MountError::Start`] when a reader ended by a panic; the rest was waited for all the same.
    pub fn wait(self, patience: Duration) -> Result<usize, MountError> {
        let mut panicked = 0;
        for thread in std::mem::take(&mut *self.threads.lock()) {
            panicked += usize::from(thread.join().is_err());
        }
        // Locks would be waited for as long as others hold them, and reads for as long as a store is away.
        self.deferred.interrupt_all();
        let left = self.deferred.wait_idle(patience);
        self.notifier.end();
        if let Some(thread) = self.notify_thread.lock().take() {
            panicked += usize::from(thread.join().is_err());
        }
        if panicked > 0 {
            return Err(MountError::Start(std::io::Error::other(format!("{panicked} threads panicked"))));
        }
        Ok(left)
    }
}

/// How many readers there are if nobody says. They never wait for I/O, so more of them than CPUs would only cost.
fn default_readers() -> usize {
    thread::available_parallelism().map_or(2, NonZero::get).clamp(2, 8)
}

/// Answers the INIT with which the kernel begins every session.
fn handshake(device: &Arc<Device>, pool: &Arc<PageBufPool>, wanted: Wanted) -> Result<Agreed, MountError> {
    let protocol = |text: &str| MountError::Protocol(text.to_owned());
    let mut buf = pool.take().map_err(MountError::Start)?;
    loop {
        match poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&INIT_WAIT)) {
            Ok(0) => return Err(protocol("the kernel does not begin the session")),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(MountError::Start(error.into())),
        }
        let request = match receive(device, buf).map_err(MountError::Start)? {
            Arrived::Request(request) => request,
            Arrived::Nothing(back) | Arrived::Parked(_, back) => {
                buf = back;
                continue;
            }
            Arrived::End => return Err(protocol("the session ended before it began")),
        };
        if let Some(agreed) = answer_init(device, &request, wanted)? {
            return Ok(agreed);
        }
        buf = request.into_buf().map_or_else(|| pool.take(), Ok).map_err(MountError::Start)?;
    }
}

/// Answers one request of the handshake. `None` means that another one will follow.
fn answer_init(device: &Arc<Device>, request: &DevRequest, wanted: Wanted) -> Result<Option<Agreed>, MountError> {
    let unique = request.header().unique;
    if request.header().opcode != opcode::INIT {
        Reply::new(unique, Arc::clone(device)).send(Err(juicefs_core::Errno::EIO));
        return Ok(None);
    }
    let out = match init::negotiate(request.args(), wanted) {
        Negotiation::Agreed(agreed) => {
            answer(device, unique, &agreed.out())?;
            return Ok(Some(agreed));
        }
        Negotiation::AskAgain => init::ask_again(),
        Negotiation::Refused { major, minor } => {
            Reply::new(unique, Arc::clone(device)).send(Err(juicefs_core::Errno(libc::EPROTO)));
            let text = format!("the kernel speaks {major}.{minor}, at least 7.28 (Linux 4.20) is needed");
            return Err(MountError::Protocol(text));
        }
        Negotiation::Malformed => {
            Reply::new(unique, Arc::clone(device)).send(Err(juicefs_core::Errno::EINVAL));
            return Err(MountError::Protocol("the kernel's INIT does not decode".into()));
        }
    };
    answer(device, unique, &out)?;
    Ok(None)
}

fn answer<T: Wire>(device: &Device, unique: u64, out: &T) -> Result<(), MountError> {
    write_message(device, unique, 0, &[bytes_of(out)])
        .map_err(|error| MountError::Protocol(format!("the kernel refused the answer to INIT: {error}")))
}
