//! All requests of the data path to the object store are made here, with their deadlines, retries, bandwidth and counters.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::poll;
use juicefs_core::{ObjectStorage, Segments, StorageError, buffer::segments_len};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    config::ChunkConfig,
    counters::{Counters, OpCounter},
    current::{Current, Held},
    hedge::Hedges,
    limit::Limit,
};

/// The longest wait between two tries. So much later, at most, it is noticed that the store is back.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(5);
/// `--io-retries` N is as patient as JuiceFS (Go), which waits 1, 4, 9, ... N² seconds between its tries. Here that is the
/// time, in first waits of a tenth of a second, before which nothing is given up.
const PATIENCE_UNIT: u32 = 10;
/// How long keys that the store took before may be refused: whoever rotates them may take the old ones away a moment before
/// the volume has the new ones.
const KEYS_PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait between two tries with such keys.
const MAX_KEYS_DELAY: Duration = Duration::from_secs(1);
/// A request that takes longer is logged.
const SLOW: Duration = Duration::from_secs(10);

/// How long a request that changes the store may still take when the data path closes. It had better end, because nobody
/// knows otherwise what became of it. Of a store that is unreachable nothing is expected.
const CLOSING_GRACE: Duration = Duration::from_secs(3);

/// Makes requests to the store of a volume by the rules of one mount.
#[derive(Debug)]
pub(crate) struct Requests {
    current: Current,
    /// Slots of requests for data, which whoever fetches takes.
    pub(crate) downloads: Semaphore,
    max_downloads: usize,
    deletes: Semaphore,
    get_timeout: Duration,
    put_timeout: Duration,
    retries: u32,
    retry_delay: Duration,
    patience: Duration,
    /// `None` when no GET is sent a second time.
    hedges: Option<Hedges>,
    upload_limit: Limit,
    download_limit: Limit,
    counters: Arc<Counters>,
    /// Cancelled when the data path closes.
    closing: CancellationToken,
    /// Whether a request was given up after that, so that no other has to wait as long.
    is_hopeless: AtomicBool,
}

/// What requests of one kind have in common.
struct Kind<'a> {
    verb: &'static str,
    deadline: Duration,
    /// A request is tried again for at least this long, however quickly it fails.
    patience: Duration,
    counter: &'a OpCounter,
    /// The bandwidth that each try takes beforehand, for a try that fails has used it too.
    takes: Option<(&'a Limit, usize)>,
}

impl Requests {
    /// Prepares requests to `storage`. When `closing` is cancelled downloads end at once, and other requests soon.
    pub(crate) fn new(
        config: &ChunkConfig,
        storage: Arc<dyn ObjectStorage>,
        counters: Arc<Counters>,
        closing: CancellationToken,
    ) -> Self {
        Self {
            current: Current::new(storage, config.local_store),
            downloads: Semaphore::new(config.max_downloads),
            max_downloads: config.max_downloads,
            deletes: Semaphore::new(config.max_deletes),
            get_timeout: config.get_timeout,
            put_timeout: config.put_timeout,
            retries: config.io_retries,
            retry_delay: config.retry_delay,
            patience: patience(config.io_retries, config.retry_delay),
            hedges: config.hedge_get.then(Hedges::default),
            upload_limit: Limit::of_mbps(config.upload_limit_mbps),
            download_limit: Limit::of_mbps(config.download_limit_mbps),
            counters,
            closing,
            is_hopeless: AtomicBool::new(false),
        }
    }

    /// Describes the store in force, for people.
    pub(crate) fn describe(&self) -> String {
        self.current.get().storage.describe()
    }

    /// Gives access to the store in force.
    pub(crate) fn current(&self) -> &Current {
        &self.current
    }

    /// Sets the bandwidths in megabits a second, 0 for no limit. Requests that wait go on with the new ones.
    pub(crate) fn set_limits(&self, upload_mbps: u64, download_mbps: u64) {
        self.upload_limit.set_mbps(upload_mbps);
        self.download_limit.set_mbps(download_mbps);
    }

