//! A scan finds out which blocks lie in a cache directory (format: data.md §4.5).
//!
//! Several threads walk the directory, because each of them waits for the disk most of the time while the kernel's caches are
//! cold. Nobody waits for the scan: blocks that it has not met yet are looked for on disk.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

use super::dir::CacheDir;
use crate::block::BlockId;

/// Temporary files and empty directories that are younger than this may be in use.
const LITTER_AGE_SECS: i64 = 60;
/// So many entries are put into the index under one lock.
const BATCH: usize = 256;
/// One scan has so many threads.
const WALKERS: usize = 4;

/// One scan.
struct Scan<'a> {
    dir: &'a CacheDir,
    stop: &'a AtomicBool,
    todo: Mutex<Todo>,
    /// Is notified when there is something to do, or nothing any more.
    more: Condvar,
    total: AtomicUsize,
}

#[derive(Default)]
struct Todo {
    /// The directories that are to be listed.
    dirs: Vec<PathBuf>,
    /// How many walkers list a directory now, and may find others in it.
    busy: usize,
    failed: Option<io::Error>,
}

/// Rebuilds the index of `dir` from its files. Ends early, without a result, when `stop` is set.
pub(super) fn scan(dir: &CacheDir, stop: &AtomicBool) {
    let started = Instant::now();
    dir.state.lock().index.begin_scan();
    let todo = Todo { dirs: vec![dir.raw()], ..Todo::default() };
    let scan = Scan { dir, stop, todo: Mutex::new(todo), more: Condvar::new(), total: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        for _ in 1..WALKERS {
            let walker = std::thread::Builder::new().name("cache-scan".to_owned());
            if let Err(e) = walker.spawn_scoped(scope, || scan.walk()) {
                tracing::debug!("the scan of {} has fewer threads: {e}", dir.root().display());
            }
        }
        scan.walk();
    });
    match scan.todo.into_inner().failed {
        None if !stop.load(Relaxed) => {
            dir.state.lock().index.end_scan();
            let (total, took) = (scan.total.into_inner(), started.elapsed());
            tracing::info!("{total} blocks found in cache directory {} within {took:.2?}", dir.root().display());
        }
        None => {}
        // The index stays incomplete, so blocks that it does not know are looked for on disk.
        Some(e) => tracing::warn!("cannot scan cache directory {}: {e}", dir.root().display()),
    }
    dir.first_scan.store(false, Relaxed);
}

impl Scan<'_> {
    /// Lists directories until there are none left.
    fn walk(&self) {
        let mut todo = self.todo.lock();
        loop {
            if self.stop.load(Relaxed) || todo.failed.is_some() {
                todo.dirs.clear();
            }
            let Some(path) = todo.dirs.pop() else {
                if todo.busy == 0 {
                    self.more.notify_all();
                    return;
                }
                self.more.wait(&mut todo);
                continue;
            };
            todo.busy += 1;
            drop(todo);
            let listed = self.list(&path);
            todo = self.todo.lock();
            todo.busy -= 1;
            match listed {
                Ok(dirs) => todo.dirs.extend(dirs),
                // One that goes away meanwhile is no failure, but for the first: that is the cache.
                Err(e) if e.kind() == io::ErrorKind::NotFound && path != self.dir.raw() => {}
                Err(e) => todo.failed = Some(e),
            }
            self.more.notify_all();
        }
    }

    /// Adds the blocks of one directory to the index. Returns the directories in it.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut dirs = Vec::new();
        let mut found = Vec::with_capacity(BATCH);
        let is_top = path == self.dir.raw();
        let mut is_empty = true;
        for entry in self.dir.gate.watch(|| fs::read_dir(path))? {
            if self.stop.load(Relaxed) {
                break;
            }
            let entry = entry?;
            is_empty = false;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if !is_top || entry.path() != self.dir.probes() {
                    dirs.push(entry.path());
                }
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if name.ends_with(".tmp") {
                if self.is_old(&meta) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if let Some(id) = BlockId::parse_name(name).filter(|id| id.size > 0) {
                let atime = u32::try_from(meta.atime()).unwrap_or_default();
                found.push((id, atime, meta.nlink() > 1));
                if found.len() == BATCH {
                    self.deliver(&mut found);
                }
            } else {
                tracing::debug!("{} is no cached block", entry.path().display());
            }
        }
        self.deliver(&mut found);
        if is_empty && !is_top && path != self.dir.raw().join("chunks") && self.is_old(&fs::metadata(path)?) {
            // Succeeds only when it is empty still.
            let _ = fs::remove_dir(path);
        }
        Ok(dirs)
    }

    fn is_old(&self, meta: &fs::Metadata) -> bool {
        i64::from(self.dir.now()) - meta.mtime() > LITTER_AGE_SECS
    }

    fn deliver(&self, found: &mut Vec<(BlockId, u32, bool)>) {
        self.total.fetch_add(found.len(), Relaxed);
        let mut state = self.dir.state.lock();
        for (id, atime, staged) in found.drain(..) {
            state.index.insert_scanned(id, atime, staged);
        }
    }
}
