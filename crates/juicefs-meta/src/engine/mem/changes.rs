//! What each effect does to the records.

use std::collections::BTreeMap;

use juicefs_core::{
    error::MetaResult,
    ids::{ChunkIndex, Ino, Name, SessionId},
    lock::{LockKind, LockOwner},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};

use super::{
    scan,
    store::{Store, misfit},
};
use crate::{
    engine::Scan,
    record::{AccountKey, HolderKey, Key, NoteKey, Plock, Value},
    txn::{
        AccountEffect, Applied, ChunkEffect, EdgeEffect, Effect, LockEffect, NodeEffect, NodePatch, SessionEffect,
        SliceEffect, Usage, VolumeEffect,
    },
};

impl Store {
    /// Makes one change. A failure leaves it undone.
    pub(super) fn change(&mut self, effect: &Effect, applied: &mut Applied) -> MetaResult<()> {
        match effect {
            Effect::Node(ino, effect) => self.change_node(*ino, effect)?,
            Effect::Edge(ino, name, effect) => self.change_edge(*ino, name, *effect)?,
            Effect::Chunk(ino, index, effect) => self.change_chunk(*ino, *index, effect, applied)?,
            Effect::Slice(effect) => self.change_slice(effect)?,
            Effect::Account(effect) => self.change_account(effect),
            Effect::Session(sid, effect) => self.change_session(*sid, effect),
            Effect::Lock(ino, owner, effect) => self.change_lock(*ino, *owner, effect),
            Effect::Volume(VolumeEffect::PutAcl(id, rule)) => self.put(Key::Acl(*id), Value::Acl(rule.clone())),
            Effect::Volume(VolumeEffect::PutSetting(json)) => self.setting = Some(json.clone()),
        }
        Ok(())
    }

    fn change_node(&mut self, ino: Ino, effect: &NodeEffect) -> MetaResult<()> {
        match effect {
            NodeEffect::Insert(attr) => self.insert(Key::Node(ino), Value::Node(attr.clone()))?,
            NodeEffect::Update(attr) => self.replace(Key::Node(ino), Value::Node(attr.clone()))?,
            NodeEffect::Patch(patch) => self.patch_node(ino, *patch)?,
            NodeEffect::Delete => self.delete(Key::Node(ino)),
            NodeEffect::PutSymlink(target) => self.put(Key::Symlink(ino), Value::Bytes(target.clone())),
            NodeEffect::DeleteSymlink => self.delete(Key::Symlink(ino)),
            NodeEffect::PutXattr(name, value) => self.put(Key::Xattr(ino, name.clone()), Value::Bytes(value.clone())),
            NodeEffect::DeleteXattr(name) => self.delete(Key::Xattr(ino, name.clone())),
            NodeEffect::DeleteXattrs => self.delete_xattrs(ino),
            NodeEffect::AddParent(parent, delta) => self.add_parent(ino, *parent, *delta),
            NodeEffect::DeleteParents => self.delete(Key::Parents(ino)),
            NodeEffect::PutDetached(made_secs) => {
                self.put(Key::Note(NoteKey::Detached(ino)), Value::Detached(*made_secs));
            }
            NodeEffect::DeleteDetached => self.delete(Key::Note(NoteKey::Detached(ino))),
        }
        Ok(())
    }

    fn change_edge(&mut self, ino: Ino, name: &Name, effect: EdgeEffect) -> MetaResult<()> {
        let key = Key::Edge(ino, name.clone());
        match effect {
            EdgeEffect::Insert(edge) => self.insert(key, Value::Edge(edge)),
            EdgeEffect::Update(edge) => self.replace(key, Value::Edge(edge)),
            EdgeEffect::Delete => {
                self.delete(key);
                Ok(())
            }
        }
    }

    fn change_chunk(
        &mut self,
        ino: Ino,
        index: ChunkIndex,
        effect: &ChunkEffect,
        applied: &mut Applied,
    ) -> MetaResult<()> {
        let key = Key::Chunk(ino, index);
        match effect {
            ChunkEffect::Append(records) => {
                let mut list = match self.records.get(&key) {
                    Some(Value::Chunk(list)) => list.clone(),
                    _ => Vec::new(),
                };
                list.extend_from_slice(records);
                applied.appended.push(list.len());
                self.put(key, Value::Chunk(list));
            }
            ChunkEffect::ReplaceHead(count, records) => self.replace_head((ino, index), *count, records)?,
            ChunkEffect::Put(records) => self.put(key, Value::Chunk(records.clone())),
            ChunkEffect::Delete => self.delete(key),
        }
        Ok(())
    }

    fn change_slice(&mut self, effect: &SliceEffect) -> MetaResult<()> {
        match effect {
            SliceEffect::InsertRef(slice) => self.insert(Key::SliceRef(*slice), Value::SliceRef(1))?,
            SliceEffect::AddRef(slice, delta) => {
                let Some(Value::SliceRef(count)) = self.records.get(&Key::SliceRef(*slice)) else {
                    return Err(misfit("its references change but it has none", slice));
                };
                let count = count + delta;
                self.put(Key::SliceRef(*slice), Value::SliceRef(count));
            }
            SliceEffect::PutGarbage(slice) => self.insert(Key::SliceRef(*slice), Value::SliceRef(0))?,
            SliceEffect::DeleteRef(slice) => self.delete(Key::SliceRef(*slice)),
            SliceEffect::PutDelayed(id, held) => {
                self.put(Key::Note(NoteKey::DelaySlices(*id, held.since_secs)), Value::DelaySlices(held.clone()));
            }
            SliceEffect::DeleteDelayed(id, since) => self.delete(Key::Note(NoteKey::DelaySlices(*id, *since))),
            SliceEffect::PutDelFile(ino, file) => {
                self.put(Key::Note(NoteKey::DelFile(*ino, file.length)), Value::DelFile(*file));
            }
            SliceEffect::DeleteDelFile(ino, length) => self.delete(Key::Note(NoteKey::DelFile(*ino, *length))),
        }
        Ok(())
    }

