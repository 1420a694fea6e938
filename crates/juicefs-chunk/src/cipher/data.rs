//! Bodies are encrypted by these ciphers, each with a key that serves one body.

use aes_gcm::{
    AesGcm, KeyInit,
    aead::{AeadInOut, consts::U12, inout::InOutBuf},
};
use aws_lc_rs::aead::{self, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sm4::Sm4;

/// The most bytes that a data key has.
pub(super) const DATA_KEY_BYTES: usize = 32;
/// How many bytes a nonce has, with every algorithm.
pub(super) const NONCE_BYTES: usize = aead::NONCE_LEN;
/// How many bytes an authentication tag has, with every algorithm.
pub(super) const TAG_BYTES: usize = 16;

/// The algorithm that bodies are encrypted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
    /// SM4-GCM.
    Sm4Gcm,
}

impl Algorithm {
    /// Finds the algorithm with this name in the volume setting. An empty name means the first.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "" | "aes256gcm-rsa" => Some(Self::Aes256Gcm),
            "chacha20-rsa" => Some(Self::ChaCha20Poly1305),
            "sm4gcm" => Some(Self::Sm4Gcm),
            _ => None,
        }
    }

    /// Returns how many bytes a data key has.
    pub(super) fn key_bytes(self) -> usize {
        match self {
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => DATA_KEY_BYTES,
            Self::Sm4Gcm => 16,
        }
    }
}

/// A cipher with the key of one body.
pub(super) enum DataKey {
    /// By the cryptography library that serves all the rest.
    Common(LessSafeKey),
    /// That library has no SM4.
    Sm4(Box<AesGcm<Sm4, U12>>),
}

impl DataKey {
    pub(super) fn new(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, String> {
        let wrong = || format!("the data key has {} bytes instead of {}", bytes.len(), algorithm.key_bytes());
        let common = match algorithm {
            Algorithm::Aes256Gcm => &AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Algorithm::Sm4Gcm => {
                return Ok(Self::Sm4(Box::new(AesGcm::new_from_slice(bytes).map_err(|_| wrong())?)));
            }
        };
        Ok(Self::Common(LessSafeKey::new(UnboundKey::new(common, bytes).map_err(|_| wrong())?)))
    }

    /// Encrypts in place, and returns the tag.
    pub(super) fn seal(&self, nonce: [u8; NONCE_BYTES], body: &mut [u8]) -> Result<[u8; TAG_BYTES], String> {
        let failed = || "the body cannot be encrypted".to_owned();
        match self {
            Self::Common(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), body).map_err(|_| failed())?;
                tag.as_ref().try_into().map_err(|_| failed())
            }
            Self::Sm4(key) => {
                key.encrypt_inout_detached(&nonce.into(), &[], body.into()).map(Into::into).map_err(|_| failed())
            }
        }
    }

    /// Decrypts `body` into `plain`, which must be as long. Of a damaged body nothing of the content is left there.
    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        body: &[u8],
        tag: [u8; TAG_BYTES],
        plain: &mut [u8],
    ) -> Result<(), String> {
        let opened = match self {
            Self::Common(key) => {
                key.open_separate_gather(Nonce::assume_unique_for_key(nonce), Aad::empty(), body, &tag, plain).is_ok()
            }
            // The tag is compared before anything is decrypted.
            Self::Sm4(key) => InOutBuf::new(body, plain)
                .is_ok_and(|both| key.decrypt_inout_detached(&nonce.into(), &[], both, &tag.into()).is_ok()),
        };
        if opened { Ok(()) } else { Err("the encrypted body is damaged".to_owned()) }
    }
}
