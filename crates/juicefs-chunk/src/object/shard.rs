//! Many stores make one, and the key of an object decides in which of them it is (format: data.md §1.7).

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use juicefs_core::{ObjectStorage, Segments, StorageError, store::ObjectInfo};

use crate::hash::fnv1a_32;

/// Spreads objects over stores of equal standing.
#[derive(Debug)]
pub struct Sharded {
    stores: Vec<Arc<dyn ObjectStorage>>,
}

impl Sharded {
    /// Opens `count` stores with `open`; each gets `bucket` with its number in the place of `%d`.
    ///
    /// # Errors
    /// `Permanent` when `bucket` has no `%d` or more than one; otherwise those of `open`.
    pub fn open(
        bucket: &str,
        count: u32,
        mut open: impl FnMut(&str) -> Result<Arc<dyn ObjectStorage>, StorageError>,
    ) -> Result<Self, StorageError> {
        if bucket.matches('%').count() != 1 || !bucket.contains("%d") {
            return Err(StorageError::Permanent(format!(
                "bucket \"{bucket}\" of a volume with {count} shards must contain one %d in the place of the shard's number"
            )));
        }
        let stores = (0..count).map(|n| open(&bucket.replace("%d", &n.to_string()))).collect::<Result<_, _>>()?;
        Ok(Self { stores })
    }

    fn of(&self, key: &str) -> &dyn ObjectStorage {
        let at = fnv1a_32(key.as_bytes()) as usize % self.stores.len();
        self.stores[at].as_ref()
    }
}

#[async_trait]
impl ObjectStorage for Sharded {
    fn describe(&self) -> String {
        let first = self.stores.first().map(|s| s.describe()).unwrap_or_default();
        format!("shard{}://{first}", self.stores.len())
    }

    async fn create(&self) -> Result<(), StorageError> {
        try_join_all(self.stores.iter().map(|store| store.create())).await.map(drop)
    }

    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError> {
        self.of(key).get(key, range).await
    }

    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError> {
        self.of(key).put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.of(key).delete(key).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.of(key).head(key).await
    }

    async fn put_in_parts(&self, key: &str, parts: Vec<Segments>) -> Result<bool, StorageError> {
        self.of(key).put_in_parts(key, parts).await
    }

    fn file_path(&self, key: &str) -> Option<PathBuf> {
        self.of(key).file_path(key)
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        let lists = try_join_all(self.stores.iter().map(|store| store.list(prefix, after, limit))).await?;
        let mut all: Vec<_> = lists.into_iter().flatten().collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all.truncate(limit);
        Ok(all)
    }
}
