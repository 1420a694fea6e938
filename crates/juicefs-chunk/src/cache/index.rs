//! The index of a cache directory knows which blocks the directory holds, and which of them go when they are too many
//! (format: data.md §4.5, §4.6). There is no I/O in this file.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
};

use rand::{Rng, seq::index::sample};

use crate::{block::BlockId, config::Eviction};

/// A file counts as so many bytes beside its data.
const FILE_BYTES: u64 = 4096;
/// One pass of expiry looks at so many entries.
const EXPIRE_SAMPLE: usize = 1000;

/// The blocks of one directory.
#[derive(Debug)]
pub(super) struct Index {
    slots: Vec<Slot>,
    by_block: HashMap<BlockId, u32>,
    used_bytes: u64,
    data_bytes: u64,
    policy: Eviction,
    /// For LRU: blocks in the order of the time of use that they had when they were pushed. A block that was used since is
    /// pushed again when it is met.
    oldest: BinaryHeap<Reverse<(u32, Reverse<u32>, BlockId)>>,
    /// The number of the scan that goes on, or was the last. Each entry knows the last that saw it.
    scan: u32,
    scanned: bool,
    /// What happened since a scan began, to blocks that it may have seen before that; `None` while there is no scan.
    meanwhile: Option<Meanwhile>,
}

#[derive(Debug, Default)]
struct Meanwhile {
    forgotten: HashSet<BlockId>,
    /// Blocks that got into the store, so that they are not staged any more although the scan saw them so.
    unstaged: HashSet<BlockId>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: BlockId,
    /// When the block was used last, in seconds since the epoch.
    atime: u32,
    scan: u32,
    /// Whether the block waits for its upload, so that it is never evicted.
    staged: bool,
}

impl Index {
    pub(super) fn new(policy: Eviction) -> Self {
        Self {
            slots: Vec::new(),
            by_block: HashMap::new(),
            used_bytes: 0,
            data_bytes: 0,
            policy,
            oldest: BinaryHeap::new(),
            scan: 0,
            scanned: false,
            meanwhile: None,
        }
    }

    /// Returns the number of blocks.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns how many bytes the blocks use that may be evicted.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Returns how many plain bytes all blocks have.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Whether a block that is not here is known not to be on disk.
    pub(super) fn is_complete(&self) -> bool {
        self.scanned
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.by_block.contains_key(&id)
    }

    /// Notes that a block is used. Returns whether it waits for its upload, or `None` when it is not here.
    pub(super) fn touch(&mut self, id: BlockId, now: u32) -> Option<bool> {
        let slot = &mut self.slots[*self.by_block.get(&id)? as usize];
        slot.atime = slot.atime.max(now);
        Some(slot.staged)
    }

