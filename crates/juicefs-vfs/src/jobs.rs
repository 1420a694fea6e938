//! The jobs that are asked for through `.control` (format: data.md §5.6). They run on behalf of a caller, tell how far
//! they are, and stop when the caller is gone.

mod compact;
mod info;
mod reach;

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{
    Caller, ChunkIndex, Errno, Ino, Listing, Meta, MetaResult, Name,
    limits::CHUNK_SIZE,
    meta::Removed,
    tree::{Cloning, Progress, RemovalWatch, TreeRemoval},
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, MissedTickBehavior, interval_at},
};

use self::info::Info;
use crate::{
    Vfs,
    departed::Loss,
    dir::Change,
    fault,
    internal::{Command, Control, Malformed, Reply, Request, Special, is_special},
    reply::VfsResult,
};

/// The time between two reports of progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(300);
/// How long a job waits until the kernel has forgotten a name.
const FORGET_WAIT: Duration = Duration::from_secs(5);

/// How many chunks of a file are asked for at once.
const STORED_PAGE: usize = 1024;

/// Walks the chunks of a file that hold something, page by page: a file may span far more chunks than that.
struct StoredChunks {
    ino: Ino,
    left: Range<ChunkIndex>,
}

impl StoredChunks {
    /// The chunks of a file of this length.
    fn new(ino: Ino, length: u64) -> Self {
        let end = ChunkIndex::try_from(length.div_ceil(CHUNK_SIZE)).unwrap_or(ChunkIndex::MAX);
        Self { ino, left: 0..end }
    }

    /// The next page of chunks, empty at the end.
    async fn next(&mut self, meta: &dyn Meta) -> MetaResult<Vec<ChunkIndex>> {
        if self.left.is_empty() {
            return Ok(Vec::new());
        }
        let page = meta.stored_chunks(self.ino, self.left.clone(), STORED_PAGE).await?;
        self.left.start = match page.last() {
            Some(last) if page.len() >= STORED_PAGE => last + 1,
            _ => self.left.end,
        };
        Ok(page)
    }
}

impl Vfs {
    /// Says how the front end forgets names that changed without a request of its own. This is to be called once,
    /// before the first operation; a second call changes nothing.
    pub fn on_forget(&self, forget: impl Fn(Ino, Bytes, Box<dyn FnOnce() + Send>) + Send + Sync + 'static) {
        let _ = self.forget.set(Box::new(forget));
    }

    /// Starts the job that a request asks for, or answers why it does not run.
    pub(crate) fn start_job(&self, cx: &Caller, control: &Arc<Control>, request: Request) {
        let code = request.command;
        let refuse = |errno| control.finish(&Reply::Done(Err(errno)));
        let command = match Command::read(request) {
            Ok(command) => command,
            Err(Malformed::Unknown) => {
                tracing::debug!(code, "unknown control command");
                return refuse(Errno::EINVAL);
            }
            Err(Malformed::Short) => return refuse(Errno::EIO),
        };
        let Some(vfs) = self.me.upgrade() else { return refuse(Errno::EIO) };
        let Ok(slot) = Arc::clone(&self.jobs).try_acquire_owned() else { return refuse(Errno::EAGAIN) };
        tracing::info!(uid = cx.uid, pid = cx.pid, ?command, "job begins");
        let progress = Arc::new(Progress::default());
        control.begin(Arc::clone(&progress));
        // The kernel has checked nothing of what the job will do.
        let caller = Caller { check_permission: true, ..cx.clone() };
        let control = Arc::clone(control);
        self.cx.tasks.spawn("control", run(vfs, caller, control, command, progress, slot));
    }

    async fn perform(&self, cx: &Caller, command: Command, progress: &Progress) -> Reply {
        if let Err(errno) = self.may_reach_all(cx, &command).await {
            return refusal(&command, errno);
        }
        match command {
            Command::Remove { parent, name, how } => {
                Reply::Done(self.remove_tree(cx, parent, name, how, progress).await)
            }
            Command::Clone { source, to, name, how } => {
                Reply::Done(self.clone_tree(cx, source, (to, name), how, progress).await)
            }
            Command::Info { ino, recursive, raw, strict, text } => {
                let info = self.info(cx, ino, recursive, raw, strict, progress).await;
                if text { Reply::Text(info.text()) } else { info.json() }
            }
            Command::Summary { ino, detail } => self.tree_summary(cx, ino, detail, progress).await,
            Command::Compact { ino, workers } => Reply::Done(self.compact_tree(cx, ino, workers, progress).await),
        }
    }

    async fn remove_tree(
        &self,
        cx: &Caller,
        parent: Ino,
        name: Bytes,
        how: TreeRemoval,
        progress: &Progress,
    ) -> VfsResult<()> {
        if self.internal.find(parent, &name) == Some(Special::Trash) {
            return self.empty_trash(cx, how, progress).await;
        }
        if self.internal.reserves(parent, &name) || self.internal.attr(parent).is_some() {
            return Err(Errno::EPERM);
        }
        let watch = Watch { vfs: self };
        let outcome = self.cx.meta.remove_tree(cx, parent, &name, how, &watch, progress).await;
        self.forget_name(parent, name).await;
        answered("rmr", parent, outcome)
    }

