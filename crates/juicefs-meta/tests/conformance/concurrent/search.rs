//! Whether some serial order explains what concurrent callers were told.
//!
//! The order must respect time: a call that was answered before another was made comes first. A call without an answer
//! may come at any later point, or never.

use super::{observe::Observation, op::Call, state::State};

/// More steps than this mean that the rounds are too long, not that the answer is no.
const MOST_STEPS: usize = 2_000_000;

struct Search<'a> {
    calls: &'a [Call],
    seen: &'a Observation,
    /// Which calls are in the order so far.
    done: Vec<bool>,
    steps: usize,
    /// Why the longest orders failed: their length and what was wrong.
    failures: (usize, Vec<String>),
}

/// A state in which the calls, begun in `before`, may have left what was seen; or why the most promising orders fail.
pub(crate) fn explain(before: &State, calls: &[Call], seen: &Observation) -> Result<State, Vec<String>> {
    let mut search = Search { calls, seen, done: vec![false; calls.len()], steps: 0, failures: (0, vec![]) };
    search.go_on(before).ok_or(search.failures.1)
}

impl Search<'_> {
    fn go_on(&mut self, state: &State) -> Option<State> {
        self.steps += 1;
        assert!(self.steps < MOST_STEPS, "too many orders to try");
        let left = |at: &usize| !self.done[*at];
        let mut next: Vec<usize> = (0..self.calls.len()).filter(left).filter(|at| self.may_be_next(*at)).collect();
        // The likeliest first; those without an answer last, for most of them never happened.
        next.sort_by_key(|at| (self.calls[*at].is_optional(), self.calls[*at].ended));
        if self.calls.iter().enumerate().all(|(at, call)| self.done[at] || call.is_optional()) {
            let mut end = state.clone();
            match end.differs(self.seen) {
                None => return Some(end),
                Some(why) => self.note(|| why),
            }
        }
        for at in next {
            let call = &self.calls[at];
            let mut state = state.clone();
            if !state.step(call) {
                self.note(|| format!("not then: {:?} -> {:?}", call.op, call.answer));
                continue;
            }
            self.done[at] = true;
            if let Some(end) = self.go_on(&state) {
                return Some(end);
            }
            self.done[at] = false;
        }
        None
    }

    fn note(&mut self, why: impl FnOnce() -> String) {
        let length = self.done.iter().filter(|done| **done).count();
        if length > self.failures.0 {
            self.failures = (length, vec![]);
        }
        if length == self.failures.0 && self.failures.1.len() < 8 {
            self.failures.1.push(why());
        }
    }

    /// No other call that is still to come had its answer before this one was made.
    fn may_be_next(&self, at: usize) -> bool {
        let begun = self.calls[at].begun;
        if self.calls[at].after.is_some_and(|after| !self.done[after]) {
            return false;
        }
        self.calls
            .iter()
            .enumerate()
            .all(|(other, call)| other == at || self.done[other] || call.is_optional() || call.ended >= begun)
    }
}
