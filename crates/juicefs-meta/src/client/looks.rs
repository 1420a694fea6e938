//! Attributes that the kernel forgot because of a change of our own, and asks for again.
//!
//! Making a file in a directory makes the kernel drop what it knows of the directory, so the next step of a path asks for
//! it: a round trip that tells nothing new. Within the time for which the kernel would have been allowed to keep what it
//! was given, the answer can be given from here: what was read then, with our own changes since. The answer carries its
//! age, so that nobody keeps it for longer than what was read may be kept.
//!
//! It is never older than an answer given before: while a change of a node is under way nothing is answered about it, what
//! is read meanwhile is not remembered, and when two changes overlap, whose order at the store is not known here, all is
//! forgotten. Nodes share slots, so a slot may forget without need.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use juicefs_core::{attr::Attr, ids::Ino};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::txn::{Effect, NodeEffect, NodePatch};

/// Nodes remembered at most.
const SLOTS: usize = 2048;

/// What is remembered of nodes.
#[derive(Debug)]
pub(super) struct Looks {
    slots: Box<[Mutex<Slot>]>,
    /// Beginnings and ends of changes so far.
    events: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    look: Option<Look>,
    /// Changes under way.
    changes: u32,
    /// Changes met each other: what the node is now is not known here.
    tangled: bool,
    /// The last event of all that was here.
    last: u64,
}

#[derive(Debug)]
struct Look {
    ino: Ino,
    attr: Attr,
    since: Instant,
}

/// Taken before a node is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    since: Instant,
    events: u64,
}

/// What a change makes of a node.
#[derive(Clone, Debug)]
enum Turn {
    Becomes(Box<Attr>),
    Patched(NodePatch),
    Goes,
}

/// A change under way. Dropped before it is settled it is one whose outcome nobody knows.
#[derive(Debug)]
pub(super) struct Changing {
    looks: Arc<Looks>,
    nodes: SmallVec<[(Ino, Turn); 3]>,
    since: Instant,
}

impl Default for Looks {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::default()).collect(), events: AtomicU64::new(0) }
    }
}

impl Looks {
    fn slot(&self, ino: Ino) -> &Mutex<Slot> {
        let spread = ino.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
        &self.slots[spread as usize % SLOTS]
    }

    /// The number of something that happens now.
    fn event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// What is known of a node and how old that is, if it is younger than `most`.
    pub(super) fn recall(&self, ino: Ino, most: Duration) -> Option<(Attr, Duration)> {
        let slot = self.slot(ino).lock();
        let look = slot.look.as_ref().filter(|look| look.ino == ino && slot.changes == 0)?;
        let age = look.since.elapsed();
        (age < most).then(|| (look.attr.clone(), age))
    }

    /// Before nodes are read.
    pub(super) fn begin_reading(&self) -> Reading {
        Reading { since: Instant::now(), events: self.events.load(Ordering::SeqCst) }
    }

    /// Remembers what was read of a node, unless a change of it began or ended since, or is not over.
    pub(super) fn remember(&self, reading: Reading, ino: Ino, attr: &Attr) {
        let mut slot = self.slot(ino).lock();
        if slot.changes == 0 && slot.last <= reading.events {
            slot.look = Some(Look { ino, attr: attr.clone(), since: reading.since });
        }
    }

    /// Before effects are sent.
    pub(super) fn begin_change(self: &Arc<Self>, effects: &[Effect]) -> Changing {
        let mut nodes = SmallVec::new();
        for effect in effects {
            let (ino, turn) = match effect {
                Effect::Node(ino, NodeEffect::Insert(attr)) | Effect::Node(ino, NodeEffect::Update(attr)) => {
                    (*ino, Turn::Becomes(Box::new(attr.clone())))
                }
                Effect::Node(ino, NodeEffect::Patch(patch)) => (*ino, Turn::Patched(*patch)),
                Effect::Node(ino, NodeEffect::Delete) => (*ino, Turn::Goes),
                _ => continue,
            };
            let mut slot = self.slot(ino).lock();
            slot.tangled |= slot.changes > 0;
            slot.changes += 1;
            slot.last = self.event();
            drop(slot);
            nodes.push((ino, turn));
        }
        Changing { looks: Arc::clone(self), nodes, since: Instant::now() }
    }
}

