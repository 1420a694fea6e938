//! From what an operation read and wants changed to the steps of a script.

use std::ops::Range;

use juicefs_core::{
    attr::{Attr, Timestamp},
    ids::{SessionId, SliceKey},
    lock::LockOwner,
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};

use super::{
    fetch::Sight,
    script::{Plan, StepKind as S},
};
use crate::{
    layout::{
        binary::{encode_attr, encode_edge, encode_limits, encode_plocks, encode_slice_keys},
        redis::{
            KeySpace, Text, counter_shift, delayed_field, flock_letter, number, owner_field, removed_file, slice_field,
        },
    },
    record::{Counter, DirStat, Key, Value},
    txn::{Effect, Effects, NodeGuard, NodePatch, Wrote},
};

/// How long what a client noted of its changes outlives its last sign of life.
pub(super) const OUTCOME_SECS: u64 = 24 * 3600;

/// Bytes of a node that permission checks look at first: flags, kind, mode, owner and group.
const HEAD_BYTES: usize = 11;
/// Where the parent begins, and with it the rest that they look at.
const PARENT_AT: usize = 63;
/// Where the link count begins, behind the times.
const LINKS_AT: usize = 47;
/// Where the length is.
const LENGTH: Range<usize> = 51..59;

fn bytes(bytes: &[u8]) -> Text {
    Text::from_slice(bytes)
}

/// The steps that apply `effects` if everything that `sight` shows still holds. `outcome` is the key under which the
/// client notes its changes.
pub(super) fn plan(keys: &KeySpace, outcome: &Text, sight: &Sight, effects: &Effects) -> Plan {
    let mut plan = Plan::default();
    if let Some(sid) = effects.writer.filter(|_| !effects.list.is_empty()) {
        plan.push(S::Alive, [keys.sessions()], [number(sid.0)]);
    }
    // In the order of the keys, so that equal operations make equal scripts.
    let mut read: Vec<_> = sight.read.iter().collect();
    read.sort_by_key(|(key, _)| *key);
    for (key, value) in read {
        guard(&mut plan, keys, sight, effects, key, value);
    }
    for effect in &effects.list {
        if let Effect::DeleteLocks(sid) = effect {
            guard_locked(&mut plan, keys, *sid, sight.locked(*sid));
        }
    }
    for effect in &effects.list {
        match effect {
            Effect::DeleteLocks(sid) => delete_locks(&mut plan, keys, *sid, sight.locked(*sid)),
            other => apply(&mut plan, keys, outcome, other),
        }
    }
    for (counter, delta) in [(Counter::UsedSpace, effects.usage.space), (Counter::TotalInodes, effects.usage.inodes)] {
        if delta != 0 {
            plan.push(S::Add, [keys.counter(counter)], [number(delta)]);
        }
    }
    plan
}

