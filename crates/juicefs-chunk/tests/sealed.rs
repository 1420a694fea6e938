//! Volumes that the reference client encrypted under SM2 and SM4 open here, and only as they are.

use std::{path::Path, sync::Arc};

use juicefs_chunk::{Cipher, CipherError, Encrypted, KeyError, object::read_uuid, open_storage};
use juicefs_core::{Format, ObjectStorage, StorageError, format::FormatError};

const PASSPHRASE: &[u8] = b"correct-horse";
/// Volume, private key, algorithm.
const VOLUMES: [(&str, &str, &str); 5] = [
    ("sm4gcm-sm2", include_str!("keys/sm2.pem"), "sm4gcm"),
    ("sm4gcm-sm2-protected", include_str!("keys/sm2-pbes-gmt.pem"), "sm4gcm"),
    ("aes256gcm-sm2", include_str!("keys/sm2.pem"), "aes256gcm-rsa"),
    ("aes256gcm-sm2-protected", include_str!("keys/sm2-pbes2-sm4-sm3.pem"), "aes256gcm-rsa"),
    ("sm4gcm-rsa", include_str!("keys/pkcs1.pem"), "sm4gcm"),
];

/// The setting of a volume as it is stored, but for where its objects are.
fn stored(volume: &str) -> Format {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sealed").join(volume);
    let text = std::fs::read(dir.join("format.json")).expect("a setting");
    Format { bucket: format!("{}/objects/", dir.display()), ..Format::from_json(&text).expect("a sound setting") }
}

fn opened(volume: &str) -> Format {
    let mut format = stored(volume);
    format.decrypt_secrets().expect("the secrets of the volume");
    format
}

fn cipher(format: &Format) -> Arc<Cipher> {
    Cipher::of_volume(format, Some(PASSPHRASE)).expect("a good key").expect("encrypted")
}

async fn content(store: &Encrypted, prefix: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for object in store.list(prefix, "", 100).await.expect("a list") {
        found.push(store.get(&object.key, None).await.expect("readable").concat());
    }
    found
}

#[tokio::test]
async fn what_the_reference_client_sealed_is_read() {
    let data: Vec<u8> = (0..20_000).map(|n| (n * 7 % 251) as u8).collect();
    for (volume, key, algorithm) in VOLUMES {
        let format = opened(volume);
        assert_eq!((format.encrypt_key.as_str(), format.encrypt_algo.as_str()), (key, algorithm), "{volume}");
        let store = Encrypted::new(open_storage(&format).expect("a store"), cipher(&format));
        assert_eq!(read_uuid(&store).await.expect("readable"), Some(format.uuid.clone()), "{volume}");
        let blocks = content(&store, "chunks/").await;
        assert!(blocks == [data.clone(), b"sealed under SM2 and SM4\n".to_vec()], "{volume}: {blocks:?}");
    }
}

#[tokio::test]
async fn another_key_or_algorithm_opens_nothing_of_it() {
    for (volume, _, _) in VOLUMES {
        let format = opened(volume);
        let (pkcs1, sm2) = (include_str!("keys/pkcs1.pem"), include_str!("keys/sm2.pem"));
        let key = if format.encrypt_key == pkcs1 { sm2 } else { pkcs1 };
        let other_key = Format { encrypt_key: key.into(), ..format.clone() };
        let other_algorithm = Format { encrypt_algo: "chacha20-rsa".into(), ..format.clone() };
        for other in [other_key, other_algorithm] {
            let store = Encrypted::new(open_storage(&format).expect("a store"), cipher(&other));
            let failed = store.get("juicefs_uuid", None).await.expect_err("another key");
            assert!(matches!(failed, StorageError::Permanent(_)), "{volume}: {failed}");
        }
    }
}

#[test]
fn the_passphrase_and_the_uuid_are_needed() {
    for (volume, _, _) in VOLUMES {
        if volume.ends_with("-protected") {
            let refused =
                |passphrase: Option<&[u8]>| Cipher::of_volume(&opened(volume), passphrase).expect_err("refused");
            assert_eq!(refused(None), CipherError::Key(KeyError::PassphraseMissing), "{volume}");
            assert_eq!(refused(Some(b"wrong")), CipherError::Key(KeyError::PassphraseWrong), "{volume}");
        }
        let format = stored(volume);
        assert!(format.key_encrypted && !format.encrypt_key.contains("BEGIN"), "{volume}");
        let other = Format { uuid: uuid::Uuid::new_v4().to_string(), ..format.clone() }.decrypt_secrets();
        assert_eq!(other, Err(FormatError::Secret("wrong UUID or damaged")), "{volume}");
        let algorithm = if format.encrypt_algo == "sm4gcm" { "" } else { "sm4gcm" };
        let other = Format { encrypt_algo: algorithm.into(), ..format }.decrypt_secrets();
        assert_eq!(other, Err(FormatError::Secret("wrong UUID or damaged")), "{volume}");
    }
}
