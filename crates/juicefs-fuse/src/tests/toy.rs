//! A file system in a map, to stand in for the VFS in tests of everything below it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, Errno, FileType, Ino, Segments, SetAttr,
    lock::{GiveUp, LockKind, LockRange, RangeLock},
};
use juicefs_vfs::{AttrReply, DirItem, Entry, Opened, StatFs};
use parking_lot::Mutex;

use crate::ops::Operations;

#[derive(Clone, Default)]
pub(crate) struct Toy(Arc<State>);

#[derive(Default)]
pub(crate) struct State {
    nodes: Mutex<BTreeMap<u64, Node>>,
    next: AtomicU64,
    /// Every operation waits before it begins, so that it is deferred.
    pub(crate) slow: AtomicBool,
    /// Operations on names that begin with `stuck` wait for this to be false.
    pub(crate) stuck: AtomicBool,
    pub(crate) open_files: AtomicU64,
}

#[derive(Default)]
struct Node {
    attr: Attr,
    data: Vec<u8>,
    entries: BTreeMap<Vec<u8>, u64>,
    xattrs: BTreeMap<Vec<u8>, Bytes>,
}

const TTL: Duration = Duration::ZERO;
const FILE_BYTES_MAX: u64 = 16 << 20;

impl std::ops::Deref for Toy {
    type Target = State;
    fn deref(&self) -> &State {
        &self.0
    }
}

impl Toy {
    pub(crate) fn new() -> Self {
        let toy = Self::default();
        toy.next.store(2, Ordering::Relaxed);
        let attr = Attr { kind: FileType::Directory, mode: 0o755, nlink: 2, length: 4096, ..Attr::default() };
        toy.nodes.lock().insert(1, Node { attr, ..Node::default() });
        toy
    }

    pub(crate) fn own_root(&self, uid: u32) {
        if let Some(root) = self.nodes.lock().get_mut(&1) {
            root.attr.uid = uid;
        }
    }

    async fn pause(&self) {
        if self.slow.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }

