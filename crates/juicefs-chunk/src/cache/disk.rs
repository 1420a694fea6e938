//! The disk cache keeps blocks as files in JuiceFS' layout, in one directory or several.
//!
//! Each directory has threads of its own, and a [`Gate`](super::gate::Gate) for everything else: one that fails or hangs
//! does not hold up the others, nor whoever reads. A directory that is down leaves the ring; what is staged in it is still
//! looked for there.

mod block;
mod dirs;
mod opening;
mod staging;
mod threads;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use juicefs_core::{Segments, store::DiskCounts};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::{
    block::DiskBlock,
    dirs::{DirHandle, Dirs},
    opening::{max_open_files, open_dirs},
    threads::{probe, spawn, tidy_when_called, write_queued},
};
use super::{
    dir::{CacheDir, InDir, Offer},
    file::CachedFile,
    health::DiskState,
    open_files::OpenFiles,
    scan::scan,
    tidy::{self, TidyCall},
    tier::{Found, LocalBlock, LocalTier, Need, StagedBlock},
};
use crate::{block::BlockId, config::ChunkConfig, counters::Counters};

/// The most bytes that wait to be written, over all directories.
const MAX_QUEUE_BYTES: usize = 32 << 20;

/// The local tier that keeps each block in a file. Its futures must be polled within a runtime.
#[derive(Debug)]
pub(super) struct DiskCache {
    dirs: Dirs,
    open_files: Arc<OpenFiles<Arc<DiskBlock>>>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl DiskCache {
    /// Opens those of `paths` that can be used. Returns `None` when there is none.
    pub(super) fn open(
        config: &ChunkConfig,
        paths: &[PathBuf],
        counters: &Arc<Counters>,
        tidier: &mpsc::SyncSender<TidyCall>,
    ) -> Option<Arc<Self>> {
        let mut sorted = paths.to_vec();
        sorted.sort();
        sorted.dedup();
        let rules = Arc::new(tidy::Rules::new(&config.cache, sorted.len()));
        let opened = open_dirs(config, &sorted, &rules);
        if opened.is_empty() {
            return None;
        }
        let rules = Arc::new(tidy::Rules::new(&config.cache, opened.len()));
        let stop = Arc::<AtomicBool>::default();
        let open_files = Arc::new(OpenFiles::new(max_open_files()));
        let room_bytes = (config.buffer_bytes / 5).min(MAX_QUEUE_BYTES) / opened.len();
        let room_bytes = room_bytes.max(config.block_size);
        let mut threads = Vec::new();
        let mut handles = Vec::new();
        for (dir, id) in opened {
            let ((queue, queued), (tidy, called)) = (mpsc::channel(), mpsc::sync_channel(1));
            let (writer, writes, caller) = (Arc::clone(&dir), Arc::clone(counters), tidier.clone());
            threads.extend(spawn("cache-write", move || write_queued(&writer, &queued, &writes, &caller)));
            let (tidied, rules, files) = (Arc::clone(&dir), Arc::clone(&rules), Arc::clone(&open_files));
            let evicts = Arc::clone(counters);
            threads.extend(spawn("cache-evict", move || tidy_when_called(&tidied, &rules, &files, &evicts, &called)));
            if config.cache.scan_interval.is_some() {
                let (scanner, stop) = (Arc::clone(&dir), Arc::clone(&stop));
                threads.extend(spawn("cache-scan", move || scan(&scanner, &stop)));
            }
            let (queue, tidy, room) =
                (Mutex::new(Some(queue)), Mutex::new(Some(tidy)), Arc::new(Semaphore::new(room_bytes)));
            handles.push(DirHandle { dir, id, queue, tidy, room, room_bytes });
        }
        Some(Arc::new(Self {
            dirs: Dirs::new(handles, config.hash_prefix),
            open_files,
            counters: Arc::clone(counters),
            stop,
            threads: Mutex::new(threads),
        }))
    }

    /// Looks for a block in one directory, without waiting.
    fn find_in(&self, dir: &CacheDir, id: BlockId) -> Found {
        let need = match dir.find(id) {
            InDir::Pending(bytes) => return Found::Memory(bytes),
            InDir::No => return Found::Nothing,
            InDir::File(need) => need,
            InDir::Perhaps => Need::Spare,
        };
        if dir.gate.state() == DiskState::Down && need == Need::Spare {
            return Found::Nothing;
        }
        let block = match self.open_files.get(id) {
            Some(block) => block,
            None => match dir.open_now(id) {
                Some(Ok(file)) => self.keep_open(dir, id, file),
                Some(Err(_)) => return Found::Nothing,
                None => return Found::Closed,
            },
        };
        Found::Open(LocalBlock { block, need })
    }

    fn keep_open(&self, dir: &CacheDir, id: BlockId, file: CachedFile) -> Arc<DiskBlock> {
        let block = Arc::new(DiskBlock { file, gate: Arc::clone(&dir.gate) });
        self.open_files.insert(id, Arc::clone(&block));
        block
    }

    fn enqueue(&self, handle: &DirHandle, id: BlockId, bytes: &Bytes, room: OwnedSemaphorePermit) {
        match handle.dir.offer(id, bytes) {
            Offer::Taken => handle.send(id, room),
            Offer::Known => {}
            Offer::Refused => self.counters.dropped(),
        }
    }

    /// Has the limits of all directories looked after, each on its own thread.
    fn tidy(&self) {
        for handle in &self.dirs.all {
            if let Some(tidy) = &*handle.tidy.lock() {
                // If a call is waiting already, it does for this one too.
                let _ = tidy.try_send(());
            }
        }
    }

    fn look_after_disk(&self, handle: &DirHandle, now: Instant) {
        let root = handle.dir.root().display();
        match handle.dir.gate.tick(now) {
            None => {}
            Some(DiskState::Normal) => tracing::info!("cache disk {root} is normal again"),
            Some(DiskState::Unstable) => {
                let (dir, stop) = (Arc::clone(&handle.dir), Arc::clone(&self.stop));
                self.threads.lock().extend(spawn("cache-probe", move || probe(&dir, &stop)));
            }
            Some(DiskState::Down) => {
                tracing::error!("cache disk {root} is down and no longer used; staged blocks in it stay there");
                self.dirs.leave_out_down();
            }
        }
    }
}

#[async_trait]
impl LocalTier for DiskCache {
    fn find(&self, id: BlockId) -> Found {
        for handle in self.dirs.candidates(id) {
            match self.find_in(&handle.dir, id) {
                Found::Nothing => {}
                found => return found,
            }
        }
        Found::Nothing
    }

