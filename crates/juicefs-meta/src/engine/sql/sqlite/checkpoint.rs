//! Moves what was committed from the write-ahead log into the database file, on a thread and a connection of its own.
//!
//! A commit only appends to the log. When the log has grown by some pages, this thread copies them (`PASSIVE`: nobody
//! waits). The log starts over once a commit finds it copied whole, which under a steady load never happens by itself: past a
//! limit the last pages are copied while operations are held back for a moment. When nothing is written for a while, all of it is
//! copied and a large log is cut.

use std::{
    ffi::{c_char, c_int, c_void},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use juicefs_core::error::{MetaError, MetaResult};
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, ffi};

use super::{
    link::{Fault, Link},
    writer::Shared,
};

/// Pages of the log after which copying starts, and after which it starts again.
const STEP_PAGES: u32 = 1000;
/// Pages after which operations are held back for the last piece: 32 MiB.
const LIMIT_PAGES: u32 = 8192;
/// A log longer than this is cut when nothing is written: 4 MiB.
const KEPT_PAGES: u32 = 1024;
/// Longest that operations are held back for the last piece.
const COPY_REST: Duration = Duration::from_millis(200);
/// So long without a commit is called idle.
const IDLE: Duration = Duration::from_secs(2);

/// How long the log is, as the last commit saw it.
#[derive(Default)]
pub(super) struct LogGauge {
    pages: AtomicU32,
    /// The longest that it was since its file was cut: a log that starts over keeps its file.
    longest: AtomicU32,
    commits: AtomicU32,
    /// Log length at which the checkpointer is to be called.
    call_at: AtomicU32,
    called: Mutex<Called>,
    wake: Condvar,
    /// Whether the checkpointer is to be told that there was a commit.
    asleep: AtomicBool,
}

#[derive(Default)]
struct Called {
    by_length: bool,
    closed: bool,
}

impl LogGauge {
    /// Has every commit on `conn` reported here. The gauge must outlive the connection, and SQLite no longer copies on
    /// its own there.
    pub(super) fn watch(self: &Arc<Self>, conn: &Connection) {
        self.call_at.store(STEP_PAGES, Ordering::Relaxed);
        // SAFETY: the connection is open. The hook uses the gauge only while the connection lives, which the owner of
        // both drops first; the gauge is only touched through atomics and a lock.
        unsafe {
            ffi::sqlite3_wal_hook(conn.handle(), Some(committed), Arc::as_ptr(self).cast_mut().cast());
        }
    }

    /// Has the log copied soon, whatever its length: once copied it starts over, which takes no more space.
    pub(super) fn call(&self) {
        self.called.lock().by_length = true;
        self.wake.notify_one();
    }

    fn note(&self, pages: u32) {
        let before = self.pages.swap(pages, Ordering::Relaxed);
        self.longest.fetch_max(pages, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::SeqCst);
        if pages < before {
            self.call_at.store(STEP_PAGES, Ordering::Relaxed);
        }
        if pages >= self.call_at.load(Ordering::Relaxed) {
            self.call_at.store(u32::MAX, Ordering::Relaxed);
            self.call();
        } else if self.asleep.swap(false, Ordering::SeqCst) {
            // Under the lock, as the thread may be about to sleep.
            let _called = self.called.lock();
            self.wake.notify_one();
        }
    }
}

unsafe extern "C" fn committed(gauge: *mut c_void, _: *mut ffi::sqlite3, _: *const c_char, pages: c_int) -> c_int {
    // SAFETY: `watch` passed a gauge that outlives the connection.
    let gauge = unsafe { &*gauge.cast::<LogGauge>() };
    gauge.note(u32::try_from(pages).unwrap_or(0));
    ffi::SQLITE_OK
}

