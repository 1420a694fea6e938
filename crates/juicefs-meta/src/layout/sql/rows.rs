//! Records as the values of columns.
//!
//! Times are microseconds since the epoch plus the remaining nanoseconds in a column of their own; every integer column is
//! signed; NULL reads as 0, and columns that may be NULL are always written.

use juicefs_core::{
    acl::{self, AclRule},
    attr::{Attr, FileType, Timestamp},
    error::{MetaError, MetaResult},
    ids::{Ino, SessionId},
    lock::{LockKind, LockOwner},
    quota::QuotaSubject,
};

use super::schema::NODE_COLUMNS;
use crate::record::{Counter, Edge};

const NANOS_PER_SEC: u32 = 1_000_000_000;

/// A row of the node table in the order of [`NODE_COLUMNS`].
pub(crate) type NodeRow = [i64; NODE_COLUMNS.len()];

fn corrupt(what: impl Into<String>, why: String) -> MetaError {
    MetaError::Corrupt { what: what.into(), why }
}

/// An inode, slice, session or length as a column holds it. The format keeps all of them below 2^63.
/// Where the quota of a user or group is: its `qtype` and `qkey`. Directories have a table of their own; they come behind
/// when all are listed.
pub(crate) fn quota_place(subject: QuotaSubject) -> (i64, i64) {
    match subject {
        QuotaSubject::User(uid) => (1, i64::from(uid)),
        QuotaSubject::Group(gid) => (2, i64::from(gid)),
        QuotaSubject::Dir(ino) => (3, signed(ino.0)),
    }
}

/// The inverse of [`quota_place`]; `None` for what is nobody.
pub(crate) fn quota_subject(kind: i64, number: i64) -> Option<QuotaSubject> {
    let id = u32::try_from(number).ok();
    match kind {
        1 => id.map(QuotaSubject::User),
        2 => id.map(QuotaSubject::Group),
        3 => Some(QuotaSubject::Dir(Ino(number.cast_unsigned()))),
        _ => None,
    }
}

pub(crate) fn signed(value: u64) -> i64 {
    value.cast_signed()
}

/// Microseconds and remaining nanoseconds; times out of reach become the nearest that a column holds.
///
/// Other clients split the microseconds towards zero and keep a fraction before 1970 as a negative number in 32 bits. So a
/// time before 1970 is stored as whole seconds with its whole fraction in the second column, which all clients read alike,
/// and a fraction that came from such a client goes back as it was.
pub(crate) fn encode_time(time: Timestamp) -> (i64, i64) {
    let seconds = time.secs.saturating_mul(1_000_000);
    if time.nanos >= NANOS_PER_SEC {
        let nanos = i64::from(time.nanos.cast_signed());
        return (seconds.saturating_add(nanos.div_euclid(1000)), nanos.rem_euclid(1000));
    }
    if time.secs < 0 {
        return (seconds, i64::from(time.nanos));
    }
    (seconds.saturating_add(i64::from(time.nanos / 1000)), i64::from(time.nanos % 1000))
}

/// The time as other clients of the volume read it: see [`encode_time`]. A fraction of a second that is out of range is
/// kept, and the kernel shows the last nanosecond of that second.
fn decode_time(micros: i64, nanos: i64) -> Timestamp {
    let fraction = (micros % 1_000_000) * 1000 + nanos;
    let wrapped = u32::try_from(fraction & i64::from(u32::MAX)).unwrap_or(0);
    Timestamp { secs: micros / 1_000_000, nanos: wrapped }
}

/// The columns of a node.
pub(crate) fn encode_node(ino: Ino, attr: &Attr) -> NodeRow {
    let (atime, atimensec) = encode_time(attr.atime);
    let (mtime, mtimensec) = encode_time(attr.mtime);
    let (ctime, ctimensec) = encode_time(attr.ctime);
    [
        signed(ino.0),
        i64::from(attr.kind as u8),
        i64::from(attr.flags),
        i64::from(attr.mode),
        i64::from(attr.uid),
        i64::from(attr.gid),
        atime,
        mtime,
        ctime,
        atimensec,
        mtimensec,
        ctimensec,
        i64::from(attr.nlink),
        signed(attr.length),
        i64::from(attr.rdev),
        signed(attr.parent.0),
        i64::from(attr.access_acl),
        i64::from(attr.default_acl),
        i64::from(attr.tier),
    ]
}

