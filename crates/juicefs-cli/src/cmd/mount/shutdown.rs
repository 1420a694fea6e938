//! How a mount ends: by a signal, because somebody unmounts it, or because its volume is gone.
//!
//! In each case what was written is flushed before the process ends. Only a flush that makes no progress is given up,
//! and the log says so.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use juicefs_fuse::{MountError, Mounted};
use juicefs_vfs::Vfs;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

/// How long the users of a mount may take to end after a signal before it is broken off, and how long nothing may be stored
/// before a flush is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long each further step may take when a mount is broken off.
const BREAKING: Duration = Duration::from_secs(5);
/// How long each further step may take when it is known that nothing moves.
const HUNG: Duration = Duration::from_secs(1);
/// How long a flush may take that does store something all the time.
const CLOSING: Duration = Duration::from_secs(600);
/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The exit code that tells a supervisor to stop: the volume is gone, or the end was forced.
pub(super) const EXIT_STOP: u8 = 11;

/// Why a mount ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// SIGTERM, SIGINT, or SIGHUP in the foreground.
    Signal(&'static str),
    /// It was unmounted, or its connection aborted.
    Unmounted,
    /// The volume cannot be used any more.
    Fatal(String),
}

/// The signals that end a mount.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    background: bool,
}

impl Signals {
    /// Starts to catch them. Needs a runtime around it.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub(super) fn catch(background: bool) -> Result<Self> {
        let catch = |kind| signal(kind).context("catch signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
            background,
        })
    }

    /// Waits for the next signal that ends the mount. A background mount has no terminal whose end would mean something.
    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    if !self.background {
                        return "SIGHUP";
                    }
                    tracing::warn!("SIGHUP is ignored: restarting without unmounting is not supported yet");
                }
            }
        }
    }
}

/// Waits for the end of the mount.
pub(super) async fn wait(mounted: &Mounted, vfs: &Vfs, mut signals: Signals) -> End {
    tokio::select! {
        name = signals.next() => End::Signal(name),
        () = mounted.ended() => End::Unmounted,
        reason = vfs.fatal() => End::Fatal(reason),
    }
}

/// Ends the mount and everything below it. Returns the exit code.
pub(super) fn take_down(rt: &Runtime, vfs: &Arc<Vfs>, mounted: Mounted, end: &End) -> u8 {
    let is_hung = match end {
        End::Fatal(reason) => {
            tracing::error!("{reason}: unmounting {}", mounted.mountpoint().display());
            detach(&mounted);
            give_up(&mounted);
            // What is not flushed yet belongs to a volume that is not there any more: it must not go into another one.
            return EXIT_STOP;
        }
        End::Signal(name) => {
            let begun = Instant::now();
            tracing::info!("{name}: unmounting {}", mounted.mountpoint().display());
            let is_hung = !flush(rt, vfs, PATIENCE);
            detach(&mounted);
            let left = PATIENCE.saturating_sub(begun.elapsed()).max(HUNG);
            if !ends_within(rt, &mounted, left) {
                tracing::error!("{} is still in use: breaking it off", mounted.mountpoint().display());
                // With what was written meanwhile, if it goes anywhere.
                let is_hung = is_hung || !flush(rt, vfs, BREAKING);
                give_up(&mounted);
                close(rt, vfs, mounted, if is_hung { HUNG } else { BREAKING });
                return EXIT_STOP;
            }
            is_hung
        }
        End::Unmounted => {
            tracing::info!("{} was unmounted", mounted.mountpoint().display());
            // What is left was written by processes that are gone: nobody hears of it but the log.
            !flush(rt, vfs, PATIENCE)
        }
    };
    if is_hung {
        close(rt, vfs, mounted, HUNG);
        return EXIT_STOP;
    }
    close(rt, vfs, mounted, PATIENCE)
}

/// Closes what nobody uses any more. Returns the exit code. Each step may take as long as `patience`.
fn close(rt: &Runtime, vfs: &Arc<Vfs>, mounted: Mounted, patience: Duration) -> u8 {
    let mut is_whole = true;
    // After an abort readers end at once; a session that will not even abort is left to the end of the process.
    if ends_within(rt, &mounted, patience) {
        match mounted.wait(patience) {
            Ok(0) => {}
            Ok(left) => {
                tracing::error!("{left} requests are still under way after {patience:?}, and are given up");
                is_whole = false;
            }
            Err(error) => tracing::error!("the mount ended badly: {error}"),
        }
    }
    match while_it_moves(rt, vfs, patience, vfs.shutdown()) {
        Some(Ok(())) if is_whole => 0,
        Some(Ok(())) => EXIT_STOP,
        Some(Err(errno)) => {
            tracing::error!("closing the volume: {errno}; data that was not yet flushed may be lost");
            if is_whole { 1 } else { EXIT_STOP }
        }
        None => {
            tracing::error!("closing the volume does not come to its end: data that was not yet flushed is lost");
            EXIT_STOP
        }
    }
}

/// Whether everything was flushed, or refused, before nothing had moved for `patience`.
fn flush(rt: &Runtime, vfs: &Arc<Vfs>, patience: Duration) -> bool {
    match while_it_moves(rt, vfs, patience, vfs.flush_all()) {
        Some(Ok(())) => true,
        Some(Err(errno)) => {
            tracing::error!("flushing before the end of the mount: {errno}");
            true
        }
        None => {
            tracing::error!("flushing before the end of the mount: nothing was stored for {patience:?}");
            false
        }
    }
}

/// Does `work` as long as written data is stored meanwhile. `None` when nothing was stored for `patience`, or the work
/// takes longer than [`CLOSING`].
fn while_it_moves<T>(rt: &Runtime, vfs: &Vfs, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    rt.block_on(async {
        let mut work = pin!(work);
        let begun = Instant::now();
        let (mut stored, mut moved) = (vfs.stored(), begun);
        loop {
            if let Ok(done) = timeout(LOOK, &mut work).await {
                return Some(done);
            }
            let now = Instant::now();
            if std::mem::replace(&mut stored, vfs.stored()) != stored {
                moved = now;
            }
            if now - moved >= patience || now - begun >= CLOSING {
                return None;
            }
        }
    })
}

fn ends_within(rt: &Runtime, mounted: &Mounted, limit: Duration) -> bool {
    rt.block_on(async { timeout(limit, mounted.ended()).await.is_ok() })
}

/// Takes the mount out of the name space; lazily when somebody still uses it.
fn detach(mounted: &Mounted) {
    match mounted.unmount(false) {
        Ok(()) => {}
        Err(busy @ MountError::Busy { .. }) => {
            tracing::warn!("{busy}; detaching it");
            if let Err(error) = mounted.unmount(true) {
                tracing::error!("{error}");
            }
        }
        Err(error) => tracing::error!("{error}"),
    }
}

/// Breaks the connection to the kernel, so that nobody hangs on a mount that is not served.
pub(super) fn give_up(mounted: &Mounted) {
    if let Err(error) = mounted.abort() {
        tracing::error!("{error}");
    }
    if let Err(error) = mounted.unmount(true) {
        tracing::error!("{error}");
    }
}