    /// Adds a block, or updates what is known of it.
    pub(super) fn insert(&mut self, id: BlockId, atime: u32, staged: bool) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.forgotten.remove(&id);
            if staged {
                meanwhile.unstaged.remove(&id);
            }
        }
        let scan = self.scan;
        if let Some(at) = self.by_block.get(&id) {
            let slot = &mut self.slots[*at as usize];
            let was_staged = std::mem::replace(&mut slot.staged, staged);
            slot.atime = slot.atime.max(atime);
            slot.scan = scan;
            match (was_staged, staged) {
                (true, false) => self.used_bytes += cost(id),
                (false, true) => self.used_bytes -= cost(id),
                _ => {}
            }
        } else {
            let Ok(at) = u32::try_from(self.slots.len()) else { return };
            self.by_block.insert(id, at);
            self.slots.push(Slot { id, atime, scan, staged });
            self.data_bytes += u64::from(id.size);
            if !staged {
                self.used_bytes += cost(id);
            }
        }
        if !staged {
            self.remember(id, atime);
        }
    }

    /// Adds a block that a scan has seen, unless it was forgotten since the scan began, for its file is gone by now. Whether
    /// it is staged is known better here if it was staged or uploaded since.
    pub(super) fn insert_scanned(&mut self, id: BlockId, atime: u32, staged: bool) {
        let (mut is_gone, mut is_uploaded) = (false, false);
        if let Some(meanwhile) = &self.meanwhile {
            is_gone = meanwhile.forgotten.contains(&id);
            is_uploaded = meanwhile.unstaged.contains(&id);
        }
        if !is_gone {
            let slot = self.by_block.get(&id).map(|at| self.slots[*at as usize]);
            let was_staged_since = slot.is_some_and(|slot| slot.staged && slot.scan == self.scan);
            self.insert(id, atime, was_staged_since || (staged && !is_uploaded));
        }
    }

    /// Notes that a block is in the store, and that its staged file is gone.
    pub(super) fn unstage(&mut self, id: BlockId, now: u32) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.unstaged.insert(id);
        }
        if self.is_staged(id) {
            self.insert(id, now, false);
        }
    }

    /// Forgets a block. Returns whether it was here.
    pub(super) fn remove(&mut self, id: BlockId) -> bool {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.forgotten.insert(id);
        }
        let Some(at) = self.by_block.remove(&id) else { return false };
        let slot = self.slots.swap_remove(at as usize);
        if let Some(moved) = self.slots.get(at as usize) {
            self.by_block.insert(moved.id, at);
        }
        self.data_bytes -= u64::from(id.size);
        if !slot.staged {
            self.used_bytes -= cost(id);
        }
        true
    }

    /// Whether a block waits for its upload.
    pub(super) fn is_staged(&self, id: BlockId) -> bool {
        self.by_block.get(&id).is_some_and(|at| self.slots[*at as usize].staged)
    }

    /// Notes that a scan of the directory begins. Everything inserted from now on counts as seen by it.
    pub(super) fn begin_scan(&mut self) {
        self.scan = self.scan.wrapping_add(1);
        self.meanwhile = Some(Meanwhile::default());
    }

    /// Notes that the scan is over. Blocks that it did not see are gone.
    pub(super) fn end_scan(&mut self) {
        self.meanwhile = None;
        let scan = self.scan;
        // A staged block may lack the name that a scan sees.
        let gone = self.slots.iter().filter(|slot| slot.scan != scan && !slot.staged).map(|slot| slot.id);
        let gone: Vec<_> = gone.collect();
        for id in gone {
            self.remove(id);
        }
        self.scanned = true;
    }

    /// Takes blocks out until at most `max_bytes` are used by at most `max_items` blocks, and returns them.
    pub(super) fn evict(&mut self, max_bytes: u64, max_items: u64) -> Vec<BlockId> {
        let mut out = Vec::new();
        while self.used_bytes > max_bytes || self.slots.len() as u64 > max_items {
            let next = match self.policy {
                Eviction::None => None,
                Eviction::TwoRandom => self.older_of_two(),
                Eviction::Lru => self.least_recent(),
            };
            let Some(id) = next else { break };
            self.remove(id);
            out.push(id);
        }
        out
    }

    /// Takes some random blocks, and removes and returns those of them that were last used before `before`.
    pub(super) fn expire(&mut self, before: u32) -> Vec<BlockId> {
        let mut rng = rand::rng();
        let picked = sample(&mut rng, self.slots.len(), self.slots.len().min(EXPIRE_SAMPLE));
        let old = |slot: &Slot| slot.atime < before && !slot.staged;
        let out: Vec<_> = picked.iter().map(|at| self.slots[at]).filter(old).map(|slot| slot.id).collect();
        for id in &out {
            self.remove(*id);
        }
        out
    }

    fn older_of_two(&self) -> Option<BlockId> {
        let mut rng = rand::rng();
        let mut pick = || {
            // Staged blocks are few, or the disk is lost anyway: a bounded number of tries, then a search.
            for _ in 0..32 {
                let slot = self.slots.get(rng.random_range(0..self.slots.len().max(1)))?;
                if !slot.staged {
                    return Some(*slot);
                }
            }
            self.slots.iter().find(|slot| !slot.staged).copied()
        };
        let (a, b) = (pick()?, pick()?);
        Some(if a.atime <= b.atime { a.id } else { b.id })
    }

    fn least_recent(&mut self) -> Option<BlockId> {
        while let Some(Reverse((atime, size, id))) = self.oldest.pop() {
            let Some(slot) = self.by_block.get(&id).map(|at| self.slots[*at as usize]) else { continue };
            if slot.staged {
                continue;
            }
            if slot.atime > atime {
                self.oldest.push(Reverse((slot.atime, size, id)));
                continue;
            }
            return Some(id);
        }
        None
    }

    fn remember(&mut self, id: BlockId, atime: u32) {
        if self.policy != Eviction::Lru {
            return;
        }
        self.oldest.push(Reverse((atime, Reverse(id.size), id)));
        if self.oldest.len() > 2 * self.slots.len() + 1024 {
            let live = self.slots.iter().filter(|slot| !slot.staged);
            self.oldest = live.map(|slot| Reverse((slot.atime, Reverse(slot.id.size), slot.id))).collect();
        }
    }
}

