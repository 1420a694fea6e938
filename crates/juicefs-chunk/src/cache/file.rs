//! One cached block as a file (format: data.md §4.3): the plain bytes, then a CRC-32C per 32 KiB of them.
//!
//! Whatever does not fit — length, checksum, a read that ends early — makes the file no copy of its block. The caller
//! drops it and fetches the block; damage is never served. What was compared lately, and is still where it was, is not
//! compared again (`verified`).

mod verified;

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use bytes::Bytes;

use self::verified::Verified;
use crate::{
    config::ChecksumLevel,
    pool::PoolBuf,
    sys::{self, Medium},
};

/// Bytes that one checksum covers.
const PIECE_BYTES: usize = 32 << 10;

/// An open cache file. Cloning shares the descriptor.
#[derive(Clone, Debug)]
pub(crate) struct CachedFile(Arc<OpenFile>);

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Bytes of the block.
    size: usize,
    /// Checksum of each piece; `None` when the file has none or they are not to be looked at.
    sums: Option<Box<[u32]>>,
    verified: Verified,
    level: ChecksumLevel,
    medium: Medium,
}

impl CachedFile {
    /// Opens the file of a block of `size` bytes. Waits for the disk.
    ///
    /// # Errors
    /// Those of the file system, and `InvalidData` for a length that no such file has.
    pub(crate) fn open(path: &Path, size: u32, level: ChecksumLevel, medium: Medium) -> io::Result<Self> {
        let file = sys::open_quiet(path)?;
        let size = size as usize;
        let sums = match covered(&file, size, level)? {
            None => None,
            Some(count) => {
                let mut bytes = vec![0; count];
                file.read_exact_at(&mut bytes, size as u64)?;
                Some(parse_sums(&bytes))
            }
        };
        Ok(Self::with(file, size, sums, level, medium))
    }

    /// The same without waiting; `None` when the kernel would have to ask the disk.
    ///
    /// # Errors
    /// `NotFound` when the file is known to be missing, `InvalidData` for a length that no such file has.
    pub(crate) fn open_now(path: &Path, size: u32, level: ChecksumLevel, medium: Medium) -> io::Result<Option<Self>> {
        if medium == Medium::Remote {
            return Ok(None);
        }
        let Some(file) = sys::open_cached(path)? else { return Ok(None) };
        let size = size as usize;
        let sums = match covered(&file, size, level)? {
            None => None,
            Some(count) => {
                let mut bytes = Vec::with_capacity(count);
                sys::read_at_hand(&file, &mut bytes, count, size as u64, medium);
                if bytes.len() < count {
                    return Ok(None);
                }
                Some(parse_sums(&bytes))
            }
        };
        Ok(Some(Self::with(file, size, sums, level, medium)))
    }

    fn with(file: File, size: usize, sums: Option<Box<[u32]>>, level: ChecksumLevel, medium: Medium) -> Self {
        let verified = Verified::none_of(sums.as_ref().map_or(0, |sums| sums.len()));
        Self(Arc::new(OpenFile { file, size, sums, verified, level, medium }))
    }

    /// Notes on the disk that it is used `now`, about once a day: reading does not. Waits for the disk.
    pub(crate) fn note_use(&self, now: u32) {
        sys::note_use(&self.0.file, now);
    }

    /// Tells the kernel that all of it will be read soon.
    pub(crate) fn will_need(&self) {
        self.0.verified.forget();
        // Only a hint.
        let _ = rustix::fs::fadvise(&self.0.file, 0, None, rustix::fs::Advice::WillNeed);
    }

    /// Memory that reading `[off, off + len)` takes at most.
    pub(crate) fn read_bytes(&self, off: u32, len: u32) -> usize {
        let (start, end) = self.0.span(off, len);
        end - start
    }

    /// Reads a range if it lies in the page cache, and verifies it unless that was done lately; `None` when it would wait or
    /// is not as it should be.
    pub(crate) fn read_now(&self, off: u32, len: u32) -> Option<Bytes> {
        let is_verified = self.0.is_verified(off, len);
        let (start, end) =
            if is_verified { (off as usize, off as usize + len as usize) } else { self.0.span(off, len) };
        let mut buf = PoolBuf::with_capacity(end - start);
        sys::read_at_hand(&self.0.file, buf.as_mut_vec(), end - start, start as u64, self.0.medium);
        if buf.len() < end - start {
            return None;
        }
        if is_verified { Some(Bytes::from_owner(buf)) } else { self.0.take(buf, start, off, len).ok() }
    }

