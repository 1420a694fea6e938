//! Measures the pieces of the data path on a local directory: `data_path DIR [MIB]`.
//!
//! Prints throughput and CPU of: files by the own implementation and by OpenDAL, slices written, and cached reads.

use std::{path::Path, sync::Arc, time::Instant};

use bytes::Bytes;
use juicefs_chunk::{
    CachePlace, ChunkConfig, Store,
    object::{DalStorage, FileStorage},
    open_storage,
};
use juicefs_core::{
    ChunkStore, Format, Lease, ObjectStorage, Segments, Share, SliceId, SliceKey,
    store::{ReadPurpose, WriteOptions},
};
use opendal::{Operator, services::Fs};

/// CPU seconds and page faults of this process.
fn used() -> (f64, i64) {
    let usage = |who| {
        // SAFETY: an all-zero rusage is valid, and the call only fills it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` lives through the call.
        unsafe { libc::getrusage(who, &raw mut usage) };
        let secs = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        (secs(usage.ru_utime) + secs(usage.ru_stime), usage.ru_minflt)
    };
    usage(libc::RUSAGE_SELF)
}

struct Lap {
    started: Instant,
    used: (f64, i64),
}

impl Lap {
    fn start() -> Self {
        Self { started: Instant::now(), used: used() }
    }

    fn report(&self, what: &str, ops: usize, bytes: usize) {
        let (wall, (cpu, faults)) = (self.started.elapsed().as_secs_f64(), used());
        let (cpu, faults) = (cpu - self.used.0, (faults - self.used.1) as f64);
        let n = ops as f64;
        let rate = bytes as f64 / wall / (1 << 20) as f64;
        println!(
            "{what:<34} {rate:>9.0} MiB/s {:>9.0} op/s {:>9.1} µs CPU/op {:>7.1} faults/op",
            n / wall,
            cpu / n * 1e6,
            faults / n
        );
    }
}

/// Puts and gets objects of one size with so many tasks at once.
async fn objects(name: &str, store: Arc<dyn ObjectStorage>, size: usize, count: usize, tasks: usize) {
    let body = Segments::from_iter([Bytes::from(vec![7; size])]);
    for verb in ["put", "get"] {
        let lap = Lap::start();
        let work = (0..tasks).map(|task| {
            let (store, body) = (Arc::clone(&store), body.clone());
            tokio::spawn(async move {
                for n in 0..count / tasks {
                    let key = format!("{task}/{n}_0_{size}");
                    if verb == "put" {
                        store.put(&key, body.clone()).await.expect("put");
                    } else {
                        assert_eq!(
                            store.get(&key, None).await.expect("get").iter().map(Bytes::len).sum::<usize>(),
                            size
                        );
                    }
                }
            })
        });
        for task in work.collect::<Vec<_>>() {
            task.await.expect("no panic");
        }
        lap.report(&format!("{name} {verb} {size} x{tasks}"), count, count * size);
    }
}

async fn slices(dir: &Path, mib: usize, compression: &str) {
    let format = Format {
        name: "v".into(),
        storage: "file".into(),
        bucket: format!("{}/objects-{compression}/", dir.display()),
        block_size: 4096,
        compression: compression.into(),
        ..Format::default()
    };
    let mut config = ChunkConfig::for_format(&format).expect("a config");
    config.cache.place = CachePlace::Disk(vec![dir.join(format!("cache-{compression}"))]);
    config.cache.free_space_ratio = 0.01;
    let store = Store::open(config, open_storage(&format).expect("files"));
    let chunks = mib.div_ceil(64);
    let page: Bytes = (0..1_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>().into();
    let lap = Lap::start();
    for id in 1..=chunks as u64 {
        let mut writer = store.writer(WriteOptions::default());
        writer.set_id(SliceId(id));
        for at in 0..64_u32 {
            let lease = store.budget().acquire(Share::Write, 1 << 20).await;
            writer.write(at << 20, page.clone(), lease).expect("written");
            writer.flush_to(writer.len());
        }
        writer.finish().await.expect("finished");
    }
    lap.report(&format!("slice write 1 MiB {compression}"), chunks * 64, chunks << 26);
    let key = |id: usize| SliceKey { id: SliceId(id as u64), size: 64 << 20 };
    for (what, step) in [("cold", 128 << 10), ("warm", 128 << 10), ("warm", 1 << 20)] {
        let lap = Lap::start();
        for id in 1..=chunks {
            for at in (0..64 << 20).step_by(step as usize) {
                let got = store.read(key(id), at, step, ReadPurpose::Sequential).await.expect("read");
                assert_eq!(got.iter().map(Bytes::len).sum::<usize>(), step as usize);
            }
        }
        lap.report(&format!("slice read {what} {step} {compression}"), (chunks << 26) / step as usize, chunks << 26);
        if what == "cold" {
            while store.stats().cached_blocks < chunks as u64 * 16 {
                for id in 1..=chunks {
                    store.fill(key(id)).await.expect("filled");
                }
            }
        }
    }
    let (ops, mut at) = (200_000_usize, 1_usize);
    let lap = Lap::start();
    for _ in 0..ops {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (id, off) = ((at >> 20) % chunks + 1, ((at >> 40) % (16 << 10)) as u32 * 4096);
        store.read(key(id), off, 4096, ReadPurpose::Random).await.expect("read");
    }
    lap.report(&format!("slice read random 4096 {compression}"), ops, ops * 4096);
    let files = 20_000;
    let lap = Lap::start();
    for id in 0..files {
        let mut writer = store.writer(WriteOptions::default());
        writer.set_id(SliceId(1_000_000 + id));
        writer.write(0, page.slice(..4096), Lease::empty()).expect("written");
        writer.finish().await.expect("finished");
    }
    lap.report(&format!("slice write 4096 each {compression}"), files as usize, files as usize * 4096);
    store.shutdown().await;
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("usage: data_path DIR [MIB]");
    let mib = args.next().map_or(1024, |text| text.parse().expect("a number of MiB"));
    let dir = Path::new(&dir).join(format!("data_path-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for round in 0..2 {
            let at = |name: &str| format!("{}/{name}-{round}/", dir.display());
            let own: Arc<dyn ObjectStorage> = Arc::new(FileStorage::new(&at("own")));
            std::fs::create_dir_all(at("dal/.tmp")).expect("made");
            let fs = Fs::default().root(&at("dal")).atomic_write_dir(&at("dal/.tmp"));
            let dal: Arc<dyn ObjectStorage> = Arc::new(DalStorage::new(Operator::new(fs).expect("fs")));
            for (size, count, tasks) in [(4 << 20, mib / 4, 4), (4096, 16_000, 16), (4096, 8_000, 1)] {
                objects("own", Arc::clone(&own), size, count, tasks).await;
                objects("dal", Arc::clone(&dal), size, count, tasks).await;
            }
        }
        for compression in ["none", "lz4", "zstd"] {
            slices(&dir, if compression == "none" { mib } else { mib / 4 }, compression).await;
        }
    });
    std::fs::remove_dir_all(&dir).expect("removed");
}
