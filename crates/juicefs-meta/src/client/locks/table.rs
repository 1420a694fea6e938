//! What this client holds locked, and who waits here for what, in the order of arrival.
//!
//! What is held is known from what the engine granted and took back, so a request that another owner of this client
//! excludes need not ask the engine: it waits to be rung. A request is only held back by an earlier one that asks for no
//! more than it does: whatever keeps that one waiting keeps this one waiting as well. So nobody waits who could have the
//! lock on Linux, and yet nobody overtakes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use juicefs_core::{
    ids::{Ino, SessionId},
    limits::LOCK_WAITS_MAX,
    lock::{LockKind, LockRange, RangeLock},
};
use tokio::sync::{Mutex, Notify};

use super::Held;
use crate::{ops::plock::ranges::replace, record::Plock};

/// The two kinds of locks, which know nothing of each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Class {
    /// Of flock(2): on the whole file.
    File,
    /// Of fcntl(2): on ranges.
    Range,
}

/// The locks of one class on one file.
pub(super) type PlaceKey = (Class, Ino);

/// Who wants which lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) owner: u64,
    pub(super) lock: RangeLock,
}

impl Request {
    /// Whether whatever keeps `self` from its lock keeps `other` from its own.
    fn is_within(&self, other: &Self) -> bool {
        self.lock.kind <= other.lock.kind && other.lock.range.covers(self.lock.range)
    }
}

/// What is known here about the chances of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Only the engine can tell.
    Ask,
    /// Another owner of this client excludes it.
    Excluded,
    /// An earlier request is to have its turn first.
    Behind,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    request: Request,
    bell: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Place {
    held: BTreeMap<u64, Vec<Plock>>,
    /// In the order of arrival.
    waiting: Vec<Waiting>,
    /// Calls under way.
    visits: usize,
    turn: Arc<Mutex<()>>,
}

impl Place {
    /// The owners of this client that exclude a request.
    fn obstacles(&self, request: Request) -> impl Iterator<Item = u64> {
        let others = self.held.iter().filter(move |(owner, _)| **owner != request.owner);
        others.filter(move |(_, held)| excludes(held, request.lock)).map(|(owner, _)| *owner)
    }

    fn verdict(&self, class: Class, request: Request, number: u64) -> Verdict {
        let own = self.held.get(&request.owner);
        // A lock of flock(2) is given up for one of another kind before that is waited for.
        if class == Class::File && own.is_some_and(|own| own.iter().any(|had| had.kind() != request.lock.kind)) {
            return Verdict::Ask;
        }
        if self.obstacles(request).next().is_some() {
            return Verdict::Excluded;
        }
        // Whoever holds something here may be what an earlier one waits for.
        let earlier = self.waiting.iter().take_while(|other| other.number < number);
        if own.is_none() && earlier.into_iter().any(|other| other.request.is_within(&request)) {
            return Verdict::Behind;
        }
        Verdict::Ask
    }
}

fn excludes(held: &[Plock], lock: RangeLock) -> bool {
    held.iter().any(|record| record.range.overlaps(lock.range) && record.kind().conflicts(lock.kind))
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The session that holds what is held.
    session: SessionId,
    places: HashMap<PlaceKey, Place>,
    next: u64,
    waits: usize,
}

impl Table {
    /// A call begins; the turn that calls on the same place take.
    pub(super) fn enter(&mut self, key: PlaceKey) -> Arc<Mutex<()>> {
        let place = self.places.entry(key).or_default();
        place.visits += 1;
        Arc::clone(&place.turn)
    }

    /// A call ends.
    pub(super) fn leave(&mut self, key: PlaceKey) {
        let Some(place) = self.places.get_mut(&key) else { return };
        place.visits -= 1;
        if place.visits == 0 && place.held.is_empty() && place.waiting.is_empty() {
            self.places.remove(&key);
        }
    }

    /// A request begins to wait: its number, and the bell that is rung when it should try. `None` when too many wait.
    pub(super) fn queue(&mut self, key: PlaceKey, request: Request) -> Option<(u64, Arc<Notify>)> {
        if self.waits >= LOCK_WAITS_MAX {
            return None;
        }
        self.waits += 1;
        self.next += 1;
        let (number, bell) = (self.next, Arc::new(Notify::new()));
        let waiting = Waiting { number, request, bell: Arc::clone(&bell) };
        self.places.entry(key).or_default().waiting.push(waiting);
        Some((number, bell))
    }

