//! What was lately seen: it predicts what an operation would read, so that the operation can be judged and sent at once.
//! Nothing is believed from here. Whatever was predicted is guarded when it is applied, and a refusal that rests on a
//! prediction is judged anew on what is stored.

use std::collections::HashMap;

use bytes::Bytes;
use juicefs_core::{attr::FileType, ids::Ino, lock::LockOwner, quota::QuotaSubject, slice::SliceRecord};
use parking_lot::Mutex;

use crate::{
    engine::Found,
    record::{AccountKey, HolderKey, Key, Value},
    txn::{AccountEffect, ChunkEffect, EdgeEffect, Effect, LockEffect, NodeEffect, ReadSet},
};

/// Records of one generation; two are kept. A record takes some 250 bytes.
const GENERATION: usize = 8 * 1024;
/// Longer slice lists are not remembered: they would be sent as guards.
const CHUNK_RECORDS: usize = 8;
/// Likewise for the owners of locks on a file, and for the ranges of one owner.
const LOCK_RECORDS: usize = 8;

/// A record as it was seen: nothing, or a value; the stored bytes where they are not those that we would write.
#[derive(Clone, Debug, Default)]
struct Seen {
    value: Option<Value>,
    stored: Option<Bytes>,
}

/// Records lately seen, in bounded memory: those not used for a whole generation are forgotten.
#[derive(Debug, Default)]
pub(super) struct Predictor {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Seen>,
    old: HashMap<Key, Seen>,
}

impl Generations {
    fn put(&mut self, key: Key, seen: Seen) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, seen);
    }

    fn get(&mut self, key: &Key) -> Option<&Seen> {
        if !self.young.contains_key(key) {
            let (key, seen) = self.old.remove_entry(key)?;
            self.put(key, seen);
        }
        self.young.get(key)
    }

    fn get_mut(&mut self, key: &Key) -> Option<&mut Seen> {
        self.get(key)?;
        self.young.get_mut(key)
    }

    fn remove(&mut self, key: &Key) {
        self.old.remove(key);
        self.young.remove(key);
    }

    fn change_node(&mut self, ino: Ino, effect: &NodeEffect) {
        let value = match effect {
            NodeEffect::Insert(attr) => {
                if attr.kind == FileType::File {
                    self.put(Key::Chunk(ino, 0), Seen::default());
                }
                Some(Value::Node(attr.clone()))
            }
            NodeEffect::Update(attr) => Some(Value::Node(attr.clone())),
            NodeEffect::Delete => None,
            NodeEffect::Patch(patch) => {
                if let Some(Seen { value: Some(Value::Node(attr)), stored }) = self.get_mut(&Key::Node(ino)) {
                    patch.apply(attr);
                    *stored = None;
                }
                return;
            }
            NodeEffect::PutSymlink(_)
            | NodeEffect::DeleteSymlink
            | NodeEffect::PutXattr(..)
            | NodeEffect::DeleteXattr(_)
            | NodeEffect::DeleteXattrs
            | NodeEffect::AddParent(..)
            | NodeEffect::DeleteParents
            | NodeEffect::PutDetached(_)
            | NodeEffect::DeleteDetached => return,
        };
        self.put(Key::Node(ino), Seen { value, stored: None });
    }

    /// A list that is known grows; one that is not stays unknown.
    fn append(&mut self, key: Key, records: &[SliceRecord]) {
        let Some(seen) = self.get_mut(&key) else { return };
        let mut list = match seen.value.take() {
            Some(Value::Chunk(list)) => list,
            _ => Vec::new(),
        };
        list.extend_from_slice(records);
        if list.len() > CHUNK_RECORDS {
            self.young.remove(&key);
        } else {
            seen.value = Some(Value::Chunk(list));
        }
    }

    fn change_quota(&mut self, effect: &AccountEffect) {
        let quota_of = |subject: QuotaSubject| Key::Account(AccountKey::Quota(subject));
        match effect {
            AccountEffect::PutQuota(subject, quota) => {
                self.put(quota_of(*subject), Seen { value: Some(Value::Quota(*quota)), stored: None });
            }
            AccountEffect::DeleteDirQuota(ino) => self.put(quota_of(QuotaSubject::Dir(*ino)), Seen::default()),
            AccountEffect::AddUsage(subject, delta) => {
                if let Some(Seen { value: Some(Value::Quota(quota)), .. }) = self.get_mut(&quota_of(*subject)) {
                    quota.used_space += delta.space;
                    quota.used_inodes += delta.inodes;
                }
            }
            AccountEffect::PutDirStat(..)
            | AccountEffect::DeleteDirStat(_)
            | AccountEffect::DeleteAllDirStats
            | AccountEffect::DeleteAllUserGroupQuotas
            | AccountEffect::SetCounter(..)
            | AccountEffect::AddCounter(..) => {}
        }
    }

    /// Changes what is remembered of the locks of a file. What just applied was judged on what was remembered, or on the
    /// guess that nobody held any, so that is what was there before.
    fn change_locks(&mut self, ino: Ino, owner: LockOwner, effect: &LockEffect) {
        let key = Key::Holder(match effect {
            LockEffect::PutFlock(_) | LockEffect::DeleteFlock => HolderKey::Flocks(ino),
            LockEffect::PutPlocks(_) | LockEffect::DeletePlocks => HolderKey::Plocks(ino),
        });
        let mut value = self.get(&key).and_then(|seen| seen.value.clone());
        match (effect, &mut value) {
            (LockEffect::PutFlock(kind), Some(Value::Flocks(held))) => drop(held.insert(owner, *kind)),
            (LockEffect::PutFlock(kind), value) => *value = Some(Value::Flocks([(owner, *kind)].into())),
            (LockEffect::PutPlocks(ranges), Some(Value::Plocks(held))) => drop(held.insert(owner, ranges.clone())),
            (LockEffect::PutPlocks(ranges), value) => *value = Some(Value::Plocks([(owner, ranges.clone())].into())),
            (LockEffect::DeleteFlock, Some(Value::Flocks(held))) => drop(held.remove(&owner)),
            (LockEffect::DeletePlocks, Some(Value::Plocks(held))) => drop(held.remove(&owner)),
            (LockEffect::DeleteFlock | LockEffect::DeletePlocks, _) => {}
        }
        let nobody = match &value {
            Some(Value::Flocks(held)) => held.is_empty(),
            Some(Value::Plocks(held)) => held.is_empty(),
            _ => true,
        };
        let value = value.filter(|_| !nobody);
        if is_few(value.as_ref()) {
            self.put(key, Seen { value, stored: None });
        } else {
            self.remove(&key);
        }
    }
}

