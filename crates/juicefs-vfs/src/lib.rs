//! Files and directories as applications see them, over any metadata service and any chunk store.
//!
//! [`Vfs`] is what front ends (FUSE first) call. It knows [`juicefs_core::Meta`] and [`juicefs_core::ChunkStore`] and
//! nothing of what implements them. Its rooms are:
//!
//! * `ops`, the operations, each of which runs through `Vfs::operation`, which times, counts and logs it;
//! * `file` (dirty data, the order of commits, reading) and `ahead` (read-ahead of a handle);
//! * `dir` (listings) and `open_dirs` (who lists which directory);
//! * `table` (what is open), `in_flight` (what a handle has begun), `lockers` (who asked for locks), `departed` (lost
//!   names);
//! * `internal` (the files that we serve ourselves) and `jobs` (what is asked for through them);
//! * `upkeep` (what waits for the upkeep of the volume) and `maintenance` (the loops that do it);
//! * `context`, which all of them share, with `metrics`, `dirty` (files with dirty data) and `tasks`.

mod ahead;
mod config;
mod context;
mod departed;
mod dir;
mod dirty;
mod fault;
mod file;
mod in_flight;
mod internal;
mod jobs;
mod local_time;
mod lockers;
mod maintenance;
mod metrics;
mod open_dirs;
mod ops;
mod reply;
mod table;
mod tasks;
mod upkeep;
mod vfs;

pub use config::{VfsConfig, WriteLimits};
pub use local_time::local_time;
pub use reply::{AttrReply, DirItem, Entry, Opened, StatFs};
pub use vfs::Vfs;
