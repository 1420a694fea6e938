//! Which files this process holds open, and how a removal and an open of the same file keep out of each other's way.
//!
//! A removed file that is open stays until its last close ("sustained"). Whether it is open must be known when the
//! removal is decided, and must still be true when it is committed. So a removal takes a hold on the file it is about to
//! free; while the hold lasts, a first open waits for the outcome, and so does a last close.
//!
//! A file that a rename replaces is kept for a while even if nobody has it open, or nobody any more: whoever looked its name
//! up a moment ago is about to open it, and a name that is replaced is never missing.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use juicefs_core::ids::Ino;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

/// Replaced files that are kept at the same time; of more at once, those that nobody has open go immediately.
const REPLACED_MAX: usize = 1 << 16;

/// The open files of one client.
#[derive(Debug, Default)]
pub(crate) struct OpenTable {
    slots: Mutex<HashMap<Ino, Slot>>,
    hold_ended: Notify,
    /// What renames replaced, or tried to, the oldest first.
    replaced: Mutex<VecDeque<Replaced>>,
}

/// A node that a rename took the name of.
#[derive(Debug)]
struct Replaced {
    ino: Ino,
    at: Instant,
    /// Of a symlink, which goes at once: all there is to know about it.
    target: Option<Bytes>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// Opens not yet closed.
    opens: u32,
    /// Removals under way that may free the file.
    holds: u32,
    /// A removal left the file in place, so its last close has to look after it, or the end of its time as a replaced one.
    sustained: bool,
    /// That time is not over: its end looks after the file, unless it is open then, and closes before do not.
    kept: bool,
}

impl Slot {
    fn is_idle(self) -> bool {
        self.opens == 0 && self.holds == 0
    }
}

impl OpenTable {
    /// Counts an open of a file that nobody else can know of yet.
    pub(crate) fn open_new(&self, ino: Ino) {
        self.slots.lock().entry(ino).or_default().opens += 1;
    }

    /// Counts an open of a new file without a name: its last close has to look after it.
    pub(crate) fn open_unnamed(&self, ino: Ino) {
        let mut slots = self.slots.lock();
        let slot = slots.entry(ino).or_default();
        slot.opens += 1;
        slot.sustained = true;
    }

    /// Counts an open. Waits while a removal of the file is under way that was decided on nobody having it open; the
    /// caller must read the node afterwards. Cancel safe: counted only when it returns.
    pub(crate) async fn open(&self, ino: Ino) {
        loop {
            let ended = self.hold_ended.notified();
            {
                let mut slots = self.slots.lock();
                let slot = slots.entry(ino).or_default();
                if slot.opens > 0 || slot.holds == 0 {
                    slot.opens += 1;
                    return;
                }
            }
            ended.await;
        }
    }

    /// Ends an open. When it was the last one of a file whose removal left it in place, a hold is returned under which
    /// the node has to be freed. A dropped future leaves the file to the clean-up of the session.
    pub(crate) async fn close(self: &Arc<Self>, ino: Ino) -> Option<Hold> {
        if !self.end_open(ino) {
            return None;
        }
        loop {
            let ended = self.hold_ended.notified();
            {
                let mut slots = self.slots.lock();
                let slot = slots.get_mut(&ino)?;
                if slot.opens > 0 {
                    return None;
                }
                if slot.holds == 0 {
                    if !slot.sustained {
                        slots.remove(&ino);
                        return None;
                    }
                    if slot.kept {
                        return None;
                    }
                    slot.sustained = false;
                    slot.holds = 1;
                    drop(slots);
                    return Some(self.hold_on(SmallVec::from_elem(ino, 1)));
                }
            }
            ended.await;
        }
    }

    /// Counts down; true when it was the last open and something may be left to do about the file.
    fn end_open(&self, ino: Ino) -> bool {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(&ino) else { return false };
        slot.opens = slot.opens.saturating_sub(1);
        if slot.is_idle() && !slot.sustained {
            slots.remove(&ino);
            return false;
        }
        slot.opens == 0
    }

    /// Takes an open back that was never granted.
    pub(crate) fn cancel(&self, ino: Ino) {
        self.end_open(ino);
    }

    /// The open files that a removal has left in place, or may have.
    pub(crate) fn maybe_unnamed(&self) -> Vec<Ino> {
        let slots = self.slots.lock();
        slots.iter().filter(|(_, slot)| slot.opens > 0 && slot.sustained).map(|(ino, _)| *ino).collect()
    }

