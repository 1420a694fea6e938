//! Lists of shared bytes.

use bytes::Bytes;
use smallvec::SmallVec;

/// Bytes in order, in as many pieces as they happen to lie in. To share a piece copies nothing.
pub type Segments = SmallVec<[Bytes; 4]>;

/// Total length of `segments` in bytes.
#[must_use]
pub fn segments_len(segments: &[Bytes]) -> usize {
    segments.iter().map(Bytes::len).sum()
}
