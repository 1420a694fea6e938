//! How records become keys, bytes and rows: pure functions, no I/O, and the only place that knows stored names.

pub(crate) mod binary;
pub(crate) mod redis;
pub(crate) mod sql;
