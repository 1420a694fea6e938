//! Freeing a file without names once nobody has it open (format: metadata.md §6.3).

use juicefs_core::{
    ids::{Ino, SessionId},
    meta::Freed,
};

use super::{Scope, Verdict, decision, remove::free_node};
use crate::{
    opens::Hold,
    record::Key,
    txn::{Decision, Effect, Effects, Operation, ReadSet},
};

/// The session lets go of an inode. A file that got a name again meanwhile only loses the mark.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) scope: Scope,
    /// Whose mark it is: this client's or that of a session that is cleaned up.
    pub(crate) sid: SessionId,
    pub(crate) ino: Ino,
    /// Keeps the file from being opened here meanwhile.
    #[expect(dead_code, reason = "it is held, not looked at")]
    pub(crate) hold: Option<Hold>,
}

impl Operation for Release {
    type Reply = Option<Freed>;
    const NAME: &'static str = "release";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Sustained(self.sid, self.ino), Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Option<Freed>> {
        decision(self.judge(read))
    }
}

impl Release {
    fn judge(&self, read: &ReadSet) -> Verdict<Option<Freed>> {
        let mut effects = Effects::none();
        if !read.sustained(self.sid, self.ino) {
            return Ok((None, effects));
        }
        effects.push(Effect::DeleteSustained(self.sid, self.ino));
        let Some(attr) = read.node(self.ino).filter(|attr| attr.nlink == 0) else { return Ok((None, effects)) };
        let freed = free_node(read, &self.scope, self.ino, attr, &mut effects)?;
        effects.push(Effect::DeleteXattrs(self.ino));
        Ok((freed, effects))
    }
}
