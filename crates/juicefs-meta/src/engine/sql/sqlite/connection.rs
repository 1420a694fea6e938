//! Opening a database, finding out what it has, and what its errors mean.

use std::{
    ffi::CStr,
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
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, Params, Row, types::ValueRef};

use super::{log_file, options::Options};
use crate::layout::sql::{Schema, Statement, Statements, Table};

/// Pages that a reading connection keeps. Every foreign commit empties it, so more would only cost memory.
const READER_CACHE_KIB: i32 = 512;
/// Pages that the writing connection keeps.
const WRITER_CACHE_KIB: i32 = 8 << 10;
/// Prepared statements kept per connection: all there are.
const STATEMENT_CACHE: usize = 96;

/// Why something on a connection did not work.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another connection holds the lock.
    Busy,
    /// A row does not decode. The transaction is as it was.
    Record(MetaError),
    /// SQLite failed. The transaction may be gone.
    Store(MetaError),
}

impl Fault {
    /// The error for a caller who does not retry.
    pub(super) fn into_error(self) -> MetaError {
        match self {
            Self::Busy => MetaError::Unavailable("the database is locked by another client".to_owned()),
            Self::Record(error) | Self::Store(error) => error,
        }
    }
}

impl From<MetaError> for Fault {
    fn from(error: MetaError) -> Self {
        Self::Record(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let corrupt = |why: String| MetaError::Corrupt { what: "database".to_owned(), why };
        let Some(code) = error.sqlite_error_code() else {
            return Self::Store(corrupt(error.to_string()));
        };
        Self::Store(match code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => return Self::Busy,
            ErrorCode::DiskFull => MetaError::Posix(Errno::ENOSPC),
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => MetaError::Posix(Errno::EROFS),
            ErrorCode::OutOfMemory => MetaError::Posix(Errno::ENOMEM),
            ErrorCode::CannotOpen => MetaError::Setting(
                "SQLite cannot open the database, or the -wal and -shm files beside it, which readers write too; \
                 if nobody writes, add ?immutable=1"
                    .to_owned(),
            ),
            ErrorCode::NotADatabase => MetaError::Setting("the file is not a SQLite database".to_owned()),
            ErrorCode::DatabaseCorrupt | ErrorCode::ConstraintViolation => corrupt(error.to_string()),
            _ => MetaError::Unavailable(error.to_string()),
        })
    }
}

/// A connection and the statements that fit its database.
pub(super) struct Link {
    /// The connection.
    pub conn: Connection,
    /// Its statements.
    pub statements: Arc<Statements>,
    generation: u64,
}

impl Link {
    /// A prepared statement.
    pub(super) fn statement(&self, statement: Statement) -> Result<CachedStatement<'_>, Fault> {
        Ok(self.conn.prepare_cached(self.statements.text(statement))?)
    }

    /// Runs a statement that returns no rows; the number of rows that it changed.
    pub(super) fn execute(&self, statement: Statement, params: impl Params) -> Result<usize, Fault> {
        Ok(self.statement(statement)?.execute(params)?)
    }

    /// Reads at most one row.
    pub(super) fn one<T>(
        &self,
        statement: Statement,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let mut statement = self.statement(statement)?;
        let mut rows = statement.query(params)?;
        rows.next()?.map(read).transpose()
    }

    /// Reads all rows.
    pub(super) fn all<T>(
        &self,
        statement: Statement,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut statement = self.statement(statement)?;
        let mut rows = statement.query(params)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            out.push(read(row)?);
        }
        Ok(out)
    }

    /// Runs one of the statements that frame a transaction.
    pub(super) fn frame(&self, text: &'static str) -> Result<(), Fault> {
        self.conn.prepare_cached(text)?.execute([])?;
        Ok(())
    }

    /// Ends a transaction that must leave nothing, if SQLite has not done so on its own.
    pub(super) fn rollback(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.frame("ROLLBACK")
        {
            tracing::error!(?error, "SQLite did not roll back");
        }
    }
}

/// An integer column; NULL reads as 0.
pub(super) fn int(row: &Row<'_>, at: usize) -> Result<i64, Fault> {
    match row.get_ref(at)? {
        ValueRef::Integer(value) => Ok(value),
        ValueRef::Null => Ok(0),
        other => Err(wrong_type(at, other)),
    }
}

/// A column of bytes; NULL reads as none. Appending in SQL makes text of bytes, so both are taken.
pub(super) fn bytes<'row>(row: &'row Row<'_>, at: usize) -> Result<&'row [u8], Fault> {
    match row.get_ref(at)? {
        ValueRef::Blob(value) | ValueRef::Text(value) => Ok(value),
        ValueRef::Null => Ok(&[]),
        other => Err(wrong_type(at, other)),
    }
}

fn wrong_type(at: usize, value: ValueRef<'_>) -> Fault {
    let why = format!("column {at} is {}", value.data_type());
    Fault::Record(MetaError::Corrupt { what: "row".to_owned(), why })
}

