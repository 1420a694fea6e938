//! The memory for data. It has one hard cap, and each kind of work has a part of that.
//!
//! There is one [`Budget`] per mount. Whoever needs memory for data waits for it, and nobody grows past the cap. Each
//! kind of work has a [`Share`]: a part of the cap that nobody else takes, so that no kind waits for another that is
//! held up. Beyond its part it takes from what is common to all. So a read finds memory however many writers wait for a
//! store that is away.
//!
//! Each share serves its requests in order. The common part goes to whoever has waited longest, of whatever share. Guesses
//! ([`Share::Ahead`]) use half of what is kept for fetches, and never stand in the way of an application.

mod share;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

use self::share::SHARES;
pub use self::share::Share;

/// A hard cap on the bytes held in data buffers, with shares for writing, reading and what goes on in the background.
#[derive(Clone, Debug)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cap_bytes: usize,
    floors: Bytes,
    limits: Bytes,
    state: Mutex<State>,
    /// Bytes taken. This number and the next can be read without the lock of `state`.
    used_bytes: AtomicUsize,
    waiting: AtomicUsize,
}

/// Bytes by share.
type Bytes = [usize; SHARES.len()];

#[derive(Debug, Default)]
struct State {
    used: Bytes,
    queues: [VecDeque<Waiter>; SHARES.len()],
    /// The number of the next waiter. Numbers tell in which order waiters came.
    next: u64,
    /// How many waiters are in all queues.
    waiters: usize,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    bytes: usize,
    grant: oneshot::Sender<Lease>,
}

/// What waiters are given. It is sent without the lock, because a waiter that does not want it any more gives it back.
type Grants = Vec<(oneshot::Sender<Lease>, Lease)>;

impl Budget {
    /// A budget of `cap_bytes`.
    #[must_use]
    pub fn new(cap_bytes: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                cap_bytes,
                floors: SHARES.map(|share| share.floor(cap_bytes)),
                limits: SHARES.map(|share| share.limit(cap_bytes)),
                state: Mutex::default(),
                used_bytes: AtomicUsize::new(0),
                waiting: AtomicUsize::new(0),
            }),
        }
    }

    /// Takes `bytes` for `share` if they are free right now and nobody waits who comes first. Guesses give way to everybody
    /// that an application waits for. A request beyond what a share can have takes all of that.
    #[must_use]
    pub fn try_acquire(&self, share: Share, bytes: usize) -> Option<Lease> {
        let bytes = bytes.min(self.inner.limits[share as usize]);
        if bytes == 0 {
            return Some(Lease::empty());
        }
        self.inner.take(&mut self.inner.lock(), share, bytes)
    }

    /// Waits until `bytes` are free for `share` and takes them. A request beyond what a share can have takes all of
    /// that, so it still ends.
    ///
    /// Fair: the requests of a share are served in order. Cancel safe: a dropped future holds nothing.
    pub async fn acquire(&self, share: Share, bytes: usize) -> Lease {
        let bytes = bytes.min(self.inner.limits[share as usize]);
        if bytes == 0 {
            return Lease::empty();
        }
        let (queued, granted) = {
            let mut state = self.inner.lock();
            if let Some(lease) = self.inner.take(&mut state, share, bytes) {
                return lease;
            }
            self.inner.enqueue(&mut state, share, bytes)
        };
        // The sender goes with the grant only, so an error cannot happen; an empty lease would be the harmless answer.
        let lease = granted.await.unwrap_or_default();
        drop(queued);
        lease
    }

    /// Whether `bytes` could be taken at once.
    #[must_use]
    pub fn has_room(&self, share: Share, bytes: usize) -> bool {
        let bytes = bytes.min(self.inner.limits[share as usize]);
        bytes == 0 || self.inner.may_take(&self.inner.lock(), share, bytes)
    }

    /// Bytes taken at this moment.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.inner.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes taken at this moment for `share`.
    #[must_use]
    pub fn used_by(&self, share: Share) -> usize {
        self.inner.lock().used[share as usize]
    }

    /// The cap in bytes.
    #[must_use]
    pub fn cap_bytes(&self) -> usize {
        self.inner.cap_bytes
    }

    /// The most bytes that `share` can have at once.
    #[must_use]
    pub fn limit_bytes(&self, share: Share) -> usize {
        self.inner.limits[share as usize]
    }

    /// How many requests of applications wait for memory now: a sign to flush dirty data and to drop read-ahead.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.waiting.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// Locks the state, also after a panic under the lock: each number is changed by one statement, so all of them are
    /// whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes are taken, or kept for those who have not taken them. They are never more than the cap.
    fn bound(&self, used: &Bytes) -> usize {
        let [writes, fetches, disk, background, ahead] = *used;
        let [for_writes, for_fetches, for_disk, for_background, _] = self.floors;
        let reads = (fetches.max(for_fetches / 2) + ahead).max(for_fetches);
        writes.max(for_writes) + reads + disk.max(for_disk) + background.max(for_background)
    }

    /// How many bytes are bound when `share` takes `bytes` more.
    fn bound_with(&self, state: &State, share: usize, bytes: usize) -> usize {
        let mut used = state.used;
        used[share] += bytes;
        self.bound(&used)
    }

    /// Whether `bytes` would come from what is kept for the share.
    fn is_own(&self, state: &State, share: usize, bytes: usize) -> bool {
        self.bound_with(state, share, bytes) == self.bound(&state.used)
    }

    /// Whether `bytes` are free without touching what is kept for others.
    fn fits(&self, state: &State, share: usize, bytes: usize) -> bool {
        state.used[share] + bytes <= self.limits[share] && self.bound_with(state, share, bytes) <= self.cap_bytes
    }

    /// The number of the waiter of a share that is the next to get something of the common part. `None` when the share
    /// has all that it can have.
    fn claim(&self, state: &State, share: usize) -> Option<u64> {
        let head = state.queues[share].front()?;
        (state.used[share] + head.bytes <= self.limits[share]).then_some(head.number)
    }

    fn may_take(&self, state: &State, share: Share, bytes: usize) -> bool {
        let at = share as usize;
        if state.waiters == 0 {
            return self.fits(state, at, bytes);
        }
        if !state.queues[at].is_empty() || (share == Share::Ahead && self.waiting.load(Ordering::Relaxed) > 0) {
            return false;
        }
        let is_claimed = || (0..SHARES.len()).any(|of| self.claim(state, of).is_some());
        self.is_own(state, at, bytes) || (self.fits(state, at, bytes) && !is_claimed())
    }

    fn take(self: &Arc<Self>, state: &mut State, share: Share, bytes: usize) -> Option<Lease> {
        self.may_take(state, share, bytes).then(|| self.book(state, share, bytes))
    }

    fn book(self: &Arc<Self>, state: &mut State, share: Share, bytes: usize) -> Lease {
        state.used[share as usize] += bytes;
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        Lease { of: Some(Arc::clone(self)), share, bytes }
    }

    fn enqueue(self: &Arc<Self>, state: &mut State, share: Share, bytes: usize) -> (Queued, oneshot::Receiver<Lease>) {
        let (grant, granted) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        state.waiters += 1;
        state.queues[share as usize].push_back(Waiter { number, bytes, grant });
        self.waiting.fetch_add(usize::from(share.is_foreground()), Ordering::Relaxed);
        (Queued { of: Arc::clone(self), share, number }, granted)
    }

    fn left(&self, state: &mut State, share: Share) {
        state.waiters -= 1;
        self.waiting.fetch_sub(usize::from(share.is_foreground()), Ordering::Relaxed);
    }

    /// Gives waiters what is free now. Each share gets from its own part, and from the common part those get first who
    /// came first.
    fn serve(self: &Arc<Self>, state: &mut State) -> Grants {
        let mut grants = Vec::new();
        while state.waiters > 0 {
            let own = SHARES.into_iter().find(|share| {
                let at = *share as usize;
                state.queues[at].front().is_some_and(|head| self.is_own(state, at, head.bytes))
            });
            let oldest = || {
                let claims = SHARES.into_iter().filter_map(|share| Some((self.claim(state, share as usize)?, share)));
                claims.min_by_key(|(number, _)| *number).map(|(_, share)| share)
            };
            let Some(share) = own.or_else(oldest) else { break };
            let at = share as usize;
            let is_there = state.queues[at].front().is_some_and(|head| self.fits(state, at, head.bytes));
            let Some(waiter) = is_there.then(|| state.queues[at].pop_front()).flatten() else { break };
            self.left(state, share);
            grants.push((waiter.grant, self.book(state, share, waiter.bytes)));
        }
        grants
    }

    fn give_back(self: &Arc<Self>, share: Share, bytes: usize) {
        let grants = {
            let mut state = self.lock();
            state.used[share as usize] -= bytes;
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if state.waiters == 0 {
                return;
            }
            self.serve(&mut state)
        };
        send(grants);
    }
}

