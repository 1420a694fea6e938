//! What a directory tree looks like from outside, for comparing two of them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// What [`snapshot`] keeps of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File type and permission bits.
    pub mode: u32,
    /// Number of names; for directories as well.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of a file in bytes; 0 for everything else.
    pub size_bytes: u64,
    /// Bytes of a regular file.
    pub content: Vec<u8>,
    /// Target of a symbolic link.
    pub target: OsString,
}

/// Every name below `root` by its relative path.
///
/// # Panics
/// If something of it cannot be read.
pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let dir = root.join(&relative);
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let name = entry.unwrap_or_else(|error| panic!("{}: {error}", dir.display())).file_name();
            let path = relative.join(name);
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
            if meta.is_dir() {
                pending.push(path.clone());
            }
            found.insert(path, entry_of(&full, &meta));
        }
    }
    found
}

fn entry_of(full: &Path, meta: &fs::Metadata) -> Entry {
    let kind = meta.file_type();
    let readable = kind.is_file() && !kind.is_fifo();
    let failed = |error| panic!("{}: {error}", full.display());
    Entry {
        mode: meta.mode(),
        nlink: meta.nlink(),
        uid: meta.uid(),
        gid: meta.gid(),
        size_bytes: if readable { meta.len() } else { 0 },
        content: if readable { fs::read(full).unwrap_or_else(failed) } else { Vec::new() },
        target: if kind.is_symlink() {
            fs::read_link(full).unwrap_or_else(|error| panic!("{}: {error}", full.display())).into_os_string()
        } else {
            OsString::new()
        },
    }
}
