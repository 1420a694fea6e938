//! Encryption of bodies (format: data.md §2.2): a fresh data key per body, wrapped by the RSA or SM2 key of the volume.
//!
//! ```text
//! | 2: K, big endian | 1: N = 12 | K: wrapped data key | N: nonce | ciphertext | 16: tag |
//! ```
//!
//! The kind of key decides how data keys are wrapped, the algorithm in the volume setting what they encrypt with, and any
//! two go together. The whole body is authenticated: by OAEP or the digest in an SM2 ciphertext as far as the wrapped key
//! goes, by the tag for the rest, and the lengths have one right value each. What a body was stored for is not part of it,
//! so one that was stored under another key opens. Opening costs a private operation of the key (about a millisecond for
//! 2048 bits of RSA, a third of that for SM2), sealing a public one (a millisecond for SM2, little for RSA); both are work for
//! the blocking pool.

mod data;
mod key;
mod legacy;
mod pbes;

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{Format, Segments};
use thiserror::Error;

use crate::pool::PoolBuf;

use data::{Algorithm, DATA_KEY_BYTES, DataKey, NONCE_BYTES, TAG_BYTES};

pub use key::{KeyError, VolumeKey};

/// Bytes before the wrapped key.
const LENGTHS_BYTES: usize = 3;

/// Why a volume's bodies cannot be encrypted and decrypted. The sentences are for the user.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CipherError {
    /// Not one of the algorithms that this client knows.
    #[error("encrypt algorithm {0:?} is not supported; supported are: aes256gcm-rsa, chacha20-rsa, sm4gcm")]
    Algorithm(String),
    /// The private key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// How bodies of a volume are encrypted: its key and the algorithm. Fixed when the volume is made.
pub struct Cipher {
    key: VolumeKey,
    algorithm: Algorithm,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher").field("key", &self.key).field("algorithm", &self.algorithm).finish()
    }
}

impl Cipher {
    /// The cipher of a volume, `None` when it is not encrypted. Secrets of `format` must be decrypted; `passphrase` is that
    /// of the private key, and is ignored if the key has none.
    ///
    /// Deriving the key from a passphrase takes a processor for some milliseconds up to a second.
    ///
    /// # Errors
    /// With a sentence for the user.
    pub fn of_volume(format: &Format, passphrase: Option<&[u8]>) -> Result<Option<Arc<Self>>, CipherError> {
        if format.encrypt_key.is_empty() {
            return Ok(None);
        }
        let algorithm = Algorithm::named(&format.encrypt_algo)
            .ok_or_else(|| CipherError::Algorithm(format.encrypt_algo.clone()))?;
        let key = VolumeKey::from_pem(format.encrypt_key.as_bytes(), passphrase)?;
        Ok(Some(Arc::new(Self { key, algorithm })))
    }

    /// Most bytes that a sealed body has beyond what is in it. With an RSA key it is always as many.
    #[must_use]
    pub fn overhead_bytes(&self) -> usize {
        LENGTHS_BYTES + self.wrapped_bytes() + NONCE_BYTES + TAG_BYTES
    }

    fn wrapped_bytes(&self) -> usize {
        self.key.wrapped_bytes(self.algorithm.key_bytes())
    }

    /// Encrypts `body`, in place, under a data key of its own.
    ///
    /// # Errors
    /// The step that failed; not met unless there is no randomness or no memory.
    pub(crate) fn seal(&self, mut body: PoolBuf) -> Result<Segments, String> {
        let mut data_key = [0; DATA_KEY_BYTES];
        let data_key = &mut data_key[..self.algorithm.key_bytes()];
        let mut nonce = [0; NONCE_BYTES];
        for secret in [&mut *data_key, &mut nonce[..]] {
            aws_lc_rs::rand::fill(secret).map_err(|_| "no randomness for a data key")?;
        }
        let wrapped = self.key.wrap(data_key)?;
        let tag = DataKey::new(self.algorithm, data_key)?.seal(nonce, &mut body)?;
        let wrapped_bytes = u16::try_from(wrapped.len()).map_err(|_| "the wrapped key is too long")?;
        let lengths = [&wrapped_bytes.to_be_bytes()[..], &[NONCE_BYTES as u8]].concat();
        let head = Bytes::from([lengths.as_slice(), &wrapped, &nonce].concat());
        Ok(Segments::from_iter([head, Bytes::from_owner(body), Bytes::copy_from_slice(&tag)]))
    }

    /// Decrypts a body that [`Cipher::seal`] or another client made.
    ///
    /// # Errors
    /// What does not fit: damage, or another key. Nothing of the content is returned then.
    pub(crate) fn open(&self, sealed: &[u8]) -> Result<PoolBuf, String> {
        let damaged = || format!("a body of {} bytes is no encrypted one", sealed.len());
        let (lengths, rest) = sealed.split_first_chunk::<LENGTHS_BYTES>().ok_or_else(damaged)?;
        let (wrapped_bytes, nonce_bytes) = (u16::from_be_bytes([lengths[0], lengths[1]]) as usize, lengths[2] as usize);
        if !self.key.may_wrap_as(self.algorithm.key_bytes(), wrapped_bytes) || nonce_bytes != NONCE_BYTES {
            let most = if matches!(self.key, VolumeKey::Sm2(_)) { "at most " } else { "" };
            return Err(format!(
                "wrapped key and nonce of {wrapped_bytes} and {nonce_bytes} bytes instead of {most}{} and {NONCE_BYTES}",
                self.wrapped_bytes()
            ));
        }
        let (wrapped, rest) = rest.split_at_checked(wrapped_bytes).ok_or_else(damaged)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or_else(damaged)?;
        let data_key = DataKey::new(self.algorithm, &self.key.unwrap(wrapped)?)?;
        let mut plain = PoolBuf::stale(body.len());
        data_key.open(*nonce, body, *tag, &mut plain)?;
        Ok(plain)
    }
}

#[cfg(test)]
pub(crate) mod tests;
