//! Operations that open, read, write and close files.

use std::{fmt::Write as _, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, Errno, FileType, Ino, Segments, buffer::segments_len, limits::MAX_FILE_BYTES, meta::OpenFlags,
    stamps::Moment,
};

use super::{check_name, leaving::Leaving, locks::release_all};
use crate::{
    Entry, Opened, Vfs,
    ahead::Ahead,
    dir::Change,
    file::WriteAt,
    in_flight::InFlight,
    internal::{EntryText, Mode, Text},
    metrics::{MetaOp, Op},
    reply::VfsResult,
    table::{FileHandle, Handle},
};

/// The kernel's `FMODE_EXEC`: the file is opened to be executed.
const OPEN_EXEC: i32 = 0x20;
/// `O_TMPFILE` without the directory bit that comes with it.
const OPEN_TMPFILE: i32 = 0o20_000_000;

/// How long close(2) waits for what goes on through the handle: for calls of other threads, and for those of a caller that
/// was killed. The end of the handle waits for them in any case, and nobody waits for that.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);

fn open_flags(flags: i32) -> OpenFlags {
    let access = flags & libc::O_ACCMODE;
    OpenFlags {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        exec: flags & OPEN_EXEC != 0,
        no_atime: flags & libc::O_NOATIME != 0,
    }
}

impl Vfs {
    /// Opens a file. `flags` are those of open(2); O_TRUNC is left to the setattr that follows.
    ///
    /// EACCES, EROFS, ENOENT; EPERM for files that flags protect.
    pub async fn open(&self, cx: &Caller, ino: Ino, flags: i32) -> VfsResult<Opened> {
        let line = |line: &mut String, answer: &VfsResult<Opened>| match answer {
            Ok(opened) => write!(line, "({ino},0x{flags:x}) [fh:{}]", opened.fh),
            Err(_) => write!(line, "({ino},0x{flags:x})"),
        };
        if self.internal.attr(ino).is_some() {
            let handle = self.internal.open(cx, ino, flags)?;
            let is_log = handle.is_log();
            let fh = self.handles.insert(Handle::Internal(handle));
            let opened = Opened { fh, direct_io: true, ..Opened::default() };
            if is_log {
                return Ok(opened);
            }
            return self.operation(Op::Open, cx, pin!(async { Ok(opened) }), line).await;
        }
        let work = pin!(async {
            if flags & libc::O_ACCMODE != libc::O_RDONLY {
                self.drop_set_id(cx, ino).await?;
            }
            self.open_file(cx, ino, flags).await
        });
        self.operation(Op::Open, cx, work, line).await
    }

    async fn open_file(&self, cx: &Caller, ino: Ino, flags: i32) -> VfsResult<Opened> {
        let mut since = self.cx.stamps.now();
        let wanted = open_flags(flags);
        let cuts = self.files.get(ino).map(|file| file.cuts());
        let mut attr = self.ask(MetaOp::Open, ino, self.cx.meta.open(cx, ino, wanted)).await?;
        let mut asked_again = false;
        while self.cx.stamps.changed(ino, since) && !asked_again {
            // Changed here while we asked, so that the answer may be from before.
            since = self.cx.stamps.now();
            asked_again = true;
            match self.ask(MetaOp::GetAttr, ino, self.cx.meta.getattr(ino)).await {
                Ok(newer) => attr = newer,
                Err(errno) => {
                    self.close_in_meta(ino).await;
                    return Err(errno);
                }
            }
        }
        let unchanged = self.opens.unchanged(ino, &attr);
        let opened = self.opened(ino, &attr, since, wanted, unchanged.content, flags);
        if let Some(cuts) = cuts
            && self.cx.stamps.changed(ino, since)
            && let Some(file) = self.files.get(ino)
        {
            // Somebody writes here all the time. What another mount committed before it closed the file shows all the same.
            file.look_again(&attr, cuts);
        }
        Ok(Opened { new_atime: !unchanged.atime, ..opened })
    }

