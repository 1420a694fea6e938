//! Records as rows of the tables that all SQL engines share (format: metadata.md §3), and the statements over them.
//!
//! `schema` holds the tables and what an older volume lacks of them, `statements` the text of every statement, and
//! `rows` the values of columns.

pub(crate) mod rows;
pub(crate) mod schema;
pub(crate) mod statements;

pub(crate) use schema::{Schema, Table};
pub(crate) use statements::{Statement, Statements};
