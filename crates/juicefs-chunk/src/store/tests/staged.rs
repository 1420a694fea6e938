//! Writeback: what is on the local disk first.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use juicefs_core::StorageError;
use juicefs_testkit::fault_store::{Fault, FaultStore, Verb};
use tokio::time::Instant;

use super::*;
use crate::{CachePlace, Writeback, cache::trouble};

const BLOCK: u32 = 64 << 10;

fn writeback() -> Writeback {
    Writeback { threshold_bytes: 0, upload_delay: Duration::ZERO, upload_hours: None, max_stage_writes: 100 }
}

fn staging_config(root: &Path, rules: Writeback) -> ChunkConfig {
    let mut config = config("lz4");
    config.cache.place = CachePlace::Disk(vec![root.to_owned()]);
    config.cache.free_space_ratio = 0.0001;
    config.io_retries = 0;
    config.writeback = Some(rules);
    config
}

/// A store that takes nothing.
fn away() -> (Arc<FaultStore>, Arc<dyn ObjectStorage>) {
    let objects = mem();
    let faults = FaultStore::new(Arc::clone(&objects), 1);
    faults.fail_always(Some((Verb::Put, Fault::ErrorBefore(StorageError::Transient("away".to_owned())))));
    (faults, objects)
}

fn open(config: ChunkConfig, faults: &Arc<FaultStore>) -> Arc<Store> {
    Store::open(config, Arc::clone(faults) as Arc<dyn ObjectStorage>)
}

async fn keys(objects: &Arc<dyn ObjectStorage>) -> Vec<String> {
    objects.list("", "", 1000).await.expect("listed").into_iter().map(|object| object.key).collect()
}

fn staged_files(root: &Path) -> Vec<PathBuf> {
    fn below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() { below(&entry.path(), found) } else { found.push(entry.path()) }
        }
    }
    let mut found = Vec::new();
    below(&root.join("rawstaging"), &mut found);
    found.sort();
    found
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "still not so after 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_staged_block_is_read_from_here_and_goes_up_when_the_store_is_back() {
    let root = tempfile::tempdir().expect("a directory");
    let (faults, objects) = away();
    let store = open(staging_config(root.path(), writeback()), &faults);
    let data = sample(200_000);
    let slice = put(&store, 7, &data).await;
    assert!(keys(&objects).await.is_empty());
    assert_eq!(staged_files(root.path()).len(), 4);
    assert_eq!(get(&store, slice, 0, slice.size).await, data);
    let staging = store.stats().staging;
    assert_eq!((staging.blocks, staging.bytes), (4, 200_000));
    store.evict(slice).await;
    assert_eq!(get(&store, slice, 70_000, 10).await, data[70_000..70_010], "what is nowhere else is not evicted");
    until("an upload failed", || store.stats().staging.errors > 0).await;
    faults.fail_always(None);
    until("all is uploaded", || store.stats().staging.blocks == 0).await;
    until("no staged file is left", || staged_files(root.path()).is_empty()).await;
    assert_eq!(keys(&objects).await.len(), 4);
    store.evict(slice).await;
    assert_eq!(get(&store, slice, 0, slice.size).await, data, "from the store");
    store.shutdown().await;
    assert_eq!(store.budget().used_bytes(), 0);
}

/// The numbers of `.stats` about blocks on their way to the disk, and from there to the store.
#[tokio::test]
async fn blocks_on_their_way_are_counted() {
    let root = tempfile::tempdir().expect("a directory");
    let hangs = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&hangs);
    trouble::set(root.path(), move || {
        while seen.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    });
    let (faults, _objects) = away();
    let store = open(staging_config(root.path(), writeback()), &faults);
    hangs.store(true, Relaxed);
    let writing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { put(&store, 7, &sample(3 * BLOCK as usize)).await })
    };
    until("three blocks are being written", || store.stats().staging.writing == 3).await;
    assert_eq!((store.stats().staging.blocks, store.stats().staging.written_bytes), (0, 0));
    hangs.store(false, Relaxed);
    let slice = writing.await.expect("no panic");
    let staging = store.stats().staging;
    assert_eq!((staging.writing, staging.blocks, staging.written_bytes), (0, 3, u64::from(slice.size)));
    // Each upload after the first adds the seconds since its block was staged.
    until("they were tried again", || store.stats().staging.delay_ms > 5000).await;
    faults.fail_always(Some((Verb::Put, Fault::Latency(Duration::from_millis(300)))));
    until("one is on its way", || store.stats().uploading > 0).await;
    until("all is uploaded", || store.stats().staging.blocks == 0).await;
    until("nothing is on its way", || store.stats().uploading == 0).await;
    assert_eq!(store.stats().staging.written_bytes, u64::from(slice.size), "of all that was staged");
    store.shutdown().await;
}

