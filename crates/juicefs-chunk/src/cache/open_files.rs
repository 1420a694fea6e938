//! Files that were read lately stay open, each the file of one block, so that a read of a few KiB is one system call.

use std::collections::HashMap;

use parking_lot::Mutex;
use rand::Rng;

use crate::block::BlockId;

/// So many entries are looked at to find an old one.
const SAMPLE: usize = 8;

/// A bounded set of open files. Whoever holds a file may still read it when it has left the set.
#[derive(Debug)]
pub(crate) struct OpenFiles<F> {
    max: usize,
    state: Mutex<State<F>>,
}

#[derive(Debug)]
struct State<F> {
    entries: Vec<(BlockId, F, u64)>,
    by_block: HashMap<BlockId, usize>,
    tick: u64,
    /// The tick at which idle files were closed last.
    closed_idle: u64,
}

impl<F: Clone> OpenFiles<F> {
    /// Makes a set for at most `max` files.
    pub(crate) fn new(max: usize) -> Self {
        let state = State { entries: Vec::new(), by_block: HashMap::new(), tick: 0, closed_idle: 0 };
        Self { max, state: Mutex::new(state) }
    }

    /// Returns the file of a block, which counts as used now.
    pub(crate) fn get(&self, id: BlockId) -> Option<F> {
        let state = &mut *self.state.lock();
        let entry = &mut state.entries[*state.by_block.get(&id)?];
        state.tick += 1;
        entry.2 = state.tick;
        Some(entry.1.clone())
    }

    /// Adds the file of a block. If the set is full one that was not used lately leaves it.
    pub(crate) fn insert(&self, id: BlockId, file: F) {
        // Closing happens outside of the lock.
        let mut old = self.remove(id);
        {
            let mut state = self.state.lock();
            if state.entries.len() >= self.max {
                old = state.oldest().and_then(|id| state.remove(id));
            }
            state.tick += 1;
            let (at, tick) = (state.entries.len(), state.tick);
            state.entries.push((id, file, tick));
            state.by_block.insert(id, at);
        }
        drop(old);
    }

    /// Takes the file of a block out.
    pub(crate) fn remove(&self, id: BlockId) -> Option<F> {
        self.state.lock().remove(id)
    }

    /// Takes all files out.
    pub(crate) fn clear(&self) {
        let old = {
            let mut state = self.state.lock();
            state.by_block.clear();
            std::mem::take(&mut state.entries)
        };
        drop(old);
    }

    /// Takes the files out that were not used since the last call.
    pub(crate) fn close_idle(&self) {
        let idle: Vec<_> = {
            let state = &mut *self.state.lock();
            let before = std::mem::replace(&mut state.closed_idle, state.tick);
            let idle: Vec<_> = state.entries.iter().filter(|entry| entry.2 <= before).map(|entry| entry.0).collect();
            idle.into_iter().filter_map(|id| state.remove(id)).collect()
        };
        drop(idle);
    }
}

impl<F> State<F> {
    fn remove(&mut self, id: BlockId) -> Option<F> {
        let at = self.by_block.remove(&id)?;
        let (_, file, _) = self.entries.swap_remove(at);
        if let Some(moved) = self.entries.get(at) {
            self.by_block.insert(moved.0, at);
        }
        Some(file)
    }

    /// The block of the least recently used of a few files.
    fn oldest(&self) -> Option<BlockId> {
        let mut rng = rand::rng();
        let count = self.entries.len();
        (0..SAMPLE.min(count)).map(|_| &self.entries[rng.random_range(0..count)]).min_by_key(|e| e.2).map(|e| e.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_not_used_is_let_go_the_second_time() {
        let block = |slice| BlockId { slice, index: 0, size: 1 };
        let (open, files) = (OpenFiles::new(8), [Arc::new(1), Arc::new(2)]);
        for (slice, file) in (1..).zip(&files) {
            open.insert(block(slice), Arc::clone(file));
        }
        open.close_idle();
        assert_eq!((open.get(block(1)), Arc::strong_count(&files[1])), (Some(Arc::new(1)), 2));
        open.close_idle();
        assert_eq!((open.get(block(1)), open.get(block(2))), (Some(Arc::new(1)), None));
        open.clear();
        assert_eq!((open.get(block(1)), Arc::strong_count(&files[0])), (None, 1));
    }
}
