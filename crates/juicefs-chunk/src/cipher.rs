//! Bodies are encrypted with a fresh data key each, which the RSA or SM2 key of the volume wraps (format: data.md §2.2).
//!
//! ```text
//! | 2: K, big endian | 1: N = 12 | K: wrapped data key | N: nonce | ciphertext | 16: tag |
//! ```
//!
//! The kind of key decides how data keys are wrapped, and the algorithm in the volume setting decides what they encrypt with;
//! any two go together. The whole body is authenticated: the wrapped key by OAEP or by the digest in an SM2 ciphertext, the
//! rest by the tag, and each length has only one right value. The object key is no part of it, so that a body which was
//! stored under another object key opens as well.
//!
//! Opening costs a private operation of the key (about a millisecond for 2048 bits of RSA, a third of that for SM2), sealing
//! a public one (a millisecond for SM2, little for RSA). Both are work for the blocking pool.

mod data;
mod error;
mod key;
mod legacy;
mod pbes;

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{Format, Segments};
use thiserror::Error;

use crate::pool::PoolBuf;

use data::{Algorithm, DATA_KEY_BYTES, DataKey, NONCE_BYTES, TAG_BYTES};

pub use error::KeyError;
pub use key::VolumeKey;

/// Bytes before the wrapped key.
const LENGTHS_BYTES: usize = 3;

/// Says why the bodies of a volume cannot be encrypted and decrypted. The sentences are for the user.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CipherError {
    /// The algorithm is none that this client knows.
    #[error("encrypt algorithm {0:?} is not supported; supported are: aes256gcm-rsa, chacha20-rsa, sm4gcm")]
    Algorithm(String),
    /// The private key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Encrypts and decrypts the bodies of a volume. Key and algorithm are fixed when the volume is made.
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
    /// Makes the cipher of a volume, or `None` when the volume is not encrypted. The secrets of `format` must be decrypted.
    /// `passphrase` is that of the private key, and is ignored if the key has none.
    ///
    /// Deriving the key from a passphrase takes a processor for some milliseconds up to a second.
    ///
    /// # Errors
    /// When the algorithm is not known or the key cannot be used, with a sentence for the user.
    pub fn of_volume(format: &Format, passphrase: Option<&[u8]>) -> Result<Option<Arc<Self>>, CipherError> {
        if format.encrypt_key.is_empty() {
            return Ok(None);
        }
        let algorithm = Algorithm::named(&format.encrypt_algo)
            .ok_or_else(|| CipherError::Algorithm(format.encrypt_algo.clone()))?;
        let key = VolumeKey::from_pem(format.encrypt_key.as_bytes(), passphrase)?;
        Ok(Some(Arc::new(Self { key, algorithm })))
    }

    /// Returns the most bytes that a sealed body has beyond its content. With an RSA key it always has as many.
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
    /// Names the step that failed. None fails unless there is no randomness or no memory.
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
    /// Says what does not fit: the body is damaged, or belongs to another key. Nothing of the content is returned then.
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
