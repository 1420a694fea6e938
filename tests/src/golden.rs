//! The golden volumes: unpacked, mounted read-only, compared.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use juicefs_testkit::redis::{RedisServer, Wire};
use tempfile::TempDir;

use crate::{
    command::{Finished, run_in, run_within},
    environment::golden_dir,
    mount::Mount,
};

/// One unpacked golden volume.
#[derive(Debug)]
pub struct GoldenVolume {
    /// Of volumes on Redis.
    server: Option<RedisServer>,
    dir: TempDir,
    source: PathBuf,
    bucket: String,
}

impl GoldenVolume {
    /// Unpacks the volume `name` into a temporary directory; one on Redis is loaded into a server of its own. What its
    /// last client had in its cache becomes the cache of mounts on `mnt`.
    ///
    /// # Panics
    /// If it is not there or cannot be unpacked.
    pub fn unpack(name: &str) -> Self {
        let source = golden_dir().join(name).canonicalize().unwrap_or_else(|error| panic!("golden {name}: {error}"));
        let dir = tempfile::Builder::new().prefix("jfs-golden-").tempdir().expect("a temporary directory");
        let from = source.display();
        let script = format!(
            "mkdir objects cache-mnt; tar -xzf {from}/objects.tar.gz -C objects;
             if [ -e {from}/cache.tar.gz ]; then tar -xzf {from}/cache.tar.gz -C cache-mnt; fi;
             if [ -e {from}/meta.db.gz ]; then gzip -dc {from}/meta.db.gz > meta.db; fi"
        );
        run_in(dir.path(), &script).expect_success();
        let dump = source.join("meta.rdb");
        let server = dump.exists().then(|| RedisServer::with_rdb(&dump));
        // Shards lie in sub-directories that a pattern in the bucket's name picks.
        let shards = if name.ends_with("hashprefix") { "%d/" } else { "" };
        let bucket = format!("{}/objects/{shards}", dir.path().display());
        Self { server, dir, source, bucket }
    }

    /// Mounts it read-only with its objects at the place where they were unpacked.
    pub fn mount(&self) -> Mount {
        self.mount_with(&["--read-only", "--no-bgjob", "--enable-xattr", "--enable-ioctl", "--enable-cap"])
    }

    /// Mounts it with these flags, with its objects at the place where they were unpacked.
    pub fn mount_with(&self, flags: &[&str]) -> Mount {
        let flags: Vec<&str> = flags.iter().copied().chain(["--bucket", self.bucket.as_str()]).collect();
        let cache = self.dir.path().join("cache-mnt");
        Mount::start_at(&self.meta_url(), self.dir.path(), "mnt", &cache, &flags, &self.variables())
    }

    /// Where it was unpacked.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What `--bucket` takes for the place of its objects.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What its clients must have in their environment: the passphrase of an encrypted volume.
    pub fn variables(&self) -> Vec<(String, String)> {
        let passphrase = fs::read_to_string(self.source.join("passphrase.txt")).ok();
        passphrase.map(|text| ("JFS_RSA_PASSPHRASE".to_owned(), text.trim_end().to_owned())).into_iter().collect()
    }

    /// The URL of its metadata.
    pub fn meta_url(&self) -> String {
        match &self.server {
            Some(server) => server.url(0),
            None => format!("sqlite3://{}/meta.db", self.dir.path().display()),
        }
    }

    /// A connection to its database.
    ///
    /// # Panics
    /// If it does not lie on Redis.
    pub fn redis(&self) -> Wire {
        self.server.as_ref().expect("a golden volume on Redis").wire(0)
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
