//! What was lately seen: it predicts what an operation would read, so that the operation can be judged and sent at once.
//! Nothing is believed from here. Whatever was predicted is guarded when it is applied, and a refusal that rests on a
//! prediction is judged anew on what is stored.

use std::collections::HashMap;

use juicefs_core::{attr::FileType, ids::Ino, quota::QuotaSubject, slice::SliceRecord};
use parking_lot::Mutex;

use super::fetch::Sight;
use crate::{
    record::{Key, Value},
    txn::{Effect, ReadSet},
};

/// Records of one generation; two are kept. A record takes some 250 bytes.
const GENERATION: usize = 8 * 1024;
/// Longer slice lists are not remembered: they would be sent as guards.
const CHUNK_RECORDS: usize = 8;
/// Likewise for the owners of locks on a file, and for the ranges of one owner.
const LOCK_RECORDS: usize = 8;

/// A record as it was seen: nothing, or a value; the stored bytes where they are not those that we would write.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    value: Option<Value>,
    raw: Option<bytes::Bytes>,
}

/// Records lately seen, in bounded memory: those not used for a whole generation are forgotten.
#[derive(Debug, Default)]
pub(super) struct Recent {
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
}

/// Whether a record can be of use for the next operation.
fn is_remembered(key: &Key, value: Option<&Value>) -> bool {
    match key {
        Key::Node(_) | Key::Edge(..) | Key::Quota(_) => true,
        Key::Chunk(..) => !matches!(value, Some(Value::Chunk(list)) if list.len() > CHUNK_RECORDS),
        Key::Flocks(_) | Key::Plocks(_) => is_few(value),
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

impl Recent {
    /// Adds what is likely stored under `keys` to `sight`; returns the keys about which nothing can be said.
    pub(super) fn predict(&self, keys: Vec<Key>, sight: &mut Sight) -> Vec<Key> {
        let mut generations = self.generations.lock();
        let mut unknown = Vec::new();
        for key in keys {
            if sight.read.contains(&key) {
                continue;
            }
            if let Some(seen) = generations.get(&key) {
                if let Some(raw) = &seen.raw {
                    sight.raw.insert(key.clone(), raw.clone());
                }
                sight.read.insert(key, seen.value.clone());
            } else if let Some(value) = guess(&key, &sight.read) {
                sight.read.insert(key, value);
            } else {
                unknown.push(key);
            }
        }
        unknown
    }

    /// Remembers what was read.
    pub(super) fn learn(&self, sight: &Sight) {
        let mut generations = self.generations.lock();
        for (key, value) in sight.read.iter().filter(|(key, value)| is_remembered(key, *value)) {
            let seen = Seen { value: value.cloned(), raw: sight.raw.get(key).cloned() };
            generations.put(key.clone(), seen);
        }
    }

    /// Remembers a name and a node as they were listed or looked up.
    pub(super) fn learn_one(&self, key: Key, value: Option<Value>) {
        self.generations.lock().put(key, Seen { value, raw: None });
    }

    /// Remembers names and nodes as they were listed.
    pub(super) fn learn_all(&self, records: impl Iterator<Item = (Key, Value)>) {
        let mut generations = self.generations.lock();
        for (key, value) in records {
            generations.put(key, Seen { value: Some(value), raw: None });
        }
    }

    /// Takes over what was just applied.
    pub(super) fn apply(&self, effects: &[Effect]) {
        let mut generations = self.generations.lock();
        for effect in effects {
            let (key, value) = match effect {
                Effect::InsertNode(ino, attr) => {
                    if attr.kind == FileType::File {
                        generations.put(Key::Chunk(*ino, 0), Seen::default());
                    }
                    (Key::Node(*ino), Some(Value::Node(attr.clone())))
                }
                Effect::UpdateNode(ino, attr) => (Key::Node(*ino), Some(Value::Node(attr.clone()))),
                Effect::DeleteNode(ino) => (Key::Node(*ino), None),
                Effect::InsertEdge(ino, name, edge) | Effect::UpdateEdge(ino, name, edge) => {
                    (Key::Edge(*ino, name.clone()), Some(Value::Edge(*edge)))
                }
                Effect::DeleteEdge(ino, name) => (Key::Edge(*ino, name.clone()), None),
                Effect::PatchNode(ino, patch) => {
                    if let Some(Seen { value: Some(Value::Node(attr)), raw }) = generations.get_mut(&Key::Node(*ino)) {
                        patch.apply(attr);
                        *raw = None;
                    }
                    continue;
                }
                Effect::PutQuota(subject, quota) => (Key::Quota(*subject), Some(Value::Quota(*quota))),
                Effect::DeleteDirQuota(ino) => (Key::Quota(QuotaSubject::Dir(*ino)), None),
                Effect::AddQuotaUsage(subject, delta) => {
                    if let Some(Seen { value: Some(Value::Quota(quota)), .. }) =
                        generations.get_mut(&Key::Quota(*subject))
                    {
                        quota.used_space += delta.space;
                        quota.used_inodes += delta.inodes;
                    }
                    continue;
                }
                Effect::AppendSlices(ino, index, records) => {
                    append(&mut generations, Key::Chunk(*ino, *index), records);
                    continue;
                }
                Effect::PutFlock(..)
                | Effect::DeleteFlock { .. }
                | Effect::PutPlocks(..)
                | Effect::DeletePlocks { .. } => {
                    change_locks(&mut generations, effect);
                    continue;
                }
                Effect::ReplaceHead(ino, index, ..)
                | Effect::PutChunk(ino, index, _)
                | Effect::DeleteChunk(ino, index) => {
                    let key = Key::Chunk(*ino, *index);
                    generations.old.remove(&key);
                    generations.young.remove(&key);
                    continue;
                }
                _ => continue,
            };
            generations.put(key, Seen { value, raw: None });
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.generations.lock() = Generations::default();
    }

    /// Forgets what turned out to be otherwise.
    pub(super) fn forget(&self, read: &ReadSet) {
        let mut generations = self.generations.lock();
        for (key, _) in read.iter() {
            generations.old.remove(key);
            generations.young.remove(key);
        }
    }
}

/// Changes what is remembered of the locks of a file. What just applied was judged on what was remembered, or on the guess
/// that nobody held any, so that is what was there before.
fn change_locks(generations: &mut Generations, effect: &Effect) {
    let key = match effect {
        Effect::PutFlock(ino, ..) | Effect::DeleteFlock { ino, .. } => Key::Flocks(*ino),
        Effect::PutPlocks(ino, ..) | Effect::DeletePlocks { ino, .. } => Key::Plocks(*ino),
        _ => return,
    };
    let mut value = generations.get(&key).and_then(|seen| seen.value.clone());
    match (effect, &mut value) {
        (Effect::PutFlock(_, owner, kind), Some(Value::Flocks(held))) => drop(held.insert(*owner, *kind)),
        (Effect::DeleteFlock { owner, .. }, Some(Value::Flocks(held))) => drop(held.remove(owner)),
        (Effect::PutPlocks(_, owner, ranges), Some(Value::Plocks(held))) => drop(held.insert(*owner, ranges.clone())),
        (Effect::DeletePlocks { owner, .. }, Some(Value::Plocks(held))) => drop(held.remove(owner)),
        (Effect::PutFlock(_, owner, kind), value) => *value = Some(Value::Flocks([(*owner, *kind)].into())),
        (Effect::PutPlocks(_, owner, ranges), value) => {
            *value = Some(Value::Plocks([(*owner, ranges.clone())].into()));
        }
        _ => {}
    }
    let nobody = match &value {
        Some(Value::Flocks(held)) => held.is_empty(),
        Some(Value::Plocks(held)) => held.is_empty(),
        _ => true,
    };
    let value = value.filter(|_| !nobody);
    if is_few(value.as_ref()) {
        generations.put(key, Seen { value, raw: None });
    } else {
        generations.old.remove(&key);
        generations.young.remove(&key);
    }
}

/// What a record most likely is of which nothing was seen: directories that are to be removed are empty, files of length
/// 0 have no data, a name in the trash is free, nothing else shares a slice, nobody holds a lock.
fn guess(key: &Key, read: &ReadSet) -> Option<Option<Value>> {
    match key {
        Key::HasEntries(_) => Some(Some(Value::HasEntries(false))),
        Key::HasSustained(_) => Some(Some(Value::HasSustained(false))),
        Key::Edge(ino, _) if ino.is_hourly_trash() => Some(None),
        Key::Chunk(ino, 0) if is_empty_file(read, *ino) => Some(None),
        Key::SliceRef(_) => Some(Some(Value::SliceRef(1))),
        Key::Flocks(_) | Key::Plocks(_) => Some(None),
        _ => None,
    }
}

fn is_empty_file(read: &ReadSet, ino: Ino) -> bool {
    read.contains(&Key::Node(ino)) && read.node(ino).is_some_and(|attr| attr.is_file() && attr.length == 0)
}

/// A list that is known grows; one that is not stays unknown.
fn append(generations: &mut Generations, key: Key, records: &[SliceRecord]) {
    let Some(seen) = generations.get_mut(&key) else { return };
    let mut list = match seen.value.take() {
        Some(Value::Chunk(list)) => list,
        _ => Vec::new(),
    };
    list.extend_from_slice(records);
    if list.len() > CHUNK_RECORDS {
        generations.young.remove(&key);
    } else {
        seen.value = Some(Value::Chunk(list));
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::{attr::Attr, ids::Name};

    use super::*;
    use crate::{record::Edge, txn::NodePatch};

    fn predicted(recent: &Recent, key: Key) -> Result<Option<Value>, ()> {
        let mut sight = Sight::default();
        if recent.predict(vec![key.clone()], &mut sight).is_empty() {
            Ok(sight.read.get(&key).cloned())
        } else {
            Err(())
        }
    }

    #[test]
    fn what_was_applied_is_what_is_predicted() {
        let recent = Recent::default();
        let attr = Attr { nlink: 1, ..Attr::default() };
        let edge = Edge { ino: Ino(5), kind: FileType::File };
        let name = Name::from("a");
        assert_eq!(predicted(&recent, Key::Node(Ino(5))), Err(()));
        recent.apply(&[
            Effect::InsertNode(Ino(5), attr.clone()),
            Effect::InsertEdge(Ino::ROOT, name.clone(), edge),
            Effect::PatchNode(Ino(5), NodePatch::links(1, None)),
            Effect::AppendSlices(Ino(5), 0, vec![SliceRecord::zeros(0, 1)]),
        ]);
        assert_eq!(predicted(&recent, Key::Node(Ino(5))), Ok(Some(Value::Node(Attr { nlink: 2, ..attr }))));
        assert_eq!(predicted(&recent, Key::Edge(Ino::ROOT, name.clone())), Ok(Some(Value::Edge(edge))));
        let list = Value::Chunk(vec![SliceRecord::zeros(0, 1)]);
        assert_eq!(predicted(&recent, Key::Chunk(Ino(5), 0)), Ok(Some(list)));
        recent.apply(&[Effect::DeleteEdge(Ino::ROOT, name.clone()), Effect::DeleteNode(Ino(5))]);
        assert_eq!(predicted(&recent, Key::Edge(Ino::ROOT, name)), Ok(None));
        assert_eq!(predicted(&recent, Key::Node(Ino(5))), Ok(None));
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let recent = Recent::default();
        recent.learn_one(Key::Node(Ino(1)), None);
        for n in 0..5 * GENERATION as u64 {
            recent.learn_one(Key::Node(Ino(10 + n)), None);
            if n % 1000 == 0 {
                assert_eq!(predicted(&recent, Key::Node(Ino(1))), Ok(None));
            }
        }
        assert_eq!(predicted(&recent, Key::Node(Ino(10))), Err(()));
        let generations = recent.generations.lock();
        assert!(generations.young.len() <= GENERATION && generations.old.len() <= GENERATION);
    }
}
