//! Whose turn a background job is (format: metadata.md §6.15).

use super::{Verdict, decision};
use crate::{
    record::{AccountKey, Counter, Key},
    txn::{AccountEffect, Decision, Effect, Effects, Operation, ReadSet},
};

/// Sets a time counter to `now` unless it is younger than `interval`; whether it was set.
#[derive(Debug)]
pub(crate) struct SetIfOlder {
    pub(crate) counter: Counter,
    pub(crate) now_secs: i64,
    pub(crate) interval_secs: i64,
}

impl Operation for SetIfOlder {
    type Reply = bool;
    const NAME: &'static str = "set_if_older";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Account(AccountKey::Counter(self.counter))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<bool> {
        decision(self.judge(read))
    }
}

impl SetIfOlder {
    fn judge(&self, read: &ReadSet) -> Verdict<bool> {
        let mut effects = Effects::none();
        let due = read.counter(self.counter) <= self.now_secs.saturating_sub(self.interval_secs);
        if due {
            effects.push(Effect::Account(AccountEffect::SetCounter(self.counter, self.now_secs)));
        }
        Ok((due, effects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Value;

    #[test]
    fn one_client_per_interval_gets_the_turn() {
        let turn = |last, now_secs| {
            let mut read = ReadSet::default();
            read.insert(Key::Account(AccountKey::Counter(Counter::LastCleanupFiles)), Some(Value::Counter(last)));
            let op = SetIfOlder { counter: Counter::LastCleanupFiles, now_secs, interval_secs: 10 };
            matches!(op.decide(&read), Decision::Done(true, effects) if effects.list.len() == 1)
        };
        assert!(turn(0, 1_000));
        assert!(!turn(991, 1_000));
        assert!(turn(990, 1_000));
    }
}
