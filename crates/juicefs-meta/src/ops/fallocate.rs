//! fallocate(2): reserving, punching holes, zeroing (format: metadata.md §6.5).

use juicefs_core::{
    attr::{Attr, FileType, flags},
    errno::Errno,
    ids::Ino,
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    meta::FallocateMode,
    slice::SliceRecord,
};

use super::{
    Scope, Verdict,
    account::{Growth, count_resize, exceeds, space_delta},
    decision,
    truncate::{index_of, offset},
};
use crate::{
    record::Key,
    txn::{Decision, Effect, Effects, Operation, ReadSet},
};

/// Does `mode` to `[off, off + size)`.
#[derive(Debug)]
pub(crate) struct Fallocate {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) mode: FallocateMode,
    pub(crate) off: u64,
    pub(crate) size: u64,
    /// Most bytes that the file may grow by.
    pub(crate) allowed: Option<u64>,
}

impl Operation for Fallocate {
    type Reply = Growth<Attr>;
    const NAME: &'static str = "fallocate";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Growth<Attr>> {
        decision(self.judge(read))
    }
}

impl Fallocate {
    fn judge(&self, read: &ReadSet) -> Verdict<Growth<Attr>> {
        if self.size == 0 {
            return Err(Errno::EINVAL.into());
        }
        let end = self.off.checked_add(self.size).filter(|end| *end <= MAX_FILE_BYTES).ok_or(Errno::EFBIG)?;
        let attr = read.node(self.ino).ok_or(Errno::ENOENT)?;
        if attr.kind == FileType::Fifo {
            return Err(Errno::EPIPE.into());
        }
        let reserves = matches!(self.mode, FallocateMode::Allocate { .. });
        let frozen = attr.has_flag(flags::IMMUTABLE) || attr.has_flag(flags::APPEND) && !reserves;
        if !attr.is_file() || frozen {
            return Err(Errno::EPERM.into());
        }
        let length = match self.mode {
            FallocateMode::Allocate { keep_size: false } | FallocateMode::ZeroRange { keep_size: false } => {
                attr.length.max(end)
            }
            _ => attr.length,
        };
        if let Some(wanted) = exceeds(self.allowed, space_delta(attr.length, length)) {
            return Ok((Growth::Short(wanted), Effects::none()));
        }
        let mut effects = Effects::none();
        if !reserves {
            self.zero(end.min(attr.length), &mut effects);
        }
        count_resize(read, &self.scope, &mut effects, self.ino, attr, length)?;
        let next = Attr { length, mtime: self.scope.now, ctime: self.scope.now, ..attr.clone() };
        effects.push(Effect::UpdateNode(self.ino, next.clone()));
        Ok((Growth::Done(next), effects))
    }

    /// `[off, end)` reads as zeros.
    fn zero(&self, end: u64, effects: &mut Effects) {
        let mut at = self.off;
        while at < end {
            let start = at % CHUNK_SIZE;
            let len = (CHUNK_SIZE - start).min(end - at);
            let record = SliceRecord::zeros(offset(start), offset(len));
            effects.push(Effect::AppendSlices(self.ino, index_of(at), vec![record]));
            at += len;
        }
    }
}