fn guard(plan: &mut Plan, keys: &KeySpace, sight: &Sight, effects: &Effects, key: &Key, value: Option<&Value>) {
    match (key, value) {
        (Key::Node(ino), Some(Value::Node(attr))) => {
            let narrowed = effects.narrowed.iter().find(|(narrowed, _)| narrowed == ino).map(|(_, guard)| *guard);
            let stored = sight.raw.get(key).map_or_else(|| encode_attr(attr), |raw| raw.to_vec());
            guard_node(plan, keys.node(*ino), attr, &stored, narrowed);
        }
        (Key::Node(ino), _) => plan.push(S::Absent, [keys.node(*ino)], []),
        (Key::Edge(ino, name), Some(Value::Edge(edge))) => {
            let args = [bytes(name.as_bytes()), bytes(&encode_edge(*edge))];
            plan.push(S::SameField, [keys.entries(*ino)], args);
        }
        (Key::Edge(ino, name), _) => plan.push(S::NoField, [keys.entries(*ino)], [bytes(name.as_bytes())]),
        (Key::HasEntries(ino), value) => {
            let step = if value == Some(&Value::HasEntries(true)) { S::Present } else { S::Absent };
            plan.push(step, [keys.entries(*ino)], []);
        }
        (Key::Symlink(ino), Some(Value::Bytes(target))) => plan.push(S::Same, [keys.symlink(*ino)], [bytes(target)]),
        (Key::Symlink(ino), _) => plan.push(S::Absent, [keys.symlink(*ino)], []),
        (Key::Xattr(ino, name), Some(Value::Bytes(stored))) => {
            plan.push(S::SameField, [keys.xattrs(*ino)], [bytes(name.as_bytes()), bytes(stored)]);
        }
        (Key::Xattr(ino, name), _) => plan.push(S::NoField, [keys.xattrs(*ino)], [bytes(name.as_bytes())]),
        (Key::Chunk(ino, index), Some(Value::Chunk(list))) if effects.head(*ino, *index).is_some_and(|n| n > 0) => {
            let head = &list[..effects.head(*ino, *index).map_or(list.len(), |n| n.min(list.len()))];
            let args = [bytes(&SliceRecord::encode_list(head)), number(head.len() - 1)];
            plan.push(S::SameHead, [keys.chunk(*ino, *index)], args);
        }
        (Key::Chunk(ino, index), Some(Value::Chunk(list))) => {
            plan.push(S::SameList, [keys.chunk(*ino, *index)], [bytes(&SliceRecord::encode_list(list))]);
        }
        (Key::Chunk(ino, index), _) => plan.push(S::Absent, [keys.chunk(*ino, *index)], []),
        (Key::SliceRef(slice), value) => {
            let count = if let Some(Value::SliceRef(count)) = value { *count } else { 1 };
            plan.push(S::SameFieldNumber, [keys.slice_refs()], [slice_field(*slice), number(count - 1)]);
        }
        (Key::DirStat(ino), Some(Value::DirStat(stat))) => guard_stat(plan, keys, ino.0, *stat),
        (Key::DirStat(ino), _) => plan.push(S::NoField, [keys.dir_inodes()], [number(ino.0)]),
        (Key::Session(sid), Some(Value::Session(session))) => {
            plan.push(S::SameScore, [keys.sessions()], [number(sid.0), number(session.expire_secs)]);
        }
        (Key::Session(sid), _) => plan.push(S::NoScore, [keys.sessions()], [number(sid.0)]),
        (Key::Sustained(sid, ino), value) => {
            let there = number(u8::from(value.is_some()));
            plan.push(S::SameMember, [keys.sustained(*sid)], [number(ino.0), there]);
        }
        (Key::HasSustained(sid), value) => {
            let step = if value == Some(&Value::HasSustained(true)) { S::Present } else { S::Absent };
            plan.push(step, [keys.sustained(*sid)], []);
        }
        (Key::DelFile(ino, length), Some(Value::DelFile(file))) => {
            let args = [removed_file(*ino, *length), number(file.removed_secs)];
            plan.push(S::SameScore, [keys.removed_files()], args);
        }
        (Key::DelFile(ino, length), _) => {
            plan.push(S::NoScore, [keys.removed_files()], [removed_file(*ino, *length)]);
        }
        (Key::DelaySlices(id, since), Some(Value::DelaySlices(held))) => {
            let args = [delayed_field(*id, *since), bytes(&encode_slice_keys(&held.slices))];
            plan.push(S::SameField, [keys.delayed_slices()], args);
        }
        (Key::DelaySlices(id, since), _) => {
            plan.push(S::NoField, [keys.delayed_slices()], [delayed_field(*id, *since)]);
        }
        (Key::Counter(counter), value) => {
            let stored = if let Some(Value::Counter(value)) = value { value - counter_shift(*counter) } else { 0 };
            plan.push(S::SameNumber, [keys.counter(*counter)], [number(stored)]);
        }
        (Key::Parents(ino), Some(Value::Parents(parents))) => {
            plan.push(S::PositiveFields, [keys.parents(*ino)], [number(parents.len())]);
            for (parent, names) in parents {
                plan.push(S::SameFieldNumber, [keys.parents(*ino)], [number(parent.0), number(*names)]);
            }
        }
        (Key::Parents(ino), _) => plan.push(S::PositiveFields, [keys.parents(*ino)], [number(0)]),
        (Key::Setting, Some(Value::Bytes(stored))) => plan.push(S::Same, [keys.setting()], [bytes(stored)]),
        (Key::Setting, _) => plan.push(S::Absent, [keys.setting()], []),
        (Key::Quota(subject), value) => guard_quota(plan, keys, effects, *subject, value),
        (Key::Flocks(ino), Some(Value::Flocks(held))) => {
            let fields = held.iter().map(|(owner, kind)| (*owner, bytes(flock_letter(*kind))));
            guard_owners(plan, &keys.flocks(*ino), held.len(), fields);
        }
        (Key::Flocks(ino), _) => plan.push(S::Absent, [keys.flocks(*ino)], []),
        (Key::Plocks(ino), Some(Value::Plocks(held))) => {
            let fields = held.iter().map(|(owner, held)| (*owner, bytes(&encode_plocks(held))));
            guard_owners(plan, &keys.plocks(*ino), held.len(), fields);
        }
        (Key::Plocks(ino), _) => plan.push(S::Absent, [keys.plocks(*ino)], []),
        (Key::Detached(ino), Some(Value::Detached(made_secs))) => {
            plan.push(S::SameScore, [keys.detached()], [number(ino.0), number(made_secs)]);
        }
        (Key::Detached(ino), _) => plan.push(S::NoScore, [keys.detached()], [number(ino.0)]),
        // Rules never change. A change of extended attributes touches the ctime of their node. Which chunks a file has changes
        // together with its node, which whoever asks for them reads and guards as well.
        (Key::Acl(_) | Key::Xattrs(_) | Key::ChunkIndexes(..), _) => {}
    }
}

