//! Blocks that the reference client wrote decode here to the size that their key names.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use juicefs_chunk::{ChunkConfig, Store, object::read_uuid, open_storage};
use juicefs_core::{ChunkStore, Format, SliceId, SliceKey, store::ReadPurpose};

fn golden() -> PathBuf {
    std::env::var_os("JFS_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden"), PathBuf::from)
}

/// Unpacks the objects of a golden volume and returns the setting that opens them.
fn unpack(volume: &str, dir: &Path) -> Format {
    let archive = golden().join(volume).join("objects.tar.gz");
    assert!(archive.exists(), "{} is missing: set JFS_GOLDEN to the golden volumes", archive.display());
    let done = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(dir).status().expect("tar runs");
    assert!(done.success(), "tar cannot unpack {}", archive.display());
    let (compression, block_size) = match volume {
        "sqlite-lz4" => ("lz4", 4096),
        "sqlite-zstd" => ("zstd", 4096),
        "sqlite-block64k" => ("none", 64),
        _ => ("none", 4096),
    };
    let (shards, bucket) = if volume == "sqlite-hashprefix" { (4, "%d/") } else { (0, "") };
    Format {
        name: volume.into(),
        storage: "file".into(),
        bucket: format!("{}/{bucket}", dir.display()),
        shards,
        hash_prefix: shards > 0,
        compression: compression.into(),
        block_size,
        ..Format::default()
    }
}

async fn check(volume: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let format = unpack(volume, dir.path());
    let storage = open_storage(&format).expect("a store");
    assert_eq!(read_uuid(storage.as_ref()).await.expect("readable").expect("written").len(), 36);
    let objects = storage.list("chunks/", "", 100_000).await.expect("a list");
    // Sizes of the blocks of each slice, by number.
    let mut slices: BTreeMap<u64, BTreeMap<u32, u32>> = BTreeMap::new();
    for object in &objects {
        let name = object.key.rsplit('/').next().expect("a name");
        let parts: Vec<u64> = name.split('_').map(|part| part.parse().expect("a number")).collect();
        slices.entry(parts[0]).or_default().insert(parts[1] as u32, parts[2] as u32);
    }
    assert!(slices.len() > 50, "{} slices in {volume}", slices.len());
    let config = ChunkConfig::for_format(&format).expect("a config");
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
