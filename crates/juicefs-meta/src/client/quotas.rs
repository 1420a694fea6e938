//! Quotas of directories, users and groups: who is charged for what an operation changes, and whether there is room.
//!
//! What is limited is checked and charged in the same atomic step as the change itself, on what is stored at that moment:
//! however many clients write, a limit is not exceeded. What is only counted is gathered here and told to the store every
//! few seconds, as other clients do it.
//!
//! Which directories are above a changed one is read, and guarded, together with the change: a rename of this or another
//! client cannot leave it with the wrong ones.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use juicefs_core::{
    ids::Ino,
    quota::{Quota, QuotaSubject},
};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::run::Books;
use crate::{
    ops::ascent::{Ascent, Step},
    record::{AccountKey, Key},
    txn::{AccountEffect, Applied, Decision, Effect, Effects, NodeEffect, NodeGuard, Operation, ReadSet, Usage},
};

/// How long what is only counted may stay untold.
const TELL_INTERVAL: Duration = Duration::from_secs(3);

/// What this client knows of quotas.
#[derive(Debug)]
pub(super) struct QuotaBook {
    /// Some directory has a quota.
    dirs: AtomicBool,
    /// Usage by user and group is counted.
    owners: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// As stored when it was last looked at, and with what was charged since.
    known: HashMap<QuotaSubject, Quota>,
    /// Done and not told.
    pending: HashMap<QuotaSubject, Usage>,
    told: Instant,
}

/// What an operation adds to usage that is only counted.
pub(super) type Charges = Vec<(QuotaSubject, Usage)>;

/// What an operation has found out for its quotas.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// What is below directories that move.
    sizes: HashMap<Ino, Usage>,
    /// Nodes that were read only to see what is above a directory.
    asked: HashSet<Ino>,
}

impl Survey {
    /// Knows how much is below some directories.
    pub(super) fn of(sizes: HashMap<Ino, Usage>) -> Self {
        Self { sizes, asked: HashSet::new() }
    }
}

/// Why an operation cannot be charged.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// These have to be read first.
    More(Vec<Key>),
    /// A quota has no room.
    Full,
    /// It has to be known first how much is below this directory.
    Unmeasured(Ino),
}

impl Default for QuotaBook {
    fn default() -> Self {
        let state = State { known: HashMap::new(), pending: HashMap::new(), told: Instant::now() };
        Self { dirs: AtomicBool::new(false), owners: AtomicBool::new(false), state: Mutex::new(state) }
    }
}

impl QuotaBook {
    /// The stored quotas are `quotas`. What is untold of directories that have none any more is dropped.
    pub(super) fn learn(&self, quotas: HashMap<QuotaSubject, Quota>, owners: bool) {
        let mut state = self.state.lock();
        state.known = quotas;
        let State { known, pending, .. } = &mut *state;
        pending.retain(|subject, _| match subject {
            QuotaSubject::Dir(_) => known.contains_key(subject),
            QuotaSubject::User(_) | QuotaSubject::Group(_) => owners,
        });
        let dirs = known.keys().any(|subject| matches!(subject, QuotaSubject::Dir(_)));
        self.dirs.store(dirs, Ordering::Release);
        self.owners.store(owners, Ordering::Release);
    }

    /// Whether a directory has a quota.
    pub(super) fn has_dirs(&self) -> bool {
        self.dirs.load(Ordering::Acquire)
    }

    /// Whether this directory has one.
    pub(super) fn has_dir(&self, dir: Ino) -> bool {
        self.has_dirs() && self.state.lock().known.contains_key(&QuotaSubject::Dir(dir))
    }

    /// A quota as this client knows it, with what it has not told.
    pub(super) fn seen(&self, subject: QuotaSubject) -> Option<Quota> {
        let state = self.state.lock();
        let quota = *state.known.get(&subject)?;
        let pending = state.pending.get(&subject).copied().unwrap_or_default();
        let (used_space, used_inodes) = (quota.used_space + pending.space, quota.used_inodes + pending.inodes);
        Some(Quota { used_space, used_inodes, ..quota })
    }

    /// Whether a user or group has, as far as this client knows, no room for so much more.
    pub(super) fn owner_is_full(&self, uid: u32, gid: u32, more: Usage) -> bool {
        let full = |subject| self.seen(subject).is_some_and(|quota| !has_room(&quota, Usage::default(), more));
        self.owners.load(Ordering::Acquire) && (full(QuotaSubject::User(uid)) || full(QuotaSubject::Group(gid)))
    }

