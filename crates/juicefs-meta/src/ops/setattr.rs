//! Changing attributes but the size (format: metadata.md §6.2).

use std::sync::Arc;

use juicefs_core::{
    Caller,
    attr::{Attr, SetAttr, SetTime, Timestamp, flags},
    errno::Errno,
    ids::Ino,
};

use super::{
    Halt, Scope, Verdict,
    access::{W, permit},
    account::count_given,
    acl::{RuleIndex, rule_id, with_mode},
    decision, need,
};
use crate::{
    record::Key,
    txn::{Decision, Effect, Effects, NodeEffect, Operation, ReadSet},
};

/// Changes what `set` names.
#[derive(Debug)]
pub(crate) struct SetAttributes {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) set: SetAttr,
    pub(crate) rules: Arc<RuleIndex>,
}

impl Operation for SetAttributes {
    type Reply = Attr;
    const NAME: &'static str = "setattr";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Attr> {
        decision(self.judge(read))
    }
}

impl SetAttributes {
    fn judge(&self, read: &ReadSet) -> Verdict<Attr> {
        let current = read.node(self.ino).ok_or(Errno::ENOENT)?;
        if current.parent.is_hourly_trash() || self.is_frozen(current) {
            return Err(Errno::EPERM.into());
        }
        let mut effects = Effects::none();
        let mut next = current.clone();
        self.change_owner(current, &mut next)?;
        self.change_mode(read, current, &mut next, &mut effects)?;
        let caller = &self.scope.caller;
        next.atime = self.new_time(read, current, current.atime, self.set.atime)?;
        next.mtime = self.new_time(read, current, current.mtime, self.set.mtime)?;
        if let Some(flags) = self.set.flags {
            if !is_owner(caller, current) {
                return Err(Errno::EPERM.into());
            }
            next.flags = flags;
        }
        next.tier = self.set.tier.unwrap_or(next.tier);
        if next == *current {
            return Ok((next, Effects::none()));
        }
        next.ctime = self.scope.now;
        count_given(&mut effects, current, &next);
        effects.push(Effect::Node(self.ino, NodeEffect::Update(next.clone())));
        Ok((next, effects))
    }

    /// Whether flags forbid the change: an immutable node keeps everything but its flags, an append-only one may still be
    /// touched.
    fn is_frozen(&self, attr: &Attr) -> bool {
        let set = &self.set;
        let given = |time| matches!(time, Some(SetTime::At(_)));
        let touched = |time| matches!(time, Some(SetTime::Now));
        let keeps =
            set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || given(set.atime) || given(set.mtime);
        let touches = touched(set.atime) || touched(set.mtime);
        keeps && attr.has_flag(flags::IMMUTABLE | flags::APPEND) || touches && attr.has_flag(flags::IMMUTABLE)
    }

    fn change_owner(&self, current: &Attr, next: &mut Attr) -> Result<(), Errno> {
        let (set, caller) = (&self.set, &self.scope.caller);
        if (set.uid.is_some() || set.gid.is_some()) && !is_owner(caller, current) {
            return Err(Errno::EPERM);
        }
        if current.mode & 0o6000 != 0 && (set.uid.is_some() || set.gid.is_some()) && !current.is_dir() {
            next.mode = without_set_id(caller, current.mode, current.mode);
        }
        if let Some(gid) = set.gid {
            if gid != current.gid && !is_trusted(caller) && !caller.in_group(gid) {
                return Err(Errno::EPERM);
            }
            next.gid = gid;
        }
        if let Some(uid) = set.uid.filter(|uid| *uid != current.uid) {
            if !is_trusted(caller) {
                return Err(Errno::EPERM);
            }
            next.uid = uid;
        }
        Ok(())
    }

    fn change_mode(&self, read: &ReadSet, current: &Attr, next: &mut Attr, effects: &mut Effects) -> Result<(), Halt> {
        let (set, caller) = (&self.set, &self.scope.caller);
        if let Some(mode) = set.mode {
            let mode = self.requested_mode(current, mode & 0o7777);
            if current.access_acl != 0 {
                if !is_owner(caller, current) {
                    return Err(Errno::EPERM.into());
                }
                need(read, [Key::Acl(current.access_acl)])?;
                let rule = read.acl(current.access_acl).ok_or(Errno::EIO)?;
                let (mode, changed) = with_mode(rule, mode);
                next.mode = mode;
                if changed != *rule {
                    next.access_acl = rule_id(read, &self.rules, effects, &changed)?;
                }
            } else {
                self.may_set_mode(read, current, mode)?;
                next.mode = mode;
            }
        }
        if set.kill_suid_sgid && current.is_file() {
            let executable_by_group = next.mode & 0o010 != 0;
            next.mode &= if executable_by_group { !0o6000 } else { !0o4000 };
        }
        Ok(())
    }

