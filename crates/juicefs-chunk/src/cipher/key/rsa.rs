//! An RSA key wraps data keys with OAEP.

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey};
use pkcs8::{
    ObjectIdentifier, PrivateKeyInfoRef,
    der::{
        Decode, Encode, Reader, SliceReader,
        asn1::{AnyRef, OctetStringRef, UintRef},
    },
    spki::AlgorithmIdentifier,
};

use crate::cipher::error::{KeyError, RSA_KEY_BITS, damaged};

/// The label of OAEP, part of the format.
const LABEL: &[u8] = b"keys";
/// PKCS#8 names an RSA key by this.
pub(super) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// An RSA key that wraps data keys.
pub struct RsaKey {
    private: OaepPrivateDecryptingKey,
    public: OaepPublicEncryptingKey,
}

impl std::fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RsaKey({} bits)", self.private.key_size_bits())
    }
}

impl RsaKey {
    pub(super) fn from_pkcs1(pkcs1: &[u8]) -> Result<Self, KeyError> {
        let bits = modulus_bits(pkcs1).map_err(damaged)?;
        if !RSA_KEY_BITS.contains(&bits) {
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

    pub(super) fn wrap(&self, data_key: &[u8]) -> Option<Vec<u8>> {
        let mut wrapped = vec![0; self.wrapped_bytes()];
        let used = self.public.encrypt(&OAEP_SHA256_MGF1SHA256, data_key, &mut wrapped, Some(LABEL)).ok()?.len();
        wrapped.truncate(used);
        Some(wrapped)
    }

    pub(super) fn unwrap(&self, wrapped: &[u8]) -> Option<Vec<u8>> {
        let mut room = vec![0; self.private.min_output_size()];
        let used = self.private.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut room, Some(LABEL)).ok()?.len();
        room.truncate(used);
        Some(room)
    }
}

pub(super) fn is_pkcs1(der: &[u8]) -> bool {
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