    async fn stick(&self, name: &[u8]) {
        while name.starts_with(b"stuck") && self.stuck.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn with<T>(&self, ino: Ino, run: impl FnOnce(&mut Node) -> T) -> Result<T, Errno> {
        self.nodes.lock().get_mut(&ino.0).map(run).ok_or(Errno::ENOENT)
    }

    fn entry(&self, ino: u64) -> Result<Entry, Errno> {
        let attr = self.with(Ino(ino), |n| n.attr.clone())?;
        Ok(Entry { ino: Ino(ino), attr, attr_ttl: TTL, entry_ttl: TTL })
    }

    fn make(&self, cx: &Caller, parent: Ino, name: &[u8], attr: Attr, data: &[u8]) -> Result<Entry, Errno> {
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        let taken = self.with(parent, |p| match p.entries.contains_key(name) {
            true => true,
            false => p.entries.insert(name.to_vec(), ino).is_some(),
        })?;
        if taken {
            return Err(Errno::EEXIST);
        }
        let attr = Attr { uid: cx.uid, gid: cx.gid, length: data.len() as u64, ..attr };
        self.nodes.lock().insert(ino, Node { attr, data: data.to_vec(), ..Node::default() });
        self.entry(ino)
    }

    fn remove(&self, parent: Ino, name: &[u8]) -> Result<u64, Errno> {
        self.with(parent, |p| p.entries.remove(name))?.ok_or(Errno::ENOENT)
    }

    fn reply(&self, ino: Ino) -> Result<AttrReply, Errno> {
        Ok(AttrReply { attr: self.with(ino, |n| n.attr.clone())?, ino, attr_ttl: TTL })
    }
}

fn mode_of(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

impl Operations for Toy {
    async fn lookup(&self, _cx: &Caller, parent: Ino, name: &[u8]) -> Result<Entry, Errno> {
        self.pause().await;
        if name.ends_with(b"lookup") {
            self.stick(name).await;
        }
        let ino = self.with(parent, |p| p.entries.get(name).copied())?.ok_or(Errno::ENOENT)?;
        self.entry(ino)
    }

    async fn getattr(&self, _cx: &Caller, ino: Ino, _fh: Option<u64>) -> Result<AttrReply, Errno> {
        self.pause().await;
        self.reply(ino)
    }

    async fn setattr(
        &self,
        _cx: &Caller,
        ino: Ino,
        _fh: Option<u64>,
        set: SetAttr,
        size: Option<u64>,
    ) -> Result<AttrReply, Errno> {
        self.pause().await;
        if size.is_some_and(|size| size > FILE_BYTES_MAX) {
            return Err(Errno::EFBIG);
        }
        self.with(ino, |n| {
            n.attr.mode = set.mode.unwrap_or(n.attr.mode);
            n.attr.uid = set.uid.unwrap_or(n.attr.uid);
            n.attr.gid = set.gid.unwrap_or(n.attr.gid);
            if let Some(size) = size {
                n.data.resize(size as usize, 0);
                n.attr.length = size;
            }
        })?;
        self.reply(ino)
    }

    async fn readlink(&self, _cx: &Caller, ino: Ino) -> Result<Bytes, Errno> {
        self.with(ino, |n| Bytes::copy_from_slice(&n.data))
    }

    async fn symlink(&self, cx: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Entry, Errno> {
        let attr = Attr { kind: FileType::Symlink, mode: 0o777, nlink: 1, ..Attr::default() };
        self.make(cx, parent, name, attr, target)
    }

    async fn mknod(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        _umask: u16,
        rdev: u32,
    ) -> Result<Entry, Errno> {
        let kind = FileType::from_mode(mode).ok_or(Errno::EINVAL)?;
        self.make(cx, parent, name, Attr { kind, mode: mode_of(mode), rdev, nlink: 1, ..Attr::default() }, b"")
    }

    async fn mkdir(&self, cx: &Caller, parent: Ino, name: &[u8], mode: u32, _umask: u16) -> Result<Entry, Errno> {
        self.pause().await;
        self.stick(name).await;
        let attr = Attr { kind: FileType::Directory, mode: mode_of(mode), nlink: 2, ..Attr::default() };
        self.make(cx, parent, name, attr, b"")
    }

    async fn unlink(&self, _cx: &Caller, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        self.pause().await;
        self.remove(parent, name).map(drop)
    }

    async fn rmdir(&self, _cx: &Caller, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        self.remove(parent, name).map(drop)
    }

    async fn rename(
        &self,
        _cx: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        if flags & libc::RENAME_NOREPLACE != 0 && self.with(new_parent, |p| p.entries.contains_key(new_name))? {
            return Err(Errno::EEXIST);
        }
        let ino = self.remove(parent, name)?;
        self.with(new_parent, |p| p.entries.insert(new_name.to_vec(), ino)).map(drop)
    }

    async fn link(&self, _cx: &Caller, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Entry, Errno> {
        self.with(new_parent, |p| p.entries.insert(new_name.to_vec(), ino.0))?;
        self.with(ino, |n| n.attr.nlink += 1)?;
        self.entry(ino.0)
    }

    async fn open(&self, _cx: &Caller, ino: Ino, _flags: i32) -> Result<Opened, Errno> {
        self.pause().await;
        self.reply(ino)?;
        self.open_files.fetch_add(1, Ordering::Relaxed);
        Ok(Opened { fh: ino.0, parallel_direct_writes: true, ..Opened::default() })
    }

    async fn create(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        _umask: u16,
        flags: i32,
    ) -> Result<(Entry, Opened), Errno> {
        self.pause().await;
        self.stick(name).await;
        let attr = Attr { mode: mode_of(mode), nlink: 1, ..Attr::default() };
        let entry = self.make(cx, parent, name, attr, b"")?;
        let opened = self.open(cx, entry.ino, flags).await?;
        Ok((entry, opened))
    }

    async fn read(&self, _cx: &Caller, ino: Ino, _fh: u64, off: u64, size: u32) -> Result<Segments, Errno> {
        self.pause().await;
        self.with(ino, |n| {
            let from = n.data.len().min(off as usize);
            let data = &n.data[from..n.data.len().min(from + size as usize)];
            // In pieces of odd sizes, as blocks may give them.
            data.chunks(100_003).map(Bytes::copy_from_slice).collect()
        })
    }

    async fn write(
        &self,
        _cx: &Caller,
        ino: Ino,
        _fh: u64,
        off: u64,
        data: Bytes,
        _append: bool,
    ) -> Result<u32, Errno> {
        self.pause().await;
        if off > FILE_BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        self.with(ino, |n| {
            let (off, end) = (off as usize, off as usize + data.len());
            if n.data.len() < end {
                n.data.resize(end, 0);
                n.attr.length = end as u64;
            }
            n.data[off..end].copy_from_slice(&data);
            data.len() as u32
        })
    }

    async fn flush(&self, _cx: &Caller, _ino: Ino, _fh: u64, _lock_owner: u64) -> Result<(), Errno> {
        Ok(())
    }

    async fn fsync(&self, _cx: &Caller, _ino: Ino, _fh: u64, _datasync: bool) -> Result<(), Errno> {
        self.pause().await;
        Ok(())
    }

    async fn release(&self, _ino: Ino, _fh: u64) -> Result<(), Errno> {
        self.open_files.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    async fn opendir(&self, _cx: &Caller, ino: Ino) -> Result<Opened, Errno> {
        Ok(Opened { fh: ino.0, ..Opened::default() })
    }

    async fn readdir(
        &self,
        _cx: &Caller,
        ino: Ino,
        _fh: u64,
        off: u64,
        limit: usize,
        plus: bool,
    ) -> Result<Vec<DirItem>, Errno> {
        self.pause().await;
        let entries = self.with(ino, |n| n.entries.clone())?;
        entries
            .into_iter()
            .enumerate()
            .skip(off as usize)
            .take(limit)
            .map(|(i, (name, ino))| {
                let entry = self.entry(ino)?;
                let kind = entry.attr.kind;
                Ok(DirItem {
                    name: name.into(),
                    ino: Ino(ino),
                    kind,
                    cookie: i as u64 + 1,
                    entry: plus.then_some(entry),
                })
            })
            .collect()
    }

    /// Granted at once, but held by somebody else while the file system is stuck.
    async fn flock(
        &self,
        _cx: &Caller,
        _ino: Ino,
        _fh: u64,
        _owner: u64,
        _kind: Option<LockKind>,
        wait: Option<GiveUp>,
    ) -> Result<(), Errno> {
        match wait {
            _ if !self.stuck.load(Ordering::Relaxed) => Ok(()),
            Some(wait) => {
                wait.await;
                Err(Errno::EINTR)
            }
            None => Err(Errno::EAGAIN),
        }
    }

    async fn getlk(
        &self,
        _cx: &Caller,
        _ino: Ino,
        _fh: u64,
        _owner: u64,
        lock: RangeLock,
    ) -> Result<Option<RangeLock>, Errno> {
        Ok(self.stuck.load(Ordering::Relaxed).then_some(RangeLock { pid: 9, ..lock }))
    }

    async fn setlk(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: u64,
        owner: u64,
        _range: LockRange,
        kind: Option<LockKind>,
        _pid: u32,
        wait: Option<GiveUp>,
    ) -> Result<(), Errno> {
        self.flock(cx, ino, fh, owner, kind, wait).await
    }

    async fn releasedir(&self, _ino: Ino, _fh: u64) -> Result<(), Errno> {
        Ok(())
    }

    async fn statfs(&self, _cx: &Caller, _ino: Ino) -> Result<StatFs, Errno> {
        Ok(StatFs {
            blocks: 1000,
            bfree: 500,
            bavail: 500,
            files: 9,
            ffree: 8,
            bsize: 4096,
            frsize: 4096,
            namelen: 255,
        })
    }

    async fn getxattr(&self, _cx: &Caller, ino: Ino, name: &[u8]) -> Result<Bytes, Errno> {
        self.with(ino, |n| n.xattrs.get(name).cloned())?.ok_or(Errno::ENODATA)
    }

    async fn setxattr(
        &self,
        _cx: &Caller,
        ino: Ino,
        name: &[u8],
        value: Bytes,
        _flags: u32,
        _kill_sgid: bool,
    ) -> Result<(), Errno> {
        self.with(ino, |n| n.xattrs.insert(name.to_vec(), value)).map(drop)
    }

    async fn listxattr(&self, _cx: &Caller, ino: Ino) -> Result<Bytes, Errno> {
        self.with(ino, |n| n.xattrs.keys().flat_map(|k| k.iter().copied().chain([0])).collect())
    }

    async fn ioctl(
        &self,
        _cx: &Caller,
        _ino: Ino,
        _fh: u64,
        cmd: u32,
        _arg: u64,
        input: &[u8],
        _out_size: usize,
    ) -> Result<Bytes, Errno> {
        assert!(cmd != 0, "a test asked for a panic");
        Ok(Bytes::copy_from_slice(input))
    }
}