fn guard_node(plan: &mut Plan, key: Text, attr: &Attr, stored: &[u8], narrowed: Option<NodeGuard>) {
    let kind = [(attr.kind as u8) << 4];
    let tail = stored.get(PARENT_AT..).unwrap_or_default();
    match narrowed {
        None => plan.push(S::Same, [key], [bytes(stored)]),
        Some(NodeGuard::Permissions) => {
            plan.push(S::SamePermissions, [key], [bytes(&stored[..HEAD_BYTES]), bytes(tail)]);
        }
        Some(NodeGuard::Place) => {
            plan.push(S::SamePlace, [key], [bytes(&kind), bytes(tail.get(..8).unwrap_or_default())]);
        }
        Some(NodeGuard::ButTimes) => {
            plan.push(S::SameButTimes, [key], [bytes(&stored[..HEAD_BYTES]), bytes(&stored[LINKS_AT..])]);
        }
        Some(NodeGuard::ButGrowth) => {
            let behind = [&stored[LINKS_AT..LENGTH.start], &stored[LENGTH.end..]].concat();
            let args = [bytes(&stored[..HEAD_BYTES]), bytes(&behind), bytes(&stored[LENGTH])];
            plan.push(S::SameButGrowth, [key], args);
        }
        Some(NodeGuard::Exists) => plan.push(S::SameKind, [key], [bytes(&kind)]),
    }
}

/// The owners in a hash hold what they held, and nobody else holds anything.
fn guard_owners(plan: &mut Plan, key: &Text, count: usize, fields: impl Iterator<Item = (LockOwner, Text)>) {
    plan.push(S::FieldCount, [key.clone()], [number(count)]);
    for (owner, held) in fields {
        plan.push(S::SameField, [key.clone()], [owner_field(owner), held]);
    }
}

fn guard_stat(plan: &mut Plan, keys: &KeySpace, ino: u64, stat: DirStat) {
    let parts = [(keys.dir_lengths(), stat.length), (keys.dir_spaces(), stat.space), (keys.dir_inodes(), stat.inodes)];
    for (hash, value) in parts {
        plan.push(S::SameFieldNumber, [hash], [number(ino), number(value)]);
    }
}

