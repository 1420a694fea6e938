//! Effects written on the connection that writes, inside its transaction.

use juicefs_core::{
    error::MetaError,
    ids::Ino,
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
    record::Counter,
    txn::{Applied, Effect, NodePatch},
};

/// Writes effects in their order. A fault leaves some of them written: the transaction must not commit.
pub(super) fn effects(link: &Link, list: &[Effect]) -> Result<Applied, Fault> {
    let mut applied = Applied::default();
    for effect in list {
        match effect {
            Effect::AppendSlices(ino, index, records) => {
                let list = SliceRecord::encode_list(records);
                let length = link
                    .one(Statement::AppendSlices, params![signed(ino.0), index, list], |row| int(row, 0))?
                    .unwrap_or_default();
                applied.appended.push(usize::try_from(length).unwrap_or(0) / SLICE_RECORD_BYTES);
            }
            other => one(link, other)?,
        }
    }
    Ok(applied)
}

/// An effect that does not fit what is stored: nothing of its transaction may stay.
fn misfit(effect: &Effect) -> Fault {
    Fault::Record(MetaError::Corrupt { what: format!("{effect:?}"), why: "what it changes is not there".to_owned() })
}

fn must_change(changed: usize, effect: &Effect) -> Result<(), Fault> {
    if changed == 1 { Ok(()) } else { Err(misfit(effect)) }
}

fn one(link: &Link, effect: &Effect) -> Result<(), Fault> {
    match effect {
        Effect::InsertNode(ino, attr) => {
            link.execute(Statement::InsertNode, rows::encode_node(*ino, attr))?;
        }
        Effect::UpdateNode(ino, attr) => {
            let changed = link.execute(Statement::UpdateNode, rows::encode_node(*ino, attr))?;
            must_change(changed, effect)?;
        }
        Effect::PatchNode(ino, patch) => must_change(patch_node(link, *ino, *patch)?, effect)?,
        Effect::DeleteNode(ino) => drop(link.execute(Statement::DeleteNode, [signed(ino.0)])?),
        Effect::InsertEdge(parent, name, edge) => {
            let params = params![signed(parent.0), name.as_bytes(), signed(edge.ino.0), edge.kind as u8];
            link.execute(Statement::InsertEdge, params)?;
        }
        Effect::UpdateEdge(parent, name, edge) => {
            let params = params![signed(parent.0), name.as_bytes(), signed(edge.ino.0), edge.kind as u8];
            must_change(link.execute(Statement::UpdateEdge, params)?, effect)?;
        }
        Effect::DeleteEdge(parent, name) => {
            link.execute(Statement::DeleteEdge, params![signed(parent.0), name.as_bytes()])?;
        }
        Effect::PutSymlink(ino, target) => {
            link.execute(Statement::PutSymlink, params![signed(ino.0), &target[..]])?;
        }
        Effect::DeleteSymlink(ino) => drop(link.execute(Statement::DeleteSymlink, [signed(ino.0)])?),
        Effect::PutXattr(ino, name, value) => {
            link.execute(Statement::PutXattr, params![signed(ino.0), text(name.as_bytes()), &value[..]])?;
        }
        Effect::DeleteXattr(ino, name) => {
            link.execute(Statement::DeleteXattr, params![signed(ino.0), text(name.as_bytes())])?;
        }
        Effect::DeleteXattrs(ino) => drop(link.execute(Statement::DeleteXattrs, [signed(ino.0)])?),
        Effect::ReplaceHead(ino, index, count, records) => {
            let head = SliceRecord::encode_list(records);
            // Positions in SQL begin with 1.
            let behind = i64::try_from(count * SLICE_RECORD_BYTES).unwrap_or(i64::MAX).saturating_add(1);
            must_change(link.execute(Statement::ReplaceHead, params![signed(ino.0), index, head, behind])?, effect)?;
        }
        Effect::PutChunk(ino, index, records) if !records.is_empty() => {
            let list = SliceRecord::encode_list(records);
            link.execute(Statement::PutChunk, params![signed(ino.0), index, list])?;
        }
        Effect::PutChunk(ino, index, _) | Effect::DeleteChunk(ino, index) => {
            link.execute(Statement::DeleteChunk, params![signed(ino.0), index])?;
        }
        Effect::InsertSliceRef(slice) => {
            link.execute(Statement::InsertSliceRef, params![signed(slice.id.0), slice.size, 1])?;
        }
        Effect::PutGarbageSlice(slice) => {
            link.execute(Statement::InsertSliceRef, params![signed(slice.id.0), slice.size, 0])?;
        }
        Effect::AddSliceRef(slice, delta) => {
            // A slice without a row was never counted, by a client of long ago: there is nothing to add to.
            link.execute(Statement::AddSliceRef, params![signed(slice.id.0), slice.size, delta])?;
        }
        Effect::DeleteSliceRef(slice) => drop(link.execute(Statement::DeleteSliceRef, [signed(slice.id.0)])?),
        // Parents are derived from entries.
        Effect::AddParent(..) | Effect::DeleteParents(_) => {}
        other => upkeep(link, other)?,
    }
    Ok(())
}

