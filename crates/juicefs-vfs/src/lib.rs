//! Files and directories as applications see them, over any metadata service and any chunk store.
//!
//! [`Vfs`] is what front ends (FUSE first) call. It knows [`juicefs_core::Meta`] and [`juicefs_core::ChunkStore`] and
//! nothing of what implements them.

mod config;
mod reply;
mod vfs;

pub use config::VfsConfig;
pub use reply::{AttrReply, DirItem, Entry, Opened, StatFs};
pub use vfs::Vfs;
