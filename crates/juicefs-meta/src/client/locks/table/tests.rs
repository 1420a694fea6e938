use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

const FILE: PlaceKey = (Class::File, Ino(5));
const RANGE: PlaceKey = (Class::Range, Ino(5));

fn request(owner: u64, kind: LockKind, start: u64, end: u64) -> Request {
    Request { owner, lock: RangeLock { kind, range: LockRange { start, end }, pid: 0 } }
}

fn flock(owner: u64, kind: LockKind) -> Request {
    Request { owner, lock: whole(kind) }
}

/// Whether a bell was rung; it is silent afterwards.
fn rung(bell: &Arc<Notify>) -> bool {
    let mut notified = std::pin::pin!(bell.notified());
    notified.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

use LockKind::{Read, Write};

#[test]
fn what_is_held_here_excludes_without_asking() {
    let mut table = Table::default();
    assert!(table.granted(RANGE, request(1, Read, 0, 9), SessionId(0)));
    assert_eq!(table.verdict(RANGE, request(2, Write, 9, 20), None), Verdict::Excluded);
    assert_eq!(table.verdict(RANGE, request(2, Read, 0, 9), None), Verdict::Ask);
    assert_eq!(table.verdict(RANGE, request(2, Write, 10, 20), None), Verdict::Ask);
    assert_eq!(table.verdict(RANGE, request(1, Write, 0, 20), None), Verdict::Ask, "nobody is in its own way");
    assert_eq!(table.verdict((Class::Range, Ino(6)), request(2, Write, 0, 9), None), Verdict::Ask);
    assert_eq!(
        table.verdict(FILE, flock(2, Write), None),
        Verdict::Ask,
        "the kinds of locks know nothing of each other"
    );
}

#[test]
fn an_upgrade_of_flock_asks_so_that_the_engine_takes_back_what_was_held() {
    let mut table = Table::default();
    assert!(table.granted(FILE, flock(1, Read), SessionId(0)));
    assert!(table.granted(FILE, flock(2, Read), SessionId(0)));
    assert_eq!(table.verdict(FILE, flock(1, Write), None), Verdict::Ask);
    table.gave_up(FILE, 1);
    assert_eq!(table.verdict(FILE, flock(1, Write), None), Verdict::Excluded);
    table.gave_up(FILE, 2);
    assert_eq!(table.verdict(FILE, flock(1, Write), None), Verdict::Ask);
}

#[test]
fn nobody_overtakes_who_asks_for_no_more() {
    let mut table = Table::default();
    let mut queue = |request| table.queue(RANGE, request).expect("room").0;
    let (_, reader, writer) =
        (queue(request(1, Write, 5, 9)), queue(request(2, Read, 0, 9)), queue(request(3, Write, 0, 9)));
    assert_eq!(table.verdict(RANGE, request(2, Read, 0, 9), Some(reader)), Verdict::Ask, "a reader may pass a writer");
    assert_eq!(table.verdict(RANGE, request(3, Write, 0, 9), Some(writer)), Verdict::Behind);
    assert_eq!(table.verdict(RANGE, request(3, Write, 0, 9), None), Verdict::Ask, "who does not wait is behind nobody");
    assert!(table.granted(RANGE, request(3, Write, 50, 50), SessionId(0)));
    assert_eq!(table.verdict(RANGE, request(3, Write, 0, 9), Some(writer)), Verdict::Ask, "others may wait for it");
}

#[test]
fn a_release_rings_the_first_and_each_try_the_next() {
    let mut table = Table::default();
    assert!(table.granted(FILE, flock(9, Write), SessionId(0)));
    let queued: Vec<_> = [(1, Write), (2, Write), (3, Read)]
        .map(|(owner, kind)| table.queue(FILE, flock(owner, kind)).expect("room"))
        .into();
    let rings = || [0, 1, 2].map(|at: usize| rung(&queued[at].1));
    assert_eq!(rings(), [false; 3]);
    table.released(FILE, 9, LockRange::ALL);
    assert_eq!(rings(), [true, false, false]);
    // The first found that another client was quicker, and lets the reader try; the writer stands behind it.
    table.ring(FILE, queued[0].0);
    assert_eq!(rings(), [false, false, true]);
    // It gives up: the writer behind it has a chance.
    table.unqueue(FILE, queued[0].0);
    assert_eq!(rings(), [false, true, false]);
    assert!(table.granted(FILE, flock(2, Write), SessionId(0)));
    table.unqueue(FILE, queued[1].0);
    assert_eq!(rings(), [false; 3], "the reader is excluded");
    assert_eq!(table.lose(SessionId(1)), (vec![(Ino(5), 2)], vec![]));
    assert!(!table.granted(FILE, flock(1, Write), SessionId(0)), "it was granted in the session that is lost");
    assert_eq!(rings(), [false, false, true]);
}

#[test]
fn cycles_of_waiting_owners_are_deadlocks() {
    let at = |ino| (Class::Range, Ino(ino));
    let mut table = Table::default();
    for owner in 1..=3 {
        assert!(table.granted(at(owner), request(owner, Write, 0, 9), SessionId(0)));
    }
    assert!(!table.is_deadlock(at(2), request(1, Write, 0, 9)), "the second does not wait");
    table.queue(at(3), request(2, Read, 5, 5)).expect("room");
    assert!(!table.is_deadlock(at(2), request(1, Write, 0, 9)));
    assert!(table.is_deadlock(at(2), request(3, Write, 9, 9)), "two wait for each other");
    table.queue(at(2), request(1, Write, 0, 9)).expect("room");
    assert!(table.is_deadlock(at(1), request(3, Write, 0, 0)), "and three in a circle");
    assert!(!table.is_deadlock(at(1), request(4, Write, 0, 0)), "who waits for them is not part of it");
    assert!(!table.is_deadlock(at(1), request(3, Write, 10, 10)), "nobody holds that");
}

#[test]
fn so_many_may_wait_and_nothing_is_left_of_them() {
    let mut table = Table::default();
    table.enter(FILE);
    assert!(table.granted(FILE, flock(0, Write), SessionId(0)));
    let numbers: Vec<_> =
        (0..LOCK_WAITS_MAX as u64).map(|n| table.queue(FILE, flock(n + 1, Write)).expect("room").0).collect();
    assert!(table.queue(RANGE, request(1, Read, 0, 0)).is_none());
    numbers.into_iter().for_each(|number| table.unqueue(FILE, number));
    assert!(table.queue(FILE, flock(1, Write)).is_some_and(|(number, _)| {
        table.unqueue(FILE, number);
        true
    }));
    table.released(FILE, 0, LockRange::ALL);
    table.leave(FILE);
    assert_eq!(table.len(), 0);
}

proptest! {
    /// Whatever happens, a request is only kept from asking by what is held here or by an earlier one that is blocked as
    /// well, and everything is forgotten in the end.
    #[test]
    fn nobody_is_held_back_without_reason(
        steps in prop::collection::vec((0..4u8, 0..5u64, any::<bool>(), 0..6u64, 0..6u64), 1..60),
    ) {
        let mut table = Table::default();
        let mut waiting: Vec<(u64, Request)> = Vec::new();
        table.enter(RANGE);
        for (step, owner, write, a, b) in steps {
            let wanted = request(owner, if write { Write } else { Read }, a.min(b), a.max(b));
            match step {
                0 => waiting.push((table.queue(RANGE, wanted).expect("room").0, wanted)),
                1 if table.verdict(RANGE, wanted, None) == Verdict::Ask => assert!(table.granted(RANGE, wanted, SessionId(0))),
                2 => table.released(RANGE, owner, wanted.lock.range),
                _ => if let Some((number, _)) = waiting.pop() { table.unqueue(RANGE, number) },
            }
            let excluded = |request: Request| table.verdict(RANGE, request, None) == Verdict::Excluded;
            for (at, (number, request)) in waiting.iter().enumerate() {
                match table.verdict(RANGE, *request, Some(*number)) {
                    Verdict::Ask => prop_assert!(!excluded(*request)),
                    Verdict::Excluded => prop_assert!(excluded(*request)),
                    Verdict::Behind => prop_assert!(waiting[..at].iter().any(|(_, other)| other.is_within(request))),
                }
            }
        }
        for (number, _) in waiting {
            table.unqueue(RANGE, number);
        }
        (0..5).for_each(|owner| table.released(RANGE, owner, LockRange::ALL));
        table.leave(RANGE);
        prop_assert_eq!(table.len(), 0);
    }
}