/// The effects of sessions, statistics and background work.
fn upkeep(link: &Link, effect: &Effect) -> Result<(), Fault> {
    match effect {
        Effect::PutDirStat(ino, stat) => {
            let params = [signed(ino.0), stat.length, stat.space, stat.inodes];
            link.execute(Statement::PutDirStat, params)?;
        }
        Effect::DeleteDirStat(ino) => drop(link.execute(Statement::DeleteDirStat, [signed(ino.0)])?),
        Effect::DeleteAllDirStats => drop(link.execute(Statement::DeleteAllDirStats, [])?),
        Effect::PutQuota(subject, quota) => {
            let values = [quota.max_space, quota.max_inodes, quota.used_space, quota.used_inodes];
            let [a, b, c, d] = values;
            match (subject, rows::quota_place(*subject)) {
                (QuotaSubject::Dir(_), (_, ino)) => link.execute(Statement::PutDirQuota, [ino, a, b, c, d])?,
                (_, (kind, id)) => link.execute(Statement::PutUserGroupQuota, [kind, id, a, b, c, d])?,
            };
        }
        Effect::AddQuotaUsage(subject, delta) => {
            match (subject, rows::quota_place(*subject)) {
                (QuotaSubject::Dir(_), (_, ino)) => {
                    link.execute(Statement::AddDirQuota, [ino, delta.space, delta.inodes])?
                }
                (_, (kind, id)) => link.execute(Statement::AddUserGroupQuota, [kind, id, delta.space, delta.inodes])?,
            };
        }
        Effect::DeleteDirQuota(ino) => drop(link.execute(Statement::DeleteDirQuota, [signed(ino.0)])?),
        Effect::DeleteAllUserGroupQuotas => drop(link.execute(Statement::DeleteAllUserGroupQuotas, [])?),
        Effect::PutAcl(id, rule) => {
            let ([owner, group, mask, other], users, groups) = rows::encode_acl(rule);
            link.execute(Statement::PutAcl, params![id, owner, group, mask, other, users, groups])?;
        }
        Effect::PutSession(sid, session) => {
            let params = params![signed(sid.0), session.expire_secs, &session.info[..]];
            link.execute(Statement::PutSession, params)?;
        }
        Effect::DeleteSession(sid) => {
            link.execute(Statement::DeleteSession, [signed(sid.0)])?;
            if link.statements.schema().has(Table::LegacySession) {
                link.execute(Statement::DeleteLegacySession, [signed(sid.0)])?;
            }
        }
        Effect::DeleteLocks(sid) => {
            link.execute(Statement::DeleteFlocks, [signed(sid.0)])?;
            link.execute(Statement::DeletePlocks, [signed(sid.0)])?;
        }
        Effect::PutFlock(ino, owner, kind) => {
            let params = [signed(ino.0), signed(owner.sid.0), signed(owner.number), rows::encode_flock(*kind)];
            link.execute(Statement::PutFlock, params)?;
        }
        Effect::DeleteFlock { ino, owner, .. } => {
            link.execute(Statement::DeleteFlock, [signed(ino.0), signed(owner.sid.0), signed(owner.number)])?;
        }
        Effect::PutPlocks(ino, owner, held) => {
            let held = binary::encode_plocks(held);
            let params = params![signed(ino.0), signed(owner.sid.0), signed(owner.number), held];
            link.execute(Statement::PutPlocks, params)?;
        }
        Effect::DeletePlocks { ino, owner, .. } => {
            link.execute(Statement::DeletePlock, [signed(ino.0), signed(owner.sid.0), signed(owner.number)])?;
        }
        Effect::PutSustained(sid, ino) => {
            link.execute(Statement::PutSustained, [signed(sid.0), signed(ino.0)])?;
        }
        Effect::DeleteSustained(sid, ino) => {
            link.execute(Statement::DeleteSustained, [signed(sid.0), signed(ino.0)])?;
        }
        Effect::PutDelFile(ino, file) => {
            link.execute(Statement::PutDelFile, [signed(ino.0), signed(file.length), file.removed_secs])?;
        }
        Effect::DeleteDelFile(ino, _) => drop(link.execute(Statement::DeleteDelFile, [signed(ino.0)])?),
        Effect::PutDelaySlices(id, held) => {
            let list = binary::encode_slice_keys(&held.slices);
            link.execute(Statement::PutDelaySlices, params![signed(id.0), held.since_secs, list])?;
        }
        Effect::DeleteDelaySlices(id, _) => drop(link.execute(Statement::DeleteDelaySlices, [signed(id.0)])?),
        Effect::PutDetached(ino, made_secs) => {
            link.execute(Statement::PutDetached, [signed(ino.0), *made_secs])?;
        }
        Effect::DeleteDetached(ino) => drop(link.execute(Statement::DeleteDetached, [signed(ino.0)])?),
        Effect::SetCounter(counter, value) => set_counter(link, *counter, *value)?,
        Effect::AddCounter(counter, delta) => add_counter(link, *counter, *delta)?,
        Effect::PutSetting(json) => drop(link.execute(Statement::PutSetting, [text(json)])?),
        _ => unreachable!("invariant: the other effects are written above"),
    }
    Ok(())
}

