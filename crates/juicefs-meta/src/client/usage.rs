//! Used space and inodes of the volume as this client knows them, and its part in the limits.
//!
//! The stored counters lag: each client adds what it used once a second. Within one client the limits are exact: an
//! operation reserves what it may need before, and what it did use is settled after.

use std::sync::Arc;

use juicefs_core::{errno::Errno, format::Format};
use parking_lot::Mutex;

use super::run::Books;
use crate::{
    record::{Counter, Key},
    txn::{Applied, Decision, Effect, Effects, Operation, ReadSet, Usage},
};

/// The books of one client.
#[derive(Debug, Default)]
pub(super) struct UsageBook {
    state: Mutex<State>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// As the engine last told.
    stored: Usage,
    /// Done here and not yet told to the engine.
    pending: Usage,
    /// Put aside for operations under way.
    reserved: Usage,
}

impl State {
    fn seen(&self) -> Usage {
        plus(self.stored, self.pending)
    }
}

fn plus(a: Usage, b: Usage) -> Usage {
    Usage { space: a.space.saturating_add(b.space), inodes: a.inodes.saturating_add(b.inodes) }
}

fn minus(a: Usage, b: Usage) -> Usage {
    Usage { space: a.space.saturating_sub(b.space), inodes: a.inodes.saturating_sub(b.inodes) }
}

impl UsageBook {
    /// Puts room aside. ENOSPC when the volume does not have it.
    pub(super) fn reserve(&self, format: &Format, want: Usage) -> Result<Reservation<'_>, Errno> {
        let mut state = self.state.lock();
        let after = plus(plus(state.seen(), state.reserved), want);
        let full = |limit: u64, after: i64| limit > 0 && u64::try_from(after).is_ok_and(|after| after > limit);
        if want.space > 0 && full(format.capacity, after.space) || want.inodes > 0 && full(format.inodes, after.inodes)
        {
            return Err(Errno::ENOSPC);
        }
        state.reserved = plus(state.reserved, want);
        Ok(Reservation { book: self, usage: want })
    }

    /// Notes what an operation used.
    pub(super) fn settle(&self, usage: Usage, stored_already: bool) {
        if usage == Usage::default() {
            return;
        }
        let mut state = self.state.lock();
        let side = if stored_already { &mut state.stored } else { &mut state.pending };
        *side = plus(*side, usage);
    }

    /// What the engine has not been told.
    pub(super) fn pending(&self) -> Usage {
        self.state.lock().pending
    }

    /// The engine has been told `usage`.
    pub(super) fn told(&self, usage: Usage) {
        let mut state = self.state.lock();
        state.pending = minus(state.pending, usage);
        state.stored = plus(state.stored, usage);
    }

    /// The engine's counters are `stored`.
    pub(super) fn learn(&self, stored: Usage) {
        self.state.lock().stored = stored;
    }

    /// Use of the volume with what is still pending, never negative.
    pub(super) fn seen(&self) -> Usage {
        let seen = self.state.lock().seen();
        Usage { space: seen.space.max(0), inodes: seen.inodes.max(0) }
    }
}

/// Adds what this client has used to the counters of the volume. That they were told is booked when it is applied, even
/// if nobody waits for it any more: what is told twice is counted twice.
#[derive(Debug)]
pub(super) struct TellUsage {
    pub(super) delta: Usage,
    pub(super) books: Arc<Books>,
}

impl Operation for TellUsage {
    type Reply = ();
    const NAME: &'static str = "tell_usage";

    fn keys(&self) -> Vec<Key> {
        Vec::new()
    }

    fn decide(&self, _read: &ReadSet) -> Decision<()> {
        let mut effects = Effects::none();
        for (counter, delta) in [(Counter::UsedSpace, self.delta.space), (Counter::TotalInodes, self.delta.inodes)] {
            if delta != 0 {
                effects.push(Effect::AddCounter(counter, delta));
            }
        }
        Decision::Done((), effects)
    }

    fn finish(&self, (): (), _applied: &Applied) {
        self.books.usage.told(self.delta);
    }
}

/// Room put aside for an operation; given back when dropped, after what was used is settled.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    book: &'a UsageBook,
    usage: Usage,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = self.book.state.lock();
        state.reserved = minus(state.reserved, self.usage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_count_what_is_stored_pending_and_reserved() {
        let book = UsageBook::default();
        let format = Format { capacity: 4096 * 4, inodes: 3, ..Format::default() };
        let one = Usage { space: 4096, inodes: 1 };
        book.learn(one);
        book.settle(one, false);
        let reserved = book.reserve(&format, one).expect("the third fits");
        assert_eq!(book.reserve(&format, one).err(), Some(Errno::ENOSPC), "inodes are used up");
        let space = Usage { space: 4096, inodes: 0 };
        drop(book.reserve(&format, space).expect("a fourth page fits"));
        assert_eq!(book.reserve(&format, Usage { space: 8192, inodes: 0 }).err(), Some(Errno::ENOSPC));
        drop(reserved);
        assert!(book.reserve(&format, one).is_ok());
        book.told(one);
        assert_eq!((book.seen(), book.pending()), (Usage { space: 8192, inodes: 2 }, Usage::default()));
    }
}
