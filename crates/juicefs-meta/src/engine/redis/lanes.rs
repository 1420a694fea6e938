//! Exactly once: each change travels in a lane under a number that grows, and the script that does it notes the number.
//!
//! A request whose reply was lost is sent again with the same number. Whichever copy comes first does the change; the
//! other finds the number noted and does nothing. A copy that comes after later changes of its lane finds a larger
//! number. All numbers of a client are one string of 8 bytes a lane (`outcome_<client>`), so noting one costs no lookup
//! and the key never grows.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Changes of one client under way at once; more wait.
const LANES: u32 = 256;

/// The lanes of one client.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Names the key; nobody else has this number.
    client: u64,
    places: Semaphore,
    free: Mutex<Vec<u32>>,
    next: AtomicU64,
}

/// A change on its way, the only one of its lane.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    lanes: &'a Lanes,
    lane: u32,
    number: u64,
    _place: SemaphorePermit<'a>,
}

impl Lanes {
    pub(super) fn new(client: u64) -> Self {
        Self {
            client,
            places: Semaphore::new(LANES as usize),
            // Low lanes are used first, so that the string of a client with little to do at once stays short.
            free: Mutex::new((0..LANES).rev().collect()),
            next: AtomicU64::new(1),
        }
    }

    /// The number that names the key.
    pub(super) fn client(&self) -> u64 {
        self.client
    }

    /// Takes a lane and a number. Waits while all are in use; cancel safe.
    pub(super) async fn take(&self) -> Lane<'_> {
        let place = self.places.acquire().await.expect("invariant: the semaphore is never closed");
        let lane = self.free.lock().pop().expect("invariant: there is a lane for each permit");
        Lane { lanes: self, lane, number: self.next.fetch_add(1, Ordering::Relaxed), _place: place }
    }
}

impl Lane<'_> {
    /// First byte of the lane in the string.
    pub(super) fn offset(&self) -> u32 {
        self.lane * 8
    }

    /// Last byte of it.
    pub(super) fn end(&self) -> u32 {
        self.lane * 8 + 7
    }

    /// The number as it is stored.
    pub(super) fn number(&self) -> [u8; 8] {
        self.number.to_be_bytes()
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.lanes.free.lock().push(self.lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lanes_come_back_and_numbers_grow() {
        let lanes = Lanes::new(7);
        let first = lanes.take().await;
        let second = lanes.take().await;
        assert_eq!((first.offset(), first.end(), second.offset()), (0, 7, 8));
        assert!(second.number() > first.number());
        let number = first.number();
        drop(first);
        let third = lanes.take().await;
        assert_eq!(third.offset(), 0);
        assert!(third.number() > number);
    }

    #[tokio::test]
    async fn more_than_all_lanes_wait() {
        let lanes = Lanes::new(7);
        let mut taken = Vec::new();
        for _ in 0..LANES {
            taken.push(lanes.take().await);
        }
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(10), lanes.take()).await;
        assert!(waiting.is_err(), "there is no lane left");
        taken.pop();
        let lane = lanes.take().await;
        assert_eq!(lane.offset(), (LANES - 1) * 8);
    }
}
