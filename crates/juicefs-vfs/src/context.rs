//! What all parts of a mounted file system share.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use juicefs_core::{ChunkIndex, ChunkStore, Clock, Ino, Lease, Meta, MetaResult, Share, stamps::Stamps};

use crate::{
    VfsConfig,
    departed::Departed,
    dirty::DirtyFiles,
    metrics::{MetaOp, Metrics},
    tasks::Tasks,
    upkeep::Upkeep,
};

/// Services, settings, and what crosses files.
pub(crate) struct Context {
    pub(crate) meta: Arc<dyn Meta>,
    pub(crate) chunks: Arc<dyn ChunkStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: VfsConfig,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) stamps: Stamps,
    pub(crate) departed: Departed,
    /// The open files, for what lies below them.
    pub(crate) files: Arc<dyn OpenFiles>,
    pub(crate) dirty: DirtyFiles,
    pub(crate) upkeep: Upkeep,
    /// Bytes that read-ahead of all handles holds or fetches.
    pub(crate) ahead_bytes: AtomicUsize,
    pub(crate) moved: OnceLock<Box<ContentMoved>>,
}

/// The open files, as far as what lies below them must tell them something.
pub(crate) trait OpenFiles: Send + Sync {
    /// Forgets where the committed data of a chunk lies.
    fn chunk_changed(&self, ino: Ino, index: ChunkIndex);
}

/// Takes a file and the offset from which on a front end is to forget its content and its length.
pub(crate) type ContentMoved = dyn Fn(Ino, u64) + Send + Sync;

impl Context {
    pub(crate) fn new(
        meta: Arc<dyn Meta>,
        chunks: Arc<dyn ChunkStore>,
        clock: Arc<dyn Clock>,
        config: VfsConfig,
        files: Arc<dyn OpenFiles>,
    ) -> Arc<Self> {
        let upkeep = Upkeep::new(&config, chunks.as_ref());
        Arc::new(Self {
            meta,
            chunks,
            clock,
            config,
            tasks: Tasks::default(),
            metrics: Metrics::new(),
            stamps: Stamps::new(),
            departed: Departed::new(),
            files,
            dirty: DirtyFiles::default(),
            upkeep,
            ahead_bytes: AtomicUsize::new(0),
            moved: OnceLock::new(),
        })
    }

    /// Tells the front end that the content of a file from `off` on is not what it was told.
    pub(crate) fn content_moved(&self, ino: Ino, off: u64) {
        if let Some(moved) = self.moved.get() {
            moved(ino, off);
        }
    }

    /// Runs one metadata call and counts it.
    pub(crate) async fn timed<T>(&self, op: MetaOp, call: impl Future<Output = MetaResult<T>>) -> MetaResult<T> {
        let begun = std::time::Instant::now();
        let answer = call.await;
        self.metrics.meta_done(op, begun.elapsed());
        answer
    }

    /// Takes memory for data that an application writes, and waits for it if there is none.
    pub(crate) async fn memory(&self, bytes: usize) -> Lease {
        let budget = self.chunks.budget();
        if let Some(lease) = budget.try_acquire(Share::Write, bytes) {
            return lease;
        }
        self.metrics.write_pressure.memory_full.fetch_add(1, Ordering::Relaxed);
        self.dirty.relieve(budget, bytes);
        budget.acquire(Share::Write, bytes).await
    }

    /// Makes room for a read of `bytes` when dirty data holds the memory. It never waits.
    pub(crate) fn make_room(&self, bytes: usize) {
        let budget = self.chunks.budget();
        if budget.used_bytes() + bytes > budget.cap_bytes() / 2 && !budget.has_room(Share::Fetch, bytes) {
            self.dirty.relieve(budget, bytes);
        }
    }

    /// Bytes that read-ahead of all handles may hold together.
    pub(crate) fn ahead_limit(&self) -> usize {
        self.chunks.budget().cap_bytes() / 2
    }

    /// Reserves read-ahead memory unless that would crowd out what applications wait for.
    pub(crate) fn reserve_ahead(&self, bytes: usize) -> bool {
        let budget = self.chunks.budget();
        if budget.waiting() > 0
            || budget.used_bytes() + bytes > budget.cap_bytes() / 4 * 3
            || !budget.has_room(Share::Ahead, bytes)
        {
            return false;
        }
        let limit = self.ahead_limit();
        self.ahead_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held + bytes <= limit).then_some(held + bytes))
            .is_ok()
    }
}
