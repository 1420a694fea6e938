//! Work that several tasks wait for. Whichever of them is polled carries it on.
//!
//! The `Shared` of `futures_util` does the same, but can leave a waiter asleep for good: it was woken while another was
//! at the work, found the work taken, and did not hear of it when the other went away (as a read does that is given
//! up). Here whoever was at the work wakes everybody once more when something happened meanwhile.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak},
    task::{Context, Poll, Wake, Waker},
};

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A handle of one who waits for the work. Every clone of it ends with a clone of the outcome.
///
/// The work goes on only while one of the clones is polled, and is dropped with the last of them. Cancel safe: a clone
/// may be dropped at any time, and the others go on.
pub struct Joint<T> {
    inner: Arc<Inner<T>>,
    /// The number of this waiter, once it was polled.
    place: Option<u64>,
}

/// A way to join the work while somebody still waits for it.
pub struct WeakJoint<T>(Weak<Inner<T>>);

struct Inner<T> {
    /// The work, `None` when it is done. Nobody waits for this lock: whoever is at the work holds it.
    work: Mutex<Option<Work<T>>>,
    outcome: OnceLock<T>,
    /// What the work wakes. It is shared on its own, because the work may hold it.
    waiters: Arc<Waiters>,
}

/// The tasks that are to be woken. Each is woken once for each poll.
#[derive(Default)]
struct Waiters(Mutex<Wakers>);

#[derive(Default)]
struct Wakers {
    next: u64,
    by_place: Vec<(u64, Waker)>,
    /// Whether the work woke them since somebody went to it.
    woken: bool,
}

impl<T: Clone> Joint<T> {
    /// Makes a handle for `work`, which begins when the first clone is polled.
    pub fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        let inner = Inner { work: Mutex::new(Some(Box::pin(work))), outcome: OnceLock::new(), waiters: Arc::default() };
        Self { inner: Arc::new(inner), place: None }
    }

    /// A way to join later, which does not keep the work alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakJoint<T> {
        WeakJoint(Arc::downgrade(&self.inner))
    }
}

impl<T> WeakJoint<T> {
    /// Joins the work; `None` when nobody waits for it any more.
    #[must_use]
    pub fn upgrade(&self) -> Option<Joint<T>> {
        Some(Joint { inner: self.0.upgrade()?, place: None })
    }
}

impl<T: Clone> Future for Joint<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Self { inner, place } = &mut *self;
        if let Some(outcome) = inner.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        // Before the look at the work: who is at it wakes all that are here when he leaves it.
        inner.waiters.enter(place, cx.waker());
        if inner.carry_on() {
            inner.waiters.wake_all();
        }
        inner.outcome.get().map_or(Poll::Pending, |outcome| Poll::Ready(outcome.clone()))
    }
}

impl<T> Inner<T> {
    /// Polls the work unless somebody is at it. Returns whether the others are to be woken.
    fn carry_on(&self) -> bool {
        let mut work = match self.work.try_lock() {
            Ok(work) => work,
            Err(TryLockError::WouldBlock) => return false,
            // The work panicked. It says so to each who polls it.
            Err(TryLockError::Poisoned(work)) => work.into_inner(),
        };
        self.waiters.begin();
        let Some(running) = work.as_mut() else { return false };
        let waker = Waker::from(Arc::clone(&self.waiters));
        let Poll::Ready(outcome) = running.as_mut().poll(&mut Context::from_waker(&waker)) else {
            drop(work);
            return self.waiters.were_woken();
        };
        let _ = self.outcome.set(outcome);
        // What the work held goes without the lock.
        let done = work.take();
        drop(work);
        drop(done);
        true
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, Wakers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `waker` is to be woken.
    fn enter(&self, place: &mut Option<u64>, waker: &Waker) {
        let mut wakers = self.lock();
        let number = *place.get_or_insert_with(|| {
            wakers.next += 1;
            wakers.next
        });
        match wakers.by_place.iter_mut().find(|(place, _)| *place == number) {
            Some((_, known)) => known.clone_from(waker),
            None => wakers.by_place.push((number, waker.clone())),
        }
    }

    fn leave(&self, number: u64) {
        let left = {
            let mut wakers = self.lock();
            let at = wakers.by_place.iter().position(|(place, _)| *place == number);
            at.map(|at| wakers.by_place.swap_remove(at))
        };
        drop(left);
    }

    fn begin(&self) {
        self.lock().woken = false;
    }

    fn were_woken(&self) -> bool {
        self.lock().woken
    }

    /// Wakes all and forgets them. They enter again when they are polled.
    fn wake_all(&self) {
        let woken = {
            let mut wakers = self.lock();
            wakers.woken = true;
            std::mem::take(&mut wakers.by_place)
        };
        woken.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

impl<T> Clone for Joint<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), place: None }
    }
}

impl<T> Drop for Joint<T> {
    fn drop(&mut self) {
        if let Some(number) = self.place {
            self.inner.waiters.leave(number);
        }
    }
}

impl<T> fmt::Debug for Joint<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Joint({})", if self.inner.outcome.get().is_some() { "done" } else { "under way" })
    }
}

impl<T> fmt::Debug for WeakJoint<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeakJoint({})", self.0.strong_count())
    }
}
