//! Names of the keys, fields and members under which Redis holds records (format: metadata.md §2). The values are those of
//! [`super::binary`], or decimal numbers.

use std::fmt::{self, Write};

use juicefs_core::{
    error::{MetaError, MetaResult},
    ids::{ChunkIndex, Ino, SessionId, SliceId, SliceKey},
    lock::{LockKind, LockOwner},
    quota::QuotaSubject,
};
use smallvec::SmallVec;

use crate::record::Counter;

/// A key, field or member; most are short enough to need no allocation.
pub(crate) type Text = SmallVec<[u8; 40]>;

/// All keys of one volume: in a cluster they share a prefix that puts them into one slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeySpace {
    prefix: String,
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) = $format:literal $(, $value:expr)*;)*) => {
        $($(#[$doc])*
        pub(crate) fn $name(&self $(, $arg: $ty)*) -> Text {
            let mut text = Text::new();
            text.extend_from_slice(self.prefix.as_bytes());
            push(&mut text, format_args!($format $(, $value)*));
            text
        })*
    };
}

/// Takes formatted text.
struct Pen<'a>(&'a mut Text);

impl Write for Pen<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Appends formatted text.
fn push(text: &mut Text, what: fmt::Arguments<'_>) {
    Pen(text).write_fmt(what).expect("invariant: memory takes every text");
}

/// Formatted text on its own.
fn text(what: fmt::Arguments<'_>) -> Text {
    let mut text = Text::new();
    push(&mut text, what);
    text
}

impl KeySpace {
    /// The keys behind `prefix`: empty, or `{N}` in a cluster.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Whether the keys are in a cluster, where they may be moved while they are used.
    pub(crate) fn may_move(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Whether a key is that of locks on a file: what a set of the keys in which a session holds locks should have.
    pub(crate) fn is_of_locks(&self, key: &[u8]) -> bool {
        let name = key.strip_prefix(self.prefix.as_bytes());
        let number = name.and_then(|name| name.strip_prefix(b"lockf").or_else(|| name.strip_prefix(b"lockp")));
        number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    }

    /// The prefix.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    keys! {
        /// Attributes of an inode.
        node(ino: Ino) = "i{}", ino.0;
        /// What the keys of all nodes begin with.
        node_stem() = "i";
        /// Entries of a directory.
        entries(ino: Ino) = "d{}", ino.0;
        /// What the keys of all directories begin with, and some others.
        entries_stem() = "d";
        /// Directories that name a hard-linked inode.
        parents(ino: Ino) = "p{}", ino.0;
        /// Slice list of a chunk.
        chunk(ino: Ino, index: ChunkIndex) = "c{}_{}", ino.0, index;
        /// What the keys of all chunks of a file begin with.
        chunk_stem(ino: Ino) = "c{}_", ino.0;
        /// Target of a symlink.
        symlink(ino: Ino) = "s{}", ino.0;
        /// Extended attributes.
        xattrs(ino: Ino) = "x{}", ino.0;
        /// Keys in which a session holds locks.
        locked(sid: SessionId) = "locked{}", sid.0;
        /// Locks on a whole file, by owner.
        flocks(ino: Ino) = "lockf{}", ino.0;
        /// Locks on ranges of a file, by owner.
        plocks(ino: Ino) = "lockp{}", ino.0;
        /// Inodes that a session keeps alive.
        sustained(sid: SessionId) = "session{}", sid.0;
        /// Sessions by expiry.
        sessions() = "allSessions";
        /// What sessions say of themselves.
        session_infos() = "sessionInfos";
        /// Removed files by second of removal.
        removed_files() = "delfiles";
        /// Slices held back after compactions.
        delayed_slices() = "delSlices";
        /// Directories without a name, by the second they were made.
        detached() = "detachedNodes";
        /// References of slices, one less than there are.
        slice_refs() = "sliceRef";
        /// Bytes of the files of each directory.
        dir_lengths() = "dirDataLength";
        /// Bytes that they count in used space.
        dir_spaces() = "dirUsedSpace";
        /// Entries of each directory.
        dir_inodes() = "dirUsedInodes";
        /// ACL rules.
        acls() = "acl";
        /// The volume setting.
        setting() = "setting";
        /// A counter.
        counter(counter: Counter) = "{}", counter_name(counter);
        /// What nobody ever makes. A node of a cluster that lets go of the slot, or has not all of it yet, is told by it: it has no
        /// answer about a key that it does not have.
        nowhere() = "nowhere";
        /// Which of its changes a client knows to be done: of this implementation alone.
        outcome(client: u64) = "outcome_{client:016x}";
    }