    /// Charges what an operation changes: what is limited becomes part of its effects, with the guard that there is room;
    /// the rest is returned. Users come before groups and those before directories.
    pub(super) fn charge(
        &self,
        read: &ReadSet,
        effects: &mut Effects,
        survey: &mut Survey,
    ) -> Result<Charges, Refusal> {
        let (dirs, owners) = (self.has_dirs(), self.owners.load(Ordering::Acquire));
        if !dirs && !owners || effects.list.is_empty() {
            return Ok(Charges::new());
        }
        let mut deltas: BTreeMap<QuotaSubject, Usage> = BTreeMap::new();
        if owners {
            for (uid, gid, delta) in &effects.owned {
                for subject in [QuotaSubject::User(*uid), QuotaSubject::Group(*gid)] {
                    let sum = deltas.entry(subject).or_default();
                    *sum = sum.plus(*delta);
                }
            }
        }
        if dirs {
            self.charge_directories(read, effects, survey, &mut deltas)?;
        }
        deltas.retain(|_, delta| *delta != Usage::default());
        self.settle_limits(read, effects, deltas)
    }

    fn charge_directories(
        &self,
        read: &ReadSet,
        effects: &mut Effects,
        survey: &mut Survey,
        deltas: &mut BTreeMap<QuotaSubject, Usage>,
    ) -> Result<(), Refusal> {
        let state = self.state.lock();
        let mut charge = |above: &[Ino], delta: Usage| {
            for dir in above {
                let sum = deltas.entry(QuotaSubject::Dir(*dir)).or_default();
                *sum = sum.plus(delta);
            }
        };
        for (dir, stat) in &effects.dir_stats {
            let delta = Usage { space: stat.space, inodes: stat.inodes };
            if delta != Usage::default() {
                charge(&state.above(read, *dir, survey)?, delta);
            }
        }
        for moved in &effects.moved {
            let (from, to) = (state.above(read, moved.from, survey)?, state.above(read, moved.to, survey)?);
            if from != to {
                let size = state.below(read, moved.ino, survey)?;
                charge(&from, Usage::default().minus(size));
                charge(&to, size);
            }
        }
        // Of what was read to see the way up, no more than the place matters, unless the operation replaces it.
        let replaced = |ino: Ino, effects: &Effects| {
            let touches = |effect: &Effect| match effect {
                Effect::Node(other, NodeEffect::Insert(_))
                | Effect::Node(other, NodeEffect::Update(_))
                | Effect::Node(other, NodeEffect::Delete) => *other == ino,
                _ => false,
            };
            effects.list.iter().any(touches) || effects.narrowed.iter().any(|(other, _)| *other == ino)
        };
        for ino in &survey.asked {
            if !replaced(*ino, effects) {
                effects.narrowed.push((*ino, NodeGuard::Place));
            }
        }
        Ok(())
    }

    /// Charges sums: those of limited quotas in the operation itself, if there is room.
    fn settle_limits(
        &self,
        read: &ReadSet,
        effects: &mut Effects,
        deltas: BTreeMap<QuotaSubject, Usage>,
    ) -> Result<Charges, Refusal> {
        let state = self.state.lock();
        // Removing must not fail because the trash has no room.
        let is_trash = |effect: &Effect| matches!(effect, Effect::Node(ino, NodeEffect::Insert(_)) if ino.is_trash());
        let checked = !effects.list.iter().any(is_trash);
        let limited = |subject: &QuotaSubject| state.known.get(subject).is_some_and(Quota::is_limited);
        let grows = |delta: &Usage| checked && (delta.space > 0 || delta.inodes > 0);
        let wanted = deltas.iter().filter(|(subject, delta)| limited(subject) && grows(delta));
        let missing: Vec<_> =
            wanted.map(|(s, _)| Key::Account(AccountKey::Quota(*s))).filter(|key| !read.contains(key)).collect();
        if !missing.is_empty() {
            return Err(Refusal::More(missing));
        }
        let mut charges = Charges::new();
        for (subject, delta) in deltas {
            if !limited(&subject) {
                charges.push((subject, delta));
                continue;
            }
            if grows(&delta)
                && let Some(quota) = read.quota(subject)
            {
                let pending = state.pending.get(&subject).copied().unwrap_or_default();
                if !has_room(quota, pending, delta) {
                    return Err(Refusal::Full);
                }
                effects.rooms.push((subject, most_used(quota, pending, delta)));
            }
            effects.push(Effect::Account(AccountEffect::AddUsage(subject, delta)));
        }
        Ok(charges)
    }

    /// What was charged is done.
    pub(super) fn settle(&self, effects: &[(QuotaSubject, Usage)], charges: Charges) {
        if effects.is_empty() && charges.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for (subject, delta) in effects {
            if let Some(quota) = state.known.get_mut(subject) {
                quota.used_space += delta.space;
                quota.used_inodes += delta.inodes;
            }
        }
        for (subject, delta) in charges {
            let sum = state.pending.entry(subject).or_default();
            *sum = sum.plus(delta);
        }
    }

