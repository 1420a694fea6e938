//! A formatted volume on an engine of choice, and short calls on it.

mod home;

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};
use std::{fmt, time::Duration};

use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, ChunkIndex, Clock, Errno, FileType, Format, Ino, Meta, MetaError, MetaResult, SliceRecord, Timestamp,
    meta::{NewNode, NewSlice, OpenFlags, RenameFlags, Renamed, Written},
};
use juicefs_meta::{AtimeMode, Client, ClientConfig, Engine};

pub(crate) use home::{Database, Home};

/// Some minutes before an hour ends, so that tests can cross it or not.
pub(crate) const START_SECS: i64 = 1_700_000_100;

/// A clock that stands until it is moved.
#[derive(Debug)]
pub(crate) struct StandingClock {
    wall_nanos: AtomicI64,
    awake_nanos: AtomicU64,
}

impl StandingClock {
    pub(crate) fn at(secs: i64) -> Arc<Self> {
        Arc::new(Self { wall_nanos: AtomicI64::new(secs * 1_000_000_000), awake_nanos: AtomicU64::new(0) })
    }

    /// Time passes.
    pub(crate) fn advance(&self, by: Duration) {
        self.step(i64::try_from(by.as_secs()).expect("short"));
        self.wall_nanos.fetch_add(by.subsec_nanos().into(), Ordering::Relaxed);
        self.awake_nanos.fetch_add(u64::try_from(by.as_nanos()).expect("short"), Ordering::Relaxed);
    }

    /// Somebody sets the wall clock.
    pub(crate) fn step(&self, secs: i64) {
        self.wall_nanos.fetch_add(secs * 1_000_000_000, Ordering::Relaxed);
    }
}

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.wall_nanos.load(Ordering::Relaxed).into())
    }

    fn awake(&self) -> Duration {
        Duration::from_nanos(self.awake_nanos.load(Ordering::Relaxed))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Mem,
    Toy,
    Sqlite,
    Redis,
    RedisCluster,
}

impl Kind {
    /// Whether the records have the keys of Redis.
    pub(crate) fn is_redis(self) -> bool {
        matches!(self, Self::Redis | Self::RedisCluster)
    }
}

pub(crate) const KINDS: [Kind; 5] = [Kind::Mem, Kind::Toy, Kind::Sqlite, Kind::Redis, Kind::RedisCluster];

pub(crate) struct Volume {
    pub(crate) client: Arc<Client>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) clock: Arc<StandingClock>,
    /// The last to go: engines on it go before.
    pub(crate) home: Home,
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

/// A setting as tests want it: directory statistics on, trash as asked.
pub(crate) fn format(trash_days: i64) -> Format {
    Format {
        name: "test".into(),
        uuid: "d65a340a-25f1-4924-8b72-4e010fc6616a".into(),
        storage: "file".into(),
        bucket: "/nowhere/".into(),
        block_size: 4096,
        meta_version: 1,
        dir_stats: true,
        trash_days,
        ..Format::default()
    }
}

pub(crate) fn config(clock: &Arc<StandingClock>) -> ClientConfig {
    ClientConfig {
        read_only: false,
        skip_dir_mtime: Duration::ZERO,
        subdir: None,
        heartbeat: Duration::from_secs(12),
        keep_replaced: Duration::ZERO,
        atime_mode: AtimeMode::NoAtime,
        sort_dir: true,
        fast_statfs: false,
        clock: Arc::clone(clock) as Arc<dyn Clock>,
    }
}

impl Volume {
    pub(crate) async fn new(kind: Kind, trash_days: i64) -> Self {
        Self::with_format(kind, &format(trash_days)).await
    }

    pub(crate) async fn with_format(kind: Kind, format: &Format) -> Self {
        Self::at(Home::new(kind), format).await
    }

    /// On an engine that is made for the test.
    pub(crate) async fn on(engine: Arc<dyn Engine>, format: &Format) -> Self {
        Self::at(Home::Foreign(engine), format).await
    }

    pub(crate) async fn at(home: Home, format: &Format) -> Self {
        let engine = home.engine();
        let clock = StandingClock::at(START_SECS);
        Client::init(&engine, format, false, clock.as_ref()).await.expect("formatted");
        let client = Client::open(Arc::clone(&engine), config(&clock)).await.expect("opened");
        client.new_session(Bytes::from_static(b"{}")).await.expect("a session");
        Self { client, engine, clock, home }
    }

