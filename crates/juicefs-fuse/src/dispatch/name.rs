//! Operations on names: looking them up, making, moving and removing them.

use juicefs_core::{Errno, Ino};

use super::{Call, NameBuf, Work};
use crate::{
    abi::{CreateIn, LinkIn, MkdirIn, MknodIn, Rename2In, RenameIn},
    ops::Operations,
    reply::ReplyBody,
    wire::{entry_out, open_out},
};

impl<O: Operations> Call<'_, O> {
    pub(super) fn lookup(mut self) -> Result<Work, Errno> {
        let name = NameBuf::from_slice(self.args.name()?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { Ok(ReplyBody::fixed(&entry_out(&ops.lookup(&caller, node, &name).await?))) }))
    }

    pub(super) fn symlink(mut self) -> Result<Work, Errno> {
        let name = NameBuf::from_slice(self.args.name()?);
        let target = NameBuf::from_slice(self.args.text()?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(
            async move { Ok(ReplyBody::fixed(&entry_out(&ops.symlink(&caller, node, &name, &target).await?))) },
        ))
    }

    pub(super) fn mknod(mut self) -> Result<Work, Errno> {
        let MknodIn { mode, rdev, umask, .. } = self.args.fixed()?;
        let (umask, name) = (permission_bits(umask), NameBuf::from_slice(self.args.name()?));
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            Ok(ReplyBody::fixed(&entry_out(&ops.mknod(&caller, node, &name, mode, umask, rdev).await?)))
        }))
    }

    pub(super) fn mkdir(mut self) -> Result<Work, Errno> {
        let MkdirIn { mode, umask } = self.args.fixed()?;
        let (umask, name) = (permission_bits(umask), NameBuf::from_slice(self.args.name()?));
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(
            async move { Ok(ReplyBody::fixed(&entry_out(&ops.mkdir(&caller, node, &name, mode, umask).await?))) },
        ))
    }

    pub(super) fn create(mut self) -> Result<Work, Errno> {
        let CreateIn { flags, mode, umask, .. } = self.args.fixed()?;
        let (umask, name) = (permission_bits(umask), NameBuf::from_slice(self.args.name()?));
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let (entry, opened) = ops.create(&caller, node, &name, mode, umask, flags.cast_signed()).await?;
            Ok(ReplyBody::fixed2(&entry_out(&entry), &open_out(&opened)))
        }))
    }

    /// The request brings a name, which means nothing.
    pub(super) fn tmpfile(mut self) -> Result<Work, Errno> {
        let CreateIn { flags, mode, umask, .. } = self.args.fixed()?;
        let (umask, flags) = (permission_bits(umask), flags.cast_signed() | libc::O_TMPFILE);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let (entry, opened) = ops.create(&caller, node, b"", mode, umask, flags).await?;
            Ok(ReplyBody::fixed2(&entry_out(&entry), &open_out(&opened)))
        }))
    }

    pub(super) fn link(mut self) -> Result<Work, Errno> {
        let LinkIn { oldnodeid } = self.args.fixed()?;
        let name = NameBuf::from_slice(self.args.name()?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(
            async move { Ok(ReplyBody::fixed(&entry_out(&ops.link(&caller, Ino(oldnodeid), node, &name).await?))) },
        ))
    }

    pub(super) fn unlink(mut self) -> Result<Work, Errno> {
        let name = NameBuf::from_slice(self.args.name()?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { ops.unlink(&caller, node, &name).await.map(|()| ReplyBody::Empty) }))
    }

    pub(super) fn rmdir(mut self) -> Result<Work, Errno> {
        let name = NameBuf::from_slice(self.args.name()?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { ops.rmdir(&caller, node, &name).await.map(|()| ReplyBody::Empty) }))
    }

    pub(super) fn rename(mut self) -> Result<Work, Errno> {
        let RenameIn { newdir } = self.args.fixed()?;
        self.rename_to(newdir, 0)
    }

    pub(super) fn rename2(mut self) -> Result<Work, Errno> {
        let Rename2In { newdir, flags, .. } = self.args.fixed()?;
        self.rename_to(newdir, flags)
    }

    fn rename_to(mut self, newdir: u64, flags: u32) -> Result<Work, Errno> {
        let name = NameBuf::from_slice(self.args.name()?);
        let new_name = NameBuf::from_slice(self.args.name()?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            ops.rename(&caller, node, &name, Ino(newdir), &new_name, flags).await.map(|()| ReplyBody::Empty)
        }))
    }
}

/// The bits of a umask that mean something.
fn permission_bits(umask: u32) -> u16 {
    (umask & 0o7777) as u16
}
