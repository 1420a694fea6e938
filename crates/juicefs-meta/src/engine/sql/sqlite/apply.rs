//! Effects written on the connection that writes, inside its transaction.

use juicefs_core::{
    error::MetaError,
    ids::{ChunkIndex, Ino, Name, SessionId},
    lock::LockOwner,
    quota::QuotaSubject,
    slice::{SLICE_RECORD_BYTES, SliceRecord},
};
use rusqlite::params;

use super::{
    fetch::{self, text},
    link::{Fault, Link, int},
};
use crate::{
    layout::{
        binary,
        sql::{
            Statement, Table,
            rows::{self, signed},
        },
    },
    record::{Counter, Edge},
    txn::{
        AccountEffect, Applied, ChunkEffect, EdgeEffect, Effect, LockEffect, NodeEffect, NodePatch, SessionEffect,
        SliceEffect, VolumeEffect,
    },
};

/// Writes effects in their order. A fault leaves some of them written: the transaction must not commit.
pub(super) fn effects(link: &Link, list: &[Effect]) -> Result<Applied, Fault> {
    let mut applied = Applied::default();
    for effect in list {
        let changed = match effect {
            Effect::Node(ino, effect) => node(link, *ino, effect)?,
            Effect::Edge(parent, name, effect) => edge(link, *parent, name, *effect)?,
            Effect::Chunk(ino, index, effect) => chunk(link, (*ino, *index), effect, &mut applied)?,
            Effect::Slice(effect) => slice(link, effect)?,
            Effect::Account(effect) => account(link, effect)?,
            Effect::Session(sid, effect) => session(link, *sid, effect)?,
            Effect::Lock(ino, owner, effect) => lock(link, *ino, *owner, effect)?,
            Effect::Volume(effect) => volume(link, effect)?,
        };
        if changed != 1 && changes_what_is_there(effect) {
            let why = "what it changes is not there".to_owned();
            return Err(Fault::Record(MetaError::Corrupt { what: format!("{effect:?}"), why }));
        }
    }
    Ok(applied)
}

/// Whether an effect fits only where it changes one row. When it does not fit, nothing of its transaction may stay.
fn changes_what_is_there(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Node(_, NodeEffect::Update(_) | NodeEffect::Patch(_))
            | Effect::Edge(_, _, EdgeEffect::Update(_))
            | Effect::Chunk(_, _, ChunkEffect::ReplaceHead(..))
    )
}

// Each of the following returns how many rows its last statement changed.

fn node(link: &Link, ino: Ino, effect: &NodeEffect) -> Result<usize, Fault> {
    let number = signed(ino.0);
    match effect {
        NodeEffect::Insert(attr) => link.execute(Statement::InsertNode, rows::encode_node(ino, attr)),
        NodeEffect::Update(attr) => link.execute(Statement::UpdateNode, rows::encode_node(ino, attr)),
        NodeEffect::Patch(patch) => patch_node(link, ino, *patch),
        NodeEffect::Delete => link.execute(Statement::DeleteNode, [number]),
        NodeEffect::PutSymlink(target) => link.execute(Statement::PutSymlink, params![number, &target[..]]),
        NodeEffect::DeleteSymlink => link.execute(Statement::DeleteSymlink, [number]),
        NodeEffect::PutXattr(name, value) => {
            link.execute(Statement::PutXattr, params![number, text(name.as_bytes()), &value[..]])
        }
        NodeEffect::DeleteXattr(name) => link.execute(Statement::DeleteXattr, params![number, text(name.as_bytes())]),
        NodeEffect::DeleteXattrs => link.execute(Statement::DeleteXattrs, [number]),
        // Parents are derived from entries.
        NodeEffect::AddParent(..) | NodeEffect::DeleteParents => Ok(0),
        NodeEffect::PutDetached(made_secs) => link.execute(Statement::PutDetached, [number, *made_secs]),
        NodeEffect::DeleteDetached => link.execute(Statement::DeleteDetached, [number]),
    }
}