    /// Reads and verifies a range. Waits for the disk.
    ///
    /// # Errors
    /// Those of the file system, `UnexpectedEof` when the file has become shorter, and `InvalidData` with a sentence on what
    /// does not match.
    pub(crate) fn read(&self, off: u32, len: u32) -> io::Result<Bytes> {
        let (start, end) = self.0.span(off, len);
        let mut buf = PoolBuf::with_capacity(end - start);
        // The kernel may read more than this from the disk, and with that what it had dropped since it was verified.
        self.0.verified.forget();
        sys::read_rest(&self.0.file, buf.as_mut_vec(), end - start, start as u64)?;
        let done = self.0.take(buf, start, off, len);
        done.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

impl OpenFile {
    /// Whether all pieces that `[off, off + len)` touches match their checksums, as was seen lately.
    fn is_verified(&self, off: u32, len: u32) -> bool {
        let (start, end) = (off as usize, off as usize + len as usize);
        self.sums.is_some() && self.verified.all(start / PIECE_BYTES..end.div_ceil(PIECE_BYTES))
    }

    /// What must be read to answer and verify `[off, off + len)`.
    fn span(&self, off: u32, len: u32) -> (usize, usize) {
        let (start, end) = (off as usize, off as usize + len as usize);
        if self.sums.is_some() && self.level == ChecksumLevel::Extend {
            (start / PIECE_BYTES * PIECE_BYTES, (end.div_ceil(PIECE_BYTES) * PIECE_BYTES).min(self.size))
        } else {
            (start, end)
        }
    }

    /// The asked range of `buf`, which begins at `start` of the block, once it is verified.
    fn take(&self, buf: PoolBuf, start: usize, off: u32, len: u32) -> Result<Bytes, String> {
        self.verify(&buf, start)?;
        let from = off as usize - start;
        Ok(Bytes::from_owner(buf).slice(from..from + len as usize))
    }

    /// Compares all checksums of pieces that lie wholly in `buf`, as far as the level asks for it.
    fn verify(&self, buf: &[u8], start: usize) -> Result<(), String> {
        let Some(sums) = &self.sums else { return Ok(()) };
        if self.level == ChecksumLevel::Full && buf.len() < self.size {
            return Ok(());
        }
        let first = start.div_ceil(PIECE_BYTES);
        for (sum, index) in sums.iter().skip(first).zip(first..) {
            let (from, to) = (index * PIECE_BYTES, ((index + 1) * PIECE_BYTES).min(self.size));
            let Some(piece) = buf.get(from - start..).and_then(|rest| rest.get(..to - from)) else { break };
            if crc32c::crc32c(piece) != *sum {
                return Err(format!("checksum of bytes {from}..{to} does not match"));
            }
            self.verified.note(index);
        }
        Ok(())
    }
}

/// Bytes of the checksums of an open file that are to be compared; `None` for none.
fn covered(file: &File, size: usize, level: ChecksumLevel) -> io::Result<Option<usize>> {
    let has_sums = has_checksums(size, file.metadata()?.len())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the length is not that of a cached block"))?;
    Ok((has_sums && level != ChecksumLevel::None).then(|| sums_bytes(size)))
}

fn parse_sums(bytes: &[u8]) -> Box<[u32]> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b)).collect()
}

/// Bytes of the checksums of a block.
fn sums_bytes(size: usize) -> usize {
    size.div_ceil(PIECE_BYTES) * 4
}

/// Whether a file of `file_len` bytes for a block of `size` has checksums; `None` when it is no such file at all.
/// What comes after them, or in their place with a length that is no multiple of 4, is the footer of a staged block.
fn has_checksums(size: usize, file_len: u64) -> Option<bool> {
    let extra = usize::try_from(file_len).ok()?.checked_sub(size)?;
    match extra {
        0 => Some(false),
        n if n % 4 != 0 => Some(false),
        n if n < sums_bytes(size) => None,
        _ => Some(true),
    }
}

/// The checksums of a block as they follow its bytes.
pub(crate) fn checksums(body: &[Bytes]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut sum, mut filled) = (0, 0);
    for part in body {
        let mut rest: &[u8] = part;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PIECE_BYTES - filled));
            sum = crc32c::crc32c_append(sum, now);
            filled += now.len();
            rest = later;
            if filled == PIECE_BYTES {
                out.extend_from_slice(&u32::to_be_bytes(sum));
                (sum, filled) = (0, 0);
            }
        }
    }
    if filled > 0 {
        out.extend_from_slice(&u32::to_be_bytes(sum));
    }
    out
}

#[cfg(test)]
mod tests;
