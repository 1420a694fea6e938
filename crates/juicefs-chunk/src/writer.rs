//! A writer takes the bytes of one slice. They gather in open blocks, and full blocks go up while later ones still gather.

mod buffer;

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{ChunkError, Lease, SliceId, SliceWriter, limits::CHUNK_SIZE, store::WriteOptions};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::buffer::BlockBuffer;
use crate::{
    block::BlockId,
    remover::Remover,
    request::MAX_DELAY,
    stager::Stager,
    tasks::{Started, Tasks},
    uploader::{FailedUpload, UploadJob},
};

/// Writes of at least so many bytes are kept by reference.
const SHARED_BYTES: usize = 512 << 10;

/// What all writers of a mount work with.
#[derive(Debug)]
pub(crate) struct WritePath {
    /// Bytes of a full block.
    pub(crate) block_size: usize,
    pub(crate) stager: Arc<Stager>,
    pub(crate) remover: Arc<Remover>,
    pub(crate) tasks: Tasks,
}

/// A slice that is being written. The first blocks are in `sent`, and those after them in `open`.
pub(crate) struct Writer {
    path: Arc<WritePath>,
    options: WriteOptions,
    id: Option<SliceId>,
    len: u32,
    sent: Vec<Sent>,
    open: VecDeque<BlockBuffer>,
    stop: CancellationToken,
    /// Whether `finish` was called, so that the last block has gone up, short or not.
    closed: bool,
    /// Whether the slice is whole in the store, and its owner answers for it.
    finished: bool,
}

/// A block that was handed to upload.
enum Sent {
    Stored,
    Running(BlockId, JoinHandle<Result<(), Box<FailedUpload>>>),
    Failed(Box<FailedUpload>),
    /// The task died with the data.
    Lost,
}

impl Sent {
    /// An upload after its first poll.
    fn of(block: BlockId, started: Started<Result<(), Box<FailedUpload>>>) -> Self {
        match started {
            Started::Done(Ok(())) => Self::Stored,
            Started::Done(Err(failed)) => Self::Failed(failed),
            Started::Running(task) => Self::Running(block, task),
        }
    }

    /// Waits for the end of an upload that runs.
    async fn settle(&mut self, id: SliceId) {
        if let Self::Running(block, task) = self {
            let block = *block;
            *self = match task.await {
                Ok(Ok(())) => Self::Stored,
                Ok(Err(failed)) => Self::Failed(failed),
                Err(e) => {
                    tracing::error!("the upload of block {} of slice {id} ended early: {e}", block.index);
                    Self::Lost
                }
            };
        }
    }
}

impl Writer {
    pub(crate) fn new(path: Arc<WritePath>, options: WriteOptions) -> Self {
        Self {
            path,
            options,
            id: None,
            len: 0,
            sent: Vec::new(),
            open: VecDeque::new(),
            stop: CancellationToken::new(),
            closed: false,
            finished: false,
        }
    }

    fn block_size(&self) -> usize {
        self.path.block_size
    }

    /// Fills the gap up to `off` with zeros if there is one.
    fn extend_to(&mut self, off: usize) {
        let block_size = self.block_size();
        let mut len = self.len as usize;
        while len < off {
            let (at, start) = (len / block_size - self.sent.len(), len % block_size);
            let count = (off - len).min(block_size - start);
            self.open_block(at).pad(count);
            len += count;
        }
    }

    /// Returns the open block with the index `at` in the queue, and makes it when it is the next.
    fn open_block(&mut self, at: usize) -> &mut BlockBuffer {
        if at == self.open.len() {
            self.open.push_back(BlockBuffer::new(self.block_size()));
        }
        &mut self.open[at]
    }

    /// Takes the oldest open block, which goes up as the next of the slice.
    fn take_open(&mut self, id: SliceId) -> Option<UploadJob> {
        let (body, size, lease) = self.open.pop_front()?.freeze();
        // A slice has at most 64 MiB.
        let (index, size) = (u32::try_from(self.sent.len()), u32::try_from(size));
        let block = BlockId { slice: id.0, index: index.unwrap_or(u32::MAX), size: size.unwrap_or(u32::MAX) };
        let WriteOptions { direct, tier } = self.options;
        Some(UploadJob { block, body, packed: false, lease, direct, tier })
    }

    /// Hands the oldest open block to upload, as a task that is first polled elsewhere: whoever writes holds a lock, and the
    /// first poll of an upload takes the checksum of a block, signs a request, or copies the block into the cache.
    fn send_later(&mut self, id: SliceId) {
        let Some(job) = self.take_open(id) else { return };
        let block = job.block;
        let task = self.path.tasks.spawn(Arc::clone(&self.path.stager).store(job, self.stop.clone()));
        self.sent.push(Sent::Running(block, task));
    }

    /// Hands the oldest open block to upload, which is polled here. Only to be called where no lock is held.
    fn send_now(&mut self, id: SliceId) {
        let Some(job) = self.take_open(id) else { return };
        let block = job.block;
        let started = self.path.tasks.start(Arc::clone(&self.path.stager).store(job, self.stop.clone()));
        self.sent.push(Sent::of(block, started));
    }

