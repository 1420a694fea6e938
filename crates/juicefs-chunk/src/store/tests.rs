use bytes::Bytes;
use juicefs_core::{Format, Lease, Share, SliceId};

use super::*;
use crate::open_storage;

pub(crate) fn format(compression: &str) -> Format {
    Format {
        name: "vol".into(),
        storage: "mem".into(),
        block_size: 64,
        compression: compression.into(),
        ..Format::default()
    }
}

pub(crate) fn config(compression: &str) -> ChunkConfig {
    ChunkConfig {
        retry_delay: Duration::from_millis(1),
        ..ChunkConfig::for_format(&format(compression)).expect("a config")
    }
}

/// As [`config`], of an encrypted volume.
pub(crate) fn encrypted(compression: &str, algorithm: &str) -> ChunkConfig {
    ChunkConfig { cipher: Some(crate::cipher::tests::cipher(algorithm)), ..config(compression) }
}

pub(crate) fn mem() -> Arc<dyn ObjectStorage> {
    open_storage(&format("none")).expect("memory")
}

/// Writes `data` as one slice.
pub(crate) async fn put(store: &Store, id: u64, data: &[u8]) -> SliceKey {
    let mut writer = store.writer(WriteOptions::default());
    writer.set_id(SliceId(id));
    for (at, part) in data.chunks(100_000).enumerate() {
        let lease = store.budget().acquire(Share::Write, part.len()).await;
        writer.write(at as u32 * 100_000, Bytes::copy_from_slice(part), lease).expect("written");
        writer.flush_to(writer.len());
    }
    writer.finish().await.expect("finished");
    SliceKey { id: SliceId(id), size: data.len() as u32 }
}

pub(crate) async fn get(store: &Store, slice: SliceKey, off: u32, len: u32) -> Vec<u8> {
    store.read(slice, off, len, ReadPurpose::Random).await.expect("read").concat()
}

pub(crate) fn sample(len: usize) -> Vec<u8> {
    static PATTERN: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let words = 0..(8 << 20) / 4_u32;
    PATTERN.get_or_init(|| words.flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect())[..len]
        .to_vec()
}

/// The round trip that the reference client tests.
async fn round_trip(config: ChunkConfig) {
    let block = config.block_size as u32;
    let is_plain = config.compression.is_none() && config.cipher.is_none();
    let storage = mem();
    let store = Store::open(config, Arc::clone(&storage));
    let mut writer = store.writer(WriteOptions::default());
    let hello = || Bytes::from_static(b"hello world");
    writer.write(0, hello(), Lease::empty()).expect("written");
    writer.write(block - 3, hello(), Lease::empty()).expect("across the edge of the block");
    writer.flush_to(block);
    assert_eq!((writer.sealed(), writer.len()), (0, block + 8), "no upload without an id");
    writer.set_id(SliceId(1));
    writer.flush_to(block);
    assert_eq!(writer.sealed(), block);
    assert!(matches!(writer.write(block - 1, hello(), Lease::empty()), Err(ChunkError::Misuse(_))));
    writer.finish().await.expect("finished");
    assert!(matches!(writer.write(block + 8, hello(), Lease::empty()), Err(ChunkError::Misuse(_))));
    drop(writer);
    let slice = SliceKey { id: SliceId(1), size: block + 8 };
    for _ in 0..2 {
        assert_eq!(get(&store, slice, 6, 5).await, b"world");
        assert_eq!(get(&store, slice, 0, 5).await, b"hello");
        assert_eq!(get(&store, slice, block - 3, 11).await, b"hello world");
        assert_eq!(get(&store, slice, 11, 20).await, [0; 20]);
        let all = get(&store, slice, 0, slice.size).await;
        assert_eq!(all.len(), slice.size as usize);
    }
    assert!(store.read(slice, block, 9, ReadPurpose::Random).await.is_err(), "past the end");
    let keys: Vec<_> = storage.list("", "", 10).await.expect("list").into_iter().map(|o| (o.key, o.size)).collect();
    assert_eq!(keys.iter().map(|k| k.0.as_str()).collect::<Vec<_>>(), ["chunks/0/0/1_0_65536", "chunks/0/0/1_1_8"]);
    assert_eq!(is_plain, keys[0].1 == 65536);

    let (a, b, c) = (sample(200_000), sample(10), sample(65_536));
    let slices = tokio::join!(put(&store, 2, &a), put(&store, 3, &b), put(&store, 4, &c));
    assert_eq!(get(&store, slices.0, 0, 200_000).await, a);
    for slice in [slice, slices.0, slices.1, slices.2] {
        store.remove(slice).await.expect("removed");
        store.remove(slice).await.expect("removing what is not there");
    }
    assert_eq!(storage.list("", "", 10).await.expect("list"), []);
    store.shutdown().await;
    assert_eq!(store.budget().used_bytes(), 0);
    assert_eq!((store.stats().cached_blocks, store.stats().cached_bytes), (0, 0));
}

#[tokio::test]
async fn slices_come_back() {
    for codec in ["none", "lz4", "zstd"] {
        round_trip(config(codec)).await;
    }
    round_trip(ChunkConfig { buffer_bytes: 1 << 20, ..config("none") }).await;
    for (codec, algorithm) in [("none", "chacha20-rsa"), ("lz4", "aes256gcm-rsa"), ("zstd", "chacha20-rsa")] {
        round_trip(encrypted(codec, algorithm)).await;
    }
}

mod disks;
mod encryption;
mod faults;
mod limits;
mod locks;
mod model;
mod reads;
mod replaced;
mod s3;
mod staged;
mod sweep;
