//! A directory of the disk cache keeps blocks as files below `raw/` (format: data.md §4.1, §4.3, §4.4).
//!
//! A block that was offered can be read at once from memory (`pending`), and the directory's own thread writes it. Nothing
//! is fsynced: cached blocks may be lost, and a damaged one fails its checksums.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use juicefs_core::Clock;
use parking_lot::Mutex;

use super::{
    file::{CachedFile, checksums},
    gate::Gate,
    index::Index,
    modes::{Modes, remove_if_there},
    tier::Need,
};
use crate::{
    block::BlockId,
    config::{ChecksumLevel, ChunkConfig, Eviction},
    sys::{self, Medium},
};

/// A directory with what is known of it.
#[derive(Debug)]
pub(super) struct CacheDir {
    root: PathBuf,
    hash_prefix: bool,
    level: ChecksumLevel,
    modes: Modes,
    eviction: Eviction,
    clock: Arc<dyn Clock>,
    medium: Medium,
    /// Every operation that may wait for the disk passes here.
    pub(super) gate: Arc<Gate>,
    pub(super) state: Mutex<State>,
    /// Whether the first scan still goes on, so that nobody knows yet which blocks would have to go.
    pub(super) first_scan: AtomicBool,
    /// How many bytes and blocks may be held, as the settings and the file system allow.
    pub(super) max_bytes: AtomicU64,
    pub(super) max_items: AtomicU64,
    /// Whether the file system has less free space than it should.
    pub(super) short_of_space: AtomicBool,
    /// Whether the file system has less than half of that, so that nothing more is staged.
    pub(super) short_for_stages: AtomicBool,
}

/// The index, and the blocks that are not written yet. Both are behind one lock, so that a block is always in one of them.
#[derive(Debug)]
pub(super) struct State {
    pub(super) index: Index,
    pub(super) pending: HashMap<BlockId, Bytes>,
}

/// Where a directory has a block.
pub(super) enum InDir {
    Pending(Bytes),
    /// The block is in a file, and operations on it are needed this much.
    File(Need),
    /// The index is not complete yet, and the file may be there.
    Perhaps,
    No,
}

/// What became of a block that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offer {
    /// The block is pending now.
    Taken,
    /// The block is here already.
    Known,
    /// No block may be added now.
    Refused,
}

