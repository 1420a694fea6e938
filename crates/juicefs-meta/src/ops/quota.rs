//! Setting, mending and removing quotas (format: metadata.md §6.21).

use juicefs_core::{
    errno::Errno,
    quota::{Quota, QuotaSubject},
};

use super::{Verdict, decision};
use crate::{
    record::{AccountKey, Key},
    txn::{AccountEffect, Decision, Effect, Effects, Operation, ReadSet, Usage},
};

/// Stores limits; replies the quota afterwards and whether it is new.
#[derive(Debug)]
pub(crate) struct SetQuota {
    pub(crate) subject: QuotaSubject,
    /// Most bytes and inodes; `None` leaves a limit as it is, and a new record without.
    pub(crate) max_space: Option<i64>,
    pub(crate) max_inodes: Option<i64>,
}

fn keys(subject: QuotaSubject) -> Vec<Key> {
    let node = if let QuotaSubject::Dir(ino) = subject { Some(Key::Node(ino)) } else { None };
    [Key::Account(AccountKey::Quota(subject))].into_iter().chain(node).collect()
}

impl Operation for SetQuota {
    type Reply = (Quota, bool);
    const NAME: &'static str = "set_quota";

    fn keys(&self) -> Vec<Key> {
        keys(self.subject)
    }

    fn decide(&self, read: &ReadSet) -> Decision<(Quota, bool)> {
        decision(self.judge(read))
    }
}

impl SetQuota {
    fn judge(&self, read: &ReadSet) -> Verdict<(Quota, bool)> {
        if let QuotaSubject::Dir(ino) = self.subject
            && !read.node(ino).ok_or(Errno::ENOENT)?.is_dir()
        {
            return Err(Errno::ENOTDIR.into());
        }
        let stored = read.quota(self.subject).copied();
        let old = stored.unwrap_or(Quota::UNSET);
        let max_space = self.max_space.unwrap_or(old.max_space);
        let max_inodes = self.max_inodes.unwrap_or(old.max_inodes);
        let quota = Quota { max_space, max_inodes, ..old };
        let mut effects = Effects::none();
        effects.push(Effect::Account(AccountEffect::PutQuota(self.subject, quota)));
        Ok(((quota, stored.is_none()), effects))
    }
}

/// Adds to the usage of a quota what was found to be missing, so that what others add meanwhile stays.
#[derive(Debug)]
pub(crate) struct MendQuota {
    pub(crate) subject: QuotaSubject,
    pub(crate) delta: Usage,
}

impl Operation for MendQuota {
    type Reply = ();
    const NAME: &'static str = "mend_quota";

    fn keys(&self) -> Vec<Key> {
        Vec::new()
    }

    fn decide(&self, _read: &ReadSet) -> Decision<()> {
        let mut effects = Effects::none();
        effects.push(Effect::Account(AccountEffect::AddUsage(self.subject, self.delta)));
        Decision::Done((), effects)
    }
}

/// Takes limits away; replies whether there were any. Users and groups are still counted.
#[derive(Debug)]
pub(crate) struct DeleteQuota {
    pub(crate) subject: QuotaSubject,
}

impl Operation for DeleteQuota {
    type Reply = bool;
    const NAME: &'static str = "delete_quota";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Account(AccountKey::Quota(self.subject))]
    }

    fn decide(&self, read: &ReadSet) -> Decision<bool> {
        let mut effects = Effects::none();
        let Some(quota) = read.quota(self.subject) else { return Decision::Done(false, effects) };
        effects.push(match self.subject {
            QuotaSubject::Dir(ino) => Effect::Account(AccountEffect::DeleteDirQuota(ino)),
            QuotaSubject::User(_) | QuotaSubject::Group(_) => {
                let Quota { max_space, max_inodes, .. } = Quota::UNSET;
                Effect::Account(AccountEffect::PutQuota(self.subject, Quota { max_space, max_inodes, ..*quota }))
            }
        });
        Decision::Done(quota.is_set(), effects)
    }
}