    /// Limits, used bytes and used inodes of a kind of quota, and the field of one.
    pub(crate) fn quota(&self, subject: QuotaSubject) -> ([Text; 3], Text) {
        let (kind, field) = match subject {
            QuotaSubject::Dir(ino) => ("dir", number(ino.0)),
            QuotaSubject::User(uid) => ("user", number(uid)),
            QuotaSubject::Group(gid) => ("group", number(gid)),
        };
        let hash = |name: &str| {
            let mut key = Text::from_slice(self.prefix.as_bytes());
            push(&mut key, format_args!("{kind}{name}"));
            key
        };
        (["Quota", "QuotaUsedSpace", "QuotaUsedInodes"].map(hash), field)
    }

    /// Limits and usage of users and groups.
    pub(crate) fn user_group_quotas(&self) -> impl Iterator<Item = Text> {
        [QuotaSubject::User(0), QuotaSubject::Group(0)].into_iter().flat_map(|subject| self.quota(subject).0)
    }

    /// Whether a key belongs to a volume in this key space: what a reset removes.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        let Some(name) = key.strip_prefix(self.prefix.as_bytes()) else { return false };
        let Ok(name) = std::str::from_utf8(name) else { return false };
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if ["i", "d", "p", "s", "x", "lockf", "lockp", "locked", "session"]
            .iter()
            .any(|kind| name.strip_prefix(kind).is_some_and(number))
        {
            return true;
        }
        if let Some((ino, index)) = name.strip_prefix('c').and_then(|rest| rest.split_once('_')) {
            return number(ino) && number(index);
        }
        const SINGLE: &[&str] = &[
            "setting",
            "allSessions",
            "sessionInfos",
            "sessions",
            "delfiles",
            "delSlices",
            "sliceRef",
            "detachedNodes",
            "dirDataLength",
            "dirUsedSpace",
            "dirUsedInodes",
            "dirQuota",
            "dirQuotaUsedSpace",
            "dirQuotaUsedInodes",
            "userQuota",
            "userQuotaUsedSpace",
            "userQuotaUsedInodes",
            "groupQuota",
            "groupQuotaUsedSpace",
            "groupQuotaUsedInodes",
            "acl",
            "krbToken",
            "txnLog",
            "txnLastLog",
            "krbTokenMaxId",
            "lastCleanupChangelog",
        ];
        SINGLE.contains(&name)
            || name.starts_with("outcome_")
            || COUNTERS.iter().any(|counter| counter_name(*counter) == name)
    }
}

const COUNTERS: [Counter; 11] = [
    Counter::NextInode,
    Counter::NextChunk,
    Counter::NextSession,
    Counter::NextTrash,
    Counter::UsedSpace,
    Counter::TotalInodes,
    Counter::AclMaxId,
    Counter::LastCleanupSessions,
    Counter::LastCleanupFiles,
    Counter::NextCleanupSlices,
    Counter::LastCleanupTrash,
];

fn counter_name(counter: Counter) -> &'static str {
    match counter {
        Counter::NextInode => "nextinode",
        Counter::NextChunk => "nextchunk",
        Counter::NextSession => "nextsession",
        Counter::NextTrash => "nextTrash",
        Counter::UsedSpace => "usedSpace",
        Counter::TotalInodes => "totalInodes",
        Counter::AclMaxId => "aclMaxId",
        Counter::LastCleanupSessions => "lastCleanupSessions",
        Counter::LastCleanupFiles => "lastCleanupFiles",
        Counter::NextCleanupSlices => "nextCleanupSlices",
        Counter::LastCleanupTrash => "lastCleanupTrash",
    }
}

