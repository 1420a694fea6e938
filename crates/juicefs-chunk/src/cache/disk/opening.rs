//! The directories of a disk cache are opened side by side, so that none holds up the others.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use super::{
    super::{dir::CacheDir, gate::Gate, tidy},
    threads::spawn,
};
use crate::config::ChunkConfig;

/// The most descriptors of cache files that are kept open.
const MAX_OPEN_FILES: usize = 512;
/// A directory that cannot be opened for so long is left out.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// Opens directories and measures their file systems. Leaves out those that fail or do not answer, which is logged.
pub(super) fn open_dirs(
    config: &ChunkConfig,
    paths: &[PathBuf],
    rules: &Arc<tidy::Rules>,
) -> Vec<(Arc<CacheDir>, String)> {
    let deadline = Instant::now() + OPEN_DEADLINE;
    let open = |path: &PathBuf| {
        let (opened, opening) = mpsc::sync_channel(1);
        let gate = Gate::new(path, config.cache.health.clone(), paths.len());
        let (path, config, rules) = (path.clone(), config.clone(), Arc::clone(rules));
        let work = move || {
            let done = open_dir(&path, &config, gate, &rules);
            // Nobody may wait any more.
            let _ = opened.send(done);
        };
        spawn("cache-open", work).map(|_thread| opening)
    };
    let all: Vec<_> = paths.iter().map(open).collect();
    let mut usable = Vec::new();
    for (path, opening) in paths.iter().zip(all) {
        let left = deadline.saturating_duration_since(Instant::now());
        let done = opening.and_then(|opening| opening.recv_timeout(left).ok());
        match done.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
            Ok(dir) => usable.push(dir),
            Err(e) => tracing::warn!("cache directory {} cannot be used: {e}", path.display()),
        }
    }
    usable
}

fn open_dir(
    path: &Path,
    config: &ChunkConfig,
    gate: Arc<Gate>,
    rules: &tidy::Rules,
) -> io::Result<(Arc<CacheDir>, String)> {
    let (dir, id) = CacheDir::open(path, config, gate)?;
    rules.measure(&dir)?;
    Ok((Arc::new(dir), id))
}

/// Returns a quarter of the descriptors that this process may have, within bounds.
pub(super) fn max_open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1024);
    usize::try_from(limit / 4).unwrap_or(MAX_OPEN_FILES).clamp(16, MAX_OPEN_FILES)
}
