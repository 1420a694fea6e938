//! Operations on locks of files.
//!
//! What was written under a lock is committed before the lock is released, and whoever gets a lock sees what was
//! committed before. So locks order the data of all mounts, and not only their owners.

use std::{fmt::Write as _, future::Future, pin::pin, sync::Arc, time::Duration};

use juicefs_core::{
    Attr, Caller, Errno, Ino, MetaError,
    lock::{GiveUp, LockKind, LockRange, RangeLock},
    stamps::Moment,
};

use super::leaving::Leaving;
use crate::{
    Vfs,
    context::Context,
    fault,
    file::File,
    internal::is_special,
    metrics::{MetaOp, Op},
    reply::VfsResult,
    table::{FileHandle, Handle},
};

/// How long even a caller who does not want to wait waits for a handle of this mount that was closed already: the
/// kernel tells of a close only after the program went on.
const CLOSED_PATIENCE: Duration = Duration::from_secs(1);
/// The pause before what a closed handle left locked is released anew, after the metadata service failed.
const RELEASE_PAUSE: Duration = Duration::from_secs(1);

/// How a kind of lock is named in the access log.
fn letter(kind: Option<LockKind>) -> char {
    match kind {
        None => 'U',
        Some(LockKind::Read) => 'R',
        Some(LockKind::Write) => 'W',
    }
}

impl Vfs {
    /// Locks a whole file through a handle as flock(2) does; `None` for the kind unlocks. With `wait` it waits for
    /// other owners until `wait` ends.
    ///
    /// EAGAIN, EINTR, ENOLCK as [`juicefs_core::Meta::flock`]; EBADF for an unknown handle, EPERM for internal files.
    /// An upgrade that fails or is interrupted loses what was held, as on Linux. Not cancel safe: let `wait` end
    /// instead.
    pub async fn flock(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: u64,
        owner: u64,
        kind: Option<LockKind>,
        wait: Option<GiveUp>,
    ) -> VfsResult<()> {
        let block = wait.is_some();
        // The kernel may give the number to another open file before we hear that this one was closed.
        let owner = owner ^ fh;
        let work = pin!(async {
            let handle = self.lockable(ino, fh)?;
            match kind {
                // Whoever held something through a lost handle is not to believe that it goes on.
                Some(_) if handle.unsent.is_lost() => Err(Errno::EIO),
                Some(kind) => {
                    let locked = self.lock_file(&handle.file, fh, owner, kind, wait).await;
                    handle.unsent.check_kept().and(locked)
                }
                None => self.unlock_file(&handle.file, fh).await,
            }
        });
        self.operation(Op::Flock, cx, work, |line, _| {
            let name = match kind {
                None => "UNLOCK",
                Some(LockKind::Read) => "LOCKSH",
                Some(LockKind::Write) => "LOCKEX",
            };
            write!(line, "({ino},{fh},{owner:016X},{name},{block})")
        })
        .await
    }

    /// The first lock that keeps `owner` from getting `lock`.
    pub async fn getlk(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: u64,
        owner: u64,
        lock: RangeLock,
    ) -> VfsResult<Option<RangeLock>> {
        let work = pin!(async {
            match self.lockable(ino, fh) {
                Ok(_) => self.ask(MetaOp::Getlk, ino, self.cx.meta.getlk(ino, owner, lock)).await,
                Err(errno) => Err(errno),
            }
        });
        self.operation(Op::Getlk, cx, work, |line, answer| {
            let held = answer.as_ref().ok().copied().flatten();
            let (start, len, kind, pid) = held.map_or((0, 0, None, 0), |held| {
                let to_the_end = held.range.end >= LockRange::LAST;
                let len = if to_the_end { 0 } else { held.range.end - held.range.start + 1 };
                (held.range.start, len, Some(held.kind), held.pid)
            });
            write!(line, "({ino},{fh},{owner:016X}): ({start},{len},{},{pid})", letter(kind))
        })
        .await
    }

