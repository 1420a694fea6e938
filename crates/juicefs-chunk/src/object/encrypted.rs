//! Objects beside the blocks are encrypted as a whole by this layer.

use std::sync::Arc;

use async_trait::async_trait;
use juicefs_core::{ObjectStorage, Segments, StorageError, store::ObjectInfo};

use crate::{
    body::{copy, join},
    cipher::Cipher,
};

/// Encrypts what is put and decrypts what is got. The sizes that it shows are those of the encrypted objects.
///
/// This is for the few objects beside the blocks. The data path works with the store below and has the cipher in its
/// settings: it encrypts by itself, once per block and not per try, and within its budget.
#[derive(Debug)]
pub struct Encrypted {
    store: Arc<dyn ObjectStorage>,
    cipher: Arc<Cipher>,
}

impl Encrypted {
    /// Goes around `store`, whose objects are encrypted with `cipher`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStorage>, cipher: Arc<Cipher>) -> Self {
        Self { store, cipher }
    }

    /// Runs `work` on the blocking pool, because it takes too long for the thread that polls.
    async fn compute<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Cipher) -> Result<T, String> + Send + 'static,
    ) -> Result<T, StorageError> {
        let cipher = Arc::clone(&self.cipher);
        let done = tokio::task::spawn_blocking(move || work(&cipher)).await.unwrap_or_else(|e| Err(e.to_string()));
        done.map_err(|why| StorageError::Permanent(format!("{key}: {why}")))
    }
}

#[async_trait]
impl ObjectStorage for Encrypted {
    fn describe(&self) -> String {
        format!("{} (encrypted)", self.store.describe())
    }

    async fn create(&self) -> Result<(), StorageError> {
        self.store.create().await
    }

    /// Fetches the whole object in any case, because no part of it can be authenticated alone.
    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError> {
        let sealed = join(self.store.get(key, None).await?);
        let plain = self.compute(key, move |cipher| cipher.open(&sealed)).await?;
        let plain = bytes::Bytes::from_owner(plain);
        let Some((off, len)) = range else { return Ok(Segments::from_iter([plain])) };
        // A length that does not fit is beyond the end, and is cut.
        let start = usize::try_from(off).unwrap_or(usize::MAX).min(plain.len());
        let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(plain.len());
        Ok(if start < end { Segments::from_iter([plain.slice(start..end)]) } else { Segments::new() })
    }

    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError> {
        let sealed = self.compute(key, move |cipher| cipher.seal(copy(&body))).await?;
        self.store.put(key, sealed).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.store.delete(key).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.store.head(key).await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        self.store.list(prefix, after, limit).await
    }
}