/// What the logical value of a counter is above the stored one: Redis stores the last number handed out where others
/// store the next free one (metadata.md §2.3).
pub(crate) fn counter_shift(counter: Counter) -> i64 {
    match counter {
        Counter::NextInode | Counter::NextChunk => 1,
        _ => 0,
    }
}

/// Field of an inode, session or rule in a hash: its number.
pub(crate) fn number(number: impl fmt::Display) -> Text {
    text(format_args!("{number}"))
}

/// Field of a slice's references.
pub(crate) fn slice_field(slice: SliceKey) -> Text {
    text(format_args!("k{}_{}", slice.id.0, slice.size))
}

/// Member of a removed file.
pub(crate) fn removed_file(ino: Ino, length: u64) -> Text {
    text(format_args!("{}:{length}", ino.0))
}

/// Field of the slices that a compaction held back.
pub(crate) fn delayed_field(id: SliceId, since_secs: i64) -> Text {
    text(format_args!("{}_{since_secs}", id.0))
}

/// Field of an owner of locks.
pub(crate) fn owner_field(owner: LockOwner) -> Text {
    text(format_args!("{}_{:016X}", owner.sid.0, owner.number))
}

/// How a lock on a whole file is stored.
pub(crate) fn flock_letter(kind: LockKind) -> &'static [u8] {
    match kind {
        LockKind::Read => b"R",
        LockKind::Write => b"W",
    }
}

fn corrupt(what: &str, bytes: &[u8]) -> MetaError {
    MetaError::Corrupt { what: what.to_owned(), why: format!("\"{}\"", bytes.escape_ascii()) }
}

/// Reads a decimal number.
///
/// # Errors
/// `Corrupt` for anything else.
pub(crate) fn parse_number<T: std::str::FromStr>(what: &str, bytes: &[u8]) -> MetaResult<T> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(|| corrupt(what, bytes))
}

/// Reads two numbers around a separator.
fn parse_pair<A: std::str::FromStr, B: std::str::FromStr>(what: &str, bytes: &[u8], at: u8) -> MetaResult<(A, B)> {
    let mut halves = bytes.splitn(2, |b| *b == at);
    match (halves.next(), halves.next()) {
        (Some(first), Some(second)) => Ok((parse_number(what, first)?, parse_number(what, second)?)),
        _ => Err(corrupt(what, bytes)),
    }
}

/// Reads what [`slice_field`] wrote.
///
/// # Errors
/// `Corrupt` for anything else.
pub(crate) fn parse_slice_field(bytes: &[u8]) -> MetaResult<SliceKey> {
    let pair = bytes.strip_prefix(b"k").ok_or_else(|| corrupt("slice reference", bytes))?;
    let (id, size) = parse_pair("slice reference", pair, b'_')?;
    Ok(SliceKey { id: SliceId(id), size })
}

/// Reads what [`removed_file`] wrote: inode and length.
///
/// # Errors
/// `Corrupt` for anything else.
pub(crate) fn parse_removed_file(bytes: &[u8]) -> MetaResult<(Ino, u64)> {
    let (ino, length) = parse_pair("removed file", bytes, b':')?;
    Ok((Ino(ino), length))
}

/// Reads what [`delayed_field`] wrote: slice and second.
///
/// # Errors
/// `Corrupt` for anything else.
pub(crate) fn parse_delayed_field(bytes: &[u8]) -> MetaResult<(SliceId, i64)> {
    let (id, since_secs) = parse_pair("delayed slices", bytes, b'_')?;
    Ok((SliceId(id), since_secs))
}

/// Reads what [`owner_field`] wrote.
///
/// # Errors
/// `Corrupt` for anything else.
pub(crate) fn parse_owner_field(bytes: &[u8]) -> MetaResult<LockOwner> {
    let halves = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once('_'));
    let owner = halves.and_then(|(sid, number)| {
        let sid = SessionId(sid.parse().ok()?);
        Some(LockOwner { sid, number: u64::from_str_radix(number, 16).ok()? })
    });
    owner.ok_or_else(|| corrupt("owner of a lock", bytes))
}

