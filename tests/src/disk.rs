//! File systems of a test's own: small enough to get full, or on a disk that hangs.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use crate::{
    command::{kill_tree, run},
    mount::Mount,
    volume::{Meta, Volume},
};

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

/// An ext4 file system on a loop device, whose file lies on a mount of a volume of its own. While the client of that mount is
/// stopped the disk hangs as failing hardware does: whoever waits for it cannot even be killed.
#[derive(Debug)]
pub struct HangingDisk {
    point: PathBuf,
    below: Mount,
    _volume: Volume,
}

impl HangingDisk {
    /// Mounts one of `mib` MiB on the directory `point`. It does well.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn mount(point: &Path, mib: u64) -> Self {
        let volume = Volume::on(Meta::Sqlite, &["--trash-days", "0"]);
        let below = volume.mount_with("below", &["--no-bgjob", "--heartbeat", "3600", "--cache-size", "0"]);
        let image = below.join("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("the image of the disk");
        run("mkfs.ext4", [Path::new("-qFEnodiscard"), &image]).expect_success();
        run("mount", [Path::new("-oloop"), &image, point]).expect_success();
        Self { point: point.to_owned(), below, _volume: volume }
    }

    /// From now on, and until the result is dropped, nothing that must be read from the disk or written to it gets done.
    #[must_use]
    pub fn hang(&self) -> Hang<'_> {
        kill_tree(self.below.pid(), libc::SIGSTOP);
        Hang { disk: self }
    }
}

/// The time in which a disk hangs. It must end before whoever uses the disk can.
#[derive(Debug)]
pub struct Hang<'a> {
    disk: &'a HangingDisk,
}

impl Drop for Hang<'_> {
    fn drop(&mut self) {
        kill_tree(self.disk.below.pid(), libc::SIGCONT);
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        let _ = run("umount", ["-l", &self.point.to_string_lossy()]);
    }
}
