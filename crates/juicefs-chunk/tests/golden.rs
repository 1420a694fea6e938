//! Blocks that the reference client wrote decode here to the size that their key names.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use juicefs_chunk::{ChunkConfig, Cipher, Encrypted, Store, object::read_uuid, open_storage};
use juicefs_core::{ChunkStore, Format, SliceId, SliceKey, store::ReadPurpose};

fn golden() -> PathBuf {
    std::env::var_os("JFS_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden"), PathBuf::from)
}

fn text(volume: &str, file: &str) -> String {
    std::fs::read_to_string(golden().join(volume).join(file)).unwrap_or_else(|e| panic!("{volume}/{file}: {e}"))
}

/// Unpacks the objects of a golden volume and returns the setting that opens them.
fn unpack(volume: &str, dir: &Path) -> Format {
    let archive = golden().join(volume).join("objects.tar.gz");
    assert!(archive.exists(), "{} is missing: set JFS_GOLDEN to the golden volumes", archive.display());
    let done = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(dir).status().expect("tar runs");
    assert!(done.success(), "tar cannot unpack {}", archive.display());
    let (compression, block_size) = match volume {
        "sqlite-aes" => ("none", 256),
        "sqlite-lz4" | "sqlite-chacha" => ("lz4", 4096),
        "sqlite-zstd" => ("zstd", 4096),
        "sqlite-block64k" => ("none", 64),
        _ => ("none", 4096),
    };
    let encrypt_algo = match volume {
        "sqlite-aes" => "aes256gcm-rsa",
        "sqlite-chacha" => "chacha20-rsa",
        _ => "",
    };
    let encrypt_key = if encrypt_algo.is_empty() { String::new() } else { text(volume, "key.pem") };
    let (shards, bucket) = if volume == "sqlite-hashprefix" { (4, "%d/") } else { (0, "") };
    Format {
        name: volume.into(),
        storage: "file".into(),
        bucket: format!("{}/{bucket}", dir.display()),
        shards,
        hash_prefix: shards > 0,
        compression: compression.into(),
        block_size,
        encrypt_algo: encrypt_algo.into(),
        encrypt_key,
        ..Format::default()
    }
}

async fn check(volume: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let format = unpack(volume, dir.path());
    let storage = open_storage(&format).expect("a store");
    let passphrase = if format.encrypt_key.is_empty() { String::new() } else { text(volume, "passphrase.txt") };
    let cipher = Cipher::of_volume(&format, Some(passphrase.trim_end().as_bytes())).expect("a good key");
    let uuid = match &cipher {
        Some(cipher) => read_uuid(&Encrypted::new(Arc::clone(&storage), Arc::clone(cipher))).await,
        None => read_uuid(storage.as_ref()).await,
    };
    let uuid = uuid.expect("readable").expect("written");
    assert!(text(volume, "status.json").contains(&format!("\"UUID\": \"{uuid}\"")), "{uuid} is of another volume");
    let objects = storage.list("chunks/", "", 100_000).await.expect("a list");
    // Sizes of the blocks of each slice, by number.
    let mut slices: BTreeMap<u64, BTreeMap<u32, u32>> = BTreeMap::new();
    for object in &objects {
        let name = object.key.rsplit('/').next().expect("a name");
        let parts: Vec<u64> = name.split('_').map(|part| part.parse().expect("a number")).collect();
        slices.entry(parts[0]).or_default().insert(parts[1] as u32, parts[2] as u32);
    }
    assert!(slices.len() > 50, "{} slices in {volume}", slices.len());
    let config = ChunkConfig::for_volume(&format, cipher).expect("a config");
    let block_size = config.block_size as u32;
    let store = Store::open(config, storage);
    let mut blocks = 0;
    for (id, sizes) in slices {
        let (last, tail) = sizes.last_key_value().expect("a block");
        let slice = SliceKey { id: SliceId(id), size: last * block_size + tail };
        for (index, size) in &sizes {
            let read = store.read(slice, index * block_size, *size, ReadPurpose::Random).await;
            let read = read.unwrap_or_else(|e| panic!("{volume}: block {index} of slice {id}: {e}"));
            assert_eq!(read.iter().map(bytes::Bytes::len).sum::<usize>(), *size as usize);
            blocks += 1;
        }
    }
    assert_eq!(blocks, objects.len());
    store.shutdown().await;
    assert_eq!(store.stats().object_errors, 0);
}

#[tokio::test]
async fn blocks_in_shards_with_hashed_keys() {
    check("sqlite-hashprefix").await;
}

#[tokio::test]
async fn plain_blocks() {
    check("sqlite-plain").await;
}

#[tokio::test]
async fn lz4_blocks() {
    check("sqlite-lz4").await;
}

#[tokio::test]
async fn zstd_blocks() {
    check("sqlite-zstd").await;
}

#[tokio::test]
async fn small_blocks() {
    check("sqlite-block64k").await;
}

#[tokio::test]
async fn blocks_encrypted_with_aes() {
    check("sqlite-aes").await;
}

#[tokio::test]
async fn compressed_blocks_encrypted_with_chacha20() {
    check("sqlite-chacha").await;
}