/// Whether a record can be of use for the next operation.
fn is_remembered(key: &Key, value: Option<&Value>) -> bool {
    match key {
        Key::Node(_) | Key::Edge(..) | Key::Account(AccountKey::Quota(_)) => true,
        Key::Chunk(..) => !matches!(value, Some(Value::Chunk(list)) if list.len() > CHUNK_RECORDS),
        Key::Holder(HolderKey::Flocks(_)) | Key::Holder(HolderKey::Plocks(_)) => is_few(value),
        _ => false,
    }
}

/// Whether the locks of a file are few enough to be sent as guards that may not hold.
fn is_few(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Flocks(held)) => held.len() <= LOCK_RECORDS,
        Some(Value::Plocks(held)) => {
            held.len() <= LOCK_RECORDS && held.values().all(|ranges| ranges.len() <= LOCK_RECORDS)
        }
        _ => true,
    }
}

impl Predictor {
    /// Adds what is likely stored under those of `wanted` that were not read yet. False when nothing can be said of some.
    pub(super) fn predict(&self, wanted: &[Key], read: &mut ReadSet) -> bool {
        let mut generations = self.generations.lock();
        for key in wanted {
            if read.contains(key) {
                continue;
            }
            if let Some(seen) = generations.get(key) {
                if let Some(stored) = &seen.stored {
                    read.note_stored(key.clone(), stored.clone());
                }
                read.insert(key.clone(), seen.value.clone());
            } else if let Some(value) = guess(key, read) {
                read.insert(key.clone(), value);
            } else {
                return false;
            }
        }
        true
    }

    /// Remembers what was read.
    pub(super) fn learn(&self, read: &ReadSet) {
        let mut generations = self.generations.lock();
        for (key, value) in read.iter().filter(|(key, value)| is_remembered(key, *value)) {
            let seen = Seen { value: value.cloned(), stored: read.stored(key).cloned() };
            generations.put(key.clone(), seen);
        }
    }

    /// Remembers a name, and what was found under it.
    pub(super) fn learn_name(&self, name: Key, found: Option<&Found>) {
        let mut generations = self.generations.lock();
        generations.put(name, Seen { value: found.map(|found| Value::Edge(found.edge)), stored: None });
        if let Some(Found { edge, attr, stored }) = found {
            let seen = Seen { value: attr.clone().map(Value::Node), stored: stored.clone() };
            generations.put(Key::Node(edge.ino), seen);
        }
    }

    /// Remembers names and nodes as they were listed.
    pub(super) fn learn_all(&self, records: impl Iterator<Item = (Key, Value)>) {
        let mut generations = self.generations.lock();
        for (key, value) in records.filter(|(key, value)| is_remembered(key, Some(value))) {
            generations.put(key, Seen { value: Some(value), stored: None });
        }
    }