/// The thread that checkpoints.
pub(super) struct Checkpointer {
    gauge: Arc<LogGauge>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpointer {
    /// Starts the thread; it opens its connection when there is something to do.
    ///
    /// # Errors
    /// `Unavailable` when the thread cannot be started.
    pub(super) fn start(shared: Arc<Shared>, gauge: Arc<LogGauge>) -> MetaResult<Self> {
        let work = Work { shared, gauge: Arc::clone(&gauge), link: None, settled: 0, failing: false };
        let thread = std::thread::Builder::new().name("sqlite-checkpoint".to_owned()).spawn(move || work.serve());
        let thread = thread.map_err(|e| MetaError::Unavailable(format!("cannot start a thread: {e}")))?;
        Ok(Self { gauge, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread and closes its connection.
    pub(super) fn close(&self) {
        self.gauge.called.lock().closed = true;
        self.gauge.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the SQLite checkpoint thread panicked");
        }
    }
}

struct Work {
    shared: Arc<Shared>,
    gauge: Arc<LogGauge>,
    link: Option<Link>,
    /// Number of commits when all of them were last copied.
    settled: u32,
    /// The last copy failed.
    failing: bool,
}

/// How far a checkpoint came.
struct Copied {
    /// Somebody was in the way.
    busy: bool,
    /// Pages of the log.
    length: u32,
    /// Those of them that are in the database file.
    copied: u32,
}

/// Why the thread woke.
enum Call {
    Length,
    Idle,
    Closed,
}

impl Work {
    fn serve(mut self) {
        loop {
            let outcome = match self.wait() {
                Call::Closed => return,
                Call::Length => self.copy(),
                Call::Idle => self.settle(),
            };
            match outcome {
                Ok(()) => self.failing = false,
                Err(Fault::Busy) => {}
                Err(fault) => {
                    // Once, not with every try of a disk that stays full.
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(?fault, "the SQLite log could not be copied into the database file");
                    }
                    self.link = None;
                }
            }
        }
    }

    /// Sleeps until the log is long, or until commits have ceased.
    fn wait(&mut self) -> Call {
        let mut called = self.gauge.called.lock();
        let mut seen = self.gauge.commits.load(Ordering::Relaxed);
        loop {
            if called.closed {
                return Call::Closed;
            }
            if std::mem::take(&mut called.by_length) {
                return Call::Length;
            }
            if self.gauge.commits.load(Ordering::SeqCst) == self.settled {
                // Only a thread that waits without limit is told of a commit.
                self.gauge.asleep.store(true, Ordering::SeqCst);
                if self.gauge.commits.load(Ordering::SeqCst) == self.settled {
                    self.gauge.wake.wait(&mut called);
                }
                continue;
            }
            let slept = self.gauge.wake.wait_for(&mut called, IDLE);
            let now = self.gauge.commits.load(Ordering::Relaxed);
            if slept.timed_out() && now == seen {
                self.settled = now;
                return Call::Idle;
            }
            seen = now;
        }
    }

    /// Copies what the log has, without anybody waiting; past the limit, with operations held back for the rest. The next call
    /// comes some pages later, or when the log has started over.
    fn copy(&mut self) -> Result<(), Fault> {
        let outcome = self.checkpoint("PASSIVE").and_then(|Copied { length, copied, .. }| {
            let whole = copied == length && self.gauge.pages.load(Ordering::Relaxed) == length;
            if !whole && length >= LIMIT_PAGES {
                let shared = Arc::clone(&self.shared);
                shared.locked(|| self.copy_rest()).transpose()?;
            }
            Ok(())
        });
        let next = self.gauge.pages.load(Ordering::Relaxed).saturating_add(STEP_PAGES);
        self.gauge.call_at.store(next, Ordering::Relaxed);
        outcome
    }

    /// Copies what is left while nobody writes, after another client that may be copying too.
    fn copy_rest(&mut self) -> Result<(), Fault> {
        let until = Instant::now() + COPY_REST;
        loop {
            let Copied { length, copied, .. } = self.checkpoint("PASSIVE")?;
            if (length > 0 && copied == length) || Instant::now() > until {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Copies everything and cuts a log that has grown large.
    fn settle(&mut self) -> Result<(), Fault> {
        if self.gauge.longest.load(Ordering::Relaxed) <= KEPT_PAGES {
            self.checkpoint("PASSIVE")?;
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        match shared.paused(|| self.checkpoint("TRUNCATE")).transpose()? {
            Some(after) if !after.busy => self.gauge.longest.store(0, Ordering::Relaxed),
            // Somebody reads from the log: once more when it is idle again, or still.
            _ => self.settled = self.settled.wrapping_sub(1),
        }
        Ok(())
    }

    fn checkpoint(&mut self, mode: &str) -> Result<Copied, Fault> {
        if self.link.is_none() {
            self.link = Some(self.shared.database().open_checkpointer()?);
        }
        let Some(link) = &self.link else { return Err(Fault::Busy) };
        // The numbers are -1 when there is no log, or somebody else is at it.
        let pages = |row: &rusqlite::Row<'_>, at| row.get(at).map(|pages: i64| u32::try_from(pages).unwrap_or(0));
        let read =
            |row: &rusqlite::Row<'_>| Ok(Copied { busy: row.get(0)?, length: pages(row, 1)?, copied: pages(row, 2)? });
        Ok(link.conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], read)?)
    }
}
