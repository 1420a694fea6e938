//! Writers of slices into a chunk store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{ChunkError, Lease, SliceId, SliceWriter, limits::CHUNK_SIZE};
use tokio::task::JoinHandle;

use super::blocks::{Blocks, Refused};

/// What became of a block that was given to the store.
enum Sent {
    Stored,
    Running(JoinHandle<Result<(), Refused>>),
    Failed(Refused),
}

/// A slice that is being written.
pub(super) struct Writer {
    shared: Arc<Blocks>,
    id: Option<SliceId>,
    data: Vec<u8>,
    /// Leases by the block that they cover.
    leases: Vec<Lease>,
    sent: Vec<Sent>,
    done: bool,
}

impl Writer {
    /// A slice without id and data.
    pub(super) fn new(shared: Arc<Blocks>) -> Self {
        Self { shared, id: None, data: Vec::new(), leases: Vec::new(), sent: Vec::new(), done: false }
    }

    fn send_block(&mut self, id: SliceId) {
        let index = self.sent.len();
        let lease = self.leases.get_mut(index).map(std::mem::take).unwrap_or_default();
        let sent = self.start(id, index, lease);
        self.sent.push(sent);
    }

    fn start(&self, id: SliceId, index: usize, lease: Lease) -> Sent {
        let start = index * self.shared.block_size;
        let end = self.data.len().min(start + self.shared.block_size);
        let data = Bytes::copy_from_slice(&self.data[start..end]);
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let key = (id, u32::try_from(index).unwrap_or(u32::MAX), size);
        if self.shared.is_instant() {
            match self.shared.store(key, &data) {
                Ok(()) => Sent::Stored,
                Err(error) => Sent::Failed(Refused { error, lease }),
            }
        } else {
            Sent::Running(tokio::spawn(Arc::clone(&self.shared).put(key, data, lease)))
        }
    }
}

#[async_trait]
impl SliceWriter for Writer {
    fn write(&mut self, off: u32, data: Bytes, mut lease: Lease) -> Result<(), ChunkError> {
        let end = off as usize + data.len();
        if end as u64 > CHUNK_SIZE {
            return Err(ChunkError::Misuse("write beyond 64 MiB"));
        }
        if off < self.sealed() {
            return Err(ChunkError::Misuse("write below what was sealed"));
        }
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[off as usize..end].copy_from_slice(&data);
        let mut at = off as usize;
        while at < end {
            let index = at / self.shared.block_size;
            let upto = end.min((index + 1) * self.shared.block_size);
            self.leases.resize_with(self.leases.len().max(index + 1), Lease::empty);
            self.leases[index].merge(lease.split(upto - at));
            at = upto;
        }
        Ok(())
    }

    fn len(&self) -> u32 {
        u32::try_from(self.data.len()).unwrap_or(u32::MAX)
    }

    fn sealed(&self) -> u32 {
        self.len().min(u32::try_from(self.sent.len() * self.shared.block_size).unwrap_or(u32::MAX))
    }

    fn set_id(&mut self, id: SliceId) {
        assert!(self.id.replace(id).is_none(), "id set twice");
    }

    fn id(&self) -> Option<SliceId> {
        self.id
    }

    fn flush_to(&mut self, off: u32) {
        let Some(id) = self.id else { return };
        while (self.sent.len() + 1) * self.shared.block_size <= off.min(self.len()) as usize {
            self.send_block(id);
        }
    }

    async fn finish(&mut self) -> Result<(), ChunkError> {
        let id = self.id.ok_or(ChunkError::Misuse("finish without an id"))?;
        for index in 0..self.sent.len() {
            if let Sent::Failed(refused) = &mut self.sent[index] {
                let lease = std::mem::take(&mut refused.lease);
                self.sent[index] = self.start(id, index, lease);
            }
        }
        while self.sent.len() * self.shared.block_size < self.data.len() {
            self.send_block(id);
        }
        let mut result = Ok(());
        for sent in &mut self.sent {
            if let Sent::Running(task) = sent {
                *sent = match task.await {
                    Ok(Ok(())) => Sent::Stored,
                    Ok(Err(refused)) => Sent::Failed(refused),
                    Err(_) => Sent::Failed(Refused { error: ChunkError::Closed, lease: Lease::empty() }),
                };
            }
            if let Sent::Failed(refused) = sent {
                result = Err(refused.error.clone());
            }
        }
        self.done = result.is_ok();
        result
    }

    async fn abort(mut self: Box<Self>) {
        for sent in std::mem::take(&mut self.sent) {
            if let Sent::Running(task) = sent {
                let _ = task.await;
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let (Some(id), false) = (self.id, self.done) {
            self.shared.blocks.lock().retain(|(slice, ..), _| *slice != id);
        }
    }
}
