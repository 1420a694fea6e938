//! A directory tree is listed in the order of keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use juicefs_core::{StorageError, store::ObjectInfo};

use super::{failure, info};

/// One listing under way.
struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    found: Vec<ObjectInfo>,
}

/// Lists up to `limit` files whose key, the path below `root`, starts with `prefix` and is greater than `after`, in key order.
pub(super) fn list(root: &str, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
    // Only the directory that holds what begins with the prefix needs to be read.
    let dir_key = &prefix[..prefix.rfind('/').map_or(0, |at| at + 1)];
    let mut walk = Walk { prefix, after, limit, found: Vec::new() };
    walk.directory(&PathBuf::from([root, dir_key].concat()), dir_key)?;
    Ok(walk.found)
}

impl Walk<'_> {
    fn directory(&mut self, dir: &Path, dir_key: &str) -> Result<(), StorageError> {
        for (name, meta) in entries(dir)? {
            if self.found.len() >= self.limit {
                break;
            }
            // A directory's name ends in `/`: that is what orders it among files.
            let key = [dir_key, &name].concat();
            if !key.starts_with(self.prefix) && !self.prefix.starts_with(&key) {
                continue;
            }
            if meta.is_dir() {
                if key.as_str() > self.after || self.after.starts_with(&key) {
                    self.directory(&dir.join(&name), &key)?;
                }
            } else if key.as_str() > self.after && key.starts_with(self.prefix) {
                self.found.push(info(key, &meta));
            }
        }
        Ok(())
    }
}

/// The entries of a directory in key order. One that may not be read, or is not there, has none.
fn entries(dir: &Path) -> Result<Vec<(String, fs::Metadata)>, StorageError> {
    let skip = |e: &io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
    let read = match fs::read_dir(dir) {
        Err(e) if skip(&e) || e.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        other => other.map_err(|e| failure(&e, dir))?,
    };
    let mut all = Vec::new();
    for entry in read {
        let entry = entry.map_err(|e| failure(&e, dir))?;
        // Keys are text; names that are not were never made by a client.
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        let meta = match fs::metadata(entry.path()) {
            Err(e) if skip(&e) => continue,
            other => other.map_err(|e| failure(&e, &entry.path()))?,
        };
        if meta.is_dir() {
            name.push('/');
        }
        all.push((name, meta));
    }
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}
