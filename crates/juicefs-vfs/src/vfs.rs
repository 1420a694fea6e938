//! The file system that front ends call: what it is made of, how it starts and ends, and the wrapper that every
//! operation runs through. The operations themselves are in `ops/`.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    time::Instant,
};

use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, ChunkStore, Clock, Ino, Meta, MetaResult, SessionId, meta::SessionLoss, stamps::Moment,
};
use tokio::sync::Semaphore;

use crate::{
    Entry, VfsConfig,
    context::Context,
    fault,
    file::{File, Unsent},
    internal::Internal,
    metrics::{MetaOp, Op},
    open_dirs::OpenDirs,
    reply::VfsResult,
    table::{FileTable, Handle, HandleTable, LastOpens},
};

/// How many jobs of one mount run at the same time. More are refused with EAGAIN.
const MAX_JOBS: usize = 32;

/// Takes a name of a directory that a front end is to forget, and what to call once it has.
pub(crate) type ForgetName = dyn Fn(Ino, Bytes, Box<dyn FnOnce() + Send>) + Send + Sync;

/// What one file lost with a session.
#[derive(Default)]
struct Lost {
    /// The file has no name, so that all of it is lost.
    all: bool,
    /// Owners of locks on the whole file.
    files: Vec<u64>,
    /// Owners of ranges.
    ranges: Vec<u64>,
    file: Option<Arc<File>>,
    handles: Vec<Arc<Unsent>>,
}

/// One mounted file system.
///
/// Every operation may be called from any thread. What can be answered without waiting is answered by the first poll.
/// Unless an operation says otherwise it is cancel safe: dropping its future leaves it done or not done.
pub struct Vfs {
    pub(crate) cx: Arc<Context>,
    pub(crate) internal: Internal,
    pub(crate) files: Arc<FileTable>,
    pub(crate) handles: Arc<HandleTable>,
    pub(crate) dirs: OpenDirs,
    pub(crate) opens: LastOpens,
    /// Itself, for jobs that outlive the request that started them.
    pub(crate) me: Weak<Self>,
    /// Room for jobs.
    pub(crate) jobs: Arc<Semaphore>,
    pub(crate) forget: OnceLock<Box<ForgetName>>,
}

impl fmt::Debug for Vfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vfs").field("open_inodes", &self.files.len()).finish_non_exhaustive()
    }
}

impl Vfs {
    /// Makes a file system over these services. Nothing runs in the background before [`Vfs::start`].
    #[must_use]
    pub fn new(
        meta: Arc<dyn Meta>,
        chunks: Arc<dyn ChunkStore>,
        clock: Arc<dyn Clock>,
        config: VfsConfig,
    ) -> Arc<Self> {
        let internal = Internal::new(&config, clock.now());
        let files = Arc::new(FileTable::new());
        let vfs = Arc::new_cyclic(|me| Self {
            cx: Context::new(meta, chunks, clock, config, Arc::clone(&files) as _),
            internal,
            files,
            handles: Arc::new(HandleTable::new()),
            dirs: OpenDirs::default(),
            opens: LastOpens::default(),
            me: Weak::clone(me),
            jobs: Arc::new(Semaphore::new(MAX_JOBS)),
            forget: OnceLock::new(),
        });
        let me = Arc::downgrade(&vfs);
        vfs.cx.meta.on_loss(Box::new(move |loss| {
            if let Some(vfs) = me.upgrade() {
                vfs.lose(loss);
            }
        }));
        vfs
    }

    /// Takes note of what was lost with a session that another client has ended, before there is a new one.
    fn lose(&self, loss: &SessionLoss) {
        let mut lost: HashMap<Ino, Lost> = HashMap::new();
        for (ino, owner) in &loss.flocks {
            lost.entry(*ino).or_default().files.push(*owner);
        }
        for (ino, owner) in &loss.ranges {
            lost.entry(*ino).or_default().ranges.push(*owner);
        }
        for ino in &loss.unnamed {
            lost.entry(*ino).or_default().all = true;
        }
        for (fh, handle) in self.handles.list() {
            if let Handle::File(handle) = handle
                && let Some(of_file) = lost.get_mut(&handle.file.ino)
            {
                let Lost { all, files, ranges, .. } = &*of_file;
                if *all || handle.file.lockers.is_lost(fh, handle.write, files, ranges) {
                    of_file.handles.push(Arc::clone(&handle.unsent));
                }
                of_file.file = Some(Arc::clone(&handle.file));
            }
        }
        for (ino, Lost { file, handles, .. }) in lost {
            let Some(file) = file else { continue };
            tracing::warn!(%ino, handles = handles.len(), "open files are lost with the session");
            file.lose(&handles);
            self.cx.content_moved(ino, 0);
        }
    }

    /// Says how the front end forgets the length of a file, and its content from an offset on, when these are not what
    /// it was told. `moved` must not wait for a request that is being served. This is to be called once, before the
    /// first operation; a second call changes nothing.
    pub fn on_moved(&self, moved: impl Fn(Ino, u64) + Send + Sync + 'static) {
        let _ = self.cx.moved.set(Box::new(moved));
    }

