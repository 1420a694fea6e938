//! Operations on the length of files and on where their data lies.

use std::{fmt::Write as _, pin::pin, sync::Arc};

use juicefs_core::{
    Attr, Caller, Errno, Ino, MetaError, MetaResult, SessionId,
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    meta::FallocateMode,
};

use crate::{
    Vfs, fault,
    file::{Extent, File, Unsent},
    internal::is_special,
    metrics::{MetaOp, Op},
    reply::VfsResult,
    table::{FileHandle, Handle},
};

/// `lseek` for the next data.
const SEEK_DATA: u32 = libc::SEEK_DATA as u32;
/// `lseek` for the next hole.
const SEEK_HOLE: u32 = libc::SEEK_HOLE as u32;

/// Holes are told in whole pages, as other file systems tell them in blocks, because programs take the smallest step
/// that they see for the size of a block and copy by it.
const HOLE_BYTES: u64 = 4096;

/// The mode that bits of fallocate(2) name.
fn fallocate_mode(mode: i32) -> VfsResult<FallocateMode> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok(FallocateMode::Allocate { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Ok(FallocateMode::PunchHole),
        libc::FALLOC_FL_PUNCH_HOLE => Err(Errno::EINVAL),
        libc::FALLOC_FL_ZERO_RANGE => Ok(FallocateMode::ZeroRange { keep_size }),
        libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE if !keep_size => Err(Errno::EOPNOTSUPP),
        other if other & (libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE) != 0 => Err(Errno::EINVAL),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// What a change of content depends on: a handle, a file, and that neither was lost since the change began.
struct Bound<'a> {
    /// The state of the handle through which the change is done.
    unsent: Option<&'a Unsent>,
    file: Option<&'a File>,
    /// The losses of the file when the change began.
    losses: Option<u64>,
}

impl<'a> Bound<'a> {
    fn to(handle: Option<&'a FileHandle>, file: Option<&'a File>) -> Self {
        Self { unsent: handle.map(|handle| &*handle.unsent), file, losses: file.map(File::losses) }
    }

    /// The session in which the change is to be made. EIO when the handle or the file was lost with an earlier one.
    fn enter(&self, vfs: &Vfs) -> VfsResult<SessionId> {
        // Asked for before it is looked whether anything was lost: that is told before there is another session.
        let session = vfs.cx.meta.session();
        self.unsent.map_or(Ok(()), Unsent::check_kept)?;
        if self.losses == self.file.map(File::losses) {
            return Ok(session);
        }
        tracing::debug!(ino = ?self.file.map(|file| file.ino), "a change is dropped with the session in which it was begun");
        Err(Errno::EIO)
    }
}

impl Vfs {
    /// Sets the length of a file after everything written before is committed, so that no later commit brings back what is
    /// cut off.
    pub(crate) async fn set_length(
        &self,
        cx: &Caller,
        ino: Ino,
        size: u64,
        through: Option<&FileHandle>,
    ) -> VfsResult<Attr> {
        if size >= MAX_FILE_BYTES {
            return Err(Errno::EFBIG);
        }
        let file = self.files.get(ino);
        let bound = Bound::to(through, file.as_deref());
        let opened = through.is_some();
        let call = async || loop {
            let cx = cx.within(bound.enter(self)?);
            let call = self.cx.meta.truncate(&cx, ino, size, opened);
            if let Some(attr) = self.settle(MetaOp::Truncate, ino, call).await? {
                return Ok(attr);
            }
        };
        let Some(file) = &file else {
            let attr = call().await?;
            self.cx.stamps.touch(ino);
            return Ok(attr);
        };
        let _alone = file.exclude().await;
        // Data that is kept back would come over the new length later. Lost data is reported by the write, fsync or close
        // that it belongs to.
        file.flush_range(0, u64::MAX).await?;
        let before = file.length();
        let attr = call().await?;
        file.relaid(attr.length, before.min(size)..before.max(size).saturating_add(1));
        Ok(attr)
    }

    fn file_handle(&self, ino: Ino, fh: u64) -> VfsResult<Arc<FileHandle>> {
        match self.handles.get(ino, fh) {
            Some(Handle::File(handle)) => handle.unsent.check_kept().map(|()| handle),
            Some(Handle::Dir(_) | Handle::Internal(_)) | None => Err(Errno::EBADF),
        }
    }

    /// Makes a call that is bound to a session, and returns its answer. `None` when that session was ended and there is
    /// another one: then the call may be made again if the change may be begun again.
    async fn settle<T>(&self, op: MetaOp, ino: Ino, call: impl Future<Output = MetaResult<T>>) -> VfsResult<Option<T>> {
        match self.cx.timed(op, call).await {
            Ok(done) => Ok(Some(done)),
            Err(MetaError::Fenced) => self.ask(op, ino, self.cx.meta.come_back()).await.map(|()| None),
            Err(error) => Err(fault::of_meta(op.name(), ino, &error)),
        }
    }

    /// Reserves, punches or zeroes a range, as fallocate(2) says.
    ///
    /// EINVAL for an empty range or impossible mode, EPERM for internal files, EBADF unless the handle writes, EFBIG,
    /// EOPNOTSUPP for collapsing and inserting, ENOSPC, EDQUOT, EROFS.
    pub async fn fallocate(&self, cx: &Caller, ino: Ino, fh: u64, mode: i32, off: u64, len: u64) -> VfsResult<()> {
        let work = pin!(self.allocate(cx, ino, fh, mode, off, len));
        self.operation(Op::Fallocate, cx, work, |line, _| write!(line, "({ino},{mode},{off},{len})")).await
    }

    async fn allocate(&self, cx: &Caller, ino: Ino, fh: u64, mode: i32, off: u64, len: u64) -> VfsResult<()> {
        if len == 0 || i64::try_from(off).is_err() || i64::try_from(len).is_err() {
            return Err(Errno::EINVAL);
        }
        if is_special(ino) {
            return Err(Errno::EPERM);
        }
        let handle = self.file_handle(ino, fh)?;
        let end = off.checked_add(len).filter(|end| *end < MAX_FILE_BYTES).ok_or(Errno::EFBIG)?;
        if !handle.write {
            return Err(Errno::EBADF);
        }
        let mode = fallocate_mode(mode)?;
        let _pass = handle.in_flight.begin();
        let file = &handle.file;
        let _alone = file.exclude().await;
        file.flush().await?;
        let bound = Bound::to(Some(&handle), Some(file));
        let attr = loop {
            let cx = cx.within(bound.enter(self)?);
            let call = self.cx.meta.fallocate(&cx, ino, mode, off, len);
            if let Some(attr) = self.settle(MetaOp::Fallocate, ino, call).await? {
                break attr;
            }
        };
        file.relaid(attr.length, off..end);
        Ok(())
    }

    /// Copies a range by reference and returns how many bytes; fewer at the end of the source.
    ///
    /// EOPNOTSUPP from internal files, EPERM into them, EBADF, EACCES when the target handle cannot write, EFBIG, EINVAL for
    /// flags and for overlapping ranges of one file, ENOSPC, EDQUOT, EROFS.
    #[allow(clippy::too_many_arguments, reason = "the arguments are those of copy_file_range(2)")]
    pub async fn copy_file_range(
        &self,
        cx: &Caller,
        ino_in: Ino,
        fh_in: u64,
        off_in: u64,
        ino_out: Ino,
        fh_out: u64,
        off_out: u64,
        len: u64,
        flags: u64,
    ) -> VfsResult<u64> {
        let from = (ino_in, fh_in, off_in);
        let to = (ino_out, fh_out, off_out);
        let work = pin!(self.copy_range(cx, from, to, len, flags));
        self.operation(Op::CopyFileRange, cx, work, |line, _| {
            write!(line, "({ino_in},{off_in},{ino_out},{off_out},{len},{flags})")
        })
        .await
    }

    async fn copy_range(
        &self,
        cx: &Caller,
        (ino_in, fh_in, off_in): (Ino, u64, u64),
        (ino_out, fh_out, off_out): (Ino, u64, u64),
        len: u64,
        flags: u64,
    ) -> VfsResult<u64> {
        if is_special(ino_in) {
            return Err(Errno::EOPNOTSUPP);
        }
        if is_special(ino_out) {
            return Err(Errno::EPERM);
        }
        let source = self.file_handle(ino_in, fh_in)?;
        let target = self.file_handle(ino_out, fh_out)?;
        if !target.write {
            return Err(Errno::EACCES);
        }
        let fits = |off: u64| off.checked_add(len).is_some_and(|end| end < MAX_FILE_BYTES);
        if !fits(off_in) || !fits(off_out) {
            return Err(Errno::EFBIG);
        }
        let overlap = ino_in == ino_out && off_in < off_out + len && off_out < off_in + len;
        if flags != 0 || overlap {
            return Err(Errno::EINVAL);
        }
        // The answer must fit into 32 bits.
        let len = if len > u64::from(u32::MAX) { (1 << 32) - CHUNK_SIZE } else { len };
        let _passes = (source.in_flight.begin(), target.in_flight.begin());
        let _alone = target.file.exclude().await;
        source.file.flush().await?;
        target.file.flush().await?;
        let bound = Bound::to(Some(&target), Some(&target.file));
        let copied = loop {
            let cx = cx.within(bound.enter(self)?);
            let call = self.cx.meta.copy_file_range(&cx, ino_in, off_in, ino_out, off_out, len);
            if let Some(copied) = self.settle(MetaOp::CopyFileRange, ino_out, call).await? {
                break copied;
            }
        };
        target.file.relaid(copied.length, off_out..off_out + copied.bytes.max(1));
        Ok(copied.bytes)
    }

    /// Finds the next data or hole at or after `off` (`whence` SEEK_DATA or SEEK_HOLE), by pages of 4 KiB. The end of
    /// the file counts as a hole.
    ///
    /// ENXIO at or beyond the end of the file, or when no data follows; EINVAL for any other `whence`; EBADF.
    pub async fn lseek(&self, cx: &Caller, ino: Ino, fh: u64, off: u64, whence: u32) -> VfsResult<u64> {
        let work = pin!(async {
            match self.file_handle(ino, fh) {
                Ok(handle) => seek(&handle.file, off, whence).await,
                Err(errno) => Err(errno),
            }
        });
        self.operation(Op::Lseek, cx, work, |line, answer| {
            write!(line, "({ino},{fh},{off},{whence}): ({})", answer.unwrap_or_default())
        })
        .await
    }
}

async fn seek(file: &Arc<File>, off: u64, whence: u32) -> VfsResult<u64> {
    if whence != SEEK_DATA && whence != SEEK_HOLE {
        return Err(Errno::EINVAL);
    }
    file.flush().await?;
    let length = file.length();
    if off >= length {
        return Err(Errno::ENXIO);
    }
    let mut at = page_of(off);
    // What lies between the page of `off` and here are pages with data.
    let mut data_end = at;
    while at < length {
        let upto = length.min((at / CHUNK_SIZE + 1) * CHUNK_SIZE);
        let extents = file.extents(at, upto - at).await?;
        let empty = extents.iter().all(|extent| matches!(extent, Extent::Zeros { .. }));
        for extent in extents {
            let end = at + extent.len();
            match (extent, whence) {
                (Extent::Data { .. }, SEEK_DATA) => return Ok(page_of(at).max(off)),
                (Extent::Data { .. }, _) if page_of(at) > data_end => return Ok(data_end.max(off)),
                (Extent::Data { .. }, _) => data_end = end.next_multiple_of(HOLE_BYTES),
                (Extent::Zeros { .. }, SEEK_HOLE) if data_end + HOLE_BYTES <= end => return Ok(data_end.max(off)),
                (Extent::Zeros { .. }, _) => {}
            }
            at = end;
        }
        if empty && at < length {
            // A hole may be wide: it is crossed in one step.
            at = file.next_stored(at, length).await?;
        }
    }
    if whence == SEEK_HOLE { Ok(data_end.max(off).min(length)) } else { Err(Errno::ENXIO) }
}

/// The start of the page that byte `at` lies in.
fn page_of(at: u64) -> u64 {
    at - at % HOLE_BYTES
}
