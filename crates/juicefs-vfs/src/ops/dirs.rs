//! Listing directories.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use bytes::Bytes;
use juicefs_core::{Caller, Errno, FileType, Ino};

use crate::{
    DirItem, Entry, Opened, Vfs,
    dir::{DirHandle, Listed},
    internal::Special,
    metrics::{MetaOp, Op},
    table::Handle,
    vfs::Answer,
};

/// Permission to read a directory.
const READ: u8 = 4;

impl Vfs {
    /// Opens a directory. EACCES when the caller is checked, ENOENT.
    pub async fn opendir(&self, cx: &Caller, ino: Ino) -> Answer<Opened> {
        let begun = Instant::now();
        let checked = if cx.check_permission {
            self.ask(MetaOp::Access, ino, self.cx.meta.access(cx, ino, READ)).await
        } else {
            Ok(())
        };
        let answer = checked.map(|()| {
            let dir = DirHandle::new(ino);
            self.dirs.add(&dir);
            let keep = self.cx.config.keep_readdir_cache;
            let fh = self.handles.insert(Handle::Dir(dir));
            Opened { fh, keep_cache: keep, cache_dir: keep, ..Opened::default() }
        });
        self.done(Op::Opendir, begun, cx, &answer, |line| {
            write!(line, "({ino}) [fh:{}]", answer.as_ref().map_or(0, |opened| opened.fh))
        });
        answer
    }

    /// Up to `limit` entries from offset `off` on, with attributes when `plus` asks for them and they are known; none at the
    /// end. Offset 0 begins a new listing; other offsets are cookies of the current one, old ones included.
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
    ) -> Answer<Vec<DirItem>> {
        let begun = Instant::now();
        let answer = match self.handles.get(ino, fh) {
            Some(Handle::Dir(dir)) => self.list(&dir, off, limit, plus).await,
            Some(Handle::File(_) | Handle::Internal(_)) | None => Err(Errno::EBADF),
        };
        self.done(Op::Readdir, begun, cx, &answer, |line| {
            write!(line, "({ino},{limit},{off},{plus}): ({})", answer.as_ref().map_or(0, Vec::len))
        });
        answer
    }

    async fn list(&self, dir: &Arc<DirHandle>, off: u64, limit: usize, plus: bool) -> Answer<Vec<DirItem>> {
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

    /// Internal names, `.` and `..`.
    async fn list_fixed(
        &self,
        dir: &DirHandle,
        internal: Vec<(Bytes, Special)>,
        off: u64,
        limit: usize,
        plus: bool,
        items: &mut Vec<DirItem>,
    ) -> Answer<()> {
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
            && let Some(file) = self.cx.files.get(ino)
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
    pub async fn releasedir(&self, ino: Ino, fh: u64) -> Answer<()> {
        let begun = Instant::now();
        let answer = match self.handles.remove(ino, fh) {
            Some(Handle::Dir(dir)) => {
                self.dirs.remove(&dir);
                Ok(())
            }
            Some(Handle::File(_) | Handle::Internal(_)) | None => Err(Errno::EBADF),
        };
        self.done(Op::Releasedir, begun, &Caller::root(), &answer, |line| write!(line, "({ino})"));
        answer
    }

    /// fsync(2) of a directory: every change of names is durable when it is answered, so there is nothing to do.
    pub async fn fsyncdir(&self, cx: &Caller, ino: Ino, fh: u64) -> Answer<()> {
        let _ = (cx, ino, fh);
        Ok(())
    }
}
