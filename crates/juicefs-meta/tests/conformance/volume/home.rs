//! Where the records of a volume are, and engines on it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use juicefs_meta::{Engine, engine::mem::MemEngine};
use juicefs_testkit::redis::{RedisCluster, RedisServer, Wire};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::Kind;
use crate::toy::ToyEngine;

/// Logical databases of the shared server: enough for one per test that runs at the same time, and many to rest.
const DATABASES: u32 = 512;

/// The server that all tests of this process share.
struct Shared {
    server: RedisServer,
    /// Databases nobody uses, the one that has rested longest first.
    free: Mutex<VecDeque<u32>>,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let server = RedisServer::start(&["--databases", &DATABASES.to_string()]);
    Shared { server, free: Mutex::new((0..DATABASES).collect()) }
});

/// A logical database of the shared server that nobody else uses.
struct Lease(u32);

impl Lease {
    fn take() -> Self {
        let number = SHARED.free.lock().pop_front().expect("fewer tests than databases");
        SHARED.server.wire(number).call(&["FLUSHDB"]);
        Self(number)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        SHARED.server.wire(self.0).call(&["FLUSHDB"]);
        SHARED.free.lock().push_back(self.0);
    }
}

/// The cluster that all tests of this process share. Volumes in it have numbers of their own, of which there are enough.
static CLUSTER: LazyLock<RedisCluster> = LazyLock::new(RedisCluster::default);
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database that holds one volume and nothing else.
pub(crate) struct Database {
    url: String,
    prefix: String,
    wire: Box<dyn Fn() -> Wire + Send + Sync>,
    _lease: Option<Lease>,
}

impl Database {
    /// One of the shared server.
    fn shared() -> Self {
        let lease = Lease::take();
        let number = lease.0;
        let wire = Box::new(move || SHARED.server.wire(number));
        Self { url: SHARED.server.url(number), prefix: String::new(), wire, _lease: Some(lease) }
    }

    /// A volume in the shared cluster, whose slots stay where they are.
    fn in_cluster() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{{{number}}}");
        let node = CLUSTER.owner(CLUSTER.slot_of(&prefix));
        Self::own(CLUSTER.url(number), &prefix, move || CLUSTER.nodes()[node].wire(0))
    }

    /// One that the test brought itself: `wire` connects to the server that has it now, and its keys begin with `prefix`.
    pub(crate) fn own(url: String, prefix: &str, wire: impl Fn() -> Wire + Send + Sync + 'static) -> Self {
        Self { url, prefix: prefix.to_owned(), wire: Box::new(wire), _lease: None }
    }

    /// What all keys begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of this name.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A connection to look at it.
    pub(crate) fn wire(&self) -> Wire {
        (self.wire)()
    }

    /// How it is reached through a proxy that listens on this port.
    pub(crate) fn url_through(&self, port: u16) -> String {
        let (server, number) = self.url.rsplit_once('/').expect("a URL with a database");
        let (host, _port) = server.rsplit_once(':').expect("a URL with a port");
        format!("{host}:{port}/{number}")
    }

    /// The port of the server.
    pub(crate) fn port(&self) -> u16 {
        let (server, _number) = self.url.rsplit_once('/').expect("a URL with a database");
        server.rsplit_once(':').and_then(|(_host, port)| port.parse().ok()).expect("a URL with a port")
    }
}

/// The store of one volume. What it holds is gone with it.
pub(crate) enum Home {
    /// Engines share the records by being one and the same.
    Mem(Arc<MemEngine>),
    Sqlite(TempDir),
    Redis(Database),
    /// An engine that the test brought itself.
    Foreign(Arc<dyn Engine>),
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.engine().describe())
    }
}

impl Home {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Mem => Self::Mem(Arc::new(MemEngine::new())),
            Kind::Toy => Self::Foreign(Arc::new(ToyEngine::default())),
            Kind::Sqlite => Self::Sqlite(tempfile::tempdir().expect("a directory")),
            Kind::Redis => Self::Redis(Database::shared()),
            Kind::RedisCluster => Self::Redis(Database::in_cluster()),
        }
    }

    /// An engine on it, with connections of its own where there are any.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        let url = match self {
            Self::Mem(engine) => return Arc::clone(engine) as Arc<dyn Engine>,
            Self::Foreign(engine) => return Arc::clone(engine),
            Self::Sqlite(dir) => format!("sqlite3://{}", dir.path().join("meta.db").display()),
            Self::Redis(database) => database.url.clone(),
        };
        juicefs_meta::open(&url).expect("an engine")
    }
}