impl CacheDir {
    /// Opens a directory, and makes it if it is missing. Returns it with its lasting id. Waits for the disk.
    pub(super) fn open(root: &Path, config: &ChunkConfig, gate: Arc<Gate>) -> io::Result<(Self, String)> {
        let cache = &config.cache;
        let mut dir = Self {
            root: root.to_owned(),
            hash_prefix: config.hash_prefix,
            level: cache.checksum,
            modes: Modes::of(cache.mode),
            eviction: cache.eviction,
            clock: Arc::clone(&config.clock),
            medium: Medium::Remote,
            gate,
            first_scan: AtomicBool::new(cache.scan_interval.is_some()),
            state: Mutex::new(State { index: Index::new(cache.eviction), pending: HashMap::new() }),
            max_bytes: AtomicU64::new(u64::MAX),
            max_items: AtomicU64::new(u64::MAX),
            short_of_space: AtomicBool::new(false),
            short_for_stages: AtomicBool::new(false),
        };
        dir.modes.make_dirs(&root.join("raw"))?;
        dir.medium = if dir.gate.is_troubled() { Medium::Remote } else { sys::medium(root) };
        let id = dir.lasting_id()?;
        Ok((dir, id))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn raw(&self) -> PathBuf {
        self.root.join("raw")
    }

    pub(super) fn eviction(&self) -> Eviction {
        self.eviction
    }

    /// Returns the time in seconds since the epoch.
    pub(super) fn now(&self) -> u32 {
        u32::try_from(self.clock.now().secs).unwrap_or_default()
    }

    /// Returns the content of `.lock`, by which the ring places blocks. The file is made when it is missing.
    fn lasting_id(&self) -> io::Result<String> {
        let path = self.root.join(".lock");
        let read = || fs::read_to_string(&path).map(|text| text.trim().to_owned());
        match read() {
            Ok(id) if !id.is_empty() => return Ok(id),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::write(&path, uuid::Uuid::new_v4().to_string())?;
        // Another client may have made it at the same time: what is there now counts for both.
        read()
    }

    pub(super) fn key(&self, id: BlockId) -> String {
        id.key(self.hash_prefix)
    }

    pub(super) fn path(&self, id: BlockId) -> PathBuf {
        let mut path = self.raw();
        path.push(self.key(id));
        path
    }

    /// Looks for a block without touching the disk.
    pub(super) fn find(&self, id: BlockId) -> InDir {
        let mut state = self.state.lock();
        if let Some(bytes) = state.pending.get(&id) {
            return InDir::Pending(bytes.clone());
        }
        match state.index.touch(id, self.now()) {
            Some(is_staged) => InDir::File(Need::of(is_staged)),
            None if state.index.is_complete() => InDir::No,
            None => InDir::Perhaps,
        }
    }

    /// Returns how much operations on a block are needed.
    pub(super) fn need(&self, id: BlockId) -> Need {
        Need::of(self.is_staged(id))
    }

    /// Returns the permissions that its files and directories get.
    pub(super) fn modes(&self) -> Modes {
        self.modes
    }

    /// Returns what the directory lies on.
    pub(super) fn medium(&self) -> Medium {
        self.medium
    }

    /// Opens the file of a block without waiting. Returns `None` when that would wait, or when more has to be done than
    /// opening the file.
    ///
    /// # Errors
    /// `NotFound` when the file is known to be missing. The block is forgotten then.
    pub(super) fn open_now(&self, id: BlockId) -> Option<io::Result<CachedFile>> {
        let need = self.need(id);
        match CachedFile::open_now(&self.path(id), id.size, self.level_of(need), self.medium) {
            Ok(opened) => opened.map(|file| {
                self.found(id);
                Ok(file)
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound && need == Need::Spare => {
                self.state.lock().index.remove(id);
                Some(Err(e))
            }
            Err(_) => None,
        }
    }

    /// Opens the file of a block. A block without a usable file is forgotten, and a damaged file is deleted, but for staged
    /// blocks. Waits for the disk.
    ///
    /// # Errors
    /// Those of the file system, and `InvalidData` for a file that is none of that block.
    pub(super) fn open_file(&self, id: BlockId) -> io::Result<CachedFile> {
        let (path, need) = (self.path(id), self.need(id));
        let mut opened = CachedFile::open(&path, id.size, self.level_of(need), self.medium);
        if opened.is_err() && need == Need::Only {
            // It may have no name among the cached ones. However it is, it stays: nowhere else is a copy.
            opened = CachedFile::open(&self.staged_path(id), id.size, self.level_of(need), self.medium);
            return opened.inspect_err(|e| tracing::error!("staged block {} cannot be read: {e}", self.key(id)));
        }
        match &opened {
            Ok(file) => {
                file.note_use(self.now());
                self.found(id);
            }
            Err(e) => {
                self.state.lock().index.remove(id);
                if e.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cache file {} is not used: {e}", path.display());
                }
                if e.kind() == io::ErrorKind::InvalidData {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        opened
    }

    /// Which checksums are compared. Of a block that is nowhere else all are, whatever the settings say.
    fn level_of(&self, need: Need) -> ChecksumLevel {
        match need {
            Need::Only => ChecksumLevel::Extend,
            Need::Spare => self.level,
        }
    }

    fn found(&self, id: BlockId) {
        let mut state = self.state.lock();
        if !state.index.contains(id) {
            state.index.insert(id, self.now(), false);
        }
    }

    pub(super) fn is_staged(&self, id: BlockId) -> bool {
        self.state.lock().index.is_staged(id)
    }

    /// Whether a block is here, as far as the index knows.
    pub(super) fn contains(&self, id: BlockId) -> bool {
        let state = self.state.lock();
        state.index.contains(id) || state.pending.contains_key(&id)
    }

    /// Takes a block as pending, if it is not here and may be added.
    pub(super) fn offer(&self, id: BlockId, bytes: &Bytes) -> Offer {
        // On a disk that is short of space, what is added now would be evicted within a second.
        if !self.gate.is_normal()
            || self.short_of_space.load(Relaxed)
            || (self.eviction == Eviction::None && self.is_full())
        {
            return Offer::Refused;
        }
        let mut state = self.state.lock();
        if state.index.contains(id) || state.pending.contains_key(&id) {
            return Offer::Known;
        }
        state.pending.insert(id, bytes.clone());
        Offer::Taken
    }

    /// Takes back an offer that was taken and could not be queued.
    pub(super) fn withdraw(&self, id: BlockId) {
        self.state.lock().pending.remove(&id);
    }

    /// Writes a pending block to its file, unless it was removed meanwhile. Returns how many bytes were written.
    pub(super) fn write_pending(&self, id: BlockId) -> io::Result<usize> {
        let Some(bytes) = self.state.lock().pending.get(&id).cloned() else { return Ok(0) };
        let done = match self.gate.is_normal() {
            true => self.gate.watch(|| self.write_file(id, &bytes)),
            false => Err(io::ErrorKind::WouldBlock.into()),
        };
        let mut state = self.state.lock();
        let wanted = state.pending.remove(&id).is_some();
        match done {
            Ok(()) if wanted => state.index.insert(id, self.now(), false),
            Ok(()) => {
                drop(state);
                let _ = fs::remove_file(self.path(id));
            }
            Err(e) => return Err(e),
        }
        Ok(bytes.len())
    }

    fn write_file(&self, id: BlockId, bytes: &Bytes) -> io::Result<()> {
        let path = self.path(id);
        // The suffix lets every client's scan see that this is no block, and clear it away.
        let temp = path.with_file_name(format!("{}_{}.{:x}.tmp", id.slice, id.index, rand::random::<u32>()));
        let (mut file, _) = self.modes.create(&temp)?;
        let done = (|| {
            if self.level == ChecksumLevel::None {
                sys::write_all(&mut file, std::slice::from_ref(bytes))?;
            } else {
                let sums = checksums(std::slice::from_ref(bytes)).into();
                sys::write_all(&mut file, &[bytes.clone(), sums])?;
            }
            sys::close(file)?;
            fs::rename(&temp, &path)
        })();
        if done.is_err() {
            let _ = fs::remove_file(&temp);
        }
        done
    }

    /// Forgets a block. With `keep_staged` a staged one stays. Returns how much the deletion of its files is needed, which
    /// [`CacheDir::delete`] does; `None` when there is nothing to delete.
    pub(super) fn forget(&self, id: BlockId, keep_staged: bool) -> Option<Need> {
        let mut state = self.state.lock();
        let is_staged = state.index.is_staged(id);
        if keep_staged && is_staged {
            return None;
        }
        state.pending.remove(&id);
        let may_be_there = state.index.remove(id) || !state.index.is_complete();
        may_be_there.then_some(Need::of(is_staged))
    }

    /// Deletes the files of a block that was forgotten. Waits for the disk.
    ///
    /// # Errors
    /// Those of the file system; missing files are none.
    pub(super) fn delete(&self, id: BlockId, need: Need) -> io::Result<()> {
        let staged = if need == Need::Only { remove_if_there(&self.staged_path(id)) } else { Ok(()) };
        let cached = remove_if_there(&self.path(id));
        // A scan that began since it was forgotten has seen the file.
        self.state.lock().index.remove(id);
        cached.and(staged)
    }

    /// Writes, reads and deletes a small block, to see how the disk does (format: data.md §4.1). Waits for the disk.
    pub(super) fn probe(&self) {
        const CONTENT: [u8; 3] = [1, 2, 3];
        let dir = self.probes().join("00/0");
        let path = dir.join(format!("{}_0_3", rand::random::<u32>()));
        let write = || {
            self.modes.make_dirs(&dir)?;
            fs::write(&path, CONTENT)
        };
        let read = || match fs::read(&path)? == CONTENT {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EIO)),
        };
        // What fails was counted, which is all that this is for.
        let _ = self.gate.watch(write).and_then(|()| self.gate.watch(read));
        let _ = self.gate.watch(|| remove_if_there(&path));
    }

    /// Returns the directory that probes lie in.
    pub(super) fn probes(&self) -> PathBuf {
        self.raw().join("probe")
    }

    /// Whether a limit is passed, so that something has to go before more is added.
    pub(super) fn is_full(&self) -> bool {
        let state = self.state.lock();
        self.short_of_space.load(Relaxed)
            || state.index.used_bytes() > self.max_bytes.load(Relaxed)
            || state.index.len() as u64 > self.max_items.load(Relaxed)
    }
}
