//! What a backend is opened with.

use std::collections::HashMap;

use juicefs_core::{Format, StorageError};
use juicefs_tls::TlsFiles;

use super::http;

/// Looks up an environment variable that has a meaning for storages (cli.md §3).
pub type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// One bucket that is to be opened for a volume.
pub(super) struct Opening<'a> {
    /// The name of the storage, as volumes store it.
    pub(super) storage: &'static str,
    /// The address of the bucket. With shards it is another than that of `format`.
    pub(super) bucket: &'a str,
    /// The setting of the volume.
    pub(super) format: &'a Format,
    pub(super) variables: &'a Variables<'a>,
    pub(super) clients: &'a mut Clients,
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
