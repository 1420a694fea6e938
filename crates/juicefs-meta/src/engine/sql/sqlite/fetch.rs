//! Records read on any connection.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use juicefs_core::{
    attr::Attr,
    error::MetaError,
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    meta::{DirCursor, DirEntry, DirPage},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};
use rusqlite::{
    Row, params,
    types::{ToSqlOutput, ValueRef},
};

use super::link::{Fault, Link, bytes, int};
use crate::{
    engine::{Found, Scan},
    layout::{
        binary,
        sql::{
            Statement, Table,
            rows::{self, NodeRow, signed},
        },
    },
    record::{
        AccountKey, CHUNKS_AT_ONCE, Counter, DelFile, DelaySlices, DirStat, Edge, HolderKey, Key, NoteKey, Session,
        Value,
    },
    txn::ReadSet,
};

/// Bytes for a column of text, which need not be UTF-8.
pub(super) fn text(bytes: &[u8]) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(ValueRef::Text(bytes))
}

fn unsigned(value: i64, what: &str) -> Result<u64, Fault> {
    narrow(value, what)
}

fn narrow<T: TryFrom<i64>>(value: i64, what: &str) -> Result<T, Fault> {
    T::try_from(value).map_err(|_| MetaError::Corrupt { what: what.to_owned(), why: format!("it is {value}") }.into())
}

/// The stored setting.
pub(super) fn setting(link: &Link) -> Result<Option<Bytes>, Fault> {
    link.one(Statement::GetSetting, [], |row| Ok(Bytes::copy_from_slice(bytes(row, 0)?)))
}