    async fn open(&self, id: BlockId) -> Found {
        for handle in self.dirs.candidates(id) {
            match self.find_in(&handle.dir, id) {
                Found::Closed => {}
                Found::Nothing => continue,
                found => return found,
            }
            let (dir, need) = (Arc::clone(&handle.dir), handle.dir.need(id));
            match handle.dir.gate.run(need, move || dir.open_file(id)).await {
                Ok(file) => return Found::Open(LocalBlock { block: self.keep_open(&handle.dir, id, file), need }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => tracing::debug!("{} is not read: {e}", handle.dir.path(id).display()),
            }
        }
        Found::Nothing
    }

    fn contains(&self, id: BlockId) -> bool {
        self.dirs.candidates(id).iter().any(|handle| {
            handle.dir.contains(id) && (handle.dir.gate.state() != DiskState::Down || handle.dir.is_staged(id))
        })
    }

    fn is_open(&self, id: BlockId) -> bool {
        self.open_files.get(id).is_some()
    }

    async fn warm(&self, id: BlockId) {
        if self.open_files.get(id).is_none()
            && let Found::Open(_) = self.open(id).await
            && let Some(block) = self.open_files.get(id)
        {
            let gate = Arc::clone(&block.gate);
            let hint = move || {
                block.file.will_need();
                Ok(())
            };
            // A hint that is not given is none.
            let _ = gate.run(Need::Spare, hint).await;
        }
    }

    fn offer(&self, id: BlockId, bytes: &Bytes) {
        let handle = self.dirs.of(id);
        match Arc::clone(&handle.room).try_acquire_many_owned(handle.cost(bytes)) {
            Ok(room) => self.enqueue(handle, id, bytes, room),
            Err(_no_room) => self.counters.dropped(),
        }
    }

    async fn put(&self, id: BlockId, bytes: &Bytes) {
        let handle = self.dirs.of(id);
        if !handle.dir.gate.is_normal() {
            return self.counters.dropped();
        }
        let room = Arc::clone(&handle.room).acquire_many_owned(handle.cost(bytes));
        match tokio::time::timeout(handle.dir.gate.rules().read_deadline, room).await {
            Ok(Ok(room)) => self.enqueue(handle, id, bytes, room),
            _ => self.counters.dropped(),
        }
    }

    async fn remove(&self, id: BlockId, keep_staged: bool) {
        drop(self.open_files.remove(id));
        for handle in self.dirs.candidates(id) {
            let Some(need) = handle.dir.forget(id, keep_staged) else { continue };
            let dir = Arc::clone(&handle.dir);
            if let Err(e) = handle.dir.gate.run(need, move || dir.delete(id, need)).await {
                tracing::warn!("cannot delete cache file {}: {e}", handle.dir.path(id).display());
            }
        }
    }

    async fn stage(self: Arc<Self>, id: BlockId, body: Segments, tier: u8, patience: Duration) -> io::Result<()> {
        let (dir, counters) = (Arc::clone(&self.dirs.of(id).dir), Arc::clone(&self.counters));
        let remove = move || async move { self.remove(id, false).await };
        staging::stage(dir, (id, body, tier), patience, counters, remove).await
    }

    async fn unstage(&self, id: BlockId) -> io::Result<()> {
        let dir = Arc::clone(&self.dirs.of_staged(id).dir);
        let gate = Arc::clone(&dir.gate);
        gate.run(Need::Only, move || dir.unstage(id)).await
    }

    async fn read_staged(&self, id: BlockId) -> io::Result<Bytes> {
        let dir = Arc::clone(&self.dirs.of_staged(id).dir);
        let gate = Arc::clone(&dir.gate);
        gate.run(Need::Only, move || dir.open_staged(id)?.read(0, id.size)).await
    }

    fn is_staged(&self, id: BlockId) -> bool {
        self.dirs.is_staged(id)
    }

    fn staged(&self) -> BoxStream<'static, StagedBlock> {
        let dirs: Vec<_> = self.dirs.all.iter().map(|handle| Arc::clone(&handle.dir)).collect();
        stream::iter(dirs).then(staging::find).flat_map(stream::iter).boxed()
    }

