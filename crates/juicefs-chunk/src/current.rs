//! The object store that requests go to may be replaced at any time, for `juicefs config` can give a mounted volume other
//! keys or another bucket. Requests that are under way end with the store that they began with.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use juicefs_core::{ObjectStorage, StorageError};
use parking_lot::RwLock;
use tokio::time::Instant;

/// A function that looks whether the volume has another store by now. If so, it passes that store to
/// [`crate::Store::use_storage`] before its future ends.
pub type Renewal = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The pause between two looks for another store. Many requests may be refused at once, and one look serves them all.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a look may take. The metadata engine may be unreachable too, and whoever was refused waits for the answer.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// Holds the store in force.
pub(crate) struct Current {
    held: RwLock<Held>,
    renewal: OnceLock<Renewal>,
    /// When the last look began. The lock is held while a look is under way, so that those who wait learn what it found.
    looked: tokio::sync::Mutex<Option<Instant>>,
}

/// A store as one request uses it.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) storage: Arc<dyn ObjectStorage>,
    /// Whether it is on this machine.
    pub(crate) is_local: bool,
    generation: u64,
    accepted: Arc<AtomicBool>,
}

impl Held {
    /// Notes that the store did what it was asked.
    pub(crate) fn accept(&self) {
        if !self.accepted.load(Relaxed) {
            self.accepted.store(true, Relaxed);
        }
    }

    /// Whether the store has done anything yet. What worked and works no longer may be about to be mended.
    pub(crate) fn was_accepted(&self) -> bool {
        self.accepted.load(Relaxed)
    }
}

impl Current {
    pub(crate) fn new(storage: Arc<dyn ObjectStorage>, is_local: bool) -> Self {
        let held = Held { storage, is_local, generation: 0, accepted: Arc::default() };
        Self { held: RwLock::new(held), renewal: OnceLock::new(), looked: tokio::sync::Mutex::default() }
    }

    /// Returns the store for a request that begins now.
    pub(crate) fn get(&self) -> Held {
        self.held.read().clone()
    }

    /// Puts another store in force.
    pub(crate) fn replace(&self, storage: Arc<dyn ObjectStorage>, is_local: bool) {
        let mut held = self.held.write();
        *held = Held { storage, is_local, generation: held.generation + 1, accepted: Arc::default() };
    }

    /// Sets how to look for another store. Only the first call counts.
    pub(crate) fn renew_by(&self, renewal: Renewal) {
        // A second one is a mistake of the caller without consequence.
        let _ = self.renewal.set(renewal);
    }

    /// Whether another store than `held` is in force by now. If not, and `error` is a final refusal, another store is looked
    /// for first.
    ///
    /// Cancel safe: a look that is dropped is made again by the next who is refused.
    pub(crate) async fn is_replaced(&self, held: &Held, error: &StorageError) -> bool {
        if self.has_other_than(held) {
            return true;
        }
        if matches!(error, StorageError::Transient(_)) {
            return false;
        }
        self.look(held).await
    }

    async fn look(&self, held: &Held) -> bool {
        let Some(renewal) = self.renewal.get() else { return false };
        let refused = Instant::now();
        let mut looked = self.looked.lock().await;
        // What was found by a look that began after the refusal is found for this one too.
        if looked.is_none_or(|began| began < refused) {
            if let Some(began) = *looked {
                tokio::time::sleep_until(began + LOOK_INTERVAL).await;
            }
            if !self.has_other_than(held) {
                *looked = Some(Instant::now());
                if tokio::time::timeout(LOOK_LIMIT, renewal()).await.is_err() {
                    tracing::warn!("whether the volume has another store by now is not known after {LOOK_LIMIT:?}");
                }
            }
        }
        self.has_other_than(held)
    }

    fn has_other_than(&self, held: &Held) -> bool {
        self.held.read().generation != held.generation
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Current").field(&self.get().storage.describe()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Weak, atomic::AtomicUsize};

    use super::*;
    use crate::object::DalStorage;

    fn memory() -> Arc<dyn ObjectStorage> {
        Arc::new(DalStorage::memory().expect("a store"))
    }

    fn refusal() -> StorageError {
        StorageError::Permanent("denied".into())
    }

    /// A store that is looked for by `find`, and the number of looks.
    fn looked_for(find: impl Fn(usize) -> bool + Send + Sync + 'static) -> (Arc<Current>, Arc<AtomicUsize>) {
        let current = Arc::new(Current::new(memory(), false));
        let (weak, looks): (Weak<Current>, _) = (Arc::downgrade(&current), Arc::<AtomicUsize>::default());
        let (counted, find) = (Arc::clone(&looks), Arc::new(find));
        current.renew_by(Box::new(move || {
            let (weak, counted, find) = (weak.clone(), Arc::clone(&counted), Arc::clone(&find));
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if find(counted.fetch_add(1, Relaxed))
                    && let Some(current) = weak.upgrade()
                {
                    current.replace(memory(), false);
                }
            })
        }));
        (current, looks)
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_is_for_all_who_are_refused() {
        let (current, looks) = looked_for(|look| look == 0);
        let held = current.get();
        let error = refusal();
        let all = futures_util::future::join_all((0..100).map(|_| current.is_replaced(&held, &error))).await;
        assert!(all.into_iter().all(|found| found));
        assert_eq!(looks.load(Relaxed), 1);
        // Who was refused by the store of before need not look.
        assert!(current.is_replaced(&held, &error).await);
        assert_eq!(looks.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_began_before_the_refusal_is_made_again_but_not_at_once() {
        let (current, looks) = looked_for(|look| look == 1);
        let held = current.get();
        let begun = Instant::now();
        assert!(!current.is_replaced(&held, &refusal()).await);
        assert!(current.is_replaced(&held, &refusal()).await);
        assert_eq!(looks.load(Relaxed), 2);
        assert!(begun.elapsed() >= LOOK_INTERVAL, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_no_reason_to_look() {
        let (current, looks) = looked_for(|_| true);
        let held = current.get();
        assert!(!current.is_replaced(&held, &StorageError::Transient("reset".into())).await);
        assert_eq!(looks.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_without_an_answer_ends() {
        let current = Current::new(memory(), false);
        current.renew_by(Box::new(|| Box::pin(std::future::pending())));
        let held = current.get();
        assert!(!current.is_replaced(&held, &refusal()).await);
    }
}
