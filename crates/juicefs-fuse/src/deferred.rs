//! The requests that could not be answered at once: how much data they hold in memory, and how the kernel takes one back.
//!
//! Readers never wait here. The number of requests needs no bound, because a thread outside waits for each, which costs
//! more than the request does. The data that requests are to write is bounded: once there is too much of it, readers
//! leave further data where it is (`transport/dev/parked.rs`).

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use juicefs_core::limits::MAX_FUSE_IO_BYTES;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How many interrupts are remembered whose request is not deferred, or not yet.
const EARLY_MAX: usize = 64;

/// The deferred requests of one mount.
#[derive(Debug)]
pub(crate) struct Deferred {
    /// When payloads reach this many bytes, readers take no more. Each of them may have taken one request before it
    /// sees that.
    payload_bytes_max: usize,
    state: Mutex<State>,
    /// Bytes of all payloads. It is changed under the lock of `state` only.
    payload_bytes: AtomicUsize,
    left: Condvar,
    /// The session is over: nobody waits for answers any more.
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<u64, CancellationToken>,
    /// Parked writes that wait until their data may come.
    parked: VecDeque<(usize, oneshot::Sender<Payload>)>,
    early: VecDeque<u64>,
}

impl Deferred {
    /// No requests yet. Their payloads will have about `payload_bytes_max` bytes together at most.
    pub(crate) fn new(payload_bytes_max: usize) -> Self {
        Self {
            payload_bytes_max,
            state: Mutex::default(),
            payload_bytes: AtomicUsize::new(0),
            left: Condvar::new(),
            over: CancellationToken::new(),
        }
    }

    /// Takes in request `unique` with a payload of `bytes`.
    pub(crate) fn enter(self: &Arc<Self>, unique: u64, bytes: usize) -> Slot {
        let interrupted = CancellationToken::new();
        let mut state = self.state.lock();
        if self.is_over() || state.early.contains(&unique) {
            interrupted.cancel();
        }
        state.running.insert(unique, interrupted.clone());
        let payload = self.count(bytes);
        drop(state);
        Slot { deferred: Arc::clone(self), unique, payload, interrupted }
    }

    /// Counts `bytes` more; the caller holds the lock of `state`.
    fn count(self: &Arc<Self>, bytes: usize) -> Payload {
        self.payload_bytes.fetch_add(bytes, Ordering::Relaxed);
        Payload { deferred: Arc::clone(self), bytes }
    }

    fn fits(&self, bytes: usize) -> bool {
        let held = self.payload_bytes.load(Ordering::Relaxed);
        held == 0 || held + bytes <= self.payload_bytes_max
    }

    /// Whether the data of one more write could be too much.
    pub(crate) fn is_full(&self) -> bool {
        !self.fits(MAX_FUSE_IO_BYTES)
    }

    /// Waits until [`Deferred::is_full`] is false. This is for a reader that cannot leave data where it is.
    pub(crate) fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while self.is_full() && !self.is_over() {
            self.left.wait(&mut state);
        }
    }

    /// Waits until a parked write may have its `bytes` in memory. Writes get there in the order in which they were
    /// parked. Cancel safe.
    pub(crate) async fn payload(self: &Arc<Self>, bytes: usize) -> Payload {
        let granted = {
            let mut state = self.state.lock();
            if state.parked.is_empty() && self.fits(bytes) {
                return self.count(bytes);
            }
            let (grant, granted) = oneshot::channel();
            state.parked.push_back((bytes, grant));
            granted
        };
        // The sender goes with the grant only.
        granted.await.unwrap_or_else(|_| Payload { deferred: Arc::clone(self), bytes: 0 })
    }

    /// Grants those parked writes their memory that fit now.
    fn serve(self: &Arc<Self>) {
        let mut grants = Vec::new();
        let mut state = self.state.lock();
        while let Some((bytes, grant)) = state.parked.front() {
            if !grant.is_closed() && !self.fits(*bytes) {
                break;
            }
            let Some((bytes, grant)) = state.parked.pop_front() else { break };
            if !grant.is_closed() {
                grants.push((grant, self.count(bytes)));
            }
        }
        drop(state);
        for (grant, payload) in grants {
            // Whose caller was killed meanwhile gives it back.
            drop(grant.send(payload));
        }
    }

    /// Ends request `unique` soon, because the kernel wants that. A request that is not here is being answered by its
    /// reader, or is answered already; its number is remembered, for the reader may be about to defer it.
    pub(crate) fn interrupt(&self, unique: u64) {
        let mut state = self.state.lock();
        if let Some(token) = state.running.get(&unique) {
            token.cancel();
            return;
        }
        if state.early.len() == EARLY_MAX {
            state.early.pop_front();
        }
        state.early.push_back(unique);
    }

    /// Ends early whatever can, because nobody waits for an answer any more.
    pub(crate) fn interrupt_all(&self) {
        self.over.cancel();
        self.state.lock().running.values().for_each(CancellationToken::cancel);
        self.left.notify_all();
    }

    /// Whether [`Deferred::interrupt_all`] was called.
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits until no request is left, but no longer than `patience`. Returns how many are left.
    pub(crate) fn wait_idle(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while !state.running.is_empty() {
            if self.left.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.running.len()
    }

    /// How many requests are deferred now.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().running.len()
    }
}

