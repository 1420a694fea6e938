//! From what an operation read and wants changed to the steps of a script: what has to hold first (`guards`), then what is
//! changed (`changes`).

mod changes;
mod guards;

use std::collections::HashMap;

use juicefs_core::ids::SessionId;

pub(super) use self::changes::OUTCOME_SECS;
use super::script::{Plan, StepKind as S};
use crate::{
    layout::redis::{KeySpace, Text, number},
    record::Counter,
    txn::{Effect, Effects, ReadSet, SessionEffect},
};

/// The keys in which sessions hold locks that are about to be removed.
pub(super) type Locked = HashMap<SessionId, Vec<Text>>;

/// The steps that apply `effects` if everything that was read still holds. `outcome` is the key under which the client notes
/// its changes; `locked` has the sessions whose locks are removed.
pub(super) fn plan(keys: &KeySpace, outcome: &Text, read: &ReadSet, locked: &Locked, effects: &Effects) -> Plan {
    let mut plan = Plan::default();
    if let Some(sid) = effects.writer.filter(|_| !effects.list.is_empty()) {
        plan.push(S::Alive, [keys.sessions()], [number(sid.0)]);
    }
    // In the order of the keys, so that equal operations make equal scripts.
    let mut sorted: Vec<_> = read.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    for (key, value) in sorted {
        guards::record(&mut plan, keys, (read, effects), key, value);
    }
    let locked_by = |sid: &SessionId| locked.get(sid).map_or(&[][..], Vec::as_slice);
    for effect in &effects.list {
        if let Effect::Session(sid, SessionEffect::DeleteLocks) = effect {
            guards::locked(&mut plan, keys, *sid, locked_by(sid));
        }
    }
    for effect in &effects.list {
        match effect {
            Effect::Node(ino, effect) => changes::node(&mut plan, keys, *ino, effect),
            Effect::Edge(ino, name, effect) => changes::edge(&mut plan, keys.entries(*ino), name, *effect),
            Effect::Chunk(ino, index, effect) => changes::chunk(&mut plan, keys.chunk(*ino, *index), effect),
            Effect::Slice(effect) => changes::slice(&mut plan, keys, effect),
            Effect::Account(effect) => changes::account(&mut plan, keys, effect),
            Effect::Session(sid, effect) => changes::session(&mut plan, keys, *sid, effect, (outcome, locked_by(sid))),
            Effect::Lock(ino, owner, effect) => {
                changes::lock(&mut plan, keys, (*ino, *owner), effect, (read, &effects.list));
            }
            Effect::Volume(effect) => changes::volume(&mut plan, keys, effect),
        }
    }
    for (counter, delta) in [(Counter::UsedSpace, effects.usage.space), (Counter::TotalInodes, effects.usage.inodes)] {
        if delta != 0 {
            plan.push(S::Add, [keys.counter(counter)], [number(delta)]);
        }
    }
    plan
}

fn bytes(bytes: &[u8]) -> Text {
    Text::from_slice(bytes)
}
