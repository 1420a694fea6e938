//! Setting the length of a file (format: metadata.md §6.4).

use juicefs_core::{
    attr::{Attr, flags},
    errno::Errno,
    ids::{ChunkIndex, Ino},
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    slice::SliceRecord,
};

use super::{
    Halt, Scope, Verdict,
    access::{W, permit},
    account::{Growth, count_resize, exceeds, space_delta},
    decision, need,
};
use crate::{
    record::Key,
    txn::{Decision, Effect, Effects, Operation, ReadSet},
};

/// Makes the file `length` bytes long.
#[derive(Debug)]
pub(crate) struct Truncate {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) length: u64,
    /// The caller holds the file open for writing.
    pub(crate) opened: bool,
    /// Most bytes that it may grow by.
    pub(crate) allowed: Option<u64>,
}

impl Operation for Truncate {
    type Reply = Growth<Attr>;
    const NAME: &'static str = "truncate";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Growth<Attr>> {
        decision(self.judge(read))
    }
}

impl Truncate {
    fn judge(&self, read: &ReadSet) -> Verdict<Growth<Attr>> {
        let attr = read.node(self.ino).ok_or(Errno::ENOENT)?;
        let frozen = attr.has_flag(flags::IMMUTABLE | flags::APPEND) || attr.parent.is_hourly_trash();
        if !attr.is_file() || frozen {
            return Err(Errno::EPERM.into());
        }
        if !self.opened {
            permit(read, &self.scope.caller, attr, W)?;
        }
        if self.length > MAX_FILE_BYTES {
            return Err(Errno::EFBIG.into());
        }
        if self.length == attr.length {
            return Ok((Growth::Done(attr.clone()), Effects::none()));
        }
        if let Some(wanted) = exceeds(self.allowed, space_delta(attr.length, self.length)) {
            return Ok((Growth::Short(wanted), Effects::none()));
        }
        let mut effects = Effects::none();
        self.hide(read, attr.length.min(self.length), attr.length.max(self.length), &mut effects)?;
        count_resize(read, &self.scope, &mut effects, self.ino, attr, self.length)?;
        let next = Attr { length: self.length, mtime: self.scope.now, ctime: self.scope.now, ..attr.clone() };
        effects.push(Effect::UpdateNode(self.ino, next.clone()));
        Ok((Growth::Done(next), effects))
    }

    /// Nothing stored in `[left, right)` shows any more, also when the file grows: a chunk may hold bytes beyond the end.
    /// The chunks at both ends get a record in any case, those between only where there is something to hide.
    fn hide(&self, read: &ReadSet, left: u64, right: u64, effects: &mut Effects) -> Result<(), Halt> {
        let (first, last) = (index_of(left), index_of(right));
        let between = (first + 1, last.max(first + 1));
        if between.0 < between.1 {
            need(read, [Key::ChunkIndexes(self.ino, between.0, between.1)])?;
        }
        let mut zeros = |index: ChunkIndex, from: u64, to: u64| {
            let record = SliceRecord::zeros(offset(from), offset(to) - offset(from));
            effects.push(Effect::AppendSlices(self.ino, index, vec![record]));
        };
        let start = left % CHUNK_SIZE;
        zeros(first, start, (start + right - left).min(CHUNK_SIZE));
        if between.0 < between.1 {
            for index in read.chunk_indexes(self.ino, between.0, between.1) {
                zeros(*index, 0, CHUNK_SIZE);
            }
        }
        if last > first && !right.is_multiple_of(CHUNK_SIZE) {
            zeros(last, 0, right % CHUNK_SIZE);
        }
        Ok(())
    }
}

/// The chunk that holds byte `at` of a file, which is below the largest length.
pub(crate) fn index_of(at: u64) -> ChunkIndex {
    ChunkIndex::try_from(at / CHUNK_SIZE).unwrap_or(ChunkIndex::MAX)
}

/// A position within a chunk, or its end.
pub(crate) fn offset(at: u64) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use juicefs_core::{Caller, Timestamp, ids::SessionId};

    use super::*;
    use crate::record::{DirStat, Value};

    fn truncated(from: u64, to: u64, stored: &[ChunkIndex]) -> Effects {
        let scope = Scope {
            caller: Caller::root(),
            now: Timestamp::from_secs(1),
            skip_dir_mtime: Default::default(),
            sid: SessionId(1),
            dir_stats: true,
        };
        let op = Truncate { scope, ino: Ino(9), length: to, opened: true, allowed: None };
        let mut read = ReadSet::default();
        let attr = Attr { length: from, nlink: 1, parent: Ino::ROOT, ..Attr::default() };
        read.insert(Key::Node(Ino(9)), Some(Value::Node(attr)));
        loop {
            match op.decide(&read) {
                Decision::Done(_, effects) => return effects,
                Decision::Fail(errno) => panic!("{errno:?}"),
                Decision::NeedMore(keys) => {
                    for key in keys {
                        let Key::ChunkIndexes(_, from, to) = key else { panic!("asks for {key:?}") };
                        let inside = stored.iter().copied().filter(|i| (from..to).contains(i)).collect();
                        read.insert(key, Some(Value::ChunkIndexes(inside)));
                    }
                }
            }
        }
    }

    fn zeros(effects: &Effects) -> Vec<(ChunkIndex, u32, u32)> {
        let appended = effects.list.iter().filter_map(|effect| match effect {
            Effect::AppendSlices(_, index, records) => Some((*index, records[0].pos, records[0].len)),
            _ => None,
        });
        appended.collect()
    }

    #[test]
    fn both_ends_are_hidden_and_what_is_stored_between() {
        const CHUNK: u32 = CHUNK_SIZE as u32;
        assert_eq!(zeros(&truncated(100, 40, &[0])), [(0, 40, 60)]);
        assert_eq!(zeros(&truncated(40, 100, &[])), [(0, 40, 60)]);
        let long = 5 * CHUNK_SIZE + 10;
        let hidden = [(0, 7, CHUNK - 7), (2, 0, CHUNK), (5, 0, 10)];
        assert_eq!(zeros(&truncated(long, 7, &[0, 2, 5])), hidden);
        assert_eq!(zeros(&truncated(7, long, &[0, 2, 5])), hidden);
        assert_eq!(zeros(&truncated(CHUNK_SIZE, 0, &[0])), [(0, 0, CHUNK)]);
        assert_eq!(zeros(&truncated(0, 2 * CHUNK_SIZE, &[1])), [(0, 0, CHUNK), (1, 0, CHUNK)]);
    }

    #[test]
    fn usage_follows_whole_pages() {
        let effects = truncated(1, 4097, &[]);
        assert_eq!(effects.usage.space, 4096);
        assert_eq!(effects.dir_stats, [(Ino::ROOT, DirStat { length: 4096, space: 4096, inodes: 0 })]);
    }
}
