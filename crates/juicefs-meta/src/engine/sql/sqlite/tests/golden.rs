//! Volumes that the Go client wrote: read without changing them, written again byte for byte, upgraded.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use rusqlite::{Connection, types::ValueRef};

use super::*;

/// Directory of the golden volumes.
fn golden() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    std::env::var_os("JFS_GOLDEN").map_or_else(beside, PathBuf::from)
}

fn volumes() -> Vec<String> {
    let dir = golden();
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("golden volumes in {}: {e}", dir.display()));
    let names = entries.map(|entry| entry.expect("listed").file_name().into_string().expect("text"));
    let mut names: Vec<_> = names.filter(|name| name.starts_with("sqlite-")).collect();
    names.sort();
    assert!(names.len() >= 12, "some golden volumes are missing: {names:?}");
    names
}

fn unpack(volume: &str) -> (TempDir, PathBuf) {
    let packed = golden().join(volume).join("meta.db.gz");
    let output = Command::new("gzip").arg("-dc").arg(&packed).output().expect("gzip");
    assert!(output.status.success(), "{}", packed.display());
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("meta.db");
    std::fs::write(&path, output.stdout).expect("written");
    (dir, path)
}

/// Tables of features whose records come with later work.
const WITHOUT_RECORDS: &[&str] = &["detached_node", "delegation_token", "change_log"];

const COUNTERS: [Counter; 10] = [
    Counter::NextInode,
    Counter::NextChunk,
    Counter::NextSession,
    Counter::NextTrash,
    Counter::UsedSpace,
    Counter::TotalInodes,
    Counter::LastCleanupSessions,
    Counter::LastCleanupFiles,
    Counter::NextCleanupSlices,
    Counter::LastCleanupTrash,
];

fn tables(conn: &Connection) -> Vec<String> {
    let mut statement =
        conn.prepare("SELECT name FROM sqlite_master WHERE type='table' AND name LIKE 'jfs%'").expect("prepared");
    let names = statement.query_map([], |row| row.get::<_, String>(0)).expect("queried");
    names.map(|name| name.expect("text").strip_prefix("jfs_").expect("prefix").to_owned()).collect()
}

fn columns(conn: &Connection, table: &str) -> Vec<String> {
    let mut statement = conn.prepare("SELECT name FROM pragma_table_info(?1)").expect("prepared");
    let names = statement.query_map([format!("jfs_{table}")], |row| row.get(0)).expect("queried");
    names.map(|name| name.expect("text")).collect()
}

/// The rows as sets of cells of these columns; text and bytes are the same, and NULL is 0 or empty.
fn rows(conn: &Connection, table: &str, columns: &[String]) -> BTreeSet<Vec<String>> {
    let list: Vec<_> = columns.iter().map(|name| format!("`{name}`")).collect();
    let mut statement = conn.prepare(&format!("SELECT {} FROM jfs_{table}", list.join(","))).expect("prepared");
    let cell = |value: ValueRef<'_>, name: &str| match value {
        ValueRef::Null if name.starts_with("named_") || name == "info" => String::new(),
        ValueRef::Null => "0".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.escape_ascii().to_string(),
        ValueRef::Real(_) => panic!("no column is real"),
    };
    let cells = statement.query_map([], |row| {
        columns.iter().enumerate().map(|(at, name)| Ok(cell(row.get_ref(at)?, name))).collect::<Result<Vec<_>, _>>()
    });
    cells.expect("queried").map(|row| row.expect("read")).collect()
}

fn ids(conn: &Connection, query: &str) -> Vec<u64> {
    let mut statement = conn.prepare(query).expect("prepared");
    let ids = statement.query_map([], |row| row.get(0)).expect("queried");
    ids.map(|id: Result<i64, _>| id.expect("a number").cast_unsigned()).collect()
}

fn pairs(conn: &Connection, query: &str) -> Vec<(u64, Vec<u8>)> {
    let mut statement = conn.prepare(query).expect("prepared");
    let pairs =
        statement.query_map([], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))).expect("queried");
    pairs.map(|pair| pair.expect("read")).collect()
}

