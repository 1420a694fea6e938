//! A volume sees only the part of a store whose keys begin with a prefix.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use juicefs_core::{ObjectStorage, Segments, StorageError, store::ObjectInfo};

/// Shows the objects whose keys begin with a prefix, without it.
#[derive(Debug)]
pub struct Prefixed {
    prefix: String,
    store: Arc<dyn ObjectStorage>,
}

impl Prefixed {
    /// Shows the part of `store` below `prefix`, which is put before keys as it is.
    #[must_use]
    pub fn new(prefix: String, store: Arc<dyn ObjectStorage>) -> Self {
        Self { prefix, store }
    }

    fn full(&self, key: &str) -> String {
        [self.prefix.as_str(), key].concat()
    }

    fn strip(&self, mut info: ObjectInfo) -> ObjectInfo {
        if info.key.starts_with(&self.prefix) {
            info.key.drain(..self.prefix.len());
        }
        info
    }
}

#[async_trait]
impl ObjectStorage for Prefixed {
    fn describe(&self) -> String {
        format!("{}{}", self.store.describe(), self.prefix)
    }

    async fn create(&self) -> Result<(), StorageError> {
        self.store.create().await
    }

    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError> {
        self.store.get(&self.full(key), range).await
    }

    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError> {
        self.store.put(&self.full(key), body).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.store.delete(&self.full(key)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.store.head(&self.full(key)).await.map(|info| self.strip(info))
    }

    async fn put_in_parts(&self, key: &str, parts: Vec<Segments>) -> Result<bool, StorageError> {
        self.store.put_in_parts(&self.full(key), parts).await
    }

    fn file_path(&self, key: &str) -> Option<PathBuf> {
        self.store.file_path(&self.full(key))
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        let after = if after.is_empty() { String::new() } else { self.full(after) };
        let found = self.store.list(&self.full(prefix), &after, limit).await?;
        Ok(found.into_iter().map(|info| self.strip(info)).collect())
    }
}
