//! The file system as front ends call it.

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{Caller, ChunkStore, Clock, Errno, Ino, Meta, Segments, SetAttr};

use crate::{AttrReply, DirItem, Entry, Opened, StatFs, VfsConfig};

type Answer<T> = Result<T, Errno>;

/// One mounted file system.
pub struct Vfs {
    _meta: Arc<dyn Meta>,
    _chunks: Arc<dyn ChunkStore>,
    _clock: Arc<dyn Clock>,
    _config: VfsConfig,
}

#[allow(missing_docs, clippy::too_many_arguments, clippy::unused_async, reason = "signatures ahead of their bodies")]
impl Vfs {
    pub fn new(
        meta: Arc<dyn Meta>,
        chunks: Arc<dyn ChunkStore>,
        clock: Arc<dyn Clock>,
        config: VfsConfig,
    ) -> Arc<Self> {
        Arc::new(Self { _meta: meta, _chunks: chunks, _clock: clock, _config: config })
    }
    pub fn start(self: &Arc<Self>, _rt: &tokio::runtime::Handle) {}
    pub async fn shutdown(&self) -> Answer<()> {
        Ok(())
    }
    pub async fn flush_all(&self) -> Answer<()> {
        Ok(())
    }
    pub async fn fatal(&self) -> String {
        std::future::pending().await
    }
    pub async fn lookup(&self, _cx: &Caller, _parent: Ino, _name: &[u8]) -> Answer<Entry> {
        Err(Errno::ENOSYS)
    }
    pub async fn getattr(&self, _cx: &Caller, _ino: Ino, _fh: Option<u64>) -> Answer<AttrReply> {
        Err(Errno::ENOSYS)
    }
    pub async fn setattr(
        &self,
        _cx: &Caller,
        _ino: Ino,
        _fh: Option<u64>,
        _set: SetAttr,
        _size: Option<u64>,
    ) -> Answer<AttrReply> {
        Err(Errno::ENOSYS)
    }
    pub async fn readlink(&self, _cx: &Caller, _ino: Ino) -> Answer<Bytes> {
        Err(Errno::ENOSYS)
    }
    pub async fn symlink(&self, _cx: &Caller, _parent: Ino, _name: &[u8], _target: &[u8]) -> Answer<Entry> {
        Err(Errno::ENOSYS)
    }
    pub async fn mknod(
        &self,
        _cx: &Caller,
        _parent: Ino,
        _name: &[u8],
        _mode: u32,
        _umask: u16,
        _rdev: u32,
    ) -> Answer<Entry> {
        Err(Errno::ENOSYS)
    }
    pub async fn mkdir(&self, _cx: &Caller, _parent: Ino, _name: &[u8], _mode: u32, _umask: u16) -> Answer<Entry> {
        Err(Errno::ENOSYS)
    }
    pub async fn unlink(&self, _cx: &Caller, _parent: Ino, _name: &[u8]) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn rmdir(&self, _cx: &Caller, _parent: Ino, _name: &[u8]) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn rename(
        &self,
        _cx: &Caller,
        _parent: Ino,
        _name: &[u8],
        _new_parent: Ino,
        _new_name: &[u8],
        _flags: u32,
    ) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn link(&self, _cx: &Caller, _ino: Ino, _new_parent: Ino, _new_name: &[u8]) -> Answer<Entry> {
        Err(Errno::ENOSYS)
    }
    pub async fn open(&self, _cx: &Caller, _ino: Ino, _flags: i32) -> Answer<Opened> {
        Err(Errno::ENOSYS)
    }
    pub async fn create(
        &self,
        _cx: &Caller,
        _parent: Ino,
        _name: &[u8],
        _mode: u32,
        _umask: u16,
        _flags: i32,
    ) -> Answer<(Entry, Opened)> {
        Err(Errno::ENOSYS)
    }
    pub async fn read(&self, _cx: &Caller, _ino: Ino, _fh: u64, _off: u64, _size: u32) -> Answer<Segments> {
        Err(Errno::ENOSYS)
    }
    pub async fn write(&self, _cx: &Caller, _ino: Ino, _fh: u64, _off: u64, _data: Bytes) -> Answer<u32> {
        Err(Errno::ENOSYS)
    }
    pub async fn flush(&self, _cx: &Caller, _ino: Ino, _fh: u64, _lock_owner: u64) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn fsync(&self, _cx: &Caller, _ino: Ino, _fh: u64, _datasync: bool) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn release(&self, _ino: Ino, _fh: u64, _lock_owner: Option<u64>) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn fallocate(&self, _cx: &Caller, _ino: Ino, _fh: u64, _mode: i32, _off: u64, _len: u64) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn copy_file_range(
        &self,
        _cx: &Caller,
        _ino_in: Ino,
        _fh_in: u64,
        _off_in: u64,
        _ino_out: Ino,
        _fh_out: u64,
        _off_out: u64,
        _len: u64,
        _flags: u64,
    ) -> Answer<u64> {
        Err(Errno::ENOSYS)
    }
    pub async fn lseek(&self, _cx: &Caller, _ino: Ino, _fh: u64, _off: u64, _whence: u32) -> Answer<u64> {
        Err(Errno::ENOSYS)
    }
    pub async fn opendir(&self, _cx: &Caller, _ino: Ino) -> Answer<Opened> {
        Err(Errno::ENOSYS)
    }
    pub async fn readdir(
        &self,
        _cx: &Caller,
        _ino: Ino,
        _fh: u64,
        _off: u64,
        _limit: usize,
        _plus: bool,
    ) -> Answer<Vec<DirItem>> {
        Err(Errno::ENOSYS)
    }
    pub async fn releasedir(&self, _ino: Ino, _fh: u64) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn fsyncdir(&self, _cx: &Caller, _ino: Ino, _fh: u64) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn statfs(&self, _cx: &Caller, _ino: Ino) -> Answer<StatFs> {
        Err(Errno::ENOSYS)
    }
    pub async fn getxattr(&self, _cx: &Caller, _ino: Ino, _name: &[u8]) -> Answer<Bytes> {
        Err(Errno::ENOSYS)
    }
    pub async fn listxattr(&self, _cx: &Caller, _ino: Ino) -> Answer<Bytes> {
        Err(Errno::ENOSYS)
    }
    pub async fn setxattr(&self, _cx: &Caller, _ino: Ino, _name: &[u8], _value: Bytes, _flags: u32) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn removexattr(&self, _cx: &Caller, _ino: Ino, _name: &[u8]) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn access(&self, _cx: &Caller, _ino: Ino, _mask: u8) -> Answer<()> {
        Err(Errno::ENOSYS)
    }
    pub async fn ioctl(
        &self,
        _cx: &Caller,
        _ino: Ino,
        _fh: u64,
        _cmd: u32,
        _arg: u64,
        _input: &[u8],
        _out_size: usize,
    ) -> Answer<Bytes> {
        Err(Errno::ENOSYS)
    }
}
