//! Requests that could not be answered at once: how many there may be, and how the kernel takes one back.
//!
//! Readers block in [`Deferred::enter`] when the bound is reached; deferred requests end without any reader, so that
//! cannot be a deadlock.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use tokio_util::sync::CancellationToken;

/// Requests deferred at once.
const REQUESTS_MAX: usize = 4096;
/// Interrupts remembered whose request is not deferred, or not yet.
const EARLY_MAX: usize = 64;

/// The deferred requests of one mount.
#[derive(Debug)]
pub(crate) struct Deferred {
    /// Most bytes of their payloads. One request above it is let in when nothing else holds payload.
    payload_bytes_max: usize,
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<u64, CancellationToken>,
    payload_bytes: usize,
    early: VecDeque<u64>,
}

impl Deferred {
    /// None yet; their payloads will have at most this many bytes.
    pub(crate) fn new(payload_bytes_max: usize) -> Self {
        Self { payload_bytes_max, state: Mutex::default(), left: Condvar::new() }
    }

    /// Admits request `unique` with a payload of `bytes`; waits while there are too many.
    pub(crate) fn enter(self: &Arc<Self>, unique: u64, bytes: usize) -> Slot {
        let interrupted = CancellationToken::new();
        let mut state = self.state.lock();
        while state.running.len() >= REQUESTS_MAX
            || (state.payload_bytes > 0 && bytes > 0 && state.payload_bytes + bytes > self.payload_bytes_max)
        {
            self.left.wait(&mut state);
        }
        if state.early.contains(&unique) {
            interrupted.cancel();
        }
        state.payload_bytes += bytes;
        state.running.insert(unique, interrupted.clone());
        drop(state);
        Slot { deferred: Arc::clone(self), unique, bytes, interrupted }
    }

    /// The kernel wants request `unique` to end soon. When it is not here it is being answered by its reader or is
    /// answered already; it is remembered for the case that the reader is about to defer it.
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

    /// Nobody waits for an answer any more: whatever can end early does.
    pub(crate) fn interrupt_all(&self) {
        self.state.lock().running.values().for_each(CancellationToken::cancel);
    }

    /// Waits until none is left.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while !state.running.is_empty() {
            self.left.wait(&mut state);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().running.len()
    }
}

/// The place of one deferred request; given back on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    deferred: Arc<Deferred>,
    unique: u64,
    bytes: usize,
    /// Cancelled when the kernel sent an INTERRUPT.
    pub(crate) interrupted: CancellationToken,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.deferred.state.lock();
        state.running.remove(&self.unique);
        state.payload_bytes -= self.bytes;
        drop(state);
        self.deferred.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

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

    #[test]
    fn payload_is_bounded_and_waiting_ends_when_one_leaves() {
        let deferred = Arc::new(Deferred::new(1 << 20));
        let first = deferred.enter(1, 1 << 20);
        let second = deferred.enter(2, 0);
        let waiting = thread::spawn({
            let deferred = Arc::clone(&deferred);
            move || drop(deferred.enter(3, 1))
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(first);
        waiting.join().expect("the thread ends");
        assert_eq!(deferred.len(), 1);
        drop(second);
        deferred.wait_idle();
    }
}
