//! The disk cache: its directories, the ring that places blocks in them, and the threads that write and tidy.

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

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Found, TidyCall,
    dir::{CacheDir, InDir},
    file::CachedFile,
    open_files::OpenFiles,
    ring::Ring,
    stage::StagedBlock,
    tidy,
};
use crate::{block::BlockId, config::ChunkConfig, counters::Counters};

/// Most bytes that wait to be written, over all directories.
const MAX_QUEUE_BYTES: usize = 32 << 20;
/// What an entry of a queue counts at least.
const MIN_ENTRY_BYTES: usize = 4 << 10;
/// Most descriptors of cache files kept open.
const MAX_OPEN_FILES: usize = 512;

/// A disk that fails is not complained about more often than this.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Blocks in files, over one directory or several.
#[derive(Debug)]
pub(super) struct DiskCache {
    dirs: Vec<Place>,
    ring: Ring,
    open_files: OpenFiles,
    hash_prefix: bool,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A directory with the queue of its writer.
#[derive(Debug)]
struct Place {
    dir: Arc<CacheDir>,
    /// `None` once the cache is closed.
    queue: Mutex<Option<mpsc::Sender<Queued>>>,
    /// Room in the queue, in bytes.
    room: Arc<Semaphore>,
    room_bytes: usize,
}

struct Queued {
    id: BlockId,
    _room: OwnedSemaphorePermit,
}

impl DiskCache {
    /// Opens those of `paths` that can be used; `None` when there is none.
    pub(super) fn open(
        config: &ChunkConfig,
        paths: &[PathBuf],
        counters: &Arc<Counters>,
        tidier: &mpsc::SyncSender<TidyCall>,
    ) -> Option<Self> {
        let mut sorted = paths.to_vec();
        sorted.sort();
        sorted.dedup();
        let mut opened = Vec::new();
        for path in &sorted {
            match CacheDir::open(path, config) {
                Ok(dir) => opened.push(dir),
                Err(e) => tracing::warn!("cache directory {} cannot be used: {e}", path.display()),
            }
        }
        if opened.is_empty() {
            return None;
        }
        let ids: Vec<_> = opened.iter().map(|(_, id)| id.clone()).collect();
        let stop = Arc::<AtomicBool>::default();
        let room_bytes = (config.buffer_bytes / 5).min(MAX_QUEUE_BYTES) / opened.len();
        let room_bytes = room_bytes.max(config.block_size);
        let mut threads = Vec::new();
        let mut dirs = Vec::new();
        for (dir, _) in opened {
            let (queue, queued) = mpsc::channel();
            let dir = Arc::new(dir);
            let (writer, scanner, counters) = (Arc::clone(&dir), Arc::clone(&dir), Arc::clone(counters));
            let tidier = tidier.clone();
            threads.extend(spawn("cache-write", move || write_queued(&writer, &queued, &counters, &tidier)));
            if config.cache.scan_interval.is_some() {
                let stop = Arc::clone(&stop);
                threads.extend(spawn("cache-scan", move || super::scan::scan(&scanner, &stop)));
            }
            let (queue, room) = (Mutex::new(Some(queue)), Arc::new(Semaphore::new(room_bytes)));
            dirs.push(Place { dir, queue, room, room_bytes });
        }
        let cache = Self {
            dirs,
            ring: Ring::new(&ids),
            open_files: OpenFiles::new(max_open_files()),
            hash_prefix: config.hash_prefix,
            stop,
            threads: Mutex::new(threads),
        };
        cache.tidy(&tidy::Rules::new(&config.cache, cache.dirs.len()));
        Some(cache)
    }

    /// Number of directories.
    pub(super) fn count(&self) -> usize {
        self.dirs.len()
    }

    fn place(&self, id: BlockId) -> &Place {
        let at = if self.dirs.len() == 1 { 0 } else { self.ring.of(&id.key(self.hash_prefix)) };
        &self.dirs[at]
    }

    /// Where old layouts have the block, if that is another directory.
    fn legacy_place(&self, id: BlockId) -> Option<&Place> {
        if self.dirs.len() == 1 {
            return None;
        }
        let key = id.key(self.hash_prefix);
        let at = self.ring.legacy(&key);
        (at != self.ring.of(&key)).then(|| &self.dirs[at])
    }

    /// Where a staged block is: an earlier set of directories may have placed it elsewhere.
    fn staged_place(&self, id: BlockId) -> &Place {
        let place = self.place(id);
        if self.dirs.len() == 1 || place.dir.is_staged(id) {
            return place;
        }
        self.dirs.iter().find(|place| place.dir.is_staged(id)).unwrap_or(place)
    }

    pub(super) fn find(&self, id: BlockId) -> Found {
        let place = self.place(id);
        match self.find_in(&place.dir, id) {
            Found::Nothing if self.dirs.len() > 1 => {}
            found => return found,
        }
        let others = [self.legacy_place(id), Some(self.staged_place(id))];
        for other in others.into_iter().flatten().filter(|other| !std::ptr::eq(*other, place)) {
            match self.find_in(&other.dir, id) {
                Found::Nothing => {}
                found => return found,
            }
        }
        Found::Nothing
    }

    fn find_in(&self, dir: &CacheDir, id: BlockId) -> Found {
        match dir.find(id) {
            InDir::Pending(bytes) => return Found::Memory(bytes),
            InDir::No => return Found::Nothing,
            InDir::File | InDir::Perhaps => {}
        }
        if let Some(file) = self.open_files.get(id) {
            return Found::Disk(file);
        }
        let Some(file) = dir.open_file(id) else { return Found::Nothing };
        self.open_files.insert(id, file.clone());
        Found::Disk(file)
    }

