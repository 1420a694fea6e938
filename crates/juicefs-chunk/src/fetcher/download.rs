//! Blocks, and parts of blocks, are fetched from the object store here.

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{ChunkError, Lease, StorageError};

use super::flights::{Flight, Flights};
use crate::{
    block::{BlockId, Piece},
    body::{Packer, join},
    cache::{Cache, Keep},
    config::ChunkConfig,
    in_place::InPlace,
    lease::leased,
    request::Requests,
    tasks::Tasks,
};

/// How often a body that does not decode is fetched.
const CORRUPT_TRIES: u32 = 2;

/// Fetches blocks, one request per block at a time, and gives them to the cache.
#[derive(Debug)]
pub(crate) struct Downloader {
    pub(crate) config: Arc<ChunkConfig>,
    pub(crate) cache: Arc<Cache>,
    /// Where blocks are files of this machine that need no copy in the cache.
    pub(crate) in_place: Option<Arc<InPlace>>,
    pub(crate) packer: Packer,
    pub(crate) requests: Arc<Requests>,
    pub(crate) flights: Flights,
    pub(crate) tasks: Tasks,
}

impl Downloader {
    /// Whether a part of a block can be fetched alone.
    pub(super) fn can_fetch_parts(&self) -> bool {
        self.packer.is_plain()
    }

    /// Returns how many bytes of the budget fetching a block takes: what is stored lies beside what becomes of it.
    pub(super) fn fetch_bytes(&self, id: BlockId) -> usize {
        self.packer.fetch_bytes(id.size as usize)
    }

    /// Returns the files of a store on this machine, while blocks may be read there.
    pub(super) fn in_place(&self) -> Option<&Arc<InPlace>> {
        self.in_place.as_ref().filter(|files| files.is_current() && !self.requests.is_download_limited())
    }

    /// Returns the flight of a block, if it is being fetched.
    pub(super) fn flight(&self, id: BlockId) -> Option<Flight> {
        self.flights.of(id)
    }

    /// Returns the flight of a block, and starts one if there is none. `lease` covers the fetch. The flight gives the whole
    /// block.
    pub(super) fn join_or_fetch(self: &Arc<Self>, id: BlockId, keep: Keep, lease: Lease) -> Flight {
        let (flight, landing) = self.flights.join(id);
        if let Some(landing) = landing {
            let downloader = Arc::clone(self);
            // Detached: whoever waits holds the flight, and shutdown waits for the task.
            let _ = self.tasks.start(async move { landing.land(downloader.fetch(id, keep, lease).await) });
        }
        flight
    }

    /// Fetches a whole block and keeps it as `keep` says.
    async fn fetch(&self, id: BlockId, keep: Keep, mut lease: Lease) -> Result<Bytes, ChunkError> {
        let plain = {
            // The semaphore is never closed.
            let _slot = self.requests.downloads.acquire().await;
            self.fetch_plain(id, &self.key(id)).await
        };
        let plain = plain.map_err(|e| self.unreadable(id, e))?;
        drop(lease.split(lease.bytes().saturating_sub(plain.len())));
        // The cache counts what it has. Whoever reads may hold the bytes for longer than it does.
        self.cache.insert(id, &plain, keep).await;
        Ok(leased(plain, lease))
    }

    async fn fetch_plain(&self, id: BlockId, key: &str) -> Result<Bytes, ChunkError> {
        let size = id.size as usize;
        if self.packer.is_plain() {
            return Ok(join(self.requests.get(key, None, size, Some(size)).await?));
        }
        let mut tries = 1;
        loop {
            let body = join(self.requests.get(key, None, size, None).await?);
            match self.packer.unpack(body, size).await {
                Ok(plain) => return Ok(plain),
                Err(why) if tries == CORRUPT_TRIES => return Err(ChunkError::Corrupt { key: key.to_owned(), why }),
                Err(why) => tracing::warn!("body of {key} does not decode, fetching it again: {why}"),
            }
            tries += 1;
        }
    }

    /// Fetches only a piece of a block that is stored as it is.
    pub(super) async fn fetch_part(self: Arc<Self>, piece: Piece, lease: Lease) -> Result<Bytes, ChunkError> {
        let key = self.key(piece.block);
        let range = (u64::from(piece.off), u64::from(piece.len));
        // The semaphore is never closed.
        let _slot = self.requests.downloads.acquire().await;
        let body = self.requests.get(&key, Some(range), piece.len as usize, Some(piece.len as usize)).await;
        let body = body.map_err(|e| self.unreadable(piece.block, e.into()))?;
        Ok(leased(join(body), lease))
    }

    /// Logs why a block cannot be read, and returns the error for whoever reads. When the store lacks a block that is staged
    /// here, that is no news, and whoever reads need not look for the block elsewhere.
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

    /// Returns the object key of a block.
    pub(super) fn key(&self, id: BlockId) -> String {
        id.key(self.config.hash_prefix)
    }
}
