//! This adapter makes any service of OpenDAL an [`ObjectStorage`].

mod failure;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use juicefs_core::{ObjectStorage, Segments, StorageError, Timestamp, store::ObjectInfo};
use opendal::{Buffer, ErrorKind, Operator};

pub(super) use failure::{failure, unsigned};

/// The checksum of a body is metadata of this name (format: data.md §2.4).
const CHECKSUM: &str = "crc32c";
/// The content type of every object.
const CONTENT_TYPE: &str = "application/octet-stream";

/// What a service can do beyond keeping objects.
#[derive(Debug, Default)]
pub(super) struct Abilities {
    /// Whether objects carry the CRC-32C of their bodies.
    pub(super) checksum: bool,
    /// Makes the bucket if it is missing.
    pub(super) maker: Option<Box<dyn MakeBucket>>,
    /// Lists in the order of the keys, and from behind one.
    pub(super) lister: Option<Box<dyn ListObjects>>,
}

/// Makes the bucket of a store, which OpenDAL has no request for.
#[async_trait]
pub(super) trait MakeBucket: fmt::Debug + Send + Sync {
    /// Makes the bucket; one that is there is fine.
    ///
    /// # Errors
    /// Those of a request.
    async fn make(&self) -> Result<(), StorageError>;
}

/// Lists the objects of a store.
#[async_trait]
pub(super) trait ListObjects: fmt::Debug + Send + Sync {
    /// Lists up to `limit` objects whose keys begin with `prefix` and come after `after`, in the order of the keys.
    ///
    /// # Errors
    /// Those of a request; `Transient` for an answer that is no listing.
    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError>;
}

/// A store that OpenDAL speaks to.
#[derive(Debug)]
pub struct DalStorage {
    operator: Operator,
    place: String,
    abilities: Abilities,
}

impl DalStorage {
    /// Makes a store that lives in this process and ends with it.
    ///
    /// # Errors
    /// `Permanent` when the service cannot be set up.
    pub fn memory() -> Result<Self, StorageError> {
        let operator = Operator::new(opendal::services::Memory::default()).map_err(|e| failure(&e, "mem", "mem"))?;
        Ok(Self::new(operator))
    }

    /// Makes a store that `operator` reaches.
    #[must_use]
    pub fn new(operator: Operator) -> Self {
        let info = operator.info();
        let place = format!("{}://{}", info.scheme(), info.name());
        Self { operator, place, abilities: Abilities::default() }
    }

    /// Makes a store that is a bucket; `place` is what people call it.
    pub(super) fn bucket(operator: Operator, place: String, abilities: Abilities) -> Self {
        Self { operator, place, abilities }
    }

    /// What reaches the store.
    #[cfg(test)]
    pub(super) fn operator(&self) -> &Operator {
        &self.operator
    }

    fn failure(&self, e: &opendal::Error, key: &str) -> StorageError {
        failure(e, key, &self.place)
    }

    /// Fetches a whole object, and verifies it if it has a checksum.
    async fn get_whole(&self, key: &str) -> Result<Segments, StorageError> {
        let reader = self.operator.reader(key).await.map_err(|e| self.failure(&e, key))?;
        let body: Segments = reader.read(..).await.map_err(|e| self.failure(&e, key))?.collect();
        if self.abilities.checksum
            && let Some(noted) = reader.metadata().and_then(|meta| meta.user_metadata()).and_then(|m| m.get(CHECKSUM))
        {
            verify(key, noted, &body)?;
        }
        Ok(body)
    }

    /// Fetches a range, which is cut at the end of the object.
    async fn get_range(&self, key: &str, off: u64, len: u64) -> Result<Segments, StorageError> {
        let end = off.saturating_add(len);
        if off >= end {
            return Ok(Segments::new());
        }
        let error = match self.operator.read_with(key).range(off..end).await {
            Ok(body) => return Ok(body.collect()),
            Err(e) => e,
        };
        if !failure::may_be_past_the_end(&error) {
            return Err(self.failure(&error, key));
        }
        // A range that passes the end is refused, by the server or by OpenDAL. Blocks are read by their known sizes, so
        // asking for the size first would be a second request for each read.
        let size = self.operator.stat(key).await.map_err(|e| self.failure(&e, key))?.content_length();
        if end <= size {
            return Err(self.failure(&error, key));
        }
        if off >= size {
            return Ok(Segments::new());
        }
        let body = self.operator.read_with(key).range(off..size).await.map_err(|e| self.failure(&e, key))?;
        Ok(body.collect())
    }
}

