//! The object store of a volume is made from the setting of the volume.

use std::sync::Arc;

use juicefs_core::{Format, ObjectStorage, StorageError};

#[cfg(feature = "all-storage")]
use super::services;
use super::{
    dal::DalStorage,
    file::FileStorage,
    opening::{Clients, Opening, Variables},
    prefix::Prefixed,
    s3,
    shard::Sharded,
    table::{self, Way},
};

/// Does what [`open_storage_with`] does, with nothing from the environment.
///
/// # Errors
/// As [`open_storage_with`].
pub fn open_storage(format: &Format) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    open_storage_with(format, &|_| None)
}

/// Makes the object store of a volume. Its keys are relative to the volume, whose name is put before them.
///
/// Nothing is contacted, and nothing is made in the store. The secrets of `format` must be decrypted. `variables` are asked
/// for keys and regions that the volume does not name. Only AWS' own search for keys, where it is used, looks into the
/// environment of the process itself.
///
/// # Errors
/// `Permanent` with a sentence for the user when the setting names a storage that is not supported, an address that is not
/// of the storage's form, no keys where some are needed, or a bucket that cannot be sharded.
pub fn open_storage_with(format: &Format, variables: &Variables<'_>) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    let (storage, way) = table::find(&format.storage).map_err(StorageError::Permanent)?;
    let mut clients = Clients::default();
    let mut backend = |bucket: &str| -> Result<Arc<dyn ObjectStorage>, StorageError> {
        let opening = Opening { storage, bucket, format, variables, clients: &mut clients };
        Ok(match way {
            Way::Directory => Arc::new(FileStorage::new(bucket)),
            Way::Memory => Arc::new(DalStorage::memory()?),
            // Without keys for its S3 interface there are those of Google's own tools.
            #[cfg(feature = "all-storage")]
            Way::S3 if storage == "gs" && format.access_key.is_empty() => Arc::new(services::open(opening)?),
            #[cfg(feature = "all-storage")]
            Way::Own => Arc::new(services::open(opening)?),
            Way::S3 => Arc::new(s3::open(opening)?),
            #[cfg(not(feature = "all-storage"))]
            Way::Own => return Err(StorageError::Permanent(format!("{storage} is not in this build"))),
            Way::Nothing(_) => return Err(StorageError::Permanent(format!("{storage} is not supported"))),
        })
    };
    let store: Arc<dyn ObjectStorage> = if format.shards > 1 {
        Arc::new(Sharded::open(&format.bucket, format.shards, backend)?)
    } else {
        backend(&format.bucket)?
    };
    Ok(Arc::new(Prefixed::new(format!("{}/", format.name), store)))
}
