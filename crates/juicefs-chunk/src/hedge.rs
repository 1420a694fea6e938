//! With `--hedge-get` a GET that takes longer than nearly all others of its size is sent a second time, because the second
//! request may be answered sooner.
//!
//! How long is too long follows from the times that bodies of about the same size took lately. Each first request pays a
//! part of a second one, so that second requests stay few: a store that slows down as a whole is not asked twice for
//! everything.

use std::{
    future::Future,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use futures_util::{FutureExt, future::Either, future::select, poll};
use juicefs_core::StorageError;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

/// The upper ends of the classes of sizes. Whatever is larger makes one more class.
const CLASSES_BYTES: [usize; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// How many times a class remembers.
const SAMPLES: usize = 128;
/// How many times a class must know before it gives a limit.
const LEAST_SAMPLES: usize = 20;
/// The limit of a class is computed again after so many new times.
const RENEWED_AFTER: usize = 16;
/// The part of the requests that take longer than the limit.
const SLOW_PERCENT: usize = 5;
/// A second request is never sent before this: it costs more than that.
const LEAST_DELAY: Duration = Duration::from_millis(20);
/// So many first requests pay for a second one. That is twice as many second requests as the limit makes necessary while a
/// store is as quick as it was.
const PRICE: u32 = 10;
/// The most second requests that can be paid in advance.
const SAVED: u32 = 8;

/// Knows how long GETs took lately, and counts second requests.
#[derive(Debug, Default)]
pub(crate) struct Hedges {
    classes: [Mutex<Class>; CLASSES_BYTES.len() + 1],
    /// What first requests have paid and no second one has used, at most the price of [`SAVED`].
    paid: Mutex<u32>,
    sent: AtomicU64,
    won: AtomicU64,
}

/// The last times of one class of sizes, in a ring.
#[derive(Debug, Default)]
struct Class {
    times: Vec<Duration>,
    next: usize,
    /// Since the limit was found.
    fresh: usize,
    limit: Option<Duration>,
}

impl Class {
    fn note(&mut self, took: Duration) {
        if self.times.len() < SAMPLES {
            self.times.push(took);
        } else {
            self.times[self.next] = took;
        }
        self.next = (self.next + 1) % SAMPLES;
        self.fresh += 1;
        if self.times.len() >= LEAST_SAMPLES && (self.limit.is_none() || self.fresh >= RENEWED_AFTER) {
            let mut sorted = self.times.clone();
            sorted.sort_unstable();
            let at = sorted.len() - 1 - sorted.len() * SLOW_PERCENT / 100;
            self.limit = Some(sorted[at].max(LEAST_DELAY));
            self.fresh = 0;
        }
    }
}

impl Hedges {
    fn class(&self, bytes: usize) -> &Mutex<Class> {
        let at = CLASSES_BYTES.iter().position(|most| bytes <= *most).unwrap_or(CLASSES_BYTES.len());
        &self.classes[at]
    }

    /// Returns how many second requests were sent, and how many of them were answered first.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.won.load(Relaxed))
    }

    /// Runs a GET of about `bytes`, and a second one when the first takes too long and one of `slots` is free; the first
    /// good answer is returned and the other request dropped. When both fail, the error is that of the last one.
    ///
    /// Cancel safe: nothing goes on when it is dropped.
    pub(crate) async fn race<T, F>(
        &self,
        bytes: usize,
        slots: &Semaphore,
        attempt: impl Fn() -> F,
    ) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let started = Instant::now();
        self.pay();
        let mut first = pin!(attempt());
        // What is answered at once needs no timer.
        let mut answer = poll!(first.as_mut());
        if answer.is_pending() {
            let limit = self.class(bytes).lock().limit;
            if let Some(limit) = limit {
                match tokio::time::timeout_at(started + limit, first.as_mut()).await {
                    Ok(done) => answer = std::task::Poll::Ready(done),
                    Err(_) => {
                        if let Ok(_slot) = slots.try_acquire()
                            && self.charge()
                        {
                            return self.second(bytes, started, first, attempt()).await;
                        }
                    }
                }
            }
        }
        let done = match answer {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => first.await,
        };
        if done.is_ok() {
            self.class(bytes).lock().note(started.elapsed());
        }
        done
    }

    async fn second<T>(
        &self,
        bytes: usize,
        started: Instant,
        first: std::pin::Pin<&mut impl Future<Output = Result<T, StorageError>>>,
        second: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        self.sent.fetch_add(1, Relaxed);
        let second = pin!(second.map(|done| {
            if done.is_ok() {
                self.won.fetch_add(1, Relaxed);
            }
            done
        }));
        let done = match select(first, second).await {
            Either::Left((Ok(value), _)) | Either::Right((Ok(value), _)) => Ok(value),
            Either::Left((Err(_), other)) => other.await,
            Either::Right((Err(_), other)) => other.await,
        };
        if done.is_ok() {
            // At least this long is what the first one took.
            self.class(bytes).lock().note(started.elapsed());
        }
        done
    }

    /// Every first request pays a part of a second one.
    fn pay(&self) {
        let mut paid = self.paid.lock();
        *paid = (*paid + 1).min(PRICE * SAVED);
    }

    /// Whether a second request is paid for. If so, this uses up what was paid.
    fn charge(&self) -> bool {
        let mut paid = self.paid.lock();
        let enough = *paid >= PRICE;
        if enough {
            *paid -= PRICE;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const KIB: usize = 1 << 10;

    /// A store of which every request takes the next of these times, and the number of requests so far.
    struct Paced {
        millis: Vec<u64>,
        asked: AtomicUsize,
    }

    impl Paced {
        fn new(millis: impl IntoIterator<Item = u64>) -> Self {
            Self { millis: millis.into_iter().collect(), asked: AtomicUsize::new(0) }
        }

        async fn get(&self) -> Result<usize, StorageError> {
            let at = self.asked.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(self.millis[at])).await;
            if self.millis[at] % 10 == 9 { Err(StorageError::Transient("odd".into())) } else { Ok(at) }
        }
    }

    async fn learned(times: usize, millis: u64) -> Hedges {
        let hedges = Hedges::default();
        let store = Paced::new(vec![millis; times]);
        for at in 0..times {
            assert_eq!(hedges.race(64 * KIB, &Semaphore::new(1), || store.get()).await.expect("answered"), at);
        }
        assert_eq!(hedges.counts(), (0, 0));
        hedges
    }

    async fn timed(hedges: &Hedges, free: usize, millis: &[u64]) -> (Result<usize, StorageError>, u64) {
        let (store, slots) = (Paced::new(millis.iter().copied()), Semaphore::new(free));
        let started = Instant::now();
        let done = hedges.race(64 * KIB, &slots, || store.get()).await;
        assert_eq!(slots.available_permits(), free);
        (done, u64::try_from(started.elapsed().as_millis()).expect("short"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_request_is_overtaken_by_a_second_one() {
        let hedges = learned(100, 50).await;
        // The second is sent after 50 ms and takes 30 ms.
        let (done, took) = timed(&hedges, 1, &[10_000, 30]).await;
        assert_eq!((done.expect("answered"), took), (1, 80));
        assert_eq!(hedges.counts(), (1, 1));
        // A first request that comes in the end before the second one is as good.
        let (done, took) = timed(&hedges, 1, &[60, 500]).await;
        assert_eq!((done.expect("answered"), took), (0, 60));
        assert_eq!(hedges.counts(), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_counts() {
        let hedges = learned(100, 50).await;
        for millis in [[200, 39], [59, 200]] {
            let (done, took) = timed(&hedges, 1, &millis).await;
            let good = millis.iter().position(|ms| ms % 10 != 9);
            assert_eq!(done.ok(), good, "{millis:?}");
            assert_eq!(took, if good == Some(0) { 200 } else { 250 });
        }
        let (done, took) = timed(&hedges, 1, &[59, 209]).await;
        assert!(matches!(done, Err(StorageError::Transient(_))));
        assert_eq!(took, 259);
        assert_eq!(hedges.counts(), (3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_without_a_slot_or_knowledge_or_before_the_least_delay() {
        let hedges = learned(100, 50).await;
        let (done, took) = timed(&hedges, 0, &[10_000]).await;
        assert_eq!((done.expect("answered"), took), (0, 10_000));
        let hedges = learned(LEAST_SAMPLES - 1, 50).await;
        assert_eq!(timed(&hedges, 1, &[10_000]).await.1, 10_000);
        assert_eq!(hedges.counts(), (0, 0));
        let hedges = learned(100, 1).await;
        assert_eq!(timed(&hedges, 1, &[10_000, 5]).await.1, 25);
        // What is known of small bodies says nothing about large ones.
        let store = Paced::new([10_000]);
        hedges.race(1 << 20, &Semaphore::new(1), || store.get()).await.expect("answered");
        assert_eq!(hedges.counts(), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn second_requests_are_few_when_everything_is_slow() {
        let hedges = learned(1000, 50).await;
        let store = Paced::new(vec![3000; 3000]);
        let slots = Semaphore::new(1);
        for _ in 0..1000 {
            hedges.race(64 * KIB, &slots, || store.get()).await.expect("answered");
        }
        let (sent, won) = hedges.counts();
        // Those that were saved up, and then none: what is slow is what is usual now.
        assert!((u64::from(SAVED)..u64::from(SAVED) + 1000 / u64::from(PRICE)).contains(&sent), "{sent}");
        assert_eq!(won, 0);
        // A twentieth of the requests stays slow: each of them gets its second one.
        let hedges = learned(200, 50).await;
        let mut slow = 0;
        for at in 0..400_u64 {
            let millis = if at % 21 == 20 { 5000 } else { 50 };
            slow += u64::from(timed(&hedges, 1, &[millis, 50]).await.1 > 1000);
        }
        assert_eq!((slow, hedges.counts()), (0, (19, 19)));
    }

    #[test]
    fn the_limit_is_the_time_that_one_in_twenty_exceeds() {
        let mut class = Class::default();
        for ms in 1..=100 {
            class.note(Duration::from_millis(ms));
        }
        assert_eq!(class.limit.expect("known"), Duration::from_millis(95).max(LEAST_DELAY));
        for _ in 0..10 * SAMPLES {
            class.note(Duration::from_millis(200));
        }
        assert_eq!((class.limit, class.times.len()), (Some(Duration::from_millis(200)), SAMPLES));
    }
}
