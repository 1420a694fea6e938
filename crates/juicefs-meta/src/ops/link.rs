//! One more name for a file (format: metadata.md §6.11).

use juicefs_core::{
    Caller,
    attr::{Attr, flags},
    errno::Errno,
    ids::{Ino, Name},
};

use super::{
    Halt, Scope, Verdict,
    access::{R, W, X, living_directory, may_create, permit},
    account::{count_entry, entry_stat, touch_parent},
    decision, need,
    setattr::is_owner,
};
use crate::{
    record::{Edge, HolderKey, Key},
    txn::{Decision, EdgeEffect, Effect, Effects, NodeEffect, Operation, ReadSet, SessionEffect},
};

/// Most names of one file: the signed 32-bit columns of SQL stores hold no more.
const MAX_LINKS: u32 = i32::MAX as u32;

/// Names `ino` also `name` in `parent`.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) parent: Ino,
    pub(crate) name: Name,
}

/// Whether the caller may give the node one more name. Who is not the owner needs the right to read and write a file, and may
/// not keep set-id programs, as Linux has it (`fs.protected_hardlinks`). EPERM.
fn may_link(read: &ReadSet, caller: &Caller, node: &Attr) -> Result<(), Halt> {
    if is_owner(caller, node) {
        return Ok(());
    }
    let keeps_rights = node.mode & 0o4000 != 0 || node.mode & 0o2010 == 0o2010;
    if !node.is_file() || keeps_rights {
        return Err(Errno::EPERM.into());
    }
    permit(read, caller, node, R | W).map_err(|halt| match halt {
        Halt::Fail(_) => Errno::EPERM.into(),
        more @ Halt::More(_) => more,
    })
}

impl Operation for Link {
    type Reply = Attr;
    const NAME: &'static str = "link";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino), Key::Node(self.parent), Key::Edge(self.parent, self.name.clone())]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Attr> {
        decision(self.judge(read))
    }
}

impl Link {
    fn judge(&self, read: &ReadSet) -> Verdict<Attr> {
        let caller = &self.scope.caller;
        let node = read.node(self.ino).ok_or(Errno::ENOENT)?;
        if node.is_dir() {
            return Err(Errno::EPERM.into());
        }
        let parent = living_directory(read, self.parent)?;
        permit(read, caller, parent, X)?;
        if read.edge(self.parent, &self.name).is_some() {
            return Err(Errno::EEXIST.into());
        }
        may_link(read, caller, node)?;
        may_create(read, caller, parent)?;
        if node.has_flag(flags::APPEND | flags::IMMUTABLE) {
            return Err(Errno::EPERM.into());
        }
        if node.nlink >= MAX_LINKS {
            return Err(Errno::EMLINK.into());
        }
        let mut effects = Effects::none();
        effects.push(Effect::Edge(
            self.parent,
            self.name.clone(),
            EdgeEffect::Insert(Edge { ino: self.ino, kind: node.kind }),
        ));
        let linked =
            if node.nlink == 0 { self.revive(read, node, &mut effects)? } else { self.add_name(node, &mut effects) };
        effects.push(Effect::Node(self.ino, NodeEffect::Update(linked.clone())));
        touch_parent(&self.scope, &mut effects, self.parent, parent, 0);
        count_entry(&self.scope, &mut effects, self.parent, entry_stat(Some(node)));
        Ok((linked, effects))
    }

    fn add_name(&self, node: &Attr, effects: &mut Effects) -> Attr {
        if node.parent != Ino(0) {
            effects.push(Effect::Node(self.ino, NodeEffect::AddParent(node.parent, 1)));
        }
        effects.push(Effect::Node(self.ino, NodeEffect::AddParent(self.parent, 1)));
        Attr { nlink: node.nlink + 1, parent: Ino(0), ctime: self.scope.now, ..node.clone() }
    }

    /// A file without names that this session keeps alive (`O_TMPFILE` and linkat) gets one again: it is an ordinary file
    /// then, and its last close must not free it.
    fn revive(&self, read: &ReadSet, node: &Attr, effects: &mut Effects) -> Result<Attr, Halt> {
        need(read, [Key::Holder(HolderKey::Sustained(self.scope.sid, self.ino))])?;
        if !read.sustained(self.scope.sid, self.ino) {
            return Err(Errno::ENOENT.into());
        }
        effects.push(Effect::Session(self.scope.sid, SessionEffect::Release(self.ino)));
        Ok(Attr { nlink: 1, parent: self.parent, ctime: self.scope.now, ..node.clone() })
    }
}