/// The data of a request that is held in memory. It is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Payload {
    deferred: Arc<Deferred>,
    bytes: usize,
}

impl Drop for Payload {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let state = self.deferred.state.lock();
            self.deferred.payload_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            let waits = !state.parked.is_empty();
            drop(state);
            self.deferred.left.notify_all();
            if waits {
                self.deferred.serve();
            }
        }
    }
}

/// Stands for one deferred request, which is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    deferred: Arc<Deferred>,
    unique: u64,
    /// What of the request is in memory.
    pub(crate) payload: Payload,
    /// Cancelled when the kernel sent an INTERRUPT.
    pub(crate) interrupted: CancellationToken,
}

impl Slot {
    /// Whether the session is over, so that nobody waits for the answer.
    pub(crate) fn is_over(&self) -> bool {
        self.deferred.is_over()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.deferred.state.lock().running.remove(&self.unique);
        self.deferred.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_find_their_request_before_and_after_it_is_deferred() {
        let deferred = Arc::new(Deferred::new(1 << 20));
        deferred.interrupt(4);
        assert!(deferred.enter(4, 0).interrupted.is_cancelled());
        let slot = deferred.enter(6, 0);
        assert!(!slot.interrupted.is_cancelled());
        deferred.interrupt(6);
        assert!(slot.interrupted.is_cancelled());
    }

    #[tokio::test]
    async fn parked_writes_come_in_their_order_as_others_leave() {
        let deferred = Arc::new(Deferred::new(3 << 20));
        assert!(!deferred.is_full());
        let slots: Vec<_> = (1..=3).map(|unique| deferred.enter(unique, 1 << 20)).collect();
        assert!(deferred.is_full());
        // A reader that had it already: it does not wait.
        let over = deferred.enter(4, 1 << 20);
        let parked = |bytes| {
            let deferred = Arc::clone(&deferred);
            tokio::spawn(async move { deferred.payload(bytes).await })
        };
        let (first, killed, second) = (parked(2 << 20), parked(1 << 20), parked(1));
        tokio::task::yield_now().await;
        killed.abort();
        drop(slots);
        let first = first.await.expect("no panic");
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!second.is_finished() && deferred.is_full(), "its turn has not come");
        drop(over);
        drop((second.await.expect("no panic"), first));
        assert!(killed.await.is_err() && !deferred.is_full());
        assert_eq!((deferred.len(), deferred.wait_idle(Duration::from_millis(10))), (0, 0));
    }

    #[test]
    fn what_does_not_end_in_time_is_counted() {
        let deferred = Arc::new(Deferred::new(1 << 20));
        let slot = deferred.enter(1, 0);
        assert_eq!(deferred.wait_idle(Duration::from_millis(10)), 1);
        deferred.interrupt_all();
        assert!(slot.interrupted.is_cancelled() && slot.is_over());
        assert!(deferred.enter(2, 0).interrupted.is_cancelled(), "what comes later, too");
    }
}
