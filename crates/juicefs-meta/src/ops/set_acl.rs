//! Giving a node an ACL rule, and taking it away (format: metadata.md §6.13).

use std::sync::Arc;

use juicefs_core::{
    acl::{AclKind, AclRule, UNSET},
    attr::{Attr, FileType, flags},
    errno::Errno,
    ids::Ino,
};

use super::{
    Scope, Verdict,
    acl::{RuleIndex, rule_id},
    decision,
    setattr::{is_owner, is_trusted},
};
use crate::{
    record::Key,
    txn::{Decision, Effect, Effects, NodeEffect, Operation, ReadSet},
};

/// Makes `rule` the access or the default rule of a node; the empty rule removes it.
#[derive(Debug)]
pub(crate) struct SetAcl {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) kind: AclKind,
    pub(crate) rule: AclRule,
    /// The kernel knows that the caller is not in the group of the file.
    pub(crate) kill_sgid: bool,
    pub(crate) rules: Arc<RuleIndex>,
}

impl Operation for SetAcl {
    /// The attributes afterwards.
    type Reply = Attr;
    const NAME: &'static str = "setfacl";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Attr> {
        decision(self.judge(read))
    }
}

impl SetAcl {
    fn judge(&self, read: &ReadSet) -> Verdict<Attr> {
        let current = read.node(self.ino).ok_or(Errno::ENOENT)?;
        let caller = &self.scope.caller;
        if current.kind == FileType::Symlink {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if current.parent.is_hourly_trash()
            || current.has_flag(flags::IMMUTABLE | flags::APPEND)
            || !is_owner(caller, current)
        {
            return Err(Errno::EPERM.into());
        }
        if self.kind == AclKind::Default && !current.is_dir() && !self.rule.is_empty() {
            return Err(Errno::EACCES.into());
        }
        let mut effects = Effects::none();
        let mut next = current.clone();
        if self.kill_sgid || !is_trusted(caller) && !caller.in_group(current.gid) {
            next.mode &= !0o2000;
        }
        let id = if self.rule.is_empty() {
            0
        } else if self.kind == AclKind::Access && self.rule.is_minimal() {
            let rule = self.completed(current.mode);
            next.mode = next.mode & 0o7000 | rule.permission_bits();
            0
        } else {
            let rule = self.completed(current.mode);
            if self.kind == AclKind::Access {
                next.mode = next.mode & 0o7000 | rule.permission_bits();
            }
            let before = if self.kind == AclKind::Access { current.access_acl } else { current.default_acl };
            if self.rules.is(before, &rule) { before } else { rule_id(read, &self.rules, &mut effects, &rule)? }
        };
        match self.kind {
            AclKind::Access => next.access_acl = id,
            AclKind::Default => next.default_acl = id,
        }
        if next == *current {
            return Ok((next, Effects::none()));
        }
        next.ctime = self.scope.now;
        effects.push(Effect::Node(self.ino, NodeEffect::Update(next.clone())));
        Ok((next, effects))
    }

    /// The rule with what it leaves open taken from the mode.
    fn completed(&self, mode: u16) -> AclRule {
        let or = |perm: u16, from_mode: u16| if perm == UNSET { from_mode & 7 } else { perm };
        let rule = &self.rule;
        AclRule {
            owner: or(rule.owner, mode >> 6),
            group: or(rule.group, mode >> 3),
            other: or(rule.other, mode),
            ..rule.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::{Caller, attr::Timestamp, ids::SessionId};

    use super::*;
    use crate::record::{AccountKey, Counter, Value};

    const NOW: Timestamp = Timestamp { secs: 100, nanos: 5 };

    fn named(perm: u16) -> AclRule {
        AclRule { owner: 7, group: 5, mask: 6, other: 4, users: vec![(1001, perm)], groups: vec![] }
    }

    fn user(uid: u32) -> Caller {
        Caller { uid, gid: uid, check_permission: true, ..Caller::default() }
    }

    fn file() -> Attr {
        Attr { mode: 0o2644, uid: 1, gid: 1, nlink: 1, parent: Ino::ROOT, ..Attr::default() }
    }

    fn outcome(caller: Caller, attr: Attr, kind: AclKind, rule: AclRule) -> Result<(Attr, Vec<Effect>), Errno> {
        let rules = Arc::new(RuleIndex::default());
        rules.learn(4, &named(7));
        let scope = Scope { caller, now: NOW, skip_dir_mtime: Default::default(), sid: SessionId(1), dir_stats: true };
        let op = SetAcl { scope, ino: Ino(9), kind, rule, kill_sgid: false, rules };
        let mut read = ReadSet::default();
        read.insert(Key::Node(Ino(9)), Some(Value::Node(attr)));
        read.insert(Key::Account(AccountKey::Counter(Counter::AclMaxId)), Some(Value::Counter(8)));
        match op.decide(&read) {
            Decision::Done(attr, effects) => Ok((attr, effects.list)),
            Decision::Fail(errno) => Err(errno),
            Decision::NeedMore(keys) => panic!("asks for {keys:?}"),
        }
    }

    #[test]
    fn an_access_rule_shows_in_the_mode() {
        let (attr, effects) = outcome(user(1), file(), AclKind::Access, named(7)).expect("set");
        assert_eq!((attr.mode, attr.access_acl, attr.ctime), (0o2764, 4, NOW));
        assert_eq!(effects.len(), 1, "a rule that is known is not stored again");
        let (attr, effects) = outcome(user(1), file(), AclKind::Access, named(3)).expect("set");
        assert_eq!((attr.access_acl, effects.len()), (9, 3));
        let open = AclRule { owner: UNSET, group: UNSET, other: UNSET, ..named(3) };
        let (attr, _) = outcome(user(1), file(), AclKind::Access, open).expect("set");
        assert_eq!(attr.mode, 0o2664, "what a rule leaves open is that of the mode");
    }

    #[test]
    fn a_minimal_access_rule_is_a_mode_and_the_empty_one_leaves_it() {
        let ruled = Attr { access_acl: 4, ..file() };
        let minimal = AclRule { mask: UNSET, users: vec![], ..named(0) };
        let (attr, _) = outcome(user(1), ruled.clone(), AclKind::Access, minimal.clone()).expect("set");
        assert_eq!((attr.mode, attr.access_acl), (0o2754, 0));
        let (attr, _) = outcome(user(1), ruled, AclKind::Access, AclRule::empty()).expect("removed");
        assert_eq!((attr.mode, attr.access_acl), (0o2644, 0));
        let dir = Attr { kind: FileType::Directory, ..file() };
        let (attr, _) = outcome(user(1), dir, AclKind::Default, minimal).expect("set");
        assert_eq!((attr.mode, attr.default_acl), (0o2644, 9), "a default rule is stored even when it is minimal");
    }

    #[test]
    fn nothing_changed_writes_nothing() {
        let ruled = Attr { access_acl: 4, mode: 0o764, ..file() };
        let (attr, effects) = outcome(user(1), ruled, AclKind::Access, named(7)).expect("set");
        assert_eq!((attr.ctime, effects.len()), (Timestamp::default(), 0));
        let (_, effects) = outcome(user(1), file(), AclKind::Default, AclRule::empty()).expect("nothing to remove");
        assert!(effects.is_empty());
    }

    #[test]
    fn only_the_owner_sets_rules_and_only_directories_have_defaults() {
        let set = |caller, attr, kind| outcome(caller, attr, kind, named(7)).map(|(attr, _)| attr.mode);
        assert_eq!(set(user(2), file(), AclKind::Access), Err(Errno::EPERM));
        assert_eq!(set(user(1), file(), AclKind::Default), Err(Errno::EACCES));
        assert_eq!(set(user(1), Attr { flags: flags::APPEND, ..file() }, AclKind::Access), Err(Errno::EPERM));
        assert_eq!(set(user(1), Attr { kind: FileType::Symlink, ..file() }, AclKind::Access), Err(Errno::EOPNOTSUPP));
        assert_eq!(set(user(1), Attr { gid: 7, ..file() }, AclKind::Access), Ok(0o764), "a foreign group: no set-gid");
        assert_eq!(set(user(0), Attr { gid: 7, ..file() }, AclKind::Access), Ok(0o2764));
    }
}
