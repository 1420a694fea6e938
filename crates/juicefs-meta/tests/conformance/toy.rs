//! The smallest engine that keeps a volume: every record as it is, in one map. `docs/architecture.md` goes through it to show
//! what an engine has to do, and what it does not have to know.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use juicefs_core::{
    Attr, ChunkIndex, Ino, LockOwner, MetaError, MetaResult, Name, Quota, QuotaSubject,
    meta::{DirCursor, DirEntry, DirPage},
};
use juicefs_meta::{
    Engine,
    engine::{ApplyOutcome, Caps, Found, Patience, Scan},
    record::{AccountKey, CHUNKS_AT_ONCE, Counter, DirStat, Edge, HolderKey, Key, Value},
    txn::{
        AccountEffect, Applied, ChunkEffect, Effect, Effects, LockEffect, NodeEffect, ReadSet, SessionEffect,
        SliceEffect,
    },
};
use parking_lot::Mutex;

type Records = BTreeMap<Key, Value>;

/// A volume in a map, gone with the value.
#[derive(Default)]
pub(crate) struct ToyEngine(Mutex<Records>);

#[async_trait]
impl Engine for ToyEngine {
    fn describe(&self) -> String {
        "toy://".to_owned()
    }
    fn caps(&self) -> Caps {
        Caps { usage_in_transaction: false, max_compact_records: 1000, lists_by_name: true, indexes_chunks: true }
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
    async fn is_empty(&self) -> MetaResult<bool> {
        Ok(self.0.lock().is_empty())
    }
    async fn reset(&self) -> MetaResult<()> {
        self.0.lock().clear();
        Ok(())
    }
    async fn fetch(&self, keys: &[Key]) -> MetaResult<ReadSet> {
        let (records, mut read) = (self.0.lock(), ReadSet::default());
        keys.iter().for_each(|key| read.insert(key.clone(), find(&records, key)));
        Ok(read)
    }

    async fn apply(&self, read: &ReadSet, effects: &Effects, _patience: Patience) -> MetaResult<ApplyOutcome> {
        let mut records = self.0.lock();
        if read.iter().any(|(key, was)| !effects.still_holds(key, was, find(&records, key).as_ref())) {
            return Ok(ApplyOutcome::Conflict);
        }
        if effects.condition().is_some_and(|session| !records.contains_key(&session)) {
            return Err(MetaError::Fenced);
        }
        // A copy is changed, so that a change which does not fit leaves nothing behind.
        let (mut changed, mut applied) = (records.clone(), Applied::default());
        effects.list.iter().try_for_each(|effect| change(&mut changed, effect, &mut applied))?;
        *records = changed;
        Ok(ApplyOutcome::Applied(applied))
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<Found>> {
        let records = self.0.lock();
        let Some(Value::Edge(edge)) = records.get(&Key::Edge(parent, Name::new(name))) else { return Ok(None) };
        Ok(Some(Found { edge: *edge, attr: node(&records, edge.ino), stored: None }))
    }

    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        let (records, limit) = (self.0.lock(), limit.max(1));
        let after = from.map(|cursor| Name(cursor.0));
        let edges = records.iter().filter_map(|(key, value)| match (key, value) {
            (Key::Edge(parent, name), Value::Edge(edge)) if *parent == ino => Some((name, *edge)),
            _ => None,
        });
        let behind = edges.filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
        let entries: Vec<_> = behind
            .take(limit)
            .map(|(name, Edge { ino, kind })| {
                let attr = if with_attrs { node(&records, ino) } else { None };
                DirEntry { name: name.clone(), ino, kind, attr }
            })
            .collect();
        let next = entries.last().filter(|_| entries.len() == limit).map(|last| DirCursor(last.name.0.clone()));
        Ok(DirPage { entries, next, anew: false, by_name: true })
    }

    async fn chunk_indexes(
        &self,
        ino: Ino,
        from: ChunkIndex,
        to: ChunkIndex,
        limit: usize,
    ) -> MetaResult<Vec<ChunkIndex>> {
        let mut indexes = chunks(&self.0.lock(), ino, from, to);
        indexes.truncate(limit);
        Ok(indexes)
    }

    async fn counter_add(&self, counter: Counter, delta: i64) -> MetaResult<i64> {
        Ok(add(&mut self.0.lock(), counter, delta))
    }

    async fn scan(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Vec<(Key, Value)>> {
        let records = self.0.lock();
        let behind = records.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
        let wanted = behind.filter(|(key, value)| wants(scan, key, value));
        Ok(wanted.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn add_dir_stats(&self, deltas: Vec<(Ino, DirStat)>) -> MetaResult<Vec<Ino>> {
        let (mut records, mut missing) = (self.0.lock(), Vec::new());
        for (ino, delta) in deltas {
            match records.get_mut(&Key::Account(AccountKey::DirStat(ino))) {
                Some(Value::DirStat(stat)) => {
                    *stat += delta;
                }
                _ => missing.push(ino),
            }
        }
        Ok(missing)
    }
}

fn node(records: &Records, ino: Ino) -> Option<Attr> {
    match records.get(&Key::Node(ino)) {
        Some(Value::Node(attr)) => Some(attr.clone()),
        _ => None,
    }
}

/// What is stored under a key, or the answer to the question that it is.
fn find(records: &Records, key: &Key) -> Option<Value> {
    match key {
        Key::HasEntries(ino) => {
            let next = records.range(Key::Edge(*ino, Name::default())..).next();
            Some(Value::HasEntries(matches!(next, Some((Key::Edge(parent, _), _)) if parent == ino)))
        }
        Key::Xattrs(ino) => {
            let list = records.iter().filter_map(|(key, value)| match (key, value) {
                (Key::Xattr(of, name), Value::Bytes(value)) if of == ino => Some((name.clone(), value.clone())),
                _ => None,
            });
            Some(Value::Xattrs(list.collect()))
        }
        Key::ChunkIndexes(ino, from, to) => {
            let mut last = chunks(records, *ino, *from, *to);
            Some(Value::ChunkIndexes(last.split_off(last.len().saturating_sub(CHUNKS_AT_ONCE))))
        }
        Key::Holder(HolderKey::HasSustained(sid)) => {
            let keeps = |key: &Key| matches!(key, Key::Holder(HolderKey::Sustained(of, _)) if of == sid);
            Some(Value::HasSustained(records.keys().any(keeps)))
        }
        _ => records.get(key).cloned(),
    }
}

fn chunks(records: &Records, ino: Ino, from: ChunkIndex, to: ChunkIndex) -> Vec<ChunkIndex> {
    let indexes =
        records.range(Key::Chunk(ino, from)..Key::Chunk(ino, to.max(from))).filter_map(|(key, _)| match key {
            Key::Chunk(_, index) => Some(*index),
            _ => None,
        });
    indexes.collect()
}

fn wants(scan: Scan, key: &Key, value: &Value) -> bool {
    match (scan, key, value) {
        (Scan::Sessions, Key::Holder(HolderKey::Session(_)), _)
        | (Scan::Acls, Key::Acl(_), _)
        | (Scan::Quotas, Key::Account(AccountKey::Quota(_)), _) => true,
        (Scan::Expiring { before_secs }, _, Value::Session(session)) => session.expire_secs < before_secs,
        (Scan::Sustained(sid), Key::Holder(HolderKey::Sustained(of, _)), _) => *of == sid,
        (Scan::DelFiles { before_secs }, _, Value::DelFile(file)) => file.removed_secs < before_secs,
        (Scan::DeadSlices, _, Value::SliceRef(count)) => *count <= 0,
        (Scan::DelaySlices { before_secs }, _, Value::DelaySlices(held)) => held.since_secs < before_secs,
        (Scan::Chunks { ino, from, to }, Key::Chunk(of, index), _) => *of == ino && (from..to).contains(index),
        (Scan::Xattrs(ino), Key::Xattr(of, _), _) => *of == ino,
        (Scan::Detached { before_secs }, _, Value::Detached(made_secs)) => *made_secs < before_secs,
        _ => false,
    }
}

fn add(records: &mut Records, counter: Counter, delta: i64) -> i64 {
    let key = Key::Account(AccountKey::Counter(counter));
    let value = if let Some(Value::Counter(value)) = records.get(&key) { value + delta } else { delta };
    records.insert(key, Value::Counter(value));
    value
}

fn set(records: &mut Records, key: Key, value: Option<Value>) {
    match value {
        Some(value) => records.insert(key, value),
        None => records.remove(&key),
    };
}

/// Makes one change. What it means for the records that it changes is told by the effect itself, except where that depends
/// on what they are.
fn change(records: &mut Records, effect: &Effect, applied: &mut Applied) -> MetaResult<()> {
    if let Some((key, value)) = effect.record() {
        set(records, key, value);
        return Ok(());
    }
    match effect {
        Effect::Node(ino, NodeEffect::Patch(patch)) => match records.get_mut(&Key::Node(*ino)) {
            Some(Value::Node(attr)) => patch.apply(attr),
            _ => return Err(MetaError::Corrupt { what: format!("{effect:?}"), why: "there is no node".to_owned() }),
        },
        Effect::Node(ino, NodeEffect::DeleteXattrs) => {
            records.retain(|key, _| !matches!(key, Key::Xattr(of, _) if of == ino))
        }
        Effect::Node(ino, NodeEffect::AddParent(parent, delta)) => {
            if let Value::Parents(names) = records.entry(Key::Parents(*ino)).or_insert(Value::Parents(BTreeMap::new()))
            {
                let count = names.entry(*parent).or_default();
                *count = count.saturating_add_signed(*delta);
                names.retain(|_, count| *count > 0);
            }
        }
        Effect::Chunk(ino, index, ChunkEffect::Append(more)) => {
            if let Value::Chunk(list) = records.entry(Key::Chunk(*ino, *index)).or_insert(Value::Chunk(Vec::new())) {
                list.extend_from_slice(more);
                applied.appended.push(list.len());
            }
        }
        Effect::Chunk(ino, index, ChunkEffect::ReplaceHead(count, head)) => {
            if let Some(Value::Chunk(list)) = records.get_mut(&Key::Chunk(*ino, *index)) {
                list.splice(..count, head.iter().copied());
            }
        }
        Effect::Slice(SliceEffect::AddRef(slice, delta)) => {
            if let Some(Value::SliceRef(count)) = records.get_mut(&Key::SliceRef(*slice)) {
                *count += delta;
            }
        }
        Effect::Account(AccountEffect::AddUsage(subject, delta)) => {
            let key = Key::Account(AccountKey::Quota(*subject));
            if !matches!(subject, QuotaSubject::Dir(_)) {
                records.entry(key.clone()).or_insert(Value::Quota(Quota::UNSET));
            }
            if let Some(Value::Quota(quota)) = records.get_mut(&key) {
                quota.used_space += delta.space;
                quota.used_inodes += delta.inodes;
            }
        }
        Effect::Account(AccountEffect::AddCounter(counter, delta)) => drop(add(records, *counter, *delta)),
        Effect::Account(AccountEffect::DeleteAllDirStats) => {
            records.retain(|_, value| !matches!(value, Value::DirStat(_)))
        }
        Effect::Account(AccountEffect::DeleteAllUserGroupQuotas) => records.retain(|key, _| match key {
            Key::Account(AccountKey::Quota(subject)) => matches!(subject, QuotaSubject::Dir(_)),
            _ => true,
        }),
        Effect::Session(sid, SessionEffect::DeleteLocks) => change_locks(records, |_, owner| owner.sid == *sid, None),
        Effect::Lock(ino, owner, effect) => {
            let (key, held) = match effect {
                LockEffect::PutFlock(kind) => (HolderKey::Flocks(*ino), Some(Value::Flocks([(*owner, *kind)].into()))),
                LockEffect::DeleteFlock => (HolderKey::Flocks(*ino), None),
                LockEffect::PutPlocks(held) => {
                    (HolderKey::Plocks(*ino), Some(Value::Plocks([(*owner, held.clone())].into())))
                }
                LockEffect::DeletePlocks => (HolderKey::Plocks(*ino), None),
            };
            let key = Key::Holder(key);
            change_locks(records, |of, other| *of == key && other == owner, held.map(|held| (key.clone(), held)));
        }
        other => return Err(MetaError::Corrupt { what: format!("{other:?}"), why: "it is not known".to_owned() }),
    }
    Ok(())
}

/// Removes locks, and stores what an owner holds instead.
fn change_locks(records: &mut Records, gone: impl Fn(&Key, &LockOwner) -> bool, held: Option<(Key, Value)>) {
    for (key, value) in records.iter_mut() {
        match value {
            Value::Flocks(owners) => owners.retain(|owner, _| !gone(key, owner)),
            Value::Plocks(owners) => owners.retain(|owner, _| !gone(key, owner)),
            _ => {}
        }
    }
    if let Some((key, held)) = held {
        match (records.get_mut(&key), held) {
            (Some(Value::Flocks(owners)), Value::Flocks(more)) => owners.extend(more),
            (Some(Value::Plocks(owners)), Value::Plocks(more)) => owners.extend(more),
            (_, held) => set(records, key, Some(held)),
        }
    }
    records.retain(|_, value| match value {
        Value::Flocks(owners) => !owners.is_empty(),
        Value::Plocks(owners) => !owners.is_empty(),
        _ => true,
    });
}
