//! Looking names up and changing them.

use juicefs_core::{
    Caller,
    attr::{Attr, FileType},
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::{Ino, Name},
    limits::{ENTRY_SPACE, MAX_NAME_BYTES},
    listing::Listing,
    meta::{DirCursor, DirPage, NewNode, OpenFlags, Removed, RenameFlags, Renamed},
};

use super::{Client, run::Tries, usage::Reservation};
use crate::{
    ops::{
        access::{TRASH_NAME, X, directory, entry_name, new_name, permit},
        link::Link,
        mknod::{Made, Mknod, symlink_target},
        remove::Removal,
        rename::Rename,
        rmdir::Rmdir,
        unlink::Unlink,
        unnamed::MakeUnnamed,
    },
    record::Key,
    txn::Usage,
};

/// What a new node takes of the volume.
const ONE_NODE: Usage = Usage { space: ENTRY_SPACE as i64, inodes: 1 };

/// The trash as it shows in the root of the volume.
fn is_trash_name(parent: Ino, name: &[u8]) -> bool {
    parent == Ino::ROOT && name == TRASH_NAME
}

impl Client {
    /// Finds `name` in `parent`, both as they are stored: the root of the mount is an inode like any other here.
    pub(super) async fn lookup_entry(&self, cx: &Caller, parent: Ino, name: &[u8]) -> MetaResult<(Ino, Attr)> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::ENAMETOOLONG.into());
        }
        if cx.check_permission {
            let search = |read: &_| permit(read, cx, directory(read, parent)?, X);
            self.look(vec![Key::Node(parent)], search).await?;
        }
        match name {
            b"." => return Ok((parent, self.attributes(parent).await?)),
            b".." if parent == self.root => return Ok((parent, self.attributes(parent).await?)),
            b".." => {
                let attr = self.attributes(parent).await?;
                if !attr.is_dir() {
                    return Err(Errno::ENOTDIR.into());
                }
                return Ok((attr.parent, self.attributes(attr.parent).await?));
            }
            _ if is_trash_name(parent, name) => return Ok((Ino::TRASH_ROOT, self.attributes(Ino::TRASH_ROOT).await?)),
            _ => {}
        }
        let reading = self.looks.begin_reading();
        let (edge, attr) = self.transactor.lookup(parent, name).await?.ok_or(Errno::ENOENT)?;
        if let Some(attr) = &attr {
            self.looks.remember(reading, edge.ino, attr);
        }
        // A name whose node is missing still shows, so that it can be seen and removed.
        let attr = attr.unwrap_or_else(|| {
            tracing::warn!(%parent, name = %name.escape_ascii(), ino = %edge.ino, "the entry names a missing node");
            Attr { kind: edge.kind, nlink: 1, parent, ..Attr::default() }
        });
        Ok((edge.ino, attr))
    }

    /// [`Client::lookup_entry`] for callers: the root of the mount goes by [`Ino::ROOT`].
    pub(super) async fn look_up(&self, cx: &Caller, parent: Ino, name: &[u8]) -> MetaResult<(Ino, Attr)> {
        let (ino, attr) = self.lookup_entry(cx, self.real(parent), name).await?;
        Ok((if ino == self.root { Ino::ROOT } else { ino }, attr))
    }

    pub(super) async fn read_directory(
        &self,
        ino: Ino,
        from: Option<DirCursor>,
        with_attrs: bool,
        limit: usize,
    ) -> MetaResult<DirPage> {
        let starts = from.is_none();
        let page = if self.config.sort_dir && !self.engine.caps().lists_by_name {
            self.sorted_listing(ino, with_attrs, limit).await?
        } else {
            self.transactor.readdir(ino, from, with_attrs, limit).await?
        };
        if starts && page.entries.is_empty() {
            let attr = self.attributes(ino).await?;
            if !attr.is_dir() {
                return Err(Errno::ENOTDIR.into());
            }
        }
        if starts {
            self.touch_atime(ino, None).await;
        }
        Ok(page)
    }

    /// A directory as one page, in the order of its names: no place in it is ever asked for.
    async fn sorted_listing(&self, ino: Ino, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        let listing = Listing::of(ino).by(limit);
        let listing = if with_attrs { listing.with_attrs() } else { listing };
        let mut entries = listing.rest(&self.transactor).await?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(DirPage { entries, by_name: true, ..DirPage::default() })
    }

    /// Whether a name can be made in `parent` at all.
    fn may_name(&self, parent: Ino, name: &[u8]) -> MetaResult<Name> {
        if parent.is_trash() || is_trash_name(parent, name) {
            return Err(Errno::EPERM.into());
        }
        self.writable()?;
        Ok(new_name(name)?)
    }

    /// Puts room for a node aside. A name that exists is reported as such even when the volume is full.
    async fn room_for_node(&self, cx: &Caller, parent: Ino, name: &[u8]) -> MetaResult<Reservation<'_>> {
        match self.reserve_for(cx.uid, cx.gid, ONE_NODE) {
            Ok(room) => Ok(room),
            Err(errno) => match self.transactor.lookup(parent, name).await? {
                Some(_) => Err(Errno::EEXIST.into()),
                None => Err(errno.into()),
            },
        }
    }

    async fn run_mknod(
        &self,
        cx: &Caller,
        parent: Ino,
        name: Name,
        ino: Ino,
        node: NewNode,
        may_exist: bool,
    ) -> MetaResult<Made> {
        let rules = std::sync::Arc::clone(&self.rules);
        let op = Mknod { scope: self.scope(cx), parent, name, ino, node, may_exist, rules };
        let made = self.run(op).await?;
        self.rule(made.attr.access_acl).await?;
        Ok(made)
    }

    pub(super) async fn make_node(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        node: NewNode,
    ) -> MetaResult<(Ino, Attr)> {
        let name = self.may_name(parent, name)?;
        if node.kind == FileType::Symlink {
            symlink_target(&node.target)?;
        }
        let _room = self.room_for_node(cx, parent, name.as_bytes()).await?;
        let ino = Ino(self.inodes.take().await?);
        let made = self.run_mknod(cx, parent, name, ino, node, false).await?;
        Ok((made.ino, made.attr))
    }

    pub(super) async fn create_file(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        exclusive: bool,
        flags: OpenFlags,
    ) -> MetaResult<(Ino, Attr)> {
        let name = self.may_name(parent, name)?;
        if node.kind != FileType::File {
            return Err(Errno::EINVAL.into());
        }
        let mut tries = Tries::new(self.engine.patience());
        while tries.again() {
            let existing = match self.open_new(cx, parent, &name, node.clone(), exclusive).await? {
                Made { existed: false, ino, attr } => return Ok((ino, attr)),
                Made { ino, .. } => ino,
            };
            match self.open_file(cx, existing, flags).await {
                // It was removed since it was found: the name is free again.
                Err(MetaError::Posix(Errno::ENOENT)) => {}
                opened => return opened.map(|attr| (existing, attr)),
            }
        }
        Err(tries.conflict())
    }

    /// Makes a file and counts it as open, or finds the one that has the name.
    async fn open_new(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &Name,
        node: NewNode,
        exclusive: bool,
    ) -> MetaResult<Made> {
        let room = match self.room_for_node(cx, parent, name.as_bytes()).await {
            Err(MetaError::Posix(Errno::EEXIST)) if !exclusive => {
                let (ino, attr) = self.lookup_entry(cx, parent, name.as_bytes()).await?;
                let made = Made { ino, attr, existed: true };
                return if made.attr.is_file() { Ok(made) } else { Err(Errno::EEXIST.into()) };
            }
            room => room?,
        };
        let ino = Ino(self.inodes.take().await?);
        let opened = self.count_new_open(ino);
        let made = self.run_mknod(cx, parent, name.clone(), ino, node, !exclusive).await?;
        drop(room);
        if !made.existed {
            opened.keep();
        }
        Ok(made)
    }

    /// Makes a file without a name and counts it as open. The session keeps it; if nobody waits for the outcome any more,
    /// the end of the session frees it.
    pub(super) async fn make_unnamed(&self, cx: &Caller, dir: Ino, node: NewNode) -> MetaResult<(Ino, Attr)> {
        if dir.is_trash() {
            return Err(Errno::EPERM.into());
        }
        if self.writer().is_none() {
            return Err(Errno::EROFS.into());
        }
        self.writable()?;
        let _room = self.reserve_for(cx.uid, cx.gid, ONE_NODE)?;
        let ino = Ino(self.inodes.take().await?);
        let rules = std::sync::Arc::clone(&self.rules);
        let attr = self.run(MakeUnnamed { scope: self.scope(cx), dir, ino, node, rules }).await?;
        self.opens.open_unnamed(ino);
        self.rule(attr.access_acl).await?;
        Ok((ino, attr))
    }

    /// How a removal from `parent` goes about it.
    async fn removal(&self, parent: Ino, skip_trash: bool) -> MetaResult<Removal> {
        let trash = if skip_trash { None } else { self.trash_for(parent).await? };
        Ok(Removal { trash, opens: self.opens.hold(), keep: false })
    }

    /// Whether a name can be taken out of `parent` at all.
    fn may_unname(&self, cx: &Caller, parent: Ino, name: &[u8]) -> MetaResult<()> {
        if is_trash_name(parent, name) || parent.is_trash() && cx.uid != 0 {
            return Err(Errno::EPERM.into());
        }
        self.writable()
    }

    pub(super) async fn unlink_name(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        skip_trash: bool,
    ) -> MetaResult<Removed> {
        self.may_unname(cx, parent, name)?;
        let removal = self.removal(parent, skip_trash).await?;
        self.run(Unlink { scope: self.scope(cx), parent, name: Name::new(name), removal }).await
    }

    pub(super) async fn remove_directory(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        skip_trash: bool,
    ) -> MetaResult<Removed> {
        match name {
            b"." => return Err(Errno::EINVAL.into()),
            b".." => return Err(Errno::ENOTEMPTY.into()),
            _ => {}
        }
        if parent == Ino::TRASH_ROOT {
            return Err(Errno::EPERM.into());
        }
        self.may_unname(cx, parent, name)?;
        let removal = self.removal(parent, skip_trash).await?;
        self.run(Rmdir { scope: self.scope(cx), parent, name: Name::new(name), removal }).await
    }

    pub(super) async fn move_name(
        &self,
        cx: &Caller,
        (from, name): (Ino, &[u8]),
        (to, new_name): (Ino, &[u8]),
        flags: RenameFlags,
    ) -> MetaResult<Renamed> {
        if is_trash_name(to, new_name) || to.is_trash() {
            return Err(Errno::EPERM.into());
        }
        self.may_unname(cx, from, name)?;
        let new_name = entry_name(new_name)?;
        if flags.exchange && (flags.no_replace || flags.whiteout || flags.restore) || flags.restore && !flags.no_replace
        {
            return Err(Errno::EINVAL.into());
        }
        // What stays in the old place is one node more.
        let room = if flags.whiteout { Some(self.reserve_for(cx.uid, cx.gid, ONE_NODE)?) } else { None };
        let whiteout = if room.is_some() { Some(Ino(self.inodes.take().await?)) } else { None };
        let keep = !self.config.keep_replaced.is_zero();
        let trash = self.trash_for(to).await?;
        let rename = || {
            let removal = Removal { trash, opens: self.opens.hold(), keep };
            let (scope, name, new_name) = (self.scope(cx), Name::new(name), new_name.clone());
            Rename { scope, from, name, to, new_name, flags, whiteout, removal }
        };
        self.run_moving(rename).await
    }

    pub(super) async fn link_name(&self, cx: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> MetaResult<Attr> {
        let name = self.may_name(parent, name)?;
        self.run(Link { scope: self.scope(cx), ino, parent, name }).await
    }
}
