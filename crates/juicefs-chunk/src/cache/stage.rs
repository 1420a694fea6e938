//! A directory of the disk cache also keeps staged blocks, which are not in the store yet (format: data.md §4.4).
//!
//! Unlike a cached block, a staged one is the only copy of its bytes. So the file and the directories that lead to it are
//! fsynced before the block counts as staged, it is verified when it is read back, and only its upload or the end of its
//! slice deletes it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
};

use bytes::Bytes;

use super::{
    dir::CacheDir,
    file::{CachedFile, checksums},
    modes::remove_if_there,
    tier::StagedBlock,
};
use crate::{block::BlockId, config::ChecksumLevel, sys};

/// Another client of the directory may use temporary files that are younger than this.
const LITTER_AGE_SECS: i64 = 60;

impl CacheDir {
    fn staging(&self) -> PathBuf {
        self.root().join("rawstaging")
    }

    pub(super) fn staged_path(&self, id: BlockId) -> PathBuf {
        self.staging().join(self.key(id))
    }

    /// Writes a block so that it survives a crash of the machine, and makes it readable. When this returns `Ok` the block is
    /// there; after an error nothing of it is left. Waits for the disk.
    pub(super) fn stage(&self, id: BlockId, body: &[Bytes], tier: u8) -> io::Result<()> {
        if self.short_for_stages.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the cache disk has too little free space"));
        }
        let path = self.staged_path(id);
        let temp = path.with_file_name(format!("{}_{}.{:x}.tmp", id.slice, id.index, rand::random::<u32>()));
        let (mut file, made_dirs) = self.modes().create(&temp)?;
        let done = (|| {
            // Whatever the level is: here is the only copy, and damage must not become the object.
            let mut parts = body.to_vec();
            parts.push(checksums(body).into());
            parts.extend(footer(tier));
            sys::write_all(&mut file, &parts)?;
            file.sync_all()?;
            sys::close(file)?;
            fs::rename(&temp, &path)?;
            self.sync_dirs(&path, made_dirs)
        })();
        if let Err(e) = done {
            // Of the two, one is not there.
            let _ = fs::remove_file(&temp);
            let _ = fs::remove_file(&path);
            return Err(e);
        }
        self.link(id, &path);
        self.state.lock().index.insert(id, self.now(), true);
        Ok(())
    }

    /// Makes the name of the file `path` durable, and with `all` the names of the directories above it.
    fn sync_dirs(&self, path: &Path, all: bool) -> io::Result<()> {
        for dir in path.ancestors().skip(1) {
            File::open(dir)?.sync_all()?;
            if !all || dir == self.root() {
                break;
            }
        }
        Ok(())
    }

    /// Gives a staged file a second name among the cached ones, where other clients of the directory look for it. Without
    /// that name it is read where it is.
    fn link(&self, id: BlockId, staged: &Path) {
        let raw = self.path(id);
        let linked = match fs::hard_link(staged, &raw) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = raw.parent().map_or(Ok(()), |dir| self.modes().make_dirs(dir));
                made.and_then(|()| fs::hard_link(staged, &raw))
            }
            // A copy that somebody cached: it would not show that the block is staged.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&raw).and_then(|()| fs::hard_link(staged, &raw))
            }
            linked => linked,
        };
        if let Err(e) = linked {
            tracing::warn!("cannot link {} to {}: {e}", staged.display(), raw.display());
        }
    }

    /// Notes that a block is in the store. From now on its file is an ordinary copy. Waits for the disk.
    pub(super) fn unstage(&self, id: BlockId) -> io::Result<()> {
        // First, so that a scan which begins after the index knows sees the file without its second name.
        let removed = remove_if_there(&self.staged_path(id));
        self.state.lock().index.unstage(id, self.now());
        removed
    }

    /// Opens a staged block to be uploaded. Reading all of it compares all its checksums. Waits for the disk.
    pub(super) fn open_staged(&self, id: BlockId) -> io::Result<CachedFile> {
        CachedFile::open(&self.staged_path(id), id.size, ChecksumLevel::Full, self.medium())
    }

    /// Finds all staged blocks and adds them to the index. Old temporary files are deleted. A file that is no block is left
    /// alone and named in the log. Waits for the disk.
    pub(super) fn find_staged(&self) -> io::Result<Vec<StagedBlock>> {
        let mut found = Vec::new();
        match self.find_staged_below(&self.staging(), &mut found) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
        let now = self.now();
        for staged in &found {
            if fs::metadata(self.path(staged.id)).is_err() {
                self.link(staged.id, &self.staged_path(staged.id));
            }
            self.state.lock().index.insert(staged.id, now, true);
        }
        Ok(found)
    }

    fn find_staged_below(&self, dir: &Path, found: &mut Vec<StagedBlock>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            let is_old = i64::from(self.now()) - meta.mtime() > LITTER_AGE_SECS;
            if meta.is_dir() {
                self.find_staged_below(&path, found)?;
                if is_old {
                    // Succeeds only when it is empty.
                    let _ = fs::remove_dir(&path);
                }
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let block = BlockId::parse_name(name).filter(|id| id.size > 0 && self.staged_path(*id) == path);
            match block {
                Some(id) => found.push(StagedBlock { id, since_secs: meta.mtime() }),
                None if name.ends_with(".tmp") => {
                    if is_old {
                        let _ = fs::remove_file(&path);
                    }
                }
                None => tracing::warn!("{} is no staged block", path.display()),
            }
        }
        Ok(())
    }
}

/// The footer that follows the checksums of a block which is to be stored in another class than the first (format: data.md
/// §4.3). It is a small msgpack map with a length that is a multiple of 4, so that the checksums are still found.
fn footer(tier: u8) -> Option<Bytes> {
    let head = [0x46, 0x53, 0, 16, 0x82, 0xa4, b't', b'i', b'e', b'r', 0xcc, tier, 0xa3, b'p', b'a', b'd', 0xc4];
    (tier != 0).then(|| [&head[..], &[2, 0, 0]].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footers_are_those_of_the_format() {
        let bytes =
            |hex: &str| hex.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect::<Vec<_>>();
        let wanted = bytes("46 53 00 10 82 a4 74 69 65 72 cc 02 a3 70 61 64 c4 02 00 00");
        assert_eq!(footer(2).expect("a footer"), wanted);
        assert_eq!(footer(0), None);
    }
}
