//! Removing the name of a non-directory (format: metadata.md §6.8).

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
    remove::{Loss, Removal, lose_file},
};
use crate::{
    record::Key,
    txn::{Decision, EdgeEffect, Effect, Effects, Operation, ReadSet},
};

/// Removes `name` from `parent`.
#[derive(Debug)]
pub(crate) struct Unlink {
    pub(crate) scope: Scope,
    pub(crate) parent: Ino,
    pub(crate) name: Name,
    pub(crate) removal: Removal,
}

impl Operation for Unlink {
    type Reply = Removed;
    const NAME: &'static str = "unlink";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.parent), Key::Edge(self.parent, self.name.clone())]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Removed> {
        decision(self.judge(read))
    }
}

impl Unlink {
    fn judge(&self, read: &ReadSet) -> Verdict<Removed> {
        let caller = &self.scope.caller;
        let parent = directory(read, self.parent)?;
        permit(read, caller, parent, X)?;
        let edge = *read.edge(self.parent, &self.name).ok_or(Errno::ENOENT)?;
        need(read, [Key::Node(edge.ino)])?;
        let attr = read.node(edge.ino);
        may_remove(read, caller, parent, attr)?;
        if edge.kind == FileType::Directory {
            return Err(Errno::EPERM.into());
        }
        let mut effects = Effects::none();
        effects.push(Effect::Edge(self.parent, self.name.clone(), EdgeEffect::Delete));
        let loss = Loss { parent: self.parent, name: &self.name, edge, attr };
        let removed = lose_file(read, &self.scope, &self.removal, &loss, &mut effects)?;
        touch_parent(&self.scope, &mut effects, self.parent, parent, 0);
        Ok((removed, effects))
    }
}
