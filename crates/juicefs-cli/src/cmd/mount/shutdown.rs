//! How a mount ends: by a signal, by somebody's umount, or because its volume is gone.
//!
//! Whatever the way, what was written is flushed before the process ends; only a flush that takes too long is given up,
//! loudly.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use juicefs_fuse::{MountError, Mounted};
use juicefs_vfs::Vfs;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

/// How long an unmount after a signal may take before it is forced.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long closing may take once nobody uses the mount any more: long enough for a slow store with retries.
const CLOSING: Duration = Duration::from_secs(600);
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

    /// The next one that ends the mount. A background mount has no terminal whose end would mean something.
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
    if let End::Fatal(reason) = end {
        tracing::error!("{reason}: unmounting {}", mounted.mountpoint().display());
        detach(&mounted);
        give_up(&mounted);
        // What is not flushed yet belongs to a volume that is not there any more: it must not go into another one.
        return EXIT_STOP;
    }
    let forced = match end {
        End::Signal(name) => {
            tracing::info!("{name}: unmounting {}", mounted.mountpoint().display());
            flush(rt, vfs);
            detach(&mounted);
            !ends_in_time(rt, vfs, &mounted)
        }
        End::Unmounted | End::Fatal(_) => {
            tracing::info!("{} was unmounted", mounted.mountpoint().display());
            false
        }
    };
    // After an abort readers end at once; a session that will not even abort is left to the end of the process.
    let joined = rt.block_on(async { timeout(PATIENCE, mounted.ended()).await.is_ok() });
    if joined && let Err(error) = mounted.wait() {
        tracing::error!("the mount ended badly: {error}");
    }
    let limit = if *end == End::Unmounted { CLOSING } else { PATIENCE };
    let closed = rt.block_on(async { timeout(limit, vfs.shutdown()).await });
    match closed {
        Ok(Ok(())) if !forced => return 0,
        Ok(Ok(())) => {}
        Ok(Err(errno)) => tracing::error!("closing the volume: {errno}; data that was not yet flushed may be lost"),
        Err(_) => tracing::error!("closing the volume takes longer than {limit:?}: data may be lost"),
    }
    if forced { EXIT_STOP } else { 1 }
}

fn flush(rt: &Runtime, vfs: &Arc<Vfs>) {
    match rt.block_on(async { timeout(PATIENCE, vfs.flush_all()).await }) {
        Ok(Ok(())) => {}
        Ok(Err(errno)) => tracing::error!("flushing before the unmount: {errno}"),
        Err(_) => tracing::error!("flushing before the unmount takes longer than {PATIENCE:?}"),
    }
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

/// Gives the users of a detached mount time to end; then breaks it off, with what they wrote so far flushed.
fn ends_in_time(rt: &Runtime, vfs: &Arc<Vfs>, mounted: &Mounted) -> bool {
    if rt.block_on(async { timeout(PATIENCE, mounted.ended()).await.is_ok() }) {
        return true;
    }
    tracing::error!("{} is still in use after {PATIENCE:?}: breaking it off", mounted.mountpoint().display());
    flush(rt, vfs);
    give_up(mounted);
    false
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