    /// Takes over what was just applied.
    pub(super) fn apply(&self, effects: &[Effect]) {
        let mut generations = self.generations.lock();
        for effect in effects {
            match effect {
                Effect::Node(ino, effect) => generations.change_node(*ino, effect),
                Effect::Edge(ino, name, effect) => {
                    let value = match effect {
                        EdgeEffect::Insert(edge) | EdgeEffect::Update(edge) => Some(Value::Edge(*edge)),
                        EdgeEffect::Delete => None,
                    };
                    generations.put(Key::Edge(*ino, name.clone()), Seen { value, stored: None });
                }
                Effect::Chunk(ino, index, ChunkEffect::Append(records)) => {
                    generations.append(Key::Chunk(*ino, *index), records);
                }
                Effect::Chunk(ino, index, ChunkEffect::ReplaceHead(..) | ChunkEffect::Put(_) | ChunkEffect::Delete) => {
                    generations.remove(&Key::Chunk(*ino, *index));
                }
                Effect::Account(effect) => generations.change_quota(effect),
                Effect::Lock(ino, owner, effect) => generations.change_locks(*ino, *owner, effect),
                Effect::Slice(_) | Effect::Session(..) | Effect::Volume(_) => {}
            }
        }
    }

    /// Forgets what turned out to be otherwise.
    pub(super) fn forget(&self, read: &ReadSet) {
        let mut generations = self.generations.lock();
        read.iter().for_each(|(key, _)| generations.remove(key));
    }
}

/// What a record most likely is of which nothing was seen: directories that are to be removed are empty, files of length
/// 0 have no data, a name in the trash is free, nothing else shares a slice, nobody holds a lock.
fn guess(key: &Key, read: &ReadSet) -> Option<Option<Value>> {
    match key {
        Key::HasEntries(_) => Some(Some(Value::HasEntries(false))),
        Key::Holder(HolderKey::HasSustained(_)) => Some(Some(Value::HasSustained(false))),
        Key::Edge(ino, _) if ino.is_hourly_trash() => Some(None),
        Key::Chunk(ino, 0) if is_empty_file(read, *ino) => Some(None),
        Key::SliceRef(_) => Some(Some(Value::SliceRef(1))),
        Key::Holder(HolderKey::Flocks(_)) | Key::Holder(HolderKey::Plocks(_)) => Some(None),
        _ => None,
    }
}

fn is_empty_file(read: &ReadSet, ino: Ino) -> bool {
    read.contains(&Key::Node(ino)) && read.node(ino).is_some_and(|attr| attr.is_file() && attr.length == 0)
}

#[cfg(test)]
mod tests {
    use juicefs_core::{attr::Attr, ids::Name};

    use super::*;
    use crate::{record::Edge, txn::NodePatch};

    fn predicted(predictor: &Predictor, key: Key) -> Result<Option<Value>, ()> {
        let mut read = ReadSet::default();
        if predictor.predict(std::slice::from_ref(&key), &mut read) { Ok(read.get(&key).cloned()) } else { Err(()) }
    }

    /// A node that was looked for and not found.
    fn missing(ino: u64) -> ReadSet {
        let mut read = ReadSet::default();
        read.insert(Key::Node(Ino(ino)), None);
        read
    }

    #[test]
    fn what_was_applied_is_what_is_predicted() {
        let predictor = Predictor::default();
        let attr = Attr { nlink: 1, ..Attr::default() };
        let edge = Edge { ino: Ino(5), kind: FileType::File };
        let name = Name::from("a");
        assert_eq!(predicted(&predictor, Key::Node(Ino(5))), Err(()));
        predictor.apply(&[
            Effect::Node(Ino(5), NodeEffect::Insert(attr.clone())),
            Effect::Edge(Ino::ROOT, name.clone(), EdgeEffect::Insert(edge)),
            Effect::Node(Ino(5), NodeEffect::Patch(NodePatch::links(1, None))),
            Effect::Chunk(Ino(5), 0, ChunkEffect::Append(vec![SliceRecord::zeros(0, 1)])),
        ]);
        assert_eq!(predicted(&predictor, Key::Node(Ino(5))), Ok(Some(Value::Node(Attr { nlink: 2, ..attr }))));
        assert_eq!(predicted(&predictor, Key::Edge(Ino::ROOT, name.clone())), Ok(Some(Value::Edge(edge))));
        let list = Value::Chunk(vec![SliceRecord::zeros(0, 1)]);
        assert_eq!(predicted(&predictor, Key::Chunk(Ino(5), 0)), Ok(Some(list)));
        predictor.apply(&[
            Effect::Edge(Ino::ROOT, name.clone(), EdgeEffect::Delete),
            Effect::Node(Ino(5), NodeEffect::Delete),
        ]);
        assert_eq!(predicted(&predictor, Key::Edge(Ino::ROOT, name)), Ok(None));
        assert_eq!(predicted(&predictor, Key::Node(Ino(5))), Ok(None));
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let predictor = Predictor::default();
        predictor.learn(&missing(1));
        for n in 0..5 * GENERATION as u64 {
            predictor.learn(&missing(10 + n));
            if n % 1000 == 0 {
                assert_eq!(predicted(&predictor, Key::Node(Ino(1))), Ok(None));
            }
        }
        assert_eq!(predicted(&predictor, Key::Node(Ino(10))), Err(()));
        let generations = predictor.generations.lock();
        assert!(generations.young.len() <= GENERATION && generations.old.len() <= GENERATION);
    }
}
