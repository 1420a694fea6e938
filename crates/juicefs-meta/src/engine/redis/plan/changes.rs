//! Steps that change records.

use juicefs_core::{
    attr::Timestamp,
    ids::{Ino, Name, SessionId},
    lock::LockOwner,
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};

use super::bytes;
use crate::{
    engine::redis::script::{Plan, StepKind as S},
    layout::{
        binary::{encode_attr, encode_edge, encode_limits, encode_plocks, encode_slice_keys},
        redis::{
            KeySpace, Text, counter_shift, delayed_field, flock_letter, number, owner_field, removed_file, slice_field,
        },
    },
    record::{HolderKey, Key, Value},
    txn::{
        AccountEffect, ChunkEffect, EdgeEffect, Effect, LockEffect, NodeEffect, NodePatch, ReadSet, SessionEffect,
        SliceEffect, VolumeEffect, Wrote,
    },
};

/// How long what a client noted of its changes outlives its last sign of life.
pub(in crate::engine::redis) const OUTCOME_SECS: u64 = 24 * 3600;

pub(super) fn node(plan: &mut Plan, keys: &KeySpace, ino: Ino, effect: &NodeEffect) {
    match effect {
        NodeEffect::Insert(attr) | NodeEffect::Update(attr) => {
            plan.push(S::Set, [keys.node(ino)], [bytes(&encode_attr(attr))]);
        }
        NodeEffect::Patch(patch) => patch_node(plan, &keys.node(ino), *patch),
        NodeEffect::Delete => plan.push(S::Delete, [keys.node(ino)], []),
        NodeEffect::PutSymlink(target) => plan.push(S::Set, [keys.symlink(ino)], [bytes(target)]),
        NodeEffect::DeleteSymlink => plan.push(S::Delete, [keys.symlink(ino)], []),
        NodeEffect::PutXattr(name, value) => {
            plan.push(S::SetField, [keys.xattrs(ino)], [bytes(name.as_bytes()), bytes(value)]);
        }
        NodeEffect::DeleteXattr(name) => plan.push(S::DeleteField, [keys.xattrs(ino)], [bytes(name.as_bytes())]),
        NodeEffect::DeleteXattrs => plan.push(S::Delete, [keys.xattrs(ino)], []),
        NodeEffect::AddParent(parent, delta) => {
            plan.push(S::AddPositiveField, [keys.parents(ino)], [number(parent.0), number(delta)]);
        }
        NodeEffect::DeleteParents => plan.push(S::Delete, [keys.parents(ino)], []),
        NodeEffect::PutDetached(made_secs) => {
            plan.push(S::SetScore, [keys.detached()], [number(ino.0), number(made_secs)]);
        }
        NodeEffect::DeleteDetached => plan.push(S::DeleteScore, [keys.detached()], [number(ino.0)]),
    }
}

fn patch_node(plan: &mut Plan, key: &Text, NodePatch { nlink, touched, wrote }: NodePatch) {
    if nlink != 0 || touched.is_some() {
        plan.push(S::Patch, [key.clone()], [number(nlink), touched.map(time).unwrap_or_default()]);
    }
    if let Some(Wrote { mtime, ctime, end }) = wrote {
        plan.push(S::Wrote, [key.clone()], [time(mtime), time(ctime), bytes(&end.to_be_bytes())]);
    }
}

/// The times of a change, as the bytes of a node.
fn time(time: Timestamp) -> Text {
    let mut out = bytes(&time.secs.to_be_bytes());
    out.extend_from_slice(&time.nanos.to_be_bytes());
    out
}

pub(super) fn edge(plan: &mut Plan, entries: Text, name: &Name, effect: EdgeEffect) {
    let name = bytes(name.as_bytes());
    match effect {
        EdgeEffect::Insert(edge) | EdgeEffect::Update(edge) => {
            plan.push(S::SetField, [entries], [name, bytes(&encode_edge(edge))]);
        }
        EdgeEffect::Delete => plan.push(S::DeleteField, [entries], [name]),
    }
}

pub(super) fn chunk(plan: &mut Plan, key: Text, effect: &ChunkEffect) {
    match effect {
        ChunkEffect::Append(list) => plan.push(S::Append, [key], [bytes(&SliceRecord::encode_list(list))]),
        ChunkEffect::ReplaceHead(count, list) => {
            plan.push(S::ReplaceHead, [key], [number(count), bytes(&SliceRecord::encode_list(list))]);
        }
        ChunkEffect::Put(list) => plan.push(S::PutList, [key], [bytes(&SliceRecord::encode_list(list))]),
        ChunkEffect::Delete => plan.push(S::Delete, [key], []),
    }
}