/// Reads what [`flock_letter`] wrote.
///
/// # Errors
/// `Corrupt` for anything else.
pub(crate) fn parse_flock_letter(bytes: &[u8]) -> MetaResult<LockKind> {
    match bytes {
        b"R" => Ok(LockKind::Read),
        b"W" => Ok(LockKind::Write),
        _ => Err(corrupt("lock", bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &Text) -> &str {
        std::str::from_utf8(text).expect("ascii")
    }

    #[test]
    fn names_are_those_of_the_format() {
        let keys = KeySpace::new("{3}");
        assert_eq!(shown(&keys.node(Ino(5))), "{3}i5");
        assert_eq!(shown(&keys.chunk(Ino(7), 12)), "{3}c7_12");
        assert_eq!(shown(&keys.sustained(SessionId(4))), "{3}session4");
        assert_eq!(shown(&keys.counter(Counter::NextInode)), "{3}nextinode");
        assert_eq!(shown(&KeySpace::new("").entries(Ino::TRASH_ROOT)), "d9223372032828243968");
        assert_eq!(shown(&keys.flocks(Ino(2))), "{3}lockf2");
        assert_eq!(shown(&keys.plocks(Ino(2))), "{3}lockp2");
        assert_eq!(shown(&keys.locked(SessionId(4))), "{3}locked4");
        let owner = LockOwner { sid: SessionId(3), number: 0x6B18_C3E0_9169_21D7 };
        assert_eq!(shown(&owner_field(owner)), "3_6B18C3E0916921D7");
        assert_eq!(shown(&owner_field(LockOwner { number: 0xAB, ..owner })), "3_00000000000000AB");
        assert_eq!(shown(&slice_field(SliceKey { id: SliceId(9), size: 4096 })), "k9_4096");
        let quotas: Vec<_> = keys.user_group_quotas().map(|key| shown(&key).to_owned()).collect();
        assert_eq!(quotas[0], "{3}userQuota");
        assert_eq!(quotas[5], "{3}groupQuotaUsedInodes");
    }

    #[test]
    fn a_reset_knows_its_keys_and_no_others() {
        let keys = KeySpace::new("");
        for mine in
            ["i1", "d9223372032828243968", "c5_0", "locked3", "session3", "nextTrash", "outcome_00ff", "setting"]
        {
            assert!(keys.owns(mine.as_bytes()), "{mine}");
        }
        for foreign in ["", "i", "ix", "c5", "c_", "d1x", "cart:5", "user", "{0}i1", "info"] {
            assert!(!keys.owns(foreign.as_bytes()), "{foreign}");
        }
        assert!(KeySpace::new("{0}").owns(b"{0}i1"));
        assert!(keys.is_of_locks(b"lockf3") && KeySpace::new("{0}").is_of_locks(b"{0}lockp18446744073709551615"));
        for other in [&b"lockf"[..], b"lockfx", b"locked3", b"{0}lockf3", b"i3", b"\xff"] {
            assert!(!keys.is_of_locks(other), "{}", other.escape_ascii());
        }
        assert!(!KeySpace::new("{0}").owns(b"i1"));
    }

    proptest! {
        #[test]
        fn fields_parse_back(id in any::<u64>(), size in any::<u32>(), secs in any::<i64>(), length in any::<u64>()) {
            let slice = SliceKey { id: SliceId(id), size };
            prop_assert_eq!(parse_slice_field(&slice_field(slice)).expect("own"), slice);
            let owner = LockOwner { sid: SessionId(size.into()), number: id };
            prop_assert_eq!(parse_owner_field(&owner_field(owner)).expect("own"), owner);
            prop_assert_eq!(parse_removed_file(&removed_file(Ino(id), length)).expect("own"), (Ino(id), length));
            prop_assert_eq!(parse_delayed_field(&delayed_field(SliceId(id), secs)).expect("own"), (SliceId(id), secs));
        }

        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (parse_slice_field(&bytes), parse_removed_file(&bytes), parse_delayed_field(&bytes));
            let _ = (parse_owner_field(&bytes), parse_flock_letter(&bytes));
            let _ = KeySpace::new("").owns(&bytes);
        }
    }
}
