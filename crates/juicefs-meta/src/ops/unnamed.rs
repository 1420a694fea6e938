//! A file that never had a name: `open(O_TMPFILE)`.

use std::sync::Arc;

use juicefs_core::{attr::Attr, ids::Ino, meta::NewNode};

use super::{
    Scope, Verdict,
    access::{living_directory, may_create},
    account::count_new,
    acl::RuleIndex,
    decision,
    mknod::new_attr,
};
use crate::{
    record::Key,
    txn::{Decision, Effect, Effects, NodeEffect, NodeGuard, Operation, ReadSet, SessionEffect},
};

/// Makes a regular file as `ino` that the session keeps alive, as it does with an open file that lost its last name. It
/// inherits from `dir`, where its name would be.
#[derive(Debug)]
pub(crate) struct MakeUnnamed {
    pub(crate) scope: Scope,
    pub(crate) dir: Ino,
    /// A number that was never used.
    pub(crate) ino: Ino,
    pub(crate) node: NewNode,
    pub(crate) rules: Arc<RuleIndex>,
}

impl Operation for MakeUnnamed {
    type Reply = Attr;
    const NAME: &'static str = "tmpfile";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.dir)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Attr> {
        decision(self.judge(read))
    }
}

impl MakeUnnamed {
    fn judge(&self, read: &ReadSet) -> Verdict<Attr> {
        let dir = living_directory(read, self.dir)?;
        may_create(read, &self.scope.caller, dir)?;
        let mut effects = Effects::none();
        let attr = new_attr(read, &self.scope, &self.node, (self.dir, dir), &self.rules, &mut effects)?;
        let attr = Attr { nlink: 0, ..attr };
        effects.push(Effect::Node(self.ino, NodeEffect::Insert(attr.clone())));
        effects.push(Effect::Session(self.scope.sid, SessionEffect::Sustain(self.ino)));
        effects.narrowed.push((self.dir, NodeGuard::Permissions));
        count_new(&mut effects, &attr);
        Ok((attr, effects))
    }
}
