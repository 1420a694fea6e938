//! What is fetched, shared and kept.

use std::{
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::join_all;
use juicefs_testkit::fault_store::{Fault, FaultStore, Verb};

use super::*;
use crate::config::{CachePlace, KeepWritten};

const MIB: u32 = 1 << 20;

fn counted(config: ChunkConfig) -> (Arc<FaultStore>, Arc<Store>) {
    let faults = FaultStore::new(mem(), 1);
    let store = Store::open(config, Arc::clone(&faults) as Arc<dyn ObjectStorage>);
    (faults, store)
}

fn large_blocks(place: CachePlace) -> ChunkConfig {
    let mut config = ChunkConfig { block_size: 4 << 20, ..config("none") };
    config.cache.place = place;
    config.cache.free_space_ratio = 0.0001;
    config
}

async fn settle(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_readers_share_one_fetch() {
    let (faults, store) = counted(config("lz4"));
    let slice = put(&store, 1, &sample(60_000)).await;
    faults.fail_always(Some((Verb::Get, Fault::Latency(Duration::from_millis(20)))));
    let reads = (0..100).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { get(&store, slice, n * 500, 500).await })
    });
    for (n, read) in join_all(reads.collect::<Vec<_>>()).await.into_iter().enumerate() {
        assert_eq!(read.expect("read"), sample(60_000)[n * 500..(n + 1) * 500]);
    }
    assert_eq!(faults.counts.get.load(Relaxed), 1);
    assert_eq!(store.budget().used_bytes(), 0, "what is cached is not charged to the budget");
}

#[tokio::test]
async fn a_reader_that_gives_up_stops_nobody() {
    let (faults, store) = counted(config("none"));
    let slice = put(&store, 1, &sample(60_000)).await;
    faults.fail_next(Verb::Get, Fault::Latency(Duration::from_millis(50)));
    let given_up = tokio::time::timeout(Duration::from_millis(5), get(&store, slice, 0, 60_000)).await;
    assert!(given_up.is_err());
    assert_eq!(get(&store, slice, 0, 10).await, sample(10));
    assert_eq!(faults.counts.get.load(Relaxed), 1, "the fetch went on");
}

#[tokio::test]
async fn random_reads_fetch_what_they_ask_until_reuse_shows() {
    let (faults, store) = counted(large_blocks(CachePlace::Memory));
    let data = sample(4 << 20);
    let slice = put(&store, 1, &data).await;
    for n in 1..3 {
        let off = n * MIB;
        assert_eq!(get(&store, slice, off, 4096).await, data[off as usize..off as usize + 4096]);
        assert_eq!(faults.counts.get_bytes.load(Relaxed), u64::from(n) * 4096);
    }
    // The third read of the same block brings all of it.
    get(&store, slice, 0, 4096).await;
    settle("the block", || faults.counts.get_bytes.load(Relaxed) == 3 * 4096 + (4 << 20)).await;
    settle("kept", || store.stats().cached_bytes == 4 << 20).await;
    let gets = faults.counts.get.load(Relaxed);
    assert_eq!(get(&store, slice, 3 * MIB + 5, MIB - 5).await, data[3 * MIB as usize + 5..]);
    assert_eq!(faults.counts.get.load(Relaxed), gets);
}

/// Whatever the sizes of block and read: a first look at a block brings at most twice what was asked for.
#[tokio::test]
async fn cold_random_reads_fetch_at_most_twice_what_they_ask() {
    let sizes = [5000, 20_000, 65_536, 100_000, 131_072, 200_000, 262_144, 1 << 20, 4 << 20];
    for (id, size) in (1..).zip(sizes) {
        for len in [4 << 10, 16 << 10, 50_000, 64 << 10, 128 << 10].into_iter().filter(|len| *len <= size) {
            let (faults, store) = counted(large_blocks(CachePlace::Memory));
            let slice = put(&store, id, &sample(size as usize)).await;
            let off = (size - len) / 2;
            assert!(get(&store, slice, off, len).await == sample(size as usize)[off as usize..(off + len) as usize]);
            let fetched = faults.counts.get_bytes.load(Relaxed);
            assert!(fetched <= 2 * u64::from(len), "{fetched} bytes of {size} for {len}");
            store.shutdown().await;
        }
    }
}

