//! Changes that the engine makes for itself: they run among operations.

use juicefs_core::ids::Ino;

use crate::{
    engine::ApplyOutcome,
    record::{AccountKey, Counter, DirStat, Key},
    txn::{AccountEffect, Applied, Effect, Effects, PendingOp, ReadSet, Step},
};

/// Adds to a counter.
pub(super) struct CounterAdd {
    counter: Counter,
    delta: i64,
    value: i64,
}

impl CounterAdd {
    pub(super) fn new(counter: Counter, delta: i64) -> Self {
        Self { counter, delta, value: 0 }
    }

    /// The counter afterwards.
    pub(super) fn value(&self) -> i64 {
        self.value
    }
}

impl PendingOp for CounterAdd {
    fn name(&self) -> &'static str {
        "counter_add"
    }

    fn keys(&self) -> Vec<Key> {
        vec![Key::Account(AccountKey::Counter(self.counter))]
    }

    fn step(&mut self, read: &ReadSet) -> Step {
        self.value = read.counter(self.counter).saturating_add(self.delta);
        let mut effects = Effects::none();
        effects.push(Effect::Account(AccountEffect::SetCounter(self.counter, self.value)));
        Step::Apply(effects)
    }

    fn applied(&mut self, _applied: &Applied) {}
}

/// Adds to the statistics of directories.
pub(super) struct AddDirStats {
    deltas: Vec<(Ino, DirStat)>,
    missing: Vec<Ino>,
}

impl AddDirStats {
    pub(super) fn new(deltas: Vec<(Ino, DirStat)>) -> Self {
        Self { deltas, missing: Vec::new() }
    }

    /// The directories that have no record.
    pub(super) fn missing(self) -> Vec<Ino> {
        self.missing
    }
}

impl PendingOp for AddDirStats {
    fn name(&self) -> &'static str {
        "add_dir_stats"
    }

    fn keys(&self) -> Vec<Key> {
        self.deltas.iter().map(|(ino, _)| Key::Account(AccountKey::DirStat(*ino))).collect()
    }

    fn step(&mut self, read: &ReadSet) -> Step {
        self.missing.clear();
        let mut sums: std::collections::BTreeMap<Ino, DirStat> = std::collections::BTreeMap::new();
        for (ino, delta) in &self.deltas {
            let Some(stat) = read.dir_stat(*ino) else {
                self.missing.push(*ino);
                continue;
            };
            let sum = sums.entry(*ino).or_insert(*stat);
            *sum += *delta;
        }
        let list = sums.into_iter().map(|(ino, stat)| Effect::Account(AccountEffect::PutDirStat(ino, stat))).collect();
        Step::Apply(Effects { list, ..Effects::none() })
    }

    fn applied(&mut self, _applied: &Applied) {}
}

/// Applies effects if what was read still holds.
pub(super) struct GuardedApply {
    read: ReadSet,
    effects: Effects,
    outcome: ApplyOutcome,
}

impl GuardedApply {
    pub(super) fn new(read: &ReadSet, effects: &Effects) -> Self {
        Self { read: read.clone(), effects: effects.clone(), outcome: ApplyOutcome::Conflict }
    }

    /// How it ended.
    pub(super) fn outcome(self) -> ApplyOutcome {
        self.outcome
    }

    fn holds(&self, now: &ReadSet) -> bool {
        self.read.iter().all(|(key, was)| self.effects.still_holds(key, was, now.get(key)))
    }
}

impl PendingOp for GuardedApply {
    fn name(&self) -> &'static str {
        "apply"
    }

    fn keys(&self) -> Vec<Key> {
        self.read.iter().map(|(key, _)| key.clone()).collect()
    }

    fn step(&mut self, read: &ReadSet) -> Step {
        self.outcome = ApplyOutcome::Conflict;
        if self.holds(read) { Step::Apply(self.effects.clone()) } else { Step::Stop }
    }

    fn applied(&mut self, applied: &Applied) {
        self.outcome = ApplyOutcome::Applied(applied.clone());
    }
}
