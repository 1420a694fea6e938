//! Setting the length of a file (format: metadata.md §6.4).

use std::ops::Range;

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
    decision,
    file_data::{references, release},
    need,
};
use crate::{
    record::{CHUNKS_AT_ONCE, CHUNKS_BEYOND, Key},
    txn::{ChunkEffect, Decision, Effect, Effects, NodeEffect, Operation, ReadSet},
};

/// Makes the file `length` bytes long, or takes a step towards that: what it hides of chunks is bounded. A file that is cut
/// is so in each step; one that grows has its new length with the last.
#[derive(Debug)]
pub(crate) struct Truncate {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) length: u64,
    /// The caller holds the file open for writing.
    pub(crate) opened: bool,
    /// Most bytes that it may grow by.
    pub(crate) allowed: Option<u64>,
    /// What the steps before have hidden.
    pub(crate) swept: Option<Swept>,
}

/// From this chunk on nothing shows beyond the end of a file, as long as its attributes are these.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Swept {
    from: ChunkIndex,
    attr: Attr,
}

/// How far a truncation came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Truncated {
    /// To its end; the attributes are these now.
    Done(Attr),
    /// Another step is to be taken.
    Partly(Option<Swept>),
}

impl Operation for Truncate {
    type Reply = Growth<Truncated>;
    const NAME: &'static str = "truncate";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Self::Reply> {
        decision(self.judge(read))
    }
}

/// The chunks that a change of the length from `left` to `right`, or back, is about: those of both ends, and what lies
/// between them. An end that is far has nothing to be hidden unless something is stored there, as those between.
struct Affected {
    first: ChunkIndex,
    last: Option<ChunkIndex>,
    between: Range<ChunkIndex>,
}

impl Affected {
    fn new(left: u64, right: u64) -> Self {
        let (first, last) = (index_of(left), index_of(right));
        let far = last - first > CHUNKS_BEYOND;
        let end = if far { last + 1 } else { last.max(first + 1) };
        Self { first, last: Some(last).filter(|last| !far && *last > first), between: first + 1..end }
    }
}

impl Truncate {
    fn judge(&self, read: &ReadSet) -> Verdict<Growth<Truncated>> {
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
            return Ok((Growth::Done(Truncated::Done(attr.clone())), Effects::none()));
        }
        if let Some(wanted) = exceeds(self.allowed, space_delta(attr.length, self.length)) {
            return Ok((Growth::Short(wanted), Effects::none()));
        }
        let mut effects = Effects::none();
        let stored = self.stored_between(read, attr)?;
        // There may be more than were told, before the first of them.
        let cut_at = stored.first().copied().filter(|_| stored.len() >= CHUNKS_AT_ONCE);
        let length = match cut_at {
            Some(index) if self.length > attr.length => {
                self.hide_whole(stored, &mut effects);
                let swept = Swept { from: index, attr: attr.clone() };
                return Ok((Growth::Done(Truncated::Partly(Some(swept))), effects));
            }
            Some(index) => u64::from(index) * CHUNK_SIZE,
            None => self.length,
        };
        // What lies far behind the end would not be found when the file is removed: it goes now.
        let kept = index_of(length).saturating_add(CHUNKS_BEYOND);
        let far = if length < attr.length { stored.partition_point(|index| *index <= kept) } else { stored.len() };
        self.drop_chunks(read, &stored[far..], &mut effects)?;
        self.hide(&stored[..far], attr.length.min(length), attr.length.max(length), &mut effects);
        count_resize(read, &self.scope, &mut effects, self.ino, attr, length)?;
        let next = Attr { length, mtime: self.scope.now, ctime: self.scope.now, ..attr.clone() };
        effects.push(Effect::Node(self.ino, NodeEffect::Update(next.clone())));
        let reply = if length == self.length { Truncated::Done(next) } else { Truncated::Partly(None) };
        Ok((Growth::Done(reply), effects))
    }

    /// The chunks with a list between the old end and the new one, as many as are told at once, without those that were
    /// swept.
    fn stored_between<'a>(&self, read: &'a ReadSet, attr: &Attr) -> Result<&'a [ChunkIndex], Halt> {
        let Range { start, mut end } =
            Affected::new(attr.length.min(self.length), attr.length.max(self.length)).between;
        if let Some(swept) = self.swept.as_ref().filter(|swept| swept.attr == *attr) {
            end = end.min(swept.from);
        }
        if start >= end {
            return Ok(&[]);
        }
        need(read, [Key::ChunkIndexes(self.ino, start, end)])?;
        Ok(read.chunk_indexes(self.ino, start, end))
    }

    fn zeros(&self, index: ChunkIndex, from: u64, to: u64, effects: &mut Effects) {
        let record = SliceRecord::zeros(offset(from), offset(to) - offset(from));
        effects.push(Effect::Chunk(self.ino, index, ChunkEffect::Append(vec![record])));
    }

    fn hide_whole(&self, chunks: &[ChunkIndex], effects: &mut Effects) {
        chunks.iter().for_each(|index| self.zeros(*index, 0, CHUNK_SIZE, effects));
    }

    /// Takes chunks away. Slices that nothing shows any more are found by the clean-up of those.
    fn drop_chunks(&self, read: &ReadSet, chunks: &[ChunkIndex], effects: &mut Effects) -> Result<(), Halt> {
        need(read, chunks.iter().map(|index| Key::Chunk(self.ino, *index)))?;
        let used = references(chunks.iter().flat_map(|index| read.chunk(self.ino, *index)));
        release(read, used, effects)?;
        effects.list.extend(chunks.iter().map(|index| Effect::Chunk(self.ino, *index, ChunkEffect::Delete)));
        Ok(())
    }

    /// Nothing stored in `[left, right)` shows any more, also when the file grows: a chunk may hold bytes beyond the end.
    /// The chunks at both ends get a record in any case, those between, which are among `stored`, only where there is
    /// something to hide.
    fn hide(&self, stored: &[ChunkIndex], left: u64, right: u64, effects: &mut Effects) {
        let Affected { first, last, between } = Affected::new(left, right);
        let start = left % CHUNK_SIZE;
        self.zeros(first, start, (start + right - left).min(CHUNK_SIZE), effects);
        let stored: Vec<_> = stored.iter().copied().filter(|index| between.contains(index)).collect();
        self.hide_whole(&stored, effects);
        if let Some(last) = last.filter(|_| !right.is_multiple_of(CHUNK_SIZE)) {
            self.zeros(last, 0, right % CHUNK_SIZE, effects);
        }
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
        let op = Truncate { scope, ino: Ino(9), length: to, opened: true, allowed: None, swept: None };
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
            Effect::Chunk(_, index, ChunkEffect::Append(records)) => Some((*index, records[0].pos, records[0].len)),
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
