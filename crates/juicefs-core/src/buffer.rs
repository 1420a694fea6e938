//! The byte budget that every data buffer is taken from, and lists of shared bytes.
//!
//! There is one [`Budget`] per mount. Whoever needs memory for data waits for it; nobody grows past the cap. Read-ahead
//! and other guesses use [`Budget::try_acquire`] only, so that they never stand in the way of an application.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes in order, in as many pieces as they happen to lie in. Sharing a piece copies nothing.
pub type Segments = SmallVec<[Bytes; 4]>;

/// Total length of `segments` in bytes.
#[must_use]
pub fn segments_len(segments: &[Bytes]) -> usize {
    segments.iter().map(Bytes::len).sum()
}

/// A hard cap on the bytes held in data buffers, shared by reading, writing, staging and filling caches.
#[derive(Clone, Debug)]
pub struct Budget {
    permits: Arc<Semaphore>,
    cap_bytes: usize,
    waiting: Arc<AtomicUsize>,
}

impl Budget {
    /// A budget of `cap_bytes`.
    #[must_use]
    pub fn new(cap_bytes: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(cap_bytes)), cap_bytes, waiting: Arc::default() }
    }

    /// Takes `bytes` if they are free right now and nobody waits for memory.
    #[must_use]
    pub fn try_acquire(&self, bytes: usize) -> Option<Lease> {
        if bytes == 0 {
            return Some(Lease { permit: None });
        }
        let permits = u32::try_from(bytes.min(self.cap_bytes)).ok()?;
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(permits).ok()?;
        Some(Lease { permit: Some(permit) })
    }

    /// Waits until `bytes` are free and takes them. A request beyond the cap takes the whole cap, so it still ends.
    ///
    /// Fair: requests are served in order. Cancel safe: a dropped future holds nothing.
    pub async fn acquire(&self, bytes: usize) -> Lease {
        if let Some(lease) = self.try_acquire(bytes) {
            return lease;
        }
        let _waiting = WaitMark::new(&self.waiting);
        let permits = u32::try_from(bytes.min(self.cap_bytes)).unwrap_or(u32::MAX);
        // The semaphore is never closed, so an error cannot happen; an empty lease would be the harmless answer.
        Lease { permit: Arc::clone(&self.permits).acquire_many_owned(permits).await.ok() }
    }

    /// Bytes taken at this moment.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.cap_bytes - self.permits.available_permits().min(self.cap_bytes)
    }

    /// The cap in bytes.
    #[must_use]
    pub fn cap_bytes(&self) -> usize {
        self.cap_bytes
    }

    /// How many requests wait for memory now: a sign to flush dirty data and to drop read-ahead.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

struct WaitMark<'a>(&'a AtomicUsize);

impl<'a> WaitMark<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for WaitMark<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug, Default)]
pub struct Lease {
    permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// A lease of nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Joins `other`, taken from the same budget, into this lease.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.permit, other.permit) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
    }

    /// Splits `bytes` off this lease, or all of it if it holds fewer.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let take = bytes.min(self.bytes());
        Self { permit: self.permit.as_mut().and_then(|p| p.split(take)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_holds_and_comes_back() {
        let budget = Budget::new(100);
        let mut a = budget.try_acquire(60).expect("60 of 100 are free");
        assert!(budget.try_acquire(41).is_none());
        let b = a.split(20);
        drop(a);
        assert_eq!(budget.used_bytes(), 20);
        drop(b);
        assert_eq!(budget.used_bytes(), 0);
        assert_eq!(budget.try_acquire(1000).map(|l| l.bytes()), Some(100));
    }
}