    /// It waits no longer. Who stood behind it may have a chance now.
    pub(super) fn unqueue(&mut self, key: PlaceKey, number: u64) {
        let Some(place) = self.places.get_mut(&key) else { return };
        place.waiting.retain(|waiting| waiting.number != number);
        self.waits -= 1;
        self.ring(key, number);
    }

    /// What is known about a request that came as `number`; one that does not wait is behind nobody.
    pub(super) fn verdict(&self, key: PlaceKey, request: Request, number: Option<u64>) -> Verdict {
        let place = self.places.get(&key);
        place.map_or(Verdict::Ask, |place| place.verdict(key.0, request, number.unwrap_or(0)))
    }

    /// The engine granted a request of the session `sid`; false when locks are those of another one by now.
    pub(super) fn granted(&mut self, key: PlaceKey, Request { owner, lock }: Request, sid: SessionId) -> bool {
        if sid != self.session {
            return false;
        }
        let held = self.places.entry(key).or_default().held.entry(owner).or_default();
        let with = Plock { kind: Plock::number(lock.kind), pid: lock.pid, range: lock.range };
        *held = replace(held, lock.range, Some(with));
        true
    }

    /// What an owner had in a range is not, or not for certain, its own any more. Rings the first who has a chance now.
    pub(super) fn released(&mut self, key: PlaceKey, owner: u64, range: LockRange) {
        if let Some(place) = self.places.get_mut(&key)
            && let Some(held) = place.held.get_mut(&owner)
        {
            *held = replace(held, range, None);
            if held.is_empty() {
                place.held.remove(&owner);
            }
        }
        self.ring(key, 0);
    }

    /// The engine did not grant a request of flock(2): a lock of the other kind that its owner had is gone.
    pub(super) fn gave_up(&mut self, key: PlaceKey, owner: u64) {
        if self.places.get(&key).is_some_and(|place| place.held.contains_key(&owner)) {
            self.released(key, owner, LockRange::ALL);
        }
    }

    /// Rings the first who came after number `after` and has a chance. Whoever is rung rings the next after its try.
    pub(super) fn ring(&self, key: PlaceKey, after: u64) {
        let Some(place) = self.places.get(&key) else { return };
        let later = place.waiting.iter().filter(|waiting| waiting.number > after);
        let chance = |waiting: &&Waiting| place.verdict(key.0, waiting.request, waiting.number) == Verdict::Ask;
        if let Some(waiting) = later.into_iter().find(chance) {
            waiting.bell.notify_one();
        }
    }

    /// Rings everywhere.
    pub(super) fn ring_all(&self) {
        self.places.keys().for_each(|key| self.ring(*key, 0));
    }

    /// Nothing is held any more, and from now on locks are those of the session `next`. Returns what was held, of each class.
    pub(super) fn lose(&mut self, next: SessionId) -> (Vec<Held>, Vec<Held>) {
        self.session = next;
        let (mut files, mut ranges) = (Vec::new(), Vec::new());
        for ((class, ino), place) in &mut self.places {
            let lost = match class {
                Class::File => &mut files,
                Class::Range => &mut ranges,
            };
            lost.extend(std::mem::take(&mut place.held).into_keys().map(|owner| (*ino, owner)));
        }
        self.ring_all();
        self.places.retain(|_, place| place.visits > 0 || !place.waiting.is_empty());
        (files, ranges)
    }

    /// Whether waiting for a range would never end, because one of those who exclude it waits, over however many, for its
    /// owner. Sees the owners of this client alone.
    pub(super) fn is_deadlock(&self, key: PlaceKey, request: Request) -> bool {
        let Some(place) = self.places.get(&key) else { return false };
        let mut waits: BTreeMap<u64, Vec<(&Place, Request)>> = BTreeMap::new();
        for ((class, _), place) in &self.places {
            for waiting in place.waiting.iter().filter(|_| *class == Class::Range) {
                waits.entry(waiting.request.owner).or_default().push((place, waiting.request));
            }
        }
        let mut seen = BTreeSet::new();
        let mut ahead: Vec<u64> = place.obstacles(request).collect();
        while let Some(owner) = ahead.pop() {
            if owner == request.owner {
                return true;
            }
            if seen.insert(owner) {
                let blocked = waits.get(&owner).into_iter().flatten();
                ahead.extend(blocked.flat_map(|(place, request)| place.obstacles(*request)));
            }
        }
        false
    }

    /// Places that anything is known of.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}

/// A lock of flock(2) as a range, which is how both classes are kept here.
pub(super) fn whole(kind: LockKind) -> RangeLock {
    RangeLock { kind, range: LockRange::ALL, pid: 0 }
}

#[cfg(test)]
mod tests;
