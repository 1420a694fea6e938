use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use proptest::prelude::*;

use super::*;

fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn the_cap_holds_and_what_is_taken_comes_back() {
    let budget = Budget::new(160);
    let most = budget.limit_bytes(Share::Write);
    assert_eq!(most, 160 - 40 - 10 - 10, "the rest is for others");
    let mut a = budget.try_acquire(Share::Write, 60).expect("60 are free");
    assert!(budget.try_acquire(Share::Write, most - 59).is_none());
    let b = a.split(20);
    drop(a);
    assert_eq!((budget.used_bytes(), budget.used_by(Share::Write)), (20, 20));
    drop(b);
    assert_eq!(budget.used_bytes(), 0);
    assert_eq!(budget.try_acquire(Share::Write, 1000).map(|l| l.bytes()), Some(most), "all that a share can have");
}

#[test]
fn no_share_waits_for_another() {
    let budget = Budget::new(160);
    let writes = budget.try_acquire(Share::Write, 160).expect("nothing is taken");
    let mut writer = Box::pin(budget.acquire(Share::Write, 10));
    assert!(poll(writer.as_mut()).is_pending());
    let fetch = budget.try_acquire(Share::Fetch, 40).expect("the part of fetches");
    let mut reader = Box::pin(budget.acquire(Share::Fetch, 1));
    assert!(poll(reader.as_mut()).is_pending());
    assert_eq!(budget.waiting(), 2);
    let disk = budget.try_acquire(Share::Disk, 10).expect("the part of reads from disk");
    let background = budget.try_acquire(Share::Background, 10).expect("the part of the background");
    assert_eq!(budget.used_bytes(), 160);
    drop((disk, background));
    assert!(poll(writer.as_mut()).is_pending() && poll(reader.as_mut()).is_pending(), "those parts are not theirs");
    drop(fetch);
    let Poll::Ready(read) = poll(reader.as_mut()) else { panic!("a read waits for writers") };
    drop(writes);
    assert!(poll(writer.as_mut()).is_ready());
    drop(read);
}

#[test]
fn fetches_and_the_background_leave_room_for_writers() {
    let budget = Budget::new(160);
    let fetches = budget.try_acquire(Share::Fetch, 160).expect("nothing is taken");
    assert_eq!(fetches.bytes(), 160 - 60);
    assert!(budget.try_acquire(Share::Background, 11).is_none());
    assert!(budget.try_acquire(Share::Write, 41).is_none());
    let write = budget.try_acquire(Share::Write, 40).expect("the part of writers");
    drop((fetches, write));
    let background = budget.try_acquire(Share::Background, 160).expect("nothing is taken");
    assert_eq!(background.bytes(), 40);
    assert!(budget.try_acquire(Share::Background, 1).is_none());
    assert!(budget.has_room(Share::Write, 70) && !budget.has_room(Share::Write, 71));
}

#[test]
fn guesses_give_way_to_whoever_waits() {
    let budget = Budget::new(160);
    let ahead = budget.try_acquire(Share::Ahead, 160).expect("nothing is taken");
    assert_eq!(ahead.bytes(), 80);
    let mut writer = Box::pin(budget.acquire(Share::Write, 50));
    assert!(poll(writer.as_mut()).is_pending());
    drop(ahead);
    // Given, and not yet taken out.
    assert_eq!((budget.used_by(Share::Write), budget.waiting()), (50, 0));
    let mut second = Box::pin(budget.acquire(Share::Write, 60));
    assert!(poll(second.as_mut()).is_pending());
    assert!(budget.try_acquire(Share::Ahead, 1).is_none());
    drop(second);
    assert!(budget.try_acquire(Share::Ahead, 1).is_some());
    drop(writer);
    assert_eq!(budget.used_bytes(), 0, "what nobody took out came back");
}

