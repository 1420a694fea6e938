//! The records of a volume, however they are stored, and the rules that hold between them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::PathBuf,
};

use super::Rest;
use crate::volume::Volume;

pub(super) const ROOT: i64 = 1;
pub(super) const TRASH: i64 = 0x7FFF_FFFF_1000_0000;
pub(super) const KIND_FILE: i64 = 1;
pub(super) const KIND_DIRECTORY: i64 = 2;
pub(super) const KIND_SYMLINK: i64 = 3;
/// Bytes of a slice record: position, id, size, offset, length.
const SLICE_BYTES: usize = 24;
/// Bytes of a delayed slice: id, size.
const DELAYED_BYTES: usize = 12;

pub(super) struct Node {
    pub(super) kind: i64,
    pub(super) nlink: i64,
    pub(super) length: i64,
    pub(super) parent: i64,
}

pub(super) struct Edge {
    pub(super) parent: i64,
    pub(super) name: String,
    pub(super) ino: i64,
    pub(super) kind: i64,
}

pub(super) struct Chunk {
    pub(super) ino: i64,
    pub(super) index: i64,
    pub(super) records: Vec<u8>,
}

/// What was written by one flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slice {
    pub(super) id: u64,
    pub(super) size: u64,
}

/// Length, space and number of the entries of a directory.
pub(super) type Stat = (i64, i64, i64);

/// All that is known of a volume.
#[derive(Default)]
pub(crate) struct Records {
    pub(super) nodes: BTreeMap<i64, Node>,
    pub(super) edges: Vec<Edge>,
    pub(super) sustained: BTreeSet<i64>,
    pub(super) deleted_files: BTreeSet<i64>,
    /// Directories that are copies under way: they have no name yet.
    pub(super) detached: BTreeSet<i64>,
    pub(super) symlinks: BTreeSet<i64>,
    /// Inodes with extended attributes.
    pub(super) attributed: BTreeSet<i64>,
    /// Directories by file, with the number of names there, where the engine keeps them: files that ever had two names.
    pub(super) parent_links: Option<BTreeMap<i64, BTreeMap<i64, i64>>>,
    pub(super) chunks: Vec<Chunk>,
    /// Lists of slices whose references are dropped later.
    pub(super) delayed: Vec<Vec<u8>>,
    /// References of slices as stored.
    pub(super) slices: HashMap<Slice, i64>,
    /// References of a slice that has no record of its own; none if each must have one.
    pub(super) references_by_default: Option<i64>,
    pub(super) counters: HashMap<String, i64>,
    pub(super) last_inode: i64,
    pub(super) dir_stats: BTreeMap<i64, Stat>,
    /// Owners of locks.
    pub(super) locks: i64,
    pub(super) block_size: u64,
    pub(super) compressed: bool,
    pub(super) faults: Vec<String>,
}

pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn pages(length: i64) -> i64 {
    (length.max(1) + 4095) / 4096 * 4096
}

impl Records {
    pub(super) fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    /// Takes what the rules need of the setting.
    pub(super) fn read_setting(&mut self, text: &[u8]) {
        let setting: serde_json::Value = serde_json::from_slice(text).expect("the setting is JSON");
        self.block_size = setting["BlockSize"].as_u64().expect("the block size") << 10;
        self.compressed = setting["Compression"].as_str().is_some_and(|name| !name.is_empty() && name != "none");
    }