#[tokio::test]
async fn a_small_block_is_fetched_whole_the_second_time() {
    let (faults, store) = counted(large_blocks(CachePlace::Memory));
    let slice = put(&store, 1, &sample(100_000)).await;
    get(&store, slice, 5000, 4096).await;
    assert_eq!(faults.counts.get_bytes.load(Relaxed), 4096);
    get(&store, slice, 50_000, 4096).await;
    assert_eq!(faults.counts.get_bytes.load(Relaxed), 104_096);
    get(&store, slice, 90_000, 4096).await;
    assert_eq!(faults.counts.get.load(Relaxed), 2);
}

#[tokio::test]
async fn of_compressed_and_encrypted_blocks_all_is_fetched() {
    for config in [config("lz4"), config("zstd"), encrypted("none", "aes256gcm-rsa")] {
        let (faults, store) = counted(ChunkConfig { block_size: 4 << 20, ..config });
        let slice = put(&store, 1, &sample(1 << 20)).await;
        assert_eq!(get(&store, slice, 500_000, 4096).await, sample(1 << 20)[500_000..504_096]);
        let stored = faults.head("chunks/0/0/1_0_1048576").await.expect("there").size;
        assert_eq!((faults.counts.get.load(Relaxed), faults.counts.get_bytes.load(Relaxed)), (1, stored));
        store.shutdown().await;
    }
}

/// What `--cache-partial-only` and `--cache-large-write` put on disk: short blocks, full ones, and what was asked for.
#[tokio::test]
async fn flags_say_what_is_kept_on_disk() {
    for (partial_only, keep_written, written, read) in [
        (false, KeepWritten::Short, [true, false], [true, true]),
        (false, KeepWritten::All, [true, true], [true, true]),
        (false, KeepWritten::None, [false, false], [true, true]),
        (true, KeepWritten::Short, [true, false], [true, false]),
    ] {
        let root = tempfile::tempdir().expect("a directory");
        let mut config = large_blocks(CachePlace::Disk(vec![root.path().to_owned()]));
        config.cache.partial_only = partial_only;
        config.cache.keep_written = keep_written;
        let (_, store) = counted(config);
        let slices = [put(&store, 1, &sample(5000)).await, put(&store, 2, &sample(4 << 20)).await];
        let count = |kept: [bool; 2]| kept.into_iter().map(u64::from).sum::<u64>();
        let kept = |slice: SliceKey| {
            let store = Arc::clone(&store);
            async move { store.presence(slice).await.missing_bytes == 0 }
        };
        settle("what was written", || store.stats().cached_blocks >= count(written)).await;
        // Anything beyond would come after it in the queue of the one writer.
        for (slice, wanted) in slices.into_iter().zip(written) {
            assert_eq!(kept(slice).await, wanted, "{keep_written:?}: {slice:?} written");
        }
        for slice in slices {
            store.read(slice, 0, slice.size, ReadPurpose::Sequential).await.expect("read");
        }
        settle("what was read", || store.stats().cached_blocks >= count(read)).await;
        for (slice, wanted) in slices.into_iter().zip(read) {
            assert_eq!(kept(slice).await, wanted, "partial only {partial_only}: {slice:?} read");
        }
        for slice in slices {
            store.fill(slice).await.expect("filled");
        }
        settle("both", || store.stats().cached_blocks == 2).await;
        store.shutdown().await;
    }
}

#[tokio::test]
async fn sequential_reads_fetch_whole_blocks_once() {
    let (faults, store) = counted(large_blocks(CachePlace::None));
    let data = sample(6 << 20);
    let slice = put(&store, 1, &data).await;
    for at in (0..6 * MIB).step_by(128 << 10) {
        let got = store.read(slice, at, 128 << 10, ReadPurpose::Sequential).await.expect("read");
        assert_eq!(got.concat(), data[at as usize..at as usize + (128 << 10)]);
    }
    assert_eq!(faults.counts.get.load(Relaxed), 2);
    assert_eq!(store.budget().used_bytes(), 0);
}

