//! Whether a store holds anything of a volume at rest beyond what the walk over the volume found.

use std::collections::BTreeSet;

use juicefs_core::{Ino, SliceKey};
use juicefs_meta::{engine::mem::MemEngine, record::Key};
use juicefs_testkit::redis::Wire;
use rusqlite::{Connection, OpenFlags};

use crate::{snapshot::Snapshot, volume::Home};

/// Panics with what nothing leads to.
pub(crate) fn check(home: &Home, all: &Snapshot) {
    match home {
        Home::Mem(engine) => check_mem(engine, all),
        Home::Sqlite(dir) => check_sqlite(&dir.path().join("meta.db"), all),
        Home::Redis(database) => check_redis(database.wire(), all),
        Home::Foreign(_) => {}
    }
}

pub(crate) fn check_mem(engine: &MemEngine, all: &Snapshot) {
    let records = engine.dump().into_keys().filter(|key| !matches!(key, Key::Counter(_) | Key::Session(_)));
    assert_eq!(all.count(), records.count(), "records that nothing leads to");
}

fn check_sqlite(file: &std::path::Path, all: &Snapshot) {
    let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("opened");
    for (table, found) in [
        ("node", all.nodes.len()),
        ("edge", all.edges.len()),
        ("symlink", all.symlinks.len()),
        ("xattr", all.xattrs.len()),
        ("chunk", all.chunks.len()),
        ("chunk_ref", all.slice_refs.len()),
        ("sustained", all.sustained.len()),
        ("delfile", all.del_files.len()),
        ("delslices", all.delayed.len()),
        ("dir_stats", all.dir_stats.len()),
    ] {
        let count = format!("SELECT COUNT(*) FROM jfs_{table}");
        let rows: i64 = store.query_row(&count, [], |row| row.get(0)).expect("counted");
        assert_eq!(rows, found as i64, "rows of {table}, and those that something leads to");
    }
}

/// Keys that a volume has once.
const SINGLE: &[&str] = &[
    "setting",
    "nextinode",
    "nextchunk",
    "nextsession",
    "nextTrash",
    "usedSpace",
    "totalInodes",
    "aclMaxId",
    "lastCleanupSessions",
    "lastCleanupFiles",
    "nextCleanupSlices",
    "lastCleanupTrash",
    "allSessions",
    "sessionInfos",
    "acl",
    "txnLog",
    "txnLastLog",
];

/// Every key of the database has an owner, and every field of the shared hashes too.
fn check_redis(mut wire: Wire, all: &Snapshot) {
    for key in wire.keys("*") {
        let key = String::from_utf8(key).expect("keys are text");
        if SINGLE.contains(&key.as_str()) || is_outcome(&mut wire, &key) {
            continue;
        }
        assert!(belongs(&mut wire, &key, all), "nothing leads to {key}: {}", shown(&mut wire, &key));
    }
    let sustained = all.sustained.iter().map(|(sid, _)| *sid).collect::<BTreeSet<_>>();
    for sid in sustained {
        let members = wire.call(&["SCARD", &format!("session{}", sid.0)]).int();
        assert_eq!(members, all.sustained.iter().filter(|(owner, _)| *owner == sid).count() as i64);
    }
}

/// What a client of this project notes about its last requests; it goes by itself.
fn is_outcome(wire: &mut Wire, key: &str) -> bool {
    key.starts_with("outcome_") && {
        assert!(wire.call(&["PTTL", key]).int() > 0, "{key} stays for ever");
        true
    }
}

fn belongs(wire: &mut Wire, key: &str, all: &Snapshot) -> bool {
    let fields = |wire: &mut Wire| -> Vec<String> {
        let fields = wire.call(&["HKEYS", key]).items().into_iter();
        fields.map(|field| String::from_utf8_lossy(&field.bytes()).into_owned()).collect()
    };
    let ino = |text: &str| text.parse().ok().map(Ino);
    let own = |kind: &str| key.strip_prefix(kind).and_then(ino);
    match key {
        "dirDataLength" | "dirUsedSpace" | "dirUsedInodes" => {
            return fields(wire).iter().all(|field| ino(field).is_some_and(|dir| all.dir_stats.contains_key(&dir)));
        }
        "sliceRef" => {
            let known = |field: &str| slice(field).is_some_and(|slice| all.slice_refs.contains_key(&slice));
            return fields(wire).iter().all(|field| known(field));
        }
        "delfiles" => return wire.call(&["ZCARD", key]).int() == all.del_files.len() as i64,
        "delSlices" => return fields(wire).len() == all.delayed.len(),
        _ => {}
    }
    if let Some(sid) = key.strip_prefix("session") {
        return all.sustained.iter().any(|(owner, _)| owner.0.to_string() == sid);
    }
    if let Some((ino, index)) = key.strip_prefix('c').and_then(|rest| rest.split_once('_')) {
        return ino
            .parse()
            .ok()
            .zip(index.parse().ok())
            .is_some_and(|(ino, index)| all.chunks.contains_key(&(Ino(ino), index)));
    }
    if let Some(dir) = own("d") {
        return fields(wire).len() == all.edges.keys().filter(|(parent, _)| *parent == dir).count();
    }
    if let Some(ino) = own("x") {
        return fields(wire).len() == all.xattrs.keys().filter(|(owner, _)| *owner == ino).count();
    }
    own("i").is_some_and(|ino| all.nodes.contains_key(&ino))
        || own("s").is_some_and(|ino| all.symlinks.contains_key(&ino))
        || own("p").is_some_and(|ino| all.parents.contains_key(&ino))
}

fn slice(field: &str) -> Option<SliceKey> {
    let (id, size) = field.strip_prefix('k')?.split_once('_')?;
    Some(SliceKey { id: juicefs_core::SliceId(id.parse().ok()?), size: size.parse().ok()? })
}

fn shown(wire: &mut Wire, key: &str) -> String {
    let kind = wire.call(&["TYPE", key]).text();
    let content = match kind.as_str() {
        "hash" => wire.call(&["HGETALL", key]),
        "list" => wire.call(&["LRANGE", key, "0", "-1"]),
        "set" => wire.call(&["SMEMBERS", key]),
        "zset" => wire.call(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
        _ => wire.call(&["GET", key]),
    };
    format!("{kind} {content:?}")
}
