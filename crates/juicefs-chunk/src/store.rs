//! The data path of one mount: slices in, slices out.
//!
//! [`Store`] wires the parts and answers for all of them. A read is answered by the `fetcher`: from memory, then from the
//! local tier, then from the object store, with one request per block at a time. A `writer` collects the blocks of a slice
//! and hands them to the `stager`, which keeps them on the local disk for a while or passes them to the `uploader`. The
//! `remover` deletes blocks wherever they are. Each part knows only those that are named after it here.
//!
//! All memory for data comes from one budget, each kind of work from its share. A read takes what it needs from it in one go
//! before it waits for anything else, so readers that each hold some of it can not wait for one another.
//!
//! Futures of this module may be polled on any thread: whatever needs the runtime is started on the runtime that
//! [`Store::open`] was called in, after a first poll in place (`tasks`).

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{TryStreamExt, stream};
use juicefs_core::{
    Budget, ChunkError, ChunkStore, ObjectStorage, Segments, SliceKey, SliceWriter,
    store::{CachePresence, ChunkStats, ObjectPart, ReadPurpose, Stretch, WriteOptions},
};

use crate::{
    block::{self, BlockId},
    body::{BodyForm, Packer},
    cache::Cache,
    config::{ChunkConfig, is_local},
    counters::Counters,
    current::Renewal,
    fetcher::{Downloader, Fetcher, Flights, small_file_bytes},
    in_place::InPlace,
    remover::Remover,
    request::Requests,
    stager::Stager,
    tasks::Tasks,
    uploader::Uploader,
    writer::{WritePath, Writer},
};

/// Blocks of one slice that are filled at once.
const FILLS_AT_ONCE: usize = 4;

/// The pause between two looks for files of a local store that nobody reads any more.
const CLOSE_INTERVAL: Duration = Duration::from_secs(5);

/// The data path of a mount. See [`ChunkStore`] for what it does.
#[derive(Debug)]
pub struct Store {
    config: Arc<ChunkConfig>,
    budget: Budget,
    requests: Arc<Requests>,
    cache: Arc<Cache>,
    /// Where blocks are files of this machine that need no copy in the cache.
    in_place: Option<Arc<InPlace>>,
    fetcher: Arc<Fetcher>,
    uploader: Arc<Uploader>,
    stager: Arc<Stager>,
    remover: Arc<Remover>,
    write_path: Arc<WritePath>,
    counters: Arc<Counters>,
    tasks: Tasks,
}

impl Store {
    /// Opens the data path over the store of a volume, as [`crate::open_storage`] returns it: encryption is done here, with
    /// the cipher of `config`, and not by the store.
    ///
    /// Numbers out of bounds are corrected, a cache directory that cannot be used is logged and left out. Must be
    /// called within a tokio runtime, with time enabled, that lives until [`ChunkStore::shutdown`] returned.
    #[must_use]
    pub fn open(config: ChunkConfig, storage: Arc<dyn ObjectStorage>) -> Arc<Self> {
        let config = Arc::new(config.corrected());
        let (counters, tasks) = (Arc::<Counters>::default(), Tasks::new());
        let budget = Budget::new(config.buffer_bytes);
        let cache = Arc::new(Cache::open(&config, &counters));
        let in_place = InPlace::of(&config, &storage).map(Arc::new);
        let requests = Arc::new(Requests::new(&config, storage, Arc::clone(&counters), tasks.closing().clone()));
        let packer = Packer::new(BodyForm::of(&config), tasks.handle().clone());
        let downloader = Downloader {
            config: Arc::clone(&config),
            cache: Arc::clone(&cache),
            in_place: in_place.clone(),
            packer: packer.clone(),
            requests: Arc::clone(&requests),
            flights: Flights::default(),
            tasks: tasks.clone(),
        };
        let fetcher = Arc::new(Fetcher::new(budget.clone(), Arc::clone(&counters), downloader));
        let uploader = Uploader::new(Arc::clone(&config), Arc::clone(&cache), packer, Arc::clone(&requests));
        let uploader = Arc::new(uploader);
        let stager = Arc::new(Stager::new(
            Arc::clone(&config),
            cache.tier(),
            Arc::clone(&uploader),
            Arc::clone(&requests),
            budget.clone(),
            Arc::clone(&counters),
            tasks.clone(),
        ));
        let remover = Arc::new(Remover {
            config: Arc::clone(&config),
            cache: Arc::clone(&cache),
            in_place: in_place.clone(),
            requests: Arc::clone(&requests),
            stager: Arc::clone(&stager),
        });
        let write_path = Arc::new(WritePath {
            block_size: config.block_size,
            stager: Arc::clone(&stager),
            remover: Arc::clone(&remover),
            tasks: tasks.clone(),
        });
        let store = Self {
            config,
            budget,
            requests,
            cache,
            in_place,
            fetcher,
            uploader,
            stager,
            remover,
            write_path,
            counters,
            tasks,
        };
        store.begin();
        Arc::new(store)
    }

