//! Steps that refuse when a record is no longer what an operation was judged on.

use std::ops::Range;

use juicefs_core::{attr::Attr, ids::SessionId, lock::LockOwner, quota::QuotaSubject, slice::SliceRecord};

use super::bytes;
use crate::{
    engine::redis::script::{Plan, StepKind as S},
    layout::{
        binary::{encode_attr, encode_edge, encode_limits, encode_plocks, encode_slice_keys},
        redis::{
            KeySpace, Text, counter_shift, delayed_field, flock_letter, number, owner_field, removed_file, slice_field,
        },
    },
    record::{AccountKey, DirStat, HolderKey, Key, NoteKey, Value},
    txn::{Effects, NodeGuard, ReadSet},
};

/// Bytes of a node that permission checks look at first: flags, kind, mode, owner and group.
const HEAD_BYTES: usize = 11;
/// Where the parent begins, and with it the rest that they look at.
const PARENT_AT: usize = 63;
/// Where the link count begins, behind the times.
const LINKS_AT: usize = 47;
/// Where the length is.
const LENGTH: Range<usize> = 51..59;

/// What was read under `key` still supports the effects.
pub(super) fn record(
    plan: &mut Plan,
    keys: &KeySpace,
    (read, effects): (&ReadSet, &Effects),
    key: &Key,
    value: Option<&Value>,
) {
    match (key, value) {
        (Key::Node(ino), Some(Value::Node(attr))) => {
            let narrowed = effects.narrowed.iter().find(|(narrowed, _)| narrowed == ino).map(|(_, guard)| *guard);
            let stored = read.stored(key).map_or_else(|| encode_attr(attr), |stored| stored.to_vec());
            node(plan, keys.node(*ino), attr, &stored, narrowed);
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
        (Key::Symlink(ino), value) => string(plan, keys.symlink(*ino), value),
        (Key::Xattr(ino, name), Some(Value::Bytes(stored))) => {
            plan.push(S::SameField, [keys.xattrs(*ino)], [bytes(name.as_bytes()), bytes(stored)]);
        }
        (Key::Xattr(ino, name), _) => plan.push(S::NoField, [keys.xattrs(*ino)], [bytes(name.as_bytes())]),
        (Key::Chunk(ino, index), Some(Value::Chunk(list))) => {
            chunk(plan, keys.chunk(*ino, *index), list, effects.head(*ino, *index));
        }
        (Key::Chunk(ino, index), _) => plan.push(S::Absent, [keys.chunk(*ino, *index)], []),
        (Key::SliceRef(slice), value) => {
            let count = if let Some(Value::SliceRef(count)) = value { *count } else { 1 };
            plan.push(S::SameFieldNumber, [keys.slice_refs()], [slice_field(*slice), number(count - 1)]);
        }
        (Key::Parents(ino), Some(Value::Parents(parents))) => {
            plan.push(S::PositiveFields, [keys.parents(*ino)], [number(parents.len())]);
            for (parent, names) in parents {
                plan.push(S::SameFieldNumber, [keys.parents(*ino)], [number(parent.0), number(*names)]);
            }
        }
        (Key::Parents(ino), _) => plan.push(S::PositiveFields, [keys.parents(*ino)], [number(0)]),
        (Key::Setting, value) => string(plan, keys.setting(), value),
        (Key::Account(key), value) => account(plan, keys, effects, *key, value),
        (Key::Holder(key), value) => holder(plan, keys, *key, value),
        (Key::Note(key), value) => note(plan, keys, *key, value),
        // Rules never change. A change of extended attributes touches the ctime of their node. Which chunks a file has changes
        // together with its node, which whoever asks for them reads and guards as well.
        (Key::Acl(_) | Key::Xattrs(_) | Key::ChunkIndexes(..), _) => {}
    }
}

fn string(plan: &mut Plan, key: Text, value: Option<&Value>) {
    match value {
        Some(Value::Bytes(stored)) => plan.push(S::Same, [key], [bytes(stored)]),
        _ => plan.push(S::Absent, [key], []),
    }
}

fn chunk(plan: &mut Plan, key: Text, list: &[SliceRecord], head: Option<usize>) {
    match head.map(|records| records.min(list.len())) {
        Some(records) if records > 0 => {
            let head = SliceRecord::encode_list(&list[..records]);
            plan.push(S::SameHead, [key], [bytes(&head), number(records - 1)]);
        }
        _ => plan.push(S::SameList, [key], [bytes(&SliceRecord::encode_list(list))]),
    }
}

fn node(plan: &mut Plan, key: Text, attr: &Attr, stored: &[u8], narrowed: Option<NodeGuard>) {
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

fn account(plan: &mut Plan, keys: &KeySpace, effects: &Effects, key: AccountKey, value: Option<&Value>) {
    match (key, value) {
        (AccountKey::DirStat(ino), Some(Value::DirStat(stat))) => dir_stat(plan, keys, ino.0, *stat),
        (AccountKey::DirStat(ino), _) => plan.push(S::NoField, [keys.dir_inodes()], [number(ino.0)]),
        (AccountKey::Quota(subject), value) => quota(plan, keys, effects, subject, value),
        (AccountKey::Counter(counter), value) => {
            let stored = if let Some(Value::Counter(value)) = value { value - counter_shift(counter) } else { 0 };
            plan.push(S::SameNumber, [keys.counter(counter)], [number(stored)]);
        }
    }
}

fn dir_stat(plan: &mut Plan, keys: &KeySpace, ino: u64, stat: DirStat) {
    let parts = [(keys.dir_lengths(), stat.length), (keys.dir_spaces(), stat.space), (keys.dir_inodes(), stat.inodes)];
    for (hash, value) in parts {
        plan.push(S::SameFieldNumber, [hash], [number(ino), number(value)]);
    }
}

fn quota(plan: &mut Plan, keys: &KeySpace, effects: &Effects, subject: QuotaSubject, value: Option<&Value>) {
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

fn holder(plan: &mut Plan, keys: &KeySpace, key: HolderKey, value: Option<&Value>) {
    match (key, value) {
        (HolderKey::Session(sid), Some(Value::Session(session))) => {
            plan.push(S::SameScore, [keys.sessions()], [number(sid.0), number(session.expire_secs)]);
        }
        (HolderKey::Session(sid), _) => plan.push(S::NoScore, [keys.sessions()], [number(sid.0)]),
        (HolderKey::Sustained(sid, ino), value) => {
            let there = number(u8::from(value.is_some()));
            plan.push(S::SameMember, [keys.sustained(sid)], [number(ino.0), there]);
        }
        (HolderKey::HasSustained(sid), value) => {
            let step = if value == Some(&Value::HasSustained(true)) { S::Present } else { S::Absent };
            plan.push(step, [keys.sustained(sid)], []);
        }
        (HolderKey::Flocks(ino), Some(Value::Flocks(held))) => {
            let fields = held.iter().map(|(owner, kind)| (*owner, bytes(flock_letter(*kind))));
            owners(plan, &keys.flocks(ino), held.len(), fields);
        }
        (HolderKey::Flocks(ino), _) => plan.push(S::Absent, [keys.flocks(ino)], []),
        (HolderKey::Plocks(ino), Some(Value::Plocks(held))) => {
            let fields = held.iter().map(|(owner, held)| (*owner, bytes(&encode_plocks(held))));
            owners(plan, &keys.plocks(ino), held.len(), fields);
        }
        (HolderKey::Plocks(ino), _) => plan.push(S::Absent, [keys.plocks(ino)], []),
    }
}

/// The owners in a hash hold what they held, and nobody else holds anything.
fn owners(plan: &mut Plan, key: &Text, count: usize, fields: impl Iterator<Item = (LockOwner, Text)>) {
    plan.push(S::FieldCount, [key.clone()], [number(count)]);
    for (owner, held) in fields {
        plan.push(S::SameField, [key.clone()], [owner_field(owner), held]);
    }
}

fn note(plan: &mut Plan, keys: &KeySpace, key: NoteKey, value: Option<&Value>) {
    match (key, value) {
        (NoteKey::DelFile(ino, length), Some(Value::DelFile(file))) => {
            let args = [removed_file(ino, length), number(file.removed_secs)];
            plan.push(S::SameScore, [keys.removed_files()], args);
        }
        (NoteKey::DelFile(ino, length), _) => {
            plan.push(S::NoScore, [keys.removed_files()], [removed_file(ino, length)]);
        }
        (NoteKey::DelaySlices(id, since), Some(Value::DelaySlices(held))) => {
            let args = [delayed_field(id, since), bytes(&encode_slice_keys(&held.slices))];
            plan.push(S::SameField, [keys.delayed_slices()], args);
        }
        (NoteKey::DelaySlices(id, since), _) => {
            plan.push(S::NoField, [keys.delayed_slices()], [delayed_field(id, since)]);
        }
        (NoteKey::Detached(ino), Some(Value::Detached(made_secs))) => {
            plan.push(S::SameScore, [keys.detached()], [number(ino.0), number(made_secs)]);
        }
        (NoteKey::Detached(ino), _) => plan.push(S::NoScore, [keys.detached()], [number(ino.0)]),
    }
}

/// The session holds locks in these keys and no others.
pub(super) fn locked(plan: &mut Plan, keys: &KeySpace, sid: SessionId, held: &[Text]) {
    plan.push(S::MemberCount, [keys.locked(sid)], [number(held.len())]);
    for key in held {
        plan.push(S::SameMember, [keys.locked(sid)], [key.clone(), number(1)]);
    }
}
