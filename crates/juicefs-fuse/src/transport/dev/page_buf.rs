//! Buffers for requests. They are page-aligned, used again and again, and given away instead of copied.
//!
//! A buffer is one anonymous mapping: a page whose last bytes take the head of a request, then the pages of the
//! payload. One `read` fills both. The data of a WRITE then starts on a page boundary, and nothing else lies in its
//! pages. Whoever gets the payload as `Bytes` holds the buffer, and the last drop puts it back. Pages that were never
//! written to cost nothing.
//!
//! The pool bounds what is kept for reuse, not what is in use: that is bounded by the deferred requests (`deferred.rs`)
//! and by the memory budget of the layer that takes the payloads.

use std::{
    ffi::c_void,
    io,
    ptr::{self, NonNull},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::abi::WRITE_HEAD_BYTES;

/// Alignment of payloads, and room in front of them.
const PAGE_BYTES: usize = 4096;
/// How much is kept in free buffers at most, in bytes of payload.
const KEPT_BYTES: usize = 32 << 20;
/// How many bytes a buffer may hold beyond its payload. To give back less is not worth a system call.
const SLACK_BYTES: usize = 32 << 10;
/// Payloads with fewer bytes are copied, because a mapping is not worth holding for them.
const COPY_BELOW_BYTES: usize = 16 << 10;

/// Where buffers come from and go back to.
#[derive(Debug)]
pub(crate) struct PageBufPool {
    payload_bytes: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    mappings: Vec<Mapping>,
    /// The fewest free buffers since the last trim. So many were not needed.
    low: usize,
}

impl PageBufPool {
    /// A pool of buffers for payloads of up to `payload_bytes`.
    pub(crate) fn new(payload_bytes: usize) -> Arc<Self> {
        Arc::new(Self { payload_bytes: payload_bytes.next_multiple_of(PAGE_BYTES), free: Mutex::default() })
    }

    /// Takes a buffer, a used one if there is any. It fails only when the machine refuses a mapping.
    pub(crate) fn take(self: &Arc<Self>) -> io::Result<PageBuf> {
        let recycled = {
            let mut free = self.free.lock();
            let mapping = free.mappings.pop();
            free.low = free.low.min(free.mappings.len());
            mapping
        };
        let mapping = match recycled {
            Some(mapping) => mapping,
            None => Mapping::new(PAGE_BYTES + self.payload_bytes)?,
        };
        Ok(PageBuf { mapping: Some(mapping), pool: Arc::clone(self) })
    }

    /// Gives those buffers back to the machine that were not used since the last call.
    pub(crate) fn trim(&self) {
        let unused = {
            let mut free = self.free.lock();
            let unused = free.low.min(free.mappings.len());
            // The first ones are the coldest: `take` and `put` work at the end.
            let unused: Vec<Mapping> = free.mappings.drain(..unused).collect();
            free.low = free.mappings.len();
            unused
        };
        drop(unused);
    }

    fn put(&self, mapping: Mapping) {
        let mut free = self.free.lock();
        if free.mappings.len() * self.payload_bytes < KEPT_BYTES {
            free.mappings.push(mapping);
        }
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.free.lock().mappings.len()
    }
}

/// One request buffer.
#[derive(Debug)]
pub(crate) struct PageBuf {
    /// `None` only while the buffer is dropped.
    mapping: Option<Mapping>,
    pool: Arc<PageBufPool>,
}

impl PageBuf {
    /// Where the head of a WRITE begins, so that its data begins on the page boundary.
    const START: usize = PAGE_BYTES - WRITE_HEAD_BYTES;

    fn bytes(&self) -> &[u8] {
        self.mapping.as_ref().map_or(&[], Mapping::as_slice)
    }

    /// The room for a whole request.
    pub(crate) fn request_room(&mut self) -> &mut [u8] {
        self.mapping.as_mut().map_or(&mut [], |m| &mut m.as_mut_slice()[Self::START..])
    }

    /// The first `len` bytes of the request that lies here; fewer when the buffer is smaller.
    pub(crate) fn request(&self, len: usize) -> &[u8] {
        let bytes = &self.bytes()[Self::START..];
        &bytes[..len.min(bytes.len())]
    }

    /// The first `len` bytes of data behind the head of a WRITE, without a copy unless they are few.
    ///
    /// Returns the buffer too when it is free for the next request.
    pub(crate) fn into_payload(mut self, len: usize) -> (Bytes, Option<Self>) {
        let len = len.min(self.pool.payload_bytes);
        if len < COPY_BELOW_BYTES {
            let copy = Bytes::copy_from_slice(&self.bytes()[PAGE_BYTES..PAGE_BYTES + len]);
            return (copy, Some(self));
        }
        if let Some(mapping) = &mut self.mapping {
            mapping.keep_payload(len);
        }
        (Bytes::from_owner(Payload { buf: self, len }), None)
    }
}

impl Drop for PageBuf {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.pool.put(mapping);
        }
    }
}