    /// What the store has not been told, if it is time to, or in any case with `all`.
    pub(super) fn untold(&self, all: bool) -> Charges {
        let mut state = self.state.lock();
        if state.pending.is_empty() || !all && state.told.elapsed() < TELL_INTERVAL {
            return Charges::new();
        }
        state.told = Instant::now();
        let mut untold: Charges = state.pending.iter().map(|(subject, delta)| (*subject, *delta)).collect();
        untold.sort_unstable_by_key(|(subject, _)| *subject);
        untold
    }

    fn told(&self, charges: &Charges) {
        let mut state = self.state.lock();
        for (subject, delta) in charges {
            let left = state.pending.get(subject).copied().unwrap_or_default().minus(*delta);
            if left == Usage::default() {
                state.pending.remove(subject);
            } else {
                state.pending.insert(*subject, left);
            }
        }
    }
}

impl State {
    /// The directories with a quota that something in `dir` counts for, `dir` itself first.
    fn above(&self, read: &ReadSet, dir: Ino, survey: &mut Survey) -> Result<SmallVec<[Ino; 4]>, Refusal> {
        let mut found = SmallVec::new();
        let (mut way, mut at) = (Ascent::default(), dir);
        loop {
            let step = way.step(at);
            // What is in the trash counts for nobody.
            if step != Step::Circle && !at.is_trash() && self.known.contains_key(&QuotaSubject::Dir(at)) {
                found.push(at);
            }
            if step != Step::Up {
                break;
            }
            if !read.contains(&Key::Node(at)) {
                survey.asked.insert(at);
                return Err(Refusal::More(vec![Key::Node(at)]));
            }
            let Some(attr) = read.node(at) else { break };
            at = attr.parent;
        }
        Ok(found)
    }

    /// How much is below a directory, by its own quota or because it was counted.
    fn below(&self, read: &ReadSet, dir: Ino, survey: &Survey) -> Result<Usage, Refusal> {
        let subject = QuotaSubject::Dir(dir);
        if self.known.contains_key(&subject) {
            if !read.contains(&Key::Account(AccountKey::Quota(subject))) {
                return Err(Refusal::More(vec![Key::Account(AccountKey::Quota(subject))]));
            }
            if let Some(quota) = read.quota(subject) {
                let pending = self.pending.get(&subject).copied().unwrap_or_default();
                return Ok(Usage { space: quota.used_space, inodes: quota.used_inodes }.plus(pending));
            }
        }
        survey.sizes.get(&dir).copied().ok_or(Refusal::Unmeasured(dir))
    }
}

/// Whether `more` fits beside what is stored and `pending`.
fn has_room(quota: &Quota, pending: Usage, more: Usage) -> bool {
    let most = most_used(quota, pending, more);
    quota.used_space <= most.space && quota.used_inodes <= most.inodes
}

/// What may be stored as used at most so that `more` fits beside it and `pending`.
fn most_used(quota: &Quota, pending: Usage, more: Usage) -> Usage {
    let most = |max: i64, pending: i64, more: i64| if max > 0 && more > 0 { max - pending - more } else { i64::MAX };
    Usage {
        space: most(quota.max_space, pending.space, more.space),
        inodes: most(quota.max_inodes, pending.inodes, more.inodes),
    }
}

/// What an operation charges in its own step.
pub(super) fn charged(effects: &Effects) -> Vec<(QuotaSubject, Usage)> {
    let charge = |effect: &Effect| match effect {
        Effect::Account(AccountEffect::AddUsage(subject, delta)) => Some((*subject, *delta)),
        _ => None,
    };
    effects.list.iter().filter_map(charge).collect()
}

/// Tells the store what was only counted so far. That it was told is booked when it is applied, even if nobody waits for
/// it any more.
#[derive(Debug)]
pub(super) struct TellQuotas {
    pub(super) charges: Charges,
    pub(super) books: Arc<Books>,
}

impl Operation for TellQuotas {
    type Reply = ();
    const NAME: &'static str = "tell_quotas";
    /// What is told again is counted twice.
    const NEEDS_OUTCOME: bool = true;

    fn keys(&self) -> Vec<Key> {
        Vec::new()
    }

    fn decide(&self, _read: &ReadSet) -> Decision<()> {
        let mut effects = Effects::none();
        for (subject, delta) in &self.charges {
            effects.push(Effect::Account(AccountEffect::AddUsage(*subject, *delta)));
        }
        Decision::Done((), effects)
    }

    fn finish(&self, (): (), _applied: &Applied) {
        self.books.quotas.told(&self.charges);
    }
}
