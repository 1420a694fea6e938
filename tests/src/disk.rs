//! A file system of a test's own, small enough to get full.

use std::path::{Path, PathBuf};

use crate::command::run;

/// A tmpfs, unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    point: PathBuf,
}

impl SmallDisk {
    /// Mounts one on the directory `point`; `options` are those of tmpfs, like `size=24m`.
    ///
    /// # Panics
    /// If it cannot be mounted.
    pub fn mount(point: &Path, options: &str) -> Self {
        let options = format!("{options},mode=755");
        run("mount", ["-t", "tmpfs", "-o", &options, "jfs-e2e-small", &point.to_string_lossy()]).expect_success();
        Self { point: point.to_owned() }
    }

    /// Makes it read-only or writable. `false` while somebody writes to it.
    pub fn set_read_only(&self, read_only: bool) -> bool {
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        run("mount", ["-o", mode, &self.point.to_string_lossy()]).success()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run("umount", ["-l", &self.point.to_string_lossy()]);
    }
}