    fn opened(&self, ino: Ino, attr: &Attr, since: Moment, wanted: OpenFlags, keep_cache: bool, flags: i32) -> Opened {
        let file = self.files.acquire(&self.cx, ino, attr, since);
        let write = wanted.write || wanted.append;
        let fh = self.handles.insert(Handle::File(Arc::new(FileHandle {
            file,
            write,
            unsent: Arc::default(),
            in_flight: InFlight::default(),
            ahead: Ahead::default(),
        })));
        Opened {
            fh,
            keep_cache,
            // The kernel tells of a close in FLUSH, with which the locks of a process go. A read-only mount has none.
            noflush: !write && self.cx.config.read_only,
            parallel_direct_writes: flags & libc::O_DIRECT != 0,
            ..Opened::default()
        }
    }

    /// Makes and opens a regular file; without O_EXCL an existing one is opened, and emptied when O_TRUNC says so. With
    /// O_TMPFILE it gets no name. Errors as `mknod` and `open`.
    pub async fn create(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        umask: u16,
        flags: i32,
    ) -> VfsResult<(Entry, Opened)> {
        let work = pin!(async {
            if flags & OPEN_TMPFILE != 0 {
                self.create_unnamed(cx, parent, mode, umask, flags).await
            } else {
                self.create_file(cx, parent, name, mode, umask, flags).await
            }
        });
        self.operation(Op::Create, cx, work, |line, answer| {
            write!(line, "({parent},{},{}:0{mode:04o}):", Text(name), Mode(mode))?;
            match answer {
                Ok((entry, opened)) => write!(line, "{} [fh:{}]", EntryText::entry(Ok(entry)), opened.fh),
                Err(_) => write!(line, " [fh:0]"),
            }
        })
        .await
    }

    async fn create_file(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        umask: u16,
        flags: i32,
    ) -> VfsResult<(Entry, Opened)> {
        if self.internal.reserves(parent, name) {
            return Err(Errno::EEXIST);
        }
        check_name(name)?;
        let since = self.cx.stamps.now();
        let wanted = open_flags(flags);
        let node = self.new_node(FileType::File, mode, umask, 0);
        let call = self.cx.meta.create(cx, parent, name, node, flags & libc::O_EXCL != 0, wanted);
        let (ino, mut attr) = self.ask(MetaOp::Create, parent, call).await?;
        self.opens.unchanged(ino, &attr);
        let opened = self.opened(ino, &attr, since, wanted, false, flags);
        self.name_changed(parent, name, Change::Is(ino, FileType::File));
        if wanted.truncate && wanted.write && attr.length > 0 {
            // It was there already, and the kernel takes it for new: nobody else will empty it.
            let through = match self.handles.get(ino, opened.fh) {
                Some(Handle::File(handle)) => Some(handle),
                _ => None,
            };
            match self.set_length(cx, ino, 0, through.as_deref()).await {
                Ok(emptied) => attr = emptied,
                Err(errno) => {
                    let _ = self.release(ino, opened.fh).await;
                    return Err(errno);
                }
            }
        }
        let since = self.cx.stamps.now();
        Ok((self.entry(ino, attr, since).await, opened))
    }

    /// Makes an open file without a name.
    async fn create_unnamed(
        &self,
        cx: &Caller,
        dir: Ino,
        mode: u32,
        umask: u16,
        flags: i32,
    ) -> VfsResult<(Entry, Opened)> {
        let since = self.cx.stamps.now();
        let node = self.new_node(FileType::File, mode, umask, 0);
        let (ino, attr) = self.ask(MetaOp::Create, dir, self.cx.meta.create_unnamed(cx, dir, node)).await?;
        let opened = self.opened(ino, &attr, since, open_flags(flags), false, flags);
        Ok((self.entry(ino, attr, since).await, opened))
    }

