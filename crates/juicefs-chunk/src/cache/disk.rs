//! The disk cache: its directories, the ring that places blocks in them, and the threads that write and tidy.
//!
//! Each directory has threads of its own, and a [`Gate`] for everything else: one that fails or hangs does not hold up
//! the others, nor whoever reads. A directory that is down leaves the ring; what is staged in it is still looked for there.

mod opening;
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

use bytes::Bytes;
use juicefs_core::store::DiskCounts;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::{
    opening::{max_open_files, open_dirs},
    threads::{Queued, probe, spawn, tidy_when_called, write_queued},
};
use super::{
    Found, TidyCall,
    dir::{CacheDir, InDir, Offer},
    file::CachedFile,
    gate::{Gate, Need},
    health::DiskState,
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

/// Blocks in files, over one directory or several.
#[derive(Debug)]
pub(super) struct DiskCache {
    dirs: Vec<Place>,
    alive: RwLock<Arc<Alive>>,
    open_files: Arc<OpenFiles<CachedFile>>,
    counters: Arc<Counters>,
    hash_prefix: bool,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The directories that are not down.
#[derive(Debug)]
struct Alive {
    ring: Ring,
    /// Their places in the list of all.
    at: Vec<usize>,
}

/// A directory with its threads' ends.
#[derive(Debug)]
struct Place {
    dir: Arc<CacheDir>,
    /// What decides where blocks are placed.
    id: String,
    /// What its writer is to write; `None` once the cache is closed.
    queue: Mutex<Option<mpsc::Sender<Queued>>>,
    /// Wakes whoever looks after its limits; `None` once the cache is closed.
    tidy: Mutex<Option<mpsc::SyncSender<()>>>,
    /// Room in the queue, in bytes.
    room: Arc<Semaphore>,
    room_bytes: usize,
}

/// A block in an open file.
#[derive(Clone, Debug)]
pub(crate) struct OnDisk {
    file: CachedFile,
    gate: Arc<Gate>,
    need: Need,
}

impl OnDisk {
    /// Memory that reading `[off, off + len)` takes.
    pub(crate) fn read_bytes(&self, off: u32, len: u32) -> usize {
        self.file.read_bytes(off, len)
    }

    /// Reads and verifies a range if it is at hand; `None` when it would wait or is not as it should be.
    pub(crate) fn read_now(&self, off: u32, len: u32) -> Option<Bytes> {
        self.file.read_now(off, len)
    }

    /// Reads and verifies a range. Polled within a runtime. Memory of a read that is left behind is not counted any more;
    /// there are few of them.
    ///
    /// # Errors
    /// `TimedOut` and `WouldBlock` when the disk does not answer or is not asked now; otherwise the file is not what it
    /// should be.
    pub(crate) async fn read(&self, off: u32, len: u32) -> io::Result<Bytes> {
        let file = self.file.clone();
        self.gate.run(self.need, move || file.read(off, len)).await
    }
}

impl DiskCache {
    /// Opens those of `paths` that can be used; `None` when there is none.
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
        let mut dirs = Vec::new();
        for (dir, id) in opened {
            let ((queue, queued), (tidy, called)) = (mpsc::channel(), mpsc::sync_channel(1));
            let (writer, writes, caller) = (Arc::clone(&dir), Arc::clone(counters), tidier.clone());
            threads.extend(spawn("cache-write", move || write_queued(&writer, &queued, &writes, &caller)));
            let (tidied, rules, files) = (Arc::clone(&dir), Arc::clone(&rules), Arc::clone(&open_files));
            let evicts = Arc::clone(counters);
            threads.extend(spawn("cache-evict", move || tidy_when_called(&tidied, &rules, &files, &evicts, &called)));
            if config.cache.scan_interval.is_some() {
                let (scanner, stop) = (Arc::clone(&dir), Arc::clone(&stop));
                threads.extend(spawn("cache-scan", move || super::scan::scan(&scanner, &stop)));
            }
            let (queue, tidy, room) =
                (Mutex::new(Some(queue)), Mutex::new(Some(tidy)), Arc::new(Semaphore::new(room_bytes)));
            dirs.push(Place { dir, id, queue, tidy, room, room_bytes });
        }
        let cache = Self {
            alive: RwLock::new(Arc::new(Alive::of(&dirs))),
            dirs,
            open_files,
            counters: Arc::clone(counters),
            hash_prefix: config.hash_prefix,
            stop,
            threads: Mutex::new(threads),
        };
        Some(Arc::new(cache))
    }

    fn place(&self, id: BlockId) -> &Place {
        if let [only] = &self.dirs[..] {
            return only;
        }
        let alive = self.alive.read();
        let at = alive.ring.of(&id.key(self.hash_prefix));
        &self.dirs[alive.at.get(at).copied().unwrap_or(0)]
    }

    /// Where a block may be: in its place, where old layouts have it, and where an earlier set of directories staged it.
    fn places(&self, id: BlockId) -> SmallVec<[&Place; 3]> {
        let mut places: SmallVec<[&Place; 3]> = SmallVec::new();
        places.push(self.place(id));
        if self.dirs.len() > 1 {
            let legacy = &self.dirs[Ring::legacy(&id.key(self.hash_prefix), self.dirs.len())];
            let staged = self.dirs.iter().filter(|place| place.dir.is_staged(id));
            for place in std::iter::once(legacy).chain(staged) {
                if !places.iter().any(|known| std::ptr::eq(*known, place)) {
                    places.push(place);
                }
            }
        }
        places
    }

    pub(super) fn is_staged(&self, id: BlockId) -> bool {
        self.dirs.iter().any(|place| place.dir.is_staged(id))
    }

    /// Where a staged block is.
    fn staged_place(&self, id: BlockId) -> &Place {
        let place = self.place(id);
        if self.dirs.len() == 1 || place.dir.is_staged(id) {
            return place;
        }
        self.dirs.iter().find(|place| place.dir.is_staged(id)).unwrap_or(place)
    }

    /// Looks for a block without waiting.
    pub(super) fn find(&self, id: BlockId) -> Found {
        for place in self.places(id) {
            match self.find_in(&place.dir, id) {
                Found::Nothing => {}
                found => return found,
            }
        }
        Found::Nothing
    }

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
        let file = match self.open_files.get(id) {
            Some(file) => file,
            None => match dir.open_now(id) {
                Some(Ok(file)) => {
                    self.open_files.insert(id, file.clone());
                    file
                }
                Some(Err(_)) => return Found::Nothing,
                None => return Found::Closed,
            },
        };
        Found::Disk(OnDisk { file, gate: Arc::clone(&dir.gate), need })
    }

    /// Looks for a block, waiting for the disk until its deadline. Polled within a runtime.
    pub(super) async fn open_file(&self, id: BlockId) -> Found {
        for place in self.places(id) {
            match self.find_in(&place.dir, id) {
                Found::Closed => {}
                Found::Nothing => continue,
                found => return found,
            }
            let (dir, need) = (Arc::clone(&place.dir), place.dir.need(id));
            match place.dir.gate.run(need, move || dir.open_file(id)).await {
                Ok(file) => {
                    self.open_files.insert(id, file.clone());
                    return Found::Disk(OnDisk { file, gate: Arc::clone(&place.dir.gate), need });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => tracing::debug!("{} is not read: {e}", place.dir.path(id).display()),
            }
        }
        Found::Nothing
    }

    /// Opens the file of a block, unless it is open, and lets the kernel read it. Polled within a runtime.
    pub(super) async fn warm(&self, id: BlockId) {
        if self.open_files.get(id).is_none()
            && let Found::Disk(on_disk) = self.open_file(id).await
        {
            let file = on_disk.file;
            let hint = move || {
                file.will_need();
                Ok(())
            };
            // A hint that is not given is none.
            let _ = on_disk.gate.run(Need::Spare, hint).await;
        }
    }

    /// Whether a block is in an open file.
    pub(super) fn is_open(&self, id: BlockId) -> bool {
        self.open_files.get(id).is_some()
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.places(id).iter().any(|place| {
            place.dir.contains(id) && (place.dir.gate.state() != DiskState::Down || place.dir.is_staged(id))
        })
    }

    /// Queues a block to be written if there is room for it now.
    pub(super) fn offer(&self, id: BlockId, bytes: &Bytes) {
        let place = self.place(id);
        match Arc::clone(&place.room).try_acquire_many_owned(place.cost(bytes)) {
            Ok(room) => self.enqueue(place, id, bytes, room),
            Err(_no_room) => self.counters.dropped(),
        }
    }

    /// Queues a block to be written, waiting for room, but not longer than a reader would for the disk.
    pub(super) async fn put(&self, id: BlockId, bytes: &Bytes) {
        let place = self.place(id);
        if !place.dir.gate.is_normal() {
            return self.counters.dropped();
        }
        let room = Arc::clone(&place.room).acquire_many_owned(place.cost(bytes));
        match tokio::time::timeout(place.dir.gate.rules().read_deadline, room).await {
            Ok(Ok(room)) => self.enqueue(place, id, bytes, room),
            _ => self.counters.dropped(),
        }
    }

    fn enqueue(&self, place: &Place, id: BlockId, bytes: &Bytes, room: OwnedSemaphorePermit) {
        match place.dir.offer(id, bytes) {
            Offer::Taken => place.send(id, room),
            Offer::Known => {}
            Offer::Refused => self.counters.dropped(),
        }
    }

    /// Forgets and deletes a block. A staged one stays when `keep_staged`. Polled within a runtime.
    pub(super) async fn remove(&self, id: BlockId, keep_staged: bool) {
        drop(self.open_files.remove(id));
        for place in self.places(id) {
            let Some(need) = place.dir.forget(id, keep_staged) else { continue };
            let dir = Arc::clone(&place.dir);
            if let Err(e) = place.dir.gate.run(need, move || dir.delete(id, need)).await {
                tracing::warn!("cannot delete cache file {}: {e}", place.dir.path(id).display());
            }
        }
    }

    /// A slot for staging a block, to be held while [`DiskCache::stage`] does it; `None` when its disk takes none now.
    pub(super) async fn stage_slot(&self, id: BlockId) -> Option<OwnedSemaphorePermit> {
        self.place(id).dir.gate.stage_slot().await
    }

    /// Writes a block that is to go to the store later. Waits for the disk.
    pub(super) fn stage(&self, id: BlockId, body: &[Bytes], tier: u8) -> io::Result<()> {
        let dir = &self.place(id).dir;
        dir.gate.watch(|| dir.stage(id, body, tier))
    }

    /// A staged block is in the store. Polled within a runtime.
    pub(super) async fn unstage(&self, id: BlockId) -> io::Result<()> {
        let dir = Arc::clone(&self.staged_place(id).dir);
        let gate = Arc::clone(&dir.gate);
        gate.run(Need::Only, move || dir.unstage(id)).await
    }

    /// Reads and verifies a staged block. Polled within a runtime.
    pub(super) async fn read_staged(&self, id: BlockId) -> io::Result<Bytes> {
        let dir = Arc::clone(&self.staged_place(id).dir);
        let gate = Arc::clone(&dir.gate);
        gate.run(Need::Only, move || dir.open_staged(id)?.read(0, id.size)).await
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

    /// Disks by their state.
    pub(super) fn disks(&self) -> DiskCounts {
        let mut counts = DiskCounts::default();
        for gate in self.dirs.iter().map(|place| &place.dir.gate) {
            counts.failures += gate.failures();
            match gate.state() {
                DiskState::Normal => counts.normal += 1,
                DiskState::Unstable => counts.unstable += 1,
                DiskState::Down => counts.down += 1,
            }
        }
        counts
    }

    /// Has the limits of all directories looked after, each on its own thread.
    pub(super) fn tidy(&self) {
        for place in &self.dirs {
            if let Some(tidy) = &*place.tidy.lock() {
                // If a call is waiting already, it does for this one too.
                let _ = tidy.try_send(());
            }
        }
    }

    /// Looks how the disks do. `false` when all of them are down.
    pub(super) fn look_after_disks(&self, now: Instant) -> bool {
        for place in &self.dirs {
            let root = place.dir.root().display();
            match place.dir.gate.tick(now) {
                None => {}
                Some(DiskState::Normal) => tracing::info!("cache disk {root} is normal again"),
                Some(DiskState::Unstable) => {
                    let (dir, stop) = (Arc::clone(&place.dir), Arc::clone(&self.stop));
                    self.threads.lock().extend(spawn("cache-probe", move || probe(&dir, &stop)));
                }
                Some(DiskState::Down) => {
                    tracing::error!("cache disk {root} is down and no longer used; staged blocks in it stay there");
                    *self.alive.write() = Arc::new(Alive::of(&self.dirs));
                }
            }
        }
        !self.alive.read().at.is_empty()
    }

    /// Looks again for what lies in the directories, on threads of its own.
    pub(super) fn rescan(&self) {
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        for place in self.dirs.iter().filter(|place| place.dir.gate.is_normal()) {
            let (dir, stop) = (Arc::clone(&place.dir), Arc::clone(&self.stop));
            threads.extend(spawn("cache-scan", move || super::scan::scan(&dir, &stop)));
        }
    }

    /// Writes what is queued, takes no more, and waits for the threads, but not longer than one operation may take: a hung
    /// disk must not keep a mount from ending.
    pub(super) fn close(&self) {
        self.stop.store(true, Relaxed);
        for place in &self.dirs {
            drop(place.queue.lock().take());
            drop(place.tidy.lock().take());
        }
        let longest = self.dirs.iter().map(|place| place.dir.gate.rules().max_operation).max();
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

impl Alive {
    fn of(dirs: &[Place]) -> Self {
        let is_up = |at: &usize| dirs[*at].dir.gate.state() != DiskState::Down;
        let at: Vec<_> = (0..dirs.len()).filter(is_up).collect();
        let ids: Vec<_> = at.iter().map(|at| dirs[*at].id.clone()).collect();
        Self { ring: Ring::new(&ids), at }
    }
}

impl Place {
    fn cost(&self, bytes: &Bytes) -> u32 {
        u32::try_from(bytes.len().max(MIN_ENTRY_BYTES).min(self.room_bytes)).unwrap_or(u32::MAX)
    }

    fn send(&self, id: BlockId, room: OwnedSemaphorePermit) {
        let sent = self.queue.lock().as_ref().is_some_and(|queue| queue.send(Queued { id, room }).is_ok());
        if !sent {
            self.dir.withdraw(id);
        }
    }
}
