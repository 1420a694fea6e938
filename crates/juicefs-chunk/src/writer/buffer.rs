//! A buffer holds one block while it is being written.

use bytes::Bytes;
use juicefs_core::{Lease, Segments};

use crate::pool::PoolBuf;

/// A block's own memory grows in these steps, so that a small file does not cost the memory of a block.
const GROWTH_BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// A piece of a shared write that is smaller than this is copied, because it would hold memory far larger than itself.
const SHARED_PIECE_BYTES: usize = 64 << 10;
/// More parts than this are joined into one.
const MAX_PARTS: usize = 256;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The parts of a block in order, without gaps from 0 to the length.
#[derive(Debug)]
pub(super) struct BlockBuffer {
    parts: Vec<Part>,
    len: usize,
    block_size: usize,
    lease: Lease,
}

#[derive(Debug)]
struct Part {
    start: usize,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// The bytes belong to somebody else and are never changed.
    Shared(Bytes),
    /// The memory belongs to this block and is changed in place. It never moves, for a block grows by further parts.
    Own(PoolBuf),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Shared(bytes) => bytes,
            Data::Own(buf) => buf,
        }
    }

    fn end(&self) -> usize {
        self.start + self.bytes().len()
    }
}

impl BlockBuffer {
    pub(super) fn new(block_size: usize) -> Self {
        Self { parts: Vec::new(), len: 0, block_size, lease: Lease::empty() }
    }

    /// Puts `data` at `off`, which is at most the length. `lease` covers it.
    pub(super) fn write(&mut self, off: usize, mut data: Bytes, shared: bool, lease: Lease) {
        let shared = shared && data.len() >= SHARED_PIECE_BYTES;
        self.lease.merge(lease);
        let over = data.len().min(self.len - off);
        if over > 0 {
            self.overwrite(off, data.split_to(over), shared);
        }
        if !data.is_empty() {
            self.append(data, shared);
        }
        // Overwritten bytes are no longer held.
        drop(self.lease.split(self.lease.bytes().saturating_sub(self.len)));
    }

    /// Appends `count` zeros.
    pub(super) fn pad(&mut self, mut count: usize) {
        while count > 0 {
            let some = count.min(ZEROS.len());
            self.push(Data::Shared(Bytes::from_static(&ZEROS[..some])));
            count -= some;
        }
    }

    /// Returns the content, its length in bytes, and the lease that covers it.
    pub(super) fn freeze(self) -> (Segments, usize, Lease) {
        let body = self.parts.into_iter().map(|part| match part.data {
            Data::Shared(bytes) => bytes,
            Data::Own(buf) => Bytes::from_owner(buf),
        });
        (body.collect(), self.len, self.lease)
    }

    fn push(&mut self, data: Data) {
        let part = Part { start: self.len, data };
        self.len = part.end();
        self.parts.push(part);
        if self.parts.len() > MAX_PARTS {
            self.join();
        }
    }

    fn append(&mut self, mut data: Bytes, shared: bool) {
        if shared {
            return self.push(Data::Shared(data));
        }
        if let Some(Part { data: Data::Own(buf), .. }) = self.parts.last_mut() {
            let some = data.split_to(data.len().min(buf.room()));
            buf.append(&some);
            self.len += some.len();
        }
        if !data.is_empty() {
            let need = self.len + data.len();
            let grown = GROWTH_BYTES.into_iter().find(|size| *size >= need).unwrap_or(self.block_size);
            let mut buf = PoolBuf::with_capacity(grown.min(self.block_size) - self.len);
            buf.append(&data);
            self.push(Data::Own(buf));
        }
    }

