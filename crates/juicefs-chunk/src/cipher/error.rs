//! Errors of private keys.

use thiserror::Error;

/// Sizes of RSA keys that the library works with, in bits.
pub(super) const RSA_KEY_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Says why a private key cannot be used. The sentences are for the user.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// The text is no PEM file.
    #[error("there is no PEM block: a private key begins with a line like -----BEGIN RSA PRIVATE KEY-----")]
    NotPem,
    /// A dump of the volume left the key out.
    #[error("the private key was removed from the volume setting")]
    Removed,
    /// The key is protected, and no passphrase was given.
    #[error("the private key is protected by a passphrase, and none was given")]
    PassphraseMissing,
    /// The passphrase given is not that of the key.
    #[error("the passphrase given is not that of the private key")]
    PassphraseWrong,
    /// The key is protected in a way that is not known here.
    #[error(
        "the private key is protected with {0}, which is not supported; `openssl pkcs8 -topk8 -v2 aes-256-cbc` converts it"
    )]
    Protection(String),
    /// The key is of another kind, or there is no private key at all.
    #[error("it holds no RSA or SM2 private key but {0}; other kinds are not supported")]
    Kind(String),
    /// The SM2 key is in a form that no client reads.
    #[error("the SM2 key is not in PKCS#8; `openssl pkcs8 -topk8` converts it")]
    Sec1,
    /// The key is too small to be safe, or too large.
    #[error("the RSA key has {0} bits; supported are {min} to {max}", min = RSA_KEY_BITS.start(), max = RSA_KEY_BITS.end())]
    Size(usize),
    /// The key does not decode.
    #[error("the private key is damaged: {0}")]
    Damaged(String),
}

/// Makes the error of a key that does not decode.
pub(super) fn damaged(why: impl ToString) -> KeyError {
    KeyError::Damaged(why.to_string())
}
