use std::collections::BTreeMap;

use juicefs_core::{attr::Attr, ids::SessionId, lock::LockKind};

use super::*;
use crate::{
    record::{HolderKey, Session, Value},
    txn::LockEffect,
};

const INO: Ino = Ino(7);

fn owner(sid: u64, number: u64) -> LockOwner {
    LockOwner { sid: SessionId(sid), number }
}

fn lock(kind: LockKind, start: u64, end: u64, pid: u32) -> RangeLock {
    RangeLock { kind, range: LockRange { start, end }, pid }
}

fn record(kind: u32, start: u64, end: u64, pid: u32) -> Plock {
    Plock { kind, pid, range: LockRange { start, end } }
}

/// A file on which these are held, in a volume of these sessions.
fn read(held: &[(LockOwner, Vec<Plock>)], sessions: &[u64]) -> ReadSet {
    let mut read = ReadSet::default();
    read.insert(Key::Node(INO), Some(Value::Node(Attr::default())));
    let held: BTreeMap<_, _> = held.iter().cloned().collect();
    read.insert(Key::Holder(HolderKey::Plocks(INO)), (!held.is_empty()).then_some(Value::Plocks(held)));
    for sid in 0..10 {
        let session = Session { expire_secs: 1, info: bytes::Bytes::new() };
        let there = sessions.contains(&sid).then_some(Value::Session(session));
        read.insert(Key::Holder(HolderKey::Session(SessionId(sid))), there);
    }
    read
}

fn set(read: &ReadSet, owner: LockOwner, lock: RangeLock) -> (Requested, Vec<Effect>) {
    match (SetRange { ino: INO, owner, lock }).decide(read) {
        Decision::Done(reply, effects) => (reply, effects.list),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_overlaps_and_writes_excludes() {
    let held = read(&[(owner(1, 5), vec![record(0, 10, 19, 3)])], &[1, 2]);
    let asks = |kind, start, end| set(&held, owner(1, 6), lock(kind, start, end, 4)).0 != Requested::Busy;
    assert!(asks(LockKind::Read, 0, 100) && asks(LockKind::Write, 0, 9) && asks(LockKind::Write, 20, LockRange::LAST));
    assert!(!asks(LockKind::Write, 19, 19) && !asks(LockKind::Write, 0, LockRange::LAST));
    // The same number in another session is another owner; the owner itself is never in its own way.
    assert_eq!(set(&held, owner(2, 5), lock(LockKind::Write, 10, 10, 4)).0, Requested::Busy);
    let (reply, effects) = set(&held, owner(1, 5), lock(LockKind::Write, 12, 13, 3));
    assert_ne!(reply, Requested::Busy);
    let pieces = vec![record(0, 10, 11, 3), record(1, 12, 13, 3), record(0, 14, 19, 3)];
    assert_eq!(effects, [Effect::Lock(INO, owner(1, 5), LockEffect::PutPlocks(pieces))]);
}

#[test]
fn kinds_of_other_systems_exclude() {
    // 3 is F_WRLCK on macOS.
    let held = read(&[(owner(1, 5), vec![record(3, 0, 9, 3)])], &[1, 2]);
    assert_eq!(set(&held, owner(2, 1), lock(LockKind::Read, 0, 0, 4)).0, Requested::Busy);
}

#[test]
fn locks_of_a_session_that_is_gone_go() {
    let held = [(owner(3, 5), vec![record(1, 0, 9, 3)]), (owner(3, 6), vec![record(1, 20, 29, 3)])];
    let (reply, effects) = set(&read(&held, &[2]), owner(2, 1), lock(LockKind::Write, 0, 9, 4));
    assert_ne!(reply, Requested::Busy);
    assert_eq!(effects[0], Effect::Lock(INO, owner(3, 5), LockEffect::DeletePlocks));
    let (_, effects) = set(&read(&held, &[2]), owner(2, 1), lock(LockKind::Write, 0, 29, 4));
    assert_eq!(effects[0], Effect::Lock(INO, owner(3, 5), LockEffect::DeletePlocks));
    assert_eq!(effects[1], Effect::Lock(INO, owner(3, 6), LockEffect::DeletePlocks));
    // One that may live keeps everything as it is.
    let mixed = [held[0].clone(), (owner(4, 5), vec![record(1, 5, 5, 3)])];
    assert_eq!(set(&read(&mixed, &[2, 4]), owner(2, 1), lock(LockKind::Write, 0, 9, 4)), (Requested::Busy, vec![]));
    let unknown = [(owner(0, 5), vec![record(1, 0, 9, 3)])];
    assert_eq!(set(&read(&unknown, &[2]), owner(2, 1), lock(LockKind::Write, 0, 9, 4)).0, Requested::Busy);
}

#[test]
fn the_first_obstacle_is_told_with_the_process_of_the_own_session() {
    let held = [
        (owner(1, 5), vec![record(1, 50, 59, 3), record(0, 70, 79, 3)]),
        (owner(2, 5), vec![record(1, 20, 29, 8)]),
        (owner(3, 5), vec![record(1, 0, 9, 9)]),
    ];
    let read = read(&held, &[1, 2]);
    let first = |owner, lock| first_obstacle(&read, INO, owner, lock).expect("judged");
    let all = lock(LockKind::Write, 0, LockRange::LAST, 4);
    assert_eq!(first(owner(1, 6), all), Some(lock(LockKind::Write, 20, 29, 0)), "the third session is gone");
    assert_eq!(first(owner(2, 6), all), Some(lock(LockKind::Write, 20, 29, 8)));
    assert_eq!(first(owner(1, 6), lock(LockKind::Read, 60, 99, 4)), None);
}

#[test]
fn unlocking_nothing_is_no_change() {
    let held = read(&[(owner(1, 5), vec![record(1, 0, 9, 3)])], &[1]);
    let clear =
        |owner, start, end| match (ClearRange { ino: INO, owner, range: LockRange { start, end } }).decide(&held) {
            Decision::Done((), effects) => effects.list,
            other => panic!("{other:?}"),
        };
    assert_eq!(clear(owner(1, 6), 0, 9), []);
    assert_eq!(clear(owner(1, 5), 10, 19), []);
    assert_eq!(clear(owner(1, 5), 0, 9), [Effect::Lock(INO, owner(1, 5), LockEffect::DeletePlocks)]);
}

#[test]
fn an_owner_has_a_limit_of_ranges() {
    let many = (0..LOCK_RANGES_MAX as u64).map(|n| record(1, 2 * n, 2 * n, 3)).collect();
    let held = read(&[(owner(1, 5), many)], &[1]);
    let ask = |start| SetRange { ino: INO, owner: owner(1, 5), lock: lock(LockKind::Write, start, start, 3) };
    assert!(matches!(ask(1 << 30).decide(&held), Decision::Fail(Errno::ENOLCK)));
    assert!(matches!(ask(1).decide(&held), Decision::Done(..)), "joining two makes room");
}
