//! The kernel's side of a mount: `/dev/fuse`, its protocol, and the mount itself.
//!
//! [`Mounted::mount`] attaches a [`juicefs_vfs::Vfs`] to a directory. From the kernel up:
//!
//! * `mount` makes and ends mounts; `init` agrees on the protocol.
//! * `device` is `/dev/fuse`.
//! * `transport` is how requests come and replies go: threads read requests into page-aligned buffers, and write
//!   replies straight from shared bytes. FUSE over io_uring can stand beside it: dispatch knows neither the buffers nor
//!   the device.
//! * `dispatch` turns a request (`request`) into an operation (`ops`), polls it once on the thread that received it,
//!   and lets that thread reply if it was enough. What has to wait moves to tokio (`deferred`).
//! * `reply` sees to it that every request gets one reply.
//! * `notify` tells the kernel what to forget.
//!
//! Nothing here knows about metadata or blocks, and nothing above knows the kernel's structures.

mod abi;
mod caller;
mod deferred;
mod device;
mod dispatch;
mod init;
mod let_go;
mod mount;
mod notify;
mod ops;
mod reply;
mod request;
mod session;
#[cfg(test)]
mod tests;
mod transport;
mod wire;

pub use mount::{
    Holder, MountEntry, MountError, MountOptions, abort_path, holders, is_option, mounted_at, mounts, unmount_path,
};
pub use notify::Notifier;
pub use session::Mounted;
