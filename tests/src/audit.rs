//! Whether the records of a volume fit together, read from its SQLite file beside all clients.
//!
//! It shares no code with the client: tables and counting rules are those of the format.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::PathBuf,
};

use rusqlite::{Connection, OpenFlags, Row};

use crate::volume::Volume;

const ROOT: i64 = 1;
const TRASH: i64 = 0x7FFF_FFFF_1000_0000;
const KIND_FILE: i64 = 1;
const KIND_DIRECTORY: i64 = 2;
/// Bytes of a slice record: position, id, size, offset, length.
const SLICE_BYTES: usize = 24;
/// Bytes of a delayed slice: id, size.
const DELAYED_BYTES: usize = 12;

/// How the volume came to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// All clients ended well: everything must fit.
    Clean,
    /// A client was killed: objects without a slice may be left, and the counters and the statistics of directories may
    /// lack what it did in its last seconds, as with every client of this format.
    Crashed,
}

struct Node {
    kind: i64,
    nlink: i64,
    length: i64,
    parent: i64,
}

struct Edge {
    parent: i64,
    name: String,
    ino: i64,
    kind: i64,
}

/// Everything that is wrong with the records and objects of an unmounted volume, one sentence each.
///
/// # Panics
/// If the database cannot be read.
pub fn audit(volume: &Volume, rest: Rest) -> Vec<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(volume.meta_path(), flags).expect("the metadata file");
    let mut tables = Tables::load(&database);
    tables.check_integrity(&database);
    tables.check_tree();
    if rest == Rest::Clean {
        tables.check_counters(&database);
        tables.check_dir_stats(&database);
    }
    tables.check_slices(&database);
    tables.check_objects(volume, rest);
    tables.faults
}

struct Tables {
    nodes: BTreeMap<i64, Node>,
    edges: Vec<Edge>,
    sustained: BTreeSet<i64>,
    deleted_files: BTreeSet<i64>,
    /// Slices by id: size and references as stored.
    slices: HashMap<u64, (u64, i64)>,
    block_size: u64,
    compressed: bool,
    faults: Vec<String>,
}

