//! The operations that requests are turned into. [`Vfs`] serves them. Tests of the layers below put operations of their
//! own in its place, so that they need neither a volume nor a mount.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use juicefs_core::{
    Caller, Errno, Ino, Segments, SetAttr,
    lock::{GiveUp, LockKind, LockRange, RangeLock},
};
use juicefs_vfs::{AttrReply, DirItem, Entry, Opened, StatFs, Vfs};

/// Declares the trait and implements it for the VFS. ENOSYS is the answer to whatever another implementation leaves out.
macro_rules! operations {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        /// File-system operations; see [`Vfs`] for what each does.
        #[allow(unused_variables, clippy::too_many_arguments, reason = "one shape for the list and the provided bodies")]
        pub(crate) trait Operations: Clone + Send + Sync + 'static {
            $(fn $name(&self, $($arg: $type),*) -> impl Future<Output = Result<$out, Errno>> + Send {
                async { Err(Errno::ENOSYS) }
            })*

            /// Whether this mount itself unlinked the node lately, and replaced none of its names.
            fn unlinked(&self, ino: Ino) -> bool {
                false
            }
        }

        impl Operations for Arc<Vfs> {
            $(fn $name(&self, $($arg: $type),*) -> impl Future<Output = Result<$out, Errno>> + Send {
                Vfs::$name(self, $($arg),*)
            })*

            fn unlinked(&self, ino: Ino) -> bool {
                Vfs::unlinked(self, ino)
            }
        }
    };
}

operations! {
    fn lookup(cx: &Caller, parent: Ino, name: &[u8]) -> Entry;
    fn getattr(cx: &Caller, ino: Ino, fh: Option<u64>) -> AttrReply;
    fn setattr(cx: &Caller, ino: Ino, fh: Option<u64>, set: SetAttr, size: Option<u64>) -> AttrReply;
    fn readlink(cx: &Caller, ino: Ino) -> Bytes;
    fn symlink(cx: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Entry;
    fn mknod(cx: &Caller, parent: Ino, name: &[u8], mode: u32, umask: u16, rdev: u32) -> Entry;
    fn mkdir(cx: &Caller, parent: Ino, name: &[u8], mode: u32, umask: u16) -> Entry;
    fn unlink(cx: &Caller, parent: Ino, name: &[u8]) -> ();
    fn rmdir(cx: &Caller, parent: Ino, name: &[u8]) -> ();
    fn rename(cx: &Caller, parent: Ino, name: &[u8], new_parent: Ino, new_name: &[u8], flags: u32) -> ();
    fn link(cx: &Caller, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Entry;
    fn open(cx: &Caller, ino: Ino, flags: i32) -> Opened;
    fn create(cx: &Caller, parent: Ino, name: &[u8], mode: u32, umask: u16, flags: i32) -> (Entry, Opened);
    fn read(cx: &Caller, ino: Ino, fh: u64, off: u64, size: u32) -> Segments;
    fn write(cx: &Caller, ino: Ino, fh: u64, off: u64, data: Bytes, append: bool) -> u32;
    fn flush(cx: &Caller, ino: Ino, fh: u64, lock_owner: u64) -> ();
    fn fsync(cx: &Caller, ino: Ino, fh: u64, datasync: bool) -> ();
    fn release(ino: Ino, fh: u64) -> ();
    fn flock(cx: &Caller, ino: Ino, fh: u64, owner: u64, kind: Option<LockKind>, wait: Option<GiveUp>) -> ();
    fn getlk(cx: &Caller, ino: Ino, fh: u64, owner: u64, lock: RangeLock) -> Option<RangeLock>;
    fn setlk(
        cx: &Caller, ino: Ino, fh: u64, owner: u64, range: LockRange, kind: Option<LockKind>, pid: u32,
        wait: Option<GiveUp>
    ) -> ();
    fn fallocate(cx: &Caller, ino: Ino, fh: u64, mode: i32, off: u64, len: u64) -> ();
    fn copy_file_range(
        cx: &Caller, ino_in: Ino, fh_in: u64, off_in: u64, ino_out: Ino, fh_out: u64, off_out: u64, len: u64, flags: u64
    ) -> u64;
    fn lseek(cx: &Caller, ino: Ino, fh: u64, off: u64, whence: u32) -> u64;
    fn opendir(cx: &Caller, ino: Ino) -> Opened;
    fn readdir(cx: &Caller, ino: Ino, fh: u64, off: u64, limit: usize, plus: bool) -> Vec<DirItem>;
    fn releasedir(ino: Ino, fh: u64) -> ();
    fn fsyncdir(cx: &Caller, ino: Ino, fh: u64) -> ();
    fn statfs(cx: &Caller, ino: Ino) -> StatFs;
    fn getxattr(cx: &Caller, ino: Ino, name: &[u8]) -> Bytes;
    fn listxattr(cx: &Caller, ino: Ino) -> Bytes;
    fn setxattr(cx: &Caller, ino: Ino, name: &[u8], value: Bytes, flags: u32, kill_sgid: bool) -> ();
    fn removexattr(cx: &Caller, ino: Ino, name: &[u8]) -> ();
    fn access(cx: &Caller, ino: Ino, mask: u8) -> ();
    fn ioctl(cx: &Caller, ino: Ino, fh: u64, cmd: u32, arg: u64, input: &[u8], out_size: usize) -> Bytes;
}
