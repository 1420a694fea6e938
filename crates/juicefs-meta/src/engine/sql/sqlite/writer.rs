//! The connection that writes, and who drives it.
//!
//! Whoever comes when it is free takes it and runs the operation at once, on the calling thread; whoever comes when it is in use
//! queues the operation and waits without a thread. The one who has it takes queued operations into the same transaction, up to a
//! bound, and leaves the rest to the writer thread, which goes on until the queue is empty. So a lone caller pays no hop,
//! and many callers share commits.
//!
//! Invariant: while operations are queued, either someone has the connection and will see them when giving it back, or the
//! writer thread is on its way.

mod courtesy;
mod transaction;
mod turn;

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use juicefs_core::error::{MetaError, MetaResult};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::{
    courtesy::Courtesy,
    transaction::{Slot, Slots},
    turn::{Progress, Turn},
};
use super::{
    checkpoint::{Checkpointer, LogGauge},
    connection::Database,
    link::{Fault, Link},
};
use crate::engine::optimistic::SharedOp;

/// Most operations that wait for the connection; more wait to be queued.
const QUEUE_OPS: usize = 4096;
/// What a caller's thread does for others in the transaction of its own operation.
const CALLER_BOUND: Bound = Bound { ops: 16, time: Duration::from_micros(500) };
/// One transaction of the writer thread.
const THREAD_BOUND: Bound = Bound { ops: 64, time: Duration::from_millis(2) };
/// First and last pause between two tries to get the write lock from another client.
const BACKOFF: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// How much goes into one transaction.
#[derive(Clone, Copy)]
struct Bound {
    ops: usize,
    time: Duration,
}

type Reply<T> = oneshot::Sender<MetaResult<T>>;

/// An operation that waits.
struct Pending {
    op: SharedOp,
    /// `None` for the operation of the thread that runs it.
    reply: Option<Reply<()>>,
    /// When it stops waiting for another client's lock.
    until: Instant,
    _room: Option<OwnedSemaphorePermit>,
}

/// A change of the tables that waits.
struct TablesChange {
    work: fn(&Database, &mut Link) -> Result<(), Fault>,
    /// Whether the file is made when it is not there.
    create: bool,
    reply: Reply<()>,
    until: Instant,
}

enum Task {
    Run(Pending),
    Tables(TablesChange),
}

impl Task {
    fn until(&self) -> Instant {
        match self {
            Self::Run(pending) => pending.until,
            Self::Tables(change) => change.until,
        }
    }

    fn fail(self, error: MetaError) {
        match self {
            Self::Run(Pending { reply: Some(reply), .. }) => drop(reply.send(Err(error))),
            Self::Run(_) => {}
            Self::Tables(change) => drop(change.reply.send(Err(error))),
        }
    }
}

struct State {
    /// The connection, unless someone has it.
    writer: Option<Box<Writer>>,
    queue: VecDeque<Task>,
    /// The writer thread is to serve the queue.
    wanted: bool,
    /// The checkpointer waits for the connection; it comes first.
    pausing: bool,
    closed: bool,
    courtesy: Courtesy,
}

/// The connection that writes, opened with the first operation.
struct Writer {
    link: Option<Link>,
    gauge: Arc<LogGauge>,
}

