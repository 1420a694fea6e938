//! The data path of one mount: slices in, slices out.
//!
//! A read looks in memory, then on disk (`read`), then fetches (`download`); one fetch per block is under way at a time. A
//! write collects blocks and hands them to `upload` (`writer`). All memory for data comes from one budget, each kind of
//! work from its share. A read takes what it needs from it in one go before it waits for anything else, so readers that each
//! hold some of it can not wait for one another.
//!
//! Futures of this module may be polled on any thread: whatever needs the runtime is started on the runtime that
//! [`Store::open`] was called in, after a first poll in place. So what is answered by memory, or by the page cache of a
//! local store, is answered without a change of threads.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use juicefs_core::{
    Budget, ChunkError, ChunkStore, Lease, ObjectStorage, Segments, Share, SliceKey, SliceWriter,
    store::{CachePresence, ChunkStats, ObjectPart, ReadPurpose, Stretch, WriteOptions},
};
use tokio::{runtime::Handle, sync::Semaphore, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    behind::{self, Behind},
    block::{self, BlockId},
    body::BodyForm,
    cache::{Cache, Keep},
    config::{ChunkConfig, is_local},
    counters::Counters,
    current::Renewal,
    download::Flights,
    in_place::InPlace,
    read::ReuseTable,
    request::Requests,
    staging::Staging,
    writer::Writer,
};

/// Blocks of one slice that are filled or removed at once.
const SLICE_CONCURRENCY: usize = 4;

/// The data path of a mount. See [`ChunkStore`] for what it does.
#[derive(Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What tasks and writers share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: ChunkConfig,
    pub(crate) budget: Budget,
    pub(crate) requests: Requests,
    pub(crate) cache: Cache,
    pub(crate) staging: Staging,
    pub(crate) flights: Flights,
    pub(crate) reuse: ReuseTable,
    /// Slots of background fetches of whole blocks.
    pub(crate) prefetches: Arc<Semaphore>,
    pub(crate) behind: Behind,
    /// Where blocks are files of this machine that need no copy in the cache.
    pub(crate) in_place: Option<InPlace>,
    pub(crate) body: BodyForm,
    /// Slots of compressing and encrypting, and of the way back: it takes a processor each, and memory beside the budget.
    pub(crate) codecs: Arc<Semaphore>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) handle: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
}

/// Between two looks for files that nobody reads any more.
const CLOSE_INTERVAL: Duration = Duration::from_secs(5);

/// How often read-ahead looks whether there is memory, and the time between.
const AHEAD_TRIES: u32 = 4;
const AHEAD_PAUSE: Duration = Duration::from_millis(5);

/// Work after its first poll.
pub(crate) enum Started<T> {
    /// It was done at once.
    Done(T),
    /// It goes on as a task.
    Running(JoinHandle<T>),
}

impl Store {
    /// Opens the data path over the store of a volume, as [`crate::open_storage`] returns it: encryption is done here, with
    /// the cipher of `config`, and not by the store.
    ///
    /// Numbers out of bounds are corrected, a cache directory that cannot be used is logged and left out. Must be
    /// called within a tokio runtime, with time enabled, that lives until [`ChunkStore::shutdown`] returned.
    #[must_use]
    pub fn open(config: ChunkConfig, storage: Arc<dyn ObjectStorage>) -> Arc<Self> {
        let config = config.corrected();
        let counters = Arc::<Counters>::default();
        let cache = Cache::open(&config, &counters);
        let closing = CancellationToken::new();
        let in_place = InPlace::of(&config, &storage);
        let inner = Inner {
            budget: Budget::new(config.buffer_bytes),
            staging: Staging::new(&config, cache.can_stage()),
            requests: Requests::new(&config, storage, Arc::clone(&counters), closing.clone()),
            cache,
            flights: Flights::default(),
            reuse: ReuseTable::default(),
            prefetches: Arc::new(Semaphore::new(config.prefetch)),
            behind: Behind::default(),
            in_place,
            codecs: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from))),
            body: BodyForm::of(&config),
            counters,
            handle: Handle::current(),
            tasks: TaskTracker::new(),
            closing,
            config,
        };
        tracing::debug!("data path over {} is open", inner.requests.describe());
        let inner = Arc::new(inner);
        if inner.in_place.is_some() {
            inner.tasks.spawn_on(Arc::clone(&inner).close_idle_files(), &inner.handle);
        }
        if inner.staging.is_on() {
            inner.tasks.spawn_on(Arc::clone(&inner).upload_staged(), &inner.handle);
        } else if inner.config.writeback.is_some() {
            tracing::warn!("without a cache directory nothing can be staged: blocks go to the store at once");
        }
        Arc::new(Self { inner })
    }

    /// Requests from now on go to `storage`, which is of the kind that [`juicefs_core::Format::storage`] names; those that
    /// are under way end with the one before, and are sent again to this one if that refuses them.
    pub fn use_storage(&self, kind: &str, storage: Arc<dyn ObjectStorage>) {
        self.inner.in_place.iter().for_each(InPlace::leave);
        self.inner.requests.current().replace(storage, is_local(kind));
    }

    /// Says how to look for another store when the one in force refuses for good. Only the first call counts.
    pub fn renew_by(&self, renewal: Renewal) {
        self.inner.requests.current().renew_by(renewal);
    }

    /// Sets the bandwidths of uploads and downloads, in megabits a second; 0 for no limit.
    pub fn set_limits(&self, upload_mbps: u64, download_mbps: u64) {
        self.inner.requests.set_limits(upload_mbps, download_mbps);
    }

    fn blocks(&self, slice: SliceKey) -> impl Iterator<Item = BlockId> {
        block::blocks(slice, self.inner.config.block_size)
    }
}

