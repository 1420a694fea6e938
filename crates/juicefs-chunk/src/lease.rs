//! Shared bytes that carry their part of the budget.

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::Lease;
use parking_lot::Mutex;

/// A lease that ends with the last of the bytes it is attached to, or earlier when something else answers for them.
#[derive(Debug, Default)]
pub(crate) struct LeaseCell(Mutex<Lease>);

struct Leased {
    bytes: Bytes,
    _cell: Arc<LeaseCell>,
}

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl LeaseCell {
    pub(crate) fn new(lease: Lease) -> Arc<Self> {
        Arc::new(Self(Mutex::new(lease)))
    }

    /// `bytes`, holding this lease for as long as any part of them lives.
    pub(crate) fn attach(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Leased { bytes, _cell: Arc::clone(self) })
    }

    /// Gives the lease back now: the bytes are counted elsewhere.
    pub(crate) fn release(&self) {
        drop(std::mem::take(&mut *self.0.lock()));
    }
}

/// `bytes` with their lease.
pub(crate) fn leased(bytes: Bytes, lease: Lease) -> Bytes {
    if lease.bytes() == 0 { bytes } else { LeaseCell::new(lease).attach(bytes) }
}

#[cfg(test)]
mod tests {
    use juicefs_core::Budget;

    use super::*;

    #[test]
    fn the_lease_lives_as_long_as_any_part() {
        let budget = Budget::new(100);
        let bytes = leased(Bytes::from_static(b"abcdef"), budget.try_acquire(6).expect("free"));
        let part = bytes.slice(2..3);
        drop(bytes);
        assert_eq!(budget.used_bytes(), 6);
        drop(part);
        assert_eq!(budget.used_bytes(), 0);
    }
}