/// Every key of the volume, found without the engine.
fn keys(conn: &Connection, have: &[String]) -> Vec<Key> {
    let mut keys: Vec<Key> = COUNTERS.into_iter().map(AccountKey::Counter).map(Key::Account).collect();
    let name = |bytes: Vec<u8>| Name::from(bytes);
    keys.extend(ids(conn, "SELECT inode FROM jfs_node").into_iter().map(|ino| Key::Node(Ino(ino))));
    let edges = pairs(conn, "SELECT parent, name FROM jfs_edge");
    keys.extend(edges.into_iter().map(|(parent, bytes)| Key::Edge(Ino(parent), name(bytes))));
    keys.extend(ids(conn, "SELECT inode FROM jfs_symlink").into_iter().map(|ino| Key::Symlink(Ino(ino))));
    let xattrs = pairs(conn, "SELECT inode, CAST(name AS BLOB) FROM jfs_xattr");
    keys.extend(xattrs.into_iter().map(|(ino, bytes)| Key::Xattr(Ino(ino), name(bytes))));
    for ino in ids(conn, "SELECT DISTINCT inode FROM jfs_chunk") {
        let indexes = ids(conn, &format!("SELECT indx FROM jfs_chunk WHERE inode={ino}"));
        keys.extend(indexes.into_iter().map(|index| Key::Chunk(Ino(ino), u32::try_from(index).expect("32 bits"))));
    }
    for id in ids(conn, "SELECT chunkid FROM jfs_chunk_ref") {
        let size = ids(conn, &format!("SELECT size FROM jfs_chunk_ref WHERE chunkid={id}"))[0];
        keys.push(Key::SliceRef(SliceKey { id: SliceId(id), size: u32::try_from(size).expect("32 bits") }));
    }
    let optional = |table: &str, query: &str| if have.iter().any(|t| t == table) { ids(conn, query) } else { vec![] };
    let delslices = optional("delslices", "SELECT chunkid FROM jfs_delslices");
    keys.extend(delslices.into_iter().map(|id| Key::Note(NoteKey::DelaySlices(SliceId(id), 0))));
    let sessions = optional("session2", "SELECT sid FROM jfs_session2");
    keys.extend(sessions.into_iter().map(|sid| Key::Holder(HolderKey::Session(SessionId(sid)))));
    let removed = optional("delfile", "SELECT inode FROM jfs_delfile");
    keys.extend(removed.into_iter().map(|ino| Key::Note(NoteKey::DelFile(Ino(ino), 0))));
    let stats = optional("dir_stats", "SELECT inode FROM jfs_dir_stats");
    keys.extend(stats.into_iter().map(|ino| Key::Account(AccountKey::DirStat(Ino(ino)))));
    let rules = optional("acl", "SELECT id FROM jfs_acl");
    keys.extend(rules.into_iter().map(|id| Key::Acl(u32::try_from(id).expect("32 bits"))));
    let quotas = optional("dir_quota", "SELECT inode FROM jfs_dir_quota");
    keys.extend(quotas.into_iter().map(|ino| Key::Account(AccountKey::Quota(QuotaSubject::Dir(Ino(ino))))));
    for (kind, make) in [(1, QuotaSubject::User as fn(u32) -> _), (2, QuotaSubject::Group as fn(u32) -> _)] {
        let query = format!("SELECT qkey FROM jfs_user_group_quota WHERE qtype={kind}");
        let owners = optional("user_group_quota", &query);
        keys.extend(
            owners.into_iter().map(|id| Key::Account(AccountKey::Quota(make(u32::try_from(id).expect("32 bits"))))),
        );
    }
    keys
}

