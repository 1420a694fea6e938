//! Whoever writes holds the lock of a file, and must not do the work of an upload meanwhile.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use juicefs_core::{StorageError, store::ObjectInfo};
use parking_lot::Mutex;

use super::*;
use crate::{CachePlace, KeepWritten, cache::Found};

const BLOCK: u32 = 64 << 10;

/// A store that looks whether a lock is free whenever it is given an object.
#[derive(Debug)]
struct Observer {
    storage: Arc<dyn ObjectStorage>,
    lock: Arc<Mutex<()>>,
    puts: AtomicU64,
    puts_under_lock: AtomicU64,
}

#[async_trait]
impl ObjectStorage for Observer {
    fn describe(&self) -> String {
        self.storage.describe()
    }

    async fn create(&self) -> Result<(), StorageError> {
        self.storage.create().await
    }

    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError> {
        self.storage.get(key, range).await
    }

    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError> {
        self.puts.fetch_add(1, Relaxed);
        if self.lock.try_lock().is_none() {
            self.puts_under_lock.fetch_add(1, Relaxed);
        }
        self.storage.put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.storage.delete(key).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.storage.head(key).await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        self.storage.list(prefix, after, limit).await
    }
}

/// There is one thread, so that a task runs only where the test waits, and the test never waits under the lock.
#[tokio::test]
async fn an_upload_is_first_polled_when_the_lock_is_free() {
    let lock = Arc::new(Mutex::new(()));
    let observer = Arc::new(Observer {
        storage: mem(),
        lock: Arc::clone(&lock),
        puts: AtomicU64::new(0),
        puts_under_lock: AtomicU64::new(0),
    });
    let mut config = config("none");
    (config.cache.place, config.cache.keep_written) = (CachePlace::Memory, KeepWritten::All);
    let store = Store::open(config, Arc::clone(&observer) as Arc<dyn ObjectStorage>);
    let data = sample(3 * BLOCK as usize + 10);
    let first = BlockId { slice: 1, index: 0, size: BLOCK };
    let mut writer = store.writer(WriteOptions::default());
    writer.set_id(SliceId(1));
    {
        let _held = lock.lock();
        writer.write(0, Bytes::from(data.clone()), Lease::empty()).expect("written");
        writer.flush_to(writer.len());
        assert_eq!(writer.sealed(), 3 * BLOCK);
        assert_eq!(observer.puts.load(Relaxed), 0, "a request is made elsewhere");
        assert!(matches!(store.cache.find(first), Found::Nothing), "a block is copied into the cache elsewhere");
    }
    writer.finish().await.expect("finished");
    assert_eq!((observer.puts.load(Relaxed), observer.puts_under_lock.load(Relaxed)), (4, 0));
    assert!(matches!(store.cache.find(first), Found::Memory(_)));
    let slice = SliceKey { id: SliceId(1), size: writer.len() };
    assert!(get(&store, slice, 0, slice.size).await == data);
    {
        // A writer that is dropped under the lock cleans up elsewhere too.
        let mut dropped = store.writer(WriteOptions::default());
        dropped.set_id(SliceId(2));
        let _held = lock.lock();
        dropped.write(0, Bytes::from(data), Lease::empty()).expect("written");
        dropped.flush_to(dropped.len());
        drop(dropped);
        assert_eq!(observer.puts.load(Relaxed), 4);
    }
    store.shutdown().await;
    assert_eq!((observer.puts_under_lock.load(Relaxed), store.budget().used_bytes()), (0, 0));
}
