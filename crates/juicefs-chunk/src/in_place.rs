//! Objects that are plain files on a disk of this machine are read where they lie.
//!
//! Such a file is as good as one of the disk cache, and the kernel keeps its pages as it would keep those of a copy. So no
//! copy is made in the cache, and a block of which a part is wanted is not fetched whole
//! ([adr 0019](../../../docs/adr/0019-no-copy-of-what-is-local.md)). Only what the kernel has in memory is read here. When a
//! read would wait, or the file is not as it should be, a request is made instead, with its deadline and its tries.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use juicefs_core::ObjectStorage;

use crate::{
    block::{BlockId, Piece},
    body::BodyForm,
    cache::OpenFiles,
    config::{CachePlace, ChunkConfig},
    pool::PoolBuf,
    sys::{self, Medium},
};

/// The most objects that are kept open. Each may keep the disk space of an object that another client has deleted.
const MAX_OPEN: usize = 256;

/// Reads the objects of a store as files.
#[derive(Debug)]
pub(crate) struct InPlace {
    storage: Arc<dyn ObjectStorage>,
    hash_prefix: bool,
    medium: Medium,
    open: OpenFiles<Arc<File>>,
    /// Whether the volume still has this store.
    is_current: AtomicBool,
}

impl InPlace {
    /// Returns the files of `storage` if each block is a file of its own that is as near as a copy in the cache would be.
    /// Waits for the disk.
    pub(crate) fn of(config: &ChunkConfig, storage: &Arc<dyn ObjectStorage>) -> Option<Self> {
        let (dir, medium) = dir_of_blocks(config, storage).filter(|_| BodyForm::of(config).is_plain())?;
        // A cache somewhere else may be on a quicker disk.
        if let CachePlace::Disk(caches) = &config.cache.place
            && !caches.iter().all(|cache| existing(cache.clone()).is_some_and(|cache| device(&cache) == device(&dir)))
        {
            return None;
        }
        Some(Self {
            storage: Arc::clone(storage),
            hash_prefix: config.hash_prefix,
            medium,
            open: OpenFiles::new(MAX_OPEN),
            is_current: AtomicBool::new(true),
        })
    }

    /// Notes that the volume has another store now, which is read by requests.
    pub(crate) fn leave(&self) {
        self.is_current.store(false, Relaxed);
        self.open.clear();
    }

    /// Whether the volume still has this store.
    pub(crate) fn is_current(&self) -> bool {
        self.is_current.load(Relaxed)
    }

    /// Reads a piece that lies in the page cache. Returns `None` for any other.
    pub(crate) fn read_now(&self, piece: Piece) -> Option<Bytes> {
        let file = match self.open.get(piece.block) {
            Some(file) => file,
            None => self.keep(piece.block, sys::open_cached(&self.path(piece.block)?).ok()??)?,
        };
        let len = piece.len as usize;
        let mut buf = PoolBuf::with_capacity(len);
        sys::read_at_hand(&file, buf.as_mut_vec(), len, u64::from(piece.off), self.medium);
        (buf.len() == len).then(|| Bytes::from_owner(buf))
    }

    /// Whether a block was not in use lately, so that its pages may not be in memory.
    pub(crate) fn is_cold(&self, id: BlockId) -> bool {
        self.open.get(id).is_none()
    }

    /// Has the kernel read all of a block. Waits for the disk.
    pub(crate) fn warm(&self, id: BlockId) {
        let open = || self.keep(id, sys::open_quiet(&self.path(id)?).ok()?);
        if let Some(file) = self.open.get(id).or_else(open) {
            // Only a hint.
            let _ = rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::WillNeed);
        }
    }

    /// Closes a block that was deleted.
    pub(crate) fn forget(&self, id: BlockId) {
        drop(self.open.remove(id));
    }

    /// Closes the blocks that were not read since the last call. Another client may have deleted them, and the disk space is
    /// free once they are closed.
    pub(crate) fn close_idle(&self) {
        self.open.close_idle();
    }

    fn path(&self, id: BlockId) -> Option<PathBuf> {
        self.is_current().then(|| self.storage.file_path(&id.key(self.hash_prefix)))?
    }

    /// Keeps a file open if it is as long as its name says.
    fn keep(&self, id: BlockId, file: File) -> Option<Arc<File>> {
        let meta = file.metadata().ok()?;
        if !meta.is_file() || meta.len() < u64::from(id.size) {
            return None;
        }
        let file = Arc::new(file);
        self.open.insert(id, Arc::clone(&file));
        Some(file)
    }
}

/// Returns the directory that blocks lie in, or will lie in, and what it lies on, if that is on this machine.
fn dir_of_blocks(config: &ChunkConfig, storage: &Arc<dyn ObjectStorage>) -> Option<(PathBuf, Medium)> {
    let dir = existing(storage.file_path("chunks/").filter(|_| config.local_store)?)?;
    let medium = sys::medium(&dir);
    (medium != Medium::Remote).then_some((dir, medium))
}

/// Returns `path`, or the nearest of its parents that exists.
fn existing(mut path: PathBuf) -> Option<PathBuf> {
    while !path.exists() {
        if !path.pop() {
            return None;
        }
    }
    Some(path)
}

fn device(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.dev())
}

#[cfg(test)]
mod tests;