/// Sends what waiters are given. A waiter that was cancelled meanwhile drops the lease, which gives the memory to others.
fn send(grants: Grants) {
    for (grant, lease) in grants {
        drop(grant.send(lease));
    }
}

/// A waiter that stands in a queue until this is dropped.
struct Queued {
    of: Arc<Inner>,
    share: Share,
    number: u64,
}

impl Drop for Queued {
    fn drop(&mut self) {
        let grants = {
            let mut state = self.of.lock();
            let queue = &mut state.queues[self.share as usize];
            let Some(at) = queue.iter().position(|waiter| waiter.number == self.number) else { return };
            queue.remove(at);
            self.of.left(&mut state, self.share);
            // Those behind it may need less.
            self.of.serve(&mut state)
        };
        send(grants);
    }
}

/// Bytes that were taken from a [`Budget`]. To drop it gives them back.
#[derive(Debug, Default)]
pub struct Lease {
    of: Option<Arc<Inner>>,
    share: Share,
    bytes: usize,
}

impl Lease {
    /// A lease of nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Joins `other`, taken for the same share of the same budget, into this lease.
    pub fn merge(&mut self, mut other: Self) {
        if self.bytes == 0 {
            std::mem::swap(self, &mut other);
            return;
        }
        if other.bytes == 0 {
            return;
        }
        debug_assert_eq!(self.share, other.share, "leases of two shares are joined");
        if self.share != other.share
            && let Some(of) = &self.of
        {
            let mut state = of.lock();
            state.used[other.share as usize] -= other.bytes;
            state.used[self.share as usize] += other.bytes;
        }
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Splits `bytes` off this lease, or all of it if it holds fewer.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let take = bytes.min(self.bytes);
        if take == self.bytes {
            return std::mem::take(self);
        }
        if take == 0 {
            return Self::empty();
        }
        self.bytes -= take;
        Self { of: self.of.clone(), share: self.share, bytes: take }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.bytes > 0
            && let Some(of) = self.of.take()
        {
            of.give_back(self.share, self.bytes);
        }
    }
}
