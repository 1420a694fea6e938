//! A volume in a temporary directory: metadata in SQLite, in a Redis server of its own or in a cluster, objects in a local directory or
//! in an S3 server of its own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use juicefs_testkit::{
    redis::{RedisCluster, RedisServer, Reply, Wire},
    s3::{ACCESS_KEY, S3Server, SECRET_KEY},
};
use tempfile::TempDir;

use crate::{
    audit::{self, Rest},
    binary::juicefs,
    command::{Finished, run_within},
    mount::Mount,
};

/// Where metadata lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// A file.
    Sqlite,
    /// Database 1 of a server that belongs to the volume.
    Redis,
    /// A slot of a cluster of three nodes, which the tests of this process share.
    RedisCluster,
}

impl Meta {
    /// What `JUICEFS_TEST_META` says; SQLite if it says nothing.
    ///
    /// # Panics
    /// If it says something else.
    pub fn of_this_run() -> Self {
        match env::var("JUICEFS_TEST_META").as_deref() {
            Err(_) | Ok("" | "sqlite3") => Self::Sqlite,
            Ok("redis") => Self::Redis,
            Ok("redis-cluster") => Self::RedisCluster,
            Ok(other) => panic!("JUICEFS_TEST_META={other}: none of sqlite3, redis and redis-cluster"),
        }
    }
}

/// The database that holds the volume. Not 0, so that what ignores the number of the URL is found.
const DATABASE: u32 = 1;

/// Its nodes end with the process of the tests.
static CLUSTER: LazyLock<RedisCluster> = LazyLock::new(RedisCluster::default);
/// The number of the next volume in it.
static NEXT_IN_CLUSTER: AtomicU32 = AtomicU32::new(DATABASE);

/// A formatted volume and everything that belongs to it; removed with its directory when it is dropped.
///
/// Mounts of it must be dropped first, which the order of the variables in a test does by itself.
#[derive(Debug)]
pub struct Volume {
    store: Store,
    dir: TempDir,
    bucket: PathBuf,
    variables: Vec<(String, String)>,
    objects: Option<S3Server>,
}

/// The bucket on the volume's own S3 server.
const BUCKET: &str = "objects";

#[derive(Debug)]
enum Store {
    File,
    Server(Box<RedisServer>),
    /// The volume of this number in the shared cluster.
    Cluster(u32),
    /// Somebody else's, by its URL.
    Foreign(String),
}

impl Volume {
    /// A volume without trash.
    pub fn new() -> Self {
        Self::with(&["--trash-days", "0"])
    }

    /// A volume formatted with `flags` beside those that say where it lies.
    pub fn with(flags: &[&str]) -> Self {
        Self::on(Meta::of_this_run(), flags)
    }

    /// As [`Volume::with`], for tests that are about one engine in any case.
    pub fn on(meta: Meta, flags: &[&str]) -> Self {
        let volume = Self::unformatted_on(meta);
        volume.format(flags).expect_success();
        volume
    }

    /// A volume whose objects lie on an S3 server of its own, formatted with `flags`.
    pub fn with_objects_on_s3(flags: &[&str]) -> Self {
        let volume = Self::unformatted_on_s3();
        volume.format(flags).expect_success();
        volume
    }

    /// As [`Volume::unformatted`], with the objects on an S3 server of its own that has no bucket yet.
    pub fn unformatted_on_s3() -> Self {
        Self::unformatted_with_objects_on(S3Server::start())
    }

    /// As [`Volume::unformatted_on_s3`], on a server that was started in a special way.
    pub fn unformatted_with_objects_on(server: S3Server) -> Self {
        let bucket = server.bucket_dir(BUCKET);
        Self { bucket, objects: Some(server), ..Self::unformatted() }
    }

    /// A place for a volume where nothing was formatted yet.
    pub fn unformatted() -> Self {
        Self::unformatted_on(Meta::of_this_run())
    }

    /// As [`Volume::unformatted`], for tests that are about one engine in any case.
    pub fn unformatted_on(meta: Meta) -> Self {
        Self::beside(match meta {
            Meta::Sqlite => Store::File,
            Meta::Redis => Store::Server(Box::default()),
            Meta::RedisCluster => Store::Cluster(NEXT_IN_CLUSTER.fetch_add(1, Ordering::Relaxed)),
        })
    }

    /// A volume on a Redis server that was started for it in a special way.
    pub fn on_server(server: RedisServer, flags: &[&str]) -> Self {
        let volume = Self::beside(Store::Server(Box::new(server)));
        volume.format(flags).expect_success();
        volume
    }

    /// A volume whose metadata lie where `url` says: on servers that belong to the test, and outlive the volume.
    pub fn at(url: &str, flags: &[&str]) -> Self {
        let volume = Self::beside(Store::Foreign(url.to_owned()));
        volume.format(flags).expect_success();
        volume
    }

    fn beside(store: Store) -> Self {
        let dir = tempfile::Builder::new().prefix("jfs-e2e-").tempdir().expect("a temporary directory");
        let bucket = dir.path().join("objects");
        fs::create_dir(&bucket).expect("the object directory");
        Self { store, dir, bucket, variables: Vec::new(), objects: None }
    }