pub(super) fn slice(plan: &mut Plan, keys: &KeySpace, effect: &SliceEffect) {
    match effect {
        // A slice that is not counted apart has one reference.
        SliceEffect::InsertRef(_) => {}
        SliceEffect::AddRef(slice, delta) => {
            plan.push(S::AddField, [keys.slice_refs()], [slice_field(*slice), number(delta)]);
        }
        SliceEffect::PutGarbage(slice) => {
            plan.push(S::SetField, [keys.slice_refs()], [slice_field(*slice), number(-1)]);
        }
        SliceEffect::DeleteRef(slice) => plan.push(S::DeleteField, [keys.slice_refs()], [slice_field(*slice)]),
        SliceEffect::PutDelayed(id, held) => {
            let args = [delayed_field(*id, held.since_secs), bytes(&encode_slice_keys(&held.slices))];
            plan.push(S::SetField, [keys.delayed_slices()], args);
        }
        SliceEffect::DeleteDelayed(id, since) => {
            plan.push(S::DeleteField, [keys.delayed_slices()], [delayed_field(*id, *since)]);
        }
        SliceEffect::PutDelFile(ino, file) => {
            let args = [removed_file(*ino, file.length), number(file.removed_secs)];
            plan.push(S::SetScore, [keys.removed_files()], args);
        }
        SliceEffect::DeleteDelFile(ino, length) => {
            plan.push(S::DeleteScore, [keys.removed_files()], [removed_file(*ino, *length)]);
        }
    }
}

pub(super) fn account(plan: &mut Plan, keys: &KeySpace, effect: &AccountEffect) {
    let dir_stats = || [keys.dir_lengths(), keys.dir_spaces(), keys.dir_inodes()];
    match effect {
        AccountEffect::PutDirStat(ino, stat) => {
            for (hash, value) in dir_stats().into_iter().zip([stat.length, stat.space, stat.inodes]) {
                plan.push(S::SetField, [hash], [number(ino.0), number(value)]);
            }
        }
        AccountEffect::DeleteDirStat(ino) => {
            dir_stats().into_iter().for_each(|hash| plan.push(S::DeleteField, [hash], [number(ino.0)]));
        }
        AccountEffect::DeleteAllDirStats => {
            dir_stats().into_iter().for_each(|hash| plan.push(S::Delete, [hash], []));
        }
        AccountEffect::DeleteAllUserGroupQuotas => {
            keys.user_group_quotas().for_each(|hash| plan.push(S::Delete, [hash], []));
        }
        AccountEffect::DeleteDirQuota(ino) => {
            let (hashes, field) = keys.quota(QuotaSubject::Dir(*ino));
            hashes.into_iter().for_each(|hash| plan.push(S::DeleteField, [hash], [field.clone()]));
        }
        AccountEffect::PutQuota(subject, quota) => {
            let ([limits, space, inodes], field) = keys.quota(*subject);
            plan.push(S::SetField, [limits], [field.clone(), bytes(&encode_limits(quota))]);
            plan.push(S::SetField, [space], [field.clone(), number(quota.used_space)]);
            plan.push(S::SetField, [inodes], [field, number(quota.used_inodes)]);
        }
        AccountEffect::AddUsage(subject, delta) => {
            let (hashes, field) = keys.quota(*subject);
            let [space, inodes] = [number(delta.space), number(delta.inodes)];
            match subject {
                QuotaSubject::Dir(_) => plan.push(S::AddDirQuota, hashes, [field, space, inodes]),
                QuotaSubject::User(_) | QuotaSubject::Group(_) => {
                    let unset = bytes(&encode_limits(&Quota::UNSET));
                    plan.push(S::AddOwnerQuota, hashes, [field, space, inodes, unset]);
                }
            }
        }
        AccountEffect::SetCounter(counter, value) => {
            plan.push(S::Set, [keys.counter(*counter)], [number(value - counter_shift(*counter))]);
        }
        AccountEffect::AddCounter(counter, delta) => plan.push(S::Add, [keys.counter(*counter)], [number(delta)]),
    }
}

/// `outcome` and `locked` are as in [`super::plan`].
pub(super) fn session(
    plan: &mut Plan,
    keys: &KeySpace,
    sid: SessionId,
    effect: &SessionEffect,
    (outcome, locked): (&Text, &[Text]),
) {
    match effect {
        SessionEffect::Put(session) => {
            plan.push(S::SetScore, [keys.sessions()], [number(sid.0), number(session.expire_secs)]);
            plan.push(S::SetField, [keys.session_infos()], [number(sid.0), bytes(&session.info)]);
            plan.push(S::Renew, [outcome.clone()], [number(OUTCOME_SECS)]);
        }
        SessionEffect::Delete => {
            plan.push(S::DeleteScore, [keys.sessions()], [number(sid.0)]);
            plan.push(S::DeleteField, [keys.session_infos()], [number(sid.0)]);
        }
        SessionEffect::DeleteLocks => delete_locks(plan, keys, sid, locked),
        SessionEffect::Sustain(ino) => plan.push(S::AddMember, [keys.sustained(sid)], [number(ino.0)]),
        SessionEffect::Release(ino) => plan.push(S::DeleteMember, [keys.sustained(sid)], [number(ino.0)]),
    }
}