fn guard_quota(plan: &mut Plan, keys: &KeySpace, effects: &Effects, subject: QuotaSubject, value: Option<&Value>) {
    let ([limits, space, inodes], field) = keys.quota(subject);
    let Some(Value::Quota(quota)) = value else { return plan.push(S::NoField, [limits], [field]) };
    plan.push(S::SameField, [limits], [field.clone(), bytes(&encode_limits(quota))]);
    let room = effects.room(subject);
    for (hash, used, most) in [
        (space, quota.used_space, room.map(|room| room.space)),
        (inodes, quota.used_inodes, room.map(|room| room.inodes)),
    ] {
        match most {
            None => plan.push(S::SameFieldNumber, [hash], [field.clone(), number(used)]),
            Some(i64::MAX) => {}
            Some(most) => plan.push(S::FieldAtMost, [hash], [field.clone(), number(most)]),
        }
    }
}

fn apply(plan: &mut Plan, keys: &KeySpace, outcome: &Text, effect: &Effect) {
    match effect {
        Effect::InsertNode(ino, attr) | Effect::UpdateNode(ino, attr) => {
            plan.push(S::Set, [keys.node(*ino)], [bytes(&encode_attr(attr))]);
        }
        Effect::PatchNode(ino, patch) => patch_node(plan, &keys.node(*ino), *patch),
        Effect::DeleteNode(ino) => plan.push(S::Delete, [keys.node(*ino)], []),
        Effect::InsertEdge(ino, name, edge) | Effect::UpdateEdge(ino, name, edge) => {
            plan.push(S::SetField, [keys.entries(*ino)], [bytes(name.as_bytes()), bytes(&encode_edge(*edge))]);
        }
        Effect::DeleteEdge(ino, name) => plan.push(S::DeleteField, [keys.entries(*ino)], [bytes(name.as_bytes())]),
        Effect::PutSymlink(ino, target) => plan.push(S::Set, [keys.symlink(*ino)], [bytes(target)]),
        Effect::DeleteSymlink(ino) => plan.push(S::Delete, [keys.symlink(*ino)], []),
        Effect::PutXattr(ino, name, value) => {
            plan.push(S::SetField, [keys.xattrs(*ino)], [bytes(name.as_bytes()), bytes(value)]);
        }
        Effect::DeleteXattr(ino, name) => plan.push(S::DeleteField, [keys.xattrs(*ino)], [bytes(name.as_bytes())]),
        Effect::DeleteXattrs(ino) => plan.push(S::Delete, [keys.xattrs(*ino)], []),
        Effect::AppendSlices(ino, index, list) => {
            plan.push(S::Append, [keys.chunk(*ino, *index)], [bytes(&SliceRecord::encode_list(list))]);
        }
        Effect::ReplaceHead(ino, index, count, list) => {
            let args = [number(count), bytes(&SliceRecord::encode_list(list))];
            plan.push(S::ReplaceHead, [keys.chunk(*ino, *index)], args);
        }
        Effect::PutChunk(ino, index, list) => {
            plan.push(S::PutList, [keys.chunk(*ino, *index)], [bytes(&SliceRecord::encode_list(list))]);
        }
        Effect::DeleteChunk(ino, index) => plan.push(S::Delete, [keys.chunk(*ino, *index)], []),
        // A slice that is not counted apart has one reference.
        Effect::InsertSliceRef(_) => {}
        Effect::AddSliceRef(slice, delta) => {
            plan.push(S::AddField, [keys.slice_refs()], [slice_field(*slice), number(delta)]);
        }
        Effect::PutGarbageSlice(slice) => set_slice_ref(plan, keys, *slice, -1),
        Effect::DeleteSliceRef(slice) => plan.push(S::DeleteField, [keys.slice_refs()], [slice_field(*slice)]),
        Effect::AddParent(ino, parent, delta) => {
            plan.push(S::AddPositiveField, [keys.parents(*ino)], [number(parent.0), number(delta)]);
        }
        Effect::DeleteParents(ino) => plan.push(S::Delete, [keys.parents(*ino)], []),
        other => apply_upkeep(plan, keys, outcome, other),
    }
}

