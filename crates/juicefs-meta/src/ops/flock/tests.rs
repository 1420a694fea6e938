use std::collections::BTreeMap;

use juicefs_core::{attr::Attr, ids::SessionId};

use super::*;
use crate::{
    record::{HolderKey, Session, Value},
    txn::LockEffect,
};

const INO: Ino = Ino(7);

fn owner(sid: u64, number: u64) -> LockOwner {
    LockOwner { sid: SessionId(sid), number }
}

/// A file on which these are held, in a volume of sessions 1 and 2.
fn read(held: &[(LockOwner, LockKind)]) -> ReadSet {
    let mut read = ReadSet::default();
    read.insert(Key::Node(INO), Some(Value::Node(Attr::default())));
    let held: BTreeMap<_, _> = held.iter().copied().collect();
    read.insert(Key::Holder(HolderKey::Flocks(INO)), (!held.is_empty()).then_some(Value::Flocks(held)));
    for sid in [1, 2] {
        let session = Session { expire_secs: 1, info: bytes::Bytes::new() };
        read.insert(Key::Holder(HolderKey::Session(SessionId(sid))), Some(Value::Session(session)));
    }
    read.insert(Key::Holder(HolderKey::Session(SessionId(3))), None);
    read
}

fn ask(held: &[(LockOwner, LockKind)], owner: LockOwner, kind: LockKind) -> (bool, Vec<Effect>) {
    match (Flock { ino: INO, owner, kind }).decide(&read(held)) {
        Decision::Done(reply, effects) => (reply != Requested::Busy, effects.list),
        other => panic!("{other:?}"),
    }
}

use LockKind::{Read, Write};

#[test]
fn readers_share_and_writers_exclude() {
    let (one, two) = (owner(1, 1), owner(2, 1));
    assert_eq!(ask(&[], one, Write), (true, vec![Effect::Lock(INO, one, LockEffect::PutFlock(Write))]));
    assert_eq!(ask(&[(one, Read)], two, Read), (true, vec![Effect::Lock(INO, two, LockEffect::PutFlock(Read))]));
    assert_eq!(ask(&[(one, Read)], two, Write), (false, vec![]));
    assert_eq!(ask(&[(one, Write)], two, Read), (false, vec![]));
    assert_eq!(ask(&[(one, Write)], one, Write), (true, vec![]), "it has it");
    assert_eq!(
        ask(&[(one, Write)], one, Read),
        (true, vec![Effect::Lock(INO, one, LockEffect::PutFlock(Read))]),
        "a downgrade"
    );
    assert_eq!(
        ask(&[(one, Read)], one, Write),
        (true, vec![Effect::Lock(INO, one, LockEffect::PutFlock(Write))]),
        "an upgrade"
    );
}

#[test]
fn an_upgrade_that_must_wait_gives_up_what_was_held() {
    let held = [(owner(1, 1), Read), (owner(2, 1), Read)];
    assert_eq!(ask(&held, owner(1, 1), Write), (false, vec![Effect::Lock(INO, owner(1, 1), LockEffect::DeleteFlock)]));
}

#[test]
fn the_last_of_a_session_is_known() {
    let held = [(owner(1, 1), Read), (owner(1, u64::MAX), Read), (owner(2, 1), Read)];
    let unlock = |owner| match (Funlock { ino: INO, owner }).decide(&read(&held)) {
        Decision::Done((), effects) => effects.list,
        other => panic!("{other:?}"),
    };
    assert_eq!(unlock(owner(1, 1)), [Effect::Lock(INO, owner(1, 1), LockEffect::DeleteFlock)]);
    assert_eq!(unlock(owner(2, 1)), [Effect::Lock(INO, owner(2, 1), LockEffect::DeleteFlock)]);
    assert_eq!(unlock(owner(2, 2)), []);
}

#[test]
fn what_a_gone_session_left_does_not_count() {
    let (gone, one) = (owner(3, 1), owner(1, 1));
    let (granted, effects) = ask(&[(gone, Read)], one, Write);
    assert!(granted);
    assert_eq!(
        effects,
        [Effect::Lock(INO, gone, LockEffect::DeleteFlock), Effect::Lock(INO, one, LockEffect::PutFlock(Write))]
    );
    assert!(!ask(&[(gone, Read), (owner(2, 1), Read)], one, Write).0);
}

#[test]
fn a_file_that_is_gone_is_not_locked() {
    let mut read = read(&[]);
    read.insert(Key::Node(INO), None);
    let flock = Flock { ino: INO, owner: owner(1, 1), kind: Read };
    assert!(matches!(flock.decide(&read), Decision::Fail(Errno::ENOENT)));
}