struct Fitted {
    generation: u64,
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
        let fitted = RwLock::new(Fitted { generation: 0, statements: None });
        Ok(Self { options, fitted, generation: AtomicU64::new(0) })
    }

    /// The address as users write it.
    pub(super) fn describe(&self) -> String {
        format!("sqlite3://{}", self.options.path.display())
    }

    /// How the database is used.
    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Whether the file is there.
    pub(super) fn exists(&self) -> bool {
        self.options.path.exists()
    }

    /// The sentence for a volume that is not there.
    pub(super) fn unformatted(&self) -> MetaError {
        MetaError::Setting(format!("the database {} is not formatted", self.options.path.display()))
    }

    fn open(&self, flags: OpenFlags, vfs: Option<&CStr>) -> Result<Connection, Fault> {
        let path = &self.options.path;
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = if self.options.immutable {
            let escaped = percent_encode(path.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC);
            Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI)
        } else if let Some(vfs) = vfs {
            Connection::open_with_flags_and_vfs(path, flags, vfs)
        } else {
            Connection::open_with_flags(path, flags)
        };
        let conn = opened.map_err(|error| {
            let sentence = format!("cannot open the database {}: {error}", path.display());
            match Fault::from(error) {
                Fault::Busy => Fault::Busy,
                _ => Fault::Store(MetaError::Setting(sentence)),
            }
        })?;
        conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        Ok(conn)
    }

    /// A connection that reads.
    pub(super) fn open_reader(&self) -> Result<Link, Fault> {
        if !self.exists() {
            return Err(Fault::Store(self.unformatted()));
        }
        // A reader also recovers the log after a crash, for which it must write, if it may.
        let access =
            if self.options.read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
        let conn = self.open(access, None)?;
        conn.busy_timeout(self.options.busy_timeout)?;
        conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        self.link(conn)
    }

    /// The connection that writes; it never waits for a lock. Makes the file when `create` is set.
    pub(super) fn open_writer(&self, create: bool) -> Result<Link, Fault> {
        if self.options.read_only {
            return Err(Fault::Store(MetaError::Posix(Errno::EROFS)));
        }
        if !create && !self.exists() {
            return Err(Fault::Store(self.unformatted()));
        }
        let create = if create { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
        let gathers = self.options.journal == "WAL" && self.options.synchronous == "NORMAL";
        let vfs = if gathers { log_file::vfs() } else { None };
        let conn = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE | create, vfs)?;
        conn.busy_timeout(Duration::ZERO)?;
        if conn.is_readonly(rusqlite::MAIN_DB)? {
            return Err(Fault::Store(MetaError::Setting(format!(
                "the database {} is not writable",
                self.options.path.display()
            ))));
        }
        conn.pragma_update(None, "journal_mode", &self.options.journal)?;
        if vfs.is_some() {
            // Commits announce themselves to the log, which syncs no more than NORMAL does.
            conn.pragma_update(None, "synchronous", "FULL")?;
            conn.pragma_update(None, "checkpoint_fullfsync", true)?;
        } else {
            conn.pragma_update(None, "synchronous", &self.options.synchronous)?;
        }
        conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        self.link(conn)
    }

    /// The connection that copies the log.
    pub(super) fn open_checkpointer(&self) -> Result<Link, Fault> {
        let conn = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE, None)?;
        conn.busy_timeout(Duration::ZERO)?;
        conn.pragma_update(None, "synchronous", &self.options.synchronous)?;
        self.link(conn)
    }

    fn link(&self, conn: Connection) -> Result<Link, Fault> {
        let fitted = self.fitted.read();
        if let Some(statements) = &fitted.statements {
            return Ok(Link { conn, statements: Arc::clone(statements), generation: fitted.generation });
        }
        drop(fitted);
        let (generation, statements) = self.refit(&conn)?;
        Ok(Link { conn, statements, generation })
    }

    /// Finds out anew what the database has, for this and all other connections.
    fn refit(&self, conn: &Connection) -> Result<(u64, Arc<Statements>), Fault> {
        let schema = inspect(conn, &self.options.table_prefix)?;
        let statements = Arc::new(Statements::new(schema));
        let mut fitted = self.fitted.write();
        fitted.generation += 1;
        fitted.statements = Some(Arc::clone(&statements));
        self.generation.store(fitted.generation, Ordering::Release);
        Ok((fitted.generation, statements))
    }

    /// Refits after tables were made or removed on `link`.
    fn changed(&self, link: &mut Link) -> Result<(), Fault> {
        (link.generation, link.statements) = self.refit(&link.conn)?;
        Ok(())
    }

    /// Checks that everything is there that writing needs.
    pub(super) fn ready(&self, link: &mut Link) -> Result<(), Fault> {
        self.refresh(link);
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
        self.changed(link)?;
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
        self.changed(link)
    }

    /// Takes up what another connection found out since `link` was used last.
    pub(super) fn refresh(&self, link: &mut Link) {
        if link.generation != self.generation.load(Ordering::Acquire) {
            let fitted = self.fitted.read();
            if let Some(statements) = &fitted.statements {
                link.statements = Arc::clone(statements);
                link.generation = fitted.generation;
            }
        }
    }
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
