//! Storing the volume setting, and with the first one the roots and counters of a new volume (format: metadata.md §1.5).

use bytes::Bytes;
use juicefs_core::{
    attr::{Attr, FileType, Timestamp},
    ids::Ino,
};

use super::{Verdict, decision};
use crate::{
    record::{Counter, DirStat, Key},
    txn::{AccountEffect, Decision, Effect, Effects, NodeEffect, Operation, ReadSet, VolumeEffect},
};

/// Mode of the root directory of a new volume.
pub(crate) const ROOT_MODE: u16 = 0o777;
/// Mode of the trash root and its hourly directories.
pub(crate) const TRASH_MODE: u16 = 0o555;

/// Stores a setting; makes what a new volume consists of, and the trash root when there is to be a trash. Nothing changes,
/// and the reply is false, when what is stored is not what the new setting was made from.
#[derive(Debug)]
pub(crate) struct StoreSetting {
    /// What was stored when the new setting was made.
    pub(crate) was: Option<Bytes>,
    /// The setting as it is stored.
    pub(crate) json: Bytes,
    /// The volume is new.
    pub(crate) fresh: bool,
    /// There is to be a trash.
    pub(crate) trash: bool,
    /// Statistics of directories were not kept until now.
    pub(crate) drop_dir_stats: bool,
    /// Usage by user and group was not counted until now.
    pub(crate) drop_user_group_quotas: bool,
    /// The present time.
    pub(crate) now: Timestamp,
}

impl Operation for StoreSetting {
    type Reply = bool;
    const NAME: &'static str = "store_setting";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Setting, Key::Node(Ino::ROOT), Key::Node(Ino::TRASH_ROOT)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<bool> {
        decision(self.judge(read))
    }
}

impl StoreSetting {
    fn judge(&self, read: &ReadSet) -> Verdict<bool> {
        let mut effects = Effects::none();
        if read.setting() != self.was.as_ref() {
            return Ok((false, effects));
        }
        if self.drop_dir_stats {
            effects.push(Effect::Account(AccountEffect::DeleteAllDirStats));
        }
        if self.drop_user_group_quotas {
            effects.push(Effect::Account(AccountEffect::DeleteAllUserGroupQuotas));
        }
        effects.push(Effect::Volume(VolumeEffect::PutSetting(self.json.clone())));
        if self.trash && read.node(Ino::TRASH_ROOT).is_none() {
            effects.push(Effect::Node(Ino::TRASH_ROOT, NodeEffect::Insert(directory(TRASH_MODE, Ino::ROOT, self.now))));
        }
        if self.fresh && read.node(Ino::ROOT).is_none() {
            effects.push(Effect::Node(Ino::ROOT, NodeEffect::Insert(directory(ROOT_MODE, Ino::ROOT, self.now))));
            // Else the first clients would count it, each with what the others have done and not told of.
            effects.push(Effect::Account(AccountEffect::PutDirStat(Ino::ROOT, DirStat::default())));
            for (counter, value) in [
                (Counter::NextInode, 2),
                (Counter::NextChunk, 1),
                (Counter::NextSession, 0),
                (Counter::UsedSpace, 0),
                (Counter::TotalInodes, 0),
                (Counter::NextCleanupSlices, 0),
            ] {
                effects.push(Effect::Account(AccountEffect::SetCounter(counter, value)));
            }
        }
        Ok((true, effects))
    }
}

/// Attributes of a directory that belongs to root and that nothing is in.
pub(crate) fn directory(mode: u16, parent: Ino, now: Timestamp) -> Attr {
    Attr {
        kind: FileType::Directory,
        mode,
        atime: now,
        mtime: now,
        ctime: now,
        nlink: 2,
        length: 4096,
        parent,
        ..Attr::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(fresh: bool) -> StoreSetting {
        let json = Bytes::from_static(b"{}");
        let now = Timestamp::from_secs(7);
        StoreSetting { was: None, json, fresh, trash: true, drop_dir_stats: false, drop_user_group_quotas: false, now }
    }

    #[test]
    fn a_new_volume_gets_roots_and_counters_once() {
        let mut read = ReadSet::default();
        read.insert(Key::Setting, None);
        read.insert(Key::Node(Ino::ROOT), None);
        read.insert(Key::Node(Ino::TRASH_ROOT), None);
        let Decision::Done(true, effects) = store(true).decide(&read) else { panic!("it must succeed") };
        let nodes = effects.list.iter().filter(|effect| matches!(effect, Effect::Node(_, NodeEffect::Insert(_))));
        assert_eq!(nodes.count(), 2);
        assert!(effects.list.contains(&Effect::Account(AccountEffect::SetCounter(Counter::NextInode, 2))));
        assert!(effects.list.contains(&Effect::Account(AccountEffect::PutDirStat(Ino::ROOT, DirStat::default()))));
        let Decision::Done(true, effects) = store(false).decide(&read) else { panic!("it must succeed") };
        assert!(!effects.list.iter().any(|effect| matches!(effect, Effect::Account(AccountEffect::SetCounter(..)))));
        read.insert(Key::Setting, Some(crate::record::Value::Bytes(Bytes::from_static(b"{1}"))));
        assert_eq!(store(false).decide(&read), Decision::Done(false, Effects::none()));
    }
}
