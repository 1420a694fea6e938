//! An SM2 key wraps data keys with the public key encryption of SM2 (GB/T 32918.4), as
//! `SEQUENCE { x, y INTEGER, digest, ciphertext OCTET STRING }`.
//!
//! The two integers are as short as their values allow, so that the length of a wrapped key varies by some bytes.

use pkcs8::{
    ObjectIdentifier,
    der::{
        Decode, Reader, SliceReader,
        asn1::{AnyRef, ContextSpecific, OctetStringRef},
    },
};
use sm2::{
    SecretKey,
    elliptic_curve::common::getrandom::SysRng,
    pke::{DecryptingKey, Mode},
};

use crate::cipher::error::{KeyError, damaged};

/// Bytes of a coordinate, a private key, and a digest.
const FIELD_BYTES: usize = 32;

/// An SM2 key that wraps data keys.
pub struct Sm2Key(DecryptingKey);

impl std::fmt::Debug for Sm2Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sm2Key")
    }
}

impl Sm2Key {
    /// Reads the SEC1 structure within PKCS#8. Some programs write the number with zeros before it, others without those it
    /// must have; both are understood. The public key is computed.
    pub(super) fn from_sec1(der: &[u8]) -> Result<Self, KeyError> {
        let (number, _) = sec1(der).map_err(damaged)?;
        let number = &number[number.iter().take_while(|byte| **byte == 0).count()..];
        let mut padded = [0; FIELD_BYTES];
        let from = FIELD_BYTES.checked_sub(number.len()).ok_or_else(|| damaged("the number is too long"))?;
        padded[from..].copy_from_slice(number);
        let key = SecretKey::from_slice(&padded).map_err(|_| damaged("the number is not one of the curve"))?;
        Ok(Self(DecryptingKey::new_with_mode(key.to_nonzero_scalar(), Mode::C1C3C2)))
    }

    pub(super) fn wrap(&self, data_key: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypting_key().encrypt_der(&mut SysRng, data_key).ok()
    }

    pub(super) fn unwrap(&self, wrapped: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt_der(wrapped).ok()
    }
}

/// Returns the most bytes that a wrapped data key of `data_key_bytes` has, when both integers have a leading zero.
pub(super) fn wrapped_bytes(data_key_bytes: usize) -> usize {
    let with_header = |content: usize| content + if content < 128 { 2 } else { 3 };
    let integer = with_header(FIELD_BYTES + 1);
    with_header(2 * integer + with_header(FIELD_BYTES) + with_header(data_key_bytes))
}

/// Returns the curve that a SEC1 private key itself names.
pub(super) fn curve(der: &[u8]) -> Option<ObjectIdentifier> {
    sec1(der).ok()?.1
}

/// The number in a SEC1 private key, and its curve if it is there: `SEQUENCE { 1, number, [0] curve, [1] public key }`.
fn sec1(der: &[u8]) -> pkcs8::der::Result<(&[u8], Option<ObjectIdentifier>)> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|key| {
        u8::decode(key)?;
        let number = <&OctetStringRef>::decode(key)?.as_bytes();
        let mut curve = None;
        while !key.is_finished() {
            let part = ContextSpecific::<AnyRef<'_>>::decode(key)?;
            if part.tag_number.value() == 0 {
                curve = part.value.decode_as().ok();
            }
        }
        Ok((number, curve))
    })
}
