//! Each cache directory has threads, which do this.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    super::{
        dir::CacheDir,
        health::DiskState,
        open_files::OpenFiles,
        tidy::{Rules, TidyCall},
    },
    block::DiskBlock,
};
use crate::{block::BlockId, counters::Counters};

/// Failed writes are not logged more often than this.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// A block to be written.
pub(super) struct Queued {
    pub(super) id: BlockId,
    /// The part of the queue that the block takes until it is written.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) room: OwnedSemaphorePermit,
}

/// Starts a thread. Returns `None` when it cannot be started, which is logged.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.inspect_err(|e| tracing::error!("cannot start the thread {name}: {e}")).ok()
}

/// Writes the queued blocks of a directory, until the queue is closed and empty.
pub(super) fn write_queued(
    dir: &CacheDir,
    queue: &mpsc::Receiver<Queued>,
    counters: &Counters,
    tidier: &mpsc::SyncSender<TidyCall>,
) {
    let mut complained: Option<Instant> = None;
    while let Ok(queued) = queue.recv() {
        let started = Instant::now();
        match dir.write_pending(queued.id) {
            Ok(0) => {}
            Ok(bytes) => {
                counters.cache_write.add(bytes, started.elapsed());
                if dir.is_full() {
                    // If a call is waiting already, it does for this one too.
                    let _ = tidier.try_send(TidyCall::Now);
                }
            }
            // The state of the disk was told.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if complained.is_none_or(|at| at.elapsed() > COMPLAINT_INTERVAL) => {
                complained = Some(started);
                tracing::warn!("cannot write {}: {e}", dir.path(queued.id).display());
            }
            Err(_) => {}
        }
    }
}

/// Brings a directory within its limits whenever that is called for, until nobody can call any more.
pub(super) fn tidy_when_called(
    dir: &CacheDir,
    rules: &Rules,
    files: &OpenFiles<Arc<DiskBlock>>,
    counters: &Counters,
    called: &mpsc::Receiver<()>,
) {
    while called.recv().is_ok() {
        if dir.gate.state() == DiskState::Down {
            continue;
        }
        let gone = rules.apply(dir);
        counters.evicted(gone.len());
        for id in gone {
            drop(files.remove(id));
        }
    }
}

/// Tries operations on an unstable disk, until it is not unstable any more or `stop` is set.
pub(super) fn probe(dir: &CacheDir, stop: &AtomicBool) {
    while dir.gate.state() == DiskState::Unstable && !stop.load(Relaxed) {
        dir.probe();
        std::thread::sleep(dir.gate.rules().probe_interval);
    }
    if dir.gate.is_normal() {
        // What could not be deleted while it was unstable.
        let _ = std::fs::remove_dir_all(dir.probes());
    }
}
