//! Committing a slice to a chunk (format: metadata.md §6.6).

use juicefs_core::{
    attr::{Attr, Timestamp},
    errno::Errno,
    ids::{ChunkIndex, Ino},
    limits::CHUNK_SIZE,
    meta::Written,
    slice::SliceRecord,
};

use super::{
    Scope, Verdict,
    account::{Growth, count_resize, exceeds, space_delta},
    decision,
};
use crate::{
    record::Key,
    txn::{Applied, Decision, Effect, Effects, Operation, ReadSet},
};

/// Appends `record`, whose slice is new, to a chunk.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) index: ChunkIndex,
    pub(crate) record: SliceRecord,
    /// When the application wrote last.
    pub(crate) mtime: Timestamp,
    /// Most bytes that the file may grow by.
    pub(crate) allowed: Option<u64>,
}

/// Length of a file that has at least the bytes of `record`.
pub(crate) fn length_with(length: u64, index: ChunkIndex, record: &SliceRecord) -> u64 {
    length.max(u64::from(index) * CHUNK_SIZE + u64::from(record.pos) + u64::from(record.len))
}

impl Operation for Write {
    type Reply = Growth<Written>;
    const NAME: &'static str = "write";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Growth<Written>> {
        decision(self.judge(read))
    }

    fn finish(&self, reply: Growth<Written>, applied: &Applied) -> Growth<Written> {
        match (reply, applied.appended.first()) {
            (Growth::Done(written), Some(records)) => Growth::Done(Written { records: *records, ..written }),
            (reply, _) => reply,
        }
    }
}

impl Write {
    fn judge(&self, read: &ReadSet) -> Verdict<Growth<Written>> {
        if u64::from(self.record.pos) + u64::from(self.record.len) > CHUNK_SIZE {
            return Err(Errno::EINVAL.into());
        }
        let attr = read.node(self.ino).ok_or(Errno::ENOENT)?;
        if !attr.is_file() {
            return Err(Errno::EPERM.into());
        }
        let length = length_with(attr.length, self.index, &self.record);
        if let Some(wanted) = exceeds(self.allowed, space_delta(attr.length, length)) {
            return Ok((Growth::Short(wanted), Effects::none()));
        }
        let mut effects = Effects::none();
        effects.push(Effect::AppendSlices(self.ino, self.index, vec![self.record]));
        if let Some(slice) = self.record.key() {
            effects.push(Effect::InsertSliceRef(slice));
        }
        count_resize(read, &self.scope, &mut effects, self.ino, attr, length)?;
        let next = Attr { length, mtime: self.mtime, ctime: self.scope.now, ..attr.clone() };
        effects.push(Effect::UpdateNode(self.ino, next.clone()));
        Ok((Growth::Done(Written { attr: next, records: 0 }), effects))
    }
}
