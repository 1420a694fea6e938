//! A store that another one replaces while it is in use.

use std::{
    sync::{Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use juicefs_core::{Errno, StorageError};
use juicefs_testkit::fault_store::{Fault, FaultStore, Verb};

use super::*;

fn keys() -> StorageError {
    StorageError::Keys("the key is not known".into())
}

/// The same objects under two sets of keys, and a data path that uses the first.
fn two_ways() -> (Arc<FaultStore>, Arc<FaultStore>, Arc<Store>) {
    let objects = mem();
    let (old, new) = (FaultStore::new(Arc::clone(&objects), 1), FaultStore::new(objects, 2));
    let store = Store::open(
        ChunkConfig { io_retries: 3, retry_delay: Duration::from_millis(100), ..config("none") },
        Arc::clone(&old) as Arc<dyn ObjectStorage>,
    );
    (old, new, store)
}

fn finds(store: &Arc<Store>, new: &Arc<FaultStore>) {
    let (weak, new): (Weak<Store>, _) = (Arc::downgrade(store), Arc::clone(new));
    store.renew_by(Box::new(move || {
        let (weak, new) = (weak.clone(), Arc::clone(&new));
        Box::pin(async move { weak.upgrade().expect("open").use_storage("mem", new as Arc<dyn ObjectStorage>) })
    }));
}

#[tokio::test]
async fn requests_go_to_the_new_store_and_those_under_way_end_with_the_old() {
    let (old, new, store) = two_ways();
    old.fail_next(Verb::Put, Fault::Latency(Duration::from_millis(200)));
    let (slow, quick) = (Arc::clone(&store), Arc::clone(&store));
    let under_way = tokio::spawn(async move { put(&slow, 1, &sample(1000)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.use_storage("mem", Arc::clone(&new) as Arc<dyn ObjectStorage>);
    put(&quick, 2, &sample(2000)).await;
    let slice = under_way.await.expect("not ended early");
    assert_eq!((old.counts.put.load(Relaxed), new.counts.put.load(Relaxed)), (1, 1));
    store.evict(slice).await;
    assert_eq!(get(&store, slice, 0, 1000).await, sample(1000));
    assert_eq!((old.counts.get.load(Relaxed), new.counts.get.load(Relaxed)), (0, 1));
}

#[tokio::test]
async fn what_the_old_keys_are_refused_is_asked_with_the_new() {
    for refusal in
        [keys(), StorageError::Permanent("denied".into()), StorageError::NotFound("of the old bucket".into())]
    {
        let (old, new, store) = two_ways();
        finds(&store, &new);
        let slice = put(&store, 1, &sample(1000)).await;
        store.evict(slice).await;
        old.fail_always(Some((Verb::Get, Fault::ErrorBefore(refusal.clone()))));
        assert_eq!(get(&store, slice, 0, 1000).await, sample(1000), "{refusal}");
        put(&store, 2, &sample(1000)).await;
        assert_eq!((old.counts.put.load(Relaxed), new.counts.put.load(Relaxed)), (1, 1), "{refusal}");
    }
}

/// The old keys are taken away, and three seconds later the volume has new ones.
#[tokio::test(start_paused = true)]
async fn keys_that_worked_are_waited_for() {
    let (old, new, store) = two_ways();
    let slice = put(&store, 1, &sample(1000)).await;
    store.evict(slice).await;
    old.fail_always(Some((Verb::Get, Fault::ErrorBefore(keys()))));
    let later = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        store.use_storage("mem", Arc::clone(&new) as Arc<dyn ObjectStorage>);
    };
    let (read, ()) = tokio::join!(get(&store, slice, 0, 1000), later);
    assert_eq!(read, sample(1000));
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_not_mended_are_an_error_soon_and_those_that_never_worked_at_once() {
    let (old, new, store) = two_ways();
    let slice = put(&store, 1, &sample(1000)).await;
    store.evict(slice).await;
    old.fail_always(Some((Verb::Get, Fault::ErrorBefore(keys()))));
    let begun = tokio::time::Instant::now();
    let failed = store.read(slice, 0, 1000, ReadPurpose::Random).await.expect_err("refused");
    assert_eq!(failed.errno(), Errno::EIO);
    assert!((5..=15).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    new.fail_always(Some((Verb::Get, Fault::ErrorBefore(keys()))));
    store.use_storage("mem", Arc::clone(&new) as Arc<dyn ObjectStorage>);
    let begun = tokio::time::Instant::now();
    store.read(slice, 0, 1000, ReadPurpose::Random).await.expect_err("refused");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(new.counts.get.load(Relaxed), 1);
}