/// The queue and the connection, shared by callers and threads.
pub(super) struct Shared {
    database: Arc<Database>,
    state: Mutex<State>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

/// Operations on their way to the connection that writes.
pub(super) struct WriterQueue {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    checkpointer: Checkpointer,
}

/// How an operation fared that its caller tried to run.
enum Tried {
    Done(MetaResult<()>),
    /// Another client holds the lock; the thread goes on trying.
    Waits(oneshot::Receiver<MetaResult<()>>),
    /// The connection is in use.
    Taken(SharedOp),
}

fn closed() -> MetaError {
    MetaError::Unavailable("the database was closed".to_owned())
}

impl WriterQueue {
    /// Starts the threads; opens nothing.
    ///
    /// # Errors
    /// `Unavailable` when a thread cannot be started.
    pub(super) fn new(database: Arc<Database>) -> MetaResult<Self> {
        let gauge = Arc::new(LogGauge::default());
        let state = State {
            writer: Some(Box::new(Writer { link: None, gauge: Arc::clone(&gauge) })),
            queue: VecDeque::new(),
            wanted: false,
            pausing: false,
            closed: false,
            courtesy: Courtesy::new(Instant::now()),
        };
        let shared = Arc::new(Shared {
            database,
            state: Mutex::new(state),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(QUEUE_OPS)),
        });
        let checkpointer = Checkpointer::start(Arc::clone(&shared), gauge)?;
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("sqlite-writer".to_owned()).spawn(move || served.serve());
        let thread = thread.map_err(|e| MetaError::Unavailable(format!("cannot start a thread: {e}")))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), checkpointer })
    }

    /// Runs an operation: at once if the connection is free, else as its turn comes.
    pub(super) async fn run(&self, op: SharedOp) -> MetaResult<()> {
        let op = match self.shared.try_here(op) {
            Tried::Done(outcome) => return outcome,
            Tried::Waits(outcome) => return outcome.await.unwrap_or_else(|_| Err(closed())),
            Tried::Taken(op) => op,
        };
        let room = Arc::clone(&self.shared.room).acquire_owned().await.map_err(|_| closed())?;
        let (reply, outcome) = oneshot::channel();
        let until = self.shared.deadline();
        self.shared.enqueue(Task::Run(Pending { op, reply: Some(reply), until, _room: Some(room) }));
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Changes the tables, on the writer thread.
    pub(super) async fn change_tables(
        &self,
        work: fn(&Database, &mut Link) -> Result<(), Fault>,
        create: bool,
    ) -> MetaResult<()> {
        let (reply, outcome) = oneshot::channel();
        let until = self.shared.deadline();
        self.shared.enqueue(Task::Tables(TablesChange { work, create, reply, until }));
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Gives a test the connection.
    #[cfg(test)]
    pub(super) fn with_connection(&self, work: impl FnOnce(&rusqlite::Connection)) {
        let mut turn = self.shared.paused_turn().expect("open");
        work(&turn.link(false).expect("a connection").conn);
    }

    /// Finishes what is queued, then closes the connection. Later operations fail.
    pub(super) async fn close(&self) {
        self.shared.begin_closing();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // Joining blocks, so a thread of its own does it, which ends with the join.
            let (done, ended) = oneshot::channel();
            let joining = std::thread::Builder::new().name("sqlite-close".to_owned()).spawn(move || {
                let _ = done.send(thread.join().is_ok());
            });
            if joining.is_ok() && !ended.await.unwrap_or(false) {
                tracing::error!("the SQLite writer thread panicked");
            }
        }
        self.checkpointer.close();
    }
}

impl Drop for WriterQueue {
    fn drop(&mut self) {
        self.shared.begin_closing();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
        self.checkpointer.close();
    }
}

impl Shared {
    fn deadline(&self) -> Instant {
        Instant::now() + self.database.options().lock_deadline
    }

    /// The database written to.
    pub(super) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    fn begin_closing(&self) {
        self.room.close();
        self.state.lock().closed = true;
        self.wake.notify_all();
    }

    /// Runs the operation on this thread if the connection is free and nobody was earlier.
    fn try_here(self: &Arc<Self>, op: SharedOp) -> Tried {
        let now = Instant::now();
        let mut state = self.state.lock();
        if !state.queue.is_empty() || state.pausing || state.closed || state.courtesy.gap(now, false).is_some() {
            return Tried::Taken(op);
        }
        let Some(writer) = state.writer.take() else { return Tried::Taken(op) };
        drop(state);
        let mut turn = Turn { shared: self, writer: Some(writer) };
        let until = now + self.database.options().lock_deadline;
        let own = Pending { op, reply: None, until, _room: None };
        let mut slots = turn.transact(own, CALLER_BOUND);
        let waits = slots.first_mut().and_then(Slot::waiter);
        turn.requeue(&mut slots);
        drop(turn);
        // Replies go out when the connection is free again.
        let mut own = None;
        for slot in slots {
            own = slot.finish().or(own);
        }
        match (own, waits) {
            (Some(outcome), _) => Tried::Done(outcome),
            (None, Some(outcome)) => Tried::Waits(outcome),
            (None, None) => Tried::Done(Err(closed())),
        }
    }

