//! Engines over SQL databases.

pub(crate) mod sqlite;
