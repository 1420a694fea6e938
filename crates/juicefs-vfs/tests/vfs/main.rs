//! The file system over stores in memory.

mod appends;
mod control;
mod files;
mod locks;
mod memory;
mod model;
mod mount;
mod names;
mod read_ahead;
mod upkeep;
