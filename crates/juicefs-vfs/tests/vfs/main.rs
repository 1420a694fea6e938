//! The file system over stores in memory.

mod files;
mod locks;
mod memory;
mod model;
mod mount;
mod names;
mod read_ahead;
mod upkeep;
