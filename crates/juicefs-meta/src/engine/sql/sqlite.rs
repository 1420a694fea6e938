//! The SQLite engine.
//!
//! One connection writes, several read beside it; both are driven on the calling thread where that is possible, because
//! a statement is cheaper than a hop to another thread (`docs/adr/0002-driving-sqlite.md`).
//!
//! * `options`: the URL; `connection`: opening, what the database has; `link`: statements, columns, error codes.
//! * `fetch` and `apply`: records from rows, effects to rows, on any connection.
//! * `readers`: connections that read. `writer`: the one that writes, and how queued operations share its transactions.
//! * `internal`: changes that the engine makes for itself.
//! * `checkpoint`: moves what was committed from the log into the database file, away from the commits.

mod apply;
mod checkpoint;
mod connection;
mod fetch;
mod internal;
mod link;
mod options;
mod readers;
mod writer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{
    error::MetaResult,
    ids::{ChunkIndex, Ino},
    meta::{DirCursor, DirPage},
};

use self::{
    connection::Database,
    internal::{AddDirStats, CounterAdd, GuardedApply},
    link::Fault,
    options::Options,
    readers::Readers,
    writer::WriterQueue,
};
use super::super::{
    ApplyOutcome, Caps, Engine, Found, Patience, Scan,
    optimistic::{SharedOp, Transactions, hand_over},
};
use crate::{
    record::{Counter, DirStat, Key, Value},
    txn::{Effects, ReadSet},
};

/// A volume in a SQLite file.
pub(crate) struct SqliteEngine {
    database: Arc<Database>,
    readers: Readers,
    writer: WriterQueue,
}

impl SqliteEngine {
    /// An engine for what follows `sqlite3://` in a URL. Nothing is created before [`Engine::prepare`].
    ///
    /// # Errors
    /// `Setting` with a sentence for the user when an option is not understood or the directory is not there.
    pub(crate) fn open(address: &str) -> MetaResult<Self> {
        let database = Arc::new(Database::new(Options::parse(address)?)?);
        let readers = Readers::new(Arc::clone(&database));
        let writer = WriterQueue::new(Arc::clone(&database))?;
        Ok(Self { database, readers, writer })
    }
}

#[async_trait]
impl Transactions for SqliteEngine {
    async fn run(&self, op: SharedOp) -> MetaResult<()> {
        self.writer.run(op).await
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    fn describe(&self) -> String {
        self.database.describe()
    }

    fn caps(&self) -> Caps {
        Caps { usage_in_transaction: false, max_compact_records: 1000, lists_by_name: true, indexes_chunks: true }
    }

    fn patience(&self) -> Duration {
        self.database.options().lock_deadline
    }

    async fn load_setting(&self) -> MetaResult<Option<Bytes>> {
        if !self.database.exists().map_err(Fault::into_error)? {
            return Ok(None);
        }
        self.readers.read(fetch::setting).await
    }

    async fn prepare(&self) -> MetaResult<()> {
        self.writer.change_tables(Database::prepare, true).await
    }

    async fn is_empty(&self) -> MetaResult<bool> {
        if !self.database.exists().map_err(Fault::into_error)? {
            return Ok(true);
        }
        self.readers.read(fetch::is_empty).await
    }

    async fn reset(&self) -> MetaResult<()> {
        if !self.database.exists().map_err(Fault::into_error)? {
            return Ok(());
        }
        self.writer.change_tables(Database::reset, false).await
    }

    async fn fetch(&self, keys: &[Key]) -> MetaResult<ReadSet> {
        self.readers.read(|link| fetch::snapshot(link, keys)).await
    }

    async fn apply(&self, read: &ReadSet, effects: &Effects, _patience: Patience) -> MetaResult<ApplyOutcome> {
        Ok(hand_over(self, GuardedApply::new(read, effects)).await?.outcome())
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<Found>> {
        self.readers.read(|link| fetch::lookup(link, parent, name)).await
    }

    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        let after = from.map(|cursor| cursor.0).unwrap_or_default();
        self.readers.read(|link| fetch::readdir(link, ino, &after, with_attrs, limit)).await
    }

    async fn chunk_indexes(
        &self,
        ino: Ino,
        from: ChunkIndex,
        to: ChunkIndex,
        limit: usize,
    ) -> MetaResult<Vec<ChunkIndex>> {
        self.readers.read(|link| fetch::first_chunks(link, ino, from..to, limit)).await
    }

    async fn counter_add(&self, counter: Counter, delta: i64) -> MetaResult<i64> {
        Ok(hand_over(self, CounterAdd::new(counter, delta)).await?.value())
    }

    async fn scan(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Vec<(Key, Value)>> {
        self.readers.read(|link| fetch::scan(link, scan, after.as_ref(), limit)).await
    }

    async fn add_dir_stats(&self, deltas: Vec<(Ino, DirStat)>) -> MetaResult<Vec<Ino>> {
        Ok(hand_over(self, AddDirStats::new(deltas)).await?.missing())
    }

    async fn close(&self) {
        self.writer.close().await;
        self.readers.close();
    }
}

#[cfg(test)]
mod tests;
