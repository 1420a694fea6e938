//! Passwords, and where they come from when the URL has none.

use std::{fmt, path::PathBuf};

use juicefs_core::error::{MetaError, MetaResult};

/// A password, never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Box<[u8]>);

impl Secret {
    /// `None` for an empty one, which is no password.
    pub(super) fn new(bytes: Vec<u8>) -> Option<Self> {
        (!bytes.is_empty()).then(|| Self(bytes.into()))
    }

    /// The bytes to send to the server.
    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// Passwords given beside the URL. A password in the URL goes before these.
#[derive(Clone, Default)]
pub struct Passwords {
    redis: Option<Secret>,
    meta: Option<Secret>,
    meta_file: Option<PathBuf>,
    sentinel: Option<Secret>,
}

impl Passwords {
    /// Those of the variables `REDIS_PASSWORD`, `META_PASSWORD`, `META_PASSWORD_FILE` and `SENTINEL_PASSWORD`, as
    /// `lookup` finds them. An empty variable is as good as none. The file is read when its password is needed.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let secret = |name| lookup(name).and_then(|text| Secret::new(text.into_bytes()));
        Self {
            redis: secret("REDIS_PASSWORD"),
            meta: secret("META_PASSWORD"),
            meta_file: lookup("META_PASSWORD_FILE").filter(|path| !path.is_empty()).map(PathBuf::from),
            sentinel: secret("SENTINEL_PASSWORD"),
        }
    }

    pub(super) fn for_redis(&self) -> MetaResult<Option<Secret>> {
        match (&self.redis, &self.meta, &self.meta_file) {
            (Some(password), ..) | (None, Some(password), _) => Ok(Some(password.clone())),
            (None, None, None) => Ok(None),
            (None, None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(text.trim().as_bytes().to_vec())),
                Err(error) => Err(MetaError::Setting(format!(
                    "the file {} of META_PASSWORD_FILE cannot be read: {error}",
                    path.display()
                ))),
            },
        }
    }

    pub(super) fn for_sentinel(&self) -> Option<Secret> {
        self.sentinel.clone()
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}