#[tokio::test]
async fn reading_once_keeps_nothing_and_holds_its_memory() {
    let (_, store) = counted(large_blocks(CachePlace::Memory));
    let slice = put(&store, 1, &sample(4 << 20)).await;
    let got = store.read(slice, 0, 4 * MIB, ReadPurpose::Once).await.expect("read");
    assert_eq!(store.budget().used_bytes(), 4 << 20);
    assert_eq!(store.stats().cached_blocks, 0);
    let part = got[0].slice(5..6);
    drop(got);
    assert_eq!(store.budget().used_bytes(), 4 << 20, "as long as any of it lives");
    drop(part);
    assert_eq!(store.budget().used_bytes(), 0);
}

/// All that writes can have, and what is kept for fetches: nothing is left that is common.
async fn all_but_disk(store: &Store) -> (Lease, Lease) {
    let budget = store.budget();
    let writes = budget.acquire(Share::Write, usize::MAX).await;
    (writes, budget.acquire(Share::Fetch, budget.cap_bytes() / 4).await)
}

#[tokio::test]
async fn read_ahead_gives_way_and_prefetch_does_not_wait() {
    let (faults, store) = counted(large_blocks(CachePlace::Memory));
    let slice = put(&store, 1, &sample(8 << 20)).await;
    let all = all_but_disk(&store).await;
    store.prefetch(slice, 0, 8 * MIB);
    let ahead = store.read(slice, 0, MIB, ReadPurpose::ReadAhead).await;
    assert!(matches!(ahead, Err(ChunkError::NoMemory)), "{ahead:?}");
    assert_eq!(faults.counts.get.load(Relaxed), 0);
    drop(all);
    let ahead = store.read(slice, 0, MIB, ReadPurpose::ReadAhead).await.expect("read");
    assert_eq!(ahead.concat(), sample(8 << 20)[..MIB as usize]);
    store.prefetch(slice, 0, u32::MAX);
    settle("both blocks", || store.stats().cached_blocks == 2).await;
    assert_eq!(faults.counts.get.load(Relaxed), 2);
}

#[tokio::test]
async fn fill_evict_and_presence() {
    let root = tempfile::tempdir().expect("a directory");
    let mut config = large_blocks(CachePlace::Disk(vec![root.path().to_owned()]));
    config.cache.keep_written = KeepWritten::Short;
    let (_, store) = counted(config);
    let (short, full) = (put(&store, 1, &sample(1024)).await, put(&store, 2, &sample(4 << 20)).await);
    settle("the short one", || store.stats().cached_blocks == 1).await;
    assert_eq!(store.stats().cached_bytes, 1024);
    for slice in [short, full] {
        store.fill(slice).await.expect("filled");
    }
    settle("both", || store.stats().cached_blocks == 2).await;
    assert_eq!(store.presence(full).await, CachePresence { cached_bytes: 4 << 20, missing_bytes: 0 });
    assert!(store.at_hand(full, MIB, MIB) && !store.at_hand(full, 4 * MIB, 1));
    store.prefetch(full, 0, MIB);
    store.evict(full).await;
    assert_eq!(store.stats().cached_blocks, 1);
    assert_eq!(store.presence(full).await, CachePresence { cached_bytes: 0, missing_bytes: 4 << 20 });
    assert!(!store.at_hand(full, MIB, MIB));
    assert_eq!(store.presence(short).await, CachePresence { cached_bytes: 1024, missing_bytes: 0 });
    store.remove(short).await.expect("removed");
    assert_eq!(store.stats().cached_blocks, 0);
    assert_eq!(store.budget().used_bytes(), 0);
}

