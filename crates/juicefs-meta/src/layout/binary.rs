//! Binary records shared by the Redis and key-value layouts and by some SQL columns (format: metadata.md §5).
//!
//! Fixed parts are `bincode` structs (big endian, fixed-width integers); what may be absent at the end is done by hand.

use bincode::{
    Decode, Encode,
    config::{BigEndian, Configuration, Fixint},
};
use juicefs_core::{
    attr::{Attr, FileType, Timestamp},
    error::{MetaError, MetaResult},
    ids::{Ino, SliceId, SliceKey},
    lock::LockRange,
    quota::Quota,
};

use crate::record::{Edge, Plock};

const FIXED: Configuration<BigEndian, Fixint> = bincode::config::standard().with_big_endian().with_fixed_int_encoding();

/// Bytes of the oldest attribute record, without parent.
const HEAD_BYTES: usize = 63;
/// Bytes of an entry record.
const EDGE_BYTES: usize = 9;
/// Bytes of the limits of a quota.
const LIMITS_BYTES: usize = 16;
/// Bytes of one delayed slice.
const SLICE_KEY_BYTES: usize = 12;
/// Bytes of one locked range.
const PLOCK_BYTES: usize = 24;

#[derive(Encode, Decode)]
struct AttrHead {
    flags: u8,
    kind_and_mode: u16,
    uid: u32,
    gid: u32,
    times: [(i64, u32); 3],
    nlink: u32,
    length: u64,
    rdev: u32,
}

#[derive(Encode, Decode)]
struct EdgeRecord {
    kind: u8,
    ino: u64,
}

#[derive(Encode, Decode)]
struct SliceKeyRecord {
    id: u64,
    size: u32,
}

#[derive(Encode, Decode)]
struct PlockRecord {
    kind: u32,
    pid: u32,
    start: u64,
    end: u64,
}

#[derive(Encode, Decode)]
struct LimitsRecord {
    max_space: i64,
    max_inodes: i64,
}

fn corrupt(what: &str, why: impl Into<String>) -> MetaError {
    MetaError::Corrupt { what: what.to_owned(), why: why.into() }
}

fn encode(record: impl Encode, out: &mut Vec<u8>) {
    bincode::encode_into_std_write(record, out, FIXED).expect("invariant: a fixed record fits into memory");
}

/// The stored bytes of a node: 72 of them, 8 more with ACL ids, 1 more with a tier. The last one is always 0.
pub(crate) fn encode_attr(attr: &Attr) -> Vec<u8> {
    let time = |t: Timestamp| (t.secs, t.nanos);
    let mut out = Vec::with_capacity(81);
    let head = AttrHead {
        flags: attr.flags,
        kind_and_mode: (attr.kind as u16) << 12 | (attr.mode & 0xFFF),
        uid: attr.uid,
        gid: attr.gid,
        times: [time(attr.atime), time(attr.mtime), time(attr.ctime)],
        nlink: attr.nlink,
        length: attr.length,
        rdev: attr.rdev,
    };
    encode(head, &mut out);
    out.extend_from_slice(&attr.parent.0.to_be_bytes());
    if attr.access_acl != 0 || attr.default_acl != 0 {
        out.extend_from_slice(&attr.access_acl.to_be_bytes());
        out.extend_from_slice(&attr.default_acl.to_be_bytes());
    }
    if attr.tier != 0 {
        out.push(attr.tier);
    }
    out.push(0);
    out
}

/// Reads what [`encode_attr`] or an older client wrote.
///
/// # Errors
/// `Corrupt` when the head is short or the type is unknown.
pub(crate) fn decode_attr(bytes: &[u8]) -> MetaResult<Attr> {
    let Some((head, mut tail)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err(corrupt("node", format!("{} bytes", bytes.len())));
    };
    let (head, _): (AttrHead, _) =
        bincode::decode_from_slice(head, FIXED).map_err(|e| corrupt("node", e.to_string()))?;
    let kind = u8::try_from(head.kind_and_mode >> 12).ok().and_then(FileType::from_u8);
    let mut attr = Attr {
        flags: head.flags,
        kind: kind.ok_or_else(|| corrupt("node", format!("type {}", head.kind_and_mode >> 12)))?,
        mode: head.kind_and_mode & 0xFFF,
        uid: head.uid,
        gid: head.gid,
        nlink: head.nlink,
        length: head.length,
        rdev: head.rdev,
        ..Attr::default()
    };
    let times = head.times.map(|(secs, nanos)| Timestamp { secs, nanos });
    [attr.atime, attr.mtime, attr.ctime] = times;
    if let Some(parent) = tail.split_off(..8).and_then(|b| b.first_chunk()) {
        attr.parent = Ino(u64::from_be_bytes(*parent));
    }
    if let Some(ids) = tail.split_off(..8) {
        let id = |at: usize| u32::from_be_bytes([ids[at], ids[at + 1], ids[at + 2], ids[at + 3]]);
        (attr.access_acl, attr.default_acl) = (id(0), id(4));
    }
    attr.tier = tail.first().copied().unwrap_or(0);
    Ok(attr)
}