    /// A hold on nothing yet, for one removal.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        self.hold_on(SmallVec::new())
    }

    /// A hold that is counted already.
    fn hold_on(self: &Arc<Self>, held: SmallVec<[Ino; 1]>) -> Hold {
        Hold { table: Arc::clone(self), held: Mutex::new(held), replaced: Mutex::default() }
    }

    /// The target of a symlink that was replaced lately.
    pub(crate) fn target(&self, ino: Ino) -> Option<Bytes> {
        let replaced = self.replaced.lock();
        replaced.iter().rev().find(|replaced| replaced.ino == ino).and_then(|replaced| replaced.target.clone())
    }

    /// Forgets what was replaced at least `age` ago. Files that nobody has open are returned, each with a hold under which
    /// it has to be freed.
    pub(crate) fn replaced_before(self: &Arc<Self>, age: Duration) -> Vec<(Ino, Hold)> {
        let mut freed = Vec::new();
        let now = Instant::now();
        let mut replaced = self.replaced.lock();
        while let Some(Replaced { ino, target, .. }) =
            replaced.pop_front_if(|replaced| now.saturating_duration_since(replaced.at) >= age)
        {
            if target.is_some() {
                continue;
            }
            let mut slots = self.slots.lock();
            let Some(slot) = slots.get_mut(&ino) else { continue };
            if slot.opens == 0 && slot.holds > 0 {
                // Another removal of it is under way.
                replaced.push_back(Replaced { ino, at: now, target: None });
                continue;
            }
            slot.kept = false;
            if slot.opens > 0 {
                // Its last close frees it.
                continue;
            }
            slot.sustained = false;
            slot.holds = 1;
            freed.push((ino, self.hold_on(SmallVec::from_elem(ino, 1))));
        }
        freed
    }
}

/// Keeps files that a removal is about to free from being opened until it is dropped. It travels with the operation, so
/// that it lasts until the engine is done even when nobody waits for the outcome any more.
#[derive(Debug)]
pub(crate) struct Hold {
    table: Arc<OpenTable>,
    held: Mutex<SmallVec<[Ino; 1]>>,
    /// What is to be kept for a while once the removal is over, with the target of a symlink.
    replaced: Mutex<SmallVec<[Kept; 1]>>,
}

/// An inode, and its target if it is a symlink.
type Kept = (Ino, Option<Bytes>);

impl Hold {
    /// Whether the file is open here. From now until the hold ends, the answer stays true to the table: an open file may
    /// be closed, yet its close waits; a file that is not open cannot be opened. Asking again gives the same answer.
    pub(crate) fn finds_open(&self, ino: Ino) -> bool {
        self.take(ino, false)
    }

    /// Has the file kept as if it were open, unless too many are. The answer does not change either. What is kept shows up in
    /// [`OpenTable::replaced_before`], whatever becomes of the removal.
    pub(crate) fn keeps(&self, ino: Ino) -> bool {
        let room = self.table.replaced.lock().len() < REPLACED_MAX;
        self.take(ino, room)
    }

    /// Has the target of a symlink kept, which goes itself.
    pub(crate) fn keeps_target(&self, ino: Ino, target: Bytes) {
        let mut replaced = self.replaced.lock();
        if !replaced.iter().any(|(known, _)| *known == ino) {
            replaced.push((ino, Some(target)));
        }
    }

