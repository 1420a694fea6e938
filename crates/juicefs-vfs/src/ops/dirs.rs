//! Operations that list directories.

use std::{fmt::Write as _, pin::pin, sync::Arc};

use bytes::Bytes;
use juicefs_core::{Caller, Errno, FileType, Ino};

use crate::{
    DirItem, Entry, Opened, Vfs,
    dir::{DirHandle, Listed},
    internal::Special,
    metrics::{MetaOp, Op},
    reply::VfsResult,
    table::Handle,
};

/// The permission to read a directory.
const READ: u8 = 4;

impl Vfs {
    /// Opens a directory. ENOENT, and EACCES when the caller is checked.
    pub async fn opendir(&self, cx: &Caller, ino: Ino) -> VfsResult<Opened> {
        let work = pin!(async {
            if cx.check_permission {
                self.ask(MetaOp::Access, ino, self.cx.meta.access(cx, ino, READ)).await?;
            }
            let dir = DirHandle::new(ino);
            self.dirs.add(&dir);
            let keep = self.cx.config.keep_readdir_cache;
            let fh = self.handles.insert(Handle::Dir(dir));
            Ok(Opened { fh, keep_cache: keep, cache_dir: keep, ..Opened::default() })
        });
        self.operation(Op::Opendir, cx, work, |line, answer| {
            write!(line, "({ino}) [fh:{}]", answer.as_ref().map_or(0, |opened| opened.fh))
        })
        .await
    }

    /// Lists up to `limit` entries from offset `off` on, with attributes if `plus` asks for them and they are known.
    /// There are none only at the end. Offset 0 begins a new listing; other offsets are cookies of the current one, old
    /// ones included.
    ///
    /// EBADF for an unknown handle, ENOENT.
    pub async fn readdir(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: u64,
        off: u64,
        limit: usize,
        plus: bool,
    ) -> VfsResult<Vec<DirItem>> {
        let work = pin!(async {
            match self.handles.get(ino, fh) {
                Some(Handle::Dir(dir)) => self.list(&dir, off, limit, plus).await,
                Some(Handle::File(_) | Handle::Internal(_)) | None => Err(Errno::EBADF),
            }
        });
        self.operation(Op::Readdir, cx, work, |line, answer| {
            write!(line, "({ino},{limit},{off},{plus}): ({})", answer.as_ref().map_or(0, Vec::len))
        })
        .await
    }

    async fn list(&self, dir: &Arc<DirHandle>, off: u64, limit: usize, plus: bool) -> VfsResult<Vec<DirItem>> {
        if off == 0 {
            dir.rewind();
        }
        let internal =
            if dir.ino == Ino::ROOT && !self.cx.config.hide_internal { self.internal.listed() } else { Vec::new() };
        let fixed = internal.len() as u64 + 2;
        let mut items = Vec::new();
        if off < fixed {
            self.list_fixed(dir, internal, off, limit, plus, &mut items).await?;
        }
        if items.len() < limit {
            let index = off.max(fixed) - fixed;
            let entries = dir.read(&self.cx, index, limit - items.len(), plus).await?;
            items.reserve(entries.len());
            items.extend(entries.into_iter().map(|listed| self.item(listed, fixed, plus)));
        }
        Ok(items)
    }

    /// Lists internal names, `.` and `..`.
    async fn list_fixed(
        &self,
        dir: &DirHandle,
        internal: Vec<(Bytes, Special)>,
        off: u64,
        limit: usize,
        plus: bool,
        items: &mut Vec<DirItem>,
    ) -> VfsResult<()> {
        let mut cookie = 0;
        let mut put = |name: Bytes, ino: Ino, kind: FileType, entry: Option<Entry>| {
            cookie += 1;
            if cookie > off && items.len() < limit {
                items.push(DirItem { name, ino, kind, cookie, entry });
            }
        };
        for (name, special) in internal {
            let kind = match special {
                Special::File(_) => FileType::File,
                Special::Trash => FileType::Directory,
            };
            let entry = if plus { self.internal_entry(special.ino()).ok() } else { None };
            put(name, special.ino(), kind, entry);
        }
        let parent = match dir.ino {
            Ino::ROOT => Ino::ROOT,
            ino => match self.ask(MetaOp::GetAttr, ino, self.cx.meta.getattr(ino)).await?.parent {
                // The root of a mounted sub-directory shows itself.
                Ino(0) => ino,
                parent => parent,
            },
        };
        put(Bytes::from_static(b"."), dir.ino, FileType::Directory, None);
        put(Bytes::from_static(b".."), parent, FileType::Directory, None);
        Ok(())
    }

    fn item(&self, listed: Listed, fixed: u64, plus: bool) -> DirItem {
        let entry = if plus { self.fresh_entry(&listed) } else { None };
        DirItem {
            name: listed.entry.name.0,
            ino: listed.entry.ino,
            kind: listed.entry.kind,
            cookie: fixed + listed.index + 1,
            entry,
        }
    }

    /// The whole entry, unless it was changed here or grew old since it was listed.
    fn fresh_entry(&self, listed: &Listed) -> Option<Entry> {
        let (ino, mut attr) = (listed.entry.ino, listed.entry.attr.clone()?);
        if self.cx.stamps.changed(ino, listed.since) {
            return None;
        }
        let config = &self.cx.config;
        let entry_ttl = if attr.is_dir() { config.dir_entry_ttl } else { config.entry_ttl };
        let age = listed.fetched.elapsed();
        if age > config.attr_ttl.min(entry_ttl) && !age.is_zero() {
            return None;
        }
        if attr.is_file()
            && let Some(file) = self.files.get(ino)
            && !file.overlay(&mut attr, listed.since)
        {
            return None;
        }
        Some(Entry {
            ino,
            attr,
            attr_ttl: config.attr_ttl.saturating_sub(age),
            entry_ttl: entry_ttl.saturating_sub(age),
        })
    }

    /// Ends a directory handle. EBADF for an unknown one.
    pub async fn releasedir(&self, ino: Ino, fh: u64) -> VfsResult<()> {
        let work = pin!(async {
            match self.handles.remove(ino, fh) {
                Some(Handle::Dir(dir)) => {
                    self.dirs.remove(&dir);
                    Ok(())
                }
                Some(Handle::File(_) | Handle::Internal(_)) | None => Err(Errno::EBADF),
            }
        });
        self.operation(Op::Releasedir, &Caller::root(), work, |line, _| write!(line, "({ino})")).await
    }

    /// Does nothing for fsync(2) of a directory, because every change of names is durable when it is answered.
    pub async fn fsyncdir(&self, cx: &Caller, ino: Ino, fh: u64) -> VfsResult<()> {
        let _ = (cx, ino, fh);
        Ok(())
    }
}