fn cost(id: BlockId) -> u64 {
    u64::from(id.size) + FILE_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(slice: u64) -> BlockId {
        BlockId { slice, index: 0, size: 1000 }
    }

    #[test]
    fn the_limit_on_items_never_empties_the_cache() {
        for policy in [Eviction::TwoRandom, Eviction::Lru] {
            let mut index = Index::new(policy);
            for n in 0..20 {
                index.insert(id(n), 100 + n as u32, false);
                index.evict(u64::MAX, 10);
                assert!((1..=10).contains(&index.len()));
            }
            index.evict(u64::MAX, 1);
            assert_eq!(index.len(), 1);
        }
    }

    #[test]
    fn lru_keeps_the_newest_and_sees_use() {
        let mut index = Index::new(Eviction::Lru);
        for n in 0..10 {
            index.insert(id(n), 100 + n as u32, false);
        }
        assert_eq!(index.touch(id(0), 500), Some(false));
        let mut gone = index.evict(u64::MAX, 3);
        gone.sort_unstable();
        assert_eq!(gone, (1..8).map(id).collect::<Vec<_>>());
        assert!(index.contains(id(0)) && index.contains(id(9)));
    }

    #[test]
    fn staged_blocks_are_never_evicted_until_uploaded() {
        for policy in [Eviction::TwoRandom, Eviction::Lru] {
            let mut index = Index::new(policy);
            index.insert(id(1), 1, true);
            index.insert(id(2), 2, false);
            assert_eq!(index.used_bytes(), 1000 + 4096);
            assert_eq!(index.evict(0, 0), [id(2)]);
            assert!(index.is_staged(id(1)));
            assert_eq!(index.expire(100), []);
            index.insert(id(1), 1, false);
            assert_eq!(index.evict(0, 0), [id(1)]);
            assert_eq!((index.len(), index.used_bytes()), (0, 0));
        }
    }

    #[test]
    fn no_eviction_means_none() {
        let mut index = Index::new(Eviction::None);
        index.insert(id(1), 1, false);
        assert_eq!(index.evict(0, 0), []);
    }

    #[test]
    fn a_scan_drops_what_is_gone_and_keeps_what_came_meanwhile_and_times() {
        let mut index = Index::new(Eviction::TwoRandom);
        index.insert(id(1), 50, false);
        index.insert(id(2), 50, false);
        assert!(!index.is_complete());
        index.begin_scan();
        index.insert(id(1), 10, false);
        index.insert(id(3), 60, false);
        // What was forgotten after the scan had listed it stays forgotten, and what was written anew does not.
        index.remove(id(4));
        index.insert_scanned(id(4), 60, false);
        assert!(!index.contains(id(4)));
        index.remove(id(5));
        index.insert(id(5), 60, false);
        index.insert_scanned(id(5), 55, false);
        assert!(index.contains(id(5)));
        index.remove(id(5));
        index.end_scan();
        assert!(index.is_complete() && index.contains(id(1)) && index.contains(id(3)) && !index.contains(id(2)));
        assert_eq!(index.expire(50), [], "the time of use in memory survives the scan");
        assert_eq!(index.expire(51), [id(1)]);
    }

    /// The scan looks at a file, then the file's second name goes with its upload, or comes with its staging, and only then the
    /// scan tells what it saw.
    #[test]
    fn a_scan_does_not_bring_back_what_was_staged_before_nor_hide_what_is_staged_now() {
        let mut index = Index::new(Eviction::TwoRandom);
        index.insert(id(1), 50, true);
        index.begin_scan();
        index.unstage(id(1), 60);
        index.unstage(id(2), 60);
        index.insert(id(3), 60, true);
        for n in [1, 2] {
            index.insert_scanned(id(n), 50, true);
        }
        index.insert_scanned(id(3), 50, false);
        index.end_scan();
        let staged: Vec<_> = (1..4).filter(|n| index.is_staged(id(*n))).collect();
        assert_eq!((staged, index.len(), index.used_bytes()), (vec![3], 3, 2 * 5096));
        // What another client of the directory has uploaded, and a block that is staged anew.
        index.begin_scan();
        index.unstage(id(1), 70);
        index.insert(id(1), 70, true);
        index.insert_scanned(id(1), 50, true);
        index.insert_scanned(id(3), 50, false);
        index.end_scan();
        assert!(index.is_staged(id(1)) && !index.is_staged(id(3)));
    }

    proptest! {
        #[test]
        fn accounts_agree_with_a_plain_map(ops in prop::collection::vec((0..20u64, 0..4u8, 0..100u32), 1..200)) {
            let mut index = Index::new(Eviction::Lru);
            let mut model = std::collections::BTreeMap::new();
            for (n, op, atime) in ops {
                match op {
                    0 => prop_assert_eq!(index.remove(id(n)), model.remove(&n).is_some()),
                    1 => prop_assert_eq!(index.touch(id(n), atime), model.get(&n).copied()),
                    _ => {
                        index.insert(id(n), atime, op == 3);
                        model.insert(n, op == 3);
                    }
                }
                prop_assert_eq!(index.len(), model.len());
                let free = model.values().filter(|staged| !**staged).count() as u64;
                prop_assert_eq!(index.used_bytes(), free * 5096);
                prop_assert_eq!(index.data_bytes(), model.len() as u64 * 1000);
            }
            let free = model.values().filter(|staged| !**staged).count();
            prop_assert_eq!(index.evict(0, 0).len(), free);
        }
    }
}
