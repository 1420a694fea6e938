//! A block of the disk cache in an open file.

use std::{io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::super::{
    file::CachedFile,
    gate::Gate,
    tier::{Need, OpenBlock},
};

/// An open cache file, and the way to the disk that it lies on.
#[derive(Debug)]
pub(super) struct DiskBlock {
    pub(super) file: CachedFile,
    pub(super) gate: Arc<Gate>,
}

#[async_trait]
impl OpenBlock for DiskBlock {
    fn read_bytes(&self, off: u32, len: u32) -> usize {
        self.file.read_bytes(off, len)
    }

    fn read_now(&self, off: u32, len: u32) -> Option<Bytes> {
        self.file.read_now(off, len)
    }

    async fn read(self: Arc<Self>, off: u32, len: u32, need: Need) -> io::Result<Bytes> {
        let gate = Arc::clone(&self.gate);
        gate.run(need, move || self.file.read(off, len)).await
    }
}
