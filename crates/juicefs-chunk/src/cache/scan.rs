//! Finding out what lies in a cache directory (format: data.md §4.5).

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::dir::CacheDir;
use crate::block::BlockId;

/// Temporary files and empty directories younger than this may be in use.
const LITTER_AGE_SECS: i64 = 60;
/// Entries put into the index under one lock.
const BATCH: usize = 256;

/// One walk.
struct Scan<'a> {
    dir: &'a CacheDir,
    stop: &'a AtomicBool,
    found: Vec<(BlockId, u32, bool)>,
    total: usize,
}

/// Rebuilds the index of `dir` from its files. Ends early, without a result, when `stop` is set.
pub(super) fn scan(dir: &CacheDir, stop: &AtomicBool) {
    dir.state.lock().index.begin_scan();
    let mut scan = Scan { dir, stop, found: Vec::new(), total: 0 };
    let done = scan.directory(&dir.raw(), 0);
    scan.deliver();
    match done {
        Ok(()) if !stop.load(Relaxed) => {
            dir.state.lock().index.end_scan();
            tracing::debug!("{} blocks found in cache directory {}", scan.total, dir.root().display());
        }
        Ok(()) => {}
        // The index stays incomplete, so blocks that it does not know are looked for on disk.
        Err(e) => tracing::warn!("cannot scan cache directory {}: {e}", dir.root().display()),
    }
}

impl Scan<'_> {
    fn directory(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            if self.stop.load(Relaxed) {
                return Ok(());
            }
            let entry = entry?;
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                // A sub-directory that goes away meanwhile is no failure.
                if let Err(e) = self.directory(&entry.path(), depth + 1)
                    && e.kind() != io::ErrorKind::NotFound
                {
                    return Err(e);
                }
                if depth > 0 && self.is_old(&meta) {
                    // Succeeds only when it is empty.
                    let _ = fs::remove_dir(entry.path());
                }
                continue;
            }
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if name.ends_with(".tmp") {
                if self.is_old(&meta) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if let Some(id) = BlockId::parse_name(name).filter(|id| id.size > 0) {
                let atime = u32::try_from(meta.atime()).unwrap_or_default();
                self.found.push((id, atime, meta.nlink() > 1));
                if self.found.len() == BATCH {
                    self.deliver();
                }
            } else {
                tracing::debug!("{} is no cached block", entry.path().display());
            }
        }
        Ok(())
    }

    fn is_old(&self, meta: &fs::Metadata) -> bool {
        i64::from(self.dir.now()) - meta.mtime() > LITTER_AGE_SECS
    }

    fn deliver(&mut self) {
        self.total += self.found.len();
        let mut state = self.dir.state.lock();
        for (id, atime, staged) in self.found.drain(..) {
            state.index.insert(id, atime, staged);
        }
    }
}
