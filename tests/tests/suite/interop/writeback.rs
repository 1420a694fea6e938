//! Blocks that one client staged and left, and the other one uploads from the same cache directory.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use e2e::{Mount, Volume, verify, wait_until};

use super::{GoMount, fill, manifest, run_go};

const HOLDING: [&str; 5] = ["--writeback", "--upload-delay", "1h", "--free-space-ratio", "0.001"];
const UPLOADING: [&str; 3] = ["--writeback", "--free-space-ratio", "0.001"];

/// Blocks below `rawstaging` of a cache directory.
fn staged(cache: &Path) -> usize {
    let (mut pending, mut found) = (vec![cache.to_owned()], 0);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => pending.push(entry.path()),
                false => found += usize::from(entry.path().components().any(|part| part.as_os_str() == "rawstaging")),
            }
        }
    }
    found
}

/// A volume whose mounts share one cache directory.
struct Shared {
    volume: Volume,
    cache: PathBuf,
}

impl Shared {
    fn new() -> Self {
        let volume = Volume::with(&["--trash-days", "0", "--block-size", "1M", "--compress", "lz4"]);
        let cache = volume.dir().join("cache");
        Self { volume, cache }
    }

    fn ours(&self, flags: &[&str]) -> Mount {
        let flags = [flags, &["--enable-xattr", "--enable-ioctl"]].concat();
        let volume = &self.volume;
        Mount::start_at(&volume.meta_url(), volume.dir(), "mnt", &self.cache, &flags, volume.variables())
    }

    fn theirs(&self, flags: &[&str]) -> GoMount {
        let volume = &self.volume;
        GoMount::start_at(&volume.meta_url(), volume.dir(), &self.cache, flags, volume.variables())
    }

    /// All that is staged goes up, and is seen from elsewhere by both.
    fn await_upload(&self, wanted: &Path) {
        let done = wait_until(Duration::from_secs(120), || staged(&self.cache) == 0);
        assert!(done, "{} blocks stay", staged(&self.cache));
        let elsewhere = self.volume.mount_with("elsewhere", &["--enable-xattr", "--enable-ioctl"]);
        verify(wanted, elsewhere.path()).expect_success();
        elsewhere.unmount();
        run_go(&["fsck", &self.volume.meta_url()], self.volume.variables()).expect_success();
    }
}

#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn what_a_killed_go_client_staged_we_upload() {
    let shared = Shared::new();
    let other = shared.theirs(&HOLDING);
    fill(&other.point);
    let wanted = manifest(&other.point, &shared.volume.dir().join("theirs.json"));
    other.kill();
    let left = staged(&shared.cache);
    // What is compacted goes to the store at once.
    let stored = shared.volume.objects().len();
    assert!(left > 60 && stored < 20, "{left} blocks are staged, {stored} in the store");
    let mount = shared.ours(&HOLDING);
    verify(&wanted, mount.path()).expect_success();
    assert!(wait_until(Duration::from_secs(60), || mount.stat("staging_blocks") > 60.0), "{}", mount.log());
    mount.unmount();
    let mount = shared.ours(&UPLOADING);
    shared.await_upload(&wanted);
    mount.unmount();
}

#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn what_we_staged_and_left_the_go_client_uploads() {
    let shared = Shared::new();
    let mount = shared.ours(&HOLDING);
    fill(mount.path());
    let wanted = manifest(mount.path(), &shared.volume.dir().join("ours.json"));
    mount.kill().clear();
    let left = staged(&shared.cache);
    // What is compacted goes to the store at once.
    let stored = shared.volume.objects().len();
    assert!(left > 60 && stored < 20, "{left} blocks are staged, {stored} in the store");
    let other = shared.theirs(&HOLDING);
    verify(&wanted, &other.point).expect_success();
    other.unmount();
    let other = shared.theirs(&UPLOADING);
    shared.await_upload(&wanted);
    other.unmount();
}
