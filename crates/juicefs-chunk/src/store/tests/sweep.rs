//! One flipped byte in what is kept of a block, wherever that is: a reader gets the right bytes or an error.
//!
//! Every byte of small blocks is flipped, and of large ones those that give the body its structure and a sample drawn from a
//! printed seed; `JUICEFS_TEST_FULL=1` draws more. Each byte gets one flipped bit, each bit its turn.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use juicefs_core::{Errno, StorageError};
use juicefs_testkit::{
    fault_store::{Fault, FaultStore, Verb},
    s3::{ACCESS_KEY, S3Server, SECRET_KEY},
};
use rand::{SeedableRng, rngs::StdRng, seq::index::sample as draw};

use super::*;
use crate::{CachePlace, ChecksumLevel, Writeback};

const SMALL: usize = 90;
const LARGE: usize = 1 << 20;

/// Places to flip in a body of `len` bytes: all of a small one; else the structural ones and a sample.
fn places(len: usize, structural: &[std::ops::Range<usize>]) -> Vec<usize> {
    if len <= 2000 {
        return (0..len).collect();
    }
    let full = env::var_os("JUICEFS_TEST_FULL").is_some_and(|value| value == "1");
    let seed = env::var("JUICEFS_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0xF11B);
    println!("{len} bytes: seed {seed}");
    let mut all: Vec<_> = structural.iter().cloned().flatten().collect();
    all.extend(draw(&mut StdRng::seed_from_u64(seed), len, if full { 2000 } else { 40 }));
    all.sort_unstable();
    all.dedup();
    all
}

fn flipped(whole: &[u8], at: usize) -> Vec<u8> {
    let mut body = whole.to_vec();
    body[at] ^= 1 << (at % 8);
    body
}

async fn read(store: &Store, slice: SliceKey) -> Result<Vec<u8>, ChunkError> {
    store.evict(slice).await;
    Ok(store.read(slice, 0, slice.size, ReadPurpose::Random).await?.concat())
}

fn with_blocks(block_size: usize, config: ChunkConfig) -> ChunkConfig {
    ChunkConfig { block_size, io_retries: 1, ..config }
}

/// Flips bytes of the object of one block of `data`: each read is an error, never anything else.
async fn encrypted_object(config: ChunkConfig, data: &[u8]) {
    let key = format!("chunks/0/0/1_0_{}", data.len());
    let storage = mem();
    let store = Store::open(with_blocks(LARGE, config), Arc::clone(&storage));
    let slice = put(&store, 1, data).await;
    let whole = storage.get(&key, None).await.expect("stored").concat();
    let replace = async |body: Vec<u8>| storage.put(&key, Segments::from_iter([body.into()])).await.expect("replaced");
    // Lengths, wrapped key and nonce, and the tag at the end.
    let head = 3 + usize::from(u16::from_be_bytes([whole[0], whole[1]])) + usize::from(whole[2]);
    for at in places(whole.len(), &[0..head, whole.len() - 16..whole.len()]) {
        replace(flipped(&whole, at)).await;
        match read(&store, slice).await {
            Err(error @ ChunkError::Corrupt { .. }) => assert_eq!(error.errno(), Errno::EIO),
            other => panic!("byte {at} of {}: {other:?}", whole.len()),
        }
    }
    replace(whole).await;
    assert!(read(&store, slice).await.expect("sound again") == data);
    assert_eq!(store.budget().used_bytes(), 0);
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_byte_of_an_encrypted_object_is_served() {
    for (codec, algorithm) in
        [("none", "aes256gcm-rsa"), ("none", "chacha20-rsa"), ("lz4", "chacha20-rsa"), ("zstd", "aes256gcm-rsa")]
    {
        encrypted_object(encrypted(codec, algorithm), &sample(SMALL)).await;
    }
    for algorithm in ["aes256gcm-rsa", "chacha20-rsa"] {
        encrypted_object(encrypted("none", algorithm), &sample(LARGE)).await;
    }
}

/// Objects on S3 carry the checksum of their body beside it, which is compared whenever the whole of one is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_byte_of_an_object_on_s3_is_served_whole() {
    let server = S3Server::start();
    server.make_bucket("bkt");
    let setting = Format {
        storage: "s3".into(),
        bucket: server.bucket_url("bkt"),
        access_key: ACCESS_KEY.into(),
        secret_key: SECRET_KEY.into(),
        ..format("none")
    };
    for (id, codec) in [(1, "none"), (2, "lz4"), (3, "zstd")] {
        let storage = open_storage(&setting).expect("a bucket");
        let store = Store::open(with_blocks(LARGE, config(codec)), storage);
        for data in [sample(SMALL), sample(LARGE)] {
            let slice = put(&store, id, &data).await;
            let path = server.bucket_dir("bkt").join(format!("vol/chunks/0/0/{id}_0_{}", data.len()));
            let whole = fs::read(&path).expect("an object");
            let at_edges = [0..20, whole.len() - 8..whole.len()];
            for at in places(whole.len(), &at_edges) {
                fs::write(&path, flipped(&whole, at)).expect("damaged");
                match read(&store, slice).await {
                    Err(error) => assert_eq!(error.errno(), Errno::EIO, "{codec}: byte {at}: {error}"),
                    Ok(_) => panic!("{codec}: byte {at} of {} was served", whole.len()),
                }
            }
            fs::write(&path, &whole).expect("mended");
            assert!(read(&store, slice).await.expect("sound again") == data, "{codec}");
        }
        store.shutdown().await;
    }
}

/// Compressed bodies have no checksum in the format. Where the store has none either, damage that still decodes is not
/// seen, as `docs/semantics.md` says; but what comes out has the length of the block, or is an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_without_any_checksum_never_changes_a_length() {
    for codec in ["lz4", "zstd"] {
        let data: Vec<u8> = (0..1500_u32).map(|n| (n / 7 % 50).to_le_bytes()[0]).collect();
        let storage = mem();
        let store = Store::open(with_blocks(LARGE, config(codec)), Arc::clone(&storage));
        let slice = put(&store, 1, &data).await;
        let key = "chunks/0/0/1_0_1500";
        let whole = storage.get(key, None).await.expect("stored").concat();
        let mut refused = 0;
        for at in 0..whole.len() {
            let body = Segments::from_iter([flipped(&whole, at).into()]);
            storage.put(key, body).await.expect("replaced");
            match read(&store, slice).await {
                Ok(got) => assert_eq!(got.len(), data.len(), "{codec}: byte {at}"),
                Err(error) => {
                    assert_eq!(error.errno(), Errno::EIO);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "{codec}: no damage at all was seen");
        store.shutdown().await;
    }
}

fn cached(root: &Path, codec: &str) -> ChunkConfig {
    let mut config = with_blocks(LARGE, config(codec));
    config.cache.place = CachePlace::Disk(vec![root.to_owned()]);
    config.cache.free_space_ratio = 0.0001;
    // The disk is asked for what the index does not know, so that files can be put there.
    config.cache.scan_interval = None;
    config
}

async fn settle(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not within 20 s: {what}");
}

/// Flips bytes of the cache file of a block: each read brings the right bytes, by fetching them again.
async fn cache_file(data: &[u8]) {
    let root = tempfile::tempdir().expect("a directory");
    let faults = FaultStore::new(mem(), 1);
    let store = Store::open(cached(root.path(), "none"), Arc::clone(&faults) as Arc<dyn ObjectStorage>);
    let slice = put(&store, 1, data).await;
    store.fill(slice).await.expect("filled");
    settle("kept", || store.stats().cached_blocks == 1).await;
    let path = root.path().join(format!("raw/chunks/0/0/1_0_{}", data.len()));
    let whole = fs::read(&path).expect("a cache file");
    assert_eq!(whole.len(), data.len() + data.len().div_ceil(32 << 10) * 4);
    for at in places(whole.len(), &[data.len()..whole.len(), 32_767..32_769]) {
        store.evict(slice).await;
        fs::write(&path, flipped(&whole, at)).expect("damaged");
        let gets = faults.counts.get.load(Relaxed);
        let got = store.read(slice, 0, slice.size, ReadPurpose::Random).await.expect("read").concat();
        assert!(got == data, "byte {at} of {} was served", whole.len());
        assert_eq!(faults.counts.get.load(Relaxed), gets + 1, "byte {at}: the damage was not seen");
        settle("kept again", || store.stats().cached_blocks == 1).await;
    }
    assert!(fs::read(&path).expect("a cache file") == whole, "the cache has mended itself");
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_byte_of_a_cache_file_is_served() {
    cache_file(&sample(SMALL)).await;
    cache_file(&sample(1000)).await;
    cache_file(&sample(LARGE)).await;
}

fn staged_path(root: &Path, len: usize) -> PathBuf {
    root.join(format!("rawstaging/chunks/0/0/1_0_{len}"))
}

/// Flips bytes of a staged block, of which there is no other copy: reads and uploads are refused, and it stays.
async fn staged_file(data: &[u8], level: ChecksumLevel, tier: u8) {
    let root = tempfile::tempdir().expect("a directory");
    let objects = mem();
    let faults = FaultStore::new(Arc::clone(&objects), 1);
    let delay = Duration::from_secs(3600);
    let mut config = cached(root.path(), "lz4");
    config.io_retries = 0;
    config.cache.checksum = level;
    config.writeback =
        Some(Writeback { threshold_bytes: 0, upload_delay: delay, upload_hours: None, max_stage_writes: 10 });
    let open = |config: &ChunkConfig| Store::open(config.clone(), Arc::clone(&faults) as Arc<dyn ObjectStorage>);
    let store = open(&config);
    let mut writer = store.writer(WriteOptions { tier, ..WriteOptions::default() });
    writer.set_id(SliceId(1));
    writer
        .write(0, Bytes::copy_from_slice(data), store.budget().acquire(Share::Write, data.len()).await)
        .expect("written");
    writer.finish().await.expect("staged");
    drop(writer);
    let slice = SliceKey { id: SliceId(1), size: data.len() as u32 };
    let path = staged_path(root.path(), data.len());
    let whole = fs::read(&path).expect("a staged file");
    let sums = data.len()..data.len() + data.len().div_ceil(32 << 10) * 4;
    for at in places(whole.len(), &[sums.clone(), 32_767..32_769]).into_iter().filter(|at| *at < sums.end) {
        // Drops what is open and in memory; the file itself is not evicted.
        store.evict(slice).await;
        fs::write(&path, flipped(&whole, at)).expect("damaged");
        match store.read(slice, 0, slice.size, ReadPurpose::Random).await {
            Err(error) => assert_eq!(error.errno(), Errno::EIO),
            Ok(_) => panic!("{level:?}: byte {at} of {} was served", whole.len()),
        }
        assert!(path.exists(), "byte {at}: the only copy is deleted");
    }
    // The footer only says where the block belongs.
    for at in sums.end..whole.len() {
        store.evict(slice).await;
        fs::write(&path, flipped(&whole, at)).expect("damaged");
        let got = store.read(slice, 0, slice.size, ReadPurpose::Random).await.expect("read").concat();
        assert!(got == data, "byte {at} of the footer");
    }
    fs::write(&path, &whole).expect("mended");
    store.evict(slice).await;
    assert!(store.read(slice, 0, slice.size, ReadPurpose::Random).await.expect("read").concat() == data);
    store.shutdown().await;
    assert!(objects.list("", "", 1).await.expect("listed").is_empty());
    upload_of_damage(&config, &objects, &path, &whole, &sums).await;
}

/// What a later client finds damaged is not uploaded.
async fn upload_of_damage(
    config: &ChunkConfig,
    objects: &Arc<dyn ObjectStorage>,
    path: &Path,
    whole: &[u8],
    sums: &std::ops::Range<usize>,
) {
    let mut config = config.clone();
    config.writeback = config.writeback.map(|rules| Writeback { upload_delay: Duration::ZERO, ..rules });
    let every = (sums.end / 20).max(1);
    for at in (0..sums.end).step_by(every).chain(sums.clone().step_by(sums.len().div_ceil(10))) {
        fs::write(path, flipped(whole, at)).expect("damaged");
        let store = Store::open(config.clone(), Arc::clone(objects));
        settle("the damage is noticed", || store.stats().staging.errors > 0).await;
        store.shutdown().await;
        assert!(objects.list("", "", 1).await.expect("listed").is_empty(), "byte {at} was uploaded");
        assert!(path.exists(), "byte {at}: the only copy is deleted");
    }
    fs::write(path, whole).expect("mended");
    let store = Store::open(config, Arc::clone(objects));
    settle("uploaded", || store.stats().staging.blocks == 0).await;
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_byte_of_a_staged_file_is_served_or_uploaded() {
    staged_file(&sample(SMALL), ChecksumLevel::Extend, 0).await;
    staged_file(&sample(SMALL), ChecksumLevel::Shrink, 2).await;
    staged_file(&sample(SMALL), ChecksumLevel::None, 0).await;
    staged_file(&sample(LARGE), ChecksumLevel::Extend, 0).await;
}

/// A flipped bit on the way here is met by another request, where there is something to see it by.
#[tokio::test]
async fn damage_on_the_way_is_fetched_again() {
    for config in [encrypted("none", "aes256gcm-rsa"), encrypted("zstd", "chacha20-rsa")] {
        let faults = FaultStore::new(mem(), 7);
        let store = Store::open(config, Arc::clone(&faults) as Arc<dyn ObjectStorage>);
        let slice = put(&store, 1, &sample(1000)).await;
        faults.fail_next(Verb::Get, Fault::CorruptByte);
        assert_eq!(read(&store, slice).await.expect("the second time"), sample(1000));
        faults.fail_next(Verb::Get, Fault::ErrorBefore(StorageError::Transient("reset".into())));
        assert_eq!(read(&store, slice).await.expect("again"), sample(1000));
        store.shutdown().await;
    }
}
