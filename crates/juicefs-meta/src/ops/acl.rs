//! Rules of ACLs: stored once each, inherited by new nodes, kept up under chmod (format: metadata.md §5.6, §6.2, §6.7).

use std::{collections::HashMap, sync::Arc};

use juicefs_core::{acl::AclRule, errno::Errno};
use parking_lot::Mutex;

use super::{Halt, need};
use crate::{
    record::{AccountKey, Counter, Key},
    txn::{AccountEffect, Effect, Effects, ReadSet, VolumeEffect},
};

/// Rules that this client has seen, by content, so that equal rules share an id. Rules never change, so an entry stays
/// true for ever.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The first id of a rule that was seen: equal rules may be stored under several.
    by_content: HashMap<Arc<AclRule>, u32>,
    by_id: HashMap<u32, Arc<AclRule>>,
}

impl RuleIndex {
    pub(crate) fn learn(&self, id: u32, rule: &AclRule) {
        let mut known = self.known.lock();
        let rule = Arc::new(rule.clone());
        known.by_id.insert(id, Arc::clone(&rule));
        known.by_content.entry(rule).or_insert(id);
    }

    pub(crate) fn get(&self, id: u32) -> Option<Arc<AclRule>> {
        self.known.lock().by_id.get(&id).cloned()
    }

    /// Whether `id` is known to stand for `rule`.
    pub(crate) fn is(&self, id: u32, rule: &AclRule) -> bool {
        self.known.lock().by_id.get(&id).is_some_and(|known| **known == *rule)
    }

    pub(crate) fn find(&self, rule: &AclRule) -> Option<u32> {
        self.known.lock().by_content.get(rule).copied()
    }
}

/// The id of `rule`, stored under a new one when none is known.
pub(crate) fn rule_id(read: &ReadSet, known: &RuleIndex, effects: &mut Effects, rule: &AclRule) -> Result<u32, Halt> {
    if let Some(id) = known.find(rule) {
        return Ok(id);
    }
    need(read, [Key::Account(AccountKey::Counter(Counter::AclMaxId))])?;
    let next = read.counter(Counter::AclMaxId) + 1;
    let id = u32::try_from(next).map_err(|_| Errno::ENOSPC)?;
    effects.push(Effect::Account(AccountEffect::SetCounter(Counter::AclMaxId, next)));
    effects.push(Effect::Volume(VolumeEffect::PutAcl(id, rule.clone())));
    Ok(id)
}

/// What a default rule makes of a new node's mode: the bits, and the access rule when it needs one.
pub(crate) fn inherit(default: &AclRule, requested: u16) -> (u16, Option<AclRule>) {
    let special = requested & 0o7000;
    if default.is_minimal() {
        return (special | requested & default.permission_bits(), None);
    }
    let child = AclRule {
        owner: requested >> 6 & 7 & default.owner,
        mask: requested >> 3 & 7 & default.mask,
        other: requested & 7 & default.other,
        ..default.clone()
    };
    (special | child.permission_bits(), Some(child))
}

/// The rule after chmod to `mode`, and the mode that it shows as.
pub(crate) fn with_mode(rule: &AclRule, mode: u16) -> (u16, AclRule) {
    let mut rule = rule.clone();
    rule.owner = mode >> 6 & 7;
    rule.other = mode & 7;
    *(if rule.is_minimal() { &mut rule.group } else { &mut rule.mask }) = mode >> 3 & 7;
    (mode & 0o7000 | rule.permission_bits(), rule)
}

#[cfg(test)]
mod tests {
    use juicefs_core::acl::UNSET;

    use super::*;

    #[test]
    fn a_minimal_default_rule_only_masks_the_mode() {
        let rule = AclRule { owner: 5, group: 5, mask: UNSET, other: 5, users: vec![], groups: vec![] };
        assert_eq!(inherit(&rule, 0o222), (0, None));
        assert_eq!(inherit(&rule, 0o4755), (0o4555, None));
    }

    #[test]
    fn a_default_rule_with_names_becomes_an_access_rule() {
        let rule = AclRule { owner: 7, group: 7, mask: 7, other: 7, users: vec![(1001, 4)], groups: vec![] };
        let (mode, child) = inherit(&rule, 0o222);
        let child = child.expect("a named rule is inherited");
        assert_eq!((mode, child.owner, child.group, child.mask, child.other), (0o222, 2, 7, 2, 2));
        let (mode, after) = with_mode(&child, 0o2555);
        assert_eq!((mode, after.owner, after.group, after.mask, after.other), (0o2555, 5, 7, 5, 5));
    }
}
