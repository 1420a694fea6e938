//! A slice falls into blocks, and each block has an object key (format: data.md §1.2, §1.3).

use std::fmt::Write;

use juicefs_core::SliceKey;
use smallvec::SmallVec;

/// Names one block of a slice. `size` counts the bytes of its plain data, whatever is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct BlockId {
    pub(crate) slice: u64,
    pub(crate) index: u32,
    pub(crate) size: u32,
}

impl BlockId {
    /// Returns the object key below the volume's prefix.
    pub(crate) fn key(self, hash_prefix: bool) -> String {
        let Self { slice, index, size } = self;
        let mut key = String::with_capacity(48);
        // Writing to a String cannot fail.
        let _ = if hash_prefix {
            write!(key, "chunks/{:02X}/{}/{slice}_{index}_{size}", slice % 256, slice / 1_000_000)
        } else {
            write!(key, "chunks/{}/{}/{slice}_{index}_{size}", slice / 1_000_000, slice / 1000)
        };
        key
    }

    /// Parses the last component of a key, `<slice>_<index>_<size>`.
    pub(crate) fn parse_name(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let (slice, index, size) = (parts.next()?, parts.next()?, parts.next()?);
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if parts.next().is_some() || !plain(slice) || !plain(index) || !plain(size) {
            return None;
        }
        Some(Self { slice: slice.parse().ok()?, index: index.parse().ok()?, size: size.parse().ok()? })
    }
}

/// A part of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) block: BlockId,
    /// First byte within the block.
    pub(crate) off: u32,
    /// Bytes, never 0.
    pub(crate) len: u32,
}

impl Piece {
    /// Returns where the piece lies within the block.
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.off as usize..(self.off + self.len) as usize
    }
}

/// Finds the blocks that hold `[off, off + len)` of `slice`. Returns `None` when the range leaves the slice.
pub(crate) fn pieces(slice: SliceKey, block_size: usize, off: u32, len: u32) -> Option<SmallVec<[Piece; 2]>> {
    let block_size = u32::try_from(block_size).ok()?;
    let end = off.checked_add(len).filter(|end| *end <= slice.size)?;
    let mut out = SmallVec::new();
    let mut at = off;
    while at < end {
        let index = at / block_size;
        let start = index * block_size;
        let size = block_size.min(slice.size - start);
        let stop = end.min(start + size);
        out.push(Piece { block: BlockId { slice: slice.id.0, index, size }, off: at - start, len: stop - at });
        at = stop;
    }
    Some(out)
}

/// Lists all blocks of `slice`.
pub(crate) fn blocks(slice: SliceKey, block_size: usize) -> impl Iterator<Item = BlockId> {
    pieces(slice, block_size, 0, slice.size).unwrap_or_default().into_iter().map(|piece| piece.block)
}

#[cfg(test)]
mod tests {
    use juicefs_core::SliceId;

    use super::*;

    #[test]
    fn keys_are_those_of_the_format() {
        let key = |slice, index, size, hash| BlockId { slice, index, size }.key(hash);
        assert_eq!(key(1, 0, 4, false), "chunks/0/0/1_0_4");
        assert_eq!(key(5000, 2, 10, false), "chunks/0/5/5000_2_10");
        assert_eq!(key(1_234_567, 3, 4_194_304, false), "chunks/1/1234/1234567_3_4194304");
        assert_eq!(key(1_234_567, 3, 4_194_304, true), "chunks/87/1/1234567_3_4194304");
        assert_eq!(key(5, 0, 1, true), "chunks/05/0/5_0_1");
    }

    #[test]
    fn names_are_parsed_strictly() {
        assert_eq!(BlockId::parse_name("12_3_4"), Some(BlockId { slice: 12, index: 3, size: 4 }));
        for bad in ["", "1_2", "1_2_3_4", "a_1_2", "1__2", "1_2_3.tmp", "+1_2_3", "1_2_99999999999"] {
            assert_eq!(BlockId::parse_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_range_falls_into_the_blocks_that_hold_it() {
        let slice = SliceKey { id: SliceId(7), size: 250 };
        let all = pieces(slice, 100, 90, 130).expect("within the slice");
        let seen: Vec<_> = all.iter().map(|p| (p.block.index, p.block.size, p.off, p.len)).collect();
        assert_eq!(seen, [(0, 100, 90, 10), (1, 100, 0, 100), (2, 50, 0, 20)]);
        assert_eq!(pieces(slice, 100, 200, 51), None);
        assert_eq!(pieces(slice, 100, u32::MAX, 2), None);
        assert_eq!(blocks(SliceKey { id: SliceId(7), size: 0 }, 100).count(), 0);
    }
}