    fn change_account(&mut self, effect: &AccountEffect) {
        let quota_of = |subject: QuotaSubject| Key::Account(AccountKey::Quota(subject));
        let stat_of = |ino: Ino| Key::Account(AccountKey::DirStat(ino));
        match effect {
            AccountEffect::PutDirStat(ino, stat) => self.put(stat_of(*ino), Value::DirStat(*stat)),
            AccountEffect::DeleteDirStat(ino) => self.delete(stat_of(*ino)),
            AccountEffect::DeleteAllDirStats => self.delete_range(stat_of(Ino(0)), stat_of(Ino(u64::MAX))),
            AccountEffect::PutQuota(subject, quota) => self.put(quota_of(*subject), Value::Quota(*quota)),
            AccountEffect::AddUsage(subject, delta) => self.add_usage(*subject, *delta),
            AccountEffect::DeleteDirQuota(ino) => self.delete(quota_of(QuotaSubject::Dir(*ino))),
            AccountEffect::DeleteAllUserGroupQuotas => {
                self.delete_range(quota_of(QuotaSubject::User(0)), quota_of(QuotaSubject::Group(u32::MAX)));
            }
            AccountEffect::SetCounter(counter, value) => {
                self.put(Key::Account(AccountKey::Counter(*counter)), Value::Counter(*value));
            }
            AccountEffect::AddCounter(counter, delta) => {
                let value = self.counter(*counter) + delta;
                self.put(Key::Account(AccountKey::Counter(*counter)), Value::Counter(value));
            }
        }
    }

    fn delete_range(&mut self, first: Key, last: Key) {
        let keys: Vec<_> = self.records.range(first..=last).map(|(key, _)| key.clone()).collect();
        keys.into_iter().for_each(|key| self.delete(key));
    }

    fn add_usage(&mut self, subject: QuotaSubject, delta: Usage) {
        let key = Key::Account(AccountKey::Quota(subject));
        let quota = match self.records.get(&key) {
            Some(Value::Quota(quota)) => *quota,
            _ if matches!(subject, QuotaSubject::Dir(_)) => return,
            _ => Quota::UNSET,
        };
        let (used_space, used_inodes) = (quota.used_space + delta.space, quota.used_inodes + delta.inodes);
        self.put(key, Value::Quota(Quota { used_space, used_inodes, ..quota }));
    }

    fn change_session(&mut self, sid: SessionId, effect: &SessionEffect) {
        match effect {
            SessionEffect::Put(session) => {
                self.put(Key::Holder(HolderKey::Session(sid)), Value::Session(session.clone()));
            }
            SessionEffect::Delete => self.delete(Key::Holder(HolderKey::Session(sid))),
            SessionEffect::Sustain(ino) => self.put(Key::Holder(HolderKey::Sustained(sid, *ino)), Value::Sustained),
            SessionEffect::Release(ino) => self.delete(Key::Holder(HolderKey::Sustained(sid, *ino))),
            SessionEffect::DeleteLocks => {
                let first = Key::Holder(HolderKey::Flocks(Ino(0)));
                let last = Key::Holder(HolderKey::Plocks(Ino(u64::MAX)));
                let inos = self.records.range(first..=last).filter_map(|(key, _)| match key {
                    Key::Holder(HolderKey::Flocks(ino) | HolderKey::Plocks(ino)) => Some(*ino),
                    _ => None,
                });
                for ino in inos.collect::<Vec<_>>() {
                    self.change_locks(ino, |flocks, plocks| {
                        flocks.retain(|owner, _| owner.sid != sid);
                        plocks.retain(|owner, _| owner.sid != sid);
                    });
                }
            }
        }
    }

    fn change_lock(&mut self, ino: Ino, owner: LockOwner, effect: &LockEffect) {
        self.change_locks(ino, |flocks, plocks| match effect {
            LockEffect::PutFlock(kind) => drop(flocks.insert(owner, *kind)),
            LockEffect::DeleteFlock => drop(flocks.remove(&owner)),
            LockEffect::PutPlocks(held) => drop(plocks.insert(owner, held.clone())),
            LockEffect::DeletePlocks => drop(plocks.remove(&owner)),
        });
    }

    fn change_locks(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut BTreeMap<LockOwner, LockKind>, &mut BTreeMap<LockOwner, Vec<Plock>>),
    ) {
        let mut flocks = match self.records.get(&Key::Holder(HolderKey::Flocks(ino))) {
            Some(Value::Flocks(held)) => held.clone(),
            _ => BTreeMap::new(),
        };
        let mut plocks = match self.records.get(&Key::Holder(HolderKey::Plocks(ino))) {
            Some(Value::Plocks(held)) => held.clone(),
            _ => BTreeMap::new(),
        };
        change(&mut flocks, &mut plocks);
        self.set(Key::Holder(HolderKey::Flocks(ino)), (!flocks.is_empty()).then_some(Value::Flocks(flocks)));
        self.set(Key::Holder(HolderKey::Plocks(ino)), (!plocks.is_empty()).then_some(Value::Plocks(plocks)));
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
        let (first, last) = scan::bounds(Scan::Xattrs(ino));
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