struct Payload {
    buf: PageBuf,
    len: usize,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.buf.bytes()[PAGE_BYTES..PAGE_BYTES + self.len]
    }
}

/// Private anonymous memory, which is zeros until it is written to.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Bytes of payload that may take memory: as many as the largest payload had that lay here.
    used: usize,
}

// SAFETY: the memory is owned by this value alone and is not bound to a thread.
unsafe impl Send for Mapping {}
// SAFETY: shared access only reads.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: no address is asked for, so nothing existing is replaced.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, used: 0 })
    }

    /// Gives back the memory that an earlier, larger payload took: whoever takes this one answers for `len` bytes of it.
    fn keep_payload(&mut self, len: usize) {
        let kept = len.next_multiple_of(PAGE_BYTES);
        let used = self.used.next_multiple_of(PAGE_BYTES).min(self.len - PAGE_BYTES);
        self.used = len;
        if used <= kept + SLACK_BYTES {
            self.used = self.used.max(used);
            return;
        }
        // SAFETY: the range lies within this mapping behind the payload, begins on a page, and nobody has a reference to it;
        // private anonymous memory that is given back reads as zeros afterwards.
        let done = unsafe {
            let tail = self.start.as_ptr().add(PAGE_BYTES + kept).cast::<c_void>();
            madvise(tail, used - kept, Advice::LinuxDontNeed)
        };
        debug_assert!(done.is_ok(), "madvise of an own mapping failed: {done:?}");
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` is a live mapping of `len` bytes, initialised with zeros by the kernel.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no slice of it outlives `self`.
        let done = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(done.is_ok(), "munmap of an own mapping failed: {done:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pool: &Arc<PageBufPool>, len: usize) -> PageBuf {
        let mut buf = pool.take().expect("a mapping");
        for (i, byte) in buf.request_room()[WRITE_HEAD_BYTES..][..len].iter_mut().enumerate() {
            *byte = i as u8;
        }
        buf
    }

    #[test]
    fn large_payload_is_the_aligned_buffer_itself_and_comes_back() {
        let pool = PageBufPool::new(1 << 20);
        let (bytes, buf) = filled(&pool, 1 << 20).into_payload(1 << 20);
        assert!(buf.is_none());
        assert_eq!(bytes.as_ptr() as usize % PAGE_BYTES, 0);
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == i as u8));
        let half = bytes.slice(1 << 19..);
        drop(bytes);
        assert_eq!(pool.kept(), 0);
        drop(half);
        assert_eq!(pool.kept(), 1);
    }

    #[test]
    fn a_small_payload_does_not_hold_the_memory_of_a_large_one() {
        let pool = PageBufPool::new(1 << 20);
        drop(filled(&pool, 1 << 20).into_payload(1 << 20));
        let (bytes, _) = filled(&pool, 100_000).into_payload(100_000);
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == i as u8));
        drop(bytes);
        let again = pool.take().expect("a mapping");
        assert_eq!(pool.kept(), 0, "it is the same one");
        let tail = &again.bytes()[PAGE_BYTES + 25 * PAGE_BYTES..];
        assert!(tail.iter().all(|byte| *byte == 0), "pages that were not given back");
    }

    #[test]
    fn small_payload_is_copied_and_the_buffer_stays() {
        let pool = PageBufPool::new(128 << 10);
        let (bytes, buf) = filled(&pool, 100).into_payload(100);
        let mut buf = buf.expect("the buffer is free again");
        buf.request_room().fill(0xff);
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == i as u8));
    }

    #[test]
    fn room_holds_head_and_payload() {
        let pool = PageBufPool::new((64 << 10) + 1);
        let mut buf = pool.take().expect("a mapping");
        assert_eq!(buf.request_room().len(), WRITE_HEAD_BYTES + (68 << 10));
        assert_eq!(buf.request(usize::MAX).len(), WRITE_HEAD_BYTES + (68 << 10));
    }

    #[test]
    fn kept_buffers_are_bounded_and_trimmed_when_unused() {
        let pool = PageBufPool::new(1 << 20);
        let many: Vec<_> = (0..40).map(|_| pool.take().expect("a mapping")).collect();
        drop(many);
        assert_eq!(pool.kept(), 32);
        pool.trim();
        assert_eq!(pool.kept(), 32, "all were in use since the last trim");
        drop((pool.take().expect("a mapping"), pool.take().expect("a mapping")));
        pool.trim();
        assert_eq!(pool.kept(), 2);
        pool.trim();
        assert_eq!(pool.kept(), 0);
    }
}