/// Removes the locks of a session. What is in its set and is no key of locks is forgotten with the set.
fn delete_locks(plan: &mut Plan, keys: &KeySpace, sid: SessionId, held: &[Text]) {
    let mut owner = number(sid.0);
    owner.push(b'_');
    for key in held.iter().filter(|key| keys.is_of_locks(key)) {
        plan.push(S::DeleteLocks, [key.clone()], [owner.clone()]);
    }
    plan.push(S::Delete, [keys.locked(sid)], []);
}

/// A change of what an owner holds of a file. `read` shows who held what before all of `effects`.
pub(super) fn lock(
    plan: &mut Plan,
    keys: &KeySpace,
    (ino, owner): (Ino, LockOwner),
    effect: &LockEffect,
    (read, effects): (&ReadSet, &[Effect]),
) {
    let (key, held) = match effect {
        LockEffect::PutFlock(kind) => (keys.flocks(ino), Some(bytes(flock_letter(*kind)))),
        LockEffect::PutPlocks(held) => (keys.plocks(ino), Some(bytes(&encode_plocks(held)))),
        LockEffect::DeleteFlock => (keys.flocks(ino), None),
        LockEffect::DeletePlocks => (keys.plocks(ino), None),
    };
    match held {
        Some(held) => {
            // Where the clean-up of the session finds the lock.
            plan.push(S::AddMember, [keys.locked(owner.sid)], [key.clone()]);
            plan.push(S::SetField, [key], [owner_field(owner), held]);
        }
        None => {
            if is_last(ino, owner, effect, read, effects) {
                plan.push(S::DeleteMember, [keys.locked(owner.sid)], [key.clone()]);
            }
            plan.push(S::DeleteField, [key], [owner_field(owner)]);
        }
    }
}

/// Whether no owner of the same session holds such a lock on the file when `effects` are applied, of which `effect` deletes
/// one. When that was not read it is not known: a key too many in the set of a session does no harm.
fn is_last(ino: Ino, owner: LockOwner, effect: &LockEffect, read: &ReadSet, effects: &[Effect]) -> bool {
    let key = Key::Holder(match effect {
        LockEffect::PutFlock(_) | LockEffect::DeleteFlock => HolderKey::Flocks(ino),
        LockEffect::PutPlocks(_) | LockEffect::DeletePlocks => HolderKey::Plocks(ino),
    });
    if !read.contains(&key) {
        return false;
    }
    let goes = |other: &LockOwner| {
        let gone = Effect::Lock(ino, *other, effect.clone());
        other.sid != owner.sid || effects.contains(&gone)
    };
    match read.get(&key) {
        Some(Value::Flocks(held)) => held.keys().all(goes),
        Some(Value::Plocks(held)) => held.keys().all(goes),
        _ => true,
    }
}

pub(super) fn volume(plan: &mut Plan, keys: &KeySpace, effect: &VolumeEffect) {
    match effect {
        VolumeEffect::PutAcl(id, rule) => plan.push(S::SetField, [keys.acls()], [number(id), bytes(&rule.encode())]),
        VolumeEffect::PutSetting(json) => plan.push(S::Set, [keys.setting()], [bytes(json)]),
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::lock::LockKind;

    use super::*;

    const INO: Ino = Ino(7);

    fn owner(sid: u64, number: u64) -> LockOwner {
        LockOwner { sid: SessionId(sid), number }
    }

    /// What a request that deletes the locks of these owners, of all that `held` has, takes out of the sets of sessions.
    fn leaving(held: &[LockOwner], gone: &[LockOwner]) -> Vec<bool> {
        let mut read = ReadSet::default();
        let locks = held.iter().map(|owner| (*owner, LockKind::Read)).collect();
        read.insert(Key::Holder(HolderKey::Flocks(INO)), Some(Value::Flocks(locks)));
        let effects: Vec<_> = gone.iter().map(|owner| Effect::Lock(INO, *owner, LockEffect::DeleteFlock)).collect();
        gone.iter().map(|owner| is_last(INO, *owner, &LockEffect::DeleteFlock, &read, &effects)).collect()
    }

    #[test]
    fn a_session_lists_a_file_for_as_long_as_one_of_its_owners_holds_a_lock() {
        let all = [owner(1, 1), owner(1, 2), owner(2, 1)];
        assert_eq!(leaving(&all, &[owner(1, 1)]), [false]);
        assert_eq!(leaving(&all, &[owner(2, 1)]), [true]);
        assert_eq!(leaving(&all, &[owner(1, 1), owner(1, 2)]), [true, true]);
        let unread = is_last(INO, owner(1, 1), &LockEffect::DeleteFlock, &ReadSet::default(), &[]);
        assert!(!unread, "it is not known who else holds one");
    }
}