#[async_trait]
impl ObjectStorage for DalStorage {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn create(&self) -> Result<(), StorageError> {
        match &self.abilities.maker {
            None => Ok(()),
            // Who may use a bucket may not be allowed to make one.
            Some(_) if self.list("", "", 1).await.is_ok() => Ok(()),
            Some(maker) => maker.make().await,
        }
    }

    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError> {
        match range {
            None => self.get_whole(key).await,
            Some((off, len)) => self.get_range(key, off, len).await,
        }
    }

    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError> {
        if key.ends_with('/') && body.iter().all(Bytes::is_empty) {
            return self.operator.create_dir(key).await.map_err(|e| self.failure(&e, key));
        }
        let checksum = self.abilities.checksum.then(|| checksum(&body));
        let body = Buffer::from(body.into_iter().collect::<Vec<Bytes>>());
        let mut request = self.operator.write_with(key, body);
        if let Some(checksum) = checksum {
            let noted = [(CHECKSUM.to_owned(), checksum.to_string())];
            request = request.user_metadata(noted).content_type(CONTENT_TYPE);
        }
        request.await.map(drop).map_err(|e| self.failure(&e, key))
    }

    async fn put_in_parts(&self, key: &str, parts: Vec<Segments>) -> Result<bool, StorageError> {
        if !self.operator.info().capability().write_can_multi {
            return Ok(false);
        }
        let mut writer = self.operator.writer(key).await.map_err(|e| self.failure(&e, key))?;
        for part in parts {
            let part = Buffer::from(part.into_iter().collect::<Vec<Bytes>>());
            if let Err(e) = writer.write(part).await {
                // What was sent so far takes space as long as the upload is open; the error is the one to tell.
                if let Err(why) = writer.abort().await {
                    tracing::debug!("{key}: an upload in parts stays open: {why}");
                }
                return Err(self.failure(&e, key));
            }
        }
        writer.close().await.map(|_| true).map_err(|e| self.failure(&e, key))
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        match self.operator.delete(key).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| self.failure(&e, key)),
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        let meta = self.operator.stat(key).await.map_err(|e| self.failure(&e, key))?;
        Ok(info(key.to_owned(), &meta))
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        if let Some(lister) = &self.abilities.lister {
            return lister.list(prefix, after, limit).await;
        }
        let lister = self.operator.lister_with(prefix).recursive(true).await.map_err(|e| self.failure(&e, prefix))?;
        let entries: Vec<_> = lister.try_collect().await.map_err(|e| self.failure(&e, prefix))?;
        let wanted = entries.iter().filter(|entry| wanted(entry, prefix, after));
        let mut found: Vec<_> = wanted.map(|entry| info(entry.path().to_owned(), entry.metadata())).collect();
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        found.truncate(limit);
        Ok(found)
    }
}

fn wanted(entry: &opendal::Entry, prefix: &str, after: &str) -> bool {
    entry.metadata().is_file() && entry.path() > after && entry.path().starts_with(prefix)
}

fn checksum(body: &Segments) -> u32 {
    body.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part))
}

/// Compares a body with the checksum that was noted with it. A mismatch is transient: another try may bring the right bytes.
fn verify(key: &str, noted: &str, body: &Segments) -> Result<(), StorageError> {
    let Ok(noted) = noted.parse::<u32>() else {
        tracing::warn!("{key} has \"{noted}\" for a checksum, which is not one");
        return Ok(());
    };
    let found = checksum(body);
    if found == noted {
        return Ok(());
    }
    Err(StorageError::Transient(format!("{key}: the body has the checksum {found} instead of {noted}")))
}

fn info(key: String, meta: &opendal::Metadata) -> ObjectInfo {
    let mtime = meta.last_modified().map(|t| t.into_inner().as_nanosecond()).unwrap_or_default();
    ObjectInfo { key, size: meta.content_length(), mtime: Timestamp::from_nanos(mtime) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        let body: Segments = [Bytes::from("he"), Bytes::from("llo")].into_iter().collect();
        assert_eq!(checksum(&body), 2_591_144_780);
        assert!(verify("k", "2591144780", &body).is_ok());
        assert!(verify("k", "no number", &body).is_ok());
        let text = verify("k", "2591144781", &body).expect_err("another").to_string();
        assert!(text.contains("2591144781"), "{text}");
    }
}
