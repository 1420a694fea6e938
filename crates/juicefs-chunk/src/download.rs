//! Fetching blocks from the store, one fetch per block at a time, and reading them from disk.

use std::{collections::HashMap, io, sync::Arc};

use bytes::Bytes;
use juicefs_core::{ChunkError, Joint, Lease, Share, StorageError, WeakJoint, store::ReadPurpose};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    block::{BlockId, Piece},
    body::join,
    cache::{Keep, OnDisk},
    lease::leased,
    store::{Inner, Started},
};

/// How often a body that does not decode is fetched.
const CORRUPT_TRIES: u32 = 2;

/// A block that is being fetched.
pub(crate) type Flight = Joint<Result<Bytes, ChunkError>>;
pub(crate) type WeakFlight = WeakJoint<Result<Bytes, ChunkError>>;

/// A fetch that only one reader waits for.
pub(crate) type Fetch = Started<Result<Bytes, ChunkError>>;

/// Fetches under way, by block.
#[derive(Default)]
pub(crate) struct Flights {
    by_block: Mutex<HashMap<BlockId, Flight>>,
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flights({})", self.by_block.lock().len())
    }
}

impl Flights {
    /// That of a block, if it is under way.
    pub(crate) fn of(&self, id: BlockId) -> Option<Flight> {
        self.by_block.lock().get(&id).cloned()
    }
}

/// Ends a flight, however its task ends.
struct Landing {
    inner: Arc<Inner>,
    id: BlockId,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.inner.flights.by_block.lock().remove(&self.id);
    }
}

impl Inner {
    /// Budget bytes that fetching a block takes: what is stored lies beside what becomes of it.
    pub(crate) fn fetch_bytes(&self, id: BlockId) -> usize {
        self.body.fetch_bytes(id.size as usize)
    }

    /// The flight of a block, started if there is none. Its bytes stay whole blocks.
    pub(crate) fn join_or_fetch(self: &Arc<Self>, id: BlockId, keep: Keep, lease: Lease) -> Flight {
        let (land, flight) = {
            let mut flights = self.flights.by_block.lock();
            if let Some(flight) = flights.get(&id) {
                return flight.clone();
            }
            let (land, landed) = oneshot::channel();
            let flight = Joint::new(async move { landed.await.unwrap_or(Err(ChunkError::Closed)) });
            flights.insert(id, flight.clone());
            (land, flight)
        };
        let landing = Landing { inner: Arc::clone(self), id };
        // Detached: whoever waits holds the flight, and shutdown waits for the task.
        let _ = self.start(async move {
            let done = landing.inner.fetch(id, keep, lease).await;
            drop(landing);
            let _ = land.send(done);
        });
        flight
    }

    /// Fetches a whole block and keeps it as `keep` says.
    async fn fetch(&self, id: BlockId, keep: Keep, mut lease: Lease) -> Result<Bytes, ChunkError> {
        let key = self.key(id);
        let plain = {
            // The semaphore is never closed.
            let _slot = self.requests.downloads.acquire().await;
            self.fetch_plain(id, &key).await
        };
        let plain = plain.map_err(|e| self.unreadable(id, e))?;
        drop(lease.split(lease.bytes().saturating_sub(plain.len())));
        // The cache counts what it has. Whoever reads may hold the bytes for longer than it does.
        self.cache.insert(id, &plain, keep).await;
        Ok(leased(plain, lease))
    }

    /// Logs why a block cannot be read. Of one that is nowhere but on a disk here it is no news that the store lacks it:
    /// whoever reads need not look for it elsewhere.
    fn unreadable(&self, id: BlockId, error: ChunkError) -> ChunkError {
        let key = self.key(id);
        let error = match error {
            ChunkError::Storage(StorageError::NotFound(_)) if self.cache.is_staged(id) => {
                StorageError::Permanent(format!("{key} is staged on a cache disk here, which does not give it")).into()
            }
            other => other,
        };
        if matches!(error, ChunkError::Storage(StorageError::NotFound(_))) {
            // Whoever reads looks whether it was compacted meanwhile, and says so as an error if it was not.
            tracing::warn!("cannot read block {key}: {error}");
        } else {
            tracing::error!("cannot read block {key}: {error}");
        }
        error
    }

