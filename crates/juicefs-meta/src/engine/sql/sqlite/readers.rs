//! Connections that read, driven on the thread of whoever asks.

use std::sync::Arc;

use juicefs_core::error::{MetaError, MetaResult};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    connection::Database,
    link::{Fault, Link},
};

/// A bounded set of connections, opened as they are needed. The one used last is used next: its caches are warm.
pub(super) struct Readers {
    database: Arc<Database>,
    idle: Mutex<Vec<Link>>,
    permits: Semaphore,
}

impl Readers {
    /// No connection yet.
    pub(super) fn new(database: Arc<Database>) -> Self {
        let permits = Semaphore::new(database.options().max_readers);
        Self { database, idle: Mutex::default(), permits }
    }

    /// Reads on a connection of its own. Waits only when all are in use, and then without blocking the thread.
    pub(super) async fn read<T>(&self, read: impl Fn(&Link) -> Result<T, Fault> + Send) -> MetaResult<T> {
        let closed = |_| MetaError::Unavailable("the database was closed".to_owned());
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let outcome = match self.read_now(&read) {
            Err(Fault::Store(MetaError::Unavailable(why))) => {
                // Another client may have removed the tables, or the connection has lost its files.
                tracing::debug!(why, "reading failed; trying again on a fresh connection");
                self.database.forget();
                self.read_now(&read)
            }
            outcome => outcome,
        };
        outcome.map_err(Fault::into_error)
    }

    fn read_now<T>(&self, read: impl Fn(&Link) -> Result<T, Fault>) -> Result<T, Fault> {
        let idle = self.idle.lock().pop();
        let mut link = match idle {
            Some(link) => link,
            None => self.database.open_reader()?,
        };
        self.database.refresh(&mut link)?;
        let outcome = read(&link);
        match &outcome {
            // After a failure of SQLite itself fresh connections are the better start.
            Err(Fault::Store(_)) => self.idle.lock().clear(),
            _ => self.idle.lock().push(link),
        }
        outcome
    }

    /// Closes the connections; later reads fail.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}