    fn is_short_of_space(&self) -> bool {
        self.dirs.all.iter().any(|handle| handle.dir.short_of_space.load(Relaxed))
    }

    fn usage(&self) -> (u64, u64) {
        self.dirs.all.iter().fold((0, 0), |(count, bytes), handle| {
            let state = handle.dir.state.lock();
            (count + state.index.len() as u64, bytes + state.index.data_bytes())
        })
    }

    fn disks(&self) -> DiskCounts {
        let mut counts = DiskCounts::default();
        for gate in self.dirs.all.iter().map(|handle| &handle.dir.gate) {
            counts.failures += gate.failures();
            match gate.state() {
                DiskState::Normal => counts.normal += 1,
                DiskState::Unstable => counts.unstable += 1,
                DiskState::Down => counts.down += 1,
            }
        }
        counts
    }

    fn look_after(&self, now: Instant) -> bool {
        self.dirs.all.iter().for_each(|handle| self.look_after_disk(handle, now));
        self.tidy();
        self.dirs.any_alive()
    }

    /// Scans on threads of their own.
    fn rescan(&self) {
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        for handle in self.dirs.all.iter().filter(|handle| handle.dir.gate.is_normal()) {
            let (dir, stop) = (Arc::clone(&handle.dir), Arc::clone(&self.stop));
            threads.extend(spawn("cache-scan", move || scan(&dir, &stop)));
        }
    }

    /// Waits for the threads no longer than one operation may take: a hung disk must not keep a mount from ending.
    fn close(&self) {
        self.stop.store(true, Relaxed);
        for handle in &self.dirs.all {
            drop(handle.queue.lock().take());
            drop(handle.tidy.lock().take());
        }
        let longest = self.dirs.all.iter().map(|handle| handle.dir.gate.rules().max_operation).max();
        let deadline = Instant::now() + longest.unwrap_or_default();
        for thread in self.threads.lock().drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if !thread.is_finished() {
                tracing::error!("the thread {name} waits for a disk and is left behind");
            } else if thread.join().is_err() {
                tracing::error!("the thread {name} panicked");
            }
        }
    }
}
