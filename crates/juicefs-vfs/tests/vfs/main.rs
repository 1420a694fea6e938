//! The file system over stores in memory.

mod files;
mod mount;
