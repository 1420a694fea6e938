//! Moving a name, replacing or swapping what is there (format: metadata.md §6.10).

use std::collections::BTreeSet;

use juicefs_core::{
    attr::{Attr, FileType, flags},
    errno::Errno,
    ids::{Ino, Name},
    meta::{Removed, RenameFlags, Renamed},
};

use super::{
    Halt, Scope, Verdict,
    access::{W, X, directory, may_create, may_remove, permit},
    account::{count_entry, count_new, entry_stat, negative, touch_parent},
    ascent::{Ascent, Step},
    decision, need,
    remove::{Loss, Removal, lose_directory, lose_file},
};
use crate::{
    record::{Edge, Key},
    txn::{Decision, EdgeEffect, Effect, Effects, Move, NodeEffect, NodeGuard, Operation, ReadSet},
};

/// Whether nothing that moves can be above this parent: it is the root, lies in the trash, or there is none.
fn is_top(parent: Ino) -> bool {
    parent == Ino::ROOT || parent == Ino(0) || parent.is_trash()
}

/// The directories above `dir`, which has these attributes. EINVAL when `moved` is among them or is `dir`: moved into
/// it, neither could be reached any more.
fn lineage(read: &ReadSet, moved: Ino, dir: Ino, attr: &Attr) -> Result<BTreeSet<Ino>, Halt> {
    let mut way = Ascent::default();
    let (mut at, mut parent) = (dir, attr.parent);
    loop {
        if at == moved {
            return Err(Errno::EINVAL.into());
        }
        if way.step(at) != Step::Up {
            break;
        }
        at = parent;
        if at == moved || is_top(at) {
            continue;
        }
        need(read, [Key::Node(at)])?;
        let Some(attr) = read.node(at) else { break };
        parent = attr.parent;
    }
    let mut above = way.into_passed();
    above.remove(&dir);
    Ok(above)
}

/// Moves `(from, name)` to `(to, new_name)`.
#[derive(Debug)]
pub(crate) struct Rename {
    pub(crate) scope: Scope,
    pub(crate) from: Ino,
    pub(crate) name: Name,
    pub(crate) to: Ino,
    pub(crate) new_name: Name,
    pub(crate) flags: RenameFlags,
    /// A number that was never used, for the whiteout that takes the old place.
    pub(crate) whiteout: Option<Ino>,
    pub(crate) removal: Removal,
}

/// What the names stand for.
#[derive(Debug)]
struct Found<'a> {
    from: &'a Attr,
    to: &'a Attr,
    source: Edge,
    node: &'a Attr,
    target: Option<(Edge, Option<&'a Attr>)>,
}

impl Operation for Rename {
    type Reply = Renamed;
    const NAME: &'static str = "rename";

    fn keys(&self) -> Vec<Key> {
        vec![
            Key::Node(self.from),
            Key::Node(self.to),
            Key::Edge(self.from, self.name.clone()),
            Key::Edge(self.to, self.new_name.clone()),
        ]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Renamed> {
        decision(self.judge(read))
    }
}

impl Rename {
    fn judge(&self, read: &ReadSet) -> Verdict<Renamed> {
        let found = self.find(read)?;
        let source = found.source;
        if found.target.is_some_and(|(target, _)| target.ino == source.ino) {
            let reply = Renamed { ino: source.ino, attr: found.node.clone(), replaced: Removed::default() };
            return Ok((reply, Effects::none()));
        }
        let mut above = BTreeSet::new();
        self.check(read, &found, &mut above)?;
        let (reply, mut effects) =
            if self.flags.exchange { self.exchange(&found)? } else { self.replace(read, &found)? };
        // The parents are guarded more strictly; a node that is replaced as a whole must not have changed at all.
        let target = found.target.map(|(target, _)| target.ino);
        above.retain(|ino| ![self.from, self.to, source.ino].contains(ino) && Some(*ino) != target);
        effects.narrowed.extend(above.into_iter().map(|ino| (ino, NodeGuard::Place)));
        Ok((reply, effects))
    }