#[tokio::test]
async fn what_an_earlier_client_left_is_found_and_uploaded() {
    let root = tempfile::tempdir().expect("a directory");
    let (faults, objects) = away();
    let data = sample(100_000);
    let slice = {
        let store = open(staging_config(root.path(), writeback()), &faults);
        let slice = put(&store, 7, &data).await;
        store.shutdown().await;
        slice
    };
    // As JuiceFS (Go) stages it, and what is no block.
    let theirs = root.path().join("rawstaging/chunks/0/0/123_0_4");
    fs::create_dir_all(theirs.parent().expect("a directory")).expect("made");
    fs::write(&theirs, b"good").expect("written");
    let stray = root.path().join("rawstaging/chunks/0/0/notes.txt");
    fs::write(&stray, b"mine").expect("written");
    // Only a name among the cached ones shows others that the block is there.
    fs::remove_dir_all(root.path().join("raw")).expect("removed");
    let store = open(staging_config(root.path(), writeback()), &faults);
    until("the blocks are found", || store.stats().staging.blocks == 3).await;
    assert_eq!(get(&store, slice, 0, slice.size).await, data);
    assert_eq!(get(&store, SliceKey { id: SliceId(123), size: 4 }, 0, 4).await, b"good");
    faults.fail_always(None);
    until("all is uploaded", || store.stats().staging.blocks == 0).await;
    assert_eq!(keys(&objects).await, ["chunks/0/0/123_0_4", "chunks/0/0/7_0_65536", "chunks/0/0/7_1_34464"]);
    until("only the stray file is left", || staged_files(root.path()) == [stray.clone()]).await;
    store.shutdown().await;
}

