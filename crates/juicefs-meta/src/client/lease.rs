//! Numbers taken from a counter of the volume in batches: inode numbers and slice ids. What is left of a batch when the
//! client ends is never used.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use juicefs_core::error::{MetaError, MetaResult};
use parking_lot::Mutex;

use crate::{engine::Engine, record::Counter};

/// One kind of number.
pub(super) struct Lease {
    engine: Arc<dyn Engine>,
    counter: Counter,
    batch: u64,
    state: Mutex<State>,
    /// Held by whoever fetches a batch that is already missed.
    refill: tokio::sync::Mutex<()>,
    prefetching: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    current: Batch,
    spare: Option<Batch>,
}

/// The numbers `next..end`.
#[derive(Debug, Default, Clone, Copy)]
struct Batch {
    next: u64,
    end: u64,
}

impl State {
    /// The next number, and whether it is time to think of the next batch.
    fn take(&mut self, batch: u64) -> Option<(u64, bool)> {
        if self.current.next == self.current.end {
            self.current = self.spare.take()?;
        }
        let number = self.current.next;
        self.current.next += 1;
        let low = self.current.end - self.current.next <= batch / 8 && self.spare.is_none();
        Some((number, low))
    }
}

impl Lease {
    pub(super) fn new(engine: Arc<dyn Engine>, counter: Counter, batch: u64) -> Arc<Self> {
        Arc::new(Self {
            engine,
            counter,
            batch,
            state: Mutex::default(),
            refill: tokio::sync::Mutex::default(),
            prefetching: AtomicBool::new(false),
        })
    }

    /// A number that nobody had before. Cancel safe: at worst a number is lost.
    pub(super) async fn take(self: &Arc<Self>) -> MetaResult<u64> {
        loop {
            let taken = self.state.lock().take(self.batch);
            if let Some((number, low)) = taken {
                if low {
                    self.prefetch();
                }
                return Ok(number);
            }
            let _turn = self.refill.lock().await;
            if self.state.lock().spare.is_none() {
                let batch = self.fetch().await?;
                self.state.lock().spare = Some(batch);
            }
        }
    }

    async fn fetch(&self) -> MetaResult<Batch> {
        let delta = i64::try_from(self.batch).unwrap_or(i64::MAX);
        let value = self.engine.counter_add(self.counter, delta).await?;
        let end = u64::try_from(value).ok().filter(|end| *end >= self.batch).ok_or_else(|| MetaError::Corrupt {
            what: format!("counter {:?}", self.counter),
            why: format!("its value {value} is no next free number"),
        })?;
        // 0 is a hole and 1 the root directory; a counter that was never set hands them out.
        Ok(Batch { next: (end - self.batch).max(2), end })
    }

    /// Fetches the next batch in the background, so that no operation waits for it. Without a runtime to do so the one
    /// that misses it fetches it.
    fn prefetch(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.prefetching.swap(true, Ordering::AcqRel) {
            return;
        }
        let lease = Arc::clone(self);
        // Bounded by one request to the engine, and of no consequence when it is lost: nobody has to join it.
        runtime.spawn(async move {
            let _turn = lease.refill.lock().await;
            if lease.state.lock().spare.is_none() {
                match lease.fetch().await {
                    Ok(batch) => lease.state.lock().spare = Some(batch),
                    Err(error) => tracing::warn!(counter = ?lease.counter, %error, "cannot reserve numbers ahead"),
                }
            }
            lease.prefetching.store(false, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::engine::mem::MemEngine;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_number_is_handed_out_twice() {
        let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
        let leases: Vec<_> = (0..2).map(|_| Lease::new(Arc::clone(&engine), Counter::NextInode, 16)).collect();
        let mut tasks = Vec::new();
        for n in 0..8 {
            let lease = Arc::clone(&leases[n % 2]);
            tasks.push(tokio::spawn(async move {
                let mut taken = Vec::new();
                for _ in 0..500 {
                    taken.push(lease.take().await.expect("a number"));
                    tokio::task::yield_now().await;
                }
                taken
            }));
        }
        let mut seen = HashSet::new();
        for task in tasks {
            for number in task.await.expect("no panic") {
                assert!(number >= 2 && seen.insert(number), "{number} was handed out twice");
            }
        }
    }
}