/// Whether no table of the volume has a row.
pub(super) fn is_empty(link: &Link) -> Result<bool, Fault> {
    let schema = link.statements.schema();
    for table in schema.tables() {
        let query = format!("SELECT EXISTS(SELECT 1 FROM `{}`)", schema.table_name(*table));
        if link.conn.query_row(&query, [], |row| row.get::<_, bool>(0))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a session is registered.
pub(super) fn has_session(link: &Link, sid: SessionId) -> Result<bool, Fault> {
    Ok(link.one(Statement::HasSession, [signed(sid.0)], |_| Ok(()))?.is_some())
}

/// Reads records as of one moment.
pub(super) fn snapshot(link: &Link, keys: &[Key]) -> Result<ReadSet, Fault> {
    let mut read = ReadSet::default();
    if keys.len() == 1 {
        // A single statement is a snapshot of its own.
        into(link, keys, &mut read)?;
        return Ok(read);
    }
    link.frame("BEGIN")?;
    let outcome = into(link, keys, &mut read);
    let ended = link.frame("COMMIT");
    if ended.is_err() {
        link.rollback();
    }
    outcome.and(ended).map(|()| read)
}

/// Reads records in the transaction that is open.
pub(super) fn into(link: &Link, keys: &[Key], read: &mut ReadSet) -> Result<(), Fault> {
    for key in keys {
        read.insert(key.clone(), one(link, key)?);
    }
    Ok(())
}

/// The attributes of an inode.
pub(super) fn stored_node(link: &Link, ino: Ino) -> Result<Option<Attr>, Fault> {
    Ok(link.one(Statement::GetNode, [signed(ino.0)], |row| node(row, 0))?.flatten())
}

fn one(link: &Link, key: &Key) -> Result<Option<Value>, Fault> {
    match key {
        Key::Node(ino) => Ok(stored_node(link, *ino)?.map(Value::Node)),
        Key::Edge(parent, name) => {
            let found = link.one(Statement::GetEdge, params![signed(parent.0), name.as_bytes()], |row| edge(row, 0))?;
            Ok(found.map(Value::Edge))
        }
        Key::HasEntries(ino) => {
            let any = link.one(Statement::HasEntries, [signed(ino.0)], |row| int(row, 0))?;
            Ok(Some(Value::HasEntries(any == Some(1))))
        }
        Key::Symlink(ino) => link.one(Statement::GetSymlink, [signed(ino.0)], |row| raw(row, 0)),
        Key::Xattr(ino, name) => {
            link.one(Statement::GetXattr, params![signed(ino.0), text(name.as_bytes())], |row| raw(row, 0))
        }
        Key::Xattrs(ino) => {
            let list = link.all(Statement::ListXattrs, [signed(ino.0)], |row| {
                Ok((Name::new(bytes(row, 0)?), Bytes::copy_from_slice(bytes(row, 1)?)))
            })?;
            Ok(Some(Value::Xattrs(list)))
        }
        Key::Chunk(ino, index) => {
            let found = link.one(Statement::GetChunk, params![signed(ino.0), index], |row| records(row, 0, *ino))?;
            Ok(found.filter(|list| !list.is_empty()).map(Value::Chunk))
        }
        Key::ChunkIndexes(ino, from, to) => {
            let mut last = indexes(link, Statement::LastChunkIndexes, *ino, *from..*to, CHUNKS_AT_ONCE)?;
            last.reverse();
            Ok(Some(Value::ChunkIndexes(last)))
        }
        Key::SliceRef(slice) => {
            let params = params![signed(slice.id.0), slice.size];
            link.one(Statement::GetSliceRef, params, |row| Ok(Value::SliceRef(int(row, 0)?)))
        }
        Key::Parents(ino) => {
            let pairs = link.all(Statement::ListParents, [signed(ino.0)], |row| {
                Ok((Ino(unsigned(int(row, 0)?, "parent")?), unsigned(int(row, 1)?, "number of names")?))
            })?;
            let parents: BTreeMap<_, _> = pairs.into_iter().collect();
            Ok((!parents.is_empty()).then_some(Value::Parents(parents)))
        }
        Key::Acl(id) => link.one(Statement::GetAcl, [id], |row| acl(row, 0, *id)),
        Key::Setting => Ok(setting(link)?.map(Value::Bytes)),
        Key::Account(AccountKey::DirStat(ino)) => link.one(Statement::GetDirStat, [signed(ino.0)], |row| {
            let (length, space, inodes) = (int(row, 0)?, int(row, 1)?, int(row, 2)?);
            Ok(Value::DirStat(DirStat { length, space, inodes }))
        }),
        Key::Account(AccountKey::Quota(subject)) => quota(link, *subject),
        Key::Account(AccountKey::Counter(counter)) => Ok(self::counter(link, *counter)?.map(Value::Counter)),
        Key::Holder(key) => holder(link, *key),
        Key::Note(key) => note(link, *key),
    }
}

fn holder(link: &Link, key: HolderKey) -> Result<Option<Value>, Fault> {
    match key {
        HolderKey::Session(sid) => link.one(Statement::GetSession, [signed(sid.0)], |row| session(row, 0)),
        HolderKey::Sustained(sid, ino) => {
            link.one(Statement::GetSustained, [signed(sid.0), signed(ino.0)], |_| Ok(Value::Sustained))
        }
        HolderKey::HasSustained(sid) => {
            let any = link.one(Statement::HasSustained, [signed(sid.0)], |row| int(row, 0))?;
            Ok(Some(Value::HasSustained(any == Some(1))))
        }
        HolderKey::Flocks(ino) => {
            let held = link.all(Statement::ListFlocks, [signed(ino.0)], |row| {
                Ok((rows::decode_owner(int(row, 0)?, int(row, 1)?)?, rows::decode_flock(int(row, 2)?)?))
            })?;
            Ok((!held.is_empty()).then(|| Value::Flocks(held.into_iter().collect())))
        }
        HolderKey::Plocks(ino) => {
            let held = link.all(Statement::ListPlocks, [signed(ino.0)], |row| {
                Ok((rows::decode_owner(int(row, 0)?, int(row, 1)?)?, binary::decode_plocks(bytes(row, 2)?)?))
            })?;
            Ok((!held.is_empty()).then(|| Value::Plocks(held.into_iter().collect())))
        }
    }
}

fn note(link: &Link, key: NoteKey) -> Result<Option<Value>, Fault> {
    match key {
        NoteKey::DelFile(ino, _) => link.one(Statement::GetDelFile, [signed(ino.0)], |row| del_file(row, 0)),
        NoteKey::DelaySlices(id, _) => link.one(Statement::GetDelaySlices, [signed(id.0)], |row| delay_slices(row, 0)),
        NoteKey::Detached(ino) => {
            link.one(Statement::GetDetached, [signed(ino.0)], |row| Ok(Value::Detached(int(row, 0)?)))
        }
    }
}

fn indexes(
    link: &Link,
    statement: Statement,
    ino: Ino,
    range: Range<ChunkIndex>,
    limit: usize,
) -> Result<Vec<ChunkIndex>, Fault> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let params = params![signed(ino.0), range.start, range.end, limit];
    link.all(statement, params, |row| narrow(int(row, 0)?, "chunk index"))
}

/// The first chunks of a range that have a list.
pub(super) fn first_chunks(
    link: &Link,
    ino: Ino,
    range: Range<ChunkIndex>,
    limit: usize,
) -> Result<Vec<ChunkIndex>, Fault> {
    indexes(link, Statement::FirstChunkIndexes, ino, range, limit)
}

fn quota(link: &Link, subject: QuotaSubject) -> Result<Option<Value>, Fault> {
    match subject {
        QuotaSubject::Dir(ino) => link.one(Statement::GetDirQuota, [signed(ino.0)], |row| quota_value(row, 0)),
        QuotaSubject::User(_) | QuotaSubject::Group(_) => {
            let (kind, id) = rows::quota_place(subject);
            link.one(Statement::GetUserGroupQuota, [kind, id], |row| quota_value(row, 0))
        }
    }
}

fn quota_value(row: &Row<'_>, at: usize) -> Result<Value, Fault> {
    let (max_space, max_inodes) = (int(row, at)?, int(row, at + 1)?);
    Ok(Value::Quota(Quota { max_space, max_inodes, used_space: int(row, at + 2)?, used_inodes: int(row, at + 3)? }))
}

fn counter(link: &Link, counter: Counter) -> Result<Option<i64>, Fault> {
    if let Some(name) = rows::counter_name(counter) {
        return link.one(Statement::GetCounter, [name], |row| int(row, 0));
    }
    // ACL ids are the sequence of their table, which exists only together with it.
    let schema = link.statements.schema();
    if !schema.has(Table::Acl) {
        return Ok(None);
    }
    let last = link.one(Statement::GetSequence, [schema.table_name(Table::Acl)], |row| int(row, 0))?;
    Ok(last.filter(|id| *id > 0))
}

/// A node in the columns from `at` on; `None` when an outer join found none.
fn node(row: &Row<'_>, at: usize) -> Result<Option<Attr>, Fault> {
    let mut values: NodeRow = [0; _];
    for (offset, value) in values.iter_mut().enumerate() {
        *value = int(row, at + offset)?;
    }
    // Inodes start at 1: 0 stands for the NULL of an outer join.
    if values[0] == 0 {
        return Ok(None);
    }
    let (_, attr) = rows::decode_node(&values)?;
    Ok(Some(attr))
}

fn edge(row: &Row<'_>, at: usize) -> Result<Edge, Fault> {
    Ok(rows::decode_edge(int(row, at)?, int(row, at + 1)?)?)
}

fn raw(row: &Row<'_>, at: usize) -> Result<Value, Fault> {
    Ok(Value::Bytes(Bytes::copy_from_slice(bytes(row, at)?)))
}

fn records(row: &Row<'_>, at: usize, ino: Ino) -> Result<Vec<SliceRecord>, Fault> {
    let list = bytes(row, at)?;
    SliceRecord::decode_list(list).ok_or_else(|| {
        let why = format!("{} bytes are no list of slices", list.len());
        MetaError::Corrupt { what: format!("chunk of inode {ino}"), why }.into()
    })
}

fn acl(row: &Row<'_>, at: usize, id: u32) -> Result<Value, Fault> {
    let bits = [int(row, at)?, int(row, at + 1)?, int(row, at + 2)?, int(row, at + 3)?];
    Ok(Value::Acl(rows::decode_acl(id, bits, bytes(row, at + 4)?, bytes(row, at + 5)?)?))
}

fn session(row: &Row<'_>, at: usize) -> Result<Value, Fault> {
    let info = Bytes::copy_from_slice(bytes(row, at + 1)?);
    Ok(Value::Session(Session { expire_secs: int(row, at)?, info }))
}

fn del_file(row: &Row<'_>, at: usize) -> Result<Value, Fault> {
    let length = unsigned(int(row, at)?, "length of a removed file")?;
    Ok(Value::DelFile(DelFile { length, removed_secs: int(row, at + 1)? }))
}

fn delay_slices(row: &Row<'_>, at: usize) -> Result<Value, Fault> {
    let slices = binary::decode_slice_keys(bytes(row, at + 1)?)?;
    Ok(Value::DelaySlices(DelaySlices { since_secs: int(row, at)?, slices }))
}

/// An entry with its node.
pub(super) fn lookup(link: &Link, parent: Ino, name: &[u8]) -> Result<Option<Found>, Fault> {
    link.one(Statement::Lookup, params![signed(parent.0), name], |row| {
        Ok(Found { edge: edge(row, 0)?, attr: node(row, 2)?, stored: None })
    })
}

/// A page of entries by name. With attributes, entries whose node is missing are left out.
pub(super) fn readdir(link: &Link, ino: Ino, after: &[u8], attrs: bool, limit: usize) -> Result<DirPage, Fault> {
    let limit = limit.max(1);
    let statement = if attrs { Statement::ReadDirAttrs } else { Statement::ReadDir };
    let rows_limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let entries = link.all(statement, params![signed(ino.0), after, rows_limit], |row| {
        let name = Name::new(bytes(row, 0)?);
        let Edge { ino, kind } = edge(row, 1)?;
        let attr = if attrs { node(row, 3)? } else { None };
        Ok(DirEntry { name, ino, kind, attr })
    })?;
    let next = entries.last().filter(|_| entries.len() == limit).map(|last| DirCursor(last.name.0.clone()));
    Ok(DirPage { entries, next, anew: false, by_name: true })
}

/// Records of one kind after a key.
pub(super) fn scan(link: &Link, scan: Scan, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Value)>, Fault> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let number = after.map_or(-1, scan_position);
    match scan {
        Scan::Sessions => link.all(Statement::ScanSessions, [number, limit], |row| {
            Ok((Key::Holder(HolderKey::Session(SessionId(unsigned(int(row, 0)?, "session")?))), session(row, 1)?))
        }),
        Scan::Expiring { before_secs } => link.all(Statement::ScanExpiring, [before_secs, number, limit], |row| {
            Ok((Key::Holder(HolderKey::Session(SessionId(unsigned(int(row, 0)?, "session")?))), session(row, 1)?))
        }),
        Scan::Sustained(sid) => link.all(Statement::ScanSustained, [signed(sid.0), number, limit], |row| {
            Ok((
                Key::Holder(HolderKey::Sustained(sid, Ino(unsigned(int(row, 0)?, "sustained inode")?))),
                Value::Sustained,
            ))
        }),
        Scan::DelFiles { before_secs } => link.all(Statement::ScanDelFiles, [before_secs, number, limit], |row| {
            let ino = Ino(unsigned(int(row, 0)?, "removed inode")?);
            Ok((Key::Note(NoteKey::DelFile(ino, unsigned(int(row, 1)?, "length")?)), del_file(row, 1)?))
        }),
        Scan::DeadSlices => link.all(Statement::ScanDeadSlices, [number, limit], |row| {
            let slice = SliceKey {
                id: SliceId(unsigned(int(row, 0)?, "slice id")?),
                size: narrow(int(row, 1)?, "size of a slice")?,
            };
            Ok((Key::SliceRef(slice), Value::SliceRef(int(row, 2)?)))
        }),
        Scan::DelaySlices { before_secs } => {
            link.all(Statement::ScanDelaySlices, [before_secs, number, limit], |row| {
                let id = SliceId(unsigned(int(row, 0)?, "slice id")?);
                Ok((Key::Note(NoteKey::DelaySlices(id, int(row, 1)?)), delay_slices(row, 1)?))
            })
        }
        Scan::Chunks { ino, from, to } => {
            let params = [signed(ino.0), number.max(i64::from(from) - 1), i64::from(to), limit];
            link.all(Statement::ScanChunks, params, |row| {
                let index: ChunkIndex = narrow(int(row, 0)?, "chunk index")?;
                Ok((Key::Chunk(ino, index), Value::Chunk(records(row, 1, ino)?)))
            })
        }
        Scan::Xattrs(ino) => {
            let name = match after {
                Some(Key::Xattr(_, name)) => name.as_bytes(),
                _ => &[],
            };
            link.all(Statement::ScanXattrs, params![signed(ino.0), text(name), limit], |row| {
                Ok((Key::Xattr(ino, Name::new(bytes(row, 0)?)), raw(row, 1)?))
            })
        }
        Scan::Detached { before_secs } => link.all(Statement::ScanDetached, [before_secs, number, limit], |row| {
            Ok((
                Key::Note(NoteKey::Detached(Ino(unsigned(int(row, 0)?, "detached inode")?))),
                Value::Detached(int(row, 1)?),
            ))
        }),
        Scan::Quotas => {
            let after = if let Some(Key::Account(AccountKey::Quota(subject))) = after {
                rows::quota_place(*subject)
            } else {
                (0, 0)
            };
            link.all(Statement::ScanQuotas, [after.0, after.1, limit], |row| {
                let (kind, number) = (int(row, 0)?, int(row, 1)?);
                let subject = rows::quota_subject(kind, number).ok_or_else(|| MetaError::Corrupt {
                    what: format!("quota of kind {kind}"),
                    why: format!("it is for {number}"),
                })?;
                Ok((Key::Account(AccountKey::Quota(subject)), quota_value(row, 2)?))
            })
        }
        Scan::Acls => link.all(Statement::ScanAcls, [number, limit], |row| {
            let id = narrow(int(row, 0)?, "ACL id")?;
            Ok((Key::Acl(id), acl(row, 1, id)?))
        }),
    }
}

/// The column that scans go by, of the key where the last page ended.
fn scan_position(key: &Key) -> i64 {
    match key {
        Key::Holder(HolderKey::Session(sid)) => signed(sid.0),
        Key::Holder(HolderKey::Sustained(_, ino))
        | Key::Note(NoteKey::DelFile(ino, _))
        | Key::Note(NoteKey::Detached(ino)) => signed(ino.0),
        Key::SliceRef(slice) => signed(slice.id.0),
        Key::Chunk(_, index) => i64::from(*index),
        Key::Note(NoteKey::DelaySlices(id, _)) => signed(id.0),
        Key::Acl(id) => i64::from(*id),
        _ => -1,
    }
}
