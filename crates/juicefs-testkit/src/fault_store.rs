//! An object store that misbehaves on purpose, and in the same way for the same seed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use juicefs_core::{ObjectStorage, Segments, StorageError, buffer::segments_len, store::ObjectInfo};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails and has no effect.
    ErrorBefore(StorageError),
    /// It has its effect, and the answer is lost.
    ErrorAfter(StorageError),
    /// It fails after so long, and has no effect.
    ErrorLate(Duration, StorageError),
    /// It takes this much longer.
    Latency(Duration),
    /// It never ends.
    Hang,
    /// One bit of the body that a GET returns is flipped.
    CorruptByte,
    /// The body that a GET returns ends early.
    Truncated,
}

/// Kinds of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Of a whole object or a part.
    Get,
    /// Of an object.
    Put,
    /// Of an object.
    Delete,
    /// Of size and time.
    Head,
    /// Of keys.
    List,
}

/// How often each fault happens on its own, per thousand requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// [`Fault::ErrorBefore`] with a transient error.
    pub error_before: i32,
    /// [`Fault::ErrorAfter`] with a transient error.
    pub error_after: i32,
    /// [`Fault::Latency`] of up to 5 ms.
    pub latency: i32,
    /// [`Fault::CorruptByte`], for GET.
    pub corrupt_byte: i32,
    /// [`Fault::Truncated`], for GET.
    pub truncated: i32,
}

/// Requests seen so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// GETs.
    pub get: AtomicU64,
    /// PUTs.
    pub put: AtomicU64,
    /// DELETEs.
    pub delete: AtomicU64,
    /// Bytes that GETs returned.
    pub get_bytes: AtomicU64,
    /// PUTs under way now.
    pub puts_now: AtomicU64,
    /// Most PUTs that were ever under way at once.
    pub puts_most: AtomicU64,
}

/// A wrapper that injects faults into requests to another store: those that were queued first, then random ones.
#[derive(Debug)]
pub struct FaultStore {
    store: Arc<dyn ObjectStorage>,
    /// What was seen.
    pub counts: Counts,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    rates: Rates,
    queued: VecDeque<(Verb, Fault)>,
    /// A fault that every request of its kind meets until it is taken away.
    standing: Option<(Verb, Fault)>,
}

impl FaultStore {
    /// Wraps `store`. Nothing goes wrong yet; `seed` decides what will once rates are set.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStorage>, seed: u64) -> Arc<Self> {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            rates: Rates::default(),
            queued: VecDeque::new(),
            standing: None,
        };
        Arc::new(Self { store, counts: Counts::default(), state: Mutex::new(state) })
    }

    /// Sets how often things go wrong from now on.
    pub fn set_rates(&self, rates: Rates) {
        self.state.lock().rates = rates;
    }

    /// Makes the next request of this kind that has none go wrong.
    pub fn fail_next(&self, verb: Verb, fault: Fault) {
        self.state.lock().queued.push_back((verb, fault));
    }

    /// Makes every request of this kind go wrong, until it is called again.
    pub fn fail_always(&self, fault: Option<(Verb, Fault)>) {
        self.state.lock().standing = fault;
    }

    fn pick(&self, verb: Verb) -> Option<Fault> {
        let state = &mut *self.state.lock();
        if let Some(at) = state.queued.iter().position(|(queued, _)| *queued == verb) {
            return state.queued.remove(at).map(|(_, fault)| fault);
        }
        if let Some((standing, fault)) = &state.standing
            && *standing == verb
        {
            return Some(fault.clone());
        }
        let rates = state.rates;
        let mut roll: i32 = state.rng.random_range(0..1000);
        // One roll decides: each rate takes its share of the thousand.
        let mut hit = |rate: i32| {
            roll -= rate;
            roll < 0
        };
        let lost = || StorageError::Transient("injected fault".to_owned());
        if hit(rates.error_before) {
            return Some(Fault::ErrorBefore(lost()));
        }
        if hit(rates.error_after) {
            return Some(Fault::ErrorAfter(lost()));
        }
        if hit(rates.latency) {
            return Some(Fault::Latency(Duration::from_micros(state.rng.random_range(0..5000))));
        }
        if verb == Verb::Get && hit(rates.corrupt_byte) {
            return Some(Fault::CorruptByte);
        }
        (verb == Verb::Get && hit(rates.truncated)).then_some(Fault::Truncated)
    }

    /// Lets a request meet its fault before it is passed on. Returns what is left of the fault for afterwards.
    async fn before(&self, verb: Verb) -> Result<Option<Fault>, StorageError> {
        match self.pick(verb) {
            Some(Fault::ErrorBefore(e)) => Err(e),
            Some(Fault::ErrorLate(wait, e)) => {
                tokio::time::sleep(wait).await;
                Err(e)
            }
            Some(Fault::Latency(wait)) => {
                tokio::time::sleep(wait).await;
                Ok(None)
            }
            Some(Fault::Hang) => std::future::pending().await,
            other => Ok(other),
        }
    }

    fn damage(&self, fault: Option<&Fault>, body: Segments) -> Segments {
        if body.is_empty() || !matches!(fault, Some(Fault::CorruptByte | Fault::Truncated)) {
            return body;
        }
        let mut bytes = body.iter().fold(BytesMut::new(), |mut all, part| {
            all.extend_from_slice(part);
            all
        });
        let mut state = self.state.lock();
        let at = state.rng.random_range(0..bytes.len());
        if matches!(fault, Some(Fault::CorruptByte)) {
            bytes[at] ^= 1 << state.rng.random_range(0..8);
        } else {
            bytes.truncate(at);
        }
        Segments::from_iter([Bytes::from(bytes)])
    }
}

/// The answer to a request whose effect took place.
fn after<T>(fault: Option<Fault>, done: Result<T, StorageError>) -> Result<T, StorageError> {
    match fault {
        Some(Fault::ErrorAfter(e)) => Err(e),
        _ => done,
    }
}

#[async_trait]
impl ObjectStorage for FaultStore {
    fn describe(&self) -> String {
        format!("faulty {}", self.store.describe())
    }

    async fn create(&self) -> Result<(), StorageError> {
        self.store.create().await
    }

    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError> {
        self.counts.get.fetch_add(1, Relaxed);
        let fault = self.before(Verb::Get).await?;
        let body = self.store.get(key, range).await?;
        self.counts.get_bytes.fetch_add(segments_len(&body) as u64, Relaxed);
        let body = self.damage(fault.as_ref(), body);
        after(fault, Ok(body))
    }

    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError> {
        self.counts.put.fetch_add(1, Relaxed);
        let now = self.counts.puts_now.fetch_add(1, Relaxed) + 1;
        self.counts.puts_most.fetch_max(now, Relaxed);
        let _under_way = UnderWay(&self.counts.puts_now);
        let fault = self.before(Verb::Put).await?;
        let done = self.store.put(key, body).await;
        after(fault, done)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.counts.delete.fetch_add(1, Relaxed);
        let fault = self.before(Verb::Delete).await?;
        let done = self.store.delete(key).await;
        after(fault, done)
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        let fault = self.before(Verb::Head).await?;
        let done = self.store.head(key).await;
        after(fault, done)
    }

    async fn list(&self, prefix: &str, after_key: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        let fault = self.before(Verb::List).await?;
        let done = self.store.list(prefix, after_key, limit).await;
        after(fault, done)
    }
}

struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
