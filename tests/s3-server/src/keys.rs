//! Keys that change while the server runs.

use std::path::PathBuf;

use s3s::{
    S3Result,
    auth::{S3Auth, SecretKey},
    s3_error,
};

/// A file with the keys that are good now.
pub(crate) struct KeyFile {
    pub(crate) path: PathBuf,
}

#[async_trait::async_trait]
impl S3Auth for KeyFile {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        // A few lines of a test's own file, read in no time.
        let text = std::fs::read_to_string(&self.path).map_err(|e| s3_error!(e, InternalError))?;
        let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
        match pairs.find(|(known, _)| *known == access_key) {
            Some((_, secret)) => Ok(secret.into()),
            None => Err(s3_error!(InvalidAccessKeyId, "The access key does not exist in our records.")),
        }
    }
}