    /// Names lead to nodes of their type, nodes have their names, and nlink is what POSIX counts.
    pub(super) fn check_tree(&mut self) {
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
                let unnamed = ino == ROOT || ino == TRASH || self.detached.contains(&ino);
                if parents.len() != usize::from(!unnamed) {
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
        self.check_parent_links(&names, &mut faults);
        self.faults.extend(faults);
    }

    /// A file that ever had two names is found in its directories by a table of its own.
    fn check_parent_links(&self, names: &BTreeMap<i64, Vec<i64>>, faults: &mut Vec<String>) {
        let Some(links) = &self.parent_links else { return };
        let linked = self.nodes.iter().filter(|(_, node)| node.parent == 0 && node.kind != KIND_DIRECTORY);
        for (ino, _) in linked {
            let mut wanted: BTreeMap<i64, i64> = BTreeMap::new();
            for parent in names.get(ino).into_iter().flatten() {
                *wanted.entry(*parent).or_default() += 1;
            }
            // Counts of zero and below say nothing.
            let mut stored = links.get(ino).cloned().unwrap_or_default();
            stored.retain(|_, count| *count > 0);
            if stored != wanted {
                faults.push(format!("inode {ino} has the parents {stored:?}, counted {wanted:?}"));
            }
        }
        let lost = links.keys().filter(|ino| !self.nodes.contains_key(ino));
        faults.extend(lost.map(|ino| format!("parents of inode {ino} are left, which is not there")));
    }

    /// What belongs to a node goes with it.
    pub(super) fn check_attachments(&mut self) {
        let mut faults = Vec::new();
        for ino in &self.attributed {
            if !self.nodes.contains_key(ino) {
                faults.push(format!("extended attributes of inode {ino} are left, which is not there"));
            }
        }
        for ino in &self.symlinks {
            if self.nodes.get(ino).is_none_or(|node| node.kind != KIND_SYMLINK) {
                faults.push(format!("the target of symlink {ino} is left, which is not there"));
            }
        }
        for (ino, node) in &self.nodes {
            if node.kind == KIND_SYMLINK && !self.symlinks.contains(ino) {
                faults.push(format!("symlink {ino} has no target"));
            }
        }
        for ino in &self.sustained {
            if self.nodes.get(ino).is_none_or(|node| node.nlink > 0) {
                faults.push(format!("inode {ino} is kept open, and is not there or has a name"));
            }
        }
        self.faults.extend(faults);
    }

    /// Nobody copies anything any more.
    pub(super) fn check_detached(&mut self) {
        let left: Vec<_> = self.detached.iter().map(|ino| format!("a part of a copy is left as inode {ino}")).collect();
        self.faults.extend(left);
    }

    pub(super) fn check_counters(&mut self) {
        let counted = self.nodes.iter().filter(|(ino, _)| **ino != ROOT && **ino != TRASH);
        let (mut inodes, mut space) = (0i64, 0i64);
        for (_, node) in counted {
            inodes += 1;
            space += pages(if node.kind == KIND_FILE { node.length } else { 0 });
        }
        for (name, wanted) in [("totalInodes", inodes), ("usedSpace", space)] {
            let stored = self.counters.get(name).copied().unwrap_or(0);
            if stored != wanted {
                self.fault(format!("counter {name} is {stored}, and {wanted} by a count of all nodes"));
            }
        }
        let last = self.nodes.range(..TRASH).next_back().map_or(0, |(ino, _)| *ino);
        if self.last_inode < last && last > ROOT {
            self.fault(format!("inode {last} is beyond the counter of inodes"));
        }
    }

    pub(super) fn check_dir_stats(&mut self) {
        let mut wanted: BTreeMap<i64, Stat> = BTreeMap::new();
        for edge in &self.edges {
            let length = self.nodes.get(&edge.ino).filter(|node| node.kind == KIND_FILE).map_or(0, |node| node.length);
            let stat = wanted.entry(edge.parent).or_default();
            *stat = (stat.0 + length, stat.1 + pages(length), stat.2 + 1);
        }
        let directories = self.nodes.iter().filter(|(ino, node)| node.kind == KIND_DIRECTORY && **ino < TRASH);
        let faults: Vec<String> = directories
            .filter_map(|(ino, _)| {
                let stored = self.dir_stats.get(ino).copied();
                let wanted = wanted.get(ino).copied().unwrap_or_default();
                // A directory that nothing was ever done in needs no record.
                (stored.unwrap_or_default() != wanted).then(|| {
                    format!("directory {ino} has statistics (length, space, inodes) {stored:?}, counted {wanted:?}")
                })
            })
            .collect();
        self.faults.extend(faults);
    }

    /// How often each slice is named by a chunk or a delayed deletion.
    fn references(&self, faults: &mut Vec<String>) -> HashMap<Slice, i64> {
        let mut references: HashMap<Slice, i64> = HashMap::new();
        for Chunk { ino, index, records } in &self.chunks {
            if records.len() % SLICE_BYTES != 0 {
                faults.push(format!("chunk {index} of inode {ino} has {} bytes of slices", records.len()));
            }
            if !self.nodes.contains_key(ino) && !self.deleted_files.contains(ino) {
                faults.push(format!("chunk {index} belongs to inode {ino}, which is not there"));
            }
            for record in records.chunks_exact(SLICE_BYTES) {
                let slice = Slice { id: number::<8>(record, 4), size: number::<4>(record, 12) };
                let (offset, length) = (number::<4>(record, 16), number::<4>(record, 20));
                if slice.id == 0 {
                    continue;
                }
                *references.entry(slice).or_default() += 1;
                if offset + length > slice.size {
                    faults.push(format!("inode {ino} uses {offset}+{length} of {slice:?}"));
                }
            }
        }
        for record in self.delayed.iter().flat_map(|records| records.chunks_exact(DELAYED_BYTES)) {
            *references.entry(Slice { id: number::<8>(record, 0), size: number::<4>(record, 8) }).or_default() += 1;
        }
        references
    }

    /// Each slice has as many references as records name it.
    pub(super) fn check_slices(&mut self) {
        let mut faults = Vec::new();
        let references = self.references(&mut faults);
        for (slice, counted) in &references {
            match self.slices.get(slice).copied().or(self.references_by_default) {
                None => faults.push(format!("{slice:?} is used and has no record")),
                Some(stored) if stored != *counted => {
                    faults.push(format!("{slice:?} has {stored} references, counted {counted}"));
                }
                Some(_) => {}
            }
        }
        // Zero and below: removed, and its objects go soon.
        let unused = self.slices.iter().filter(|(slice, stored)| **stored > 0 && !references.contains_key(slice));
        faults.extend(unused.map(|(slice, stored)| format!("{slice:?} has {stored} references, counted 0")));
        for slice in references.keys() {
            self.slices.entry(*slice).or_insert(1);
        }
        self.faults.extend(faults);
    }

    /// Each block of each slice is in the store with its length, and the store holds nothing else. To be called after
    /// [`Records::check_slices`], which finds slices that have no record of their own.
    pub(super) fn check_objects(&mut self, volume: &Volume, rest: Rest) {
        let root = volume.bucket().join("e2e-volume/chunks");
        let mut expected: HashMap<PathBuf, u64> = HashMap::new();
        let mut faults = Vec::new();
        for (&Slice { id, size }, &references) in &self.slices {
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