    /// Opens the file of a block, unless it is open, and lets the kernel read it.
    pub(super) fn warm(&self, id: BlockId) {
        if self.open_files.get(id).is_none()
            && let Found::Disk(file) = self.find(id)
        {
            file.will_need();
        }
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.place(id).dir.contains(id)
            || self.legacy_place(id).is_some_and(|place| place.dir.contains(id))
            || self.staged_place(id).dir.is_staged(id)
    }

    /// Queues a block to be written if there is room for it now.
    pub(super) fn offer(&self, id: BlockId, bytes: &Bytes) {
        let place = self.place(id);
        if let Ok(room) = Arc::clone(&place.room).try_acquire_many_owned(place.cost(bytes)) {
            place.enqueue(id, bytes, room);
        }
    }

    /// Queues a block to be written, waiting for room.
    pub(super) async fn put(&self, id: BlockId, bytes: &Bytes) {
        let place = self.place(id);
        if let Ok(room) = Arc::clone(&place.room).acquire_many_owned(place.cost(bytes)).await {
            place.enqueue(id, bytes, room);
        }
    }

    pub(super) fn remove(&self, id: BlockId, keep_staged: bool) {
        drop(self.open_files.remove(id));
        let staged = self.staged_place(id);
        self.place(id).dir.remove(id, keep_staged);
        if staged.dir.is_staged(id) {
            staged.dir.remove(id, keep_staged);
        }
        if let Some(place) = self.legacy_place(id) {
            place.dir.remove(id, keep_staged);
        }
    }

    /// Writes a block that is to go to the store later. Waits for the disk.
    pub(super) fn stage(&self, id: BlockId, body: &[Bytes], tier: u8) -> io::Result<()> {
        self.place(id).dir.stage(id, body, tier)
    }

    /// A staged block is in the store. Waits for the disk.
    pub(super) fn unstage(&self, id: BlockId) -> io::Result<()> {
        self.staged_place(id).dir.unstage(id)
    }

    /// Opens a staged block to be uploaded.
    pub(super) fn open_staged(&self, id: BlockId) -> io::Result<CachedFile> {
        self.staged_place(id).dir.open_staged(id)
    }

    /// All staged blocks of all directories.
    pub(super) fn find_staged(&self) -> Vec<StagedBlock> {
        let mut found = Vec::new();
        for place in &self.dirs {
            match place.dir.find_staged() {
                Ok(blocks) => found.extend(blocks),
                Err(e) => tracing::warn!("cannot look for staged blocks in {}: {e}", place.dir.root().display()),
            }
        }
        found
    }

    /// Whether a directory has less free space than it should.
    pub(super) fn is_short_of_space(&self) -> bool {
        self.dirs.iter().any(|place| place.dir.short_of_space.load(Relaxed))
    }

    /// Blocks and bytes held.
    pub(super) fn usage(&self) -> (u64, u64) {
        self.dirs.iter().fold((0, 0), |(count, bytes), place| {
            let state = place.dir.state.lock();
            (count + state.index.len() as u64, bytes + state.index.data_bytes())
        })
    }

    /// Looks after limits and age in all directories. Called every second or so, on a thread that may wait.
    pub(super) fn tidy(&self, rules: &tidy::Rules) {
        for place in &self.dirs {
            for id in rules.apply(&place.dir) {
                drop(self.open_files.remove(id));
            }
        }
    }

    /// Looks again for what lies in the directories, on threads of its own.
    pub(super) fn rescan(&self) {
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        for place in &self.dirs {
            let (dir, stop) = (Arc::clone(&place.dir), Arc::clone(&self.stop));
            threads.extend(spawn("cache-scan", move || super::scan::scan(&dir, &stop)));
        }
    }

    /// Writes what is queued, takes no more, and waits for the threads.
    pub(super) fn close(&self) {
        self.stop.store(true, Relaxed);
        for place in &self.dirs {
            drop(place.queue.lock().take());
        }
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the disk cache panicked");
            }
        }
    }
}

impl Place {
    fn cost(&self, bytes: &Bytes) -> u32 {
        u32::try_from(bytes.len().max(MIN_ENTRY_BYTES).min(self.room_bytes)).unwrap_or(u32::MAX)
    }

    fn enqueue(&self, id: BlockId, bytes: &Bytes, room: OwnedSemaphorePermit) {
        if !self.dir.offer(id, bytes) {
            return;
        }
        let sent = self.queue.lock().as_ref().is_some_and(|queue| queue.send(Queued { id, _room: room }).is_ok());
        if !sent {
            self.dir.withdraw(id);
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.inspect_err(|e| tracing::error!("cannot start the thread {name}: {e}")).ok()
}

/// The writer of a directory: until the queue is closed and empty.
fn write_queued(
    dir: &CacheDir,
    queue: &mpsc::Receiver<Queued>,
    counters: &Counters,
    tidier: &mpsc::SyncSender<TidyCall>,
) {
    let mut complained: Option<Instant> = None;
    while let Ok(queued) = queue.recv() {
        let started = Instant::now();
        match dir.write_pending(queued.id) {
            Ok(0) => {}
            Ok(bytes) => {
                counters.cache_write.add(bytes, started.elapsed());
                if dir.is_full() {
                    // If a call is waiting already, it does for this one too.
                    let _ = tidier.try_send(TidyCall::Now);
                }
            }
            Err(e) if complained.is_none_or(|at| at.elapsed() > COMPLAINT_INTERVAL) => {
                complained = Some(started);
                tracing::warn!("cannot write {}: {e}", dir.path(queued.id).display());
            }
            Err(_) => {}
        }
    }
}

/// A quarter of the descriptors that this process may have, within bounds.
fn max_open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1024);
    usize::try_from(limit / 4).unwrap_or(MAX_OPEN_FILES).clamp(16, MAX_OPEN_FILES)
}
