//! Where the records of a volume are, and engines on it.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
};

use juicefs_meta::{Engine, engine::mem::MemEngine};
use juicefs_testkit::redis::{RedisServer, Wire};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::Kind;

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
#[derive(Debug)]
pub(crate) struct Database(u32);

impl Database {
    fn lease() -> Self {
        let number = SHARED.free.lock().pop_front().expect("fewer tests than databases");
        let database = Self(number);
        database.wire().call(&["FLUSHDB"]);
        database
    }

    pub(crate) fn url(&self) -> String {
        SHARED.server.url(self.0)
    }

    /// A connection to look at it.
    pub(crate) fn wire(&self) -> Wire {
        SHARED.server.wire(self.0)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.wire().call(&["FLUSHDB"]);
        SHARED.free.lock().push_back(self.0);
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

impl Home {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Mem => Self::Mem(Arc::new(MemEngine::new())),
            Kind::Sqlite => Self::Sqlite(tempfile::tempdir().expect("a directory")),
            Kind::Redis => Self::Redis(Database::lease()),
        }
    }

    /// An engine on it, with connections of its own where there are any.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        let url = match self {
            Self::Mem(engine) => return Arc::clone(engine) as Arc<dyn Engine>,
            Self::Foreign(engine) => return Arc::clone(engine),
            Self::Sqlite(dir) => format!("sqlite3://{}", dir.path().join("meta.db").display()),
            Self::Redis(database) => database.url(),
        };
        juicefs_meta::open(&url).expect("an engine")
    }
}
