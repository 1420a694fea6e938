use std::{sync::Arc, time::Duration};

use juicefs_core::{ChunkStore, Format, ObjectStorage, SliceId, SliceKey, store::ReadPurpose};

use super::*;
use crate::{
    Store, open_storage,
    store::tests::{get, put, sample},
};

/// A store in `dir` and the settings of its volume, with a cache in the same place.
fn volume(dir: &Path, compression: &str) -> (ChunkConfig, Arc<dyn ObjectStorage>) {
    let format = Format {
        name: "vol".into(),
        storage: "file".into(),
        bucket: format!("{}/objects/", dir.display()),
        block_size: 64,
        compression: compression.into(),
        ..Format::default()
    };
    let mut config = ChunkConfig::for_format(&format).expect("a config");
    config.cache.place = CachePlace::Disk(vec![dir.join("cache")]);
    config.cache.free_space_ratio = 0.0;
    (config, open_storage(&format).expect("a store"))
}

fn object(dir: &Path, name: &str) -> PathBuf {
    dir.join("objects/vol/chunks/0/0").join(name)
}

#[tokio::test]
async fn blocks_are_read_where_they_lie_and_not_copied() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, storage) = volume(dir.path(), "none");
    let store = Store::open(config, storage);
    let data = sample(200_000);
    let slice = put(&store, 1, &data).await;
    assert!(store.at_hand(slice, 0, slice.size));
    for purpose in [ReadPurpose::Random, ReadPurpose::Sequential, ReadPurpose::Once, ReadPurpose::RandomInSmall] {
        let bytes = store.read(slice, 60_000, 100_000, purpose).await.expect("read").concat();
        assert!(bytes == data[60_000..160_000], "{purpose:?}");
    }
    // What a window of read-ahead or a compaction holds is counted.
    for purpose in [ReadPurpose::ReadAhead, ReadPurpose::Once] {
        let held = store.read(slice, 0, slice.size, purpose).await.expect("read");
        assert!(held.concat() == data && store.budget().used_bytes() >= data.len(), "{purpose:?}");
    }
    store.prefetch(slice, 0, slice.size);
    for _ in 0..10 {
        assert!(get(&store, slice, 100, 50).await == data[100..150]);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((store.stats().cached_blocks, store.budget().used_bytes()), (0, 0));
    store.shutdown().await;
}

#[tokio::test]
async fn a_block_that_was_removed_or_cut_is_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, storage) = volume(dir.path(), "none");
    let config = ChunkConfig { io_retries: 0, retry_delay: Duration::from_millis(1), ..config };
    let store = Store::open(config, storage);
    let data = sample(1000);
    let (removed, cut, longer) =
        (put(&store, 1, &data).await, put(&store, 2, &data).await, put(&store, 3, &data).await);
    assert!(get(&store, removed, 0, 1000).await == data);
    store.remove(removed).await.expect("removed");
    assert!(store.read(removed, 0, 10, ReadPurpose::Random).await.is_err(), "its open file is closed");
    fs::write(object(dir.path(), "2_0_1000"), &data[..999]).expect("cut");
    assert!(store.read(cut, 0, 1000, ReadPurpose::Random).await.is_err());
    fs::write(object(dir.path(), "3_0_1000"), [&data[..], b"more"].concat()).expect("made longer");
    assert!(get(&store, longer, 990, 10).await == data[990..]);
    store.shutdown().await;
}

#[tokio::test]
async fn what_another_client_deleted_is_let_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, storage) = volume(dir.path(), "none");
    let store = Store::open(config.clone(), Arc::clone(&storage));
    let slice = put(&store, 1, &sample(1000)).await;
    let id = BlockId { slice: 1, index: 0, size: 1000 };
    let files = InPlace::of(&config, &storage).expect("on this machine");
    assert!(files.is_cold(id));
    files.warm(id);
    assert!(!files.is_cold(id));
    store.remove(slice).await.expect("removed");
    let piece = Piece { block: id, off: 0, len: 10 };
    files.close_idle();
    assert!(files.read_now(piece).is_some(), "in use just now");
    files.close_idle();
    files.close_idle();
    assert!(files.is_cold(id) && files.read_now(piece).is_none());
    store.shutdown().await;
}

#[test]
fn only_plain_files_beside_the_cache_are_read_in_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let has = |change: &dyn Fn(&mut ChunkConfig), compression: &str| {
        let (mut config, storage) = volume(dir.path(), compression);
        change(&mut config);
        InPlace::of(&config, &storage).is_some()
    };
    assert!(has(&|_| {}, "none"));
    assert!(has(&|config| config.cache.place = CachePlace::None, "none"));
    assert!(has(&|config| config.cache.place = CachePlace::Memory, "none"));
    assert!(!has(&|_| {}, "lz4"), "its objects are no blocks");
    assert!(!has(&|config| config.local_store = false, "none"));
    let elsewhere = |config: &mut ChunkConfig| config.cache.place = CachePlace::Disk(vec!["/proc/cache".into()]);
    assert!(!has(&elsewhere, "none"), "another file system may be quicker");
}

#[tokio::test]
async fn another_store_is_asked_once_it_is_in_force() {
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let (config, first) = volume(dirs[0].path(), "none");
    let (_, second) = volume(dirs[1].path(), "none");
    let store = Store::open(config, first);
    let slice = put(&store, 1, &sample(1000)).await;
    assert!(get(&store, slice, 0, 1000).await == sample(1000));
    store.use_storage("file", second);
    assert!(!store.at_hand(slice, 0, 1000));
    assert!(store.read(slice, 0, 10, ReadPurpose::Random).await.is_err(), "it is not in that one");
    let other = put(&store, 2, &sample(500)).await;
    assert_eq!(other, SliceKey { id: SliceId(2), size: 500 });
    assert!(get(&store, other, 0, 500).await == sample(500));
    store.shutdown().await;
}
