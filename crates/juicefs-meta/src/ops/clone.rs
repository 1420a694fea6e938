//! Copies of nodes that share the slices of their source, and directories that get their name last (format:
//! metadata.md §6.19).

use std::collections::BTreeMap;

use juicefs_core::{
    Caller,
    attr::{Attr, flags},
    errno::Errno,
    ids::{ChunkIndex, Ino, Name, SliceKey},
    limits::CHUNK_SIZE,
    slice::SliceRecord,
    tree::Cloning,
};

use super::{
    Halt, Scope, Verdict,
    access::{R, X, living_directory, may_create, permit},
    account::{count_entry, count_gone, count_new, entry_stat, touch_parent},
    decision,
    mknod::may_make,
    need,
};
use crate::{
    record::{DirStat, Edge, Key, NoteKey},
    txn::{
        AccountEffect, ChunkEffect, Decision, EdgeEffect, Effect, Effects, NodeEffect, NodeGuard, NodePatch, Operation,
        ReadSet, SessionEffect, SliceEffect,
    },
};

/// What the names begin with of xattrs that root alone may set; nobody else gets them by copying.
const OF_ROOT: [&[u8]; 2] = [b"security.", b"trusted."];

/// Chunks that one operation copies. Each brings its list and its slices with it, which may be many.
const COPIED_AT_ONCE: usize = 256;

/// Where a copy goes.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Where the caller wants it and everybody sees it at once: no directory.
    Final(Name),
    /// Nowhere yet: a directory that is filled before it is attached.
    Detached,
    /// Nowhere yet: a file that is filled before it is linked. The session keeps it alive until then.
    Unnamed,
    /// Into a directory that is itself a copy under way.
    Within(Name),
}

/// Copies one node; a directory without its entries.
#[derive(Debug)]
pub(crate) struct CloneNode {
    pub(crate) scope: Scope,
    pub(crate) source: Ino,
    /// A number that was never used.
    pub(crate) ino: Ino,
    /// The directory that the copy is, or is to be, in.
    pub(crate) dir: Ino,
    pub(crate) place: Place,
    pub(crate) how: Cloning,
}

/// What became of the copy of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cloned {
    /// It is there, with all that belongs to it.
    Done(Attr),
    /// It is there; the chunks before this one are still to be copied.
    Partly(Attr, ChunkIndex),
    /// Within a tree the source is gone, or its name was copied before.
    Gone,
    /// Nothing was done: everybody would see a file that is not complete.
    TooLarge,
}

impl Operation for CloneNode {
    type Reply = Cloned;
    const NAME: &'static str = "clone";

    fn keys(&self) -> Vec<Key> {
        let mut keys = vec![Key::Node(self.source), Key::Node(self.dir), Key::Xattrs(self.source)];
        if let Place::Final(name) | Place::Within(name) = &self.place {
            keys.push(Key::Edge(self.dir, name.clone()));
        }
        keys
    }

    fn decide(&self, read: &ReadSet) -> Decision<Cloned> {
        decision(self.judge(read))
    }
}

impl CloneNode {
    fn judge(&self, read: &ReadSet) -> Verdict<Cloned> {
        let within = matches!(self.place, Place::Within(_));
        let Some(source) = read.node(self.source) else {
            return if within { Ok((Cloned::Gone, Effects::none())) } else { Err(Errno::ENOENT.into()) };
        };
        if self.source.is_trash() || source.parent.is_hourly_trash() {
            return Err(Errno::EPERM.into());
        }
        self.may_read(read, source)?;
        let mut effects = Effects::none();
        if !self.takes_place(read, source, &mut effects)? {
            return Ok((Cloned::Gone, Effects::none()));
        }
        let attr = self.copy_of(source);
        let rest = self.copy_parts(read, source, &mut effects)?;
        if rest.is_some() && matches!(self.place, Place::Final(_)) {
            return Ok((Cloned::TooLarge, Effects::none()));
        }
        effects.push(Effect::Node(self.ino, NodeEffect::Insert(attr.clone())));
        if attr.is_dir() {
            effects.push(Effect::Account(AccountEffect::PutDirStat(self.ino, DirStat::default())));
        }
        count_new(&mut effects, &attr);
        if !matches!(self.place, Place::Detached | Place::Unnamed) {
            count_entry(&self.scope, &mut effects, self.dir, entry_stat(Some(&attr)));
        }
        Ok((rest.map_or(Cloned::Done(attr.clone()), |rest| Cloned::Partly(attr, rest)), effects))
    }

    fn may_read(&self, read: &ReadSet, source: &Attr) -> Result<(), Halt> {
        if !may_make(&self.scope.caller, source.kind, source.rdev) {
            return Err(Errno::EPERM.into());
        }
        let mask = if source.is_dir() {
            R | X
        } else if source.is_file() {
            R
        } else {
            return Ok(());
        };
        permit(read, &self.scope.caller, source, mask)
    }

