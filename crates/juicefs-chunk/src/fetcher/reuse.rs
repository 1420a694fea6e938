//! A table counts how often parts of blocks were read lately, which tells what blocks are worth having whole.

use parking_lot::Mutex;

use crate::block::BlockId;

/// Entries of the table.
const SLOTS: usize = 1024;

/// A block and how often parts of it were read.
type Reuse = Option<(BlockId, u32)>;

/// A fixed table of counts. Of two blocks in one place the older is forgotten, which costs a guess.
#[derive(Debug)]
pub(super) struct ReuseTable {
    slots: Mutex<Box<[Reuse]>>,
}

impl Default for ReuseTable {
    fn default() -> Self {
        Self { slots: Mutex::new(vec![None; SLOTS].into_boxed_slice()) }
    }
}

impl ReuseTable {
    /// Counts a read of a part of the block. Returns how many there were.
    pub(super) fn count(&self, id: BlockId) -> u32 {
        let mut slots = self.slots.lock();
        let at = (id.slice.wrapping_mul(31).wrapping_add(u64::from(id.index)) % slots.len() as u64) as usize;
        let slot = &mut slots[at];
        let reads = match slot {
            Some((seen, reads)) if *seen == id => *reads + 1,
            _ => 1,
        };
        *slot = Some((id, reads));
        reads
    }
}