    /// Removes for good what is in the trash, hour by hour. The trash itself stays. It goes on after an hour that
    /// cannot be removed, and the first error is the answer. EPERM for all but root.
    async fn empty_trash(&self, cx: &Caller, how: TreeRemoval, progress: &Progress) -> VfsResult<()> {
        if cx.uid != 0 {
            return Err(Errno::EPERM);
        }
        let failed = |error| fault::of_meta("rmr", Ino::TRASH_ROOT, &error);
        let how = TreeRemoval { skip_trash: true, ..how };
        let (mut outcome, mut listing) = (Ok(()), Listing::of(Ino::TRASH_ROOT));
        while let Some(hours) = listing.next(self.cx.meta.as_ref()).await.map_err(failed)? {
            for hour in hours {
                progress.go_on()?;
                let watch = Watch { vfs: self };
                let name = hour.name.0;
                let removed = self.cx.meta.remove_tree(cx, Ino::TRASH_ROOT, &name, how, &watch, progress).await;
                self.forget_name(Ino::TRASH_ROOT, name).await;
                outcome = outcome.and(match removed.map_err(failed) {
                    // Somebody else was faster.
                    Err(Errno::ENOENT) => Ok(()),
                    removed => removed,
                });
            }
        }
        outcome
    }

    async fn clone_tree(
        &self,
        cx: &Caller,
        source: Ino,
        (to, name): (Ino, Bytes),
        how: Cloning,
        progress: &Progress,
    ) -> VfsResult<()> {
        if is_special(source) || is_special(to) || self.internal.reserves(to, &name) {
            return Err(Errno::EPERM);
        }
        // The copy is one of what was written, not of what has arrived so far. Data that were lost are reported to their
        // writers.
        if let Some(file) = self.files.get(source) {
            let _ = file.flush().await;
        } else {
            let _ = self.flush_all().await;
        }
        let watch = Watch { vfs: self };
        let copied = self.cx.meta.clone_tree(cx, source, (to, &name), how, &watch, progress).await;
        if let Ok(ino) = &copied
            && let Ok(attr) = self.cx.meta.getattr(*ino).await
        {
            self.name_changed(to, &name, Change::Is(*ino, attr.kind));
            self.forget_name(to, name).await;
        }
        answered("clone", source, copied.map(drop))
    }

    /// Makes the kernel forget a name and waits until it has, so that whoever asked for the job sees what it did.
    async fn forget_name(&self, parent: Ino, name: Bytes) {
        self.cx.stamps.touch(parent);
        let Some(forget) = self.forget.get() else { return };
        let (done, forgotten) = oneshot::channel();
        // Nobody waits any more when this took too long.
        forget(
            parent,
            name,
            Box::new(move || {
                let _ = done.send(());
            }),
        );
        let _ = tokio::time::timeout(FORGET_WAIT, forgotten).await;
    }
}

/// The answer to a job that may not begin. Each kind of job tells of failures in its own way.
fn refusal(command: &Command, errno: Errno) -> Reply {
    match command {
        Command::Info { ino, text, .. } => {
            let info = Info::failed(*ino, errno);
            if *text { Reply::Text(info.text()) } else { info.json() }
        }
        Command::Summary { ino, .. } => info::failed_summary(*ino, errno),
        Command::Remove { .. } | Command::Clone { .. } | Command::Compact { .. } => Reply::Done(Err(errno)),
    }
}

/// The answer for an outcome. Failures of the layers below are logged.
fn answered(what: &'static str, ino: Ino, outcome: MetaResult<()>) -> VfsResult<()> {
    outcome.map_err(|error| fault::of_meta(what, ino, &error))
}

/// Does the work of a job, reports on it, and answers. When the mount ends it asks the job to stop, and waits for it.
async fn run(
    vfs: Arc<Vfs>,
    caller: Caller,
    control: Arc<Control>,
    command: Command,
    progress: Arc<Progress>,
    slot: OwnedSemaphorePermit,
) {
    // Old clients read a length first where others find progress.
    let reports = !matches!(command, Command::Info { text: true, .. });
    let reply = {
        let work = vfs.perform(&caller, command, &progress);
        tokio::pin!(work);
        let mut ticks = interval_at(Instant::now() + REPORT_INTERVAL, REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ending = false;
        loop {
            tokio::select! {
                biased;
                reply = &mut work => break reply,
                () = vfs.cx.tasks.stopping(), if !ending => {
                    ending = true;
                    progress.stop();
                }
                _ = ticks.tick() => if reports {
                    control.report(progress.get());
                }
            }
        }
    };
    if reports && progress.get() != (0, 0) {
        control.report(progress.get());
    }
    // Whoever sees the reply may ask for the next job.
    drop(slot);
    control.finish(&reply);
}

/// Tells the mount about names that a removal takes away.
struct Watch<'a> {
    vfs: &'a Vfs,
}

impl RemovalWatch for Watch<'_> {
    fn removed(&self, parent: Ino, name: &Name, removed: Removed) {
        self.vfs.name_changed(parent, name.as_bytes(), Change::Gone);
        self.vfs.removed(removed, Loss::Removed);
    }
}
