//! From a volume's setting to its object store.

use std::{collections::HashMap, sync::Arc};

use juicefs_core::{Format, ObjectStorage, StorageError};

use juicefs_tls::TlsFiles;

use super::{
    DalStorage, FileStorage, Prefixed, Sharded, http, s3,
    table::{self, Way},
};

#[cfg(feature = "all-storage")]
use super::services;

/// Looks up an environment variable that has a meaning for storages (cli.md §3).
pub type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// [`open_storage_with`] where nothing comes from the environment.
///
/// # Errors
/// As there.
pub fn open_storage(format: &Format) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    open_storage_with(format, &|_| None)
}

/// The object store of a volume, with keys relative to the volume: its name is put before them here.
///
/// Nothing is contacted or made. Secrets of `format` must be decrypted. `variables` are asked for keys and regions that the
/// volume does not name; only where AWS' own search for keys is used does that look into the process' environment.
///
/// # Errors
/// `Permanent` with a sentence for the user when the setting names a storage that is not supported, an address that is not
/// of the storage's form, no keys where some are needed, or a bucket that cannot be sharded.
pub fn open_storage_with(format: &Format, variables: &Variables<'_>) -> Result<Arc<dyn ObjectStorage>, StorageError> {
    let (storage, way) = table::find(&format.storage).map_err(StorageError::Permanent)?;
    let mut clients = Clients::default();
    let mut backend = |bucket: &str| -> Result<Arc<dyn ObjectStorage>, StorageError> {
        Ok(match way {
            Way::Directory => Arc::new(FileStorage::new(bucket)),
            Way::Memory => Arc::new(DalStorage::memory()?),
            // Without keys for its S3 interface there are those of Google's own tools.
            #[cfg(feature = "all-storage")]
            Way::S3 if storage == "gs" && format.access_key.is_empty() => {
                Arc::new(services::open(storage, bucket, format, variables, &mut clients)?)
            }
            #[cfg(feature = "all-storage")]
            Way::Own => Arc::new(services::open(storage, bucket, format, variables, &mut clients)?),
            Way::S3 => Arc::new(s3::open(storage, bucket, format, variables, &mut clients)?),
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

/// Connections of all shards of a store.
#[derive(Default)]
pub(super) struct Clients {
    by_tls: HashMap<TlsFiles, reqwest::Client>,
}

impl Clients {
    /// These connections for whatever has no options.
    #[cfg(test)]
    pub(super) fn of(client: reqwest::Client) -> Self {
        Self { by_tls: HashMap::from([(TlsFiles::default(), client)]) }
    }

    /// The connections with these options.
    ///
    /// # Errors
    /// When a certificate file cannot be used.
    pub(super) fn get(&mut self, tls: &TlsFiles) -> Result<reqwest::Client, StorageError> {
        if let Some(client) = self.by_tls.get(tls) {
            return Ok(client.clone());
        }
        let client = http::client(tls)?;
        self.by_tls.insert(tls.clone(), client.clone());
        Ok(client)
    }
}
