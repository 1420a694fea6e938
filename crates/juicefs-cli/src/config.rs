//! From the command line to checked settings: grammar of values, flags, and what they mean together.

pub(crate) mod args;
pub(crate) mod resolved;
pub(crate) mod values;
