//! Used space and inodes of the volume as this client knows them, and its part in the limits.
//!
//! The stored counters lag: each client adds what it used once a second. Within one client the limits are exact: an
//! operation reserves what it may need before, and what it did use is settled after.

use std::{collections::HashMap, sync::Arc};

use juicefs_core::{errno::Errno, format::Format, ids::Ino};
use parking_lot::Mutex;

use super::run::Books;
use crate::{
    record::{Counter, Key},
    txn::{AccountEffect, Applied, Decision, Effect, Effects, Operation, ReadSet, Usage},
};

/// The books of one client.
#[derive(Debug, Default)]
pub(super) struct UsageBook {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As the engine last told.
    stored: Usage,
    /// Done here and not yet told to the engine.
    pending: Usage,
    /// Put aside for operations under way, claims included.
    reserved: Usage,
    /// Bytes put aside for what files grew by.
    claims: HashMap<Ino, u64>,
}

impl State {
    fn seen(&self) -> Usage {
        self.stored.plus(self.pending)
    }

    fn put_aside(&mut self, format: &Format, want: Usage) -> Result<(), Errno> {
        let after = self.seen().plus(self.reserved).plus(want);
        let full = |limit: u64, after: i64| limit > 0 && u64::try_from(after).is_ok_and(|after| after > limit);
        if want.space > 0 && full(format.capacity, after.space) || want.inodes > 0 && full(format.inodes, after.inodes)
        {
            return Err(Errno::ENOSPC);
        }
        self.reserved = self.reserved.plus(want);
        Ok(())
    }

    fn trim_claim(&mut self, ino: Ino, bytes: u64) {
        let Some(claim) = self.claims.get_mut(&ino).filter(|claim| **claim > bytes) else { return };
        self.reserved = self.reserved.minus(Usage::of_space(*claim - bytes));
        *claim = bytes;
        if bytes == 0 {
            self.claims.remove(&ino);
        }
    }
}

impl UsageBook {
    /// Puts room aside until the answer is dropped. ENOSPC when the volume does not have it.
    pub(super) fn reserve(&self, format: &Format, want: Usage) -> Result<Reservation<'_>, Errno> {
        self.state.lock().put_aside(format, want)?;
        Ok(Reservation { book: self, usage: want })
    }

    /// Puts room aside for what a file grows by. ENOSPC when the volume does not have it.
    pub(super) fn claim(&self, format: &Format, ino: Ino, bytes: u64) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.put_aside(format, Usage::of_space(bytes))?;
        *state.claims.entry(ino).or_default() += bytes;
        Ok(())
    }

    /// What is claimed for a file.
    pub(super) fn claimed(&self, ino: Ino) -> u64 {
        self.state.lock().claims.get(&ino).copied().unwrap_or(0)
    }

    /// Gives back what is claimed for a file beyond `bytes`.
    pub(super) fn trim_claim(&self, ino: Ino, bytes: u64) {
        self.state.lock().trim_claim(ino, bytes);
    }

    /// Notes what an operation used. As far as `claimant` has claimed it, its claim goes in the same moment: what is counted
    /// twice would look like a full volume.
    pub(super) fn settle(&self, usage: Usage, stored_already: bool, claimant: Option<Ino>) {
        if usage == Usage::default() {
            return;
        }
        let mut state = self.state.lock();
        let side = if stored_already { &mut state.stored } else { &mut state.pending };
        *side = side.plus(usage);
        if let (Some(ino), Ok(used)) = (claimant, u64::try_from(usage.space)) {
            let claimed = state.claims.get(&ino).copied().unwrap_or(0);
            state.trim_claim(ino, claimed.saturating_sub(used));
        }
    }

    /// What the engine has not been told.
    pub(super) fn pending(&self) -> Usage {
        self.state.lock().pending
    }

    /// The engine has been told `usage`.
    pub(super) fn told(&self, usage: Usage) {
        let mut state = self.state.lock();
        state.pending = state.pending.minus(usage);
        state.stored = state.stored.plus(usage);
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
    /// What is told again is counted twice.
    const NEEDS_OUTCOME: bool = true;

    fn keys(&self) -> Vec<Key> {
        Vec::new()
    }

    fn decide(&self, _read: &ReadSet) -> Decision<()> {
        let mut effects = Effects::none();
        for (counter, delta) in [(Counter::UsedSpace, self.delta.space), (Counter::TotalInodes, self.delta.inodes)] {
            if delta != 0 {
                effects.push(Effect::Account(AccountEffect::AddCounter(counter, delta)));
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
        state.reserved = state.reserved.minus(self.usage);
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
        book.settle(one, false, None);
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

    #[test]
    fn what_was_claimed_is_never_counted_twice() {
        let book = UsageBook::default();
        let format = Format { capacity: 4096 * 4, ..Format::default() };
        let (file, other) = (Ino(2), Ino(3));
        book.claim(&format, file, 4096 * 3).expect("three pages fit");
        assert_eq!(book.claim(&format, other, 8192), Err(Errno::ENOSPC));
        book.claim(&format, other, 4096).expect("a fourth page fits");
        book.settle(Usage::of_space(8192), false, Some(file));
        assert_eq!((book.claimed(file), book.claimed(other)), (4096, 4096));
        assert_eq!(book.claim(&format, other, 4096), Err(Errno::ENOSPC), "two are used and two are claimed");
        book.trim_claim(file, 0);
        book.claim(&format, other, 4096).expect("what was given back");
        // A file that grows by more than was claimed for it, and one that shrinks.
        book.settle(Usage::of_space(4096 * 4), true, Some(other));
        book.settle(Usage { space: -4096 * 6, inodes: 0 }, false, Some(file));
        assert_eq!((book.claimed(other), book.seen()), (0, Usage::default()));
        book.claim(&format, file, 4096 * 4).expect("everything is free");
    }
}
