//! What operations owe to the books: directory statistics, used space, and times and link counts of parents.

use juicefs_core::{
    attr::Attr,
    ids::Ino,
    limits::{ENTRY_SPACE, align_4k},
};

use super::{Halt, Scope, need};
use crate::{
    record::{DirStat, Key},
    txn::{Effect, Effects, NodeEffect, NodeGuard, NodePatch, ReadSet, Usage},
};

/// What one entry naming the node counts in its directory; an entry without node counts as an empty file.
pub(crate) fn entry_stat(attr: Option<&Attr>) -> DirStat {
    let length = attr.filter(|attr| attr.is_file()).map_or(0, |attr| attr.length);
    let space = attr.map_or(ENTRY_SPACE, Attr::used_space);
    DirStat { length: signed(length), space: signed(space), inodes: 1 }
}

/// The opposite change.
pub(crate) fn negative(stat: DirStat) -> DirStat {
    DirStat { length: -stat.length, space: -stat.space, inodes: -stat.inodes }
}

/// A length as a change of one; no length of the format comes near the bound.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Bytes of used space that a file gains when its length changes.
pub(crate) fn space_delta(old_length: u64, new_length: u64) -> i64 {
    signed(align_4k(new_length)) - signed(align_4k(old_length))
}

/// An entry of `dir` changed: moves its times on if they are due and its nlink by `nlink`. Only what permission checks
/// look at is guarded, so that creating in a busy directory does not conflict.
pub(crate) fn touch_parent(scope: &Scope, effects: &mut Effects, dir: Ino, attr: &Attr, nlink: i32) {
    effects.narrowed.push((dir, NodeGuard::Permissions));
    if dir.is_trash() {
        return;
    }
    let age_nanos = scope.now.as_nanos() - attr.mtime.as_nanos();
    if nlink != 0 || age_nanos >= i128::try_from(scope.skip_dir_mtime.as_nanos()).unwrap_or(i128::MAX) {
        effects.push(Effect::Node(dir, NodeEffect::Patch(NodePatch::links(nlink, Some(scope.now)))));
    }
}

/// An entry was added to or taken from the statistics of `dir`. The trash root has none.
pub(crate) fn count_entry(scope: &Scope, effects: &mut Effects, dir: Ino, delta: DirStat) {
    if scope.dir_stats && dir != Ino::TRASH_ROOT {
        effects.dir_stats.push((dir, delta));
    }
}

/// A node comes into being: the volume and its owner have it.
pub(crate) fn count_new(effects: &mut Effects, attr: &Attr) {
    let size = Usage { space: entry_stat(Some(attr)).space, inodes: 1 };
    effects.usage = effects.usage.plus(size);
    effects.owned.push((attr.uid, attr.gid, size));
}

/// A node goes: the volume and its owner have it no more.
pub(crate) fn count_gone(effects: &mut Effects, attr: &Attr) {
    let size = Usage { space: entry_stat(Some(attr)).space, inodes: 1 };
    effects.usage = effects.usage.minus(size);
    effects.owned.push((attr.uid, attr.gid, Usage::default().minus(size)));
}

/// A node goes from one owner to another.
pub(crate) fn count_given(effects: &mut Effects, old: &Attr, new: &Attr) {
    if (old.uid, old.gid) != (new.uid, new.gid) {
        let size = Usage { space: entry_stat(Some(old)).space, inodes: 1 };
        effects.owned.push((old.uid, old.gid, Usage::default().minus(size)));
        effects.owned.push((new.uid, new.gid, size));
    }
}

/// A file's length changes: the volume and every directory that names it count the difference.
pub(crate) fn count_resize(
    read: &ReadSet,
    scope: &Scope,
    effects: &mut Effects,
    ino: Ino,
    attr: &Attr,
    new_length: u64,
) -> Result<(), Halt> {
    let space = space_delta(attr.length, new_length);
    effects.usage.space += space;
    if space != 0 {
        effects.owned.push((attr.uid, attr.gid, Usage { space, inodes: 0 }));
    }
    // A file without names is in no directory, whatever its parent was.
    if !scope.dir_stats || attr.length == new_length || attr.nlink == 0 {
        return Ok(());
    }
    let delta = DirStat { length: signed(new_length) - signed(attr.length), space, inodes: 0 };
    if attr.parent != Ino(0) {
        count_entry(scope, effects, attr.parent, delta);
        return Ok(());
    }
    need(read, [Key::Parents(ino)])?;
    for (parent, names) in read.parents(ino).into_iter().flatten() {
        let names = signed(*names);
        let delta = DirStat { length: delta.length * names, space: delta.space * names, inodes: 0 };
        count_entry(scope, effects, *parent, delta);
    }
    Ok(())
}

/// The reply of an operation that may need room: it is done, or it would need more than it was allowed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Growth<T> {
    /// It is done.
    Done(T),
    /// Nothing happened: it needs this many bytes.
    Short(u64),
}

/// Whether `space` more bytes are within what an operation may use; `None` allows any.
pub(crate) fn exceeds(allowed: Option<u64>, space: i64) -> Option<u64> {
    let wanted = u64::try_from(space).unwrap_or(0);
    allowed.filter(|allowed| wanted > *allowed).map(|_| wanted)
}