impl Changing {
    /// The effects are in place.
    pub(super) fn settle(mut self) {
        for (ino, turn) in std::mem::take(&mut self.nodes) {
            let mut slot = self.looks.slot(ino).lock();
            let known = slot.look.take();
            slot.look = match turn {
                Turn::Becomes(attr) => Some(Look { ino, attr: *attr, since: self.since }),
                Turn::Patched(patch) => known.map(|mut look| {
                    if look.ino == ino {
                        patch.apply(&mut look.attr);
                    }
                    look
                }),
                Turn::Goes => known.filter(|look| look.ino != ino),
            };
            slot.end_change(self.looks.event());
        }
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        for (ino, _) in std::mem::take(&mut self.nodes) {
            let mut slot = self.looks.slot(ino).lock();
            slot.look = None;
            slot.end_change(self.looks.event());
        }
    }
}

impl Slot {
    fn end_change(&mut self, event: u64) {
        self.changes -= 1;
        self.last = event;
        if self.tangled {
            self.look = None;
            self.tangled = self.changes > 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::attr::Timestamp;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn attr(length: u64) -> Attr {
        Attr { length, nlink: 1, ..Attr::default() }
    }

    fn looks() -> Arc<Looks> {
        Arc::default()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_known_for_its_time_with_own_patches() {
        let looks = looks();
        let reading = looks.begin_reading();
        looks.remember(reading, Ino(5), &attr(4096));
        tokio::time::advance(SECOND / 2).await;
        let time = Timestamp::from_secs(9);
        let patch = NodePatch::links(1, Some(time));
        looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Patch(patch))]).settle();
        let (known, age) = looks.recall(Ino(5), SECOND).expect("known");
        assert_eq!((known.nlink, known.mtime, known.ctime, age), (2, time, time, SECOND / 2));
        tokio::time::advance(SECOND / 2).await;
        assert!(looks.recall(Ino(5), SECOND).is_none(), "a patch does not make it younger");
        assert!(looks.recall(Ino(5), Duration::ZERO).is_none());
        looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Update(attr(7)))]).settle();
        assert_eq!(looks.recall(Ino(5), SECOND).map(|(attr, age)| (attr.length, age)), Some((7, Duration::ZERO)));
        looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Delete)]).settle();
        assert!(looks.recall(Ino(5), SECOND).is_none());
    }

    #[tokio::test]
    async fn nothing_is_said_while_a_change_is_under_way_or_unsettled() {
        let looks = looks();
        looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Insert(attr(1)))]).settle();
        let changing = looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Update(attr(2)))]);
        assert!(looks.recall(Ino(5), SECOND).is_none());
        let reading = looks.begin_reading();
        looks.remember(reading, Ino(5), &attr(1));
        drop(changing);
        assert!(looks.recall(Ino(5), SECOND).is_none(), "the outcome is not known");
        looks.remember(looks.begin_reading(), Ino(5), &attr(2));
        assert!(looks.recall(Ino(5), SECOND).is_some());
    }

    #[tokio::test]
    async fn what_was_read_before_the_end_of_a_change_is_not_remembered_after_it() {
        let looks = looks();
        let reading = looks.begin_reading();
        let changing = looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Update(attr(2)))]);
        let meanwhile = looks.begin_reading();
        changing.settle();
        looks.remember(reading, Ino(5), &attr(1));
        assert_eq!(looks.recall(Ino(5), SECOND).map(|(attr, _)| attr.length), Some(2));
        looks.remember(meanwhile, Ino(5), &attr(1));
        assert_eq!(looks.recall(Ino(5), SECOND).map(|(attr, _)| attr.length), Some(2));
    }

    #[tokio::test]
    async fn changes_that_overlap_leave_nothing() {
        let looks = looks();
        let reading = looks.begin_reading();
        let first = looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Update(attr(1)))]);
        let second = looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Update(attr(2)))]);
        second.settle();
        assert!(looks.recall(Ino(5), SECOND).is_none());
        first.settle();
        looks.remember(reading, Ino(5), &attr(0));
        assert!(looks.recall(Ino(5), SECOND).is_none(), "which came last is not known");
        looks.begin_change(&[Effect::Node(Ino(5), NodeEffect::Update(attr(3)))]).settle();
        assert_eq!(looks.recall(Ino(5), SECOND).map(|(attr, _)| attr.length), Some(3));
    }
}