/// The effects that store what was read.
fn effects(read: &ReadSet) -> Vec<Effect> {
    let mut list = Vec::new();
    for (key, value) in read.iter() {
        // A counter that was never set has no row.
        let Some(value) = value else {
            assert!(matches!(key, Key::Account(AccountKey::Counter(_))), "{key:?} has a row but reads as nothing");
            continue;
        };
        match (key.clone(), value.clone()) {
            (Key::Node(ino), Value::Node(attr)) => list.push(Effect::Node(ino, NodeEffect::Insert(attr))),
            (Key::Edge(parent, name), Value::Edge(edge)) => {
                list.push(Effect::Edge(parent, name, EdgeEffect::Insert(edge)))
            }
            (Key::Symlink(ino), Value::Bytes(target)) => list.push(Effect::Node(ino, NodeEffect::PutSymlink(target))),
            (Key::Xattr(ino, name), Value::Bytes(value)) => {
                list.push(Effect::Node(ino, NodeEffect::PutXattr(name, value)))
            }
            (Key::Chunk(ino, index), Value::Chunk(records)) => {
                // In two steps, so that appending is seen to make the same bytes.
                let (first, rest) = records.split_first().expect("not empty");
                list.push(Effect::Chunk(ino, index, ChunkEffect::Put(vec![*first])));
                if !rest.is_empty() {
                    list.push(Effect::Chunk(ino, index, ChunkEffect::Append(rest.to_vec())));
                }
            }
            (Key::SliceRef(slice), Value::SliceRef(count)) => {
                list.push(Effect::Slice(SliceEffect::InsertRef(slice)));
                list.push(Effect::Slice(SliceEffect::AddRef(slice, count - 1)));
            }
            (Key::Note(NoteKey::DelaySlices(id, _)), Value::DelaySlices(held)) => {
                list.push(Effect::Slice(SliceEffect::PutDelayed(id, held)))
            }
            (Key::Holder(HolderKey::Session(sid)), Value::Session(session)) => {
                list.push(Effect::Session(sid, SessionEffect::Put(session)))
            }
            (Key::Note(NoteKey::DelFile(ino, _)), Value::DelFile(file)) => {
                list.push(Effect::Slice(SliceEffect::PutDelFile(ino, file)))
            }
            (Key::Account(AccountKey::DirStat(ino)), Value::DirStat(stat)) => {
                list.push(Effect::Account(AccountEffect::PutDirStat(ino, stat)))
            }
            (Key::Acl(id), Value::Acl(rule)) => list.push(Effect::Volume(VolumeEffect::PutAcl(id, rule))),
            (Key::Account(AccountKey::Quota(subject)), Value::Quota(quota)) => {
                // In two steps, so that adding is seen to make the same row.
                list.push(Effect::Account(AccountEffect::PutQuota(
                    subject,
                    Quota { used_space: 0, used_inodes: 0, ..quota },
                )));
                let used = Usage { space: quota.used_space, inodes: quota.used_inodes };
                list.push(Effect::Account(AccountEffect::AddUsage(subject, used)));
            }
            (Key::Account(AccountKey::Counter(counter)), Value::Counter(value)) => {
                list.push(Effect::Account(AccountEffect::SetCounter(counter, value)))
            }
            other => panic!("a record of another kind: {other:?}"),
        }
    }
    list
}

#[test]
fn every_row_is_written_again_byte_for_byte() {
    for volume in volumes() {
        let (_dir, path) = unpack(&volume);
        let before = std::fs::read(&path).expect("read");
        let raw = Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("opened");
        let have = tables(&raw);
        // Not prepared: volumes of 1.0 to 1.3 lack columns and tables.
        let old = engine_at(&path, "?mode=ro");
        let mut list = effects(&wait(old.fetch(&keys(&raw, &have))).expect("fetched"));
        let setting = wait(old.load_setting()).expect("read").expect("a volume");
        list.push(Effect::Volume(VolumeEffect::PutSetting(setting)));
        let (copy_dir, copy) = fresh();
        let written = list.len();
        apply(&copy, list).expect("applied");
        assert!(written > 1000, "{volume} has only {written} records");
        let raw_copy = Connection::open(copy_dir.path().join("meta.db")).expect("opened");
        for table in have.iter().filter(|table| !WITHOUT_RECORDS.contains(&table.as_str())) {
            // Row ids of their own are the database's, not records.
            let key = ["acl", "chunk_ref"].contains(&table.as_str());
            let columns: Vec<_> = columns(&raw, table).into_iter().filter(|column| key || column != "id").collect();
            let (was, is) = (rows(&raw, table, &columns), rows(&raw_copy, table, &columns));
            let differing: Vec<_> = was.symmetric_difference(&is).take(4).collect();
            assert!(differing.is_empty(), "{volume}: {table} ({columns:?}) differs: {differing:#?}");
        }
        let scanned = wait(old.scan(Scan::Quotas, None, 1000)).expect("scanned");
        let count = |table: &str| {
            if have.iter().any(|t| t == table) { ids(&raw, &format!("SELECT 1 FROM jfs_{table}")).len() } else { 0 }
        };
        assert_eq!(scanned.len(), count("dir_quota") + count("user_group_quota"), "{volume}");
        for (key, value) in scanned {
            assert_eq!(get(&copy, key), Some(value), "{volume}");
        }
        drop((raw, old));
        assert!(std::fs::read(&path).expect("read") == before, "{volume} was changed by reading it");
    }
}

