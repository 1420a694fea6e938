//! The golden volumes: unpacked, mounted read-only, compared.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    command::{Finished, run_in, run_within},
    environment::golden_dir,
    mount::Mount,
};

/// One unpacked golden volume.
#[derive(Debug)]
pub struct GoldenVolume {
    dir: TempDir,
    source: PathBuf,
    bucket: String,
}

impl GoldenVolume {
    /// Unpacks the volume `name` (an SQLite one) into a temporary directory.
    ///
    /// # Panics
    /// If it is not there or cannot be unpacked.
    pub fn unpack(name: &str) -> Self {
        let source = golden_dir().join(name).canonicalize().unwrap_or_else(|error| panic!("golden {name}: {error}"));
        let dir = tempfile::Builder::new().prefix("jfs-golden-").tempdir().expect("a temporary directory");
        let from = source.display();
        run_in(
            dir.path(),
            &format!("mkdir objects; tar -xzf {from}/objects.tar.gz -C objects; gzip -dc {from}/meta.db.gz > meta.db"),
        )
        .expect_success();
        // Shards lie in sub-directories that a pattern in the bucket's name picks.
        let shards = if name.ends_with("hashprefix") { "%d/" } else { "" };
        let bucket = format!("{}/objects/{shards}", dir.path().display());
        Self { dir, source, bucket }
    }

    /// Mounts it read-only with its objects at the place where they were unpacked.
    pub fn mount(&self) -> Mount {
        let flags = ["--read-only", "--no-bgjob", "--enable-xattr", "--enable-ioctl", "--enable-cap", "--bucket"];
        let flags: Vec<&str> = flags.into_iter().chain([self.bucket.as_str()]).collect();
        let cache = self.dir.path().join("cache");
        let meta = format!("sqlite3://{}/meta.db", self.dir.path().display());
        Mount::start_at(&meta, self.dir.path(), "mnt", &cache, &flags)
    }

    /// The truth about it.
    pub fn manifest(&self) -> PathBuf {
        self.source.join("manifest.json")
    }
}

/// Runs `verify.py MANIFEST MOUNT`: it prints each difference and fails if there is one.
pub fn verify(manifest: &Path, mount: &Path) -> Finished {
    let mut command = Command::new("python3");
    command.arg(golden_dir().join("verify.py")).arg(manifest).arg(mount);
    run_within(command, Duration::from_secs(300))
}