    /// The entry of the copy, and what its directory gains; false when the name is there already in a tree under way.
    fn takes_place(&self, read: &ReadSet, source: &Attr, effects: &mut Effects) -> Result<bool, Halt> {
        let edge = Edge { ino: self.ino, kind: source.kind };
        match &self.place {
            Place::Final(name) => {
                let dir = living_directory(read, self.dir)?;
                may_create(read, &self.scope.caller, dir)?;
                if read.edge(self.dir, name).is_some() {
                    return Err(Errno::EEXIST.into());
                }
                if source.is_dir() {
                    // It is filled before it shows: the caller saw another node here.
                    return Err(Errno::ENOENT.into());
                }
                effects.push(Effect::Edge(self.dir, name.clone(), EdgeEffect::Insert(edge)));
                touch_parent(&self.scope, effects, self.dir, dir, 0);
            }
            Place::Detached => {
                let dir = living_directory(read, self.dir)?;
                may_create(read, &self.scope.caller, dir)?;
                effects.narrowed.push((self.dir, NodeGuard::Permissions));
                effects.push(Effect::Node(self.ino, NodeEffect::PutDetached(self.scope.now.secs)));
            }
            Place::Unnamed => {
                let dir = living_directory(read, self.dir)?;
                may_create(read, &self.scope.caller, dir)?;
                effects.narrowed.push((self.dir, NodeGuard::Permissions));
                effects.push(Effect::Session(self.scope.sid, SessionEffect::Sustain(self.ino)));
            }
            Place::Within(name) => {
                read.node(self.dir).ok_or(Errno::ENOENT)?;
                if read.edge(self.dir, name).is_some() {
                    return Ok(false);
                }
                effects.narrowed.push((self.dir, NodeGuard::Exists));
                effects.push(Effect::Edge(self.dir, name.clone(), EdgeEffect::Insert(edge)));
                if source.is_dir() {
                    effects.push(Effect::Node(self.dir, NodeEffect::Patch(NodePatch::links(1, None))));
                }
            }
        }
        Ok(true)
    }

    /// What belongs to the node: target, extended attributes, and chunks, of which the ones before the returned one are left.
    fn copy_parts(&self, read: &ReadSet, source: &Attr, effects: &mut Effects) -> Result<Option<ChunkIndex>, Halt> {
        let is_root = self.scope.caller.uid == 0;
        let may_have = |name: &Name| is_root || !OF_ROOT.iter().any(|space| name.as_bytes().starts_with(space));
        for (name, value) in read.xattrs(self.source).iter().filter(|(name, _)| may_have(name)) {
            effects.push(Effect::Node(self.ino, NodeEffect::PutXattr(name.clone(), value.clone())));
        }
        if source.kind == juicefs_core::FileType::Symlink {
            need(read, [Key::Symlink(self.source)])?;
            effects.push(Effect::Node(
                self.ino,
                NodeEffect::PutSymlink(read.symlink(self.source).ok_or(Errno::EIO)?.clone()),
            ));
        }
        if !source.is_file() || source.length == 0 {
            return Ok(None);
        }
        let end = ChunkIndex::try_from(source.length.div_ceil(CHUNK_SIZE)).map_err(|_| Errno::EFBIG)?;
        copy_chunks(read, self.source, self.ino, end, effects)
    }

    fn copy_of(&self, source: &Attr) -> Attr {
        let Scope { caller, now, .. } = &self.scope;
        let mut attr = Attr {
            // A copy is a new node: nobody has protected it yet.
            flags: source.flags & !(flags::IMMUTABLE | flags::APPEND),
            nlink: if matches!(self.place, Place::Unnamed) {
                0
            } else if source.is_dir() {
                2
            } else {
                1
            },
            parent: self.dir,
            ..source.clone()
        };
        (attr.uid, attr.gid) = owner_of_copy(caller, source, self.how.preserve);
        if !self.how.preserve {
            if attr.access_acl == 0 {
                attr.mode &= !self.how.umask;
            }
            (attr.atime, attr.mtime, attr.ctime) = (*now, *now, *now);
        }
        if !attr.is_dir() {
            let lost =
                if attr.uid == source.uid { 0 } else { 0o4000 } | if attr.gid == source.gid { 0 } else { 0o2000 };
            attr.mode &= !lost;
        }
        if matches!(self.place, Place::Detached) {
            // By its age tools tell a directory that is being filled from one that was lost.
            attr.ctime = *now;
        }
        attr
    }
}