    /// Starts what goes on in the background until the data path closes.
    fn begin(&self) {
        tracing::debug!("data path over {} is open", self.requests.describe());
        if let Some(files) = &self.in_place {
            self.tasks.spawn(close_idle_files(Arc::clone(files), self.tasks.clone()));
        }
        if self.stager.is_on() {
            self.tasks.spawn(Arc::clone(&self.stager).replay());
        } else if self.config.writeback.is_some() {
            tracing::warn!("without a cache directory nothing can be staged: blocks go to the store at once");
        }
    }

    /// Requests from now on go to `storage`, which is of the kind that [`juicefs_core::Format::storage`] names; those that
    /// are under way end with the one before, and are sent again to this one if that refuses them.
    pub fn use_storage(&self, kind: &str, storage: Arc<dyn ObjectStorage>) {
        self.in_place.iter().for_each(|files| files.leave());
        self.requests.current().replace(storage, is_local(kind));
    }

    /// Says how to look for another store when the one in force refuses for good. Only the first call counts.
    pub fn renew_by(&self, renewal: Renewal) {
        self.requests.current().renew_by(renewal);
    }

    /// Sets the bandwidths of uploads and downloads, in megabits a second; 0 for no limit.
    pub fn set_limits(&self, upload_mbps: u64, download_mbps: u64) {
        self.requests.set_limits(upload_mbps, download_mbps);
    }

    fn blocks(&self, slice: SliceKey) -> impl Iterator<Item = BlockId> {
        block::blocks(slice, self.config.block_size)
    }
}

async fn close_idle_files(files: Arc<InPlace>, tasks: Tasks) {
    while tasks.closing().run_until_cancelled(tokio::time::sleep(CLOSE_INTERVAL)).await.is_some() {
        files.close_idle();
    }
}

#[async_trait]
impl ChunkStore for Store {
    fn block_size(&self) -> usize {
        self.config.block_size
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    async fn read(&self, slice: SliceKey, off: u32, len: u32, purpose: ReadPurpose) -> Result<Segments, ChunkError> {
        self.fetcher.read(slice, off, len, purpose).await
    }

    async fn read_all(&self, stretches: &[Stretch], purpose: ReadPurpose) -> Result<Vec<Segments>, ChunkError> {
        self.fetcher.read_all(stretches, purpose).await
    }

    fn objects(&self, slice: SliceKey, off: u32, len: u32) -> Vec<ObjectPart> {
        let pieces = block::pieces(slice, self.config.block_size, off, len).unwrap_or_default();
        let parts = pieces.into_iter().map(|piece| {
            let key = piece.block.key(self.config.hash_prefix);
            ObjectPart { key, size: piece.block.size, off: piece.off, len: piece.len }
        });
        parts.collect()
    }

    fn prefetch(&self, slice: SliceKey, off: u32, len: u32) {
        let len = len.min(slice.size.saturating_sub(off));
        for piece in block::pieces(slice, self.config.block_size, off, len).unwrap_or_default() {
            self.fetcher.prefetch(piece.block);
        }
    }

    fn small_file_bytes(&self) -> u64 {
        small_file_bytes(&self.config)
    }

    fn at_hand(&self, slice: SliceKey, off: u32, len: u32) -> bool {
        block::pieces(slice, self.config.block_size, off, len)
            .is_some_and(|pieces| pieces.iter().all(|piece| self.fetcher.holds(piece.block)))
    }

    fn writer(&self, options: WriteOptions) -> Box<dyn SliceWriter> {
        Box::new(Writer::new(Arc::clone(&self.write_path), options))
    }

    async fn remove(&self, slice: SliceKey) -> Result<(), ChunkError> {
        let (remover, blocks) = (Arc::clone(&self.remover), self.blocks(slice).collect());
        self.tasks.start(async move { remover.remove(blocks).await }).outcome().await
    }

    async fn fill(&self, slice: SliceKey) -> Result<(), ChunkError> {
        stream::iter(self.blocks(slice).map(Ok))
            .try_for_each_concurrent(FILLS_AT_ONCE, |id| self.fetcher.fill(id))
            .await
    }

    async fn evict(&self, slice: SliceKey) {
        let (cache, blocks) = (Arc::clone(&self.cache), self.blocks(slice).collect::<Vec<_>>());
        let evict = async move {
            for id in blocks {
                cache.evict(id).await;
            }
            Ok(())
        };
        // It cannot fail but by the end of the runtime, which was logged.
        let _ = self.tasks.start(evict).outcome().await;
    }

    async fn presence(&self, slice: SliceKey) -> CachePresence {
        let mut presence = CachePresence::default();
        for id in self.blocks(slice) {
            if self.cache.contains(id) {
                presence.cached_bytes += u64::from(id.size);
            } else {
                presence.missing_bytes += u64::from(id.size);
            }
        }
        presence
    }

    fn stats(&self) -> ChunkStats {
        let counters = &self.counters;
        let (cached_blocks, cached_bytes) = self.cache.usage();
        let (hedges_sent, hedges_won) = self.requests.hedges();
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
            uploading: self.uploader.uploading() as u64,
            staging: self.stager.stats(),
            disks: self.cache.disks(),
            object_errors: counters.object_errors.load(Relaxed),
        }
    }

    async fn shutdown(&self) {
        self.tasks.close().await;
        let cache = Arc::clone(&self.cache);
        if let Err(e) = self.tasks.handle().spawn_blocking(move || cache.close()).await {
            tracing::error!("closing the cache ended early: {e}");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
