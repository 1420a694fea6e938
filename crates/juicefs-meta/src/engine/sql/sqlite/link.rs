//! A connection with its statements, the columns of its rows, and what its errors mean.

use std::sync::Arc;

use juicefs_core::{errno::Errno, error::MetaError};
use rusqlite::{CachedStatement, Connection, ErrorCode, Params, Row, types::ValueRef};

use crate::layout::sql::{Statement, Statements};

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
            // Also for want of file descriptors, which passes.
            ErrorCode::CannotOpen => MetaError::Unavailable(
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
    /// Which fitting of the statements this is.
    pub(super) generation: u64,
    /// What SQLite counted of changes to the tables when the statements were fitted.
    pub(super) schema_version: i64,
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
