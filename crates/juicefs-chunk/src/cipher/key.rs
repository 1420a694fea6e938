//! The private key of a volume is read from its PEM file, and wraps and unwraps data keys.

mod rsa;
mod sm2;

use juicefs_core::format::REMOVED;
use pem::Pem;
use pkcs8::{
    ObjectIdentifier, PrivateKeyInfoRef,
    der::{Decode, asn1::AnyRef},
    spki::AlgorithmIdentifier,
};

use self::{
    rsa::{RSA, RsaKey},
    sm2::Sm2Key,
};
use super::{
    error::{KeyError, damaged},
    legacy, pbes,
};

/// PKCS#8 names a key on any elliptic curve by this.
const CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// An SM2 key, and its curve, are named by this.
const SM2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.156.10197.1.301");

/// A key that wraps data keys.
#[derive(Debug)]
pub enum VolumeKey {
    /// The key wraps with OAEP.
    Rsa(RsaKey),
    /// The key wraps with the public key encryption of SM2.
    Sm2(Sm2Key),
}

impl VolumeKey {
    /// Reads the first PEM block of a file: PKCS#1 (RSA) or PKCS#8 (RSA and SM2), either plain or protected by `passphrase`
    /// (PBES2 with PBKDF2 or scrypt; the traditional `DEK-Info`). A passphrase for a key without one is ignored, as is an
    /// empty one.
    ///
    /// # Errors
    /// When the key cannot be used, with a sentence for the user.
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
        if let Ok(info) = PrivateKeyInfoRef::from_der(der) {
            return Self::from_pkcs8(&info.algorithm, info.private_key.as_bytes());
        }
        match label {
            "RSA PRIVATE KEY" | "PRIVATE KEY" => RsaKey::from_pkcs1(der).map(Self::Rsa),
            _ if rsa::is_pkcs1(der) => RsaKey::from_pkcs1(der).map(Self::Rsa),
            "ENCRYPTED PRIVATE KEY" => Err(KeyError::Damaged("not PKCS#8".to_owned())),
            _ if sm2::curve(der) == Some(SM2) => Err(KeyError::Sec1),
            _ => Err(KeyError::Kind(format!("a block {label:?}"))),
        }
    }

    fn from_pkcs8(algorithm: &AlgorithmIdentifier<AnyRef<'_>>, key: &[u8]) -> Result<Self, KeyError> {
        if algorithm.oid == RSA {
            return RsaKey::from_pkcs1(key).map(Self::Rsa);
        }
        let other = |what: &str| KeyError::Kind(format!("a private key of the algorithm {}{what}", algorithm.oid));
        if ![CURVE, SM2].contains(&algorithm.oid) {
            return Err(other(""));
        }
        // The curve stands beside the key, or with it.
        let named = algorithm.parameters.and_then(|any| any.decode_as().ok());
        match named.or_else(|| sm2::curve(key)) {
            Some(SM2) => Sm2Key::from_sec1(key).map(Self::Sm2),
            Some(curve) => Err(other(&format!(" with the curve {curve}"))),
            None => Err(other(" without a curve")),
        }
    }

    /// Returns how many bytes a data key of `data_key_bytes` has once it is wrapped: exactly with RSA, at most with SM2.
    pub(super) fn wrapped_bytes(&self, data_key_bytes: usize) -> usize {
        match self {
            Self::Rsa(key) => key.wrapped_bytes(),
            Self::Sm2(_) => sm2::wrapped_bytes(data_key_bytes),
        }
    }

    /// Whether a data key of `data_key_bytes` may be of `wrapped_bytes` once it is wrapped.
    pub(super) fn may_wrap_as(&self, data_key_bytes: usize, wrapped_bytes: usize) -> bool {
        let most = self.wrapped_bytes(data_key_bytes);
        match self {
            Self::Rsa(_) => wrapped_bytes == most,
            Self::Sm2(_) => wrapped_bytes <= most,
        }
    }

    pub(super) fn wrap(&self, data_key: &[u8]) -> Result<Vec<u8>, String> {
        let wrapped = match self {
            Self::Rsa(key) => key.wrap(data_key),
            Self::Sm2(key) => key.wrap(data_key),
        };
        wrapped.ok_or_else(|| "the data key cannot be wrapped".to_owned())
    }

    pub(super) fn unwrap(&self, wrapped: &[u8]) -> Result<Vec<u8>, String> {
        let data_key = match self {
            Self::Rsa(key) => key.unwrap(wrapped),
            Self::Sm2(key) => key.unwrap(wrapped),
        };
        data_key.ok_or_else(|| "the wrapped data key is damaged, or of another private key".to_owned())
    }
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
        pbes::decrypt(block.contents(), passphrase)?
    };
    Ok((der, true))
}
