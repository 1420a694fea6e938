//! The private key of a volume: from its PEM file to wrapping and unwrapping data keys.

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey};
use juicefs_core::format::REMOVED;
use pem::Pem;
use pkcs8::{
    EncryptedPrivateKeyInfoRef, ObjectIdentifier, PrivateKeyInfoRef,
    der::{
        Decode, Encode, Reader, SliceReader,
        asn1::{AnyRef, OctetStringRef, UintRef},
    },
    pkcs5,
    spki::AlgorithmIdentifier,
};
use thiserror::Error;

use super::legacy;

/// The label of OAEP, part of the format.
const LABEL: &[u8] = b"keys";
/// Sizes of keys that the library works with.
const KEY_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What is an RSA key in PKCS#8.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Why a private key cannot be used. The sentences are for the user.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// No PEM file.
    #[error("there is no PEM block: a private key begins with a line like -----BEGIN RSA PRIVATE KEY-----")]
    NotPem,
    /// A dump stripped it.
    #[error("the private key was removed from the volume setting")]
    Removed,
    /// It is protected, and no passphrase was given.
    #[error("the private key is protected by a passphrase, and none was given")]
    PassphraseMissing,
    /// The passphrase given is not the one.
    #[error("the passphrase given is not that of the private key")]
    PassphraseWrong,
    /// A way of protecting keys that is not known here.
    #[error(
        "the private key is protected with {0}, which is not supported; `openssl pkcs8 -topk8 -v2 aes-256-cbc` converts it"
    )]
    Protection(String),
    /// Another kind of key, or no private key at all.
    #[error("it holds no RSA private key but {0}; other kinds are not supported")]
    NotRsa(String),
    /// Too small to be safe, or too large.
    #[error("the RSA key has {0} bits; supported are {min} to {max}", min = KEY_BITS.start(), max = KEY_BITS.end())]
    Size(usize),
    /// It does not decode.
    #[error("the private key is damaged: {0}")]
    Damaged(String),
}

/// An RSA key that wraps data keys.
pub struct VolumeKey {
    private: OaepPrivateDecryptingKey,
    public: OaepPublicEncryptingKey,
}

impl std::fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VolumeKey({} bits)", self.private.key_size_bits())
    }
}

impl VolumeKey {
    /// Reads the first PEM block of a file: PKCS#1 or PKCS#8, either plain or protected by `passphrase` (PBES2 with PBKDF2
    /// or scrypt; the traditional `DEK-Info`). A passphrase for a key without one is ignored, as is an empty one.
    ///
    /// # Errors
    /// With a sentence for the user.
    pub fn from_pem(text: &[u8], passphrase: Option<&[u8]>) -> Result<Self, KeyError> {
        if text == REMOVED.as_bytes() {
            return Err(KeyError::Removed);
        }
        let block = pem::parse(text).map_err(|_| KeyError::NotPem)?;
        let passphrase = passphrase.filter(|text| !text.is_empty());
        let (der, unlocked) = unlock(&block, passphrase)?;
        Self::from_der(&der, block.tag()).map_err(|error| match error {
            // A wrong passphrase decrypts to noise that may look padded.
            KeyError::Damaged(_) if unlocked => KeyError::PassphraseWrong,
            other => other,
        })
    }

    fn from_der(der: &[u8], label: &str) -> Result<Self, KeyError> {
        let pkcs1 = match PrivateKeyInfoRef::from_der(der) {
            Ok(info) if info.algorithm.oid == RSA => info.private_key.as_bytes(),
            Ok(info) => return Err(KeyError::NotRsa(format!("a private key of the algorithm {}", info.algorithm.oid))),
            Err(_) if matches!(label, "RSA PRIVATE KEY" | "PRIVATE KEY") || is_pkcs1(der) => der,
            Err(_) if label == "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Damaged("not PKCS#8".to_owned())),
            Err(_) => return Err(KeyError::NotRsa(format!("a block {label:?}"))),
        };
        let bits = modulus_bits(pkcs1).map_err(damaged)?;
        if !KEY_BITS.contains(&bits) {
            return Err(KeyError::Size(bits));
        }
        let algorithm = AlgorithmIdentifier { oid: RSA, parameters: Some(AnyRef::NULL) };
        let inner = OctetStringRef::new(pkcs1).map_err(damaged)?;
        let pkcs8 = PrivateKeyInfoRef::new(algorithm, inner).to_der().map_err(damaged)?;
        let key = PrivateDecryptingKey::from_pkcs8(&pkcs8).map_err(damaged)?;
        let public = OaepPublicEncryptingKey::new(key.public_key()).map_err(damaged)?;
        Ok(Self { private: OaepPrivateDecryptingKey::new(key).map_err(damaged)?, public })
    }