    /// Queues a task, and serves it at once if the connection has become free meanwhile.
    fn enqueue(self: &Arc<Self>, task: Task) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let here = matches!(task, Task::Run(_))
            && state.queue.is_empty()
            && !state.pausing
            && state.courtesy.gap(Instant::now(), false).is_none();
        state.queue.push_back(task);
        if here {
            if let Some(writer) = state.writer.take() {
                drop(state);
                Turn { shared: self, writer: Some(writer) }.next(CALLER_BOUND);
            }
        } else if state.writer.is_some() && !state.wanted {
            state.wanted = true;
            drop(state);
            self.wake.notify_all();
        }
    }

    /// The writer thread.
    fn serve(self: &Arc<Self>) {
        let mut backoff = BACKOFF.0;
        while let Some(turn) = self.thread_turn() {
            match turn.next(THREAD_BOUND) {
                Progress::Made => backoff = BACKOFF.0,
                Progress::Busy => {
                    self.expire();
                    std::thread::sleep(backoff);
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
        // Nobody can take the connection any more: dropping it closes it.
        drop(self.state.lock().writer.take());
    }

    /// Waits for something to do and for the connection. `None` when everything is done and the queue was closed.
    fn thread_turn(self: &Arc<Self>) -> Option<Turn<'_>> {
        let mut state = self.state.lock();
        loop {
            if state.queue.is_empty() {
                state.wanted = false;
                if state.closed && state.writer.is_some() {
                    return None;
                }
            } else if (state.wanted || state.closed) && !state.pausing && state.writer.is_some() {
                if let Some(gap) = state.courtesy.gap(Instant::now(), true) {
                    // What is queued keeps callers from taking the connection meanwhile.
                    MutexGuard::unlocked(&mut state, || std::thread::sleep(gap));
                    continue;
                }
                let writer = state.writer.take();
                return Some(Turn { shared: self, writer });
            }
            self.wake.wait(&mut state);
        }
    }

    /// Fails the queued tasks that waited too long for another client's lock.
    fn expire(&self) {
        let now = Instant::now();
        loop {
            let mut state = self.state.lock();
            if state.queue.front().is_none_or(|task| task.until() > now) {
                return;
            }
            let late = state.queue.pop_front();
            drop(state);
            if let Some(task) = late {
                task.fail(Fault::Busy.into_error());
            }
        }
    }

    /// Takes queued operations into a transaction that has `slots` already.
    fn join(&self, slots: &mut Slots, most: usize) {
        let mut state = self.state.lock();
        while slots.len() < most
            && let Some(Task::Run(_)) = state.queue.front()
            && let Some(Task::Run(pending)) = state.queue.pop_front()
        {
            slots.push(Slot::new(pending));
        }
    }

    /// Keeps operations off the connection while `work` runs. `None` when the queue was closed.
    pub(super) fn paused<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> Option<T> {
        let _turn = self.paused_turn()?;
        Some(work())
    }

    /// The same, and holds the write lock, so that no other client writes either. `None` also when one has it.
    pub(super) fn locked<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> Option<T> {
        let mut turn = self.paused_turn()?;
        let link = turn.link(false).ok()?;
        link.frame("BEGIN IMMEDIATE").ok()?;
        let out = work();
        link.rollback();
        Some(out)
    }

    /// Waits for the connection, before all operations.
    fn paused_turn(self: &Arc<Self>) -> Option<Turn<'_>> {
        let mut state = self.state.lock();
        state.pausing = true;
        while state.writer.is_none() && !state.closed {
            self.wake.wait(&mut state);
        }
        state.pausing = false;
        let writer = if state.closed { None } else { state.writer.take() };
        drop(state);
        if writer.is_none() {
            self.wake.notify_all();
            return None;
        }
        Some(Turn { shared: self, writer })
    }
}