#[tokio::test]
async fn a_damaged_cache_file_is_fetched_again() {
    let root = tempfile::tempdir().expect("a directory");
    let config = large_blocks(CachePlace::Disk(vec![root.path().to_owned()]));
    let faults = FaultStore::new(mem(), 1);
    let storage = || Arc::clone(&faults) as Arc<dyn ObjectStorage>;
    let data = sample(1 << 20);
    let store = Store::open(config.clone(), storage());
    let slice = put(&store, 1, &data).await;
    store.fill(slice).await.expect("filled");
    store.shutdown().await;
    let path = root.path().join("raw/chunks/0/0/1_0_1048576");
    for at in [0, 500_000, (1 << 20) - 1, (1 << 20) + 3] {
        let mut bytes = std::fs::read(&path).expect("a cache file");
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).expect("damaged");
        let store = Store::open(config.clone(), storage());
        let gets = faults.counts.get.load(Relaxed);
        assert_eq!(get(&store, slice, 0, 1 << 20).await, data, "byte {at}");
        assert_eq!(faults.counts.get.load(Relaxed), gets + 1);
        store.shutdown().await;
        assert_eq!(std::fs::read(&path).expect("a cache file")[..data.len()], data, "the cache has mended itself");
    }
}

#[tokio::test]
async fn cached_reads_need_no_runtime() {
    let root = tempfile::tempdir().expect("a directory");
    let store = Store::open(large_blocks(CachePlace::Disk(vec![root.path().to_owned()])), mem());
    let data = sample(1 << 20);
    let slice = put(&store, 1, &data).await;
    store.fill(slice).await.expect("filled");
    store.shutdown().await;
    let reader = Arc::clone(&store);
    // A plain thread, as one that serves the kernel: one poll answers.
    let thread = std::thread::spawn(move || {
        let mut read = reader.read(slice, 300_000, 4096, ReadPurpose::Random);
        match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done.expect("read").concat(),
            Poll::Pending => panic!("a cached read waits"),
        }
    });
    assert_eq!(thread.join().expect("no panic"), data[300_000..304_096]);
}

#[tokio::test]
async fn a_whole_block_counts_as_long_as_somebody_holds_a_part_of_it() {
    let (_, store) = counted(large_blocks(CachePlace::Memory));
    let slice = put(&store, 1, &sample(4 << 20)).await;
    store.evict(slice).await;
    let got = store.read(slice, 0, MIB, ReadPurpose::ReadAhead).await.expect("read");
    assert_eq!((store.stats().cached_blocks, store.budget().used_bytes()), (1, 4 << 20));
    store.evict(slice).await;
    assert_eq!(store.budget().used_bytes(), 4 << 20, "the window has it still");
    drop(got);
    assert_eq!(store.budget().used_bytes(), 0);
}

#[tokio::test]
async fn a_read_from_disk_waits_neither_for_writers_nor_for_fetches() {
    let root = tempfile::tempdir().expect("a directory");
    let mut config = large_blocks(CachePlace::Disk(vec![root.path().to_owned()]));
    config.cache.memory_bytes = 0;
    let (_, store) = counted(config);
    let data = sample(1 << 20);
    let (cached, other) = (put(&store, 1, &data).await, put(&store, 2, &data).await);
    store.evict(other).await;
    store.fill(cached).await.expect("filled");
    let all = all_but_disk(&store).await;
    let writer = store.budget().acquire(Share::Write, 1);
    let fetch = store.read(other, 0, MIB, ReadPurpose::Sequential);
    let read = async {
        while store.budget().waiting() < 2 {
            tokio::task::yield_now().await;
        }
        get(&store, cached, 0, MIB).await
    };
    let got = tokio::select! {
        _ = writer => panic!("there is no room for a write"),
        _ = fetch => panic!("there is no room for a fetch"),
        got = tokio::time::timeout(Duration::from_secs(20), read) => got,
    };
    assert!(got.expect("it waits for nobody") == data);
    drop(all);
    assert!(get(&store, other, 0, MIB).await == data);
}

fn several(slices: &[SliceKey]) -> Vec<Stretch> {
    slices.iter().map(|slice| Stretch { slice: *slice, off: 10, len: slice.size - 10 }).collect()
}