fn edge(link: &Link, parent: Ino, name: &Name, effect: EdgeEffect) -> Result<usize, Fault> {
    let (parent, name) = (signed(parent.0), name.as_bytes());
    let values = |edge: Edge| (parent, name, signed(edge.ino.0), edge.kind as u8);
    match effect {
        EdgeEffect::Insert(edge) => link.execute(Statement::InsertEdge, values(edge)),
        EdgeEffect::Update(edge) => link.execute(Statement::UpdateEdge, values(edge)),
        EdgeEffect::Delete => link.execute(Statement::DeleteEdge, params![parent, name]),
    }
}

fn chunk(
    link: &Link,
    (ino, index): (Ino, ChunkIndex),
    effect: &ChunkEffect,
    applied: &mut Applied,
) -> Result<usize, Fault> {
    let ino = signed(ino.0);
    match effect {
        ChunkEffect::Append(records) => {
            let list = SliceRecord::encode_list(records);
            let length = link.one(Statement::AppendSlices, params![ino, index, list], |row| int(row, 0))?;
            applied.appended.push(usize::try_from(length.unwrap_or(0)).unwrap_or(0) / SLICE_RECORD_BYTES);
            Ok(1)
        }
        ChunkEffect::ReplaceHead(count, records) => {
            let head = SliceRecord::encode_list(records);
            // Positions in SQL begin with 1.
            let behind = i64::try_from(count * SLICE_RECORD_BYTES).unwrap_or(i64::MAX).saturating_add(1);
            link.execute(Statement::ReplaceHead, params![ino, index, head, behind])
        }
        ChunkEffect::Put(records) if !records.is_empty() => {
            link.execute(Statement::PutChunk, params![ino, index, SliceRecord::encode_list(records)])
        }
        ChunkEffect::Put(_) | ChunkEffect::Delete => link.execute(Statement::DeleteChunk, params![ino, index]),
    }
}

fn slice(link: &Link, effect: &SliceEffect) -> Result<usize, Fault> {
    match effect {
        SliceEffect::InsertRef(slice) => {
            link.execute(Statement::InsertSliceRef, params![signed(slice.id.0), slice.size, 1])
        }
        SliceEffect::PutGarbage(slice) => {
            link.execute(Statement::InsertSliceRef, params![signed(slice.id.0), slice.size, 0])
        }
        // A slice without a row was never counted, by a client of long ago: there is nothing to add to.
        SliceEffect::AddRef(slice, delta) => {
            link.execute(Statement::AddSliceRef, params![signed(slice.id.0), slice.size, delta])
        }
        SliceEffect::DeleteRef(slice) => link.execute(Statement::DeleteSliceRef, [signed(slice.id.0)]),
        SliceEffect::PutDelayed(id, held) => {
            let list = binary::encode_slice_keys(&held.slices);
            link.execute(Statement::PutDelaySlices, params![signed(id.0), held.since_secs, list])
        }
        SliceEffect::DeleteDelayed(id, _) => link.execute(Statement::DeleteDelaySlices, [signed(id.0)]),
        SliceEffect::PutDelFile(ino, file) => {
            link.execute(Statement::PutDelFile, [signed(ino.0), signed(file.length), file.removed_secs])
        }
        SliceEffect::DeleteDelFile(ino, _) => link.execute(Statement::DeleteDelFile, [signed(ino.0)]),
    }
}

fn account(link: &Link, effect: &AccountEffect) -> Result<usize, Fault> {
    match effect {
        AccountEffect::PutDirStat(ino, stat) => {
            link.execute(Statement::PutDirStat, [signed(ino.0), stat.length, stat.space, stat.inodes])
        }
        AccountEffect::DeleteDirStat(ino) => link.execute(Statement::DeleteDirStat, [signed(ino.0)]),
        AccountEffect::DeleteAllDirStats => link.execute(Statement::DeleteAllDirStats, []),
        AccountEffect::PutQuota(subject, quota) => {
            let [a, b, c, d] = [quota.max_space, quota.max_inodes, quota.used_space, quota.used_inodes];
            match (subject, rows::quota_place(*subject)) {
                (QuotaSubject::Dir(_), (_, ino)) => link.execute(Statement::PutDirQuota, [ino, a, b, c, d]),
                (_, (kind, id)) => link.execute(Statement::PutUserGroupQuota, [kind, id, a, b, c, d]),
            }
        }
        AccountEffect::AddUsage(subject, delta) => match (subject, rows::quota_place(*subject)) {
            (QuotaSubject::Dir(_), (_, ino)) => link.execute(Statement::AddDirQuota, [ino, delta.space, delta.inodes]),
            (_, (kind, id)) => link.execute(Statement::AddUserGroupQuota, [kind, id, delta.space, delta.inodes]),
        },
        AccountEffect::DeleteDirQuota(ino) => link.execute(Statement::DeleteDirQuota, [signed(ino.0)]),
        AccountEffect::DeleteAllUserGroupQuotas => link.execute(Statement::DeleteAllUserGroupQuotas, []),
        AccountEffect::SetCounter(counter, value) => set_counter(link, *counter, *value),
        AccountEffect::AddCounter(counter, delta) => add_counter(link, *counter, *delta),
    }
}