fn rows<T>(database: &Connection, query: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    let mut statement = database.prepare(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let found = statement.query_map([], read).unwrap_or_else(|error| panic!("{query}: {error}"));
    found.collect::<rusqlite::Result<_>>().unwrap_or_else(|error| panic!("{query}: {error}"))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn pages(length: i64) -> i64 {
    (length.max(1) + 4095) / 4096 * 4096
}

impl Tables {
    fn load(database: &Connection) -> Self {
        let nodes = rows(database, "SELECT inode, type, nlink, length, parent FROM jfs_node", |row| {
            Ok((row.get(0)?, Node { kind: row.get(1)?, nlink: row.get(2)?, length: row.get(3)?, parent: row.get(4)? }))
        });
        let edges = rows(database, "SELECT parent, name, inode, type FROM jfs_edge", |row| {
            let name: Vec<u8> = row.get(1)?;
            let name = String::from_utf8_lossy(&name).into_owned();
            Ok(Edge { parent: row.get(0)?, name, ino: row.get(2)?, kind: row.get(3)? })
        });
        let setting: String = database
            .query_row("SELECT value FROM jfs_setting WHERE name = 'format'", [], |row| row.get(0))
            .expect("the setting");
        let setting: serde_json::Value = serde_json::from_str(&setting).expect("the setting is JSON");
        Self {
            nodes: nodes.into_iter().collect(),
            edges,
            sustained: rows(database, "SELECT inode FROM jfs_sustained", |row| row.get(0)).into_iter().collect(),
            deleted_files: rows(database, "SELECT inode FROM jfs_delfile", |row| row.get(0)).into_iter().collect(),
            slices: rows(database, "SELECT chunkid, size, refs FROM jfs_chunk_ref", |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), (row.get::<_, i64>(1)?.cast_unsigned(), row.get(2)?)))
            })
            .into_iter()
            .collect(),
            block_size: setting["BlockSize"].as_u64().expect("the block size") << 10,
            compressed: setting["Compression"].as_str().is_some_and(|name| !name.is_empty() && name != "none"),
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    fn check_integrity(&mut self, database: &Connection) {
        let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict");
        if verdict != "ok" {
            self.fault(format!("SQLite says: {verdict}"));
        }
    }

    /// Names lead to nodes of their type, nodes have their names, and nlink is what POSIX counts.
    fn check_tree(&mut self) {
        let mut faults = Vec::new();
        let mut names: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        let mut directories: BTreeMap<i64, i64> = BTreeMap::new();
        for edge in &self.edges {
            let at = format!("name {:?} in {}", edge.name, edge.parent);
            match self.nodes.get(&edge.ino) {
                None => faults.push(format!("{at} leads to inode {}, which is not there", edge.ino)),
                Some(node) if node.kind != edge.kind => faults.push(format!("{at} has another type than its inode")),
                Some(_) => {}
            }
            if self.nodes.get(&edge.parent).is_none_or(|node| node.kind != KIND_DIRECTORY) {
                faults.push(format!("{at} is in no directory"));
            }
            names.entry(edge.ino).or_default().push(edge.parent);
            if edge.kind == KIND_DIRECTORY {
                *directories.entry(edge.parent).or_default() += 1;
            }
        }
        for (&ino, node) in &self.nodes {
            let parents = names.get(&ino).map_or(&[][..], Vec::as_slice);
            let in_trash = parents.iter().any(|&parent| parent > TRASH);
            if node.kind == KIND_DIRECTORY {
                let wanted = 2 + directories.get(&ino).copied().unwrap_or(0);
                // The directories of the trash do not count what is in them.
                if ino < TRASH && node.nlink != wanted {
                    faults.push(format!("directory {ino} has nlink {}, not {wanted}", node.nlink));
                }
                if ino != ROOT && ino != TRASH && parents.len() != 1 {
                    faults.push(format!("directory {ino} has {} names", parents.len()));
                }
            } else if parents.is_empty() {
                if !(node.nlink == 0 && self.sustained.contains(&ino)) {
                    faults.push(format!("inode {ino} has no name, nlink {}", node.nlink));
                }
            } else if node.nlink != parents.len().try_into().unwrap_or(i64::MAX) {
                faults.push(format!("inode {ino} has nlink {} and {} names", node.nlink, parents.len()));
            }
            if node.parent != 0 && !parents.is_empty() && !parents.contains(&node.parent) && !in_trash {
                faults.push(format!("inode {ino} says that it is in {}, but is in {parents:?}", node.parent));
            }
        }
        self.faults.extend(faults);
    }

    fn check_counters(&mut self, database: &Connection) {
        let counted = self.nodes.iter().filter(|(ino, _)| **ino != ROOT && **ino != TRASH);
        let (mut inodes, mut space) = (0i64, 0i64);
        for (_, node) in counted {
            inodes += 1;
            space += pages(if node.kind == KIND_FILE { node.length } else { 0 });
        }
        let counters: HashMap<String, i64> =
            rows(database, "SELECT name, value FROM jfs_counter", |row| Ok((row.get(0)?, row.get(1)?)))
                .into_iter()
                .collect();
        for (name, wanted) in [("totalInodes", inodes), ("usedSpace", space)] {
            let stored = counters.get(name).copied().unwrap_or(0);
            if stored != wanted {
                self.fault(format!("counter {name} is {stored}, and {wanted} by a count of all nodes"));
            }
        }
        let last = self.nodes.range(..TRASH).next_back().map_or(0, |(ino, _)| *ino);
        if counters.get("nextInode").is_some_and(|&next| next < last) {
            self.fault(format!("inode {last} is beyond the counter of inodes"));
        }
    }

    fn check_dir_stats(&mut self, database: &Connection) {
        let stored: BTreeMap<i64, (i64, i64, i64)> =
            rows(database, "SELECT inode, data_length, used_space, used_inodes FROM jfs_dir_stats", |row| {
                Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?)))
            })
            .into_iter()
            .collect();
        let mut wanted: BTreeMap<i64, (i64, i64, i64)> = BTreeMap::new();
        for edge in &self.edges {
            let length = self.nodes.get(&edge.ino).filter(|node| node.kind == KIND_FILE).map_or(0, |node| node.length);
            let stat = wanted.entry(edge.parent).or_default();
            *stat = (stat.0 + length, stat.1 + pages(length), stat.2 + 1);
        }
        let directories = self.nodes.iter().filter(|(ino, node)| node.kind == KIND_DIRECTORY && **ino < TRASH);
        let faults: Vec<String> = directories
            .filter_map(|(ino, _)| {
                let (stored, wanted) = (stored.get(ino).copied(), wanted.get(ino).copied().unwrap_or_default());
                // A directory that nothing was ever done in needs no record.
                (stored.unwrap_or_default() != wanted).then(|| {
                    format!("directory {ino} has statistics (length, space, inodes) {stored:?}, counted {wanted:?}")
                })
            })
            .collect();
        self.faults.extend(faults);
    }

    /// Each slice has as many references as records name it.
    fn check_slices(&mut self, database: &Connection) {
        let chunks = rows(database, "SELECT inode, indx, slices FROM jfs_chunk", |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
        });
        let mut faults = Vec::new();
        let mut references: HashMap<u64, i64> = HashMap::new();
        for (ino, index, records) in chunks {
            if records.len() % SLICE_BYTES != 0 {
                faults.push(format!("chunk {index} of inode {ino} has {} bytes of slices", records.len()));
            }
            if !self.nodes.contains_key(&ino) && !self.deleted_files.contains(&ino) {
                faults.push(format!("chunk {index} belongs to inode {ino}, which is not there"));
            }
            for record in records.chunks_exact(SLICE_BYTES) {
                let (id, size) = (number::<8>(record, 4), number::<4>(record, 12));
                let (offset, length) = (number::<4>(record, 16), number::<4>(record, 20));
                if id == 0 {
                    continue;
                }
                *references.entry(id).or_default() += 1;
                if offset + length > size {
                    faults.push(format!("inode {ino} uses {offset}+{length} of slice {id} with {size} bytes"));
                }
                match self.slices.get(&id) {
                    None => faults.push(format!("inode {ino} uses slice {id}, which is not there")),
                    Some((stored, _)) if *stored != size => faults.push(format!("slice {id} has two sizes")),
                    Some(_) => {}
                }
            }
        }
        for records in rows(database, "SELECT slices FROM jfs_delslices", |row| row.get::<_, Vec<u8>>(0)) {
            for record in records.chunks_exact(DELAYED_BYTES) {
                *references.entry(number::<8>(record, 0)).or_default() += 1;
            }
        }
        for (id, (_, stored)) in &self.slices {
            let counted = references.get(id).copied().unwrap_or(0);
            // Zero and below: removed, and its objects go soon.
            if *stored > 0 && *stored != counted {
                faults.push(format!("slice {id} has {stored} references, counted {counted}"));
            }
        }
        self.faults.extend(faults);
    }

    /// Each block of each slice is in the store with its length, and the store holds nothing else.
    fn check_objects(&mut self, volume: &Volume, rest: Rest) {
        let root = volume.bucket().join("e2e-volume/chunks");
        let mut expected: HashMap<PathBuf, u64> = HashMap::new();
        let mut faults = Vec::new();
        for (&id, &(size, references)) in &self.slices {
            for index in 0..size.div_ceil(self.block_size) {
                let length = self.block_size.min(size - index * self.block_size);
                let name = format!("{}/{}/{id}_{index}_{length}", id / 1_000_000, id / 1000);
                let path = root.join(name);
                let stored = fs::metadata(&path).map(|meta| meta.len());
                match stored {
                    Err(error) if references > 0 => faults.push(format!("block {}: {error}", path.display())),
                    Ok(stored) if !self.compressed && stored != length => {
                        faults.push(format!("block {} has {stored} bytes", path.display()));
                    }
                    _ => {}
                }
                expected.insert(path, length);
            }
        }
        if rest == Rest::Clean {
            let leaked = volume
                .objects()
                .into_iter()
                .filter(|(path, _)| path.starts_with(&root) && !expected.contains_key(path));
            faults.extend(leaked.map(|(path, _)| format!("object {} belongs to no slice", path.display())));
        }
        self.faults.extend(faults);
    }
}