    /// Looks both names up.
    fn find<'a>(&self, read: &'a ReadSet) -> Result<Found<'a>, Halt> {
        let caller = &self.scope.caller;
        let from = directory(read, self.from)?;
        permit(read, caller, from, X)?;
        let source = *read.edge(self.from, &self.name).ok_or(Errno::ENOENT)?;
        let to = directory(read, self.to)?;
        if to.parent.is_hourly_trash() && !self.flags.restore {
            return Err(Errno::ENOENT.into());
        }
        permit(read, caller, to, X)?;
        let target = read.edge(self.to, &self.new_name).copied();
        if self.flags.no_replace && target.is_some() {
            return Err(Errno::EEXIST.into());
        }
        if self.flags.exchange && target.is_none() {
            return Err(Errno::ENOENT.into());
        }
        let mut keys = vec![Key::Node(source.ino)];
        if let Some(target) = target {
            keys.push(Key::Node(target.ino));
            if target.kind == FileType::Directory {
                keys.push(Key::HasEntries(target.ino));
            }
        }
        // What is looked at first to see whether a directory moves below itself.
        let goes_into = |edge: Edge, dir: &Attr| {
            let moves = edge.kind == FileType::Directory && self.from != self.to && !is_top(dir.parent);
            moves.then_some(Key::Node(dir.parent))
        };
        keys.extend(goes_into(source, to));
        keys.extend(target.filter(|_| self.flags.exchange).and_then(|target| goes_into(target, from)));
        need(read, keys)?;
        let node = read.node(source.ino).ok_or(Errno::ENOENT)?;
        let target = target.map(|edge| (edge, read.node(edge.ino)));
        Ok(Found { from, to, source, node, target })
    }

    /// Who may, and whether one can take the place of the other. Notes the directories whose place was looked at.
    fn check(&self, read: &ReadSet, found: &Found<'_>, above: &mut BTreeSet<Ino>) -> Result<(), Halt> {
        let caller = &self.scope.caller;
        let source = found.source;
        let moves = self.from != self.to;
        // The kernel looks for that too, but it knows nothing of what other clients move at the same time.
        if moves && source.kind == FileType::Directory {
            above.extend(lineage(read, source.ino, self.to, found.to)?);
        }
        may_remove(read, caller, found.from, Some(found.node))?;
        let Some((target, attr)) = found.target else {
            may_create(read, caller, found.to)?;
            return self.may_move(read, moves, source, Some(found.node));
        };
        if self.flags.exchange && moves && target.kind == FileType::Directory {
            above.extend(lineage(read, target.ino, self.from, found.from)?);
        }
        may_remove(read, caller, found.to, attr)?;
        let (is_dir, over_dir) = (source.kind == FileType::Directory, target.kind == FileType::Directory);
        if !self.flags.exchange && is_dir != over_dir {
            return Err(if is_dir { Errno::ENOTDIR } else { Errno::EISDIR }.into());
        }
        self.may_move(read, moves, source, Some(found.node))?;
        if self.flags.exchange {
            return self.may_move(read, moves, target, attr);
        }
        if over_dir && read.has_entries(target.ino) {
            return Err(Errno::ENOTEMPTY.into());
        }
        Ok(())
    }

    /// A directory that moves to another parent changes inside: its `..`.
    fn may_move(&self, read: &ReadSet, moves: bool, edge: Edge, attr: Option<&Attr>) -> Result<(), Halt> {
        match attr {
            Some(attr) if moves && edge.kind == FileType::Directory => permit(read, &self.scope.caller, attr, W),
            _ => Ok(()),
        }
    }

    /// The node as it is once its name has moved.
    fn moved(&self, attr: &Attr, ino: Ino, from: Ino, to: Ino, effects: &mut Effects) -> Attr {
        let mut moved = attr.clone();
        moved.ctime = self.scope.now;
        if from != to {
            if attr.parent == Ino(0) {
                effects.push(Effect::Node(ino, NodeEffect::AddParent(to, 1)));
                effects.push(Effect::Node(ino, NodeEffect::AddParent(from, -1)));
            } else {
                moved.parent = to;
            }
            let stat = entry_stat(Some(attr));
            count_entry(&self.scope, effects, from, negative(stat));
            count_entry(&self.scope, effects, to, stat);
            if attr.is_dir() {
                effects.moved.push(Move { ino, from, to });
            }
        }
        effects.push(Effect::Node(ino, NodeEffect::Update(moved.clone())));
        moved
    }

    /// Both directories, in ascending order so that engines which lock rows never lock them crosswise.
    fn touch_parents(&self, found: &Found<'_>, from_nlink: i32, to_nlink: i32, effects: &mut Effects) {
        if self.from == self.to {
            touch_parent(&self.scope, effects, self.to, found.to, from_nlink + to_nlink);
            return;
        }
        let mut parents = [(self.from, found.from, from_nlink), (self.to, found.to, to_nlink)];
        parents.sort_by_key(|(ino, ..)| *ino);
        for (ino, attr, nlink) in parents {
            touch_parent(&self.scope, effects, ino, attr, nlink);
        }
    }

    fn replace(&self, read: &ReadSet, found: &Found<'_>) -> Verdict<Renamed> {
        let source = found.source;
        let mut effects = Effects::none();
        match self.whiteout {
            Some(ino) => self.leave_whiteout(ino, found.from, &mut effects),
            None => effects.push(Effect::Edge(self.from, self.name.clone(), EdgeEffect::Delete)),
        }
        let mut replaced = Removed::default();
        let mut to_nlink = 0;
        if let Some((edge, attr)) = found.target {
            let loss = Loss { parent: self.to, name: &self.new_name, edge, attr };
            replaced = if edge.kind == FileType::Directory {
                to_nlink -= 1;
                lose_directory(&self.scope, &self.removal, &loss, &mut effects)
            } else {
                lose_file(read, &self.scope, &self.removal, &loss, &mut effects)?
            };
            effects.push(Effect::Edge(self.to, self.new_name.clone(), EdgeEffect::Update(source)));
        } else {
            effects.push(Effect::Edge(self.to, self.new_name.clone(), EdgeEffect::Insert(source)));
        }
        let attr = self.moved(found.node, source.ino, self.from, self.to, &mut effects);
        let crosses = i32::from(source.kind == FileType::Directory && self.from != self.to);
        self.touch_parents(found, -crosses, to_nlink + crosses, &mut effects);
        Ok((Renamed { ino: source.ino, attr, replaced }, effects))
    }

    /// The old name stays, of a node by which union file systems know that nothing is there: the character device 0:0.
    fn leave_whiteout(&self, ino: Ino, from: &Attr, effects: &mut Effects) {
        let (caller, now) = (&self.scope.caller, self.scope.now);
        let attr = Attr {
            kind: FileType::CharDevice,
            uid: caller.uid,
            gid: if from.mode & 0o2000 != 0 { from.gid } else { caller.gid },
            atime: now,
            mtime: now,
            ctime: now,
            nlink: 1,
            parent: self.from,
            tier: from.tier,
            flags: from.flags & flags::SKIP_TRASH,
            ..Attr::default()
        };
        effects.push(Effect::Edge(self.from, self.name.clone(), EdgeEffect::Update(Edge { ino, kind: attr.kind })));
        effects.push(Effect::Node(ino, NodeEffect::Insert(attr.clone())));
        count_new(effects, &attr);
        count_entry(&self.scope, effects, self.from, entry_stat(Some(&attr)));
    }

    fn exchange(&self, found: &Found<'_>) -> Verdict<Renamed> {
        let source = found.source;
        let (target, target_attr) = found.target.ok_or(Errno::ENOENT)?;
        let target_attr = target_attr.ok_or(Errno::ENOENT)?;
        let mut effects = Effects::none();
        effects.push(Effect::Edge(self.from, self.name.clone(), EdgeEffect::Update(target)));
        effects.push(Effect::Edge(self.to, self.new_name.clone(), EdgeEffect::Update(source)));
        let attr = self.moved(found.node, source.ino, self.from, self.to, &mut effects);
        self.moved(target_attr, target.ino, self.to, self.from, &mut effects);
        let crosses = |edge: Edge| i32::from(edge.kind == FileType::Directory && self.from != self.to);
        let to_nlink = crosses(source) - crosses(target);
        self.touch_parents(found, -to_nlink, to_nlink, &mut effects);
        Ok((Renamed { ino: source.ino, attr, replaced: Removed::default() }, effects))
    }
}
