//! The file system over stores in memory.

mod files;
mod memory;
mod model;
mod mount;
mod names;
mod read_ahead;
mod upkeep;