/// Copies the last chunks before `end` that have a list, as many as one operation may, with one more reference of a slice for
/// each record. Returns the first of them when there may be others before it.
fn copy_chunks(
    read: &ReadSet,
    source: Ino,
    copy: Ino,
    end: ChunkIndex,
    effects: &mut Effects,
) -> Result<Option<ChunkIndex>, Halt> {
    need(read, [Key::ChunkIndexes(source, 0, end)])?;
    let all = read.chunk_indexes(source, 0, end);
    let indexes = &all[all.len().saturating_sub(COPIED_AT_ONCE)..];
    need(read, indexes.iter().map(|index| Key::Chunk(source, *index)))?;
    let lists = || indexes.iter().map(|index| (*index, read.chunk(source, *index)));
    let mut references: BTreeMap<SliceKey, i64> = BTreeMap::new();
    for slice in lists().flat_map(|(_, list)| list).filter_map(SliceRecord::key) {
        *references.entry(slice).or_default() += 1;
    }
    effects
        .list
        .extend(references.into_iter().map(|(slice, records)| Effect::Slice(SliceEffect::AddRef(slice, records))));
    let filled = lists().filter(|(_, list)| !list.is_empty());
    effects.list.extend(filled.map(|(index, list)| Effect::Chunk(copy, index, ChunkEffect::Put(list.to_vec()))));
    Ok(indexes.first().copied().filter(|_| all.len() > indexes.len()))
}

/// Copies more of the chunks of a file into a copy of it that nobody sees yet. What is written to the source meanwhile is
/// in the copy or not, chunk by chunk, as with a program that reads it.
#[derive(Debug)]
pub(crate) struct CopyChunks {
    pub(crate) source: Ino,
    pub(crate) ino: Ino,
    /// The chunks from this one on are copied.
    pub(crate) end: ChunkIndex,
}

impl Operation for CopyChunks {
    /// Where what is still left ends; `None` when nothing is.
    type Reply = Option<ChunkIndex>;
    const NAME: &'static str = "copy_chunks";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.source), Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Self::Reply> {
        decision(self.judge(read))
    }
}

impl CopyChunks {
    fn judge(&self, read: &ReadSet) -> Verdict<Option<ChunkIndex>> {
        let mut effects = Effects::none();
        for ino in [self.source, self.ino] {
            read.node(ino).ok_or(Errno::ENOENT)?;
            effects.narrowed.push((ino, NodeGuard::Exists));
        }
        let rest = copy_chunks(read, self.source, self.ino, self.end, &mut effects)?;
        Ok((rest, effects))
    }
}

/// As with `cp -p`: only root gives files away.
fn owner_of_copy(caller: &Caller, source: &Attr, preserve: bool) -> (u32, u32) {
    if !preserve {
        return (caller.uid, caller.gid);
    }
    let trusted = caller.uid == 0;
    let uid = if trusted { source.uid } else { caller.uid };
    let gid = if trusted || uid == source.uid && caller.in_group(source.gid) { source.gid } else { caller.gid };
    (uid, gid)
}

/// Gives a directory that was made without a name the name that it is for.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) dir: Ino,
    pub(crate) name: Name,
}

impl Operation for Attach {
    type Reply = ();
    const NAME: &'static str = "attach";

    fn keys(&self) -> Vec<Key> {
        vec![
            Key::Node(self.dir),
            Key::Edge(self.dir, self.name.clone()),
            Key::Node(self.ino),
            Key::Note(NoteKey::Detached(self.ino)),
        ]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        decision(self.judge(read))
    }
}

impl Attach {
    fn judge(&self, read: &ReadSet) -> Verdict<()> {
        let dir = living_directory(read, self.dir)?;
        may_create(read, &self.scope.caller, dir)?;
        if read.edge(self.dir, &self.name).is_some() {
            return Err(Errno::EEXIST.into());
        }
        let attr = read.node(self.ino).filter(|_| read.detached(self.ino)).ok_or(Errno::ENOENT)?;
        let mut effects = Effects::none();
        effects.push(Effect::Edge(
            self.dir,
            self.name.clone(),
            EdgeEffect::Insert(Edge { ino: self.ino, kind: attr.kind }),
        ));
        effects.push(Effect::Node(self.ino, NodeEffect::DeleteDetached));
        touch_parent(&self.scope, &mut effects, self.dir, dir, 1);
        count_entry(&self.scope, &mut effects, self.dir, entry_stat(Some(attr)));
        Ok(((), effects))
    }
}

/// Removes a directory that never got its name, once it is empty.
#[derive(Debug)]
pub(crate) struct RemoveDetached {
    pub(crate) ino: Ino,
}

impl Operation for RemoveDetached {
    type Reply = ();
    const NAME: &'static str = "remove_detached";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Note(NoteKey::Detached(self.ino)), Key::Node(self.ino), Key::HasEntries(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        decision(self.judge(read))
    }
}

impl RemoveDetached {
    fn judge(&self, read: &ReadSet) -> Verdict<()> {
        let mut effects = Effects::none();
        if !read.detached(self.ino) {
            return Ok(((), effects));
        }
        if read.has_entries(self.ino) {
            return Err(Errno::ENOTEMPTY.into());
        }
        effects.push(Effect::Node(self.ino, NodeEffect::DeleteDetached));
        if let Some(attr) = read.node(self.ino) {
            effects.push(Effect::Node(self.ino, NodeEffect::Delete));
            effects.push(Effect::Node(self.ino, NodeEffect::DeleteXattrs));
            effects.push(Effect::Account(AccountEffect::DeleteDirStat(self.ino)));
            count_gone(&mut effects, attr);
        }
        Ok(((), effects))
    }
}