/// Reads what [`encode_node`] or another client wrote.
///
/// # Errors
/// `Corrupt` naming the column whose value the format does not have.
pub(crate) fn decode_node(row: &NodeRow) -> MetaResult<(Ino, Attr)> {
    fn narrow<T: TryFrom<i64>>(row: &NodeRow, at: usize) -> MetaResult<T> {
        T::try_from(row[at])
            .map_err(|_| corrupt(format!("node {}", row[0]), format!("{} is {}", NODE_COLUMNS[at], row[at])))
    }
    let kind = narrow(row, 1).ok().and_then(FileType::from_u8);
    let attr = Attr {
        kind: kind.ok_or_else(|| corrupt(format!("node {}", row[0]), format!("type is {}", row[1])))?,
        flags: narrow(row, 2)?,
        mode: narrow(row, 3)?,
        uid: narrow(row, 4)?,
        gid: narrow(row, 5)?,
        atime: decode_time(row[6], row[9]),
        mtime: decode_time(row[7], row[10]),
        ctime: decode_time(row[8], row[11]),
        nlink: narrow(row, 12)?,
        length: narrow(row, 13)?,
        rdev: narrow(row, 14)?,
        parent: Ino(narrow(row, 15)?),
        access_acl: narrow(row, 16)?,
        default_acl: narrow(row, 17)?,
        tier: narrow(row, 18)?,
    };
    Ok((Ino(narrow(row, 0)?), attr))
}

/// Reads the columns of an entry.
///
/// # Errors
/// `Corrupt` for a type or inode that the format does not have.
pub(crate) fn decode_edge(ino: i64, kind: i64) -> MetaResult<Edge> {
    let decoded = u8::try_from(kind).ok().and_then(FileType::from_u8);
    match (u64::try_from(ino), decoded) {
        (Ok(ino), Some(kind)) => Ok(Edge { ino: Ino(ino), kind }),
        _ => Err(corrupt("entry", format!("inode is {ino}, type is {kind}"))),
    }
}

/// The four permission columns of a rule and its two lists.
pub(crate) fn encode_acl(rule: &AclRule) -> ([i64; 4], Vec<u8>, Vec<u8>) {
    let bits = [rule.owner, rule.group, rule.mask, rule.other].map(i64::from);
    (bits, acl::encode_named(&rule.users), acl::encode_named(&rule.groups))
}

/// Reads what [`encode_acl`] wrote.
///
/// # Errors
/// `Corrupt` when a column is out of range or a list does not fit.
pub(crate) fn decode_acl(id: u32, bits: [i64; 4], users: &[u8], groups: &[u8]) -> MetaResult<AclRule> {
    let bad = || corrupt(format!("ACL rule {id}"), format!("{bits:?}, {} and {} bytes", users.len(), groups.len()));
    let mut fields = [0; 4];
    for (field, value) in fields.iter_mut().zip(bits) {
        *field = u16::try_from(value).map_err(|_| bad())?;
    }
    let [owner, group, mask, other] = fields;
    let users = acl::decode_named(users).ok_or_else(bad)?;
    let groups = acl::decode_named(groups).ok_or_else(bad)?;
    Ok(AclRule { owner, group, mask, other, users, groups })
}

/// The row of the counter table that holds a counter, `None` for the one that is a table's sequence.
pub(crate) fn counter_name(counter: Counter) -> Option<&'static str> {
    Some(match counter {
        Counter::NextInode => "nextInode",
        Counter::NextChunk => "nextChunk",
        Counter::NextSession => "nextSession",
        Counter::NextTrash => "nextTrash",
        Counter::UsedSpace => "usedSpace",
        Counter::TotalInodes => "totalInodes",
        Counter::LastCleanupSessions => "lastCleanupSessions",
        Counter::LastCleanupFiles => "lastCleanupFiles",
        Counter::NextCleanupSlices => "nextCleanupSlices",
        Counter::LastCleanupTrash => "lastCleanupTrash",
        Counter::AclMaxId => return None,
    })
}

/// The owner of a lock in its two columns.
///
/// # Errors
/// `Corrupt` for a session below 0.
pub(crate) fn decode_owner(sid: i64, number: i64) -> MetaResult<LockOwner> {
    let sid = u64::try_from(sid).map_err(|_| corrupt("session of a lock", format!("it is {sid}")))?;
    Ok(LockOwner { sid: SessionId(sid), number: number.cast_unsigned() })
}

