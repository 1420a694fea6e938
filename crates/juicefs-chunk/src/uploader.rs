//! The uploader sends blocks to the object store.

use std::sync::Arc;

use juicefs_core::{ChunkError, Lease, Segments, StorageError, buffer::segments_len};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    block::BlockId,
    body::Packer,
    cache::Cache,
    config::{ChunkConfig, KeepWritten},
    request::Requests,
};

/// A block that is to be stored. It holds its part of the budget until it is.
#[derive(Debug)]
pub(crate) struct UploadJob {
    pub(crate) block: BlockId,
    /// The plain bytes, or what they were compressed and encrypted to.
    pub(crate) body: Segments,
    /// Whether the body was compressed and encrypted, as far as the volume wants that.
    pub(crate) packed: bool,
    pub(crate) lease: Lease,
    /// The block must not wait on the local disk.
    pub(crate) direct: bool,
    /// The storage class of the file.
    pub(crate) tier: u8,
}

/// A block that was not stored, to be tried again.
#[derive(Debug)]
pub(crate) struct FailedUpload {
    pub(crate) job: UploadJob,
    pub(crate) error: ChunkError,
}

/// Packs blocks and puts them into the object store, so many at once as `--max-uploads` allows.
#[derive(Debug)]
pub(crate) struct Uploader {
    config: Arc<ChunkConfig>,
    cache: Arc<Cache>,
    packer: Packer,
    requests: Arc<Requests>,
    slots: Semaphore,
}

impl Uploader {
    pub(crate) fn new(config: Arc<ChunkConfig>, cache: Arc<Cache>, packer: Packer, requests: Arc<Requests>) -> Self {
        Self { slots: Semaphore::new(config.max_uploads), config, cache, packer, requests }
    }

    /// Returns how many blocks are on their way to the store.
    pub(crate) fn uploading(&self) -> usize {
        self.config.max_uploads.saturating_sub(self.slots.available_permits())
    }

    /// Keeps a block that is about to be stored in the cache, if the settings want that.
    pub(crate) fn keep_written(&self, job: &UploadJob) {
        let wanted = match self.config.cache.keep_written {
            KeepWritten::None => false,
            KeepWritten::Short => (job.block.size as usize) < self.config.block_size,
            KeepWritten::All => true,
        };
        if wanted {
            self.cache.insert_written(job.block, &job.body);
        }
    }

    /// Stores a block. Retrying ends when `stop` is cancelled.
    ///
    /// # Errors
    /// The job comes back whole, with why it was not stored.
    pub(crate) async fn upload(&self, mut job: UploadJob, stop: &CancellationToken) -> Result<(), Box<FailedUpload>> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let key = job.block.key(self.config.hash_prefix);
        if !job.packed
            && let Err(why) = self.pack(&mut job).await
        {
            return Err(Box::new(FailedUpload { job, error: ChunkError::Corrupt { key, why } }));
        }
        let done = match self.requests.put(&key, &job.body, stop).await {
            // A directory above the object is missing and cannot be made: for a write that is no answer about the object.
            Err(StorageError::NotFound(text)) => Err(StorageError::Permanent(text)),
            other => other,
        };
        done.map_err(|e| Box::new(FailedUpload { job, error: e.into() }))
    }

    /// Compresses and encrypts the body as the volume wants it, once for all tries. The plain bytes are let go, and their
    /// part of the budget that the result does not need.
    ///
    /// The result is not taken from the budget: it replaces bytes that were, and waiting for memory with a full budget of
    /// dirty blocks would be waiting for oneself. Beside the budget there is one block joined and one packed per
    /// processor, and what became of blocks whose plain bytes were let go.
    async fn pack(&self, job: &mut UploadJob) -> Result<(), String> {
        if !self.packer.is_plain() {
            job.body = self.packer.pack(job.body.clone()).await?;
            let surplus = job.lease.bytes().saturating_sub(segments_len(&job.body));
            drop(job.lease.split(surplus));
        }
        job.packed = true;
        Ok(())
    }
}
