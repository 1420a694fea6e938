//! Turns between operations of one client that conflict: without them many writers of one file would judge on the same
//! state again and again, of whom each time one succeeds.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::Mutex;

use crate::record::Key;

/// Turns; records that share one wait for each other without need, which is seldom enough.
const TURNS: usize = 256;

/// One turn for each of many groups of records.
#[derive(Debug)]
pub(super) struct Turns {
    turns: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self { turns: (0..TURNS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Turns {
    /// The turn of what the key names.
    pub(super) fn of(&self, key: &Key) -> &Mutex<()> {
        &self.turns[self.hasher.hash_one(key) as usize % TURNS]
    }
}