#[test]
fn listing_and_lookup_agree_with_the_rows() {
    for volume in volumes() {
        let (_dir, path) = unpack(&volume);
        let engine = engine_at(&path, "");
        let raw = Connection::open(&path).expect("opened");
        for ino in ids(&raw, "SELECT inode FROM jfs_node WHERE type=2") {
            let names = pairs(&raw, &format!("SELECT inode, name FROM jfs_edge WHERE parent={ino} ORDER BY name"));
            let page = wait(engine.readdir(Ino(ino), None, true, 1000)).expect("listed");
            let listed: Vec<_> = page.entries.iter().map(|e| (e.ino.0, e.name.as_bytes().to_vec())).collect();
            assert_eq!(listed, names, "{volume}: directory {ino}");
            for entry in page.entries {
                let Found { edge, attr, .. } =
                    wait(engine.lookup(Ino(ino), entry.name.as_bytes())).expect("read").expect("found");
                assert_eq!((edge.ino, edge.kind, attr), (entry.ino, entry.kind, entry.attr));
            }
        }
    }
}

/// What creates the tables and indexes of a volume, legacy ones excluded.
fn schema(conn: &Connection) -> BTreeSet<String> {
    let mut statement =
        conn.prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name LIKE '%jfs%'").expect("prepared");
    let texts = statement.query_map([], |row| row.get::<_, String>(0)).expect("queried");
    texts.map(|text| text.expect("text")).collect()
}

#[test]
fn new_volumes_have_the_tables_of_the_go_client() {
    let (_golden, path) = unpack("sqlite-plain");
    let (dir, _engine) = fresh();
    let go = schema(&Connection::open(path).expect("opened"));
    let ours = schema(&Connection::open(dir.path().join("meta.db")).expect("opened"));
    assert_eq!(ours, go);
}

#[test]
fn older_volumes_are_upgraded_and_only_when_prepared() {
    let (_golden, newest) = unpack("sqlite-plain");
    let newest = Connection::open(newest).expect("opened");
    for volume in volumes() {
        let (_dir, path) = unpack(&volume);
        let raw = Connection::open(&path).expect("opened");
        let engine = engine_at(&path, "");
        let node = Key::Node(Ino(1));
        let root = get(&engine, node.clone()).expect("the root");
        let complete = schema(&raw) == schema(&newest);
        let made = apply(&engine, vec![Effect::Account(AccountEffect::SetCounter(Counter::NextTrash, 7))]);
        assert_eq!(made.is_ok(), complete || volume == "sqlite-plain", "{volume}: writing before it was prepared");
        let rows_before = rows(&raw, "node", &columns(&raw, "node"));
        let columns_before = columns(&raw, "node");
        for _ in 0..2 {
            wait(engine.prepare()).expect("prepared");
        }
        assert_eq!(tables(&raw).into_iter().collect::<BTreeSet<_>>(), tables(&newest).into_iter().collect());
        for table in tables(&newest) {
            let names = |conn| columns(conn, &table).into_iter().collect::<BTreeSet<_>>();
            assert_eq!(names(&raw), names(&newest), "{volume}: {table}");
        }
        assert_eq!(rows(&raw, "node", &columns_before), rows_before, "{volume}");
        assert_eq!(get(&engine, node), Some(root));
        let attr = Attr { tier: 3, access_acl: 4, ..file(1) };
        let list = vec![
            Effect::Node(Ino(1 << 40), NodeEffect::Insert(attr.clone())),
            Effect::Account(AccountEffect::SetCounter(Counter::NextTrash, 7)),
        ];
        apply(&engine, list).expect("writing after it was prepared");
        assert_eq!(get(&engine, Key::Node(Ino(1 << 40))), Some(Value::Node(attr)));
    }
}