fn set_slice_ref(plan: &mut Plan, keys: &KeySpace, slice: SliceKey, stored: i64) {
    plan.push(S::SetField, [keys.slice_refs()], [slice_field(slice), number(stored)]);
}

/// The times of a change, as the bytes of a node.
fn time(time: Timestamp) -> Text {
    let mut out = bytes(&time.secs.to_be_bytes());
    out.extend_from_slice(&time.nanos.to_be_bytes());
    out
}

fn patch_node(plan: &mut Plan, key: &Text, NodePatch { nlink, touched, wrote }: NodePatch) {
    if nlink != 0 || touched.is_some() {
        plan.push(S::Patch, [key.clone()], [number(nlink), touched.map(time).unwrap_or_default()]);
    }
    if let Some(Wrote { mtime, ctime, end }) = wrote {
        plan.push(S::Wrote, [key.clone()], [time(mtime), time(ctime), bytes(&end.to_be_bytes())]);
    }
}

/// The effects that no name or content of a file is about.
fn apply_upkeep(plan: &mut Plan, keys: &KeySpace, outcome: &Text, effect: &Effect) {
    match effect {
        Effect::PutDirStat(ino, stat) => {
            let parts =
                [(keys.dir_lengths(), stat.length), (keys.dir_spaces(), stat.space), (keys.dir_inodes(), stat.inodes)];
            for (hash, value) in parts {
                plan.push(S::SetField, [hash], [number(ino.0), number(value)]);
            }
        }
        Effect::DeleteDirStat(ino) => {
            for hash in [keys.dir_lengths(), keys.dir_spaces(), keys.dir_inodes()] {
                plan.push(S::DeleteField, [hash], [number(ino.0)]);
            }
        }
        Effect::DeleteAllDirStats => {
            for hash in [keys.dir_lengths(), keys.dir_spaces(), keys.dir_inodes()] {
                plan.push(S::Delete, [hash], []);
            }
        }
        Effect::DeleteAllUserGroupQuotas => {
            for hash in keys.user_group_quotas() {
                plan.push(S::Delete, [hash], []);
            }
        }
        Effect::DeleteDirQuota(ino) => {
            let (hashes, field) = keys.quota(QuotaSubject::Dir(*ino));
            for hash in hashes {
                plan.push(S::DeleteField, [hash], [field.clone()]);
            }
        }
        Effect::PutQuota(subject, quota) => {
            let ([limits, space, inodes], field) = keys.quota(*subject);
            plan.push(S::SetField, [limits], [field.clone(), bytes(&encode_limits(quota))]);
            plan.push(S::SetField, [space], [field.clone(), number(quota.used_space)]);
            plan.push(S::SetField, [inodes], [field, number(quota.used_inodes)]);
        }
        Effect::AddQuotaUsage(subject, delta) => {
            let (hashes, field) = keys.quota(*subject);
            let deltas = [number(delta.space), number(delta.inodes)];
            let [space, inodes] = deltas;
            match subject {
                QuotaSubject::Dir(_) => plan.push(S::AddDirQuota, hashes, [field, space, inodes]),
                QuotaSubject::User(_) | QuotaSubject::Group(_) => {
                    let unset = bytes(&encode_limits(&Quota::UNSET));
                    plan.push(S::AddOwnerQuota, hashes, [field, space, inodes, unset]);
                }
            }
        }
        Effect::PutAcl(id, rule) => plan.push(S::SetField, [keys.acls()], [number(id), bytes(&rule.encode())]),
        Effect::PutSession(sid, session) => {
            plan.push(S::SetScore, [keys.sessions()], [number(sid.0), number(session.expire_secs)]);
            plan.push(S::SetField, [keys.session_infos()], [number(sid.0), bytes(&session.info)]);
            plan.push(S::Renew, [outcome.clone()], [number(OUTCOME_SECS)]);
        }
        Effect::DeleteSession(sid) => {
            plan.push(S::DeleteScore, [keys.sessions()], [number(sid.0)]);
            plan.push(S::DeleteField, [keys.session_infos()], [number(sid.0)]);
        }
        Effect::PutFlock(ino, owner, kind) => {
            put_lock(plan, keys, keys.flocks(*ino), *owner, bytes(flock_letter(*kind)));
        }
        Effect::DeleteFlock { ino, owner, last } => delete_lock(plan, keys, keys.flocks(*ino), *owner, *last),
        Effect::PutPlocks(ino, owner, held) => {
            put_lock(plan, keys, keys.plocks(*ino), *owner, bytes(&encode_plocks(held)));
        }
        Effect::DeletePlocks { ino, owner, last } => delete_lock(plan, keys, keys.plocks(*ino), *owner, *last),
        Effect::PutSustained(sid, ino) => plan.push(S::AddMember, [keys.sustained(*sid)], [number(ino.0)]),
        Effect::DeleteSustained(sid, ino) => plan.push(S::DeleteMember, [keys.sustained(*sid)], [number(ino.0)]),
        Effect::PutDelFile(ino, file) => {
            let args = [removed_file(*ino, file.length), number(file.removed_secs)];
            plan.push(S::SetScore, [keys.removed_files()], args);
        }
        Effect::DeleteDelFile(ino, length) => {
            plan.push(S::DeleteScore, [keys.removed_files()], [removed_file(*ino, *length)]);
        }
        Effect::PutDelaySlices(id, held) => {
            let args = [delayed_field(*id, held.since_secs), bytes(&encode_slice_keys(&held.slices))];
            plan.push(S::SetField, [keys.delayed_slices()], args);
        }
        Effect::DeleteDelaySlices(id, since) => {
            plan.push(S::DeleteField, [keys.delayed_slices()], [delayed_field(*id, *since)]);
        }
        Effect::PutDetached(ino, made_secs) => {
            plan.push(S::SetScore, [keys.detached()], [number(ino.0), number(made_secs)]);
        }
        Effect::DeleteDetached(ino) => plan.push(S::DeleteScore, [keys.detached()], [number(ino.0)]),
        Effect::SetCounter(counter, value) => {
            plan.push(S::Set, [keys.counter(*counter)], [number(value - counter_shift(*counter))]);
        }
        Effect::AddCounter(counter, delta) => plan.push(S::Add, [keys.counter(*counter)], [number(delta)]),
        Effect::PutSetting(json) => plan.push(S::Set, [keys.setting()], [bytes(json)]),
        _ => unreachable!("invariant: apply takes the other effects"),
    }
}

/// The session holds locks in these keys and no others.
fn guard_locked(plan: &mut Plan, keys: &KeySpace, sid: SessionId, held: &[Text]) {
    plan.push(S::MemberCount, [keys.locked(sid)], [number(held.len())]);
    for key in held {
        plan.push(S::SameMember, [keys.locked(sid)], [key.clone(), number(1)]);
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

/// A lock, and where the clean-up of its session finds it.
fn put_lock(plan: &mut Plan, keys: &KeySpace, key: Text, owner: LockOwner, held: Text) {
    plan.push(S::AddMember, [keys.locked(owner.sid)], [key.clone()]);
    plan.push(S::SetField, [key], [owner_field(owner), held]);
}

fn delete_lock(plan: &mut Plan, keys: &KeySpace, key: Text, owner: LockOwner, last: bool) {
    if last {
        plan.push(S::DeleteMember, [keys.locked(owner.sid)], [key.clone()]);
    }
    plan.push(S::DeleteField, [key], [owner_field(owner)]);
}
