//! Records in one ordered map.

use std::collections::BTreeMap;

use bytes::Bytes;
use juicefs_core::{
    attr::Attr,
    error::{MetaError, MetaResult},
    ids::{Ino, Name},
};

use super::scan;
use crate::{
    engine::{Caps, Scan},
    record::{AccountKey, CHUNKS_AT_ONCE, Counter, Edge, HolderKey, Key, Value},
    txn::{Applied, Effects, ReadSet},
};

/// An effect that does not fit what is stored: a bug in an operation.
pub(super) fn misfit(what: &str, which: impl std::fmt::Debug) -> MetaError {
    MetaError::Corrupt { what: format!("{which:?}"), why: what.to_owned() }
}

/// The records, and what undoes a change that fails half way.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) setting: Option<Bytes>,
    pub(super) records: BTreeMap<Key, Value>,
    /// What the records changed by the running application were before it.
    undo: Vec<(Key, Option<Value>)>,
}

impl Store {
    pub(super) fn node(&self, ino: Ino) -> Option<&Attr> {
        match self.records.get(&Key::Node(ino)) {
            Some(Value::Node(attr)) => Some(attr),
            _ => None,
        }
    }

    pub(super) fn counter(&self, counter: Counter) -> i64 {
        match self.records.get(&Key::Account(AccountKey::Counter(counter))) {
            Some(Value::Counter(value)) => *value,
            _ => 0,
        }
    }

    pub(super) fn edges(&self, ino: Ino, after: Option<&Name>) -> impl Iterator<Item = (&Name, &Edge)> {
        let first = Key::Edge(ino, after.cloned().unwrap_or_default());
        let after = after.cloned();
        self.records
            .range(first..)
            .map_while(move |(key, value)| match (key, value) {
                (Key::Edge(parent, name), Value::Edge(edge)) if *parent == ino => Some((name, edge)),
                _ => None,
            })
            .filter(move |(name, _)| after.as_ref().is_none_or(|a| *name > a))
    }

    fn fetch_one(&self, key: &Key) -> Option<Value> {
        match key {
            Key::HasEntries(ino) => Some(Value::HasEntries(self.edges(*ino, None).next().is_some())),
            Key::Holder(HolderKey::HasSustained(sid)) => {
                let (first, last) = scan::bounds(Scan::Sustained(*sid));
                Some(Value::HasSustained(self.records.range(first..=last).next().is_some()))
            }
            Key::ChunkIndexes(ino, from, to) if from < to => {
                let range = Key::Chunk(*ino, *from)..Key::Chunk(*ino, *to);
                let indexes = self.records.range(range).rev().filter_map(|(key, _)| match key {
                    Key::Chunk(_, index) => Some(*index),
                    _ => None,
                });
                let mut last: Vec<_> = indexes.take(CHUNKS_AT_ONCE).collect();
                last.reverse();
                Some(Value::ChunkIndexes(last))
            }
            Key::ChunkIndexes(..) => Some(Value::ChunkIndexes(Vec::new())),
            Key::Xattrs(ino) => {
                let (first, last) = scan::bounds(Scan::Xattrs(*ino));
                let list = self.records.range(first..last).filter_map(|(key, value)| match (key, value) {
                    (Key::Xattr(_, name), Value::Bytes(value)) => Some((name.clone(), value.clone())),
                    _ => None,
                });
                Some(Value::Xattrs(list.collect()))
            }
            Key::Setting => self.setting.clone().map(Value::Bytes),
            _ => self.records.get(key).cloned(),
        }
    }

    pub(super) fn fetch(&self, keys: &[Key], read: &mut ReadSet) {
        keys.iter().for_each(|key| read.insert(key.clone(), self.fetch_one(key)));
    }

    /// Whether what was read under `key` still supports a decision with these effects.
    pub(super) fn holds(&self, key: &Key, was: Option<&Value>, effects: &Effects) -> bool {
        let is = self.fetch_one(key);
        effects.still_holds(key, was, is.as_ref())
    }

    /// Applies all or nothing.
    pub(super) fn apply(&mut self, effects: &Effects, caps: Caps) -> MetaResult<Applied> {
        if effects.condition().is_some_and(|session| !self.records.contains_key(&session)) {
            return Err(MetaError::Fenced);
        }
        let mut applied = Applied::default();
        let outcome = effects.list.iter().try_for_each(|effect| self.change(effect, &mut applied));
        if let Err(error) = outcome {
            while let Some((key, value)) = self.undo.pop() {
                match value {
                    Some(value) => self.records.insert(key, value),
                    None => self.records.remove(&key),
                };
            }
            return Err(error);
        }
        self.undo.clear();
        if caps.usage_in_transaction {
            for (counter, delta) in
                [(Counter::UsedSpace, effects.usage.space), (Counter::TotalInodes, effects.usage.inodes)]
            {
                let value = self.counter(counter) + delta;
                self.records.insert(Key::Account(AccountKey::Counter(counter)), Value::Counter(value));
            }
        }
        Ok(applied)
    }

    pub(super) fn set(&mut self, key: Key, value: Option<Value>) -> Option<Value> {
        let old = match value {
            Some(value) => self.records.insert(key.clone(), value),
            None => self.records.remove(&key),
        };
        self.undo.push((key, old.clone()));
        old
    }

    pub(super) fn put(&mut self, key: Key, value: Value) {
        self.set(key, Some(value));
    }

    pub(super) fn insert(&mut self, key: Key, value: Value) -> MetaResult<()> {
        match self.set(key.clone(), Some(value)) {
            None => Ok(()),
            Some(_) => Err(misfit("it is inserted but exists", key)),
        }
    }

    pub(super) fn replace(&mut self, key: Key, value: Value) -> MetaResult<()> {
        match self.set(key.clone(), Some(value)) {
            Some(_) => Ok(()),
            None => Err(misfit("it is replaced but does not exist", key)),
        }
    }

    pub(super) fn delete(&mut self, key: Key) {
        self.set(key, None);
    }
}