/// The 9 stored bytes of an entry.
pub(crate) fn encode_edge(edge: Edge) -> Vec<u8> {
    let mut out = Vec::with_capacity(EDGE_BYTES);
    encode(EdgeRecord { kind: edge.kind as u8, ino: edge.ino.0 }, &mut out);
    out
}

/// Reads what [`encode_edge`] wrote.
///
/// # Errors
/// `Corrupt` for another length or an unknown type.
pub(crate) fn decode_edge(bytes: &[u8]) -> MetaResult<Edge> {
    if bytes.len() != EDGE_BYTES {
        return Err(corrupt("entry", format!("{} bytes", bytes.len())));
    }
    let (record, _): (EdgeRecord, _) =
        bincode::decode_from_slice(bytes, FIXED).map_err(|e| corrupt("entry", e.to_string()))?;
    let kind = FileType::from_u8(record.kind).ok_or_else(|| corrupt("entry", format!("type {}", record.kind)))?;
    Ok(Edge { ino: Ino(record.ino), kind })
}

/// The 16 stored bytes of the limits of a quota; what is used of them is not among them.
pub(crate) fn encode_limits(quota: &Quota) -> Vec<u8> {
    let mut out = Vec::with_capacity(LIMITS_BYTES);
    encode(LimitsRecord { max_space: quota.max_space, max_inodes: quota.max_inodes }, &mut out);
    out
}

/// Reads what [`encode_limits`] wrote; nothing is used.
///
/// # Errors
/// `Corrupt` for another length.
pub(crate) fn decode_limits(bytes: &[u8]) -> MetaResult<Quota> {
    if bytes.len() != LIMITS_BYTES {
        return Err(corrupt("quota", format!("{} bytes", bytes.len())));
    }
    let (record, _): (LimitsRecord, _) =
        bincode::decode_from_slice(bytes, FIXED).map_err(|e| corrupt("quota", e.to_string()))?;
    Ok(Quota { max_space: record.max_space, max_inodes: record.max_inodes, used_space: 0, used_inodes: 0 })
}

/// The list of slices that a compaction held back, 12 bytes each.
pub(crate) fn encode_slice_keys(slices: &[SliceKey]) -> Vec<u8> {
    let mut out = Vec::with_capacity(slices.len() * SLICE_KEY_BYTES);
    for slice in slices {
        encode(SliceKeyRecord { id: slice.id.0, size: slice.size }, &mut out);
    }
    out
}

/// Reads what [`encode_slice_keys`] wrote.
///
/// # Errors
/// `Corrupt` when the length does not fit.
pub(crate) fn decode_slice_keys(bytes: &[u8]) -> MetaResult<Vec<SliceKey>> {
    let (items, rest) = bytes.as_chunks::<SLICE_KEY_BYTES>();
    if !rest.is_empty() {
        return Err(corrupt("delayed slices", format!("{} bytes", bytes.len())));
    }
    items
        .iter()
        .map(|item| {
            let (record, _): (SliceKeyRecord, _) =
                bincode::decode_from_slice(item, FIXED).map_err(|e| corrupt("delayed slices", e.to_string()))?;
            Ok(SliceKey { id: SliceId(record.id), size: record.size })
        })
        .collect()
}

/// The ranges that an owner holds locked, 24 bytes each.
pub(crate) fn encode_plocks(held: &[Plock]) -> Vec<u8> {
    let mut out = Vec::with_capacity(held.len() * PLOCK_BYTES);
    for Plock { kind, pid, range } in held {
        encode(PlockRecord { kind: *kind, pid: *pid, start: range.start, end: range.end }, &mut out);
    }
    out
}

/// Reads what [`encode_plocks`] wrote.
///
/// # Errors
/// `Corrupt` when the length does not fit.
pub(crate) fn decode_plocks(bytes: &[u8]) -> MetaResult<Vec<Plock>> {
    let (items, rest) = bytes.as_chunks::<PLOCK_BYTES>();
    if !rest.is_empty() {
        return Err(corrupt("locked ranges", format!("{} bytes", bytes.len())));
    }
    items
        .iter()
        .map(|item| {
            let (record, _): (PlockRecord, _) =
                bincode::decode_from_slice(item, FIXED).map_err(|e| corrupt("locked ranges", e.to_string()))?;
            let range = LockRange { start: record.start, end: record.end };
            Ok(Plock { kind: record.kind, pid: record.pid, range })
        })
        .collect()
}

#[cfg(test)]
mod tests;