    /// Replaces bytes that are there.
    fn overwrite(&mut self, off: usize, data: Bytes, shared: bool) {
        let end = off + data.len();
        let first = self.parts.partition_point(|p| p.end() <= off);
        let last = self.parts.partition_point(|p| p.start < end);
        if self.parts[first..last].iter().all(|p| matches!(p.data, Data::Own(_))) {
            for part in &mut self.parts[first..last] {
                let (from, to) = (off.max(part.start), end.min(part.end()));
                if let Data::Own(buf) = &mut part.data {
                    buf[from - part.start..to - part.start].copy_from_slice(&data[from - off..to - off]);
                }
            }
            return;
        }
        // Cut what is covered out of the list and put the new bytes in its place.
        let old: Vec<_> = self.parts.drain(first..last).collect();
        let mut new = Vec::with_capacity(old.len() + 2);
        let new_data = if shared { Data::Shared(data) } else { Data::Own(copy(&data)) };
        let mut middle = Some(Part { start: off, data: new_data });
        for part in old {
            let (start, stop) = (part.start, part.end());
            // Own memory at the edges is copied, which is less than what the write covers or at most one block.
            let bytes = match part.data {
                Data::Shared(bytes) => bytes,
                Data::Own(buf) => Bytes::from_owner(buf),
            };
            if start < off {
                new.push(Part { start, data: Data::Shared(bytes.slice(..off - start)) });
            }
            new.extend(middle.take());
            if stop > end {
                new.push(Part { start: end, data: Data::Shared(bytes.slice(end - start..)) });
            }
        }
        self.parts.splice(first..first, new);
        if self.parts.len() > MAX_PARTS {
            self.join();
        }
    }

    /// Copies all parts into one.
    fn join(&mut self) {
        let mut whole = PoolBuf::with_capacity(self.block_size);
        for part in self.parts.drain(..) {
            whole.append(part.bytes());
        }
        self.parts.push(Part { start: 0, data: Data::Own(whole) });
    }
}

fn copy(data: &[u8]) -> PoolBuf {
    let mut buf = PoolBuf::with_capacity(data.len());
    buf.append(data);
    buf
}

#[cfg(test)]
mod tests {
    use juicefs_core::{Budget, Share};
    use proptest::prelude::*;

    use super::*;

    fn content(buffer: BlockBuffer) -> Vec<u8> {
        let (body, len, _lease) = buffer.freeze();
        let bytes = body.concat();
        assert_eq!(bytes.len(), len);
        bytes
    }

    #[test]
    fn a_small_file_costs_little_memory() {
        let mut buffer = BlockBuffer::new(4 << 20);
        buffer.write(0, Bytes::from(vec![1; 4096]), false, Lease::empty());
        let Data::Own(buf) = &buffer.parts[0].data else { panic!("small writes are copied") };
        assert_eq!((buffer.parts.len(), buf.len() + buf.room()), (1, 4096));
    }

    #[test]
    fn overwriting_does_not_gather_leases() {
        let budget = Budget::new(1 << 20);
        let mut buffer = BlockBuffer::new(4 << 20);
        for _ in 0..1000 {
            let lease = budget.try_acquire(Share::Write, 1000).expect("free");
            buffer.write(0, Bytes::from(vec![2; 1000]), false, lease);
        }
        assert_eq!(budget.used_bytes(), 1000);
        drop(buffer);
        assert_eq!(budget.used_bytes(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn content_is_that_of_a_plain_vector(
            writes in prop::collection::vec((any::<prop::sample::Index>(), 1..150_000usize, any::<bool>(), 0..70_000usize), 1..60),
        ) {
            const BLOCK: usize = 400_000;
            let mut model: Vec<u8> = Vec::new();
            let mut buffer = BlockBuffer::new(BLOCK);
            for (n, (at, len, shared, gap)) in writes.into_iter().enumerate() {
                let off = at.index(model.len() + 1);
                if off == model.len() {
                    let gap = gap.min(BLOCK - model.len());
                    model.resize(model.len() + gap, 0);
                    buffer.pad(gap);
                }
                let off = if off + gap >= model.len() { model.len() } else { off };
                let data: Vec<u8> = (0..len.min(BLOCK - off)).map(|i| (i as u8).wrapping_mul(31).wrapping_add(n as u8)).collect();
                if model.len() < off + data.len() {
                    model.resize(off + data.len(), 0);
                }
                model[off..off + data.len()].copy_from_slice(&data);
                buffer.write(off, Bytes::from(data), shared, Lease::empty());
            }
            prop_assert_eq!(content(buffer), model);
        }
    }
}
