//! The general adapter: any service of OpenDAL as an [`ObjectStorage`].

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use juicefs_core::{ObjectStorage, Segments, StorageError, Timestamp, store::ObjectInfo};
use opendal::{Buffer, ErrorKind, Operator};

/// A store that OpenDAL speaks to.
#[derive(Debug)]
pub struct DalStorage {
    operator: Operator,
}

impl DalStorage {
    /// A store that lives in this process and ends with it.
    ///
    /// # Errors
    /// `Permanent` when the service cannot be set up.
    pub fn memory() -> Result<Self, StorageError> {
        let operator = Operator::new(opendal::services::Memory::default()).map_err(|e| failure(&e, "mem"))?;
        Ok(Self { operator })
    }

    /// A store that `operator` reaches.
    #[must_use]
    pub fn new(operator: Operator) -> Self {
        Self { operator }
    }
}

#[async_trait]
impl ObjectStorage for DalStorage {
    fn describe(&self) -> String {
        let info = self.operator.info();
        format!("{}://{}", info.scheme(), info.name())
    }

    async fn create(&self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError> {
        let read = match range {
            None => self.operator.read(key).await,
            Some((off, len)) => {
                // Services refuse a range past the end; here it is cut.
                let size = self.operator.stat(key).await.map_err(|e| failure(&e, key))?.content_length();
                let end = off.saturating_add(len).min(size);
                if off >= end {
                    return Ok(Segments::new());
                }
                self.operator.read_with(key).range(off..end).await
            }
        };
        Ok(read.map_err(|e| failure(&e, key))?.collect())
    }

    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError> {
        let body = body.into_iter().collect::<Vec<Bytes>>();
        self.operator.write(key, Buffer::from(body)).await.map(drop).map_err(|e| failure(&e, key))
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        match self.operator.delete(key).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| failure(&e, key)),
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        let meta = self.operator.stat(key).await.map_err(|e| failure(&e, key))?;
        Ok(info(key.to_owned(), &meta))
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        let lister = self.operator.lister_with(prefix).recursive(true).await.map_err(|e| failure(&e, prefix))?;
        let entries: Vec<_> = lister.try_collect().await.map_err(|e| failure(&e, prefix))?;
        let wanted = |e: &opendal::Entry| e.metadata().is_file() && e.path() > after && e.path().starts_with(prefix);
        let mut found: Vec<_> =
            entries.iter().filter(|e| wanted(e)).map(|e| info(e.path().to_owned(), e.metadata())).collect();
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        found.truncate(limit);
        Ok(found)
    }
}

fn info(key: String, meta: &opendal::Metadata) -> ObjectInfo {
    let mtime = meta.last_modified().map(|t| t.into_inner().as_nanosecond()).unwrap_or_default();
    ObjectInfo { key, size: meta.content_length(), mtime: Timestamp::from_nanos(mtime) }
}

/// Sorts an error by what the caller must do.
fn failure(e: &opendal::Error, key: &str) -> StorageError {
    let text = format!("{key}: {e}");
    match e.kind() {
        ErrorKind::NotFound => StorageError::NotFound(text),
        ErrorKind::PermissionDenied
        | ErrorKind::Unsupported
        | ErrorKind::ConfigInvalid
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory => StorageError::Permanent(text),
        _ if is_full(e) => StorageError::NoSpace(text),
        _ => StorageError::Transient(text),
    }
}

/// Whether an I/O error at the root of `e` says that the disk is full.
fn is_full(e: &opendal::Error) -> bool {
    let mut source = std::error::Error::source(e);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        }
        source = inner.source();
    }
    false
}
