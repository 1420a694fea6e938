//! Reading records: the commands for each key, and what their replies mean.

use std::collections::BTreeMap;

use bytes::Bytes;
use juicefs_core::{
    acl::AclRule,
    attr::Attr,
    error::{MetaError, MetaResult},
    ids::{Ino, Name},
    lock::LockOwner,
    quota::Quota,
    slice::SliceRecord,
};
use redis::Value as Reply;

use super::link::Request;
use crate::{
    layout::{
        binary::{decode_attr, decode_edge, decode_limits, decode_plocks, decode_slice_keys, encode_attr},
        redis::{
            KeySpace, counter_shift, delayed_field, number, parse_flock_letter, parse_number, parse_owner_field,
            removed_file, slice_field,
        },
    },
    record::{AccountKey, DelFile, DelaySlices, DirStat, HolderKey, Key, NoteKey, Session, Value},
    txn::ReadSet,
};

/// Adds the commands that read `key`.
pub(super) fn ask(request: &mut Request, keys: &KeySpace, key: &Key) {
    match key {
        Key::Node(ino) => request.command::<&[u8]>(&[b"GET", keys.node(*ino).as_slice()]),
        Key::Edge(ino, name) => request.command::<&[u8]>(&[b"HGET", keys.entries(*ino).as_slice(), name.as_bytes()]),
        Key::HasEntries(ino) => request.command::<&[u8]>(&[b"EXISTS", keys.entries(*ino).as_slice()]),
        Key::Symlink(ino) => request.command::<&[u8]>(&[b"GET", keys.symlink(*ino).as_slice()]),
        Key::Xattr(ino, name) => request.command::<&[u8]>(&[b"HGET", keys.xattrs(*ino).as_slice(), name.as_bytes()]),
        Key::Xattrs(ino) => request.command::<&[u8]>(&[b"HGETALL", keys.xattrs(*ino).as_slice()]),
        Key::Chunk(ino, index) => {
            request.command::<&[u8]>(&[b"LRANGE", keys.chunk(*ino, *index).as_slice(), b"0", b"-1"])
        }
        // Looked for on their own, see `chunks`.
        Key::ChunkIndexes(..) => {}
        Key::SliceRef(slice) => request.command::<&[u8]>(&[b"HGET", &keys.slice_refs()[..], &slice_field(*slice)]),
        Key::Parents(ino) => request.command::<&[u8]>(&[b"HGETALL", keys.parents(*ino).as_slice()]),
        Key::Acl(id) => request.command::<&[u8]>(&[b"HGET", &keys.acls()[..], &number(id)]),
        Key::Setting => request.command::<&[u8]>(&[b"GET", keys.setting().as_slice()]),
        Key::Account(AccountKey::DirStat(ino)) => {
            for hash in [keys.dir_lengths(), keys.dir_spaces(), keys.dir_inodes()] {
                request.command::<&[u8]>(&[b"HGET", &hash[..], &number(ino.0)]);
            }
        }
        Key::Account(AccountKey::Quota(subject)) => {
            let (hashes, field) = keys.quota(*subject);
            for hash in hashes {
                request.command::<&[u8]>(&[b"HGET", &hash[..], &field]);
            }
        }
        Key::Account(AccountKey::Counter(counter)) => {
            request.command::<&[u8]>(&[b"GET", keys.counter(*counter).as_slice()]);
        }
        Key::Holder(key) => ask_of_holders(request, keys, *key),
        Key::Note(key) => ask_of_notes(request, keys, *key),
    }
}

fn ask_of_holders(request: &mut Request, keys: &KeySpace, key: HolderKey) {
    match key {
        HolderKey::Session(sid) => {
            request.command::<&[u8]>(&[b"ZSCORE", &keys.sessions()[..], &number(sid.0)]);
            request.command::<&[u8]>(&[b"HGET", &keys.session_infos()[..], &number(sid.0)]);
        }
        HolderKey::Sustained(sid, ino) => {
            request.command::<&[u8]>(&[b"SISMEMBER", &keys.sustained(sid)[..], &number(ino.0)]);
        }
        HolderKey::HasSustained(sid) => request.command::<&[u8]>(&[b"EXISTS", &keys.sustained(sid)[..]]),
        HolderKey::Flocks(ino) => request.command::<&[u8]>(&[b"HGETALL", keys.flocks(ino).as_slice()]),
        HolderKey::Plocks(ino) => request.command::<&[u8]>(&[b"HGETALL", keys.plocks(ino).as_slice()]),
    }
}

fn ask_of_notes(request: &mut Request, keys: &KeySpace, key: NoteKey) {
    match key {
        NoteKey::DelFile(ino, length) => {
            request.command::<&[u8]>(&[b"ZSCORE", &keys.removed_files()[..], &removed_file(ino, length)]);
        }
        NoteKey::DelaySlices(id, since) => {
            request.command::<&[u8]>(&[b"HGET", &keys.delayed_slices()[..], &delayed_field(id, since)]);
        }
        NoteKey::Detached(ino) => request.command::<&[u8]>(&[b"ZSCORE", &keys.detached()[..], &number(ino.0)]),
    }
}

