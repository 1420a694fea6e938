//! The job that joins the slices of every chunk of a tree.

use futures_util::{StreamExt, stream};
use juicefs_core::{Caller, ChunkIndex, Errno, FileType, Ino, Listing, limits::CHUNK_SIZE, tree::Progress};
use parking_lot::Mutex;

use super::StoredChunks;
use crate::{Vfs, fault, reply::VfsResult};

/// Permission to write, which a change of how content is stored asks for.
const WRITE: u8 = 2;

impl Vfs {
    /// Compacts all files at and below `ino`. `progress` counts the chunks that were found and those that are done. It
    /// goes on after a chunk that cannot be compacted, and the first error is the answer.
    ///
    /// EROFS, ENOENT, EACCES without the right to write to `ino`, EINTR.
    pub(super) async fn compact_tree(&self, cx: &Caller, ino: Ino, workers: u16, progress: &Progress) -> VfsResult<()> {
        if self.cx.config.read_only {
            return Err(Errno::EROFS);
        }
        let meta = &self.cx.meta;
        let failed = |error| fault::of_meta("compact", ino, &error);
        meta.access(cx, ino, WRITE).await.map_err(failed)?;
        let attr = meta.getattr(ino).await.map_err(failed)?;
        if attr.is_file() {
            return self.compact_file(ino, attr.length, workers, progress).await;
        }
        let (mut dirs, mut outcome) = (Vec::new(), Ok(()));
        if attr.is_dir() {
            dirs.push(ino);
        }
        while let Some(dir) = dirs.pop() {
            let mut listing = Listing::of(dir).with_attrs();
            while let Some(entries) = listing.next(meta.as_ref()).await.map_err(failed)? {
                progress.go_on()?;
                let below = entries.iter().filter(|entry| entry.kind == FileType::Directory);
                dirs.extend(below.map(|entry| entry.ino));
                let files = entries.iter().filter_map(|entry| Some((entry.ino, entry.attr.as_ref()?)));
                let files = files.filter(|(_, attr)| attr.is_file()).map(|(ino, attr)| (ino, attr.length));
                outcome = outcome.and(self.compact_files(files, workers, progress).await);
            }
        }
        outcome
    }

    /// Compacts files with one chunk, as most are, side by side, and the others one after the other.
    async fn compact_files(
        &self,
        files: impl Iterator<Item = (Ino, u64)> + Send,
        workers: u16,
        progress: &Progress,
    ) -> VfsResult<()> {
        let (small, large): (Vec<_>, Vec<_>) = files.partition(|(_, length)| *length <= CHUNK_SIZE);
        let chunks: Vec<_> = small.into_iter().filter(|(_, length)| *length > 0).map(|(ino, _)| (ino, 0)).collect();
        let mut outcome = self.compact_chunks(chunks, workers, progress).await;
        for (ino, length) in large {
            progress.go_on()?;
            outcome = outcome.and(self.compact_file(ino, length, workers, progress).await);
        }
        outcome
    }

    /// Compacts the chunks of a file that hold something.
    async fn compact_file(&self, ino: Ino, length: u64, workers: u16, progress: &Progress) -> VfsResult<()> {
        let (mut stored, mut outcome) = (StoredChunks::new(ino, length), Ok(()));
        loop {
            progress.go_on()?;
            let chunks = stored.next(self.cx.meta.as_ref()).await;
            let chunks = chunks.map_err(|error| fault::of_meta("compact", ino, &error))?;
            if chunks.is_empty() {
                return outcome;
            }
            let chunks = chunks.into_iter().map(|index| (ino, index)).collect();
            outcome = outcome.and(self.compact_chunks(chunks, workers, progress).await);
        }
    }

    async fn compact_chunks(&self, chunks: Vec<(Ino, ChunkIndex)>, workers: u16, progress: &Progress) -> VfsResult<()> {
        progress.add_first(chunks.len() as u64);
        let outcome = Mutex::new(Ok(()));
        stream::iter(chunks)
            .for_each_concurrent(usize::from(workers), |(ino, index)| {
                let outcome = &outcome;
                async move {
                    let done = match progress.go_on() {
                        Ok(()) => self.cx.compact_now(ino, index).await,
                        Err(stopped) => Err(stopped),
                    };
                    progress.add_second(1);
                    let mut outcome = outcome.lock();
                    *outcome = outcome.and(done);
                }
            })
            .await;
        outcome.into_inner()
    }
}
