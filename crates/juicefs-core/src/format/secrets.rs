//! How the secrets in the setting of a volume are stored: as base64 of nonce, ciphertext and tag, under a key that is
//! derived from the UUID (format: metadata.md §1.3). That hides them from a glance, not from anybody who knows the
//! UUID.

use aes_gcm::{AesGcm, KeyInit, aead::AeadInOut, aead::consts::U12};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use md5::{Digest, Md5};
use sm3::Sm3;
use sm4::Sm4;

use super::FormatError;

/// Bytes of an authentication tag, the same for both ciphers.
const TAG_BYTES: usize = 16;
/// Bytes of a key of either cipher.
const KEY_BYTES: usize = 16;

/// The cipher of the secrets of a volume. The algorithm by which the volume encrypts its data decides which one it is.
pub(super) enum SecretCipher {
    /// AES-128-GCM, which all volumes have but those with SM4.
    Aes(LessSafeKey),
    /// SM4-GCM.
    Sm4(Box<AesGcm<Sm4, U12>>),
}

impl SecretCipher {
    /// The cipher of a volume with this algorithm and UUID.
    pub(super) fn of_volume(algorithm: &str, uuid: &str) -> Result<Self, FormatError> {
        if algorithm == "sm4gcm" {
            return Ok(Self::Sm4(Box::new(AesGcm::new(&sm3_key(uuid).into()))));
        }
        let key = UnboundKey::new(&AES_128_GCM, &Md5::digest(uuid.as_bytes()))
            .map_err(|_| FormatError::Secret("no key from the UUID"))?;
        Ok(Self::Aes(LessSafeKey::new(key)))
    }

    pub(super) fn seal(&self, secret: &str) -> Result<String, FormatError> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let failed = FormatError::Secret("sealing failed");
        let mut sealed = secret.as_bytes().to_vec();
        match self {
            Self::Aes(key) => key
                .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
                .map_err(|_| failed)?,
            Self::Sm4(key) => {
                let tag =
                    key.encrypt_inout_detached(&nonce.into(), &[], sealed.as_mut_slice().into()).map_err(|_| failed)?;
                sealed.extend_from_slice(&tag);
            }
        }
        Ok(BASE64.encode([nonce.as_slice(), &sealed].concat()))
    }

    pub(super) fn open(&self, text: &str) -> Result<String, FormatError> {
        let (short, damaged) = (FormatError::Secret("too short"), FormatError::Secret("wrong UUID or damaged"));
        let bytes = BASE64.decode(text).map_err(|_| FormatError::Secret("not base64"))?;
        let Some((nonce, sealed)) = bytes.split_first_chunk::<NONCE_LEN>() else { return Err(short) };
        let Some((body, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else { return Err(short) };
        let mut plain = sealed.to_vec();
        match self {
            Self::Aes(key) => {
                let nonce = Nonce::assume_unique_for_key(*nonce);
                key.open_in_place(nonce, Aad::empty(), &mut plain).map_err(|_| damaged)?;
                plain.truncate(body.len());
            }
            Self::Sm4(key) => {
                plain.truncate(body.len());
                key.decrypt_inout_detached(&(*nonce).into(), &[], plain.as_mut_slice().into(), &(*tag).into())
                    .map_err(|_| damaged)?;
            }
        }
        String::from_utf8(plain).map_err(|_| FormatError::Secret("not text"))
    }
}

/// The key derivation of GM/T 0003.4 for a key that is no longer than one digest: the digest of the text and a counter.
fn sm3_key(uuid: &str) -> [u8; KEY_BYTES] {
    let digest = Sm3::new().chain_update(uuid.as_bytes()).chain_update(1_u32.to_be_bytes()).finalize();
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_both_ciphers_come_back_and_damage_is_seen() {
        for algorithm in ["", "aes256gcm-rsa", "sm4gcm"] {
            let cipher = SecretCipher::of_volume(algorithm, "a-uuid").expect("a cipher");
            for secret in ["x", "a secret of more than one block"] {
                let sealed = cipher.seal(secret).expect("sealed");
                assert_ne!(sealed, cipher.seal(secret).expect("sealed"), "the nonce must be fresh");
                assert_eq!(cipher.open(&sealed).expect("opened"), secret);
                let whole = BASE64.decode(&sealed).expect("base64");
                assert_eq!(whole.len(), NONCE_LEN + secret.len() + TAG_BYTES);
                for at in 0..whole.len() {
                    let mut body = whole.clone();
                    body[at] ^= 1 << (at % 8);
                    let error = cipher.open(&BASE64.encode(body)).expect_err("damaged");
                    assert_eq!(error, FormatError::Secret("wrong UUID or damaged"), "{algorithm} {at}");
                    assert!(cipher.open(&BASE64.encode(&whole[..at])).is_err(), "{algorithm} cut to {at}");
                }
            }
        }
    }

    #[test]
    fn each_cipher_and_each_volume_has_a_key_of_its_own() {
        let cipher = |algorithm, uuid| SecretCipher::of_volume(algorithm, uuid).expect("a cipher");
        let sealed = cipher("sm4gcm", "a-uuid").seal("secret").expect("sealed");
        for other in [cipher("sm4gcm", "b-uuid"), cipher("", "a-uuid"), cipher("chacha20-rsa", "a-uuid")] {
            assert_eq!(other.open(&sealed), Err(FormatError::Secret("wrong UUID or damaged")));
        }
    }
}
