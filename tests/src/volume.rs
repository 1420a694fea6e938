//! A volume in a temporary directory: SQLite metadata beside a local object directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    audit::{Rest, audit},
    binary::juicefs,
    command::{Finished, run_within},
    mount::Mount,
};

/// A formatted volume and everything that belongs to it; removed with its directory when it is dropped.
///
/// Mounts of it must be dropped first, which the order of the variables in a test does by itself.
#[derive(Debug)]
pub struct Volume {
    dir: TempDir,
    bucket: PathBuf,
}

impl Volume {
    /// A volume without trash.
    pub fn new() -> Self {
        Self::with(&["--trash-days", "0"])
    }

    /// A volume formatted with `flags` beside those that say where it lies.
    pub fn with(flags: &[&str]) -> Self {
        let volume = Self::unformatted();
        volume.format(flags).expect_success();
        volume
    }

    /// A place for a volume where nothing was formatted yet.
    pub fn unformatted() -> Self {
        let dir = tempfile::Builder::new().prefix("jfs-e2e-").tempdir().expect("a temporary directory");
        let bucket = dir.path().join("objects");
        fs::create_dir(&bucket).expect("the object directory");
        Self { dir, bucket }
    }

    /// Runs `juicefs format` for this place.
    pub fn format(&self, flags: &[&str]) -> Finished {
        let bucket = format!("{}/", self.bucket.display());
        let meta = self.meta_url();
        let mut args = vec!["format", "--storage", "file", "--bucket", bucket.as_str()];
        args.extend(flags);
        args.extend([meta.as_str(), "e2e-volume"]);
        self.juicefs(&args)
    }

    /// Runs the client with these arguments. It gets 60 seconds.
    pub fn juicefs(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(juicefs());
        command.args(args).current_dir(self.dir.path());
        run_within(command, Duration::from_secs(60))
    }

    /// Mounts it with the flags that most tests want, and waits until it serves.
    pub fn mount(&self) -> Mount {
        self.mount_with("mnt", &["--enable-xattr", "--enable-ioctl"])
    }

    /// Mounts it on the sub-directory `place` with exactly these flags (and an own cache directory), and waits until
    /// it serves.
    pub fn mount_with(&self, place: &str, flags: &[&str]) -> Mount {
        Mount::start(self, place, flags)
    }

    /// The directory of this volume; tests may put their own files there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The object directory.
    pub fn bucket(&self) -> &Path {
        &self.bucket
    }

    /// The SQLite file.
    pub fn meta_path(&self) -> PathBuf {
        self.dir.path().join("meta.db")
    }

    /// The URL of the metadata.
    pub fn meta_url(&self) -> String {
        format!("sqlite3://{}", self.meta_path().display())
    }

    /// Makes sure that the records and objects of this volume fit together. No client may have it mounted.
    ///
    /// # Panics
    /// If they do not, with all that is wrong.
    pub fn assert_sound(&self, rest: Rest) {
        let faults = audit(self, rest);
        let shown: Vec<&str> = faults.iter().take(30).map(String::as_str).collect();
        assert!(faults.is_empty(), "{} faults in the volume:\n{}", faults.len(), shown.join("\n"));
    }

    /// The objects below the bucket with their sizes, without the identity object of the volume.
    pub fn objects(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut pending = vec![self.bucket.clone()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(meta) if meta.is_dir() => pending.push(entry.path()),
                    Ok(meta) if entry.file_name() != "juicefs_uuid" => found.push((entry.path(), meta.len())),
                    _ => {}
                }
            }
        }
        found
    }
}

impl Default for Volume {
    fn default() -> Self {
        Self::new()
    }
}