    /// Reads up to `size` bytes at `off`; fewer at the end of the file only. Sees everything that was written here before.
    ///
    /// EBADF for an unknown handle, EFBIG beyond the largest file, EIO when data is missing, corrupt or unreachable.
    pub async fn read(&self, cx: &Caller, ino: Ino, fh: u64, off: u64, size: u32) -> VfsResult<Segments> {
        let handle = self.handles.get(ino, fh);
        if let Some(Handle::Internal(handle)) = &handle
            && handle.is_log()
        {
            return handle.read(&self.cx, self.files.len(), off, size).await;
        }
        let work = pin!(async {
            let answer = match handle {
                Some(Handle::File(handle)) => read_file(&handle, off, size).await,
                Some(Handle::Internal(handle)) => handle.read(&self.cx, self.files.len(), off, size).await,
                Some(Handle::Dir(_)) => Err(Errno::EISDIR),
                None => Err(Errno::EBADF),
            };
            self.cx.metrics.read_bytes(answer.as_deref().map_or(0, segments_len));
            answer
        });
        self.operation(Op::Read, cx, work, |line, answer| {
            write!(line, "({ino},{size},{off},{fh}): ({})", answer.as_deref().map_or(0, segments_len))
        })
        .await
    }

    /// Accepts `data`, which is durable after fsync, flush or release of the handle. It goes to `off`, or with `append`
    /// to the end of the file. Other clients may have moved the end; then the front end, which took `off` for it, hears
    /// of that.
    ///
    /// EBADF for an unknown or read-only handle, EFBIG, the error of an earlier write that was lost, and of one through this
    /// handle that was not stored when it should have been, until fsync or flush succeed.
    pub async fn write(&self, cx: &Caller, ino: Ino, fh: u64, off: u64, data: Bytes, append: bool) -> VfsResult<u32> {
        let size = data.len();
        let work = pin!(async {
            let answer = match self.handles.get(ino, fh) {
                Some(Handle::File(handle)) if handle.write => {
                    let _pass = handle.in_flight.begin();
                    let place = if append { WriteAt::End } else { WriteAt::Offset(off) };
                    match handle.file.write(&handle.unsent, place, data).await {
                        Ok(at) => {
                            if at != off {
                                self.cx.content_moved(ino, at.min(off));
                            }
                            u32::try_from(size).map_err(|_| Errno::EINVAL)
                        }
                        Err(Errno::ENOENT | Errno::EPERM | Errno::EINVAL) => Err(Errno::EBADF),
                        Err(errno) => Err(errno),
                    }
                }
                Some(Handle::Internal(handle)) => handle.write(&data).and_then(|request| {
                    if let Some((control, request)) = request {
                        self.start_job(cx, control, request);
                    }
                    u32::try_from(size).map_err(|_| Errno::EINVAL)
                }),
                Some(Handle::File(_) | Handle::Dir(_)) | None => Err(Errno::EBADF),
            };
            self.cx.metrics.written_bytes(size);
            answer
        });
        self.operation(Op::Write, cx, work, |line, _| write!(line, "({ino},{size},{off},{fh})")).await
    }

    /// Does what close(2) wants: makes everything that was written to the file durable, then releases the ranges that
    /// the closing process has locked in it. Cancel safe: the work goes on.
    ///
    /// EBADF for an unknown handle, the error of a write that was lost, that of a release, and that of the object store
    /// or engine when they do not take the data now: it is kept as long as the file is open, and the next call tries
    /// again.
    pub async fn flush(&self, cx: &Caller, ino: Ino, fh: u64, lock_owner: u64) -> VfsResult<()> {
        let work = pin!(async {
            match self.handles.get(ino, fh) {
                Some(Handle::File(handle)) => {
                    let flushed = if handle.write { flush_closing(&handle).await } else { handle.unsent.check_kept() };
                    flushed.and(self.release_ranges(&handle.file, lock_owner).await)
                }
                Some(Handle::Internal(handle)) => {
                    handle.close();
                    Ok(())
                }
                Some(_) => Ok(()),
                None => Err(Errno::EBADF),
            }
        });
        self.operation(Op::Flush, cx, work, |line, _| write!(line, "({ino},{fh},{lock_owner:016X})")).await
    }