    /// Bytes of a wrapped data key.
    pub(super) fn wrapped_bytes(&self) -> usize {
        self.public.ciphertext_size()
    }

    pub(super) fn wrap(&self, data_key: &[u8]) -> Result<Vec<u8>, String> {
        let mut wrapped = vec![0; self.wrapped_bytes()];
        let used = self
            .public
            .encrypt(&OAEP_SHA256_MGF1SHA256, data_key, &mut wrapped, Some(LABEL))
            .map_err(|_| "the data key cannot be wrapped")?
            .len();
        wrapped.truncate(used);
        Ok(wrapped)
    }

    pub(super) fn unwrap(&self, wrapped: &[u8]) -> Result<Vec<u8>, String> {
        let mut room = vec![0; self.private.min_output_size()];
        let used = self
            .private
            .decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut room, Some(LABEL))
            .map_err(|_| "the wrapped data key is damaged, or of another private key")?
            .len();
        room.truncate(used);
        Ok(room)
    }
}

fn damaged(why: impl ToString) -> KeyError {
    KeyError::Damaged(why.to_string())
}

/// The DER of a block, and whether a passphrase was needed for it.
fn unlock(block: &Pem, passphrase: Option<&[u8]>) -> Result<(Vec<u8>, bool), KeyError> {
    let is_legacy = block.headers().get("Proc-Type").is_some_and(|kind| kind.contains("ENCRYPTED"));
    if !is_legacy && block.tag() != "ENCRYPTED PRIVATE KEY" {
        return Ok((block.contents().to_vec(), false));
    }
    let passphrase = passphrase.ok_or(KeyError::PassphraseMissing)?;
    let der = if is_legacy {
        let info = block.headers().get("DEK-Info").ok_or_else(|| damaged("it has no DEK-Info line"))?;
        legacy::decrypt(info, block.contents(), passphrase)?
    } else {
        decrypt_pkcs8(block.contents(), passphrase)?
    };
    Ok((der, true))
}

fn decrypt_pkcs8(der: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, KeyError> {
    let Ok(sealed) = EncryptedPrivateKeyInfoRef::from_der(der) else {
        return Err(match protection(der) {
            Ok(oid) => KeyError::Protection(format!("the algorithm {oid}")),
            Err(error) => damaged(error),
        });
    };
    match sealed.decrypt(passphrase) {
        Ok(key) => Ok(key.as_bytes().to_vec()),
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) | pkcs8::Error::Asn1(_)) => {
            Err(KeyError::PassphraseWrong)
        }
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::NoPbes1CryptSupport)) => {
            Err(KeyError::Protection("PBES1".to_owned()))
        }
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::UnsupportedAlgorithm { oid })) => {
            Err(KeyError::Protection(format!("the algorithm {oid}")))
        }
        Err(error) => Err(damaged(error)),
    }
}

/// The algorithm that a PKCS#8 document says it is encrypted with.
fn protection(der: &[u8]) -> pkcs8::der::Result<ObjectIdentifier> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|document| {
        let algorithm = AlgorithmIdentifier::<AnyRef<'_>>::decode(document)?;
        <&OctetStringRef>::decode(document)?;
        Ok(algorithm.oid)
    })
}

fn is_pkcs1(der: &[u8]) -> bool {
    modulus_bits(der).is_ok()
}

/// Bits of the modulus in a PKCS#1 private key: a sequence of version, modulus and what else makes the key.
fn modulus_bits(pkcs1: &[u8]) -> pkcs8::der::Result<usize> {
    let mut reader = SliceReader::new(pkcs1)?;
    reader.sequence(|key| {
        u8::decode(key)?;
        let modulus = UintRef::decode(key)?.as_bytes();
        // Of the rest the library makes what it will.
        key.read_slice(key.remaining_len())?;
        let leading = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        Ok(8 * modulus.len() - leading)
    })
}