/// What a patch means is written once, for all engines: the row is read, patched and written.
fn patch_node(link: &Link, ino: Ino, patch: NodePatch) -> Result<usize, Fault> {
    let Some(mut attr) = fetch::stored_node(link, ino)? else { return Ok(0) };
    patch.apply(&mut attr);
    link.execute(Statement::UpdateNode, rows::encode_node(ino, &attr))
}

fn set_counter(link: &Link, counter: Counter, value: i64) -> Result<(), Fault> {
    if let Some(name) = rows::counter_name(counter) {
        link.execute(Statement::SetCounter, params![name, value])?;
        return Ok(());
    }
    let table = link.statements.schema().table_name(Table::Acl);
    if link.execute(Statement::SetSequence, params![table, value])? == 0 {
        link.execute(Statement::InsertSequence, params![table, value])?;
    }
    Ok(())
}

fn add_counter(link: &Link, counter: Counter, delta: i64) -> Result<(), Fault> {
    if let Some(name) = rows::counter_name(counter) {
        link.execute(Statement::AddCounter, params![name, delta])?;
        return Ok(());
    }
    let table = link.statements.schema().table_name(Table::Acl);
    let last = link.one(Statement::GetSequence, [table], |row| int(row, 0))?.unwrap_or(0);
    set_counter(link, counter, last + delta)
}
