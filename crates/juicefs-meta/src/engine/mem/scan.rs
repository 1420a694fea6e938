//! Which records a scan gives.

use juicefs_core::{
    ids::{Ino, Name, SessionId, SliceId, SliceKey},
    quota::QuotaSubject,
};

use crate::{
    engine::Scan,
    record::{AccountKey, HolderKey, Key, NoteKey, Value},
};

/// The first and the last key that records of this kind can have.
pub(super) fn bounds(scan: Scan) -> (Key, Key) {
    let every_ino = (Ino(0), Ino(u64::MAX));
    match scan {
        Scan::Sessions | Scan::Expiring { .. } => {
            (Key::Holder(HolderKey::Session(SessionId(0))), Key::Holder(HolderKey::Session(SessionId(u64::MAX))))
        }
        Scan::Sustained(sid) => {
            (Key::Holder(HolderKey::Sustained(sid, every_ino.0)), Key::Holder(HolderKey::Sustained(sid, every_ino.1)))
        }
        Scan::DelFiles { .. } => {
            (Key::Note(NoteKey::DelFile(every_ino.0, 0)), Key::Note(NoteKey::DelFile(every_ino.1, u64::MAX)))
        }
        Scan::DeadSlices => {
            let key = |id, size| Key::SliceRef(SliceKey { id: SliceId(id), size });
            (key(0, 0), key(u64::MAX, u32::MAX))
        }
        Scan::DelaySlices { .. } => (
            Key::Note(NoteKey::DelaySlices(SliceId(0), i64::MIN)),
            Key::Note(NoteKey::DelaySlices(SliceId(u64::MAX), i64::MAX)),
        ),
        Scan::Chunks { ino, from, to } => (Key::Chunk(ino, from), Key::Chunk(ino, to.saturating_sub(1).max(from))),
        Scan::Xattrs(ino) => {
            (Key::Xattr(ino, Name::default()), Key::Xattr(Ino(ino.0.saturating_add(1)), Name::default()))
        }
        Scan::Acls => (Key::Acl(0), Key::Acl(u32::MAX)),
        Scan::Detached { .. } => (Key::Note(NoteKey::Detached(every_ino.0)), Key::Note(NoteKey::Detached(every_ino.1))),
        Scan::Quotas => (
            Key::Account(AccountKey::Quota(QuotaSubject::User(0))),
            Key::Account(AccountKey::Quota(QuotaSubject::Dir(every_ino.1))),
        ),
    }
}

/// Whether a scan gives a record that lies within its bounds.
pub(super) fn wants(scan: Scan, value: &Value) -> bool {
    match (scan, value) {
        (Scan::Expiring { before_secs }, Value::Session(session)) => session.expire_secs < before_secs,
        (Scan::DelFiles { before_secs }, Value::DelFile(file)) => file.removed_secs < before_secs,
        (Scan::DelaySlices { before_secs }, Value::DelaySlices(slices)) => slices.since_secs < before_secs,
        (Scan::DeadSlices, Value::SliceRef(count)) => *count <= 0,
        (Scan::Detached { before_secs }, Value::Detached(made_secs)) => *made_secs < before_secs,
        _ => true,
    }
}