impl Inner {
    /// Polls `work` once on this thread and goes on with it as a task if it has to wait.
    pub(crate) fn start<T, F>(&self, work: F) -> Started<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let mut work: Pin<Box<F>> = Box::pin(work);
        let _inside = self.handle.enter();
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Started::Done(done),
            Poll::Pending => Started::Running(self.tasks.spawn_on(work, &self.handle)),
        }
    }

    /// Does `work` on the body of a block of `plain_bytes`: in place when that is quickest, else on the blocking pool, where
    /// no more of it goes on at once than there are processors.
    pub(crate) async fn compute<T, F>(&self, plain_bytes: usize, work: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, String> + Send + 'static,
    {
        if !self.body.wants_pool(plain_bytes) {
            return work();
        }
        // The semaphore is never closed. The slot goes with the work, which a dropped future does not end.
        let slot = Arc::clone(&self.codecs).acquire_owned().await;
        let with_slot = move || {
            let _slot = slot;
            work()
        };
        self.handle.spawn_blocking(with_slot).await.unwrap_or_else(|e| Err(e.to_string()))
    }

    pub(crate) fn key(&self, id: BlockId) -> String {
        id.key(self.config.hash_prefix)
    }

    /// The files of a store on this machine, while blocks may be read there.
    pub(crate) fn in_place(&self) -> Option<&InPlace> {
        self.in_place.as_ref().filter(|files| files.is_current() && !self.requests.is_download_limited())
    }

    /// Whether a block is on this machine, as far as is known without looking.
    pub(crate) fn holds(&self, id: BlockId) -> bool {
        self.cache.holds(id) || self.in_place().is_some()
    }

    async fn close_idle_files(self: Arc<Self>) {
        while self.closing.run_until_cancelled(tokio::time::sleep(CLOSE_INTERVAL)).await.is_some() {
            self.in_place.iter().for_each(InPlace::close_idle);
        }
    }

    /// Deletes blocks from the caches and the store; the last error of all.
    pub(crate) async fn remove_blocks(self: &Arc<Self>, blocks: Vec<BlockId>) -> Result<(), ChunkError> {
        let mut result = Ok(());
        blocks.iter().for_each(|id| {
            self.staging.forget(*id);
        });
        for id in &blocks {
            self.in_place.iter().for_each(|files| files.forget(*id));
            self.cache.remove(*id).await;
        }
        let mut deletions = stream::iter(blocks)
            .map(|id| {
                let inner = Arc::clone(self);
                async move { inner.requests.delete(&inner.key(id)).await }
            })
            .buffer_unordered(SLICE_CONCURRENCY);
        while let Some(done) = deletions.next().await {
            if let Err(e) = done {
                result = Err(e.into());
            }
        }
        result
    }
}

#[async_trait]
impl ChunkStore for Store {
    fn block_size(&self) -> usize {
        self.inner.config.block_size
    }

    fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    async fn read(&self, slice: SliceKey, off: u32, len: u32, purpose: ReadPurpose) -> Result<Segments, ChunkError> {
        self.inner.read(slice, off, len, purpose).await
    }

    async fn read_all(&self, stretches: &[Stretch], purpose: ReadPurpose) -> Result<Vec<Segments>, ChunkError> {
        self.inner.read_all(stretches, purpose).await
    }

    fn objects(&self, slice: SliceKey, off: u32, len: u32) -> Vec<ObjectPart> {
        let pieces = block::pieces(slice, self.inner.config.block_size, off, len).unwrap_or_default();
        let parts = pieces.into_iter().map(|piece| {
            let key = self.inner.key(piece.block);
            ObjectPart { key, size: piece.block.size, off: piece.off, len: piece.len }
        });
        parts.collect()
    }

