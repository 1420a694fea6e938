//! The file of a cached block holds the plain bytes, then a CRC-32C for each 32 KiB of them (format: data.md §4.3).
//!
//! A file with another length, with a checksum that does not match, or that ends too early is no copy of its block. The
//! caller drops it and fetches the block, so that damage is never served. Bytes that were compared lately, and that the
//! kernel has held since, are not compared again (`verified`).

mod verified;

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use bytes::Bytes;

use self::verified::Verified;
use crate::{
    config::ChecksumLevel,
    pool::PoolBuf,
    sys::{self, Medium},
};

/// One checksum covers this many bytes.
const PIECE_BYTES: usize = 32 << 10;

/// The open file of a cached block.
#[derive(Debug)]
pub(crate) struct CachedFile {
    file: File,
    /// Bytes of the block.
    size: usize,
    /// The checksum of each piece; `None` when the file has none or they are not to be compared.
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

    /// Does what [`CachedFile::open`] does without waiting. Returns `None` when the kernel would have to ask the disk.
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
        Self { file, size, sums, verified, level, medium }
    }

    /// Notes on the disk that the file is used `now`, in seconds since the epoch, about once a day. Reading does not note it.
    /// Waits for the disk.
    pub(crate) fn note_use(&self, now: u32) {
        sys::note_use(&self.file, now);
    }

    /// Tells the kernel that all of the file will be read soon.
    pub(crate) fn will_need(&self) {
        self.verified.forget();
        // Only a hint.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::WillNeed);
    }

    /// Returns how many bytes of memory reading `[off, off + len)` takes at most.
    pub(crate) fn read_bytes(&self, off: u32, len: u32) -> usize {
        let (start, end) = self.span(off, len);
        end - start
    }

    /// Reads a range that lies in the page cache, and verifies it unless that was done lately. Returns `None` when reading
    /// would wait, or when the bytes are not as they should be.
    pub(crate) fn read_now(&self, off: u32, len: u32) -> Option<Bytes> {
        let is_verified = self.is_verified(off, len);
        let (start, end) = if is_verified { (off as usize, off as usize + len as usize) } else { self.span(off, len) };
        let mut buf = PoolBuf::with_capacity(end - start);
        sys::read_at_hand(&self.file, buf.as_mut_vec(), end - start, start as u64, self.medium);
        if buf.len() < end - start {
            return None;
        }
        if is_verified { Some(Bytes::from_owner(buf)) } else { self.take(buf, start, off, len).ok() }
    }

    /// Reads and verifies a range. Waits for the disk.
    ///
    /// # Errors
    /// Those of the file system, `UnexpectedEof` when the file has become shorter, and `InvalidData` with a sentence on what
    /// does not match.
    pub(crate) fn read(&self, off: u32, len: u32) -> io::Result<Bytes> {
        let (start, end) = self.span(off, len);
        let mut buf = PoolBuf::with_capacity(end - start);
        // The kernel may read more than this from the disk, and with that what it had dropped since it was verified.
        self.verified.forget();
        sys::read_rest(&self.file, buf.as_mut_vec(), end - start, start as u64)?;
        let done = self.take(buf, start, off, len);
        done.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Whether all pieces that `[off, off + len)` touches were compared with their checksums lately, and matched.
    fn is_verified(&self, off: u32, len: u32) -> bool {
        let (start, end) = (off as usize, off as usize + len as usize);
        self.sums.is_some() && self.verified.all(start / PIECE_BYTES..end.div_ceil(PIECE_BYTES))
    }

    /// The range that must be read to answer and verify `[off, off + len)`: its start and its end.
    fn span(&self, off: u32, len: u32) -> (usize, usize) {
        let (start, end) = (off as usize, off as usize + len as usize);
        if self.sums.is_some() && self.level == ChecksumLevel::Extend {
            (start / PIECE_BYTES * PIECE_BYTES, (end.div_ceil(PIECE_BYTES) * PIECE_BYTES).min(self.size))
        } else {
            (start, end)
        }
    }

    /// Verifies `buf`, which begins at `start` of the block, and returns the asked range of it.
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

/// How many bytes of checksums an open file has that are to be compared; `None` when there are none.
fn covered(file: &File, size: usize, level: ChecksumLevel) -> io::Result<Option<usize>> {
    let has_sums = has_checksums(size, file.metadata()?.len())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the length is not that of a cached block"))?;
    Ok((has_sums && level != ChecksumLevel::None).then(|| sums_bytes(size)))
}

fn parse_sums(bytes: &[u8]) -> Box<[u32]> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b)).collect()
}

/// How many bytes the checksums of a block take.
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

/// Computes the checksums of a block as they follow its bytes in a file.
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
