//! A cache directory is kept within its limits here (format: data.md §4.6).

use std::{io, sync::atomic::Ordering::Relaxed};

use super::{dir::CacheDir, modes::remove_if_there};
use crate::{
    block::BlockId,
    config::{CacheConfig, Eviction},
};

/// What the thread that looks after the limits is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TidyCall {
    /// It should look now, for a limit was passed.
    Now,
    /// It should end, for the cache is closing.
    Stop,
}

/// The limits of one directory.
#[derive(Debug)]
pub(super) struct Rules {
    max_bytes: u64,
    /// The most blocks, or 0 for no such limit.
    max_items: u64,
    free_ratio: f64,
    expire_secs: u32,
}

/// Free part of a file system.
struct Space {
    total_bytes: u64,
    free_bytes: u64,
    total_files: u64,
    free_files: u64,
}

impl Rules {
    /// Gives each of `dirs` directories an even share of what all may hold.
    pub(super) fn new(config: &CacheConfig, dirs: usize) -> Self {
        let dirs = dirs.max(1) as u64;
        Self {
            max_bytes: config.size_bytes / dirs,
            max_items: config.items / dirs,
            free_ratio: config.free_space_ratio,
            expire_secs: u32::try_from(config.expire.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// Measures the file system and sets the limits of `dir`. Returns how many bytes and files should be free but are not.
    pub(super) fn measure(&self, dir: &CacheDir) -> io::Result<(u64, u64)> {
        let space = dir.gate.watch(|| space_of(dir))?;
        let (max_bytes, max_items) = self.limits(&space);
        dir.max_bytes.store(max_bytes, Relaxed);
        dir.max_items.store(max_items, Relaxed);
        let (bytes_short, files_short) = self.shortage(&space);
        dir.short_of_space.store(bytes_short > 0 || files_short > 0, Relaxed);
        dir.short_for_stages.store(self.half().shortage(&space) != (0, 0), Relaxed);
        Ok((bytes_short, files_short))
    }

    /// Measures the file system, and deletes blocks that are too many or too old. Returns the blocks that went.
    ///
    /// Until the first scan is over nothing goes, because the blocks known so far are those that were used last.
    pub(super) fn apply(&self, dir: &CacheDir) -> Vec<BlockId> {
        let (bytes_short, files_short) = match self.measure(dir) {
            Ok(short) => short,
            Err(e) => {
                tracing::warn!("cannot measure the file system of {}: {e}", dir.root().display());
                return Vec::new();
            }
        };
        if dir.first_scan.load(Relaxed) {
            return Vec::new();
        }
        let (max_bytes, max_items) = (dir.max_bytes.load(Relaxed), dir.max_items.load(Relaxed));
        let mut gone = Vec::new();
        if dir.eviction() != Eviction::None {
            let mut state = dir.state.lock();
            let (used, items) = (state.index.used_bytes(), state.index.len() as u64);
            let over = used > max_bytes || items > max_items;
            if over || bytes_short > 0 || files_short > 0 {
                // A little below the limit, so that not every new block has to evict one.
                let goal_bytes = if bytes_short > 0 { used.saturating_sub(bytes_short) } else { used.min(max_bytes) };
                let goal_items = items.min(max_items).saturating_sub(files_short);
                let over_bytes = used > max_bytes || bytes_short > 0;
                let over_items = items > max_items || files_short > 0;
                let goal_bytes = if over_bytes { part(goal_bytes, 95) } else { u64::MAX };
                let goal_items = if over_items { part(goal_items, 99) } else { u64::MAX };
                gone = state.index.evict(goal_bytes, goal_items);
            }
        }
        if self.expire_secs > 0 {
            let before = dir.now().saturating_sub(self.expire_secs);
            gone.extend(dir.state.lock().index.expire(before));
        }
        // Deleted outside of the lock: it may take long.
        for id in &gone {
            let path = dir.path(*id);
            if let Err(e) = dir.gate.watch(|| remove_if_there(&path)) {
                tracing::warn!("cannot delete cache file {}: {e}", path.display());
            }
        }
        gone
    }

    /// How many bytes and blocks may be held on such a file system.
    fn limits(&self, space: &Space) -> (u64, u64) {
        let usable = |total: u64| scale(total, 1.0 - self.free_ratio);
        let items = match (self.max_items, space.total_files) {
            (0, 0) => u64::MAX,
            (0, files) => usable(files),
            (items, 0) => items,
            (items, files) => items.min(usable(files)),
        };
        (self.max_bytes.min(usable(space.total_bytes)), items)
    }

    /// The same rules with half of the free space.
    fn half(&self) -> Self {
        Self { free_ratio: self.free_ratio / 2.0, ..*self }
    }

    /// How many bytes and files should be free but are not.
    fn shortage(&self, space: &Space) -> (u64, u64) {
        let short = |total: u64, free: u64| scale(total, self.free_ratio).saturating_sub(free);
        (short(space.total_bytes, space.free_bytes), short(space.total_files, space.free_files))
    }
}

fn space_of(dir: &CacheDir) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(dir.root())?;
    Ok(Space {
        total_bytes: stat.f_blocks * stat.f_frsize,
        free_bytes: stat.f_bavail * stat.f_frsize,
        total_files: stat.f_files,
        free_files: stat.f_ffree,
    })
}

fn part(value: u64, percent: u64) -> u64 {
    value / 100 * percent + value % 100 * percent / 100
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a limit need not be exact to the byte"
)]
fn scale(value: u64, ratio: f64) -> u64 {
    (value as f64 * ratio) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(max_bytes: u64, max_items: u64, free_ratio: f64) -> Rules {
        Rules { max_bytes, max_items, free_ratio, expire_secs: 0 }
    }

    fn space(free_bytes: u64, total_files: u64, free_files: u64) -> Space {
        Space { total_bytes: 1000, free_bytes, total_files, free_files }
    }

    #[test]
    fn limits_leave_the_free_part() {
        assert_eq!(rules(5000, 0, 0.25).limits(&space(0, 400, 0)), (750, 300));
        assert_eq!(rules(500, 100, 0.25).limits(&space(0, 400, 0)), (500, 100));
        assert_eq!(rules(500, 0, 0.25).limits(&space(0, 0, 0)), (500, u64::MAX), "unknown inodes set no limit");
        assert_eq!(rules(500, 7, 0.25).limits(&space(0, 0, 0)), (500, 7), "and keep that of the user");
    }

    #[test]
    fn shortage_is_what_lacks_of_the_free_part() {
        assert_eq!(rules(0, 0, 0.25).shortage(&space(300, 400, 90)), (0, 10));
        assert_eq!(rules(0, 0, 0.25).shortage(&space(200, 0, 0)), (50, 0), "unknown inodes are never short");
    }
}
