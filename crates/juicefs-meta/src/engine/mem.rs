//! The engine of tests: records in one ordered map behind one lock. It is also the reference that other engines are
//! compared with, so it checks more than it must: an effect that does not fit what is stored is an error here.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{
    attr::Attr,
    error::{MetaError, MetaResult},
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    lock::{LockKind, LockOwner},
    meta::{DirCursor, DirEntry, DirPage},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};
use parking_lot::Mutex;

use super::{ApplyOutcome, Caps, Engine, Scan};
use crate::{
    record::{CHUNKS_AT_ONCE, Counter, DirStat, Edge, Key, Plock, Value},
    txn::{Applied, Effect, Effects, Job, NodePatch, ReadSet, Step, Usage},
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
        Self::with_caps(Caps { usage_in_transaction: false, max_compact_records: 1000, lists_by_name: true })
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

    async fn load_setting(&self) -> MetaResult<Option<Bytes>> {
        Ok(self.store.lock().setting.clone())
    }

    async fn prepare(&self) -> MetaResult<()> {
        Ok(())
    }

    async fn is_empty(&self) -> MetaResult<bool> {
        let store = self.store.lock();
        Ok(store.setting.is_none() && store.records.is_empty())
    }

    async fn reset(&self) -> MetaResult<()> {
        *self.store.lock() = Store::default();
        Ok(())
    }

    async fn run(&self, mut job: Box<dyn Job>) -> MetaResult<Box<dyn Job>> {
        let mut store = self.store.lock();
        let mut read = store.fetch(job.keys());
        loop {
            match job.step(&read) {
                Step::Fetch(keys) => {
                    if keys.iter().all(|key| read.contains(key)) {
                        return Err(misfit("a job that asks again for what it has read", job.name()));
                    }
                    read.extend(store.fetch(keys));
                }
                Step::Apply(effects) => {
                    let applied = store.apply(&effects, self.caps)?;
                    job.applied(&applied);
                    return Ok(job);
                }
                Step::Stop => return Ok(job),
            }
        }
    }

    async fn fetch(&self, keys: Vec<Key>) -> MetaResult<ReadSet> {
        Ok(self.store.lock().fetch(keys))
    }

    async fn apply(&self, read: &ReadSet, effects: &Effects) -> MetaResult<ApplyOutcome> {
        let mut store = self.store.lock();
        if read.iter().any(|(key, was)| !store.holds(key, was, effects)) {
            return Ok(ApplyOutcome::Conflict);
        }
        store.apply(effects, self.caps).map(ApplyOutcome::Applied)
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<(Edge, Option<Attr>)>> {
        let store = self.store.lock();
        Ok(match store.records.get(&Key::Edge(parent, Name::new(name))) {
            Some(Value::Edge(edge)) => Some((*edge, store.node(edge.ino).cloned())),
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
        store.records.insert(Key::Counter(counter), Value::Counter(value));
        Ok(value)
    }

    async fn scan(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Vec<(Key, Value)>> {
        let store = self.store.lock();
        let (first, last) = scan_bounds(scan);
        let records = store.records.range(first..=last);
        let wanted = records.filter(|(key, value)| scan_wants(scan, value) && after.as_ref().is_none_or(|a| *key > a));
        Ok(wanted.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn add_dir_stats(&self, deltas: Vec<(Ino, DirStat)>) -> MetaResult<Vec<Ino>> {
        let mut store = self.store.lock();
        let mut missing = Vec::new();
        for (ino, delta) in deltas {
            match store.records.get_mut(&Key::DirStat(ino)) {
                Some(Value::DirStat(stat)) => {
                    stat.length += delta.length;
                    stat.space += delta.space;
                    stat.inodes += delta.inodes;
                }
                _ => missing.push(ino),
            }
        }
        Ok(missing)
    }

    async fn close(&self) {}
}

fn scan_bounds(scan: Scan) -> (Key, Key) {
    let every_ino = (Ino(0), Ino(u64::MAX));
    match scan {
        Scan::Sessions | Scan::Expiring { .. } => (Key::Session(SessionId(0)), Key::Session(SessionId(u64::MAX))),
        Scan::Sustained(sid) => (Key::Sustained(sid, every_ino.0), Key::Sustained(sid, every_ino.1)),
        Scan::DelFiles { .. } => (Key::DelFile(every_ino.0, 0), Key::DelFile(every_ino.1, u64::MAX)),
        Scan::DeadSlices => {
            let key = |id, size| Key::SliceRef(SliceKey { id: SliceId(id), size });
            (key(0, 0), key(u64::MAX, u32::MAX))
        }
        Scan::DelaySlices { .. } => {
            (Key::DelaySlices(SliceId(0), i64::MIN), Key::DelaySlices(SliceId(u64::MAX), i64::MAX))
        }
        Scan::Chunks { ino, .. } => (Key::Chunk(ino, 0), Key::Chunk(ino, u32::MAX)),
        Scan::Xattrs(ino) => {
            (Key::Xattr(ino, Name::default()), Key::Xattr(Ino(ino.0.saturating_add(1)), Name::default()))
        }
        Scan::Acls => (Key::Acl(0), Key::Acl(u32::MAX)),
        Scan::Detached { .. } => (Key::Detached(every_ino.0), Key::Detached(every_ino.1)),
        Scan::Quotas => (Key::Quota(QuotaSubject::User(0)), Key::Quota(QuotaSubject::Dir(every_ino.1))),
    }
}

fn scan_wants(scan: Scan, value: &Value) -> bool {
    match (scan, value) {
        (Scan::Expiring { before_secs }, Value::Session(session)) => session.expire_secs < before_secs,
        (Scan::DelFiles { before_secs }, Value::DelFile(file)) => file.removed_secs < before_secs,
        (Scan::DelaySlices { before_secs }, Value::DelaySlices(slices)) => slices.since_secs < before_secs,
        (Scan::DeadSlices, Value::SliceRef(count)) => *count <= 0,
        (Scan::Detached { before_secs }, Value::Detached(made_secs)) => *made_secs < before_secs,
        _ => true,
    }
}

/// An effect, or a job, that does not fit what is stored: a bug in an operation.
fn misfit(what: &str, which: impl std::fmt::Debug) -> MetaError {
    MetaError::Corrupt { what: format!("{which:?}"), why: what.to_owned() }
}

#[derive(Debug, Default)]
struct Store {
    setting: Option<Bytes>,
    records: BTreeMap<Key, Value>,
    /// What the records changed by the running application were before it.
    undo: Vec<(Key, Option<Value>)>,
}

impl Store {
    fn node(&self, ino: Ino) -> Option<&Attr> {
        match self.records.get(&Key::Node(ino)) {
            Some(Value::Node(attr)) => Some(attr),
            _ => None,
        }
    }

    fn counter(&self, counter: Counter) -> i64 {
        match self.records.get(&Key::Counter(counter)) {
            Some(Value::Counter(value)) => *value,
            _ => 0,
        }
    }

    fn edges(&self, ino: Ino, after: Option<&Name>) -> impl Iterator<Item = (&Name, &Edge)> {
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
            Key::HasSustained(sid) => {
                let (first, last) = scan_bounds(Scan::Sustained(*sid));
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
                let (first, last) = scan_bounds(Scan::Xattrs(*ino));
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

    fn fetch(&self, keys: Vec<Key>) -> ReadSet {
        let mut read = ReadSet::default();
        for key in keys {
            let value = self.fetch_one(&key);
            read.insert(key, value);
        }
        read
    }

    /// Whether what was read under `key` still supports a decision with these effects.
    fn holds(&self, key: &Key, was: Option<&Value>, effects: &Effects) -> bool {
        let is = self.fetch_one(key);
        effects.still_holds(key, was, is.as_ref())
    }

    /// Applies all or nothing.
    fn apply(&mut self, effects: &Effects, caps: Caps) -> MetaResult<Applied> {
        let writer = effects.writer.filter(|_| !effects.list.is_empty());
        if writer.is_some_and(|sid| !self.records.contains_key(&Key::Session(sid))) {
            return Err(MetaError::Fenced);
        }
        let mut applied = Applied::default();
        let outcome = effects.list.iter().try_for_each(|effect| self.apply_one(effect, &mut applied));
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
                self.records.insert(Key::Counter(counter), Value::Counter(value));
            }
        }
        Ok(applied)
    }

    fn set(&mut self, key: Key, value: Option<Value>) -> Option<Value> {
        let old = match value {
            Some(value) => self.records.insert(key.clone(), value),
            None => self.records.remove(&key),
        };
        self.undo.push((key, old.clone()));
        old
    }

    fn put(&mut self, key: Key, value: Value) {
        self.set(key, Some(value));
    }

    fn insert(&mut self, key: Key, value: Value) -> MetaResult<()> {
        match self.set(key.clone(), Some(value)) {
            None => Ok(()),
            Some(_) => Err(misfit("it is inserted but exists", key)),
        }
    }

    fn replace(&mut self, key: Key, value: Value) -> MetaResult<()> {
        match self.set(key.clone(), Some(value)) {
            Some(_) => Ok(()),
            None => Err(misfit("it is replaced but does not exist", key)),
        }
    }

    fn delete(&mut self, key: Key) {
        self.set(key, None);
    }

    fn apply_one(&mut self, effect: &Effect, applied: &mut Applied) -> MetaResult<()> {
        match effect {
            Effect::InsertNode(ino, attr) => self.insert(Key::Node(*ino), Value::Node(attr.clone()))?,
            Effect::UpdateNode(ino, attr) => self.replace(Key::Node(*ino), Value::Node(attr.clone()))?,
            Effect::PatchNode(ino, patch) => self.patch_node(*ino, *patch)?,
            Effect::DeleteNode(ino) => self.delete(Key::Node(*ino)),
            Effect::InsertEdge(ino, name, edge) => {
                self.insert(Key::Edge(*ino, name.clone()), Value::Edge(*edge))?;
            }
            Effect::UpdateEdge(ino, name, edge) => {
                self.replace(Key::Edge(*ino, name.clone()), Value::Edge(*edge))?;
            }
            Effect::DeleteEdge(ino, name) => self.delete(Key::Edge(*ino, name.clone())),
            Effect::PutSymlink(ino, target) => self.put(Key::Symlink(*ino), Value::Bytes(target.clone())),
            Effect::DeleteSymlink(ino) => self.delete(Key::Symlink(*ino)),
            Effect::PutXattr(ino, name, value) => {
                self.put(Key::Xattr(*ino, name.clone()), Value::Bytes(value.clone()));
            }
            Effect::DeleteXattr(ino, name) => self.delete(Key::Xattr(*ino, name.clone())),
            Effect::DeleteXattrs(ino) => self.delete_xattrs(*ino),
            Effect::AppendSlices(ino, index, records) => {
                let key = Key::Chunk(*ino, *index);
                let mut list = match self.records.get(&key) {
                    Some(Value::Chunk(list)) => list.clone(),
                    _ => Vec::new(),
                };
                list.extend_from_slice(records);
                applied.appended.push(list.len());
                self.put(key, Value::Chunk(list));
            }
            Effect::ReplaceHead(ino, index, count, records) => self.replace_head((*ino, *index), *count, records)?,
            Effect::PutChunk(ino, index, records) => {
                self.put(Key::Chunk(*ino, *index), Value::Chunk(records.clone()));
            }
            Effect::DeleteChunk(ino, index) => self.delete(Key::Chunk(*ino, *index)),
            Effect::InsertSliceRef(slice) => self.insert(Key::SliceRef(*slice), Value::SliceRef(1))?,
            Effect::AddSliceRef(slice, delta) => {
                let Some(Value::SliceRef(count)) = self.records.get(&Key::SliceRef(*slice)) else {
                    return Err(misfit("its references change but it has none", slice));
                };
                let count = count + delta;
                self.put(Key::SliceRef(*slice), Value::SliceRef(count));
            }
            Effect::PutGarbageSlice(slice) => self.insert(Key::SliceRef(*slice), Value::SliceRef(0))?,
            Effect::DeleteSliceRef(slice) => self.delete(Key::SliceRef(*slice)),
            Effect::AddParent(ino, parent, delta) => self.add_parent(*ino, *parent, *delta),
            Effect::DeleteParents(ino) => self.delete(Key::Parents(*ino)),
            other => self.apply_upkeep(other),
        }
        Ok(())
    }

    /// The effects that always fit.
    fn apply_upkeep(&mut self, effect: &Effect) {
        match effect {
            Effect::PutDirStat(ino, stat) => self.put(Key::DirStat(*ino), Value::DirStat(*stat)),
            Effect::DeleteDirStat(ino) => self.delete(Key::DirStat(*ino)),
            Effect::DeleteAllDirStats => {
                let range = Key::DirStat(Ino(0))..=Key::DirStat(Ino(u64::MAX));
                let keys: Vec<_> = self.records.range(range).map(|(key, _)| key.clone()).collect();
                keys.into_iter().for_each(|key| self.delete(key));
            }
            Effect::PutAcl(id, rule) => self.put(Key::Acl(*id), Value::Acl(rule.clone())),
            Effect::PutSession(sid, session) => self.put(Key::Session(*sid), Value::Session(session.clone())),
            Effect::DeleteSession(sid) => self.delete(Key::Session(*sid)),
            Effect::PutSustained(sid, ino) => self.put(Key::Sustained(*sid, *ino), Value::Sustained),
            Effect::DeleteSustained(sid, ino) => self.delete(Key::Sustained(*sid, *ino)),
            Effect::PutDelFile(ino, file) => self.put(Key::DelFile(*ino, file.length), Value::DelFile(*file)),
            Effect::DeleteDelFile(ino, length) => self.delete(Key::DelFile(*ino, *length)),
            Effect::PutDelaySlices(id, slices) => {
                self.put(Key::DelaySlices(*id, slices.since_secs), Value::DelaySlices(slices.clone()));
            }
            Effect::DeleteDelaySlices(id, since) => self.delete(Key::DelaySlices(*id, *since)),
            Effect::PutDetached(ino, made_secs) => self.put(Key::Detached(*ino), Value::Detached(*made_secs)),
            Effect::DeleteDetached(ino) => self.delete(Key::Detached(*ino)),
            Effect::SetCounter(counter, value) => self.put(Key::Counter(*counter), Value::Counter(*value)),
            Effect::AddCounter(counter, delta) => {
                let value = self.counter(*counter) + delta;
                self.put(Key::Counter(*counter), Value::Counter(value));
            }
            Effect::PutSetting(json) => self.setting = Some(json.clone()),
            Effect::DeleteLocks(_)
            | Effect::PutFlock(..)
            | Effect::DeleteFlock { .. }
            | Effect::PutPlocks(..)
            | Effect::DeletePlocks { .. } => self.apply_lock(effect),
            Effect::PutQuota(subject, quota) => self.put(Key::Quota(*subject), Value::Quota(*quota)),
            Effect::AddQuotaUsage(subject, delta) => self.add_quota_usage(*subject, *delta),
            Effect::DeleteDirQuota(ino) => self.delete(Key::Quota(QuotaSubject::Dir(*ino))),
            Effect::DeleteAllUserGroupQuotas => {
                let range = Key::Quota(QuotaSubject::User(0))..=Key::Quota(QuotaSubject::Group(u32::MAX));
                let keys: Vec<_> = self.records.range(range).map(|(key, _)| key.clone()).collect();
                keys.into_iter().for_each(|key| self.delete(key));
            }
            _ => unreachable!("invariant: apply_one takes the other effects"),
        }
    }

    fn apply_lock(&mut self, effect: &Effect) {
        match effect {
            Effect::PutFlock(ino, owner, kind) => {
                self.change_locks(*ino, |flocks, _| flocks.extend([(*owner, *kind)]));
            }
            Effect::DeleteFlock { ino, owner, .. } => {
                self.change_locks(*ino, |flocks, _| flocks.retain(|other, _| other != owner));
            }
            Effect::PutPlocks(ino, owner, held) => {
                self.change_locks(*ino, |_, plocks| plocks.extend([(*owner, held.clone())]));
            }
            Effect::DeletePlocks { ino, owner, .. } => {
                self.change_locks(*ino, |_, plocks| plocks.retain(|other, _| other != owner));
            }
            Effect::DeleteLocks(sid) => {
                let locked = self.records.range(Key::Flocks(Ino(0))..=Key::Plocks(Ino(u64::MAX)));
                let inos: Vec<_> = locked
                    .filter_map(|(key, _)| match key {
                        Key::Flocks(ino) | Key::Plocks(ino) => Some(*ino),
                        _ => None,
                    })
                    .collect();
                for ino in inos {
                    self.change_locks(ino, |flocks, plocks| {
                        flocks.retain(|owner, _| owner.sid != *sid);
                        plocks.retain(|owner, _| owner.sid != *sid);
                    });
                }
            }
            _ => unreachable!("invariant: apply_upkeep takes the other effects"),
        }
    }

    fn change_locks(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut BTreeMap<LockOwner, LockKind>, &mut BTreeMap<LockOwner, Vec<Plock>>),
    ) {
        let mut flocks = match self.records.get(&Key::Flocks(ino)) {
            Some(Value::Flocks(held)) => held.clone(),
            _ => BTreeMap::new(),
        };
        let mut plocks = match self.records.get(&Key::Plocks(ino)) {
            Some(Value::Plocks(held)) => held.clone(),
            _ => BTreeMap::new(),
        };
        change(&mut flocks, &mut plocks);
        self.set(Key::Flocks(ino), (!flocks.is_empty()).then_some(Value::Flocks(flocks)));
        self.set(Key::Plocks(ino), (!plocks.is_empty()).then_some(Value::Plocks(plocks)));
    }

    fn add_quota_usage(&mut self, subject: QuotaSubject, delta: Usage) {
        let quota = match self.records.get(&Key::Quota(subject)) {
            Some(Value::Quota(quota)) => *quota,
            _ if matches!(subject, QuotaSubject::Dir(_)) => return,
            _ => Quota::UNSET,
        };
        let (used_space, used_inodes) = (quota.used_space + delta.space, quota.used_inodes + delta.inodes);
        self.put(Key::Quota(subject), Value::Quota(Quota { used_space, used_inodes, ..quota }));
    }

    fn replace_head(&mut self, (ino, index): (Ino, ChunkIndex), count: usize, head: &[SliceRecord]) -> MetaResult<()> {
        let key = Key::Chunk(ino, index);
        let rest = match self.records.get(&key) {
            Some(Value::Chunk(list)) => list.get(count..),
            _ => None,
        };
        let Some(rest) = rest else { return Err(misfit("more of its records are replaced than it has", key)) };
        let list = [head, rest].concat();
        self.set(key, (!list.is_empty()).then_some(Value::Chunk(list)));
        Ok(())
    }

    fn patch_node(&mut self, ino: Ino, patch: NodePatch) -> MetaResult<()> {
        let Some(mut attr) = self.node(ino).cloned() else {
            return Err(misfit("it is patched but does not exist", ino));
        };
        patch.apply(&mut attr);
        self.replace(Key::Node(ino), Value::Node(attr))
    }

    fn delete_xattrs(&mut self, ino: Ino) {
        let (first, last) = scan_bounds(Scan::Xattrs(ino));
        let keys: Vec<_> = self.records.range(first..last).map(|(key, _)| key.clone()).collect();
        keys.into_iter().for_each(|key| self.delete(key));
    }

    fn add_parent(&mut self, ino: Ino, parent: Ino, delta: i64) {
        let mut parents = match self.records.get(&Key::Parents(ino)) {
            Some(Value::Parents(parents)) => parents.clone(),
            _ => BTreeMap::new(),
        };
        let count = parents.entry(parent).or_default();
        *count = count.saturating_add_signed(delta);
        parents.retain(|_, count| *count > 0);
        let value = (!parents.is_empty()).then_some(Value::Parents(parents));
        self.set(Key::Parents(ino), value);
    }
}