/// The kind of a lock on a whole file: a letter, as its number.
pub(crate) fn encode_flock(kind: LockKind) -> i64 {
    match kind {
        LockKind::Read => i64::from(b'R'),
        LockKind::Write => i64::from(b'W'),
    }
}

/// Reads what [`encode_flock`] wrote.
///
/// # Errors
/// `Corrupt` for anything else.
pub(crate) fn decode_flock(stored: i64) -> MetaResult<LockKind> {
    [LockKind::Read, LockKind::Write]
        .into_iter()
        .find(|kind| encode_flock(*kind) == stored)
        .ok_or_else(|| corrupt("kind of a lock", format!("it is {stored}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (-9_000_000_000_000..9_000_000_000_000i64, 0..1_000_000_000u32)
            .prop_map(|(secs, nanos)| Timestamp { secs, nanos })
    }

    prop_compose! {
        fn attr()(
            flags in any::<u8>(), kind in 1..=7u8, mode in 0..=0o7777u16, ids in any::<[u32; 6]>(),
            times in [time(), time(), time()], length in 0..=1u64 << 57, parent in 0..1u64 << 63, tier in any::<u8>(),
        ) -> Attr {
            let [uid, gid, nlink, rdev, access_acl, default_acl] = ids;
            let [atime, mtime, ctime] = times;
            Attr {
                flags, kind: FileType::from_u8(kind).expect("in range"), mode, uid, gid, atime, mtime, ctime, nlink,
                length, rdev, parent: Ino(parent), access_acl, default_acl, tier,
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(ino in 1..1u64 << 63, attr in attr()) {
            prop_assert_eq!(decode_node(&encode_node(Ino(ino), &attr)).expect("own row"), (Ino(ino), attr));
        }

        #[test]
        fn decoding_never_panics(row in any::<NodeRow>()) {
            let _ = decode_node(&row);
        }

        #[test]
        fn rules_survive(
            bits in any::<[u16; 4]>(),
            users in prop::collection::vec(any::<(u32, u16)>(), 0..5),
            groups in prop::collection::vec(any::<(u32, u16)>(), 0..5),
        ) {
            let [owner, group, mask, other] = bits;
            let rule = AclRule { owner, group, mask, other, users, groups };
            let (bits, users, groups) = encode_acl(&rule);
            prop_assert_eq!(decode_acl(1, bits, &users, &groups).expect("own row"), rule);
        }
    }

    #[test]
    fn times_split_into_microseconds_and_the_rest() {
        assert_eq!(encode_time(Timestamp { secs: 1_700_000_000, nanos: 123_456_789 }), (1_700_000_000_123_456, 789));
        assert_eq!(encode_time(Timestamp { secs: -2, nanos: 500_000_000 }), (-2_000_000, 500_000_000));
        assert_eq!(decode_time(-2_000_000, 500_000_000), Timestamp { secs: -2, nanos: 500_000_000 });
        assert_eq!(decode_time(-86_400_000_000, 0), Timestamp::from_secs(-86_400));
        assert_eq!(encode_time(Timestamp { secs: i64::MAX, nanos: 5 }).0, i64::MAX);
    }

    /// Rows of clients 1.0, which stored one number of microseconds.
    #[test]
    fn fractions_before_1970_read_as_other_clients_read_them() {
        let read = decode_time(-1_500_000, 0);
        assert_eq!(read, Timestamp { secs: -1, nanos: (-500_000_000i32).cast_unsigned() });
        assert_eq!(encode_time(read), (-1_500_000, 0));
        assert_eq!(encode_time(decode_time(-1, 789)), (-1, 789));
    }

    #[test]
    fn damaged_rows_are_errors() {
        let mut row = encode_node(Ino(7), &Attr::default());
        row[1] = 9;
        let error = decode_node(&row).expect_err("type 9").to_string();
        assert!(error.contains("node 7") && error.contains("type is 9"), "{error}");
        row[1] = 1;
        row[12] = -1;
        assert!(decode_node(&row).is_err());
        assert!(decode_edge(-1, 1).is_err() && decode_edge(1, 0).is_err());
        assert!(decode_acl(1, [0, 0, 0, 0x10000], &[], &[]).is_err());
    }
}