    /// Starts flushing by age, the heartbeat of the session and the clean-up jobs on `rt`. [`Vfs::shutdown`] ends them.
    pub fn start(self: &Arc<Self>, rt: &tokio::runtime::Handle) {
        self.cx.tasks.run_on(rt);
        self.cx.start_upkeep(Arc::clone(&self.handles));
    }

    /// Ends the sessions of clients that are known to be dead, with their locks and the files that only they kept.
    ///
    /// Fails with EIO when the metadata engine does; what is left then is ended by the heartbeat of some client.
    pub async fn end_sessions(&self, dead: &[SessionId]) -> VfsResult<()> {
        let ended = self.cx.meta.end_sessions(dead).await;
        let freed = ended.map_err(|error| fault::of_meta("end of dead sessions", Ino::ROOT, &error))?;
        freed.into_iter().for_each(|file| self.cx.upkeep.free(file));
        Ok(())
    }

    /// Commits all dirty data, closes all handles, ends all tasks and the session, and shuts the data path down.
    ///
    /// Fails with the first error of lost data; everything is closed all the same. Call it once, after the last operation;
    /// not cancel safe.
    pub async fn shutdown(&self) -> VfsResult<()> {
        let mut result = self.flush_all().await;
        if result.is_err() {
            // They had their chance, and closing each handle would give them another one.
            self.cx.dirty.list().iter().for_each(|file| file.give_up());
        }
        self.cx.tasks.stop();
        for (fh, handle) in self.handles.list() {
            if let Handle::File(handle) = handle {
                let closed = self.release(handle.file.ino, fh).await;
                result = result.and(closed);
            }
        }
        self.cx.tasks.join().await;
        if let Err(error) = self.cx.meta.close_session().await {
            result = result.and(Err(fault::of_meta("end of the session", Ino::ROOT, &error)));
        }
        self.cx.chunks.shutdown().await;
        result
    }

    /// Commits everything that was accepted so far. It tries all files, and fails with the first error of lost data.
    pub async fn flush_all(&self) -> VfsResult<()> {
        let flushes = self.cx.dirty.list().into_iter().map(|file| async move { file.flush().await });
        futures_util::future::join_all(flushes).await.into_iter().collect()
    }

    /// A number that grows whenever something that was written has been stored, on the local disk included.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let stats = self.cx.chunks.stats();
        stats.put.count.wrapping_add(stats.staging.written_bytes)
    }

    /// Waits until this mount can no longer serve its volume (the setting is gone or replaced) and returns the sentence
    /// that says why. The program should flush nothing, unmount and exit.
    pub async fn fatal(&self) -> String {
        self.cx.upkeep.fatal().await
    }

    /// Runs one operation of a front end to its end: takes its time, counts it, and writes its line into the access log if
    /// anybody reads that. `args` appends arguments and result to the name of the operation.
    ///
    /// `work` is pinned by the caller, so that its future lies in the caller's once and is not moved.
    pub(crate) async fn operation<T>(
        &self,
        op: Op,
        cx: &Caller,
        work: Pin<&mut impl Future<Output = VfsResult<T>>>,
        args: impl FnOnce(&mut String, &VfsResult<T>) -> fmt::Result,
    ) -> VfsResult<T> {
        let begun = Instant::now();
        let answer = work.await;
        let spent = begun.elapsed();
        let failed = answer.as_ref().err().copied();
        self.cx.metrics.op_done(op, spent, failed);
        if self.internal.log.wants(spent) {
            let args = |line: &mut String| args(line, &answer);
            self.internal.log.line(self.cx.clock.now(), cx, spent, failed, op.name(), args);
        }
        answer
    }

    /// Makes one metadata call and turns its error into a number.
    pub(crate) async fn ask<T>(&self, op: MetaOp, ino: Ino, call: impl Future<Output = MetaResult<T>>) -> VfsResult<T> {
        self.cx.timed(op, call).await.map_err(|error| fault::of_meta(op.name(), ino, &error))
    }

    /// The entry for a node whose attributes were asked for after `since`.
    pub(crate) async fn entry(&self, ino: Ino, mut attr: Attr, since: Moment) -> Entry {
        let fresh = self.refresh(ino, &mut attr, since).await;
        let config = &self.cx.config;
        Entry {
            ino,
            attr_ttl: if fresh { config.attr_ttl } else { std::time::Duration::ZERO },
            entry_ttl: if attr.is_dir() { config.dir_entry_ttl } else { config.entry_ttl },
            attr,
        }
    }

    /// Brings attributes that were asked for after `since` up to what applications here have done, and takes note of
    /// them. Returns whether they may be kept, which they may not if the node was changed here meanwhile.
    pub(crate) async fn refresh(&self, ino: Ino, attr: &mut Attr, since: Moment) -> bool {
        let mut asked = since;
        let fresh = !self.cx.stamps.changed(ino, since);
        if !fresh {
            asked = self.cx.stamps.now();
            if let Some((newer, _)) = self.cx.meta.recent_attr(ino, self.cx.config.attr_ttl) {
                *attr = newer;
            } else if let Ok(newer) = self.ask(MetaOp::GetAttr, ino, self.cx.meta.getattr(ino)).await {
                *attr = newer;
            }
        }
        if attr.is_dir() {
            self.dirs.seen(ino, attr);
        } else if attr.is_file()
            && let Some(file) = self.files.get(ino)
        {
            file.merge(attr, asked);
        }
        fresh
    }
}
