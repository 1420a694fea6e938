//! Opening a database and finding out what it has.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use juicefs_core::{
    errno::Errno,
    error::{MetaError, MetaResult},
};
use parking_lot::RwLock;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags};

use super::{
    link::{Fault, Link, bytes},
    options::Options,
};
use crate::layout::sql::{Schema, Statements, Table};

/// Pages that a reading connection keeps. Every foreign commit empties it, so more would only cost memory.
const READER_CACHE_KIB: i32 = 512;
/// Pages that the writing connection keeps.
const WRITER_CACHE_KIB: i32 = 8 << 10;
/// Prepared statements kept per connection: all there are.
const STATEMENT_CACHE: usize = 96;

#[derive(Default)]
struct Fitted {
    generation: u64,
    schema_version: i64,
    statements: Option<Arc<Statements>>,
}

/// A database file that several connections use.
pub(super) struct Database {
    options: Options,
    /// Fitted statements, found out with the first connection and anew when tables were made or removed.
    fitted: RwLock<Fitted>,
    generation: AtomicU64,
}

impl Database {
    /// Checks that the file is there or could be made. Does not open it.
    pub(super) fn new(options: Options) -> MetaResult<Self> {
        let path = &options.path;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !parent.is_dir() {
            return Err(MetaError::Setting(format!(
                "the directory {} of the database {} does not exist",
                parent.display(),
                path.display()
            )));
        }
        if path.is_dir() {
            return Err(MetaError::Setting(format!("{} is a directory, not a database file", path.display())));
        }
        Ok(Self { options, fitted: RwLock::default(), generation: AtomicU64::new(0) })
    }

    /// The address as users write it.
    pub(super) fn describe(&self) -> String {
        format!("sqlite3://{}", self.options.path.display())
    }

    /// How the database is used.
    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Whether the file is there. Only that there is no such name means that it is not.
    pub(super) fn exists(&self) -> Result<bool, Fault> {
        let path = &self.options.path;
        path.try_exists()
            .map_err(|error| self.refusal(format!("cannot look for the database {}: {error}", path.display())))
    }

    /// Why a connection cannot be had. A database that was in use is there, whatever keeps it from being opened now.
    fn refusal(&self, sentence: String) -> Fault {
        let in_use = self.generation.load(Ordering::Acquire) > 0;
        Fault::Store(if in_use { MetaError::Unavailable(sentence) } else { MetaError::Setting(sentence) })
    }

    /// The sentence for a volume that is not there.
    pub(super) fn unformatted(&self) -> MetaError {
        MetaError::Setting(format!("the database {} is not formatted", self.options.path.display()))
    }