#[tokio::test]
async fn a_deleted_slice_does_not_come_back() {
    let root = tempfile::tempdir().expect("a directory");
    let (faults, objects) = away();
    let store = open(staging_config(root.path(), writeback()), &faults);
    let slice = put(&store, 7, &sample(100_000)).await;
    store.remove(slice).await.expect("removed");
    assert!(staged_files(root.path()).is_empty());
    assert_eq!(store.stats().staging.blocks, 0);
    // While its upload is under way.
    faults.fail_always(Some((Verb::Put, Fault::Latency(Duration::from_millis(300)))));
    let slice = put(&store, 8, &sample(1000)).await;
    until("the upload is under way", || faults.counts.puts_now.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    store.remove(slice).await.expect("removed");
    store.shutdown().await;
    assert!(keys(&objects).await.is_empty(), "{:?}", keys(&objects).await);
}

#[tokio::test]
async fn damage_is_never_uploaded() {
    let root = tempfile::tempdir().expect("a directory");
    let (faults, objects) = away();
    let slice = {
        let store = open(staging_config(root.path(), writeback()), &faults);
        let slice = put(&store, 7, &sample(BLOCK as usize)).await;
        store.shutdown().await;
        slice
    };
    let [file] = &staged_files(root.path())[..] else { panic!("one file") };
    for at in [0, 40_000, BLOCK as usize - 1, BLOCK as usize, BLOCK as usize + 5] {
        let good = fs::read(file).expect("read");
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(file, &bad).expect("written");
        faults.fail_always(None);
        let store = open(staging_config(root.path(), writeback()), &faults);
        until("the damage is noticed", || store.stats().staging.errors > 0).await;
        store.shutdown().await;
        assert!(keys(&objects).await.is_empty(), "byte {at}");
        assert_eq!(staged_files(root.path()).len(), 1, "it is left for whoever can make something of it");
        fs::write(file, &good).expect("written");
    }
    let store = open(staging_config(root.path(), writeback()), &faults);
    until("all is uploaded", || store.stats().staging.blocks == 0).await;
    assert_eq!(get(&store, slice, 0, BLOCK).await, sample(BLOCK as usize));
    store.shutdown().await;
}

#[tokio::test]
async fn some_blocks_go_to_the_store_at_once() {
    let root = tempfile::tempdir().expect("a directory");
    let objects = mem();
    let delay = Writeback { upload_delay: Duration::from_secs(3600), ..writeback() };
    let mut config = staging_config(root.path(), Writeback { threshold_bytes: 1000, ..delay });
    config.cache.size_bytes = 2500;
    let store = Store::open(config, Arc::clone(&objects));
    put(&store, 1, &sample(1000)).await;
    assert_eq!(keys(&objects).await.len(), 1, "of the size of the threshold");
    put(&store, 2, &sample(999)).await;
    assert_eq!(keys(&objects).await.len(), 1);
    let mut writer = store.writer(WriteOptions { direct: true, ..WriteOptions::default() });
    writer.set_id(SliceId(3));
    writer.write(0, Bytes::from_static(b"compacted"), Lease::empty()).expect("written");
    writer.finish().await.expect("finished");
    assert_eq!(keys(&objects).await.len(), 2, "what must be there");
    put(&store, 4, &sample(999)).await;
    assert_eq!(keys(&objects).await.len(), 2);
    put(&store, 5, &sample(999)).await;
    assert_eq!(keys(&objects).await.len(), 3, "more than may be staged");
    // A disk that takes nothing.
    fs::remove_dir_all(root.path().join("rawstaging")).expect("removed");
    fs::write(root.path().join("rawstaging"), b"no directory").expect("written");
    store.remove(SliceKey { id: SliceId(4), size: 999 }).await.expect("removed");
    put(&store, 6, &sample(999)).await;
    assert_eq!(keys(&objects).await.len(), 4, "staging failed");
    drop(writer);
    store.shutdown().await;
}

/// A block that was compressed for the store, which did not take it, and for which there is room on the disk now.
#[tokio::test]
async fn what_was_packed_for_the_store_is_not_staged() {
    let root = tempfile::tempdir().expect("a directory");
    let (faults, objects) = away();
    let delay = Writeback { upload_delay: Duration::from_secs(3600), ..writeback() };
    let mut config = staging_config(root.path(), delay);
    config.cache.size_bytes = 1500;
    let store = open(config, &faults);
    let first = put(&store, 1, &sample(1000)).await;
    let data = vec![7; 1000];
    let mut writer = store.writer(WriteOptions::default());
    writer.set_id(SliceId(2));
    writer.write(0, Bytes::from(data.clone()), Lease::empty()).expect("written");
    writer.finish().await.expect_err("there is no room, and no store");
    store.remove(first).await.expect("removed");
    writer.finish().await.expect_err("there is no store");
    assert!(staged_files(root.path()).is_empty(), "what would be staged is compressed");
    faults.fail_always(None);
    writer.finish().await.expect("the store is back");
    assert_eq!(keys(&objects).await, ["chunks/0/0/2_0_1000"]);
    assert_eq!(get(&store, SliceKey { id: SliceId(2), size: 1000 }, 0, 1000).await, data);
    drop(writer);
    store.shutdown().await;
}

/// Uploads that hang hold a part of the memory, and what can be staged finds room all the same. Nor do they hold up the end.
#[tokio::test]
async fn uploads_that_hang_leave_room_for_what_is_staged() {
    let root = tempfile::tempdir().expect("a directory");
    let objects = mem();
    let faults = FaultStore::new(Arc::clone(&objects), 1);
    faults.fail_always(Some((Verb::Put, Fault::Latency(Duration::from_secs(3600)))));
    let mut config = staging_config(root.path(), writeback());
    (config.block_size, config.buffer_bytes, config.max_uploads) = (1 << 20, 0, 100);
    let store = open(config, &faults);
    let (cap, data) = (store.budget().cap_bytes(), sample(6 << 20));
    let all = async {
        for id in 1..=8 {
            put(&store, id, &data).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("nothing waits for the store");
    assert!(cap < 48 << 20 && store.budget().used_by(Share::Background) <= cap / 4);
    until("uploads hang", || store.budget().used_by(Share::Background) > 0).await;
    let begun = Instant::now();
    store.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((staged_files(root.path()).len(), store.budget().used_bytes()), (48, 0));
}
