//! Operations on names.

use std::{fmt::Write as _, pin::pin};

use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, Errno, FileType, Ino,
    limits::MAX_SYMLINK_BYTES,
    meta::{NewNode, Removed, RenameFlags},
};

use super::check_name;
use crate::{
    Entry, Vfs,
    departed::Loss,
    dir::Change,
    internal::{EntryText, Mode, Special, Text, is_special},
    metrics::{MetaOp, Op},
    reply::VfsResult,
};

impl Vfs {
    /// Finds `name` in `parent`. If a negative timeout is configured, a missing name is an entry with inode 0.
    ///
    /// ENOENT, ENOTDIR, ENAMETOOLONG; EACCES when the caller is checked.
    pub async fn lookup(&self, cx: &Caller, parent: Ino, name: &[u8]) -> VfsResult<Entry> {
        if let Some(special) = self.internal.find(parent, name) {
            return self.special_entry(special).await;
        }
        if self.internal.attr(parent).is_some() && name == b"." {
            return self.internal_entry(parent);
        }
        let work = pin!(self.find(cx, parent, name));
        let found = self.operation(Op::Lookup, cx, work, |line, answer| {
            write!(line, "({parent},{}):{}", Text(name), EntryText::entry(answer.as_ref()))
        });
        let negative_ttl = self.cx.config.negative_ttl;
        match found.await {
            Err(Errno::ENOENT) if !negative_ttl.is_zero() => {
                Ok(Entry { ino: Ino(0), attr: Attr::default(), attr_ttl: negative_ttl, entry_ttl: negative_ttl })
            }
            answer => answer,
        }
    }

    async fn find(&self, cx: &Caller, parent: Ino, name: &[u8]) -> VfsResult<Entry> {
        check_name(name)?;
        let since = self.cx.stamps.now();
        let (ino, attr) = self.ask(MetaOp::Lookup, parent, self.cx.meta.lookup(cx, parent, name)).await?;
        Ok(self.entry(ino, attr, since).await)
    }

    async fn special_entry(&self, special: Special) -> VfsResult<Entry> {
        match special {
            Special::File(node) => self.internal_entry(node.ino()),
            Special::Trash => {
                let since = self.cx.stamps.now();
                let ino = Ino::TRASH_ROOT;
                let attr = self.ask(MetaOp::GetAttr, ino, self.cx.meta.getattr(ino)).await?;
                Ok(self.entry(ino, attr, since).await)
            }
        }
    }

    /// The entry of an internal file, which never changes.
    pub(crate) fn internal_entry(&self, ino: Ino) -> VfsResult<Entry> {
        let attr = self.internal.attr(ino).ok_or(Errno::ENOENT)?;
        Ok(Entry { ino, attr, attr_ttl: super::attrs::INTERNAL_TTL, entry_ttl: super::attrs::INTERNAL_TTL })
    }

    /// The target of a symlink. EINVAL for another kind of node.
    pub async fn readlink(&self, cx: &Caller, ino: Ino) -> VfsResult<Bytes> {
        let work = pin!(self.ask(MetaOp::ReadLink, ino, self.cx.meta.readlink(ino)));
        self.operation(Op::Readlink, cx, work, |line, answer| {
            write!(line, "({ino}): ({})", Text(answer.as_deref().unwrap_or_default()))
        })
        .await
    }

