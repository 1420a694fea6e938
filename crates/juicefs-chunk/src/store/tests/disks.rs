//! Cache disks that hang or fail: nobody who reads or writes is held up or meets an error.

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    time::{Duration, Instant},
};

use juicefs_testkit::fault_store::FaultStore;

use super::*;
use crate::{CachePlace, HealthRules, Writeback, cache::trouble};

const BLOCK: usize = 64 << 10;
const WELL: u8 = 0;
const HANGS: u8 = 1;
const FAILS: u8 = 2;

/// How a disk does at the moment; it does well when this is dropped, so that a test that fails ends.
struct Mood(Arc<AtomicU8>);

impl Mood {
    fn set(&self, mood: u8) {
        self.0.store(mood, Relaxed);
    }
}

impl Drop for Mood {
    fn drop(&mut self) {
        self.set(WELL);
    }
}

/// Lets the operations on the cache below `root` go as the result says.
fn moody(root: &Path) -> Mood {
    let mood = Mood(Arc::default());
    let seen = Arc::clone(&mood.0);
    trouble::set(root, move || {
        while seen.load(Relaxed) == HANGS {
            std::thread::sleep(Duration::from_millis(2));
        }
        if seen.load(Relaxed) == FAILS { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    });
    mood
}

fn troubled(roots: &[&Path]) -> ChunkConfig {
    let mut config = config("none");
    config.cache.place = CachePlace::Disk(roots.iter().map(|root| root.to_path_buf()).collect());
    config.cache.free_space_ratio = 0.0001;
    config.cache.health = HealthRules {
        read_deadline: Duration::from_secs(2),
        max_operation: Duration::from_secs(6),
        window: Duration::from_secs(8),
        probe_interval: Duration::from_millis(5),
        ..HealthRules::default()
    };
    let upload_delay = Duration::from_secs(3600);
    config.writeback = Some(Writeback { threshold_bytes: 0, upload_delay, upload_hours: None, max_stage_writes: 100 });
    config
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "still not so after two minutes: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Writes a block straight to the store.
async fn put_direct(store: &Store, id: u64) -> SliceKey {
    let mut writer = store.writer(WriteOptions { direct: true, ..WriteOptions::default() });
    writer.set_id(SliceId(id));
    writer.write(0, data(id).into(), Lease::empty()).expect("written");
    writer.finish().await.expect("finished");
    SliceKey { id: SliceId(id), size: BLOCK as u32 }
}

fn data(id: u64) -> Vec<u8> {
    let mut data = sample(BLOCK);
    data[..8].copy_from_slice(&id.to_le_bytes());
    data
}

/// Reads past what is in memory.
async fn check(store: &Store, slice: SliceKey) {
    store.cache.forget_memory();
    assert!(get(store, slice, 0, slice.size).await == data(slice.id.0), "slice {}", slice.id);
}

/// Blocks on disk, with ids from 1 on.
async fn fill(store: &Store, count: u64) -> Vec<SliceKey> {
    let mut slices = Vec::new();
    for id in 1..=count {
        let slice = put_direct(store, id).await;
        store.fill(slice).await.expect("filled");
        slices.push(slice);
    }
    until("all are on disk", || store.stats().cached_blocks == count).await;
    slices
}

fn counted(config: ChunkConfig) -> (Arc<FaultStore>, Arc<Store>) {
    let faults = FaultStore::new(mem(), 1);
    let store = Store::open(config, Arc::clone(&faults) as Arc<dyn ObjectStorage>);
    (faults, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_disk_is_left_behind_and_taken_back_when_it_answers() {
    let root = tempfile::tempdir().expect("a directory");
    let mood = moody(root.path());
    let (faults, store) = counted(troubled(&[root.path()]));
    let slices = fill(&store, 20).await;
    let gets = faults.counts.get.load(Relaxed);
    check(&store, slices[0]).await;
    assert_eq!(faults.counts.get.load(Relaxed), gets, "from the disk");
    mood.set(HANGS);
    let begun = Instant::now();
    for slice in &slices {
        check(&store, *slice).await;
    }
    assert!(faults.counts.get.load(Relaxed) > gets, "from the store");
    // Three reads meet their deadline, the others the state of the disk.
    // Without any state of the disk each of them would meet a deadline.
    assert!(begun.elapsed() < Duration::from_secs(25), "20 reads took {:?}", begun.elapsed());
    assert_eq!(store.stats().disks.unstable, 1);
    assert!(store.stats().disks.failures >= 3);
    // What would be staged goes to the store.
    let puts = faults.counts.put.load(Relaxed);
    put(&store, 100, &data(100)).await;
    assert_eq!(faults.counts.put.load(Relaxed), puts + 1);
    // Deleting does not wait either.
    store.remove(slices[0]).await.expect("removed");
    mood.set(WELL);
    until("the disk is normal again", || store.stats().disks.normal == 1).await;
    let staged = put(&store, 101, &data(101)).await;
    assert_eq!(faults.counts.put.load(Relaxed), puts + 1, "staged again");
    check(&store, staged).await;
    store.shutdown().await;
    assert_eq!(store.budget().used_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_a_hung_disk_wait_for_one_deadline() {
    let root = tempfile::tempdir().expect("a directory");
    let mood = moody(root.path());
    let (_faults, store) = counted(troubled(&[root.path()]));
    let slices = fill(&store, 60).await;
    mood.set(HANGS);
    let begun = Instant::now();
    let reads = slices.into_iter().map(|slice| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { check(&store, slice).await })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.expect("right bytes");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    mood.set(WELL);
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_staged_on_a_failing_disk_is_still_read_and_uploaded() {
    let root = tempfile::tempdir().expect("a directory");
    let mood = moody(root.path());
    let mut config = troubled(&[root.path()]);
    config.cache.health.down_after = Duration::from_secs(2);
    let (faults, store) = counted(config);
    let slices = fill(&store, 10).await;
    let staged = put(&store, 100, &data(100)).await;
    assert_eq!(store.stats().staging.blocks, 1);
    mood.set(FAILS);
    for slice in &slices {
        check(&store, *slice).await;
    }
    assert_eq!(store.stats().disks.unstable, 1);
    store.cache.forget_memory();
    let lost = store.read(staged, 0, staged.size, ReadPurpose::Random).await;
    let error = lost.expect_err("nowhere else");
    assert!(
        matches!(error, ChunkError::Storage(juicefs_core::StorageError::Permanent(_))),
        "to be tried again: {error}"
    );
    assert_eq!(error.errno(), juicefs_core::Errno::EIO);
    until("the disk is down", || store.stats().disks.down == 1).await;
    mood.set(WELL);
    check(&store, staged).await;
    until("memory stands in for the disk", || store.stats().cached_blocks == 0).await;
    let (first, gets) = (slices[0], faults.counts.get.load(Relaxed));
    assert!(get(&store, first, 0, first.size).await == data(first.id.0));
    assert!(get(&store, first, 0, first.size).await == data(first.id.0));
    assert_eq!(faults.counts.get.load(Relaxed), gets + 1);
    assert!(store.stats().cached_blocks >= 1);
    let puts = faults.counts.put.load(Relaxed);
    put(&store, 101, &data(101)).await;
    assert_eq!(faults.counts.put.load(Relaxed), puts + 1, "nothing is staged on a disk that is down");
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_disks_take_over_from_one_that_is_down() {
    let (bad, good) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let mood = moody(bad.path());
    let mut config = troubled(&[bad.path(), good.path()]);
    config.cache.health.down_after = Duration::from_millis(1);
    let (faults, store) = counted(config);
    let slices = fill(&store, 40).await;
    mood.set(FAILS);
    for slice in &slices {
        check(&store, *slice).await;
    }
    until("one is down", || store.stats().disks.down == 1).await;
    assert_eq!(store.stats().disks.normal, 1);
    for slice in &slices {
        store.fill(*slice).await.expect("filled");
    }
    until("all are on the other", || slices.iter().all(|slice| file_of(good.path(), *slice).exists())).await;
    let gets = faults.counts.get.load(Relaxed);
    for slice in &slices {
        check(&store, *slice).await;
    }
    assert_eq!(faults.counts.get.load(Relaxed), gets, "all from the other disk");
    store.shutdown().await;
}

fn file_of(root: &Path, slice: SliceKey) -> std::path::PathBuf {
    root.join(format!("raw/chunks/0/0/{}_0_{}", slice.id, slice.size))
}

/// A mount ends although a disk never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_does_not_wait_for_a_hung_disk_for_ever() {
    let root = tempfile::tempdir().expect("a directory");
    let mood = moody(root.path());
    let (_faults, store) = counted(troubled(&[root.path()]));
    let slices = fill(&store, 5).await;
    mood.set(HANGS);
    for slice in &slices {
        check(&store, *slice).await;
    }
    let begun = Instant::now();
    store.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    mood.set(WELL);
}
