//! How committed content is read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{
    ChunkError, Errno, Segments, StorageError,
    buffer::segments_len,
    store::{ReadPurpose, Stretch},
};
use smallvec::SmallVec;

use super::{File, view::Extent};
use crate::fault;

/// How often a block is asked for that is missing or damaged while the slice list stays the same.
const ATTEMPTS: u32 = 4;

static ZEROS: [u8; 128 << 10] = [0; 128 << 10];

/// Appends `len` zeros to `out` without allocating.
pub(crate) fn push_zeros(out: &mut Segments, mut len: u64) {
    while len > 0 {
        let part = ZEROS.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        out.push(Bytes::from_static(&ZEROS[..part]));
        len -= part as u64;
    }
}

impl File {
    /// Reads `[off, off + len)` of the committed content; zeros where nothing was written.
    ///
    /// A block that is gone because the chunk was compacted meanwhile is looked for again through a fresh list. EBADF
    /// when the inode is gone, EIO when data stays missing, corrupt or unreachable, ENOMEM for read-ahead that finds no
    /// memory. Cancel safe.
    pub(crate) async fn read_committed(
        self: &Arc<Self>,
        off: u64,
        len: u64,
        purpose: ReadPurpose,
    ) -> Result<Segments, Errno> {
        let mut attempt = 0;
        loop {
            let extents = self.extents(off, len).await.map_err(gone)?;
            let error = match self.fetch(&extents, purpose).await {
                Ok(segments) => return Ok(segments),
                Err(error @ ChunkError::NoMemory) => return Err(fault::of_chunk("read", self.ino, &error)),
                Err(error) => error,
            };
            attempt += 1;
            self.content_changed(off..off + len);
            let again = self.extents(off, len).await.map_err(gone)?;
            if again != extents {
                continue;
            }
            let hopeless = match &error {
                ChunkError::Storage(StorageError::NotFound(_)) | ChunkError::Corrupt { .. } => attempt >= ATTEMPTS,
                // The store tried again and again before it gave up.
                ChunkError::Storage(_) | ChunkError::Misuse(_) | ChunkError::NoMemory | ChunkError::Closed => true,
            };
            if hopeless {
                return Err(fault::of_chunk("read", self.ino, &error));
            }
            tokio::time::sleep(Duration::from_millis(u64::from(attempt - 1) * 300 + 1)).await;
        }
    }

    /// Whether the store can answer `[start, end)` from this machine, so that a second copy in memory would only cost
    /// work. The store learns that the stretch is wanted soon. The answer is a guess, made without waiting.
    pub(crate) fn hint_at_hand(self: &Arc<Self>, start: u64, end: u64) -> bool {
        let Some(extents) = self.known_extents(start, end - start) else { return false };
        let chunks = &self.cx.chunks;
        let at_hand = extents.iter().all(|extent| match *extent {
            Extent::Data { key, off, len } => chunks.at_hand(key, off, len),
            Extent::Zeros { .. } => true,
        });
        if at_hand {
            for extent in extents {
                if let Extent::Data { key, off, len } = extent {
                    chunks.prefetch(key, off, len);
                }
            }
        }
        at_hand
    }

    /// Fetches stretches in order. Memory for all of them is taken at once, because otherwise reads would wait for each
    /// other.
    async fn fetch(&self, extents: &[Extent], purpose: ReadPurpose) -> Result<Segments, ChunkError> {
        if let [one] = extents {
            return self.fetch_one(*one, purpose).await;
        }
        let stored = extents.iter().filter_map(|extent| extent.stretch());
        let mut parts = self.cx.chunks.read_all(&stored.collect::<SmallVec<[_; 4]>>(), purpose).await?.into_iter();
        let mut out = Segments::new();
        for extent in extents {
            match extent.stretch() {
                None => push_zeros(&mut out, extent.len()),
                Some(stretch) => out.extend(whole(stretch, parts.next().unwrap_or_default())?),
            }
        }
        Ok(out)
    }

    async fn fetch_one(&self, extent: Extent, purpose: ReadPurpose) -> Result<Segments, ChunkError> {
        match extent.stretch() {
            None => {
                let mut out = Segments::new();
                push_zeros(&mut out, extent.len());
                Ok(out)
            }
            Some(stretch) => {
                let Stretch { slice, off, len } = stretch;
                whole(stretch, self.cx.chunks.read(slice, off, len, purpose).await?)
            }
        }
    }
}

/// `segments`, if they are as long as they should be.
fn whole(stretch: Stretch, segments: Segments) -> Result<Segments, ChunkError> {
    let Stretch { slice, off, len } = stretch;
    let got = segments_len(&segments);
    if got == len as usize {
        return Ok(segments);
    }
    Err(ChunkError::Corrupt {
        key: format!("slice {} of {} bytes", slice.id, slice.size),
        why: format!("{got} bytes at {off} instead of {len}"),
    })
}

/// A file whose inode is gone reads as a handle that no longer works.
fn gone(errno: Errno) -> Errno {
    if errno == Errno::ENOENT { Errno::EBADF } else { errno }
}