    /// Whether the caller may give the node this mode. EPERM for all but the owner; but whoever may write to a file takes its
    /// set-id bits away, which the kernel does on their behalf.
    fn may_set_mode(&self, read: &ReadSet, current: &Attr, mode: u16) -> Result<(), Halt> {
        let caller = &self.scope.caller;
        if is_owner(caller, current) {
            return Ok(());
        }
        let drops = mode & 0o1777 == current.mode & 0o1777 && mode & !current.mode & 0o6000 == 0;
        if !drops {
            return Err(Errno::EPERM.into());
        }
        permit(read, caller, current, W).map_err(|halt| match halt {
            Halt::Fail(_) => Errno::EPERM.into(),
            more @ Halt::More(_) => more,
        })
    }

    /// The asked-for mode, after what a change of owner and a foreign group take from it.
    fn requested_mode(&self, current: &Attr, mode: u16) -> u16 {
        let (set, caller) = (&self.set, &self.scope.caller);
        let mut mode = mode;
        if set.uid.is_some() || set.gid.is_some() {
            mode |= current.mode & 0o6000;
            if current.mode & 0o6000 != 0 && !current.is_dir() {
                mode = without_set_id(caller, current.mode, mode);
            }
        }
        if mode & 0o2000 != 0 && !is_trusted(caller) && !caller.in_group(current.gid) {
            mode &= !0o2000;
        }
        mode
    }

    fn new_time(
        &self,
        read: &ReadSet,
        current: &Attr,
        old: Timestamp,
        wanted: Option<SetTime>,
    ) -> Result<Timestamp, Halt> {
        let caller = &self.scope.caller;
        match wanted {
            None => Ok(old),
            Some(SetTime::Now) => {
                if !is_owner(caller, current) {
                    permit(read, caller, current, W)?;
                }
                Ok(self.scope.now)
            }
            Some(SetTime::At(time)) => {
                if time != old && !is_owner(caller, current) {
                    return Err(Errno::EPERM.into());
                }
                Ok(time)
            }
        }
    }
}

/// Root, or somebody whom the kernel has checked.
pub(crate) fn is_trusted(caller: &Caller) -> bool {
    !caller.check_permission || caller.uid == 0
}

/// Whether `caller` may change the node as its owner may.
pub(super) fn is_owner(caller: &Caller, attr: &Attr) -> bool {
    is_trusted(caller) || caller.uid == attr.uid
}

/// The mode of a file after `caller` has changed its content, as Linux has it since 6.2: only root keeps set-uid, and
/// set-gid goes with the right of the group to execute, or when the caller is not of the group. Of callers whom the kernel
/// has checked only the effective group is known, and the others do not count.
pub(super) fn mode_after_change(caller: &Caller, attr: &Attr) -> u16 {
    if caller.uid == 0 {
        return attr.mode;
    }
    let keeps_gid = attr.mode & 0o010 == 0 && caller.in_group(attr.gid);
    attr.mode & if keeps_gid { !0o4000 } else { !0o6000 }
}

/// `mode` after a change of owner of a file that had `current`.
fn without_set_id(caller: &Caller, current: u16, mode: u16) -> u16 {
    if caller.uid != 0 || current & 0o010 != 0 { mode & 0o1777 } else { mode & 0o3777 }
}

#[cfg(test)]
mod tests {
    use juicefs_core::ids::SessionId;

    use super::*;
    use crate::record::Value;

    const NOW: Timestamp = Timestamp { secs: 100, nanos: 5 };

    fn outcome(caller: Caller, attr: Attr, set: SetAttr) -> Result<Attr, Errno> {
        let scope = Scope { caller, now: NOW, skip_dir_mtime: Default::default(), sid: SessionId(1), dir_stats: true };
        let op = SetAttributes { scope, ino: Ino(9), set, rules: Arc::default() };
        let mut read = ReadSet::default();
        read.insert(Key::Node(Ino(9)), Some(Value::Node(attr)));
        match op.decide(&read) {
            Decision::Done(attr, _) => Ok(attr),
            Decision::Fail(errno) => Err(errno),
            Decision::NeedMore(keys) => panic!("asks for {keys:?}"),
        }
    }

    fn user(uid: u32) -> Caller {
        Caller { uid, gid: uid, check_permission: true, ..Caller::default() }
    }

    fn file(mode: u16) -> Attr {
        Attr { mode, uid: 1, gid: 1, nlink: 1, parent: Ino::ROOT, ..Attr::default() }
    }