    fn prefetch(&self, slice: SliceKey, off: u32, len: u32) {
        let len = len.min(slice.size.saturating_sub(off));
        for piece in block::pieces(slice, self.inner.config.block_size, off, len).unwrap_or_default() {
            self.inner.prefetch(piece.block);
        }
    }

    fn small_file_bytes(&self) -> u64 {
        behind::small_file_bytes(&self.inner.config)
    }

    fn at_hand(&self, slice: SliceKey, off: u32, len: u32) -> bool {
        block::pieces(slice, self.inner.config.block_size, off, len)
            .is_some_and(|pieces| pieces.iter().all(|piece| self.inner.holds(piece.block)))
    }

    fn writer(&self, options: WriteOptions) -> Box<dyn SliceWriter> {
        Box::new(Writer::new(Arc::clone(&self.inner), options))
    }

    async fn remove(&self, slice: SliceKey) -> Result<(), ChunkError> {
        let inner = Arc::clone(&self.inner);
        let blocks = self.blocks(slice).collect();
        self.inner.finish(self.inner.start(async move { inner.remove_blocks(blocks).await })).await
    }

    async fn fill(&self, slice: SliceKey) -> Result<(), ChunkError> {
        stream::iter(self.blocks(slice).map(Ok))
            .try_for_each_concurrent(SLICE_CONCURRENCY, |id| async move {
                if !self.inner.cache.contains(id) {
                    let lease = self.inner.budget.acquire(Share::Background, self.inner.fetch_bytes(id)).await;
                    self.inner.join_or_fetch(id, Keep::Forced, lease).await?;
                }
                Ok(())
            })
            .await
    }

    async fn evict(&self, slice: SliceKey) {
        let (inner, blocks) = (Arc::clone(&self.inner), self.blocks(slice).collect::<Vec<_>>());
        let evict = async move {
            for id in blocks {
                inner.cache.evict(id).await;
            }
            Ok(())
        };
        // It cannot fail but by the end of the runtime, which was logged.
        let _ = self.inner.finish(self.inner.start(evict)).await;
    }

    async fn presence(&self, slice: SliceKey) -> CachePresence {
        let mut presence = CachePresence::default();
        for id in self.blocks(slice) {
            if self.inner.cache.contains(id) {
                presence.cached_bytes += u64::from(id.size);
            } else {
                presence.missing_bytes += u64::from(id.size);
            }
        }
        presence
    }

    fn stats(&self) -> ChunkStats {
        let counters = &self.inner.counters;
        let (cached_blocks, cached_bytes) = self.inner.cache.usage();
        let (hedges_sent, hedges_won) = self.inner.requests.hedges();
        ChunkStats {
            get: counters.get.stats(),
            hedges_sent,
            hedges_won,
            put: counters.put.stats(),
            delete: counters.delete.stats(),
            cache_hit: counters.cache_hit.stats(),
            cache_miss: counters.cache_miss.stats(),
            cache_write: counters.cache_write.stats(),
            cached_blocks,
            cached_bytes,
            cache_drops: counters.cache_drops.load(Relaxed),
            cache_evicts: counters.cache_evicts.load(Relaxed),
            uploading: self.inner.requests.uploading() as u64,
            staging: self.inner.staging.stats(self.inner.config.clock.now()),
            disks: self.inner.cache.disks(),
            object_errors: counters.object_errors.load(Relaxed),
        }
    }

    async fn shutdown(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        let inner = Arc::clone(&self.inner);
        if let Err(e) = self.inner.handle.spawn_blocking(move || inner.cache.close()).await {
            tracing::error!("closing the cache ended early: {e}");
        }
    }
}

impl Inner {
    /// The outcome of started work.
    pub(crate) async fn finish<T>(&self, work: Started<Result<T, ChunkError>>) -> Result<T, ChunkError> {
        match work {
            Started::Done(done) => done,
            Started::Running(task) => task.await.unwrap_or_else(|e| {
                tracing::error!("a task of the data path ended early: {e}");
                Err(ChunkError::Closed)
            }),
        }
    }

    /// Takes memory for a read. Read-ahead gives way to everybody who waits for memory, and gives up soon: who waits for what it
    /// was to bring can have memory of his own.
    pub(crate) async fn lease_for(&self, bytes: usize, share: Share) -> Result<Lease, ChunkError> {
        if share != Share::Ahead {
            return Ok(self.budget.acquire(share, bytes).await);
        }
        for _ in 0..AHEAD_TRIES {
            if let Some(lease) = self.budget.try_acquire(share, bytes) {
                return Ok(lease);
            }
            let pause = {
                let _inside = self.handle.enter();
                tokio::time::sleep(AHEAD_PAUSE)
            };
            pause.await;
        }
        Err(ChunkError::NoMemory)
    }
}

#[cfg(test)]
pub(crate) mod tests;