    fn take(&self, ino: Ino, keep: bool) -> bool {
        let mut held = self.held.lock();
        let mut slots = self.table.slots.lock();
        let slot = slots.entry(ino).or_default();
        if !held.contains(&ino) {
            held.push(ino);
            slot.holds += 1;
            slot.sustained |= slot.opens > 0;
            if keep && !slot.kept {
                (slot.sustained, slot.kept) = (true, true);
                self.replaced.lock().push((ino, None));
            }
        }
        slot.sustained
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let replaced = self.replaced.get_mut();
        if !replaced.is_empty() {
            let at = Instant::now();
            let kept = std::mem::take(replaced).into_iter().map(|(ino, target)| Replaced { ino, at, target });
            self.table.replaced.lock().extend(kept);
        }
        let held = self.held.get_mut();
        if held.is_empty() {
            return;
        }
        {
            let mut slots = self.table.slots.lock();
            for ino in held.iter() {
                if let Some(slot) = slots.get_mut(ino) {
                    slot.holds = slot.holds.saturating_sub(1);
                    if slot.is_idle() && !slot.sustained {
                        slots.remove(ino);
                    }
                }
            }
        }
        self.table.hold_ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_open_waits_for_a_removal_that_found_the_file_closed() {
        let table = Arc::new(OpenTable::default());
        let hold = table.hold();
        assert!(!hold.finds_open(Ino(7)));
        let mut open = pin!(table.open(Ino(7)));
        assert!(poll(open.as_mut()).is_pending());
        drop(hold);
        assert!(poll(open.as_mut()).is_ready());
        assert_eq!(table.slots.lock()[&Ino(7)].opens, 1);
    }

    #[test]
    fn the_last_close_waits_for_a_removal_and_then_has_to_free_the_file() {
        let table = Arc::new(OpenTable::default());
        table.open_new(Ino(7));
        let hold = table.hold();
        assert!(hold.finds_open(Ino(7)));
        let mut close = pin!(table.close(Ino(7)));
        assert!(poll(close.as_mut()).is_pending());
        assert!(hold.finds_open(Ino(7)), "the answer does not change while the hold lasts");
        drop(hold);
        let Poll::Ready(Some(freeing)) = poll(close.as_mut()) else { panic!("the close must go on") };
        assert!(poll(pin!(table.open(Ino(7)))).is_pending(), "nobody opens a file that is being freed");
        drop(freeing);
        assert!(table.slots.lock().is_empty());
    }

    #[test]
    fn a_replaced_file_can_be_opened_for_a_while() {
        let table = Arc::new(OpenTable::default());
        let hold = table.hold();
        assert!(hold.keeps(Ino(7)) && hold.keeps(Ino(7)));
        drop(hold);
        assert!(table.replaced_before(Duration::from_secs(60)).is_empty());
        assert!(poll(pin!(table.open(Ino(7)))).is_ready());
        assert!(table.replaced_before(Duration::ZERO).is_empty(), "it is open");
        assert!(matches!(poll(pin!(table.close(Ino(7)))), Poll::Ready(Some(_))), "its last close frees it");
        assert!(table.slots.lock().is_empty() && table.replaced.lock().is_empty());
    }

    #[test]
    fn a_close_does_not_cut_the_time_of_a_replaced_file_short() {
        for open_before in [true, false] {
            let table = Arc::new(OpenTable::default());
            if open_before {
                table.open_new(Ino(7));
            }
            let hold = table.hold();
            assert!(hold.keeps(Ino(7)));
            drop(hold);
            if !open_before {
                assert!(poll(pin!(table.open(Ino(7)))).is_ready());
            }
            assert!(matches!(poll(pin!(table.close(Ino(7)))), Poll::Ready(None)), "others may be about to open it");
            assert!(poll(pin!(table.open(Ino(7)))).is_ready());
            assert!(matches!(poll(pin!(table.close(Ino(7)))), Poll::Ready(None)));
            let freed = table.replaced_before(Duration::ZERO);
            assert_eq!(freed.iter().map(|(ino, _)| *ino).collect::<Vec<_>>(), [Ino(7)]);
            drop(freed);
            assert!(table.slots.lock().is_empty() && table.replaced.lock().is_empty());
        }
    }

    #[test]
    fn a_replaced_file_that_nobody_opens_is_freed_once() {
        let table = Arc::new(OpenTable::default());
        let hold = table.hold();
        assert!(hold.keeps(Ino(7)));
        assert!(table.replaced_before(Duration::ZERO).is_empty(), "the removal is under way");
        drop(hold);
        let freed = table.replaced_before(Duration::ZERO);
        assert_eq!(freed.iter().map(|(ino, _)| *ino).collect::<Vec<_>>(), [Ino(7)]);
        assert!(poll(pin!(table.open(Ino(7)))).is_pending(), "nobody opens a file that is being freed");
        drop(freed);
        assert!(table.replaced_before(Duration::ZERO).is_empty());
        assert!(table.slots.lock().is_empty());
    }

    #[test]
    fn a_replaced_symlink_can_be_followed_for_a_while() {
        let table = Arc::new(OpenTable::default());
        table.hold().keeps_target(Ino(7), Bytes::from_static(b"there"));
        assert_eq!(table.target(Ino(7)).as_deref(), Some(&b"there"[..]));
        assert!(table.replaced_before(Duration::ZERO).is_empty());
        assert_eq!(table.target(Ino(7)), None);
    }

    #[test]
    fn an_ordinary_close_leaves_nothing_behind() {
        let table = Arc::new(OpenTable::default());
        table.open_new(Ino(7));
        assert!(matches!(poll(pin!(table.close(Ino(7)))), Poll::Ready(None)));
        assert!(table.slots.lock().is_empty());
    }
}
