//! Making a node: mknod, mkdir, symlink and create (format: metadata.md §6.7).

use std::sync::Arc;

use juicefs_core::{
    Caller,
    attr::{Attr, FileType, flags},
    errno::Errno,
    ids::{Ino, Name},
    limits::MAX_SYMLINK_BYTES,
    meta::NewNode,
};

use super::{
    Halt, Scope, Verdict,
    access::{X, living_directory, may_create, permit},
    account::{count_entry, count_new, entry_stat, touch_parent},
    acl::{RuleIndex, inherit, rule_id},
    decision, need,
    setattr::is_trusted,
};
use crate::{
    record::{DirStat, Edge, Key},
    txn::{AccountEffect, Decision, EdgeEffect, Effect, Effects, NodeEffect, Operation, ReadSet},
};

/// Makes `node` as `ino` under `name`.
#[derive(Debug)]
pub(crate) struct Mknod {
    pub(crate) scope: Scope,
    pub(crate) parent: Ino,
    pub(crate) name: Name,
    /// A number that was never used.
    pub(crate) ino: Ino,
    pub(crate) node: NewNode,
    /// A regular file that already has the name is the answer, instead of EEXIST.
    pub(crate) may_exist: bool,
    pub(crate) rules: Arc<RuleIndex>,
}

/// The node of that name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) ino: Ino,
    pub(crate) attr: Attr,
    /// It was there before.
    pub(crate) existed: bool,
}

/// Whether a symlink can point to this. EINVAL, ENAMETOOLONG.
pub(crate) fn symlink_target(target: &[u8]) -> Result<(), Errno> {
    if target.is_empty() || target.contains(&0) {
        Err(Errno::EINVAL)
    } else if target.len() >= MAX_SYMLINK_BYTES {
        Err(Errno::ENAMETOOLONG)
    } else {
        Ok(())
    }
}

/// Whether the caller may make a node of this kind: devices are for root, but the one that marks a removed name in
/// overlays is none.
pub(super) fn may_make(caller: &Caller, kind: FileType, rdev: u32) -> bool {
    match kind {
        FileType::BlockDevice => is_trusted(caller),
        FileType::CharDevice => is_trusted(caller) || rdev == 0,
        FileType::File | FileType::Directory | FileType::Symlink | FileType::Fifo | FileType::Socket => true,
    }
}

impl Operation for Mknod {
    type Reply = Made;
    const NAME: &'static str = "mknod";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.parent), Key::Edge(self.parent, self.name.clone())]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Made> {
        decision(self.judge(read))
    }
}

impl Mknod {
    fn judge(&self, read: &ReadSet) -> Verdict<Made> {
        let caller = &self.scope.caller;
        let parent = living_directory(read, self.parent)?;
        let existing = read.edge(self.parent, &self.name);
        if let Some(edge) = existing
            && self.may_exist
        {
            permit(read, caller, parent, X)?;
            return self.existing(read, *edge);
        }
        may_create(read, caller, parent)?;
        if existing.is_some() {
            return Err(Errno::EEXIST.into());
        }
        if !may_make(caller, self.node.kind, self.node.rdev) {
            return Err(Errno::EPERM.into());
        }
        let mut effects = Effects::none();
        let attr = new_attr(read, &self.scope, &self.node, (self.parent, parent), &self.rules, &mut effects)?;
        effects.push(Effect::Edge(
            self.parent,
            self.name.clone(),
            EdgeEffect::Insert(Edge { ino: self.ino, kind: attr.kind }),
        ));
        effects.push(Effect::Node(self.ino, NodeEffect::Insert(attr.clone())));
        match attr.kind {
            FileType::Symlink => effects.push(Effect::Node(self.ino, NodeEffect::PutSymlink(self.node.target.clone()))),
            FileType::Directory => {
                effects.push(Effect::Account(AccountEffect::PutDirStat(self.ino, DirStat::default())))
            }
            _ => {}
        }
        touch_parent(&self.scope, &mut effects, self.parent, parent, i32::from(attr.is_dir()));
        count_new(&mut effects, &attr);
        count_entry(&self.scope, &mut effects, self.parent, entry_stat(Some(&attr)));
        Ok((Made { ino: self.ino, attr, existed: false }, effects))
    }

    /// The answer when the name is taken and that is no fault.
    fn existing(&self, read: &ReadSet, edge: Edge) -> Verdict<Made> {
        if edge.kind != FileType::File {
            return Err(Errno::EEXIST.into());
        }
        need(read, [Key::Node(edge.ino)])?;
        let attr = read.node(edge.ino).ok_or(Errno::EIO)?.clone();
        Ok((Made { ino: edge.ino, attr, existed: true }, Effects::none()))
    }
}

/// What a node that is made in `dir` is, with what it inherits. An ACL rule of its own is among the effects.
pub(super) fn new_attr(
    read: &ReadSet,
    scope: &Scope,
    node: &NewNode,
    (dir, parent): (Ino, &Attr),
    rules: &RuleIndex,
    effects: &mut Effects,
) -> Result<Attr, Halt> {
    let (caller, now) = (&scope.caller, scope.now);
    let is_dir = node.kind == FileType::Directory;
    let mut attr = Attr {
        flags: parent.flags & flags::SKIP_TRASH,
        kind: node.kind,
        uid: caller.uid,
        gid: if parent.mode & 0o2000 != 0 { parent.gid } else { caller.gid },
        atime: now,
        mtime: now,
        ctime: now,
        nlink: if is_dir { 2 } else { 1 },
        parent: dir,
        tier: parent.tier,
        ..Attr::default()
    };
    match node.kind {
        FileType::Directory => attr.length = 4096,
        FileType::Symlink => attr.length = node.target.len() as u64,
        FileType::File => {}
        FileType::Fifo | FileType::BlockDevice | FileType::CharDevice | FileType::Socket => attr.rdev = node.rdev,
    }
    let requested = node.mode & 0o7777;
    if parent.default_acl == 0 || node.kind == FileType::Symlink {
        attr.mode = if node.kind == FileType::Symlink { 0o777 } else { requested & !node.umask };
    } else {
        need(read, [Key::Acl(parent.default_acl)])?;
        let (mode, rule) = inherit(read.acl(parent.default_acl).ok_or(Errno::EIO)?, requested);
        attr.mode = mode;
        if is_dir {
            attr.default_acl = parent.default_acl;
        }
        if let Some(rule) = rule {
            attr.access_acl = rule_id(read, rules, effects, &rule)?;
        }
    }
    attr.mode = inherit_set_gid(caller, parent, node.kind, attr.mode);
    Ok(attr)
}

/// Below a set-gid directory, directories become set-gid, and a set-gid executable of a stranger to the group does not.
fn inherit_set_gid(caller: &Caller, parent: &Attr, kind: FileType, mode: u16) -> u16 {
    if parent.mode & 0o2000 == 0 {
        mode
    } else if kind == FileType::Directory {
        mode | 0o2000
    } else if mode & 0o2010 == 0o2010 && caller.check_permission && caller.uid != 0 && !caller.in_group(parent.gid) {
        mode & !0o2000
    } else {
        mode
    }
}