    /// Makes a symlink. ENAMETOOLONG for targets of 4096 bytes and more, and as `mknod`.
    pub async fn symlink(&self, cx: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> VfsResult<Entry> {
        let work = pin!(async {
            if target.len() >= MAX_SYMLINK_BYTES {
                return Err(Errno::ENAMETOOLONG);
            }
            let target = Bytes::copy_from_slice(target);
            let node = NewNode { kind: FileType::Symlink, mode: 0o777, umask: 0, rdev: 0, target };
            self.make(cx, parent, name, node).await
        });
        self.operation(Op::Symlink, cx, work, |line, answer| {
            write!(line, "({parent},{},{}):{}", Text(name), Text(target), EntryText::entry(answer.as_ref()))
        })
        .await
    }

    /// Makes a node of the type in `mode`.
    ///
    /// EEXIST, ENOENT, ENOTDIR, EPERM, ENOSPC, EDQUOT, EROFS, ENAMETOOLONG; EINVAL for an unknown type.
    pub async fn mknod(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        umask: u16,
        rdev: u32,
    ) -> VfsResult<Entry> {
        let work = pin!(async {
            match FileType::from_mode(mode) {
                Some(kind @ (FileType::Directory | FileType::Symlink)) => {
                    tracing::debug!(?kind, "mknod of a kind that has its own call");
                    Err(Errno::EINVAL)
                }
                Some(kind) => self.make(cx, parent, name, self.new_node(kind, mode, umask, rdev)).await,
                None => Err(Errno::EINVAL),
            }
        });
        self.operation(Op::Mknod, cx, work, |line, answer| {
            let name = Text(name);
            write!(line, "({parent},{name},{}:0{mode:04o},0x{rdev:08X}):", Mode(mode))?;
            write!(line, "{}", EntryText::entry(answer.as_ref()))
        })
        .await
    }

    /// Makes a directory. Errors as `mknod`.
    pub async fn mkdir(&self, cx: &Caller, parent: Ino, name: &[u8], mode: u32, umask: u16) -> VfsResult<Entry> {
        let work = pin!(self.make(cx, parent, name, self.new_node(FileType::Directory, mode, umask, 0)));
        self.operation(Op::Mkdir, cx, work, |line, answer| {
            let (name, entry) = (Text(name), EntryText::entry(answer.as_ref()));
            write!(line, "({parent},{name},{}:0{mode:04o}):{entry}", Mode(mode))
        })
        .await
    }

    pub(crate) fn new_node(&self, kind: FileType, mode: u32, umask: u16, rdev: u32) -> NewNode {
        // Masked to twelve bits, so it fits.
        let mode = (mode & 0o7777) as u16;
        NewNode { kind, mode, umask: self.cx.config.umask.unwrap_or(umask), rdev, target: Bytes::new() }
    }

    async fn make(&self, cx: &Caller, parent: Ino, name: &[u8], node: NewNode) -> VfsResult<Entry> {
        if self.internal.reserves(parent, name) {
            return Err(Errno::EEXIST);
        }
        check_name(name)?;
        let kind = node.kind;
        let since = self.cx.stamps.now();
        let (ino, attr) = self.ask(MetaOp::Mknod, parent, self.cx.meta.mknod(cx, parent, name, node)).await?;
        let entry = self.entry(ino, attr, since).await;
        self.name_changed(parent, name, Change::Is(ino, kind));
        Ok(entry)
    }

    /// Takes note that a name was made, removed or replaced.
    pub(crate) fn name_changed(&self, parent: Ino, name: &[u8], change: Change) {
        self.cx.stamps.touch(parent);
        if let Change::Is(ino, _) = change {
            self.cx.stamps.touch(ino);
        }
        self.dirs.changed(parent, name, change);
    }

    /// Looks a name up, after a change that leaves open what it means now, and takes note of that.
    async fn look_again(&self, parent: Ino, name: &[u8]) {
        let change = match self.cx.meta.lookup(&Caller::root(), parent, name).await {
            Ok((ino, attr)) => Change::Is(ino, attr.kind),
            // Should the answer only be late, a listing lacks a name that it may lack anyway while names move.
            Err(_) => Change::Gone,
        };
        self.name_changed(parent, name, change);
    }

    pub(crate) fn removed(&self, removed: Removed, loss: Loss) {
        if let Some(ino) = removed.ino {
            self.cx.stamps.touch(ino);
            self.cx.departed.note(ino, loss);
        }
        if let Some(freed) = removed.freed {
            self.cx.upkeep.free(freed);
        }
    }

    /// Whether this mount itself removed the node's names lately, so that they were missing and not replaced.
    #[must_use]
    pub fn unlinked(&self, ino: Ino) -> bool {
        self.cx.departed.only_removed(ino)
    }

    /// Removes the name of a non-directory. EPERM for internal files and directories, ENOENT, ENOTDIR, EROFS.
    pub async fn unlink(&self, cx: &Caller, parent: Ino, name: &[u8]) -> VfsResult<()> {
        let work = pin!(self.remove_file(cx, parent, name, false));
        self.operation(Op::Unlink, cx, work, |line, _| write!(line, "({parent},{})", Text(name))).await
    }

    pub(crate) async fn remove_file(&self, cx: &Caller, parent: Ino, name: &[u8], skip_trash: bool) -> VfsResult<()> {
        if self.internal.reserves(parent, name) {
            return Err(Errno::EPERM);
        }
        check_name(name)?;
        let call = self.cx.meta.unlink(cx, parent, name, skip_trash);
        let removed = self.ask(MetaOp::Unlink, parent, call).await?;
        self.name_changed(parent, name, Change::Gone);
        self.removed(removed, Loss::Removed);
        Ok(())
    }

    /// Removes an empty directory. ENOTEMPTY, ENOENT, ENOTDIR, EROFS.
    pub async fn rmdir(&self, cx: &Caller, parent: Ino, name: &[u8]) -> VfsResult<()> {
        let work = pin!(async {
            check_name(name)?;
            let call = self.cx.meta.rmdir(cx, parent, name, false);
            let removed = self.ask(MetaOp::Rmdir, parent, call).await?;
            self.name_changed(parent, name, Change::Gone);
            self.removed(removed, Loss::Removed);
            Ok(())
        });
        self.operation(Op::Rmdir, cx, work, |line, _| write!(line, "({parent},{})", Text(name))).await
    }

    /// Moves a name; `flags` are those of renameat2(2).
    ///
    /// EPERM for internal names, EINVAL for unknown flags, and what rename(2) says.
    pub async fn rename(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: u32,
    ) -> VfsResult<()> {
        let work = pin!(self.move_name(cx, (parent, name), (new_parent, new_name), flags));
        self.operation(Op::Rename, cx, work, |line, _| {
            write!(line, "({parent},{},{new_parent},{},{flags})", Text(name), Text(new_name))
        })
        .await
    }

    async fn move_name(&self, cx: &Caller, from: (Ino, &[u8]), to: (Ino, &[u8]), flags: u32) -> VfsResult<()> {
        if self.internal.reserves(from.0, from.1) || self.internal.reserves(to.0, to.1) {
            return Err(Errno::EPERM);
        }
        check_name(from.1)?;
        check_name(to.1)?;
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT) != 0 {
            return Err(Errno::EINVAL);
        }
        let flags = RenameFlags {
            no_replace: flags & libc::RENAME_NOREPLACE != 0,
            exchange: flags & libc::RENAME_EXCHANGE != 0,
            whiteout: flags & libc::RENAME_WHITEOUT != 0,
            restore: false,
        };
        let call = self.cx.meta.rename(cx, from.0, from.1, to.0, to.1, flags);
        let moved = self.ask(MetaOp::Rename, from.0, call).await?;
        self.name_changed(to.0, to.1, Change::Is(moved.ino, moved.attr.kind));
        let only_name = moved.attr.is_dir() || moved.attr.nlink <= 1;
        if flags.exchange || flags.whiteout || (from != to && !only_name) {
            // The old name is another's or a whiteout's now, or still ours: nothing is done when both are of one file.
            self.look_again(from.0, from.1).await;
        } else if from != to {
            self.name_changed(from.0, from.1, Change::Gone);
        }
        self.removed(moved.replaced, Loss::Replaced);
        Ok(())
    }

    /// Gives a file one more name. EPERM for internal files and directories, EEXIST, ENOENT, EROFS.
    pub async fn link(&self, cx: &Caller, ino: Ino, new_parent: Ino, new_name: &[u8]) -> VfsResult<Entry> {
        let work = pin!(async {
            if is_special(ino) || self.internal.reserves(new_parent, new_name) {
                return Err(Errno::EPERM);
            }
            check_name(new_name)?;
            let since = self.cx.stamps.now();
            let attr = self.ask(MetaOp::Link, ino, self.cx.meta.link(cx, ino, new_parent, new_name)).await?;
            let kind = attr.kind;
            let entry = self.entry(ino, attr, since).await;
            self.name_changed(new_parent, new_name, Change::Is(ino, kind));
            Ok(entry)
        });
        self.operation(Op::Link, cx, work, |line, answer| {
            write!(line, "({ino},{new_parent},{}):{}", Text(new_name), EntryText::entry(answer.as_ref()))
        })
        .await
    }
}
