//! What must hold of the records of a volume at rest: nothing running, statistics flushed.

use std::collections::BTreeMap;

use juicefs_core::{Attr, FileType, Ino, SliceRecord};
use juicefs_meta::record::DirStat;

use crate::snapshot::Snapshot;

const ROOTS: [Ino; 2] = [Ino::ROOT, Ino::TRASH_ROOT];

/// Panics with the first thing that is wrong.
pub(crate) fn check(all: &Snapshot) {
    edges_name_nodes_of_their_kind(all);
    links_are_counted(all);
    parents_are_known(all);
    parts_belong_to_nodes(all);
    statistics_are_exact(all);
    slices_are_counted(all);
}

fn edges_name_nodes_of_their_kind(all: &Snapshot) {
    for ((parent, name), edge) in &all.edges {
        let attr = all.nodes.get(&edge.ino).unwrap_or_else(|| panic!("{parent}/{name} names a missing node"));
        assert_eq!(attr.kind, edge.kind, "{parent}/{name}");
        assert!(all.is_dir(*parent), "{parent} has entries and is no directory");
    }
}

fn links_are_counted(all: &Snapshot) {
    let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
    let mut subdirs: BTreeMap<Ino, u32> = BTreeMap::new();
    for ((parent, _), edge) in &all.edges {
        *names.entry(edge.ino).or_default() += 1;
        if edge.kind == FileType::Directory {
            *subdirs.entry(*parent).or_default() += 1;
        }
    }
    for (ino, attr) in &all.nodes {
        let names = names.get(ino).copied().unwrap_or(0);
        if attr.kind == FileType::Directory {
            let subdirs = if ino.is_trash() { 0 } else { subdirs.get(ino).copied().unwrap_or(0) };
            assert_eq!(attr.nlink, 2 + subdirs, "nlink of directory {ino}");
            assert_eq!(names, u32::from(!ROOTS.contains(ino)), "names of directory {ino}");
        } else {
            assert_eq!(attr.nlink, names, "nlink of {ino}");
            let kept = all.sustained.iter().any(|(_, sustained)| sustained == ino);
            assert_eq!(names == 0, kept, "{ino} is kept alive exactly while it has no name");
        }
    }
    for (_, ino) in &all.sustained {
        assert!(all.nodes.contains_key(ino), "sustained {ino} has no node");
    }
}

fn parents_are_known(all: &Snapshot) {
    let mut holders: BTreeMap<Ino, BTreeMap<Ino, u64>> = BTreeMap::new();
    for ((parent, _), edge) in &all.edges {
        *holders.entry(edge.ino).or_default().entry(*parent).or_default() += 1;
    }
    for (ino, attr) in all.nodes.iter().filter(|(ino, attr)| !ROOTS.contains(ino) && attr.nlink > 0) {
        let holders = holders.remove(ino).unwrap_or_default();
        if attr.parent == Ino(0) {
            assert_ne!(attr.kind, FileType::Directory, "directory {ino} has no parent");
            assert_eq!(all.parents[ino], holders, "parents of {ino}");
        } else {
            assert_eq!(holders, BTreeMap::from([(attr.parent, 1)]), "parent of {ino}");
        }
    }
}

fn parts_belong_to_nodes(all: &Snapshot) {
    for (ino, attr) in &all.nodes {
        assert_eq!(all.symlinks.contains_key(ino), attr.kind == FileType::Symlink, "target of {ino}");
        assert!(!all.del_files.contains_key(ino), "{ino} is there and noted as removed");
    }
    for ino in all.symlinks.keys().chain(all.xattrs.keys().map(|(ino, _)| ino)) {
        assert!(all.nodes.contains_key(ino), "{ino} has parts and no node");
    }
    for (ino, _) in all.chunks.keys() {
        let attr = all.nodes.get(ino);
        assert!(attr.is_some_and(Attr::is_file) || all.del_files.contains_key(ino), "{ino} has data and is no file");
    }
}

fn statistics_are_exact(all: &Snapshot) {
    let mut stats: BTreeMap<Ino, DirStat> = BTreeMap::new();
    for ((parent, _), edge) in &all.edges {
        let attr = &all.nodes[&edge.ino];
        let stat = stats.entry(*parent).or_default();
        stat.length += if attr.is_file() { attr.length as i64 } else { 0 };
        stat.space += attr.used_space() as i64;
        stat.inodes += 1;
    }
    for (ino, stored) in &all.dir_stats {
        assert_eq!(*stored, stats.remove(ino).unwrap_or_default(), "statistics of {ino}");
    }
    stats.remove(&Ino::TRASH_ROOT);
    assert!(stats.is_empty(), "directories without statistics: {stats:?}");
    let counted: Vec<_> = all.nodes.iter().filter(|(ino, _)| !ROOTS.contains(ino)).collect();
    let space: u64 = counted.iter().map(|(_, attr)| attr.used_space()).sum();
    assert_eq!((all.used_space, all.total_inodes), (space as i64, counted.len() as i64), "use of the volume");
}

fn slices_are_counted(all: &Snapshot) {
    let mut uses: BTreeMap<_, i64> = BTreeMap::new();
    let held = all.delayed.values().flat_map(|delayed| delayed.slices.iter().copied());
    for slice in all.chunks.values().flatten().filter_map(SliceRecord::key).chain(held) {
        *uses.entry(slice).or_default() += 1;
    }
    for (slice, count) in &all.slice_refs {
        assert_eq!(*count, uses.remove(slice).unwrap_or(0), "references of {slice:?}");
    }
    assert!(uses.is_empty(), "slices in use without a record: {uses:?}");
}
