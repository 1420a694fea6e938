//! The file system over stores in memory.

mod appends;
mod control;
mod engine_away;
mod files;
mod killed;
mod locks;
mod memory;
mod model;
mod mount;
mod names;
mod random_writes;
mod read_ahead;
mod sessions;
mod upkeep;
