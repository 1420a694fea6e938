//! The engine of tests: records in one ordered map behind one lock. It is also the reference that other engines are
//! compared with, so it checks more than it must: an effect that does not fit what is stored is an error here.

mod changes;
mod scan;
mod store;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use juicefs_core::{
    error::{MetaError, MetaResult},
    ids::{ChunkIndex, Ino, Name},
    meta::{DirCursor, DirEntry, DirPage},
};
use parking_lot::Mutex;

use self::store::Store;
use super::{
    ApplyOutcome, Caps, Engine, Found, Patience, Scan,
    optimistic::{SharedOp, Transactions},
};
use crate::{
    record::{AccountKey, Counter, DirStat, Key, Value},
    txn::{Effects, ReadSet, judge},
};

/// For callers that retry: nothing here ever waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A volume in memory, gone with the value.
#[derive(Debug)]
pub struct MemEngine {
    store: Mutex<Store>,
    caps: Caps,
}

impl Default for MemEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl MemEngine {
    /// An empty store that leaves usage counters to the client, as SQL does.
    #[must_use]
    pub fn new() -> Self {
        Self::with_caps(Caps {
            usage_in_transaction: false,
            max_compact_records: 1000,
            lists_by_name: true,
            indexes_chunks: true,
        })
    }

    /// An empty store with the traits of another engine.
    #[must_use]
    pub fn with_caps(caps: Caps) -> Self {
        Self { store: Mutex::default(), caps }
    }

    /// Every record, for tests that check or compare whole volumes.
    #[must_use]
    pub fn dump(&self) -> BTreeMap<Key, Value> {
        self.store.lock().records.clone()
    }
}

#[async_trait]
impl Transactions for MemEngine {
    async fn run(&self, op: SharedOp) -> MetaResult<()> {
        let mut op = op.lock();
        let mut store = self.store.lock();
        let effects = judge(&mut *op, |keys, read| {
            store.fetch(keys, read);
            Ok::<_, MetaError>(())
        })?;
        if let Some(effects) = effects {
            let applied = store.apply(&effects, self.caps)?;
            op.applied(&applied);
        }
        Ok(())
    }
}

#[async_trait]
impl Engine for MemEngine {
    fn describe(&self) -> String {
        "mem://".to_owned()
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn is_empty(&self) -> MetaResult<bool> {
        let store = self.store.lock();
        Ok(store.setting.is_none() && store.records.is_empty())
    }

    async fn reset(&self) -> MetaResult<()> {
        *self.store.lock() = Store::default();
        Ok(())
    }

    async fn fetch(&self, keys: &[Key]) -> MetaResult<ReadSet> {
        let mut read = ReadSet::default();
        self.store.lock().fetch(keys, &mut read);
        Ok(read)
    }

    async fn apply(&self, read: &ReadSet, effects: &Effects, _patience: Patience) -> MetaResult<ApplyOutcome> {
        let mut store = self.store.lock();
        if read.iter().any(|(key, was)| !store.holds(key, was, effects)) {
            return Ok(ApplyOutcome::Conflict);
        }
        store.apply(effects, self.caps).map(ApplyOutcome::Applied)
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<Found>> {
        let store = self.store.lock();
        Ok(match store.records.get(&Key::Edge(parent, Name::new(name))) {
            Some(Value::Edge(edge)) => Some(Found { edge: *edge, attr: store.node(edge.ino).cloned(), stored: None }),
            _ => None,
        })
    }

    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        let store = self.store.lock();
        let after = from.map(|cursor| Name(cursor.0));
        let mut page = DirPage { by_name: true, ..DirPage::default() };
        for (name, edge) in store.edges(ino, after.as_ref()) {
            if page.entries.len() == limit.max(1) {
                page.next = page.entries.last().map(|last: &DirEntry| DirCursor(last.name.0.clone()));
                break;
            }
            let attr = if with_attrs { store.node(edge.ino).cloned() } else { None };
            page.entries.push(DirEntry { name: name.clone(), ino: edge.ino, kind: edge.kind, attr });
        }
        Ok(page)
    }

    async fn chunk_indexes(
        &self,
        ino: Ino,
        from: ChunkIndex,
        to: ChunkIndex,
        limit: usize,
    ) -> MetaResult<Vec<ChunkIndex>> {
        let store = self.store.lock();
        let range = Key::Chunk(ino, from)..Key::Chunk(ino, to.max(from));
        let indexes = store.records.range(range).filter_map(|(key, _)| match key {
            Key::Chunk(_, index) => Some(*index),
            _ => None,
        });
        Ok(indexes.take(limit).collect())
    }

    async fn counter_add(&self, counter: Counter, delta: i64) -> MetaResult<i64> {
        let mut store = self.store.lock();
        let value = store.counter(counter) + delta;
        store.records.insert(Key::Account(AccountKey::Counter(counter)), Value::Counter(value));
        Ok(value)
    }

    async fn scan(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Vec<(Key, Value)>> {
        let store = self.store.lock();
        let (first, last) = scan::bounds(scan);
        let records = store.records.range(first..=last);
        let wanted = records.filter(|(key, value)| scan::wants(scan, value) && after.as_ref().is_none_or(|a| *key > a));
        Ok(wanted.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn add_dir_stats(&self, deltas: Vec<(Ino, DirStat)>) -> MetaResult<Vec<Ino>> {
        let mut store = self.store.lock();
        let mut missing = Vec::new();
        for (ino, delta) in deltas {
            match store.records.get_mut(&Key::Account(AccountKey::DirStat(ino))) {
                Some(Value::DirStat(stat)) => {
                    *stat += delta;
                }
                _ => missing.push(ino),
            }
        }
        Ok(missing)
    }
}