    /// Returns how many requests for data are under way or about to begin.
    pub(crate) fn downloading(&self) -> usize {
        self.max_downloads.saturating_sub(self.downloads.available_permits())
    }

    /// Whether `--download-limit` is in force.
    pub(crate) fn is_download_limited(&self) -> bool {
        self.download_limit.is_limited()
    }

    /// Returns how many second GETs were sent, and how many of them were answered first.
    pub(crate) fn hedges(&self) -> (u64, u64) {
        self.hedges.as_ref().map_or((0, 0), Hedges::counts)
    }

    /// Fetches an object of about `about_bytes`, or a part of it. With `exact_bytes`, a body that is shorter counts as a
    /// fault that may pass, and one that is longer is cut.
    pub(crate) async fn get(
        &self,
        key: &str,
        range: Option<(u64, u64)>,
        about_bytes: usize,
        exact_bytes: Option<usize>,
    ) -> Result<Segments, StorageError> {
        let takes = exact_bytes.map(|bytes| (&self.download_limit, bytes));
        let (deadline, patience) = (self.get_timeout, self.patience);
        let kind = Kind { verb: "GET", deadline, patience, counter: &self.counters.get, takes };
        let once = &|storage: Arc<dyn ObjectStorage>| async move {
            let mut body = storage.get(key, range).await?;
            if let Some(want) = exact_bytes {
                cut(&mut body, want);
                let got = segments_len(&body);
                if got < want {
                    return Err(StorageError::Transient(format!("{key}: body of {got} bytes instead of {want}")));
                }
            }
            let bytes = segments_len(&body);
            Ok((body, bytes))
        };
        let attempt = |held: Held| async move {
            // Where bandwidth is rationed there is none for asking twice, and a local store is asked in no time.
            let hedges = self.hedges.as_ref().filter(|_| !held.is_local && !self.download_limit.is_limited());
            match hedges {
                Some(hedges) => hedges.race(about_bytes, &self.downloads, || once(Arc::clone(&held.storage))).await,
                None => once(held.storage).await,
            }
        };
        // Nobody waits for what is read any more.
        let work = self.retry(&kind, key, &self.closing, attempt);
        let body = self.until_closed(Duration::ZERO, work).await?;
        if exact_bytes.is_none() {
            // Nobody knew how much it would be: what comes next waits for it.
            self.download_limit.take(segments_len(&body)).await;
        }
        Ok(body)
    }

    /// Stores an object. Retrying ends when `stop` is cancelled.
    pub(crate) async fn put(&self, key: &str, body: &Segments, stop: &CancellationToken) -> Result<(), StorageError> {
        let bytes = segments_len(body);
        let takes = Some((&self.upload_limit, bytes));
        let (deadline, patience) = (self.put_timeout, self.patience);
        let kind = Kind { verb: "PUT", deadline, patience, counter: &self.counters.put, takes };
        let attempt = |held: Held| async move { held.storage.put(key, body.clone()).await.map(|()| ((), bytes)) };
        self.until_closed(CLOSING_GRACE, self.retry(&kind, key, stop, attempt)).await
    }