/// A reply that is no answer to the question.
pub(super) fn unexpected(what: &str, reply: &Reply) -> MetaError {
    match reply {
        Reply::ServerError(error) => super::server_error(what, error),
        _ => MetaError::Corrupt { what: what.to_owned(), why: format!("the server answered {reply:?}") },
    }
}

/// A string, or nothing.
pub(super) fn bytes(what: &str, reply: Reply) -> MetaResult<Option<Bytes>> {
    match reply {
        Reply::Nil => Ok(None),
        Reply::BulkString(bytes) => Ok(Some(bytes.into())),
        Reply::SimpleString(text) => Ok(Some(text.into_bytes().into())),
        other => Err(unexpected(what, &other)),
    }
}

/// An integer.
pub(super) fn integer(what: &str, reply: &Reply) -> MetaResult<i64> {
    match reply {
        Reply::Int(number) => Ok(*number),
        other => Err(unexpected(what, other)),
    }
}

/// A list of replies; nothing is an empty one.
pub(super) fn list(what: &str, reply: Reply) -> MetaResult<Vec<Reply>> {
    match reply {
        Reply::Nil => Ok(Vec::new()),
        Reply::Array(items) | Reply::Set(items) => Ok(items),
        Reply::Map(pairs) => Ok(pairs.into_iter().flat_map(|(key, value)| [key, value]).collect()),
        other => Err(unexpected(what, &other)),
    }
}

/// Pairs of strings in a flat list.
pub(super) fn pairs(what: &str, reply: Reply) -> MetaResult<Vec<(Bytes, Bytes)>> {
    let mut items = list(what, reply)?.into_iter();
    let mut pairs = Vec::with_capacity(items.len() / 2);
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        if let (Some(key), Some(value)) = (bytes(what, key)?, bytes(what, value)?) {
            pairs.push((key, value));
        }
    }
    Ok(pairs)
}

/// A score is a whole number of seconds, however the server writes it.
pub(super) fn score(what: &str, bytes: &[u8]) -> MetaResult<i64> {
    if let Ok(secs) = parse_number::<i64>(what, bytes) {
        return Ok(secs);
    }
    let number: f64 = parse_number(what, bytes)?;
    Ok(number as i64)
}

/// The slices of a list reply.
pub(super) fn slices(reply: Reply) -> MetaResult<Vec<SliceRecord>> {
    let mut records = Vec::new();
    for item in list("slice list", reply)? {
        let item = bytes("slice record", item)?.unwrap_or_default();
        let decoded = SliceRecord::decode_list(&item).ok_or_else(|| MetaError::Corrupt {
            what: "slice record".to_owned(),
            why: format!("{} bytes: {}", item.len(), item.escape_ascii()),
        })?;
        records.extend(decoded);
    }
    Ok(records)
}

/// Takes the replies to what [`ask`] asked about `key` and notes what they say.
pub(super) fn take(replies: &mut impl Iterator<Item = Reply>, key: &Key, read: &mut ReadSet) -> MetaResult<()> {
    let mut next = || replies.next().unwrap_or(Reply::Nil);
    let value = match key {
        Key::Node(ino) => match bytes("node", next())? {
            None => None,
            Some(stored) => {
                let (attr, stored) = node(stored)?;
                stored.into_iter().for_each(|stored| read.note_stored(Key::Node(*ino), stored));
                Some(Value::Node(attr))
            }
        },
        Key::Edge(..) => bytes("entry", next())?.map(|stored| decode_edge(&stored)).transpose()?.map(Value::Edge),
        Key::HasEntries(_) => Some(Value::HasEntries(integer("entries", &next())? != 0)),
        Key::Symlink(_) => bytes("symlink", next())?.map(Value::Bytes),
        Key::Xattr(..) => bytes("xattr", next())?.map(Value::Bytes),
        Key::Xattrs(_) => {
            let mut list: Vec<_> =
                pairs("xattrs", next())?.into_iter().map(|(name, value)| (Name(name), value)).collect();
            list.sort();
            Some(Value::Xattrs(list))
        }
        Key::Chunk(..) => Some(slices(next())?).filter(|list| !list.is_empty()).map(Value::Chunk),
        Key::ChunkIndexes(..) => return Ok(()),
        Key::SliceRef(_) => {
            let more = bytes("slice reference", next())?.map_or(Ok(0), |n| parse_number("slice reference", &n))?;
            Some(Value::SliceRef(1 + more))
        }
        Key::Parents(_) => parents(next())?,
        Key::Acl(id) => bytes("ACL rule", next())?.map(|stored| rule(*id, &stored)).transpose()?.map(Value::Acl),
        Key::Setting => bytes("setting", next())?.map(Value::Bytes),
        Key::Account(key) => account(next, *key)?,
        Key::Holder(key) => holder(next, *key)?,
        Key::Note(key) => note(next(), *key)?,
    };
    read.insert(key.clone(), value);
    Ok(())
}

