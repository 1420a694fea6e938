//! Descriptors of cache files that were read lately, so that a read of a few KiB is one system call.

use std::collections::HashMap;

use parking_lot::Mutex;
use rand::Rng;

use super::file::CachedFile;
use crate::block::BlockId;

/// Entries looked at for the oldest.
const SAMPLE: usize = 8;

/// A bounded set of open files. What is let go may still be read by whoever holds it.
#[derive(Debug)]
pub(super) struct OpenFiles {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<(BlockId, CachedFile, u64)>,
    by_block: HashMap<BlockId, usize>,
    tick: u64,
}

impl OpenFiles {
    pub(super) fn new(max: usize) -> Self {
        Self { max, state: Mutex::default() }
    }

    pub(super) fn get(&self, id: BlockId) -> Option<CachedFile> {
        let state = &mut *self.state.lock();
        let entry = &mut state.entries[*state.by_block.get(&id)?];
        state.tick += 1;
        entry.2 = state.tick;
        Some(entry.1.clone())
    }

    pub(super) fn insert(&self, id: BlockId, file: CachedFile) {
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

    pub(super) fn remove(&self, id: BlockId) -> Option<CachedFile> {
        self.state.lock().remove(id)
    }
}

impl State {
    fn remove(&mut self, id: BlockId) -> Option<CachedFile> {
        let at = self.by_block.remove(&id)?;
        let (_, file, _) = self.entries.swap_remove(at);
        if let Some(moved) = self.entries.get(at) {
            self.by_block.insert(moved.0, at);
        }
        Some(file)
    }

    /// The least recently used of a few.
    fn oldest(&self) -> Option<BlockId> {
        let mut rng = rand::rng();
        let count = self.entries.len();
        (0..SAMPLE.min(count)).map(|_| &self.entries[rng.random_range(0..count)]).min_by_key(|e| e.2).map(|e| e.0)
    }
}
