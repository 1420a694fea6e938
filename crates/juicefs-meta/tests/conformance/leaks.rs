//! Whether a store holds anything of a volume at rest beyond what the walk over the volume found.

use std::collections::BTreeSet;

use juicefs_core::{Ino, SliceKey};
use juicefs_meta::{
    engine::mem::MemEngine,
    record::{AccountKey, HolderKey, Key},
};
use juicefs_testkit::redis::{Reply, Wire};
use rusqlite::{Connection, OpenFlags};

use crate::{snapshot::Snapshot, volume::Home};

/// Panics with what nothing leads to.
pub(crate) fn check(home: &Home, all: &Snapshot) {
    match home {
        Home::Mem(engine) => check_mem(engine, all),
        Home::Sqlite(dir) => check_sqlite(&dir.path().join("meta.db"), all),
        Home::Redis(database) => Keys { wire: database.wire(), prefix: database.prefix() }.check(all),
        Home::Foreign(_) => {}
    }
}

pub(crate) fn check_mem(engine: &MemEngine, all: &Snapshot) {
    let records = engine
        .dump()
        .into_keys()
        .filter(|key| !matches!(key, Key::Account(AccountKey::Counter(_)) | Key::Holder(HolderKey::Session(_))));
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
        ("detached_node", 0),
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

/// The keys of a database, without what all begin with.
struct Keys<'a> {
    wire: Wire,
    prefix: &'a str,
}

impl Keys<'_> {
    fn ask(&mut self, command: &str, key: &str, more: &[&str]) -> Reply {
        let key = format!("{}{key}", self.prefix);
        self.wire.call(&[&[command, key.as_str()], more].concat())
    }

    fn fields(&mut self, key: &str) -> Vec<String> {
        let fields = self.ask("HKEYS", key, &[]).items().into_iter();
        fields.map(|field| String::from_utf8_lossy(&field.bytes()).into_owned()).collect()
    }

    /// Every key of the volume has an owner, and every field of the shared hashes too. In a cluster, others have keys beside it.
    fn check(mut self, all: &Snapshot) {
        for key in self.wire.keys(&format!("{}*", self.prefix)) {
            let key = String::from_utf8(key).expect("keys are text");
            let key = key.strip_prefix(self.prefix).unwrap_or_else(|| panic!("{key} is no key of the volume"));
            if SINGLE.contains(&key) || self.is_outcome(key) {
                continue;
            }
            assert!(self.belongs(key, all), "nothing leads to {key}: {}", self.shown(key));
        }
        let sustained = all.sustained.iter().map(|(sid, _)| *sid).collect::<BTreeSet<_>>();
        for sid in sustained {
            let members = self.ask("SCARD", &format!("session{}", sid.0), &[]).int();
            assert_eq!(members, all.sustained.iter().filter(|(owner, _)| *owner == sid).count() as i64);
        }
    }

    /// What a client of this project notes about its last requests; it goes by itself.
    fn is_outcome(&mut self, key: &str) -> bool {
        key.starts_with("outcome_") && {
            assert!(self.ask("PTTL", key, &[]).int() > 0, "{key} stays for ever");
            true
        }
    }

    fn belongs(&mut self, key: &str, all: &Snapshot) -> bool {
        let ino = |text: &str| text.parse().ok().map(Ino);
        let own = |kind: &str| key.strip_prefix(kind).and_then(ino);
        match key {
            "dirDataLength" | "dirUsedSpace" | "dirUsedInodes" => {
                let known = |field: &String| ino(field).is_some_and(|dir| all.dir_stats.contains_key(&dir));
                return self.fields(key).iter().all(known);
            }
            "sliceRef" => {
                let known = |field: &String| slice(field).is_some_and(|slice| all.slice_refs.contains_key(&slice));
                return self.fields(key).iter().all(known);
            }
            "delfiles" => return self.ask("ZCARD", key, &[]).int() == all.del_files.len() as i64,
            "delSlices" => return self.fields(key).len() == all.delayed.len(),
            _ => {}
        }
        if let Some(sid) = key.strip_prefix("session") {
            return all.sustained.iter().any(|(owner, _)| owner.0.to_string() == sid);
        }
        if let Some((ino, index)) = key.strip_prefix('c').and_then(|rest| rest.split_once('_')) {
            let chunk = ino.parse().ok().zip(index.parse().ok());
            return chunk.is_some_and(|(ino, index)| all.chunks.contains_key(&(Ino(ino), index)));
        }
        if let Some(dir) = own("d") {
            return self.fields(key).len() == all.edges.keys().filter(|(parent, _)| *parent == dir).count();
        }
        if let Some(ino) = own("x") {
            return self.fields(key).len() == all.xattrs.keys().filter(|(owner, _)| *owner == ino).count();
        }
        own("i").is_some_and(|ino| all.nodes.contains_key(&ino))
            || own("s").is_some_and(|ino| all.symlinks.contains_key(&ino))
            || own("p").is_some_and(|ino| all.parents.contains_key(&ino))
    }

    fn shown(&mut self, key: &str) -> String {
        let kind = self.ask("TYPE", key, &[]).text();
        let content = match kind.as_str() {
            "hash" => self.ask("HGETALL", key, &[]),
            "list" => self.ask("LRANGE", key, &["0", "-1"]),
            "set" => self.ask("SMEMBERS", key, &[]),
            "zset" => self.ask("ZRANGE", key, &["0", "-1", "WITHSCORES"]),
            _ => self.ask("GET", key, &[]),
        };
        format!("{kind} {content:?}")
    }
}

fn slice(field: &str) -> Option<SliceKey> {
    let (id, size) = field.strip_prefix('k')?.split_once('_')?;
    Some(SliceKey { id: juicefs_core::SliceId(id.parse().ok()?), size: size.parse().ok()? })
}
