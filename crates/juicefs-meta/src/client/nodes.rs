//! Looking at nodes and changing their attributes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use juicefs_core::{
    Caller,
    acl::AclKind,
    attr::{Attr, FileType, SetAttr},
    errno::Errno,
    error::MetaResult,
    ids::{Ino, Name},
    meta::{VolumeUsage, XattrMode},
};

use super::{AtimeMode, Client, run::missing};
use crate::{
    engine::Scan,
    ops::{
        access::permit,
        atime::{TouchAtime, is_due},
        setattr::SetAttributes,
        setting,
        xattr::{ChangeXattr, may_get, may_list, xattr_name},
    },
    record::{AccountKey, Counter, Key},
    txn::{ReadSet, Usage},
};

/// Extended attributes read from the engine at once.
const XATTR_PAGE: usize = 1024;

impl Client {
    /// Attributes of a node. The two roots are there even when their records are not.
    pub(super) async fn attributes(&self, ino: Ino) -> MetaResult<Attr> {
        if let Some(attr) = self.node(ino).await? {
            return Ok(attr);
        }
        let now = self.config.clock.now();
        match ino {
            Ino::ROOT => Ok(setting::directory(setting::ROOT_MODE, Ino::ROOT, now)),
            Ino::TRASH_ROOT => Ok(setting::directory(setting::TRASH_MODE, Ino::ROOT, now)),
            _ => Err(Errno::ENOENT.into()),
        }
    }

    pub(super) async fn check_access(&self, cx: &Caller, ino: Ino, mask: u8) -> MetaResult<()> {
        self.look(vec![Key::Node(ino)], |read| permit(read, cx, read.node(ino).ok_or(Errno::ENOENT)?, mask)).await
    }

    pub(super) async fn read_link(&self, ino: Ino) -> MetaResult<Bytes> {
        if self.config.atime_mode == AtimeMode::NoAtime || self.config.read_only {
            let read = self.transactor.fetch(&[Key::Symlink(ino)]).await?;
            if let Some(target) = read.symlink(ino) {
                return Ok(target.clone());
            }
        }
        let read = self.transactor.fetch(&[Key::Symlink(ino), Key::Node(ino)]).await?;
        let Some(attr) = read.node(ino) else {
            return Ok(self.opens.target(ino).ok_or(Errno::ENOENT)?);
        };
        if attr.kind != FileType::Symlink {
            return Err(Errno::EINVAL.into());
        }
        let target = read.symlink(ino).ok_or_else(|| missing("the target of a symbolic link", ino))?.clone();
        self.touch_atime(ino, Some(attr)).await;
        Ok(target)
    }

    /// Moves the access time of a node that was read if that is due; `known` are its attributes when they are at hand.
    /// A failure is no failure of the reading. Returns the attributes when they changed.
    pub(super) async fn touch_atime(&self, ino: Ino, known: Option<&Attr>) -> Option<Attr> {
        let (mode, now) = (self.config.atime_mode, self.config.clock.now());
        let never = mode == AtimeMode::NoAtime || self.writable().is_err();
        if never || known.is_some_and(|attr| !is_due(mode, attr, now)) {
            return None;
        }
        self.run(TouchAtime { ino, mode, now }).await.unwrap_or_else(|error| {
            tracing::warn!(%ino, %error, "cannot update the access time");
            None
        })
    }

    pub(super) async fn set_attributes(&self, cx: &Caller, ino: Ino, set: SetAttr) -> MetaResult<Attr> {
        self.writable()?;
        let attr = self.run(SetAttributes { scope: self.scope(cx), ino, set, rules: Arc::clone(&self.rules) }).await?;
        self.rule(attr.access_acl).await?;
        Ok(attr)
    }

    pub(super) async fn read_xattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<Bytes> {
        let name = xattr_name(name)?;
        if cx.check_permission {
            let look = |read: &ReadSet| {
                may_get(read, cx, read.node(ino).ok_or(Errno::ENOENT)?, name.as_bytes())?;
                Ok(read.xattr(ino, &name).ok_or(Errno::ENODATA)?.clone())
            };
            return self.look(vec![Key::Node(ino), Key::Xattr(ino, name.clone())], look).await;
        }
        let read = self.transactor.fetch(&[Key::Xattr(ino, name.clone())]).await?;
        Ok(read.xattr(ino, &name).ok_or(Errno::ENODATA)?.clone())
    }

    /// Names of the extended attributes that the caller may know of, those that show ACL rules at the end.
    pub(super) async fn xattr_names(&self, cx: &Caller, ino: Ino) -> MetaResult<Vec<Name>> {
        let mut names = self.stored_xattr_names(ino).await?;
        names.retain(|name| may_list(cx, name.as_bytes()));
        if self.setting().enable_acl {
            let attr = self.node(ino).await?.ok_or(Errno::ENOENT)?;
            let rules = [(AclKind::Access, attr.access_acl), (AclKind::Default, attr.default_acl)];
            names.extend(rules.iter().filter(|(_, id)| *id != 0).map(|(kind, _)| Name::new(kind.xattr_name())));
        }
        Ok(names)
    }

