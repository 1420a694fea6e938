//! fallocate(2): reserving, punching holes, zeroing (format: metadata.md §6.5).

use juicefs_core::{
    attr::{Attr, FileType, flags},
    errno::Errno,
    ids::{ChunkIndex, Ino},
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    meta::FallocateMode,
    slice::SliceRecord,
};

use super::{
    Halt, Scope, Verdict,
    account::{Growth, count_resize, exceeds, space_delta},
    decision, need,
    setattr::mode_after_change,
    truncate::{index_of, offset},
};
use crate::{
    record::{CHUNKS_AT_ONCE, Key},
    txn::{ChunkEffect, Decision, Effect, Effects, NodeEffect, Operation, ReadSet},
};

/// Chunks that are made to read as zeros without asking whether they hold anything.
const FEW: ChunkIndex = 16;

/// Does `mode` to `[off, off + size)`. What it hides of chunks is bounded: it tells from where on the range reads as zeros,
/// and what is before that is another operation.
#[derive(Debug)]
pub(crate) struct Fallocate {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) mode: FallocateMode,
    pub(crate) off: u64,
    pub(crate) size: u64,
    /// What lies from here on was done before.
    pub(crate) upto: u64,
    /// Most bytes that the file may grow by.
    pub(crate) allowed: Option<u64>,
    /// Bytes that are free in the volume, as statfs shows them.
    pub(crate) free_bytes: u64,
}

impl Operation for Fallocate {
    /// The attributes, and the end of what is left to be done, if anything is.
    type Reply = Growth<(Attr, Option<u64>)>;
    const NAME: &'static str = "fallocate";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Self::Reply> {
        decision(self.judge(read))
    }
}

impl Fallocate {
    fn judge(&self, read: &ReadSet) -> Verdict<<Self as Operation>::Reply> {
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
        // Nothing is reserved, but what could never be written must not look as if it were.
        if self.mode != FallocateMode::PunchHole
            && exceeds(Some(self.free_bytes), space_delta(attr.length, attr.length.max(end))).is_some()
        {
            return Err(Errno::ENOSPC.into());
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
        let zeroed = end.min(attr.length).min(self.upto);
        let left = if reserves { None } else { self.zero(read, zeroed, &mut effects)? };
        count_resize(read, &self.scope, &mut effects, self.ino, attr, length)?;
        let mode = mode_after_change(&self.scope.caller, attr);
        let next = Attr { length, mode, mtime: self.scope.now, ctime: self.scope.now, ..attr.clone() };
        effects.push(Effect::Node(self.ino, NodeEffect::Update(next.clone())));
        Ok((Growth::Done((next, left)), effects))
    }

    /// `[off, end)` reads as zeros, or as much of its end as one operation hides. Returns the end of the rest.
    fn zero(&self, read: &ReadSet, end: u64, effects: &mut Effects) -> Result<Option<u64>, Halt> {
        if self.off >= end {
            return Ok(None);
        }
        let (first, behind) = (index_of(self.off), index_of(end - 1) + 1);
        let few: Vec<_>;
        let chunks = if behind - first <= FEW {
            few = (first..behind).collect();
            few.as_slice()
        } else {
            need(read, [Key::ChunkIndexes(self.ino, first, behind)])?;
            read.chunk_indexes(self.ino, first, behind)
        };
        for index in chunks {
            let start = u64::from(*index) * CHUNK_SIZE;
            let (from, to) = (self.off.max(start) - start, end.min(start + CHUNK_SIZE) - start);
            let record = SliceRecord::zeros(offset(from), offset(to) - offset(from));
            effects.push(Effect::Chunk(self.ino, *index, ChunkEffect::Append(vec![record])));
        }
        let lowest = chunks.first().copied().filter(|index| chunks.len() >= CHUNKS_AT_ONCE && *index > first);
        Ok(lowest.map(|index| u64::from(index) * CHUNK_SIZE))
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::{Caller, Timestamp, ids::SessionId};

    use super::*;
    use crate::record::Value;

    const ALLOCATE: FallocateMode = FallocateMode::Allocate { keep_size: false };

    fn allocated(caller: Caller, attr: Attr, mode: FallocateMode, size: u64, free_bytes: u64) -> Result<Attr, Errno> {
        let now = Timestamp::from_secs(1);
        let scope = Scope { caller, now, skip_dir_mtime: Default::default(), sid: SessionId(1), dir_stats: true };
        let op = Fallocate { scope, ino: Ino(9), mode, off: 0, size, upto: u64::MAX, allowed: None, free_bytes };
        let mut read = ReadSet::default();
        read.insert(Key::Node(Ino(9)), Some(Value::Node(attr)));
        match op.decide(&read) {
            Decision::Done(Growth::Done((attr, None)), _) => Ok(attr),
            Decision::Fail(errno) => Err(errno),
            other => panic!("{other:?}"),
        }
    }

    fn file(mode: u16, length: u64) -> Attr {
        Attr { mode, length, uid: 1, gid: 1, nlink: 1, parent: Ino::ROOT, ..Attr::default() }
    }

    #[test]
    fn what_cannot_fit_is_refused() {
        let length =
            |mode, size, free| allocated(Caller::root(), file(0o644, 4096), mode, size, free).map(|a| a.length);
        assert_eq!(length(ALLOCATE, 8192, 4096), Ok(8192));
        assert_eq!(length(ALLOCATE, 8193, 4096), Err(Errno::ENOSPC));
        assert_eq!(length(FallocateMode::Allocate { keep_size: true }, 8193, 4096), Err(Errno::ENOSPC));
        assert_eq!(length(FallocateMode::ZeroRange { keep_size: true }, 8193, 4096), Err(Errno::ENOSPC));
        assert_eq!(length(ALLOCATE, 4096, 0), Ok(4096), "what the file has already");
        assert_eq!(length(FallocateMode::PunchHole, 1 << 50, 0), Ok(4096));
    }

    #[test]
    fn set_id_bits_go_as_with_a_write() {
        let user = |uid| Caller { uid, gid: uid, ..Caller::default() };
        let mode = |caller, mode| allocated(caller, file(mode, 1), ALLOCATE, 2, 1 << 20).map(|a| a.mode);
        assert_eq!(mode(Caller::root(), 0o6777), Ok(0o6777));
        assert_eq!(mode(user(2), 0o6777), Ok(0o777));
        assert_eq!(mode(user(2), 0o2666), Ok(0o666), "set-gid without group execution, by somebody of no such group");
        assert_eq!(mode(user(1), 0o6666), Ok(0o2666), "likewise, by somebody of the group");
        assert_eq!(mode(user(1), 0o6676), Ok(0o676));
    }
}
