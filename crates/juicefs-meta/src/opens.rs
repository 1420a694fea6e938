//! Which files this process holds open, and how a removal and an open of the same file keep out of each other's way.
//!
//! A removed file that is open stays until its last close ("sustained"). Whether it is open must be known when the
//! removal is decided, and must still be true when it is committed. So a removal takes a hold on the file it is about to
//! free; while the hold lasts, a first open waits for the outcome, and so does a last close.

use std::{collections::HashMap, sync::Arc};

use juicefs_core::ids::Ino;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

/// The open files of one client.
#[derive(Debug, Default)]
pub(crate) struct OpenTable {
    slots: Mutex<HashMap<Ino, Slot>>,
    hold_ended: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// Opens not yet closed.
    opens: u32,
    /// Removals under way that may free the file.
    holds: u32,
    /// A removal found the file open, so its last close has to look after it.
    sustained: bool,
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
                    slot.sustained = false;
                    slot.holds = 1;
                    drop(slots);
                    return Some(Hold { table: Arc::clone(self), held: Mutex::new(SmallVec::from_elem(ino, 1)) });
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

    /// A hold on nothing yet, for one removal.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        Hold { table: Arc::clone(self), held: Mutex::default() }
    }
}

/// Keeps files that a removal is about to free from being opened until it is dropped. It travels with the operation, so
/// that it lasts until the engine is done even when nobody waits for the outcome any more.
#[derive(Debug)]
pub(crate) struct Hold {
    table: Arc<OpenTable>,
    held: Mutex<SmallVec<[Ino; 1]>>,
}

impl Hold {
    /// Whether the file is open here. From now until the hold ends, the answer stays true to the table: an open file may
    /// be closed, yet its close waits; a file that is not open cannot be opened. Asking again gives the same answer.
    pub(crate) fn finds_open(&self, ino: Ino) -> bool {
        let mut held = self.held.lock();
        let mut slots = self.table.slots.lock();
        let slot = slots.entry(ino).or_default();
        if !held.contains(&ino) {
            held.push(ino);
            slot.holds += 1;
            slot.sustained |= slot.opens > 0;
        }
        slot.sustained
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
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
    fn an_ordinary_close_leaves_nothing_behind() {
        let table = Arc::new(OpenTable::default());
        table.open_new(Ino(7));
        assert!(matches!(poll(pin!(table.close(Ino(7)))), Poll::Ready(None)));
        assert!(table.slots.lock().is_empty());
    }
}