fn session(link: &Link, sid: SessionId, effect: &SessionEffect) -> Result<usize, Fault> {
    let number = signed(sid.0);
    match effect {
        SessionEffect::Put(session) => {
            link.execute(Statement::PutSession, params![number, session.expire_secs, &session.info[..]])
        }
        SessionEffect::Delete => {
            if link.statements.schema().has(Table::LegacySession) {
                link.execute(Statement::DeleteLegacySession, [number])?;
            }
            link.execute(Statement::DeleteSession, [number])
        }
        SessionEffect::DeleteLocks => {
            link.execute(Statement::DeleteFlocks, [number])?;
            link.execute(Statement::DeletePlocks, [number])
        }
        SessionEffect::Sustain(ino) => link.execute(Statement::PutSustained, [number, signed(ino.0)]),
        SessionEffect::Release(ino) => link.execute(Statement::DeleteSustained, [number, signed(ino.0)]),
    }
}

fn lock(link: &Link, ino: Ino, owner: LockOwner, effect: &LockEffect) -> Result<usize, Fault> {
    let [ino, sid, number] = [signed(ino.0), signed(owner.sid.0), signed(owner.number)];
    match effect {
        LockEffect::PutFlock(kind) => link.execute(Statement::PutFlock, [ino, sid, number, rows::encode_flock(*kind)]),
        LockEffect::DeleteFlock => link.execute(Statement::DeleteFlock, [ino, sid, number]),
        LockEffect::PutPlocks(held) => {
            link.execute(Statement::PutPlocks, params![ino, sid, number, binary::encode_plocks(held)])
        }
        LockEffect::DeletePlocks => link.execute(Statement::DeletePlock, [ino, sid, number]),
    }
}

fn volume(link: &Link, effect: &VolumeEffect) -> Result<usize, Fault> {
    match effect {
        VolumeEffect::PutAcl(id, rule) => {
            let ([owner, group, mask, other], users, groups) = rows::encode_acl(rule);
            link.execute(Statement::PutAcl, params![id, owner, group, mask, other, users, groups])
        }
        VolumeEffect::PutSetting(json) => link.execute(Statement::PutSetting, [text(json)]),
    }
}

/// What a patch means is written once, for all engines: the row is read, patched and written.
fn patch_node(link: &Link, ino: Ino, patch: NodePatch) -> Result<usize, Fault> {
    let Some(mut attr) = fetch::stored_node(link, ino)? else { return Ok(0) };
    patch.apply(&mut attr);
    link.execute(Statement::UpdateNode, rows::encode_node(ino, &attr))
}

fn set_counter(link: &Link, counter: Counter, value: i64) -> Result<usize, Fault> {
    if let Some(name) = rows::counter_name(counter) {
        return link.execute(Statement::SetCounter, params![name, value]);
    }
    let table = link.statements.schema().table_name(Table::Acl);
    match link.execute(Statement::SetSequence, params![table, value])? {
        0 => link.execute(Statement::InsertSequence, params![table, value]),
        changed => Ok(changed),
    }
}

fn add_counter(link: &Link, counter: Counter, delta: i64) -> Result<usize, Fault> {
    if let Some(name) = rows::counter_name(counter) {
        return link.execute(Statement::AddCounter, params![name, delta]);
    }
    let table = link.statements.schema().table_name(Table::Acl);
    let last = link.one(Statement::GetSequence, [table], |row| int(row, 0))?.unwrap_or(0);
    set_counter(link, counter, last + delta)
}
