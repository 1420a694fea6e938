//! Which calls have begun through a handle and have not ended. A killed caller may be gone before what it asked for is
//! done, and the handle must not end before that.

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

/// The changes under way of one handle.
#[derive(Default)]
pub(crate) struct InFlight {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Default)]
struct State {
    begun: u64,
    open: SmallVec<[u64; 4]>,
}

impl InFlight {
    /// Notes that a call begins. It has ended when the pass is dropped.
    pub(crate) fn begin(&self) -> Pass<'_> {
        let mut state = self.state.lock();
        state.begun += 1;
        let number = state.begun;
        state.open.push(number);
        Pass { of: self, number }
    }

    /// Waits for the end of everything that has begun by now. Cancel safe.
    pub(crate) async fn settled(&self) {
        let upto = self.state.lock().begun;
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.state.lock().open.iter().all(|number| *number > upto) {
                return;
            }
            ended.await;
        }
    }
}

/// One call that is under way.
pub(crate) struct Pass<'a> {
    of: &'a InFlight,
    number: u64,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.of.state.lock().open.retain(|number| *number != self.number);
        self.of.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_begins_later_is_not_waited_for() {
        let in_flight = InFlight::default();
        assert!(in_flight.settled().now_or_never().is_some());
        let first = in_flight.begin();
        let mut waiting = Box::pin(in_flight.settled());
        assert!(waiting.as_mut().now_or_never().is_none());
        let _second = in_flight.begin();
        drop(first);
        assert!(waiting.now_or_never().is_some());
        assert!(in_flight.settled().now_or_never().is_none());
    }
}