    async fn fetch_plain(&self, id: BlockId, key: &str) -> Result<Bytes, ChunkError> {
        let size = id.size as usize;
        if self.body.is_plain() {
            return Ok(join(self.requests.get(key, None, size, Some(size)).await?));
        }
        let mut tries = 1;
        loop {
            let (form, body) = (self.body.clone(), join(self.requests.get(key, None, size, None).await?));
            let done = self.compute(size, move || form.unpack(body, size)).await;
            match done {
                Ok(plain) => return Ok(plain),
                Err(why) if tries == CORRUPT_TRIES => return Err(ChunkError::Corrupt { key: key.to_owned(), why }),
                Err(why) => tracing::warn!("body of {key} does not decode, fetching it again: {why}"),
            }
            tries += 1;
        }
    }

    /// Fetches only a piece of a block that is stored as it is.
    pub(crate) async fn fetch_part(self: Arc<Self>, piece: Piece, lease: Lease) -> Result<Bytes, ChunkError> {
        let key = self.key(piece.block);
        let range = (u64::from(piece.off), u64::from(piece.len));
        // The semaphore is never closed.
        let _slot = self.requests.downloads.acquire().await;
        let body = self.requests.get(&key, Some(range), piece.len as usize, Some(piece.len as usize)).await;
        let body = body.map_err(|e| self.unreadable(piece.block, e.into()))?;
        Ok(leased(join(body), lease))
    }

    /// Reads a piece from the disk cache; what cannot be read there or fails its checksums is fetched.
    pub(crate) async fn read_disk(
        self: Arc<Self>,
        piece: Piece,
        file: OnDisk,
        lease: Lease,
        purpose: ReadPurpose,
    ) -> Result<Bytes, ChunkError> {
        match file.read(piece.off, piece.len).await {
            Ok(bytes) => {
                self.counters.cache_hit.hit(bytes.len());
                Ok(leased(bytes, lease))
            }
            Err(why) => {
                tracing::warn!("the local copy of block {} is not used: {why}", self.key(piece.block));
                if !matches!(why.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
                    // A staged one stays, damaged as it is: it is all that there is.
                    self.cache.evict(piece.block).await;
                }
                self.counters.cache_miss.hit(piece.len as usize);
                drop(lease);
                // Taking whatever is free keeps this rare path from waiting while other pieces of the read hold memory.
                let lease = self.budget.try_acquire(Share::Fetch, self.fetch_bytes(piece.block)).unwrap_or_default();
                let keep = if purpose == ReadPurpose::Once { Keep::No } else { Keep::Normal };
                let block = self.join_or_fetch(piece.block, keep, lease).await?;
                Ok(block.slice(piece.range()))
            }
        }
    }

    /// Brings a block into the cache if it is not there, memory is free and nobody does it yet.
    pub(crate) fn prefetch(self: &Arc<Self>, id: BlockId) {
        if self.closing.is_cancelled() || self.budget.waiting() > 0 || self.flights.of(id).is_some() {
            return;
        }
        if self.cache.holds(id) {
            if self.cache.is_cold(id) {
                let inner = Arc::clone(self);
                self.tasks.spawn_on(async move { inner.cache.warm(id).await }, &self.handle);
            }
        } else if let Some(files) = self.in_place() {
            if files.is_cold(id) {
                self.warm_in_place(id, None);
            }
        } else if let Some(lease) = self.budget.try_acquire(Share::Ahead, self.fetch_bytes(id)) {
            self.spawn_fetch(id, Keep::Normal, lease, None);
        }
    }

    /// The same for a block of which parts were read several times, within the slots of `--prefetch`.
    pub(crate) fn prefetch_reused(self: &Arc<Self>, id: BlockId) {
        let Ok(slot) = Arc::clone(&self.prefetches).try_acquire_owned() else { return };
        if self.in_place().is_some() {
            return self.warm_in_place(id, Some(slot));
        }
        let Some(lease) = self.budget.try_acquire(Share::Ahead, self.fetch_bytes(id)) else { return };
        self.spawn_fetch(id, Keep::Forced, lease, Some(slot));
    }

    /// Has the kernel read a block that lies on this machine.
    fn warm_in_place(self: &Arc<Self>, id: BlockId, slot: Option<OwnedSemaphorePermit>) {
        let inner = Arc::clone(self);
        let work = move || {
            inner.in_place().iter().for_each(|files| files.warm(id));
            drop(slot);
        };
        self.tasks.spawn_blocking_on(work, &self.handle);
    }

    fn spawn_fetch(self: &Arc<Self>, id: BlockId, keep: Keep, lease: Lease, slot: Option<OwnedSemaphorePermit>) {
        let inner = Arc::clone(self);
        self.tasks.spawn_on(
            async move {
                // A failure was logged, and meets the reader who needs the block.
                let _ = inner.join_or_fetch(id, keep, lease).await;
                drop(slot);
            },
            &self.handle,
        );
    }
}
