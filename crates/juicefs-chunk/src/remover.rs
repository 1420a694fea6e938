//! The remover deletes blocks wherever they are: among those that wait for their upload, in the caches and in the store.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use juicefs_core::ChunkError;

use crate::{block::BlockId, cache::Cache, config::ChunkConfig, in_place::InPlace, request::Requests, stager::Stager};

/// Blocks that are deleted at once by one call.
const DELETES_AT_ONCE: usize = 4;

/// Deletes blocks wherever they may be.
#[derive(Debug)]
pub(crate) struct Remover {
    pub(crate) config: Arc<ChunkConfig>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) in_place: Option<Arc<InPlace>>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) stager: Arc<Stager>,
}

impl Remover {
    /// Deletes blocks from the caches and the store. Missing blocks are fine. Must be polled within a runtime.
    ///
    /// # Errors
    /// The last error of all; the other blocks are deleted then.
    pub(crate) async fn remove(&self, blocks: Vec<BlockId>) -> Result<(), ChunkError> {
        blocks.iter().for_each(|id| self.stager.forget(*id));
        for id in &blocks {
            self.in_place.iter().for_each(|files| files.forget(*id));
            self.cache.remove(*id).await;
        }
        let mut deletions = stream::iter(blocks)
            .map(|id| async move { self.requests.delete(&id.key(self.config.hash_prefix)).await })
            .buffer_unordered(DELETES_AT_ONCE);
        let mut result = Ok(());
        while let Some(done) = deletions.next().await {
            if let Err(e) = done {
                result = Err(e.into());
            }
        }
        result
    }
}