    /// Runs `juicefs format` for this place.
    pub fn format(&self, flags: &[&str]) -> Finished {
        let (storage, bucket) = match &self.objects {
            None => ("file", format!("{}/", self.bucket.display())),
            Some(server) => ("s3", server.bucket_url(BUCKET)),
        };
        let meta = self.meta_url();
        let mut args = vec!["format", "--storage", storage, "--bucket", bucket.as_str()];
        if self.objects.is_some() {
            args.extend(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        }
        args.extend(flags);
        args.extend([meta.as_str(), "e2e-volume"]);
        self.juicefs(&args)
    }

    /// Sets an environment variable for all clients of this volume from now on; an empty value is as good as none.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// The environment variables of its clients.
    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// Runs the client with these arguments. It gets 60 seconds.
    pub fn juicefs(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(juicefs());
        command.args(args).current_dir(self.dir.path()).envs(self.variables.iter().cloned());
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

    /// The S3 server of this volume.
    ///
    /// # Panics
    /// If it has none.
    pub fn object_server(&self) -> &S3Server {
        self.objects.as_ref().expect("this volume has an S3 server of its own")
    }

    /// The object directory; that of the bucket on an S3 server.
    pub fn bucket(&self) -> &Path {
        &self.bucket
    }

    /// The SQLite file.
    ///
    /// # Panics
    /// If the metadata lie elsewhere.
    pub fn meta_path(&self) -> PathBuf {
        assert!(matches!(self.store, Store::File), "a volume on SQLite");
        self.dir.path().join("meta.db")
    }

    /// The Redis server of this volume.
    ///
    /// # Panics
    /// If it has none.
    pub fn server(&self) -> &RedisServer {
        match &self.store {
            Store::Server(server) => server,
            _ => panic!("this volume has no Redis server of its own"),
        }
    }

    /// A connection to the database of this volume, in a cluster to the node that has it.
    ///
    /// # Panics
    /// If it has no Redis server of its own, or that does not answer.
    pub fn redis(&self) -> Wire {
        match &self.store {
            Store::Cluster(_) => CLUSTER.nodes()[CLUSTER.owner(CLUSTER.slot_of(&self.key("")))].wire(0),
            _ => self.server().wire(DATABASE),
        }
    }

    /// The key of this name in Redis, which in a cluster begins with the number of the volume.
    pub fn key(&self, name: &str) -> String {
        match &self.store {
            Store::Cluster(number) => format!("{{{number}}}{name}"),
            _ => name.to_owned(),
        }
    }

    /// The URL of the metadata.
    pub fn meta_url(&self) -> String {
        match &self.store {
            Store::File => format!("sqlite3://{}", self.meta_path().display()),
            Store::Server(server) => server.url(DATABASE),
            Store::Cluster(number) => CLUSTER.url(*number),
            Store::Foreign(url) => url.clone(),
        }
    }

    /// Whether anything was ever written where the metadata belong.
    ///
    /// # Panics
    /// If they lie on servers of somebody else.
    pub fn has_metadata(&self) -> bool {
        match &self.store {
            Store::File => self.meta_path().exists(),
            Store::Server(_) => self.redis().call(&["DBSIZE"]) != Reply::Int(0),
            Store::Cluster(_) => !self.redis().keys(&self.key("*")).is_empty(),
            Store::Foreign(_) => panic!("what is in {self:?} is for the test to say"),
        }
    }

    /// Makes sure that the records and objects of this volume fit together. No client may have it mounted.
    ///
    /// # Panics
    /// If they do not, with all that is wrong.
    pub fn assert_sound(&self, rest: Rest) {
        self.assert_none(&self.faults(rest));
    }

    /// All that does not fit, one sentence each.
    ///
    /// # Panics
    /// If the metadata cannot be read, or lie on servers of somebody else.
    pub fn faults(&self, rest: Rest) -> Vec<String> {
        let records = match &self.store {
            Store::File => audit::of_sqlite(&self.meta_path()),
            Store::Server(_) | Store::Cluster(_) => audit::of_redis(&mut self.redis(), &self.key(""), rest),
            Store::Foreign(_) => panic!("{self:?} is looked at through the test's own connection"),
        };
        audit::faults(records, self, rest)
    }

    /// As [`Volume::assert_sound`], for a volume on servers of the test: `redis` holds its keys, which begin with
    /// `prefix`.
    ///
    /// # Panics
    /// If something does not fit, with all that is wrong.
    pub fn assert_sound_in(&self, redis: &mut Wire, prefix: &str, rest: Rest) {
        self.assert_none(&audit::faults(audit::of_redis(redis, prefix, rest), self, rest));
    }

    /// Panics with the faults, after what the clients have logged about trouble.
    fn assert_none(&self, faults: &[String]) {
        if faults.is_empty() {
            return;
        }
        for entry in fs::read_dir(self.dir()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let log = fs::read_to_string(&path).unwrap_or_default();
                let trouble: Vec<&str> = log.lines().filter(|line| !line.contains("<INFO>")).collect();
                let shown = &trouble[trouble.len().saturating_sub(40)..];
                eprintln!("--- {}\n{}", path.display(), shown.join("\n"));
            }
        }
        let shown: Vec<&str> = faults.iter().take(30).map(String::as_str).collect();
        panic!("{} faults in the volume:\n{}", faults.len(), shown.join("\n"));
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
