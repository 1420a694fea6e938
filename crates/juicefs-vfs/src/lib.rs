//! Files and directories as applications see them, over any metadata service and any chunk store.
//!
//! [`Vfs`] is what front ends (FUSE first) call. It knows [`juicefs_core::Meta`] and [`juicefs_core::ChunkStore`] and
//! nothing of what implements them. Inside: `file` (dirty data, commit order, reading), `ahead` (read-ahead of a handle),
//! `dir` (listings), `in_flight` (what a handle has begun), `internal` (files of our own), `jobs` (what is asked for through them), `lockers` (who asked for locks),
//! `maintenance` (upkeep of the volume), `ops` (the operations).

mod ahead;
mod config;
mod context;
mod departed;
mod dir;
mod fault;
mod file;
mod in_flight;
mod internal;
mod jobs;
mod lockers;
mod maintenance;
mod metrics;
mod ops;
mod reply;
mod table;
mod tasks;
mod vfs;

pub use config::{VfsConfig, WriteLimits};
pub use reply::{AttrReply, DirItem, Entry, Opened, StatFs};
pub use vfs::Vfs;