/// A node, and its stored bytes if they are not those that we would write.
pub(super) fn node(stored: Bytes) -> MetaResult<(Attr, Option<Bytes>)> {
    let attr = decode_attr(&stored)?;
    let differs = encode_attr(&attr) != stored;
    Ok((attr, differs.then_some(stored)))
}

fn account(mut next: impl FnMut() -> Reply, key: AccountKey) -> MetaResult<Option<Value>> {
    match key {
        AccountKey::DirStat(_) => {
            let mut part = || bytes("directory statistics", next());
            let (length, space, inodes) = (part()?, part()?, part()?);
            let number = |n: Option<Bytes>| n.map_or(Ok(0), |n| parse_number("directory statistics", &n));
            let stat = DirStat { length: number(length)?, space: number(space)?, inodes: number(inodes.clone())? };
            Ok(inodes.map(|_| Value::DirStat(stat)))
        }
        AccountKey::Quota(_) => {
            let mut part = || bytes("quota", next());
            let (limits, space, inodes) = (part()?, part()?, part()?);
            let quota = limits.map(|limits| quota(&limits, space.as_deref(), inodes.as_deref())).transpose()?;
            Ok(quota.map(Value::Quota))
        }
        AccountKey::Counter(counter) => {
            let stored = bytes("counter", next())?.map_or(Ok(0), |n| parse_number("counter", &n))?;
            Ok(Some(Value::Counter(i64::saturating_add(stored, counter_shift(counter)))))
        }
    }
}

fn holder(mut next: impl FnMut() -> Reply, key: HolderKey) -> MetaResult<Option<Value>> {
    Ok(match key {
        HolderKey::Session(_) => {
            let (expiry, info) = (bytes("session", next())?, bytes("session", next())?);
            let expiry = expiry.map(|stored| score("session", &stored)).transpose()?;
            expiry.map(|expire_secs| Value::Session(Session { expire_secs, info: info.unwrap_or_default() }))
        }
        HolderKey::Sustained(..) => (integer("sustained inode", &next())? != 0).then_some(Value::Sustained),
        HolderKey::HasSustained(_) => Some(Value::HasSustained(integer("sustained inodes", &next())? != 0)),
        HolderKey::Flocks(_) => {
            let held = by_owner(next(), |stored| parse_flock_letter(&stored))?;
            (!held.is_empty()).then_some(Value::Flocks(held))
        }
        HolderKey::Plocks(_) => {
            let held = by_owner(next(), |stored| decode_plocks(&stored))?;
            (!held.is_empty()).then_some(Value::Plocks(held))
        }
    })
}

fn note(reply: Reply, key: NoteKey) -> MetaResult<Option<Value>> {
    Ok(match key {
        NoteKey::DelFile(_, length) => {
            let removed = bytes("removed file", reply)?.map(|stored| score("removed file", &stored)).transpose()?;
            removed.map(|removed_secs| Value::DelFile(DelFile { length, removed_secs }))
        }
        NoteKey::DelaySlices(_, since_secs) => {
            let slices = bytes("delayed slices", reply)?.map(|stored| decode_slice_keys(&stored)).transpose()?;
            slices.map(|slices| Value::DelaySlices(DelaySlices { since_secs, slices }))
        }
        NoteKey::Detached(_) => {
            let made = bytes("detached directory", reply)?.map(|stored| score("detached directory", &stored));
            made.transpose()?.map(Value::Detached)
        }
    })
}

/// What the owners in a hash hold.
fn by_owner<T>(reply: Reply, parse: impl Fn(Bytes) -> MetaResult<T>) -> MetaResult<BTreeMap<LockOwner, T>> {
    let held = pairs("locks", reply)?.into_iter();
    held.map(|(owner, stored)| Ok((parse_owner_field(&owner)?, parse(stored)?))).collect()
}

fn parents(reply: Reply) -> MetaResult<Option<Value>> {
    let mut parents = BTreeMap::new();
    for (ino, names) in pairs("parents", reply)? {
        let names: i64 = parse_number("parents", &names)?;
        if let Ok(names) = u64::try_from(names)
            && names > 0
        {
            parents.insert(Ino(parse_number("parents", &ino)?), names);
        }
    }
    Ok((!parents.is_empty()).then_some(Value::Parents(parents)))
}

/// Reads a quota from its limits and what is used of them; usage that was never counted is 0.
pub(super) fn quota(limits: &[u8], space: Option<&[u8]>, inodes: Option<&[u8]>) -> MetaResult<Quota> {
    let used = |stored: Option<&[u8]>| stored.map_or(Ok(0), |stored| parse_number("quota", stored));
    let (used_space, used_inodes) = (used(space)?, used(inodes)?);
    Ok(Quota { used_space, used_inodes, ..decode_limits(limits)? })
}

/// Reads a stored ACL rule.
pub(super) fn rule(id: u32, stored: &[u8]) -> MetaResult<AclRule> {
    AclRule::decode(stored)
        .ok_or_else(|| MetaError::Corrupt { what: format!("ACL rule {id}"), why: format!("{} bytes", stored.len()) })
}