/// Files whose reads need blocks of several slices, more of them than memory has room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_of_several_slices_do_not_wait_for_one_another() {
    let mut config = ChunkConfig { buffer_bytes: 1, ..large_blocks(CachePlace::None) };
    config.cache.memory_bytes = 0;
    let (faults, store) = counted(config);
    let data = sample(4 << 20);
    assert!(store.budget().limit_bytes(Share::Fetch) < 12 * data.len(), "each reader could have one block and more");
    let mut slices = Vec::new();
    for id in 1..=36 {
        slices.push(put(&store, id, &data).await);
    }
    faults.fail_always(Some((Verb::Get, Fault::Latency(Duration::from_millis(5)))));
    let reads = slices.chunks(3).map(|slices| {
        let (store, stretches, data) = (Arc::clone(&store), several(slices), data.clone());
        tokio::spawn(async move {
            let parts = store.read_all(&stretches, ReadPurpose::Sequential).await.expect("read");
            assert!(parts.len() == 3 && parts.iter().all(|part| part.concat() == data[10..]));
        })
    });
    let reads = tokio::time::timeout(Duration::from_secs(60), join_all(reads.collect::<Vec<_>>())).await;
    for read in reads.expect("they wait for one another") {
        read.expect("no panic");
    }
    assert_eq!(store.budget().used_bytes(), 0);
}

#[tokio::test]
async fn who_waits_for_memory_holds_no_block_that_another_fetched() {
    let mut config = large_blocks(CachePlace::None);
    config.cache.memory_bytes = 0;
    let (faults, store) = counted(config);
    let data = sample(4 << 20);
    let slices = [put(&store, 1, &data).await, put(&store, 2, &data).await];
    let _writes = store.budget().acquire(Share::Write, usize::MAX).await;
    let fetches = store.budget().limit_bytes(Share::Fetch).min(store.budget().cap_bytes() / 4);
    let rest = store.budget().acquire(Share::Fetch, fetches - (4 << 20)).await;
    faults.fail_next(Verb::Get, Fault::Latency(Duration::from_millis(50)));
    let (first, stretches) = (Arc::clone(&store), several(&slices));
    let fetch = tokio::spawn(async move { first.read(slices[0], 0, MIB, ReadPurpose::Sequential).await.map(drop) });
    settle("the fetch", || store.budget().used_by(Share::Fetch) == fetches).await;
    let joins = store.read_all(&stretches, ReadPurpose::Sequential);
    let joins = tokio::time::timeout(Duration::from_secs(20), joins);
    let room = async {
        settle("a read that waits", || store.budget().waiting() == 1).await;
        // The block of the first slice has come and gone: the read that wants it too has got memory for the second one.
        settle("its turn", || store.budget().waiting() == 0).await;
    };
    let (joined, ()) = tokio::join!(joins, room);
    let parts = joined.expect("it waits for what it holds").expect("read");
    assert!(parts.iter().all(|part| part.concat() == data[10..]));
    fetch.await.expect("no panic").expect("read");
    drop((parts, rest));
    assert_eq!(store.budget().used_by(Share::Fetch), 0);
}

#[tokio::test]
async fn a_read_of_more_blocks_than_memory_takes_them_one_by_one() {
    for codec in ["none", "lz4"] {
        let mut config = ChunkConfig { block_size: 4 << 20, buffer_bytes: 1, ..config(codec) };
        (config.cache.place, config.cache.memory_bytes) = (CachePlace::None, 0);
        let (faults, store) = counted(config);
        let data = sample(4 << 20);
        let mut slices = Vec::new();
        for id in 1..=12 {
            slices.push(put(&store, id, &data).await);
        }
        assert!(store.budget().limit_bytes(Share::Fetch) < 12 * data.len());
        let parts = store.read_all(&several(&slices), ReadPurpose::Sequential).await.expect("read");
        assert!(parts.len() == 12 && parts.iter().all(|part| part.concat() == data[10..]));
        assert_eq!(faults.counts.get.load(Relaxed), 12);
        assert_eq!(store.budget().used_bytes(), 0, "what is held is a copy");
        let beyond = Stretch { slice: slices[0], off: 1, len: slices[0].size };
        assert!(store.read_all(&[beyond], ReadPurpose::Once).await.is_err());
    }
}
