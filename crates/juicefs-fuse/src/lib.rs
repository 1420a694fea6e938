//! The kernel's side of a mount: `/dev/fuse`, its protocol, and the mount itself.
//!
//! [`Mounted::mount`] attaches a [`juicefs_vfs::Vfs`] to a directory. From the kernel up:
//!
//! * `mount` makes and ends mounts; `init` agrees on the protocol.
//! * `transport` has threads that read requests into page-aligned buffers (`page_buf`, `request`).
//! * `dispatch` turns a request into an operation (`ops`), polls it once on the reader's thread and answers from there if
//!   that was enough; what has to wait moves to tokio (`deferred`).
//! * `reply` answers exactly once, with `writev` straight from shared bytes.
//! * `notify` tells the kernel what to forget.
//!
//! Nothing here knows about metadata or blocks, and nothing above knows the kernel's structures.

mod abi;
mod caller;
mod deferred;
mod dispatch;
mod init;
mod let_go;
mod mount;
mod notify;
mod ops;
mod page_buf;
mod parked;
mod reply;
mod request;
mod session;
#[cfg(test)]
mod toy;
mod transport;
mod wire;

pub use mount::{
    Holder, MountEntry, MountError, MountOptions, abort_path, holders, is_option, mounted_at, mounts, unmount_path,
};
pub use notify::Notifier;
pub use session::Mounted;