    fn open(&self, flags: OpenFlags) -> Result<Connection, Fault> {
        let path = &self.options.path;
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = if self.options.immutable {
            let escaped = percent_encode(path.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC);
            Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI)
        } else {
            Connection::open_with_flags(path, flags)
        };
        let conn = opened.map_err(|error| {
            let sentence = format!("cannot open the database {}: {error}", path.display());
            match Fault::from(error) {
                Fault::Busy => Fault::Busy,
                _ => self.refusal(sentence),
            }
        })?;
        conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        Ok(conn)
    }

    /// A connection that reads.
    pub(super) fn open_reader(&self) -> Result<Link, Fault> {
        if !self.exists()? {
            return Err(Fault::Store(self.unformatted()));
        }
        // A reader also recovers the log after a crash, for which it must write, if it may.
        let access =
            if self.options.read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
        let conn = self.open(access)?;
        conn.busy_timeout(self.options.busy_timeout)?;
        conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        self.link(conn)
    }

    /// The connection that writes; it never waits for a lock. Makes the file when `create` is set.
    pub(super) fn open_writer(&self, create: bool) -> Result<Link, Fault> {
        if self.options.read_only {
            return Err(Fault::Store(MetaError::Posix(Errno::EROFS)));
        }
        if !create && !self.exists()? {
            return Err(Fault::Store(self.unformatted()));
        }
        let create = if create { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
        let conn = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE | create)?;
        conn.busy_timeout(Duration::ZERO)?;
        if conn.is_readonly(rusqlite::MAIN_DB)? {
            return Err(self.refusal(format!("the database {} is not writable", self.options.path.display())));
        }
        self.set_journal(&conn)?;
        conn.pragma_update(None, "synchronous", &self.options.synchronous)?;
        conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        self.link(conn)
    }

    /// A database that is in WAL mode leaves it only while nobody else has it open. It is as safe in that mode, so it stays.
    fn set_journal(&self, conn: &Connection) -> Result<(), Fault> {
        let Err(error) = conn.pragma_update(None, "journal_mode", &self.options.journal) else { return Ok(()) };
        let now: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        match Fault::from(error) {
            Fault::Busy if now.eq_ignore_ascii_case("wal") => {
                tracing::warn!("the database stays in WAL mode while it is in use: _journal={}", self.options.journal);
                Ok(())
            }
            fault => Err(fault),
        }
    }

    /// The connection that copies the log.
    pub(super) fn open_checkpointer(&self) -> Result<Link, Fault> {
        let conn = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.busy_timeout(Duration::ZERO)?;
        conn.pragma_update(None, "synchronous", &self.options.synchronous)?;
        self.link(conn)
    }

    fn link(&self, conn: Connection) -> Result<Link, Fault> {
        let statements = Arc::new(Statements::new(Schema::empty("")));
        let mut link = Link { conn, statements, generation: 0, schema_version: 0 };
        if !self.adopt(&mut link) {
            self.refit(&mut link)?;
        }
        Ok(link)
    }

    /// Takes the statements of the other connections; false when there are none.
    fn adopt(&self, link: &mut Link) -> bool {
        let fitted = self.fitted.read();
        let Some(statements) = &fitted.statements else { return false };
        link.statements = Arc::clone(statements);
        (link.generation, link.schema_version) = (fitted.generation, fitted.schema_version);
        true
    }

    /// Finds out anew what the database has, for this and all other connections.
    fn refit(&self, link: &mut Link) -> Result<(), Fault> {
        let schema_version = schema_version(&link.conn)?;
        let schema = inspect(&link.conn, &self.options.table_prefix)?;
        let statements = Arc::new(Statements::new(schema));
        let mut fitted = self.fitted.write();
        let generation = fitted.generation + 1;
        *fitted = Fitted { generation, schema_version, statements: Some(Arc::clone(&statements)) };
        self.generation.store(generation, Ordering::Release);
        link.statements = statements;
        (link.generation, link.schema_version) = (generation, schema_version);
        Ok(())
    }

    /// Has the next connection find out anew what the database has: another client may have removed the tables.
    pub(super) fn forget(&self) {
        self.fitted.write().statements = None;
    }

    /// Takes up what another connection found out since `link` was used last, and what another client added to the
    /// tables as long as something is missing.
    pub(super) fn refresh(&self, link: &mut Link) -> Result<(), Fault> {
        if link.generation != self.generation.load(Ordering::Acquire) {
            self.adopt(link);
        }
        if !link.statements.is_complete() && schema_version(&link.conn)? != link.schema_version {
            self.refit(link)?;
        }
        Ok(())
    }

    /// Checks that everything is there that writing needs.
    pub(super) fn ready(&self, link: &mut Link) -> Result<(), Fault> {
        self.refresh(link)?;
        if link.statements.is_complete() {
            return Ok(());
        }
        if !link.statements.schema().has(Table::Setting) {
            return Err(Fault::Store(self.unformatted()));
        }
        let path = self.options.path.display();
        Err(Fault::Store(MetaError::Setting(format!("the tables of {path} are of an older version"))))
    }

    /// Makes what is missing of the tables.
    pub(super) fn prepare(&self, link: &mut Link) -> Result<(), Fault> {
        self.refit(link)?;
        if link.statements.is_complete() {
            return Ok(());
        }
        self.alter(link, Schema::upgrade)
    }

    /// Removes all tables.
    pub(super) fn reset(&self, link: &mut Link) -> Result<(), Fault> {
        self.alter(link, Schema::removal)
    }

    fn alter(&self, link: &mut Link, statements: impl Fn(&Schema) -> Vec<String>) -> Result<(), Fault> {
        link.frame("BEGIN IMMEDIATE")?;
        let work = || {
            // Another client may have done some of it before we had the lock.
            let schema = inspect(&link.conn, &self.options.table_prefix)?;
            for statement in statements(&schema) {
                link.conn.execute(&statement, [])?;
            }
            link.frame("COMMIT")
        };
        let outcome = work();
        link.rollback();
        outcome?;
        self.refit(link)
    }
}

fn schema_version(conn: &Connection) -> Result<i64, Fault> {
    let mut pragma = conn.prepare_cached("PRAGMA schema_version")?;
    Ok(pragma.query_row([], |row| row.get(0))?)
}

fn inspect(conn: &Connection, table_prefix: &str) -> Result<Schema, Fault> {
    let mut schema = Schema::empty(table_prefix);
    let mut names = conn.prepare("SELECT `name` FROM sqlite_master WHERE `type` IN ('table','index')")?;
    let mut rows = names.query([])?;
    while let Some(row) = rows.next()? {
        schema.note(&String::from_utf8_lossy(bytes(row, 0)?));
    }
    let node = schema.table_name(Table::Node);
    let mut columns = conn.prepare("SELECT `name` FROM pragma_table_info(?1)")?;
    let mut rows = columns.query([node])?;
    while let Some(row) = rows.next()? {
        schema.note_node_column(String::from_utf8_lossy(bytes(row, 0)?).into_owned());
    }
    Ok(schema)
}
