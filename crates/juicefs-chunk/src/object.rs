//! Object stores: from the volume setting to something that keeps objects.
//!
//! The stack of a volume is, from the outside in: key prefix (the volume's name) → sharding → backend (format: data.md
//! §1.1). Whoever holds what [`open_storage`] returns therefore speaks of `chunks/…`, `juicefs_uuid` and `testing/…`,
//! while backends see complete keys and shards are chosen by them. Of an encrypted volume these are the encrypted objects:
//! [`Encrypted`] goes around them for all but the data path, which encrypts blocks itself.
//! Retries, deadlines and slots are not here: they are the data path's ([`crate::store`]).

mod dal;
mod encrypted;
mod file;
mod prefix;
mod probe;
mod shard;

use std::sync::Arc;

use juicefs_core::{Format, ObjectStorage, StorageError};

pub use dal::DalStorage;
pub use encrypted::Encrypted;
pub use file::FileStorage;
pub use prefix::Prefixed;
pub use probe::{UUID_KEY, check_empty, read_uuid, selftest, write_uuid};
pub use shard::Sharded;

/// What `--storage` may name.
pub const SUPPORTED_STORAGES: &str = "file, mem";

/// The object store of a volume, with keys relative to the volume: its name is put before them here.
///
/// Bodies are as they are stored, whether the volume is encrypted or not. Nothing is contacted or made. Secrets of `format` must be decrypted.
///
/// # Errors
/// `Permanent` with a sentence for the user when the setting names a storage that is not supported, or a bucket that
/// cannot be sharded.
pub fn open_storage(format: &Format) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    let storage = format.storage.to_ascii_lowercase();
    let store: Arc<dyn ObjectStorage> = if format.shards > 1 {
        Arc::new(Sharded::open(&format.bucket, format.shards, |bucket| backend(&storage, bucket))?)
    } else {
        backend(&storage, &format.bucket)?
    };
    Ok(Arc::new(Prefixed::new(format!("{}/", format.name), store)))
}

fn backend(storage: &str, bucket: &str) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    match storage {
        "file" => Ok(Arc::new(FileStorage::new(bucket))),
        "mem" => Ok(Arc::new(DalStorage::memory()?)),
        _ => Err(StorageError::Permanent(format!(
            "object storage \"{storage}\" is not supported; supported are: {SUPPORTED_STORAGES}"
        ))),
    }
}

#[cfg(test)]
mod tests;
