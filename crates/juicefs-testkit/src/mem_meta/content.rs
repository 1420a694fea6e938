//! What operations do to the content of files.

use std::collections::BTreeMap;

use juicefs_core::{
    Attr, ChunkIndex, Errno, Ino, SliceId, SliceRecord, Timestamp,
    limits::{CHUNK_SIZE, align_4k},
    meta::{Compacted, FallocateMode, NewSlice, Written},
    slice::CompactionPlan,
};

use super::State;

impl State {
    pub(super) fn truncate(&mut self, ino: Ino, length: u64, now: Timestamp) -> Result<Attr, Errno> {
        let old = self.file_mut(ino)?.attr.length;
        if old != length {
            self.check_space(length.saturating_sub(old))?;
            self.zero(ino, old.min(length), old.max(length))?;
            let attr = &mut self.node_mut(ino)?.attr;
            (attr.length, attr.mtime, attr.ctime) = (length, now, now);
        }
        Ok(self.node(ino)?.attr.clone())
    }

    pub(super) fn fallocate(
        &mut self,
        ino: Ino,
        mode: FallocateMode,
        off: u64,
        size: u64,
        now: Timestamp,
    ) -> Result<Attr, Errno> {
        let old = self.file_mut(ino)?.attr.length;
        let (keep_size, zero) = match mode {
            FallocateMode::Allocate { keep_size } => (keep_size, false),
            FallocateMode::PunchHole => (true, true),
            FallocateMode::ZeroRange { keep_size } => (keep_size, true),
        };
        let end = off + size;
        if zero && off < old {
            self.zero(ino, off, end.min(old))?;
        }
        let attr = &mut self.node_mut(ino)?.attr;
        if !keep_size {
            attr.length = attr.length.max(end);
        }
        (attr.mtime, attr.ctime) = (now, now);
        Ok(attr.clone())
    }

    pub(super) fn write(
        &mut self,
        ino: Ino,
        slices: Vec<NewSlice>,
        mtime: Timestamp,
        now: Timestamp,
    ) -> Result<Written, Errno> {
        let (mut length, mut offsets, mut records) = (self.file_mut(ino)?.attr.length, Vec::new(), Vec::new());
        for slice in slices {
            let (key, mut at, parts) = match slice {
                NewSlice::At(index, record) => {
                    let key = record.key().expect("a written slice is no hole");
                    (key, u64::from(index) * CHUNK_SIZE + u64::from(record.pos), record.off..record.off + record.len)
                }
                NewSlice::End(key) => (key, length, 0..key.size),
            };
            assert!(!self.references.contains_key(&key), "slice {key:?} was committed twice");
            offsets.push(at);
            let mut off = parts.start;
            while off < parts.end {
                let (index, pos) = ((at / CHUNK_SIZE) as ChunkIndex, (at % CHUNK_SIZE) as u32);
                let len = (parts.end - off).min(CHUNK_SIZE as u32 - pos);
                records.push((index, SliceRecord { pos, id: key.id, size: key.size, off, len }));
                (at, off) = (at + u64::from(len), off + len);
            }
            length = length.max(at);
        }
        let before = self.file_mut(ino)?.attr.length;
        let growth = align_4k(length) - align_4k(before);
        let claimed = self.claims.get(&ino).copied().unwrap_or(0);
        self.check_space(growth.saturating_sub(claimed))?;
        self.trim_claim(ino, claimed.saturating_sub(growth));
        let mut chunks = BTreeMap::new();
        for (index, record) in records {
            self.refer(&record);
            let list = self.file_mut(ino)?.chunks.entry(index).or_default();
            list.push(record);
            chunks.insert(index, list.len());
        }
        let attr = &mut self.file_mut(ino)?.attr;
        (attr.length, attr.mtime, attr.ctime) = (length, mtime, now);
        Ok(Written { attr: attr.clone(), offsets, chunks: chunks.into_iter().collect() })
    }

    pub(super) fn claim(&mut self, ino: Ino, bytes: u64) -> Result<(), Errno> {
        self.check_space(bytes)?;
        *self.claims.entry(ino).or_default() += bytes;
        Ok(())
    }

    pub(super) fn trim_claim(&mut self, ino: Ino, bytes: u64) {
        let claim = self.claims.entry(ino).or_default();
        *claim = bytes.min(*claim);
    }

    pub(super) fn compact(&mut self, ino: Ino, index: ChunkIndex, plan: &CompactionPlan, slice: SliceId) -> Compacted {
        let Some(records) = self.nodes.get_mut(&ino).and_then(|node| node.chunks.get_mut(&index)) else {
            return Compacted::Lost;
        };
        if !records.starts_with(&plan.records) {
            return Compacted::Lost;
        }
        let record = SliceRecord { pos: plan.pos, id: slice, size: plan.size, off: 0, len: plan.size };
        let replaced: Vec<_> = records.splice(plan.skipped..plan.records.len(), [record]).collect();
        self.refer(&record);
        Compacted::Done(replaced.iter().filter_map(|record| self.unrefer(record)).collect())
    }
}
