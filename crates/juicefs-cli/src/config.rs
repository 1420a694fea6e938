//! The way from the command line to checked settings: the grammar of values, the flags, and what they mean together.

pub(crate) mod args;
pub(crate) mod resolved;
pub(crate) mod values;