    fn mode(mode: u16) -> SetAttr {
        SetAttr { mode: Some(mode), ..SetAttr::default() }
    }

    #[test]
    fn only_the_owner_changes_the_mode_but_a_writer_takes_set_id_away() {
        assert_eq!(outcome(user(2), file(0o644), mode(0o600)), Err(Errno::EPERM));
        assert_eq!(outcome(user(1), file(0o644), mode(0o600)).map(|a| (a.mode, a.ctime)), Ok((0o600, NOW)));
        assert_eq!(outcome(user(2), file(0o4757), mode(0o757)).map(|a| a.mode), Ok(0o757));
        assert_eq!(outcome(user(2), file(0o4755), mode(0o755)), Err(Errno::EPERM));
        assert_eq!(outcome(user(2), file(0o644), mode(0o644)), Err(Errno::EPERM));
        assert_eq!(outcome(user(2), file(0o755), mode(0o4755)), Err(Errno::EPERM));
    }

    #[test]
    fn set_gid_needs_the_group() {
        let foreign = Attr { gid: 7, ..file(0o755) };
        assert_eq!(outcome(user(1), foreign.clone(), mode(0o2750)).map(|a| a.mode), Ok(0o750));
        let unchecked = Caller { check_permission: false, ..user(1) };
        assert_eq!(outcome(unchecked, foreign, mode(0o2750)).map(|a| a.mode), Ok(0o2750));
    }

    #[test]
    fn a_new_owner_takes_set_id_from_files_only() {
        let chown = SetAttr { uid: Some(5), ..SetAttr::default() };
        let root = Caller { check_permission: true, ..Caller::default() };
        assert_eq!(outcome(root.clone(), file(0o6755), chown.clone()).map(|a| a.mode), Ok(0o755));
        assert_eq!(outcome(root.clone(), file(0o6744), chown.clone()).map(|a| a.mode), Ok(0o2744));
        let dir = Attr { kind: juicefs_core::FileType::Directory, ..file(0o6755) };
        assert_eq!(outcome(root, dir, chown.clone()).map(|a| a.mode), Ok(0o6755));
        assert_eq!(outcome(user(1), file(0o644), chown), Err(Errno::EPERM));
        let to_owner = SetAttr { uid: Some(1), ..SetAttr::default() };
        assert_eq!(outcome(user(2), file(0o4755), to_owner), Err(Errno::EPERM));
        let own_group = SetAttr { gid: Some(1), ..SetAttr::default() };
        assert_eq!(outcome(user(1), file(0o6744), own_group).map(|a| a.mode), Ok(0o744));
    }

    #[test]
    fn groups_are_given_by_their_members() {
        let chgrp = |gid| SetAttr { gid: Some(gid), ..SetAttr::default() };
        let member = Caller { groups: [8].into_iter().collect(), ..user(1) };
        assert_eq!(outcome(member, file(0o644), chgrp(8)).map(|a| a.gid), Ok(8));
        assert_eq!(outcome(user(1), file(0o644), chgrp(8)), Err(Errno::EPERM));
        assert_eq!(outcome(user(2), file(0o644), chgrp(1)), Err(Errno::EPERM));
    }

    #[test]
    fn writers_may_touch_and_owners_may_set_times() {
        let touch = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
        let given = SetAttr { mtime: Some(SetTime::At(Timestamp::from_secs(-3))), ..SetAttr::default() };
        assert_eq!(outcome(user(2), file(0o646), touch.clone()).map(|a| a.mtime), Ok(NOW));
        assert_eq!(outcome(user(2), file(0o644), touch), Err(Errno::EACCES));
        assert_eq!(outcome(user(2), file(0o646), given.clone()), Err(Errno::EPERM));
        assert_eq!(outcome(user(1), file(0o444), given).map(|a| a.mtime.secs), Ok(-3));
    }

    #[test]
    fn trash_and_flags_freeze_a_node() {
        let trashed = Attr { parent: Ino(Ino::TRASH_ROOT.0 + 1), ..file(0o644) };
        assert_eq!(outcome(user(1), trashed, mode(0o600)), Err(Errno::EPERM));
        let immutable = Attr { flags: flags::IMMUTABLE, ..file(0o644) };
        assert_eq!(outcome(user(0), immutable.clone(), mode(0o600)), Err(Errno::EPERM));
        let thaw = SetAttr { flags: Some(0), ..SetAttr::default() };
        assert_eq!(outcome(user(0), immutable, thaw).map(|a| a.flags), Ok(0));
    }

    #[test]
    fn nothing_changed_writes_nothing() {
        assert_eq!(outcome(user(1), file(0o644), mode(0o644)).map(|a| a.ctime), Ok(Timestamp::default()));
    }
}