    /// Hands a block that failed to upload again. Returns whether there was one. Only to be called where no lock is held.
    fn start_again(&mut self, at: usize) -> bool {
        if !matches!(self.sent[at], Sent::Failed(_)) {
            return false;
        }
        if let Sent::Failed(failed) = std::mem::replace(&mut self.sent[at], Sent::Lost) {
            let block = failed.job.block;
            let upload = Arc::clone(&self.path.stager).store_again(failed.job, self.stop.clone());
            self.sent[at] = Sent::of(block, self.path.tasks.start(upload));
        }
        true
    }

    /// Takes what is to be cleaned up when the slice will not be used: the blocks that are, or may get, in the store.
    fn wreck(&mut self) -> Option<Wreck> {
        self.stop.cancel();
        self.open.clear();
        let id = self.id?;
        let sent = std::mem::take(&mut self.sent);
        (!sent.is_empty()).then(|| Wreck { path: Arc::clone(&self.path), id, len: self.len, sent })
    }
}

/// The blocks that were sent of a slice which will not be used.
struct Wreck {
    path: Arc<WritePath>,
    id: SliceId,
    len: u32,
    sent: Vec<Sent>,
}

impl Wreck {
    /// Waits for what is under way, then deletes what was stored.
    async fn clear(self) {
        let mut stored = Vec::new();
        let block_size = self.path.block_size;
        for (index, sent) in self.sent.into_iter().enumerate() {
            let size = (self.len as usize - index * block_size).min(block_size);
            let (Ok(index), Ok(size)) = (u32::try_from(index), u32::try_from(size)) else { continue };
            match sent {
                // A failed PUT may have had its effect all the same.
                Sent::Stored | Sent::Failed(_) | Sent::Lost => {}
                Sent::Running(_, task) => drop(task.await),
            }
            stored.push(BlockId { slice: self.id.0, index, size });
        }
        if let Err(e) = self.path.remover.remove(stored).await {
            tracing::warn!("blocks of the abandoned slice {} stay in the store: {e}", self.id);
        }
    }
}

#[async_trait]
impl SliceWriter for Writer {
    fn write(&mut self, off: u32, data: Bytes, mut lease: Lease) -> Result<(), ChunkError> {
        let end = off as usize + data.len();
        if end as u64 > CHUNK_SIZE {
            return Err(ChunkError::Misuse("a write beyond the end of its chunk"));
        }
        if (off as usize) < self.sent.len() * self.block_size() || self.closed {
            return Err(ChunkError::Misuse("a write to a block that was handed to upload"));
        }
        self.extend_to(off as usize);
        let shared = data.len() >= SHARED_BYTES;
        let block_size = self.block_size();
        let mut at = off as usize;
        let mut rest = data;
        while !rest.is_empty() {
            let start = at % block_size;
            let part = rest.split_to(rest.len().min(block_size - start));
            let (part_lease, count) = (lease.split(part.len()), part.len());
            let index = at / block_size - self.sent.len();
            self.open_block(index).write(start, part, shared, part_lease);
            at += count;
        }
        // Bounded by CHUNK_SIZE.
        self.len = self.len.max(u32::try_from(end).unwrap_or(u32::MAX));
        Ok(())
    }

    fn len(&self) -> u32 {
        self.len
    }

    fn sealed(&self) -> u32 {
        u32::try_from(self.sent.len() * self.block_size()).unwrap_or(u32::MAX).min(self.len)
    }

    fn set_id(&mut self, id: SliceId) {
        debug_assert!(self.sent.is_empty(), "the id of a slice is part of the keys of what was sent");
        self.id = Some(id);
    }

    fn id(&self) -> Option<SliceId> {
        self.id
    }

    fn flush_to(&mut self, off: u32) {
        let Some(id) = self.id else { return };
        let limit = off.min(self.len) as usize;
        while (self.sent.len() + 1) * self.block_size() <= limit {
            self.send_later(id);
        }
    }

    async fn finish(&mut self) -> Result<(), ChunkError> {
        if self.len == 0 {
            return Ok(());
        }
        let id = self.id.ok_or(ChunkError::Misuse("a slice is finished before it has an id"))?;
        self.closed = true;
        let begun = Instant::now();
        // What failed before goes up again, beside what still runs and what has not gone yet.
        let mut earlier = Vec::new();
        for at in 0..self.sent.len() {
            if !self.start_again(at) && matches!(self.sent[at], Sent::Running(..)) {
                earlier.push(at);
            }
        }
        while !self.open.is_empty() {
            self.send_now(id);
        }
        // How a request ends that began before says nothing about now: it is made again. Not after the longest wait between
        // tries, for then its last try began since.
        for at in earlier {
            self.sent[at].settle(id).await;
            if begun.elapsed() < MAX_DELAY {
                self.start_again(at);
            }
        }
        let mut result = Ok(());
        for sent in &mut self.sent {
            sent.settle(id).await;
            match sent {
                Sent::Stored | Sent::Running(..) => {}
                Sent::Failed(failed) => result = result.and_then(|()| Err(failed.error.clone())),
                Sent::Lost => result = result.and(Err(ChunkError::Closed)),
            }
        }
        self.finished = result.is_ok();
        result
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(wreck) = self.wreck() {
            let work = self.path.tasks.start(async move {
                wreck.clear().await;
                Ok(())
            });
            // Nothing is to be done about a failure that was logged.
            let _ = work.outcome().await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished
            && let Some(wreck) = self.wreck()
        {
            self.path.tasks.spawn(wreck.clear());
        }
    }
}
