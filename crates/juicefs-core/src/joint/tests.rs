use std::{
    future::{pending, poll_fn},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::oneshot;

use super::*;

#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counted {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn polled<T: Clone>(joint: &mut Joint<T>, waker: &Arc<Counted>) -> Poll<T> {
    Pin::new(joint).poll(&mut Context::from_waker(&Waker::from(Arc::clone(waker))))
}

/// The one that was woken while another was at the work, which then goes away.
#[test]
fn nobody_is_forgotten_when_who_was_at_the_work_goes() {
    let other: Arc<Mutex<Option<Joint<u8>>>> = Arc::default();
    let (waker, polls) = (Arc::<Counted>::default(), AtomicUsize::new(0));
    let work = {
        let (other, waker) = (Arc::clone(&other), Arc::clone(&waker));
        poll_fn(move |cx| {
            if polls.fetch_add(1, Ordering::SeqCst) > 0 {
                return Poll::Ready(7);
            }
            let mut other = other.lock().expect("no panic");
            let other = other.as_mut().expect("it waits");
            assert!(polled(other, &waker).is_pending(), "somebody is at it");
            cx.waker().wake_by_ref();
            assert_eq!(waker.count(), 1);
            assert!(polled(other, &waker).is_pending(), "he still is");
            Poll::Pending
        })
    };
    let mut first = Joint::new(work);
    *other.lock().expect("no panic") = Some(first.clone());
    let ours = Arc::<Counted>::default();
    assert!(polled(&mut first, &ours).is_pending());
    drop(first);
    assert_eq!(waker.count(), 2, "the other is told when he leaves");
    let mut other = other.lock().expect("no panic").take().expect("it waits");
    assert_eq!(polled(&mut other, &waker), Poll::Ready(7));
}

#[test]
fn all_are_woken_by_the_outcome_and_those_who_left_are_not() {
    let (send, receive) = oneshot::channel::<String>();
    let mut first = Joint::new(async move { receive.await.unwrap_or_default() });
    let weak = first.downgrade();
    let (mut second, mut third) = (first.clone(), weak.upgrade().expect("it is under way"));
    let wakers: [Arc<Counted>; 3] = Default::default();
    assert!(polled(&mut first, &wakers[0]).is_pending());
    assert!(polled(&mut second, &wakers[1]).is_pending());
    assert!(polled(&mut third, &wakers[2]).is_pending());
    drop(third);
    send.send("outcome".to_owned()).expect("it is waited for");
    assert_eq!(wakers.each_ref().map(|waker| waker.count()), [1, 1, 0]);
    assert_eq!(polled(&mut second, &wakers[1]), Poll::Ready("outcome".to_owned()));
    assert_eq!(polled(&mut first, &wakers[0]), Poll::Ready("outcome".to_owned()));
    assert!(weak.upgrade().is_some());
    drop((first, second));
    assert!(weak.upgrade().is_none());
}

#[test]
fn the_work_goes_with_the_last_who_waits() {
    struct Noted(Arc<AtomicBool>);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::<AtomicBool>::default();
    let held = Noted(Arc::clone(&dropped));
    let first = Joint::new(async move {
        let _held = held;
        pending::<()>().await;
    });
    let mut second = first.clone();
    assert!(polled(&mut second, &Arc::default()).is_pending());
    drop(first);
    assert!(!dropped.load(Ordering::SeqCst));
    drop(second);
    assert!(dropped.load(Ordering::SeqCst));
}

/// Of two, one is given up at once: the other ends all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_stays_ends_whoever_goes() {
    for round in 0..20_000 {
        let mut yielded = false;
        let first = Joint::new(poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let stays = tokio::spawn(first.clone());
        let gone = tokio::spawn(async move {
            let mut first = first;
            let _ = polled(&mut first, &Arc::default());
        });
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), stays).await;
        assert!(ended.is_ok(), "round {round}: forgotten");
        gone.await.expect("no panic");
    }
}