    /// Deletes an object. A missing one is success.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), StorageError> {
        // The semaphore is never closed.
        let _slot = self.deletes.acquire().await;
        // Nobody waits for it, and what stays is found later.
        let (deadline, patience) = (self.put_timeout, Duration::ZERO);
        let kind = Kind { verb: "DELETE", deadline, patience, counter: &self.counters.delete, takes: None };
        let attempt = |held: Held| async move {
            match held.storage.delete(key).await {
                Ok(()) | Err(StorageError::NotFound(_)) => Ok(((), 0)),
                Err(e) => Err(e),
            }
        };
        self.until_closed(CLOSING_GRACE, self.retry(&kind, key, &self.closing, attempt)).await
    }

    /// Runs a request, and drops it `grace` after the data path began to close.
    async fn until_closed<T>(
        &self,
        grace: Duration,
        request: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let over = async {
            self.closing.cancelled().await;
            if !grace.is_zero() && !self.is_hopeless.load(Relaxed) {
                tokio::time::sleep(grace).await;
                self.is_hopeless.store(true, Relaxed);
            }
        };
        tokio::select! {
            biased;
            done = request => done,
            () = over => Err(StorageError::Transient("the mount ends".to_owned())),
        }
    }

    async fn retry<T, F: Future<Output = Result<(T, usize), StorageError>>>(
        &self,
        kind: &Kind<'_>,
        key: &str,
        stop: &CancellationToken,
        attempt: impl Fn(Held) -> F,
    ) -> Result<T, StorageError> {
        let mut tries = 0;
        let begun = Instant::now();
        loop {
            let held = self.current.get();
            if let Some((limit, bytes)) = kind.takes {
                limit.take(bytes).await;
            }
            let started = Instant::now();
            let done = within(kind.deadline, attempt(held.clone())).await;
            let took = started.elapsed();
            if took > SLOW {
                tracing::warn!("slow request: {} {key} took {took:.1?}", kind.verb);
            }
            let error = match done {
                Ok((value, bytes)) => {
                    held.accept();
                    kind.counter.add(bytes, took);
                    return Ok(value);
                }
                Err(e) => e,
            };
            self.counters.object_error();
            if !stop.is_cancelled() && self.current.is_replaced(&held, &error).await {
                // Each round takes another change of the setting, so this ends.
                tracing::debug!("{} {key} failed, and is asked of the new store: {error}", kind.verb);
                continue;
            }
            let (is_over, longest_delay) = match &error {
                StorageError::Transient(_) => (tries >= self.retries && begun.elapsed() >= kind.patience, MAX_DELAY),
                StorageError::Keys(_) if held.was_accepted() => {
                    (begun.elapsed() >= kind.patience.min(KEYS_PATIENCE), MAX_KEYS_DELAY)
                }
                _ => (true, MAX_DELAY),
            };
            if is_over || stop.is_cancelled() {
                tracing::warn!("{} {key} failed after {} tries: {error}", kind.verb, tries + 1);
                return Err(error);
            }
            let delay = self.delay(tries).min(longest_delay);
            tries += 1;
            tracing::debug!("{} {key} failed (try {tries}), again in {delay:.2?}: {error}", kind.verb);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => return Err(error),
            }
        }
    }

    /// Doubles with each try, with jitter so that clients hit by one fault do not come back as one.
    fn delay(&self, tries: u32) -> Duration {
        let whole = self.retry_delay.saturating_mul(1 << tries.min(16)).min(MAX_DELAY);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// How long requests are tried again at least.
fn patience(retries: u32, first_delay: Duration) -> Duration {
    let (n, unit) = (u64::from(retries), u64::from(PATIENCE_UNIT));
    let squares = n.saturating_mul(n + 1).saturating_mul(2 * n + 1) / 6;
    first_delay.saturating_mul(u32::try_from(squares.saturating_mul(unit)).unwrap_or(u32::MAX))
}

/// Cuts `body` to its first `want` bytes.
fn cut(body: &mut Segments, want: usize) {
    let mut left = want;
    for part in body.iter_mut() {
        part.truncate(left);
        left -= part.len();
    }
    body.retain(|part| !part.is_empty());
}

/// Runs a request with a deadline. One that is answered at once needs no timer.
async fn within<T>(
    deadline: Duration,
    request: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    let mut request = pin!(request);
    if let std::task::Poll::Ready(done) = poll!(request.as_mut()) {
        return done;
    }
    tokio::time::timeout(deadline, request)
        .await
        .unwrap_or_else(|_| Err(StorageError::Transient(format!("no answer within {deadline:?}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_that_of_the_reference_client() {
        let tenth = Duration::from_millis(100);
        assert_eq!(patience(0, tenth), Duration::ZERO);
        assert_eq!(patience(2, tenth), Duration::from_secs(5));
        assert_eq!(patience(10, tenth), Duration::from_secs(385));
        assert!(patience(u32::MAX, tenth) > patience(1000, tenth));
    }
}
