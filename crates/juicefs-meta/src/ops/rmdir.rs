//! Removing an empty directory (format: metadata.md §6.9).

use juicefs_core::{
    attr::FileType,
    errno::Errno,
    ids::{Ino, Name},
    meta::Removed,
};

use super::{
    Scope, Verdict,
    access::{X, directory, may_remove, permit},
    account::touch_parent,
    decision, need,
    remove::{Loss, Removal, lose_directory},
};
use crate::{
    record::Key,
    txn::{Decision, EdgeEffect, Effect, Effects, Operation, ReadSet},
};

/// Removes the directory `name` from `parent`.
#[derive(Debug)]
pub(crate) struct Rmdir {
    pub(crate) scope: Scope,
    pub(crate) parent: Ino,
    pub(crate) name: Name,
    pub(crate) removal: Removal,
}

impl Operation for Rmdir {
    type Reply = Removed;
    const NAME: &'static str = "rmdir";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.parent), Key::Edge(self.parent, self.name.clone())]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Removed> {
        decision(self.judge(read))
    }
}

impl Rmdir {
    fn judge(&self, read: &ReadSet) -> Verdict<Removed> {
        let caller = &self.scope.caller;
        let parent = directory(read, self.parent)?;
        permit(read, caller, parent, X)?;
        let edge = *read.edge(self.parent, &self.name).ok_or(Errno::ENOENT)?;
        need(read, [Key::Node(edge.ino), Key::HasEntries(edge.ino)])?;
        let attr = read.node(edge.ino);
        may_remove(read, caller, parent, attr)?;
        if edge.kind != FileType::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        if read.has_entries(edge.ino) {
            return Err(Errno::ENOTEMPTY.into());
        }
        let mut effects = Effects::none();
        effects.push(Effect::Edge(self.parent, self.name.clone(), EdgeEffect::Delete));
        let loss = Loss { parent: self.parent, name: &self.name, edge, attr };
        let removed = lose_directory(&self.scope, &self.removal, &loss, &mut effects);
        touch_parent(&self.scope, &mut effects, self.parent, parent, -1);
        Ok((removed, effects))
    }
}
