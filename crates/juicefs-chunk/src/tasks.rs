//! Work of the data path is polled where it is asked for, and becomes a task of the runtime if it has to wait.
//!
//! So work that memory or the kernel's page cache answers needs no change of threads, and the futures of the data path may be
//! polled on threads that do not belong to the runtime.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use juicefs_core::ChunkError;
use tokio::{runtime::Handle, task::JoinHandle, time::Sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The runtime of a data path, and what runs there until the data path closes. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    handle: Handle,
    tracker: TaskTracker,
    closing: CancellationToken,
}

/// Work after its first poll.
pub(crate) enum Started<T> {
    /// The work was done at once.
    Done(T),
    /// The work goes on as a task.
    Running(JoinHandle<T>),
}

impl Tasks {
    /// Takes the runtime that this is called in.
    pub(crate) fn new() -> Self {
        Self { handle: Handle::current(), tracker: TaskTracker::new(), closing: CancellationToken::new() }
    }

    /// Polls `work` once on this thread, and goes on with it as a task if it has to wait. Not to be called under a lock: the
    /// first poll may take as long as a checksum or a copy of a block.
    pub(crate) fn start<T, F>(&self, work: F) -> Started<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let mut work: Pin<Box<F>> = Box::pin(work);
        let _inside = self.handle.enter();
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Started::Done(done),
            Poll::Pending => Started::Running(self.tracker.spawn_on(work, &self.handle)),
        }
    }

    /// Does `work` as a task, without polling it here.
    pub(crate) fn spawn<T, F>(&self, work: F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.tracker.spawn_on(work, &self.handle)
    }

    /// Does `work` on the blocking pool. Closing waits for it.
    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.tracker.spawn_blocking_on(work, &self.handle);
    }

    /// Returns a pause, which may be polled on any thread.
    pub(crate) fn sleep(&self, pause: Duration) -> Sleep {
        let _inside = self.handle.enter();
        tokio::time::sleep(pause)
    }

    /// Returns the runtime.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns the token that is cancelled when the data path begins to close.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Tells all tasks that the data path closes, and waits for them.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl<T> Started<Result<T, ChunkError>> {
    /// Waits for the outcome of the work.
    ///
    /// # Errors
    /// Those of the work, `Closed` when its task ended early, which is logged.
    pub(crate) async fn outcome(self) -> Result<T, ChunkError> {
        match self {
            Self::Done(done) => done,
            Self::Running(task) => task.await.unwrap_or_else(|e| {
                tracing::error!("a task of the data path ended early: {e}");
                Err(ChunkError::Closed)
            }),
        }
    }
}
