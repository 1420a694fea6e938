//! Memory for block-sized data is recycled here.
//!
//! Fresh memory of some MiB costs a page fault per 4 KiB, which is as much as copying into it. Buffers of 256 KiB and more are
//! therefore kept when they are dropped, up to [`IDLE_CAP_BYTES`] in all, and [`trim`] gives back those that nobody wanted for
//! a while. How much may be held in buffers at all is decided by the budget, and not here.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Smaller buffers than this are left to the allocator.
const MIN_BYTES: usize = 256 << 10;
/// The most memory that is kept for reuse.
const IDLE_CAP_BYTES: usize = 24 << 20;

static IDLE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// The fewest idle buffers seen since the last [`trim`]. So many were not needed.
static LEAST_IDLE: AtomicUsize = AtomicUsize::new(0);

/// A buffer that goes back to the list when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct PoolBuf {
    bytes: Vec<u8>,
}

impl PoolBuf {
    /// Makes an empty buffer that takes `capacity` bytes without moving.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let mut bytes = reuse(capacity).unwrap_or_else(|| Vec::with_capacity(capacity));
        bytes.clear();
        Self { bytes }
    }

    /// Makes a buffer of `len` bytes with whatever content. The caller must overwrite all of it.
    pub(crate) fn stale(len: usize) -> Self {
        let mut bytes = reuse(len).unwrap_or_default();
        if bytes.capacity() == 0 {
            bytes = vec![0; len];
        }
        bytes.resize(len, 0);
        Self { bytes }
    }

    /// Gives access to the vector itself, which must not be made to grow.
    pub(crate) fn as_mut_vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Returns how many bytes still fit.
    pub(crate) fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Appends `data`, which must fit.
    pub(crate) fn append(&mut self, data: &[u8]) {
        debug_assert!(data.len() <= self.room(), "a pooled buffer never moves");
        self.bytes.extend_from_slice(data);
    }
}

impl std::ops::Deref for PoolBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for PoolBuf {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        if self.bytes.capacity() < MIN_BYTES {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let mut idle = IDLE.lock();
        let held: usize = idle.iter().map(Vec::capacity).sum();
        if held + bytes.capacity() <= IDLE_CAP_BYTES {
            idle.push(bytes);
        }
    }
}

fn reuse(len: usize) -> Option<Vec<u8>> {
    if len < MIN_BYTES {
        return None;
    }
    let mut idle = IDLE.lock();
    let fits = |bytes: &Vec<u8>| bytes.capacity() >= len && bytes.capacity() <= len.saturating_mul(2);
    let at = idle.iter().rposition(fits)?;
    let bytes = idle.swap_remove(at);
    LEAST_IDLE.fetch_min(idle.len(), Ordering::Relaxed);
    Some(bytes)
}

/// Gives the memory back that was not needed since the last call.
pub(crate) fn trim() {
    let surplus: Vec<_> = {
        let mut idle = IDLE.lock();
        let unused = LEAST_IDLE.load(Ordering::Relaxed).min(idle.len());
        let surplus = idle.drain(..unused).collect();
        LEAST_IDLE.store(idle.len(), Ordering::Relaxed);
        surplus
    };
    drop(surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_lengths_are_right() {
        let mut first = PoolBuf::with_capacity(1 << 20);
        first.append(&[7; 1000]);
        assert_eq!((first.len(), first.room() >= (1 << 20) - 1000), (1000, true));
        drop(first);
        assert_eq!(PoolBuf::stale(1 << 20).len(), 1 << 20);
        assert_eq!(PoolBuf::stale(10).len(), 10);
        trim();
        trim();
    }
}