    async fn stored_xattr_names(&self, ino: Ino) -> MetaResult<Vec<Name>> {
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let page = self.engine.scan(Scan::Xattrs(ino), after, XATTR_PAGE).await?;
            let last = page.len() < XATTR_PAGE;
            after = page.last().map(|(key, _)| key.clone());
            names.extend(page.into_iter().filter_map(|(key, _)| match key {
                Key::Xattr(_, name) => Some(name),
                _ => None,
            }));
            if last {
                return Ok(names);
            }
        }
    }

    pub(super) async fn change_xattr(
        &self,
        cx: &Caller,
        ino: Ino,
        name: &[u8],
        value: Option<Bytes>,
        mode: XattrMode,
    ) -> MetaResult<()> {
        self.writable()?;
        let name = xattr_name(name)?;
        self.run(ChangeXattr { scope: self.scope(cx), ino, name, value, mode }).await
    }

    /// Directories that name a node, with the number of names in each.
    pub(super) async fn parents_of(&self, ino: Ino) -> MetaResult<BTreeMap<Ino, u64>> {
        if ino == Ino::ROOT || ino == Ino::TRASH_ROOT {
            return Ok(BTreeMap::from([(Ino::ROOT, 1)]));
        }
        let attr = self.node(ino).await?.ok_or(Errno::ENOENT)?;
        if attr.parent != Ino(0) {
            return Ok(BTreeMap::from([(attr.parent, 1)]));
        }
        let read = self.transactor.fetch(&[Key::Parents(ino)]).await?;
        Ok(read.parents(ino).cloned().unwrap_or_default())
    }

    /// Use and limits of the volume (format: metadata.md §6.20).
    pub(super) async fn volume_usage(&self) -> MetaResult<VolumeUsage> {
        if !self.config.fast_statfs {
            self.load_usage().await?;
        }
        Ok(self.known_usage())
    }

    /// Use and limits of the volume as this client knows them.
    pub(super) fn known_usage(&self) -> VolumeUsage {
        let format = self.setting();
        shown_usage(format.capacity, format.inodes, self.books.usage.seen())
    }

    /// Reads the counters of the volume.
    pub(super) async fn load_usage(&self) -> MetaResult<()> {
        let _turn = self.counters.lock().await;
        let keys = vec![
            Key::Account(AccountKey::Counter(Counter::UsedSpace)),
            Key::Account(AccountKey::Counter(Counter::TotalInodes)),
        ];
        let read = self.transactor.fetch(&keys).await?;
        let stored = Usage { space: read.counter(Counter::UsedSpace), inodes: read.counter(Counter::TotalInodes) };
        self.books.usage.learn(stored);
        Ok(())
    }
}

/// Capacity and free room as statfs shows them; without a limit, plenty is made up.
fn shown_usage(capacity: u64, inodes: u64, used: Usage) -> VolumeUsage {
    const PLENTY_BYTES: u64 = 1 << 50;
    const PLENTY_INODES: u64 = 10 << 20;
    let (space, used_inodes) = (used.space.max(0).unsigned_abs(), used.inodes.max(0).unsigned_abs());
    let mut total_bytes = if capacity > 0 { capacity.max(space) } else { PLENTY_BYTES };
    if capacity == 0 {
        while u128::from(total_bytes) * 8 < u128::from(space) * 10 {
            total_bytes = total_bytes.saturating_mul(2);
        }
    }
    let mut available_inodes = if inodes > 0 { inodes.saturating_sub(used_inodes) } else { PLENTY_INODES };
    if inodes == 0 {
        while u128::from(available_inodes) * 4 < u128::from(used_inodes) {
            available_inodes = available_inodes.saturating_mul(2);
        }
    }
    VolumeUsage { total_bytes, available_bytes: total_bytes - space, used_inodes, available_inodes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_show_and_their_lack_looks_roomy() {
        let used = |space, inodes| Usage { space, inodes };
        let free = shown_usage(0, 0, used(0, 0));
        assert_eq!((free.total_bytes, free.available_inodes), (1 << 50, 10 << 20));
        let huge = shown_usage(0, 0, used(1 << 50, 50 << 20));
        assert_eq!((huge.total_bytes, huge.available_inodes), (1 << 51, 20 << 20));
        let limited = shown_usage(1 << 20, 100, used(12_288, 3));
        assert_eq!((limited.total_bytes, limited.available_bytes), (1 << 20, (1 << 20) - 12_288));
        assert_eq!(limited.available_inodes, 97);
        let over = shown_usage(4096, 1, used(8192, 5));
        assert_eq!((over.total_bytes, over.available_bytes, over.available_inodes), (8192, 0, 0));
        assert_eq!(shown_usage(4096, 0, used(-5, -5)).available_bytes, 4096);
    }
}