    /// Locks a range through a handle as fcntl(2) does, for a process or an open file; `None` for the kind unlocks. It
    /// waits as [`Vfs::flock`] does. EDEADLK when that would never end. Not cancel safe: let `wait` end instead.
    #[allow(clippy::too_many_arguments, reason = "what the kernel sends")]
    pub async fn setlk(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: u64,
        owner: u64,
        range: LockRange,
        kind: Option<LockKind>,
        pid: u32,
        wait: Option<GiveUp>,
    ) -> VfsResult<()> {
        let block = wait.is_some();
        let work = pin!(async {
            let handle = self.lockable(ino, fh)?;
            match kind {
                Some(_) if handle.unsent.is_lost() => Err(Errno::EIO),
                Some(kind) => {
                    let lock = RangeLock { kind, range, pid };
                    let locked = self.lock_range(&handle.file, fh, owner, lock, wait).await;
                    handle.unsent.check_kept().and(locked)
                }
                None => self.unlock_range(&handle.file, owner, range).await,
            }
        });
        self.operation(Op::Setlk, cx, work, |line, _| {
            write!(line, "({ino},{fh},{owner:016X},{range},{},{block},{pid})", letter(kind))
        })
        .await
    }

    fn lockable(&self, ino: Ino, fh: u64) -> VfsResult<Arc<FileHandle>> {
        if is_special(ino) || self.internal.attr(ino).is_some() {
            return Err(Errno::EPERM);
        }
        match self.handles.get(ino, fh) {
            Some(Handle::File(handle)) => Ok(handle),
            _ => Err(Errno::EBADF),
        }
    }

    async fn lock_file(
        &self,
        file: &Arc<File>,
        fh: u64,
        owner: u64,
        kind: LockKind,
        wait: Option<GiveUp>,
    ) -> VfsResult<()> {
        let ino = file.ino;
        if file.lockers.note_file(fh, owner) {
            // What it has may be given up for the new one.
            commit(file).await;
        }
        let since = self.cx.stamps.now();
        let attr = match wait {
            Some(wait) => self.ask(MetaOp::Flock, ino, self.cx.meta.flock(ino, owner, kind, Some(wait))).await?,
            None => {
                let attempt = || self.ask(MetaOp::Flock, ino, self.cx.meta.flock(ino, owner, kind, None));
                at_once(file, attempt).await?
            }
        };
        // An unlock by another thread may have taken the note away before the lock was granted.
        file.lockers.note_file(fh, owner);
        self.see(file, attr, since).await;
        Ok(())
    }

    async fn unlock_file(&self, file: &Arc<File>, fh: u64) -> VfsResult<()> {
        // Taken out first: a lock that is granted meanwhile is noted again, and stays noted.
        let Some(owner) = file.lockers.take_file(fh) else { return Ok(()) };
        commit(file).await;
        let released = self.ask(MetaOp::Flock, file.ino, self.cx.meta.funlock(file.ino, owner)).await;
        if released.is_err() {
            file.lockers.note_file(fh, owner);
        }
        released
    }

    async fn lock_range(
        &self,
        file: &Arc<File>,
        fh: u64,
        owner: u64,
        lock: RangeLock,
        wait: Option<GiveUp>,
    ) -> VfsResult<()> {
        let ino = file.ino;
        if file.lockers.note_range(fh, owner) {
            commit(file).await;
        }
        let since = self.cx.stamps.now();
        let attr = match wait {
            Some(wait) => self.ask(MetaOp::Setlk, ino, self.cx.meta.setlk(ino, owner, lock, Some(wait))).await?,
            None => {
                let attempt = || self.ask(MetaOp::Setlk, ino, self.cx.meta.setlk(ino, owner, lock, None));
                at_once(file, attempt).await?
            }
        };
        file.lockers.note_range(fh, owner);
        self.see(file, attr, since).await;
        Ok(())
    }

