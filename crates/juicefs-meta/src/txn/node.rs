//! Changes of a node that do not depend on what else changes about it, and what must not change meanwhile.

use juicefs_core::attr::{Attr, Timestamp};

/// A change of a node that does not depend on what else changed about it: a hot directory does not conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodePatch {
    /// Added to nlink.
    pub nlink: i32,
    /// New mtime and ctime; never moves them back.
    pub touched: Option<Timestamp>,
    /// Content was written.
    pub wrote: Option<Wrote>,
}

/// What writing its content changes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrote {
    /// When the application wrote: the new mtime, also when the present one is later.
    pub mtime: Timestamp,
    /// The new ctime. It moves on in any case, if only by a nanosecond: whoever has read the node notices by it that chunks
    /// may have come.
    pub ctime: Timestamp,
    /// Length that the file has at least.
    pub end: u64,
}

impl NodePatch {
    /// A patch of times and links alone.
    #[must_use]
    pub fn links(nlink: i32, touched: Option<Timestamp>) -> Self {
        Self { nlink, touched, wrote: None }
    }

    /// Changes attributes as the patch says. This is what a patch means: an engine that does it elsewhere (a script, a
    /// statement) is compared with it, damaged records included.
    pub fn apply(&self, attr: &mut Attr) {
        attr.nlink = attr.nlink.saturating_add_signed(self.nlink);
        if let Some(time) = self.touched {
            attr.mtime = attr.mtime.max(time);
            attr.ctime = attr.ctime.max(time);
        }
        if let Some(Wrote { mtime, ctime, end }) = self.wrote {
            attr.mtime = mtime;
            attr.ctime = ctime.max(just_after(attr.ctime));
            attr.length = attr.length.max(end);
        }
    }
}

/// The next time that can be told from this one.
fn just_after(Timestamp { secs, nanos }: Timestamp) -> Timestamp {
    const LAST_NANO: u32 = 999_999_999;
    if nanos < LAST_NANO {
        Timestamp { secs, nanos: nanos + 1 }
    } else {
        Timestamp { secs: secs.saturating_add(1), nanos: 0 }
    }
}

/// What must hold of a fetched node for the decision to stand, when less than "unchanged" is enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeGuard {
    /// Type, mode, owner, flags, parent and ACL ids are unchanged: all that permission checks look at. Times and nlink may
    /// have moved.
    Permissions,
    /// The node exists with the same type and parent: where a directory lies in the tree.
    Place,
    /// The node exists with the same type.
    Exists,
    /// Everything but the times is unchanged.
    ButTimes,
    /// The same, but the file may have become longer: what was written within it still is within it.
    ButGrowth,
}

impl NodeGuard {
    /// Whether all is the same but the times, taking `length` for the present one.
    fn same(was: &Attr, is: &Attr, length: u64) -> bool {
        let Attr { atime, mtime, ctime, .. } = *was;
        *was == Attr { atime, mtime, ctime, length, ..is.clone() }
    }

    /// Whether a node that is `is` now still supports what was decided on `was`.
    #[must_use]
    pub fn holds(self, was: &Attr, is: &Attr) -> bool {
        match self {
            Self::Exists => was.kind == is.kind,
            Self::ButTimes => Self::same(was, is, is.length),
            Self::ButGrowth => was.length <= is.length && Self::same(was, is, was.length),
            Self::Place => (was.kind, was.parent) == (is.kind, is.parent),
            Self::Permissions => {
                let seen =
                    |a: &Attr| (a.kind, a.mode, a.uid, a.gid, a.flags, a.parent, a.access_acl, a.default_acl, a.tier);
                seen(was) == seen(is)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64, nanos: u32) -> Timestamp {
        Timestamp { secs, nanos }
    }

    #[test]
    fn a_write_always_moves_ctime_on_and_never_makes_a_file_shorter() {
        let mut attr = Attr { length: 100, mtime: at(50, 0), ctime: at(9, 999_999_999), nlink: 1, ..Attr::default() };
        let wrote = |secs, end| NodePatch {
            wrote: Some(Wrote { mtime: at(1, 0), ctime: at(secs, 0), end }),
            ..NodePatch::default()
        };
        wrote(5, 40).apply(&mut attr);
        assert_eq!((attr.length, attr.mtime, attr.ctime), (100, at(1, 0), at(10, 0)));
        wrote(10, 200).apply(&mut attr);
        assert_eq!((attr.length, attr.ctime), (200, at(10, 1)));
        wrote(11, 200).apply(&mut attr);
        assert_eq!(attr.ctime, at(11, 0));
    }

    #[test]
    fn guards_look_at_what_they_are_for() {
        let was = Attr { length: 100, uid: 1, nlink: 1, ..Attr::default() };
        let longer = Attr { length: 101, ..was.clone() };
        let given = Attr { uid: 2, ..was.clone() };
        let touched = Attr { mtime: at(5, 0), ..was.clone() };
        let holds = |guard: NodeGuard| [&longer, &given, &touched].map(|is| guard.holds(&was, is));
        assert_eq!(holds(NodeGuard::ButTimes), [false, false, true]);
        assert_eq!(holds(NodeGuard::ButGrowth), [true, false, true]);
        assert!(!NodeGuard::ButGrowth.holds(&longer, &was));
    }
}
