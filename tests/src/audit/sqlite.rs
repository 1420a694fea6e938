//! Reads the records of a volume from its SQLite file.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row};

use super::records::{Chunk, Edge, Node, Records, Slice};

fn rows<T>(database: &Connection, query: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    let mut statement = database.prepare(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let found = statement.query_map([], read).unwrap_or_else(|error| panic!("{query}: {error}"));
    found.collect::<rusqlite::Result<_>>().unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// All records, and a fault if SQLite finds its own file damaged.
pub(crate) fn load(path: &Path) -> Records {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags).expect("the metadata file");
    let mut records = Records::default();
    let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict");
    if verdict != "ok" {
        records.fault(format!("SQLite says: {verdict}"));
    }
    let setting: String = database
        .query_row("SELECT value FROM jfs_setting WHERE name = 'format'", [], |row| row.get(0))
        .expect("the setting");
    records.read_setting(setting.as_bytes());
    load_tree(&database, &mut records);
    load_slices(&database, &mut records);
    records.counters = rows(&database, "SELECT name, value FROM jfs_counter", |row| Ok((row.get(0)?, row.get(1)?)))
        .into_iter()
        .collect();
    // The counter is the next one to be handed out.
    records.last_inode = records.counters.get("nextInode").map_or(0, |next| next - 1);
    records.locks = database
        .query_row("SELECT (SELECT count(*) FROM jfs_flock) + (SELECT count(*) FROM jfs_plock)", [], |row| row.get(0))
        .expect("the number of locks");
    records.dir_stats =
        rows(&database, "SELECT inode, data_length, used_space, used_inodes FROM jfs_dir_stats", |row| {
            Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?)))
        })
        .into_iter()
        .collect();
    records
}

fn load_tree(database: &Connection, records: &mut Records) {
    let nodes = rows(database, "SELECT inode, type, nlink, length, parent FROM jfs_node", |row| {
        Ok((row.get(0)?, Node { kind: row.get(1)?, nlink: row.get(2)?, length: row.get(3)?, parent: row.get(4)? }))
    });
    records.nodes = nodes.into_iter().collect();
    records.edges = rows(database, "SELECT parent, name, inode, type FROM jfs_edge", |row| {
        let name: Vec<u8> = row.get(1)?;
        let name = String::from_utf8_lossy(&name).into_owned();
        Ok(Edge { parent: row.get(0)?, name, ino: row.get(2)?, kind: row.get(3)? })
    });
    let inodes = |query: &str| rows(database, query, |row| row.get(0)).into_iter().collect();
    records.sustained = inodes("SELECT inode FROM jfs_sustained");
    records.deleted_files = inodes("SELECT inode FROM jfs_delfile");
    records.detached = inodes("SELECT inode FROM jfs_detached_node");
    records.symlinks = inodes("SELECT inode FROM jfs_symlink");
    records.attributed = inodes("SELECT DISTINCT inode FROM jfs_xattr");
}

fn load_slices(database: &Connection, records: &mut Records) {
    records.chunks = rows(database, "SELECT inode, indx, slices FROM jfs_chunk", |row| {
        Ok(Chunk { ino: row.get(0)?, index: row.get(1)?, records: row.get(2)? })
    });
    records.delayed = rows(database, "SELECT slices FROM jfs_delslices", |row| row.get(0));
    records.slices = rows(database, "SELECT chunkid, size, refs FROM jfs_chunk_ref", |row| {
        let (id, size): (i64, i64) = (row.get(0)?, row.get(1)?);
        Ok((Slice { id: id.cast_unsigned(), size: size.cast_unsigned() }, row.get(2)?))
    })
    .into_iter()
    .collect();
}
