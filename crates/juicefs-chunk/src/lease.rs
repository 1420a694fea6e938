//! Shared bytes can carry the part of the budget that they take.

use bytes::Bytes;
use juicefs_core::Lease;

struct Leased {
    bytes: Bytes,
    _lease: Lease,
}

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns `bytes` so that they hold `lease` for as long as any part of them lives.
pub(crate) fn leased(bytes: Bytes, lease: Lease) -> Bytes {
    if lease.bytes() == 0 { bytes } else { Bytes::from_owner(Leased { bytes, _lease: lease }) }
}

#[cfg(test)]
mod tests {
    use juicefs_core::{Budget, Share};

    use super::*;

    #[test]
    fn the_lease_lives_as_long_as_any_part() {
        let budget = Budget::new(100);
        let bytes = leased(Bytes::from_static(b"abcdef"), budget.try_acquire(Share::Disk, 6).expect("free"));
        let part = bytes.slice(2..3);
        drop(bytes);
        assert_eq!(budget.used_bytes(), 6);
        drop(part);
        assert_eq!(budget.used_bytes(), 0);
    }
}