    /// Does what fsync(2) and fdatasync(2) want. It is like `flush`, but works through a read-only handle too, because
    /// the file is synced and not the handle.
    pub async fn fsync(&self, cx: &Caller, ino: Ino, fh: u64, datasync: bool) -> VfsResult<()> {
        let work = pin!(async {
            match self.handles.get(ino, fh) {
                Some(Handle::File(handle)) => handle.flush().await,
                Some(_) => Ok(()),
                None => Err(Errno::EBADF),
            }
        });
        let datasync = u8::from(datasync);
        self.operation(Op::Fsync, cx, work, |line, _| write!(line, "({ino},{datasync})")).await
    }

    /// Ends a handle: commits what is dirty, releases what is still locked through it, closes the file and, if it was
    /// removed meanwhile, frees its data. With the last handle, data is lost that the store does not take even now.
    ///
    /// Nobody waits for the answer of a release. The error is that of `flush`. Not cancel safe.
    pub async fn release(&self, ino: Ino, fh: u64) -> VfsResult<()> {
        let work = pin!(async {
            match self.handles.remove(ino, fh) {
                Some(Handle::File(handle)) => {
                    let leaving = Leaving::begin(&handle.file, fh);
                    let flushed = self.flush_last(&handle).await;
                    if let Some(leaving) = leaving {
                        release_all(&self.cx, leaving, &handle.file).await;
                    }
                    handle.ahead.drop_window();
                    let file = Arc::clone(&handle.file);
                    drop(handle);
                    self.close_in_meta(ino).await;
                    while !self.files.release(&file) {
                        // Others that closed it at the same time have left it to this one.
                        file.settle().await;
                    }
                    flushed
                }
                Some(Handle::Internal(handle)) => {
                    handle.close();
                    Ok(())
                }
                Some(Handle::Dir(dir)) => {
                    self.dirs.remove(&dir);
                    Ok(())
                }
                None => Err(Errno::EBADF),
            }
        });
        self.operation(Op::Release, &Caller::root(), work, |line, _| write!(line, "({ino},{fh})")).await
    }

    /// Commits what is dirty of a file that a handle leaves, also what a killed caller has begun through it. With the
    /// last handle, whichever that is, data is lost that the store or the engine do not take even now.
    async fn flush_last(&self, handle: &FileHandle) -> VfsResult<()> {
        tokio::select! {
            () = handle.in_flight.settled() => {}
            // Then nothing is taken any more, and nobody opens the file again.
            () = self.cx.tasks.stopping() => {}
        }
        let flushed = if handle.write { handle.flush().await } else { Ok(()) };
        if self.files.has_one_handle(handle.file.ino) {
            if flushed.is_err() {
                handle.file.give_up();
            }
            handle.file.settle().await;
        }
        flushed
    }

    async fn close_in_meta(&self, ino: Ino) {
        match self.ask(MetaOp::Close, ino, self.cx.meta.close(ino)).await {
            Ok(Some(freed)) => self.cx.upkeep.free(freed),
            Ok(None) => {}
            // Whatever was to be freed is found by the clean-up of this session.
            Err(errno) => tracing::debug!(%ino, %errno, "close failed"),
        }
    }
}

/// Makes durable what was written to a file through a handle that is closed, and waits a while for what is being written.
async fn flush_closing(handle: &FileHandle) -> VfsResult<()> {
    let _ = tokio::time::timeout(CLOSING_PATIENCE, handle.in_flight.settled()).await;
    handle.flush().await
}

async fn read_file(handle: &FileHandle, off: u64, size: u32) -> VfsResult<Segments> {
    handle.unsent.check_kept()?;
    let end = off.checked_add(u64::from(size)).filter(|end| *end < MAX_FILE_BYTES).ok_or(Errno::EFBIG)?;
    let file = &handle.file;
    if file.is_dirty() {
        let known = file.sticky_error().is_err();
        // What is kept back cannot be read, and old bytes are not the answer.
        file.flush_range(off, end).await?;
        if !known {
            // What was just lost would have been read: old bytes are not the answer.
            file.sticky_error()?;
        }
    }
    let length = file.length();
    if off >= length || size == 0 {
        return Ok(Segments::new());
    }
    handle.ahead.read(file, off, end.min(length) - off).await
}
