//! Freeing files without names once nobody has them open (format: metadata.md §6.3).

use juicefs_core::{
    ids::{Ino, SessionId},
    meta::Freed,
};

use super::{Scope, Verdict, decision, need, remove::free_node, session::was_renewed};
use crate::{
    opens::Hold,
    record::{HolderKey, Key},
    txn::{Decision, Effect, Effects, NodeEffect, Operation, ReadSet, SessionEffect, SliceEffect},
};

/// The session lets go of an inode. A file that got a name again meanwhile only loses the mark.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) scope: Scope,
    /// Whose mark it is.
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
        vec![Key::Holder(HolderKey::Sustained(self.sid, self.ino)), Key::Node(self.ino)]
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
        effects.push(Effect::Session(self.sid, SessionEffect::Release(self.ino)));
        let Some(attr) = read.node(self.ino).filter(|attr| attr.nlink == 0) else { return Ok((None, effects)) };
        let freed = free_node(read, &self.scope, self.ino, attr, &mut effects)?;
        effects.push(Effect::Node(self.ino, NodeEffect::DeleteXattrs));
        Ok((freed, effects))
    }
}

/// A session that is being ended lets go of some of the inodes that it keeps alive, all in one step. `None`, and nothing
/// changes, when the session was renewed meanwhile.
#[derive(Debug)]
pub(crate) struct ReleaseSome {
    pub(crate) scope: Scope,
    pub(crate) sid: SessionId,
    pub(crate) inos: Vec<Ino>,
    /// As [`super::session::EndSession::still`].
    pub(crate) still: Option<i64>,
}

impl Operation for ReleaseSome {
    type Reply = Option<Vec<Freed>>;
    const NAME: &'static str = "release_some";

    fn keys(&self) -> Vec<Key> {
        let each =
            self.inos.iter().flat_map(|ino| [Key::Holder(HolderKey::Sustained(self.sid, *ino)), Key::Node(*ino)]);
        [Key::Holder(HolderKey::Session(self.sid))].into_iter().chain(each).collect()
    }

    fn decide(&self, read: &ReadSet) -> Decision<Option<Vec<Freed>>> {
        decision(self.judge(read))
    }
}

impl ReleaseSome {
    fn judge(&self, read: &ReadSet) -> Verdict<Option<Vec<Freed>>> {
        let mut effects = Effects::none();
        if was_renewed(read, self.sid, self.still) {
            return Ok((None, effects));
        }
        let kept: Vec<_> = self.inos.iter().copied().filter(|ino| read.sustained(self.sid, *ino)).collect();
        let gone = || kept.iter().filter_map(|ino| read.node(*ino).filter(|attr| attr.nlink == 0).map(|a| (*ino, a)));
        // All at once: each question that comes up while judging costs a trip.
        let may_be_empty = gone().filter(|(_, attr)| attr.is_file() && attr.length == 0);
        need(read, may_be_empty.map(|(ino, _)| Key::Chunk(ino, 0)))?;
        effects.list.extend(kept.iter().map(|ino| Effect::Session(self.sid, SessionEffect::Release(*ino))));
        let mut freed = Vec::new();
        for (ino, attr) in gone() {
            freed.extend(free_node(read, &self.scope, ino, attr, &mut effects)?);
            effects.push(Effect::Node(ino, NodeEffect::DeleteXattrs));
        }
        // Alike beside alike: what an engine is told stays short.
        effects.list.sort_by_key(|effect| match effect {
            Effect::Session(_, SessionEffect::Release(_)) => 0,
            Effect::Slice(SliceEffect::PutDelFile(..)) => 1,
            Effect::Node(_, NodeEffect::DeleteSymlink) => 2,
            Effect::Node(_, NodeEffect::Delete) => 3,
            _ => 4,
        });
        Ok((Some(freed), effects))
    }
}
