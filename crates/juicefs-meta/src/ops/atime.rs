//! Access times (format: metadata.md §6.13).

use juicefs_core::{Timestamp, attr::Attr, ids::Ino};

use super::{Verdict, decision};
use crate::{
    client::AtimeMode,
    record::Key,
    txn::{Decision, Effect, Effects, NodeEffect, Operation, ReadSet},
};

const DAY_NANOS: i128 = 24 * 3600 * 1_000_000_000;
const SECOND_NANOS: i128 = 1_000_000_000;

/// Whether reading a node at `now` moves its access time.
pub(crate) fn is_due(mode: AtimeMode, attr: &Attr, now: Timestamp) -> bool {
    let age = now.as_nanos() - attr.atime.as_nanos();
    let relative = attr.mtime > attr.atime || attr.ctime > attr.atime || age > DAY_NANOS;
    match mode {
        AtimeMode::NoAtime => false,
        AtimeMode::RelAtime => relative,
        AtimeMode::StrictAtime => relative || age > SECOND_NANOS,
    }
}

/// Moves the access time of a node that was read, if it is still due and still there.
#[derive(Debug)]
pub(crate) struct TouchAtime {
    pub(crate) ino: Ino,
    pub(crate) mode: AtimeMode,
    pub(crate) now: Timestamp,
}

impl Operation for TouchAtime {
    type Reply = Option<Attr>;
    const NAME: &'static str = "touch_atime";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Option<Attr>> {
        decision(self.judge(read))
    }
}

impl TouchAtime {
    fn judge(&self, read: &ReadSet) -> Verdict<Option<Attr>> {
        let mut effects = Effects::none();
        let Some(attr) = read.node(self.ino).filter(|attr| is_due(self.mode, attr, self.now)) else {
            return Ok((None, effects));
        };
        let next = Attr { atime: self.now, ..attr.clone() };
        effects.push(Effect::Node(self.ino, NodeEffect::Update(next.clone())));
        Ok((Some(next), effects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_differ_in_what_is_due() {
        let at = Timestamp::from_secs;
        let attr = |atime, mtime| Attr { atime: at(atime), mtime: at(mtime), ctime: at(mtime), ..Attr::default() };
        let due = |mode, attr: &Attr, now| is_due(mode, attr, at(now));
        assert!(!due(AtimeMode::NoAtime, &attr(0, 50), 1_000_000));
        assert!(due(AtimeMode::RelAtime, &attr(10, 50), 51));
        assert!(!due(AtimeMode::RelAtime, &attr(50, 50), 60), "equal is not older");
        assert!(!due(AtimeMode::RelAtime, &attr(50, 50), 50 + 86_400));
        assert!(due(AtimeMode::RelAtime, &attr(50, 50), 51 + 86_400));
        assert!(due(AtimeMode::StrictAtime, &attr(50, 50), 52));
        assert!(!due(AtimeMode::StrictAtime, &attr(50, 50), 51));
    }
}