    /// Another client of the same volume, with a session.
    pub(crate) async fn second(&self, config: ClientConfig) -> Arc<Client> {
        let client = Client::open(Arc::clone(&self.engine), config).await.expect("opened");
        client.new_session(Bytes::from_static(b"{\"second\": 1}")).await.expect("a session");
        client
    }

    pub(crate) fn tick(&self) {
        self.clock.advance(Duration::from_millis(1));
    }

    pub(crate) async fn make(&self, parent: Ino, name: &str, kind: FileType) -> Ino {
        self.tick();
        let made = self.client.mknod(&root(), parent, name.as_bytes(), node(kind, 0o755)).await;
        made.unwrap_or_else(|e| panic!("making {name}: {e}")).0
    }

    pub(crate) async fn mkdir(&self, parent: Ino, name: &str) -> Ino {
        self.make(parent, name, FileType::Directory).await
    }

    pub(crate) async fn file(&self, parent: Ino, name: &str) -> Ino {
        self.make(parent, name, FileType::File).await
    }

    pub(crate) async fn attr(&self, ino: Ino) -> Attr {
        self.client.getattr(ino).await.expect("a node")
    }

    pub(crate) async fn find(&self, parent: Ino, name: &str) -> Result<Ino, Errno> {
        posix(self.client.lookup(&root(), parent, name.as_bytes()).await).map(|(ino, _)| ino)
    }

    pub(crate) async fn unlink(&self, parent: Ino, name: &str) -> Result<Option<juicefs_core::meta::Freed>, Errno> {
        self.tick();
        posix(self.client.unlink(&root(), parent, name.as_bytes(), false).await).map(|removed| removed.freed)
    }

    pub(crate) async fn rename(&self, from: (Ino, &str), to: (Ino, &str)) -> Result<Renamed, Errno> {
        self.rename_with(from, to, RenameFlags::default()).await
    }

    pub(crate) async fn rename_with(
        &self,
        (from, name): (Ino, &str),
        (to, new_name): (Ino, &str),
        flags: RenameFlags,
    ) -> Result<Renamed, Errno> {
        self.tick();
        posix(self.client.rename(&root(), from, name.as_bytes(), to, new_name.as_bytes(), flags).await)
    }

    /// Writes a fresh slice of `len` bytes at `at` of the file, within one chunk.
    pub(crate) async fn write(&self, ino: Ino, at: u64, len: u32) -> Result<Written, Errno> {
        self.tick();
        let id = self.client.new_slice_id().await.expect("an id");
        let (index, pos) = (at / juicefs_core::limits::CHUNK_SIZE, at % juicefs_core::limits::CHUNK_SIZE);
        let record = SliceRecord { pos: pos as u32, id, size: len, off: 0, len };
        posix(write_slice(&self.client, ino, index as u32, record, self.clock.now()).await)
    }

    pub(crate) async fn open_rw(&self, ino: Ino) {
        let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
        self.client.open(&root(), ino, flags).await.expect("opened");
    }
}

/// Commits one slice.
pub(crate) async fn write_slice(
    client: &Client,
    ino: Ino,
    index: ChunkIndex,
    record: SliceRecord,
    mtime: Timestamp,
) -> MetaResult<Written> {
    client.write_slices(client.session(), ino, vec![NewSlice::At(index, record)], mtime).await
}

pub(crate) fn root() -> Caller {
    Caller { check_permission: true, ..Caller::root() }
}

pub(crate) fn user(uid: u32) -> Caller {
    Caller { uid, gid: uid, check_permission: true, ..Caller::default() }
}

pub(crate) fn node(kind: FileType, mode: u16) -> NewNode {
    NewNode { kind, mode, umask: 0o022, rdev: 0, target: Bytes::new() }
}

/// The errno of an operation; any other failure fails the test.
pub(crate) fn posix<T>(result: MetaResult<T>) -> Result<T, Errno> {
    result.map_err(|error| match error {
        MetaError::Posix(errno) => errno,
        other => panic!("{other:?}"),
    })
}

/// Runs a scenario on every engine.
pub(crate) fn on_all<F: Future<Output = ()>>(scenario: impl Fn(Kind) -> F) {
    for kind in KINDS {
        println!("engine {kind:?}");
        block_on(scenario(kind));
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
