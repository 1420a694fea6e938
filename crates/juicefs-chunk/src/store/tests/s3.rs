//! Slices on an S3 server behind a bad network.

use std::time::Duration;

use juicefs_core::Errno;
use juicefs_testkit::{
    fault_proxy::{FaultProxy, Faults},
    s3::{ACCESS_KEY, S3Server, SECRET_KEY},
};

use super::*;

struct Behind {
    server: S3Server,
    proxy: FaultProxy,
    storage: Arc<dyn ObjectStorage>,
}

fn behind_a_proxy(seed: u64) -> Behind {
    let server = S3Server::start();
    server.make_bucket("bkt");
    let proxy = FaultProxy::start(server.port(), seed);
    let setting = Format {
        storage: "s3".into(),
        bucket: format!("http://127.0.0.1:{}/bkt", proxy.port()),
        access_key: ACCESS_KEY.into(),
        secret_key: SECRET_KEY.into(),
        ..format("none")
    };
    let storage = open_storage(&setting).expect("a bucket");
    Behind { server, proxy, storage }
}

fn patient(codec: &str, io_retries: u32) -> ChunkConfig {
    let timeout = Duration::from_secs(3);
    ChunkConfig { io_retries, get_timeout: timeout, put_timeout: timeout, ..config(codec) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_and_reset_connections_are_not_seen() {
    let mut faults = 0;
    for (seed, codec) in [(1, "none"), (2, "zstd"), (3, "lz4")] {
        let Behind { server: _server, proxy, storage } = behind_a_proxy(seed);
        let store = Store::open(patient(codec, 30), Arc::clone(&storage));
        proxy.faults(Faults {
            latency: 100,
            latency_max: Duration::from_millis(30),
            reset_before: 40,
            reset_after: 40,
            reply_dropped: 10,
            reply_torn: 60,
            ..Faults::default()
        });
        for id in 1..=5 {
            let data = sample(400_000 + id as usize);
            let slice = put(&store, id, &data).await;
            store.evict(slice).await;
            assert_eq!(get(&store, slice, 70_000, 1_000).await, data[70_000..71_000], "{codec} {seed}");
            assert!(get(&store, slice, 0, slice.size).await == data, "{codec} {seed}");
            store.remove(slice).await.expect("removed");
        }
        faults += proxy.counts().faults();
        proxy.calm();
        assert_eq!(storage.list("", "", 10).await.expect("list"), []);
        store.shutdown().await;
    }
    // Of some 350 requests, one in seven.
    assert!(faults > 10, "only {faults} faults");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stays_away_is_an_error_that_another_try_heals() {
    let Behind { server, proxy: _proxy, storage } = behind_a_proxy(4);
    let store = Store::open(patient("none", 2), storage);
    let data = sample(200_000);
    server.kill();
    let mut writer = store.writer(WriteOptions::default());
    writer.set_id(SliceId(1));
    let lease = store.budget().acquire(Share::Write, data.len()).await;
    writer.write(0, Bytes::copy_from_slice(&data), lease).expect("written");
    assert_eq!(writer.finish().await.expect_err("away").errno(), Errno::EIO);
    server.restart();
    writer.finish().await.expect("the data were kept");
    let slice = SliceKey { id: SliceId(1), size: data.len() as u32 };
    store.evict(slice).await;
    assert!(get(&store, slice, 0, slice.size).await == data);
    store.shutdown().await;
}