    async fn unlock_range(&self, file: &Arc<File>, owner: u64, range: LockRange) -> VfsResult<()> {
        if !file.lockers.has_ranges(owner) {
            return Ok(());
        }
        commit(file).await;
        let handles = if range.covers(LockRange::ALL) { file.lockers.take_ranges(owner) } else { None };
        let released = self.ask(MetaOp::Setlk, file.ino, self.cx.meta.unlk(file.ino, owner, range)).await;
        if released.is_err() {
            for fh in handles.into_iter().flatten() {
                file.lockers.note_range(fh, owner);
            }
        }
        released
    }

    /// A process closes a handle: all its ranges go, through whichever handle it got them.
    pub(crate) async fn release_ranges(&self, file: &Arc<File>, owner: u64) -> VfsResult<()> {
        self.unlock_range(file, owner, LockRange::ALL).await
    }

    /// Takes over attributes that came with a lock: from now on reads show what was committed before.
    async fn see(&self, file: &Arc<File>, mut attr: Attr, mut since: Moment) {
        if self.cx.stamps.changed(file.ino, since) {
            // Changed here meanwhile, so that the attributes may be from before.
            since = self.cx.stamps.now();
            file.content_changed(0..u64::MAX);
            match self.ask(MetaOp::GetAttr, file.ino, self.cx.meta.getattr(file.ino)).await {
                Ok(newer) => attr = newer,
                Err(errno) => {
                    tracing::debug!(ino = %file.ino, %errno, "a locked file without attributes");
                    return;
                }
            }
        }
        file.merge(&mut attr, since);
    }
}

/// Commits what was written so far. An error stays with the file: fsync and close tell of it.
async fn commit(file: &Arc<File>) {
    if file.is_dirty()
        && let Err(errno) = file.flush().await
    {
        tracing::debug!(ino = %file.ino, %errno, "a lock is released over writes that were lost");
    }
}

/// Attempts to get a lock. It does not wait for other owners, but for handles that are closed and on their way out.
async fn at_once<F: Future<Output = VfsResult<Attr>>>(file: &File, attempt: impl Fn() -> F) -> VfsResult<Attr> {
    let deadline = tokio::time::Instant::now() + CLOSED_PATIENCE;
    loop {
        let mut gone = std::pin::pin!(file.lockers.gone());
        gone.as_mut().enable();
        let before = file.lockers.is_leaving();
        let answer = attempt().await;
        let leaving = before || file.lockers.is_leaving();
        if answer != Err(Errno::EAGAIN) || !leaving || tokio::time::timeout_at(deadline, gone).await.is_err() {
            return answer;
        }
    }
}

/// Releases what was locked through a handle that is closed, now or, when the metadata service fails, later.
pub(crate) async fn release_all(cx: &Arc<Context>, leaving: Leaving, file: &Arc<File>) {
    let ino = file.ino;
    if try_release(cx, &leaving, file).await {
        return;
    }
    let (later, file) = (Arc::clone(cx), Arc::clone(file));
    cx.tasks.spawn_until_stopped("unlock", async move {
        loop {
            tokio::time::sleep(RELEASE_PAUSE).await;
            if try_release(&later, &leaving, &file).await {
                tracing::info!(%ino, "locks of a closed file are released at last");
                return;
            }
        }
    });
}

/// Tries to release the locks. Returns whether that is done, or cannot be done any more.
async fn try_release(cx: &Arc<Context>, leaving: &Leaving, file: &Arc<File>) -> bool {
    let mut done = true;
    let mut note = |what, result| {
        if let Err(error) = result {
            fault::of_meta(what, file.ino, &error);
            done &= matches!(error, MetaError::Fenced | MetaError::Posix(_));
        }
    };
    if let Some(owner) = leaving.file_owner {
        note("Flock", cx.timed(MetaOp::Flock, cx.meta.funlock(file.ino, owner)).await);
    }
    for owner in &leaving.range_owners {
        // The number may name somebody else by now, who has a handle.
        if !file.lockers.has_ranges(*owner) {
            note("Setlk", cx.timed(MetaOp::Setlk, cx.meta.unlk(file.ino, *owner, LockRange::ALL)).await);
        }
    }
    done
}
