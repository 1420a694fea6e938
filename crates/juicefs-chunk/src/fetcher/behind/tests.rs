use std::sync::atomic::Ordering::Relaxed;

use juicefs_core::{ChunkStore, ObjectStorage, SliceKey, store::ReadPurpose};
use juicefs_testkit::fault_store::{Fault, FaultStore, Verb};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::*;
use crate::{
    Store,
    store::tests::{config, mem, put, sample},
};

const MIB: u32 = 1 << 20;

/// A store as far away as one that is reached over a network, and blocks of 1 MiB.
fn distant() -> ChunkConfig {
    let mut config = ChunkConfig { block_size: 1 << 20, local_store: false, ..config("none") };
    config.cache.place = CachePlace::Memory;
    config
}

fn open(config: ChunkConfig) -> (Arc<FaultStore>, Arc<Store>) {
    let faults = FaultStore::new(mem(), 1);
    let store = Store::open(config, Arc::clone(&faults) as Arc<dyn ObjectStorage>);
    (faults, store)
}

/// 300 reads of 4 KiB at random places of four slices with eight blocks each: GETs, and the time that they take.
async fn three_hundred_reads(config: ChunkConfig, purpose: ReadPurpose) -> (u64, Duration) {
    let (faults, store) = open(config.clone());
    let data = sample(8 << 20);
    let mut slices = Vec::new();
    for id in 1..=4 {
        slices.push(put(&store, id, &data).await);
    }
    for slice in &slices {
        store.evict(*slice).await;
    }
    faults.fail_always(Some((Verb::Get, Fault::Latency(Duration::from_millis(10)))));
    let (begun, mut rng) = (Instant::now(), StdRng::seed_from_u64(7));
    for _ in 0..300 {
        let (slice, off) = (slices[rng.random_range(0..4)], rng.random_range(0..2047) * 4096 + 1);
        let got = store.read(slice, off, 4096, purpose).await.expect("read").concat();
        assert!(got == data[off as usize..off as usize + 4096]);
    }
    let took = begun.elapsed();
    store.shutdown().await;
    assert_eq!(store.budget().used_bytes(), 0);
    (faults.counts.get.load(Relaxed), took)
}

#[tokio::test(start_paused = true)]
async fn cold_random_reads_of_a_small_file_soon_find_its_blocks() {
    let (gets, took) = three_hundred_reads(distant(), ReadPurpose::RandomInSmall).await;
    let (gets_of_a_large_one, took_of_a_large_one) = three_hundred_reads(distant(), ReadPurpose::Random).await;
    println!("{gets} GETs in {took:?}; of a large file {gets_of_a_large_one} in {took_of_a_large_one:?}");
    assert!(gets <= 32 * 5 / 2, "{gets} GETs for 32 blocks");
    assert!(took <= Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn nothing_is_fetched_behind_reads_where_it_is_not_cheap() {
    let local = ChunkConfig { local_store: true, ..distant() };
    let limited = ChunkConfig { download_limit_mbps: 1000, ..distant() };
    let mut nowhere = distant();
    nowhere.cache.place = CachePlace::None;
    let unwanted = ChunkConfig { prefetch: 0, ..distant() };
    for config in [local, limited, nowhere, unwanted] {
        let (faults, store) = open(config);
        let slice = put(&store, 1, &sample(4 << 20)).await;
        store.evict(slice).await;
        for block in 0..4 {
            store.read(slice, block * MIB + 5000, 4096, ReadPurpose::RandomInSmall).await.expect("read");
        }
        store.shutdown().await;
        assert_eq!(faults.counts.get_bytes.load(Relaxed), 4 * 4096);
    }
}

#[tokio::test]
async fn how_small_a_file_must_be() {
    let size = |cache: u64, change: fn(&mut ChunkConfig)| {
        let mut config = distant();
        config.cache.size_bytes = cache;
        change(&mut config);
        Store::open(config, mem()).small_file_bytes()
    };
    assert_eq!(size(1 << 30, |_| ()), 128 << 20);
    assert_eq!(size(100 << 30, |_| ()), 1 << 30);
    assert_eq!(size(1 << 30, |config| config.local_store = true), 0);
    assert_eq!(size(1 << 30, |config| config.prefetch = 0), 0);
    assert_eq!(size(1 << 30, |config| config.cache.place = CachePlace::None), 0);
}

/// While others ask for much, and while a block is fetched behind reads for long.
#[tokio::test(start_paused = true)]
async fn what_is_fetched_behind_reads_holds_up_nobody() {
    let (faults, store) = open(distant());
    let (slice, other) = (put(&store, 1, &sample(4 << 20)).await, put(&store, 2, &sample(8 << 20)).await);
    for slice in [slice, other] {
        store.evict(slice).await;
    }
    let read = |slice: SliceKey, off: u32| {
        let store = Arc::clone(&store);
        async move { store.read(slice, off, 4096, ReadPurpose::RandomInSmall).await.expect("read") }
    };
    // The part comes at once, its block late.
    faults.fail_next(Verb::Get, Fault::Latency(Duration::from_millis(1)));
    faults.fail_next(Verb::Get, Fault::Latency(Duration::from_secs(30)));
    let begun = Instant::now();
    for off in [5000, 500_000, 900_000] {
        read(slice, off).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}: reads wait for the block", begun.elapsed());
    assert_eq!(faults.counts.get.load(Relaxed), 4);
    // It is the only one while nobody knows the store for a quick one.
    read(slice, MIB + 5000).await;
    assert_eq!(faults.counts.get.load(Relaxed), 5);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(read(slice, 12_345).await.concat(), sample(1 << 20)[12_345..12_345 + 4096]);
    assert_eq!(faults.counts.get.load(Relaxed), 5, "the block has come");
    // Eight others ask for data.
    for block in 0..8 {
        faults.fail_next(Verb::Get, Fault::Latency(Duration::from_secs(30)));
        let read = store.clone();
        tokio::spawn(async move { read.read(other, block * MIB, MIB, ReadPurpose::Sequential).await });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = faults.counts.get_bytes.load(Relaxed);
    read(slice, 2 * MIB + 5000).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(faults.counts.get_bytes.load(Relaxed) - before, 4096, "the link is busy");
    tokio::time::sleep(Duration::from_secs(60)).await;
    read(slice, 3 * MIB + 5000).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(faults.counts.get_bytes.load(Relaxed) - before, (8 << 20) + 2 * 4096 + (1 << 20));
    store.shutdown().await;
}