#[test]
fn what_is_common_goes_to_whoever_has_waited_longest() {
    let budget = Budget::new(160);
    let writes = budget.try_acquire(Share::Write, 100).expect("nothing is taken");
    let mut upload = Box::pin(budget.acquire(Share::Background, 30));
    assert!(poll(upload.as_mut()).is_pending());
    // Smaller requests that come later must not starve it.
    drop(writes);
    assert!(poll(upload.as_mut()).is_ready());
    let writes = budget.try_acquire(Share::Write, 95).expect("free");
    let mut upload = Box::pin(budget.acquire(Share::Background, 30));
    assert!(poll(upload.as_mut()).is_pending());
    assert!(budget.try_acquire(Share::Write, 5).is_none(), "it is claimed");
    assert!(budget.try_acquire(Share::Fetch, 40).is_some(), "their own part is not");
    drop(upload);
    assert!(budget.try_acquire(Share::Write, 5).is_some());
    drop(writes);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn threads_that_take_and_give_all_come_to_their_end() {
    let budget = Budget::new(1 << 20);
    thread::scope(|scope| {
        for n in 0..20_usize {
            let budget = budget.clone();
            scope.spawn(move || {
                let share = SHARES[n % SHARES.len()];
                for round in 0..500_usize {
                    let mut lease = block_on(budget.acquire(share, 1 + (n * 7919 + round * 104_729) % (1 << 19)));
                    assert!(budget.used_bytes() <= budget.cap_bytes());
                    thread::yield_now();
                    drop(lease.split(lease.bytes() / 2));
                }
            });
        }
    });
    assert_eq!((budget.used_bytes(), budget.waiting()), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(Share, usize),
    Try(Share, usize),
    /// Drops a lease, or half of it.
    Release(prop::sample::Index, bool),
    /// Drops a future that waits.
    Cancel(prop::sample::Index),
}

fn step(most: usize) -> impl Strategy<Value = Step> {
    let share = || prop::sample::select(&SHARES[..]);
    let any = any::<prop::sample::Index>;
    prop_oneof![
        4 => (share(), 1..most).prop_map(|(share, bytes)| Step::Acquire(share, bytes)),
        2 => (share(), 1..most).prop_map(|(share, bytes)| Step::Try(share, bytes)),
        4 => (any(), prop::bool::ANY).prop_map(|(at, half)| Step::Release(at, half)),
        1 => any().prop_map(Step::Cancel),
    ]
}

type Waits = Pin<Box<dyn Future<Output = Lease>>>;

/// Leases and waiting requests, the latter by share in the order in which they were made.
#[derive(Default)]
struct Model {
    held: Vec<Lease>,
    waiting: [VecDeque<Waits>; SHARES.len()],
}

impl Model {
    /// Takes out what was given. The requests of a share are served in order.
    fn collect(&mut self) {
        for queue in &mut self.waiting {
            let mut served_all = true;
            let mut left = VecDeque::new();
            for mut request in queue.drain(..) {
                match poll(request.as_mut()) {
                    Poll::Ready(lease) => {
                        assert!(served_all, "a later request of the same share was served before");
                        self.held.push(lease);
                    }
                    Poll::Pending => {
                        served_all = false;
                        left.push_back(request);
                    }
                }
            }
            *queue = left;
        }
    }

    fn check(&self, budget: &Budget) {
        let held: usize = self.held.iter().map(Lease::bytes).sum();
        assert_eq!(held, budget.used_bytes());
        assert!(held <= budget.cap_bytes());
        for share in SHARES {
            let (used, floor) = (budget.used_by(share), share.floor(budget.cap_bytes()));
            assert!(used <= budget.limit_bytes(share));
            let kept = if share == Share::Fetch { floor / 2 } else { floor };
            let is_empty = self.waiting[share as usize].is_empty();
            assert!(!is_empty || used >= kept || budget.has_room(share, kept - used), "{share:?} lacks its own part");
        }
        let foreground = |share: &Share| share.is_foreground();
        let waiting: usize = SHARES.iter().copied().filter(foreground).map(|s| self.waiting[s as usize].len()).sum();
        assert_eq!(waiting, budget.waiting());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn whatever_is_asked_for_the_rules_hold_and_everybody_is_served(
        cap in prop_oneof![1..40_usize, Just(32 << 20)],
        steps in prop::collection::vec(step(64), 1..120),
    ) {
        let budget = Budget::new(cap);
        // Sizes from a part of the cap up to more than all of it.
        let size = move |bytes: usize| if cap > 1000 { bytes * (cap / 48) } else { bytes };
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Acquire(share, bytes) => {
                    let budget = budget.clone();
                    model.waiting[share as usize].push_back(Box::pin(async move { budget.acquire(share, size(bytes)).await }));
                }
                Step::Try(share, bytes) => {
                    let had_room = budget.has_room(share, size(bytes));
                    let lease = budget.try_acquire(share, size(bytes));
                    prop_assert_eq!(had_room, lease.is_some());
                    model.held.extend(lease);
                }
                Step::Release(at, half) if !model.held.is_empty() => {
                    let at = at.index(model.held.len());
                    let mut lease = model.held.swap_remove(at);
                    if half {
                        let rest = lease.split(lease.bytes() / 2);
                        model.held.push(rest);
                    }
                }
                Step::Cancel(at) => {
                    let share = at.index(SHARES.len());
                    let waits = model.waiting[share].len();
                    if waits > 0 {
                        model.waiting[share].remove(at.index(waits));
                    }
                }
                Step::Release(..) => {}
            }
            model.collect();
            model.check(&budget);
        }
        // As leases come back everybody is served, and whenever nothing is held somebody is.
        while model.waiting.iter().any(|queue| !queue.is_empty()) {
            prop_assert!(!model.held.is_empty(), "somebody waits for nothing");
            model.held.pop();
            model.collect();
            model.check(&budget);
        }
        model.held.clear();
        prop_assert_eq!((budget.used_bytes(), budget.waiting()), (0, 0));
    }
}
