//! PEM files with the headers `Proc-Type: 4,ENCRYPTED` and `DEK-Info: <cipher>,<IV in hex>` are decrypted here.
//!
//! This traditional encryption is weak, for one round of MD5 makes the key. It is read, because many keys in use are
//! protected with it, and never written.

use cbc::{
    Decryptor,
    cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit, block_padding::Pkcs7},
};
use md5::{Digest, Md5};

use super::error::KeyError;

/// Bytes of the IV that salt the key.
const SALT_BYTES: usize = 8;

/// Decrypts the content of a block. A wrong passphrase is noticed mostly, but not always.
pub(super) fn decrypt(info: &str, sealed: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, KeyError> {
    let damaged = |why: &str| KeyError::Damaged(format!("{why} in its line DEK-Info: {info}"));
    let (name, iv) = info.split_once(',').ok_or_else(|| damaged("there is no IV"))?;
    let iv = hex::decode(iv.trim()).map_err(|_| damaged("the IV is not hexadecimal"))?;
    let salt = iv.get(..SALT_BYTES).ok_or_else(|| damaged("the IV is too short"))?;
    let plain = match name.trim() {
        "AES-128-CBC" => run::<aes::Aes128>(&key(passphrase, salt, 16), &iv, sealed),
        "AES-192-CBC" => run::<aes::Aes192>(&key(passphrase, salt, 24), &iv, sealed),
        "AES-256-CBC" => run::<aes::Aes256>(&key(passphrase, salt, 32), &iv, sealed),
        "DES-EDE3-CBC" => run::<des::TdesEde3>(&key(passphrase, salt, 24), &iv, sealed),
        "DES-CBC" => run::<des::Des>(&key(passphrase, salt, 8), &iv, sealed),
        other => return Err(KeyError::Protection(other.to_owned())),
    };
    plain.ok_or_else(|| damaged("the length of the IV is wrong"))?
}

/// The outcome of decrypting. When it looks like noise without padding the passphrase was wrong.
pub(super) type Decrypted = Result<Vec<u8>, KeyError>;

/// Decrypts in CBC mode. Returns `None` when the length of the key or of the IV does not fit the cipher.
pub(super) fn run<C: BlockCipherDecrypt + KeyInit>(key: &[u8], iv: &[u8], sealed: &[u8]) -> Option<Decrypted> {
    let cipher = Decryptor::<C>::new_from_slices(key, iv).ok()?;
    Some(cipher.decrypt_padded_vec::<Pkcs7>(sealed).map_err(|_| KeyError::PassphraseWrong))
}

/// As many digests of digest, passphrase and salt as the key takes.
fn key(passphrase: &[u8], salt: &[u8], len: usize) -> Vec<u8> {
    let mut key = Vec::new();
    let mut digest = Vec::new();
    while key.len() < len {
        digest = Md5::new().chain_update(&digest).chain_update(passphrase).chain_update(salt).finalize().to_vec();
        key.extend_from_slice(&digest);
    }
    key.truncate(len);
    key
}
