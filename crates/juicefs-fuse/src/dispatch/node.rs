//! Operations on a node itself: attributes, extended attributes, link targets, ioctl, and the volume's figures.

use bytes::Bytes;
use juicefs_core::{Errno, SetAttr, SetTime, Timestamp};

use super::{Call, NameBuf, Work, gone};
use crate::{
    abi::{
        AccessIn, GETATTR_FH, GetattrIn, GetxattrIn, GetxattrOut, IOCTL_UNRESTRICTED, IoctlIn, IoctlOut,
        SETXATTR_ACL_KILL_SGID, SetattrIn, SetxattrExt, SetxattrIn, bytes_of, fattr,
    },
    ops::Operations,
    reply::ReplyBody,
    wire::{attr_out, statfs_out},
};

/// The largest answer to an ioctl that a caller may ask for; real ones have a few bytes.
const IOCTL_OUT_BYTES_MAX: usize = 16 << 10;

impl<O: Operations> Call<'_, O> {
    pub(super) fn getattr(mut self) -> Result<Work, Errno> {
        let GetattrIn { flags, fh, .. } = self.args.fixed()?;
        let fh = (flags & GETATTR_FH != 0).then_some(fh);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let reply = ops.getattr(&caller, node, fh).await.map_err(gone(&ops, node))?;
            Ok(ReplyBody::fixed(&attr_out(&reply)))
        }))
    }

    pub(super) fn setattr(mut self) -> Result<Work, Errno> {
        let set: SetattrIn = self.args.fixed()?;
        let has = |bit: u32| set.valid & bit != 0;
        let (fh, size) = (has(fattr::FH).then_some(set.fh), has(fattr::SIZE).then_some(set.size));
        let changes = changes(&set)?;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let reply = ops.setattr(&caller, node, fh, changes, size).await.map_err(gone(&ops, node))?;
            Ok(ReplyBody::fixed(&attr_out(&reply)))
        }))
    }

    pub(super) fn readlink(self) -> Work {
        let Call { ops, caller, node, .. } = self;
        Box::pin(async move { ops.readlink(&caller, node).await.map(ReplyBody::Bytes).map_err(gone(&ops, node)) })
    }

    pub(super) fn access(mut self) -> Result<Work, Errno> {
        let AccessIn { mask, .. } = self.args.fixed()?;
        let mask = (mask & 7) as u8;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            ops.access(&caller, node, mask).await.map(|()| ReplyBody::Empty).map_err(gone(&ops, node))
        }))
    }

    pub(super) fn statfs(self) -> Work {
        let Call { ops, caller, node, .. } = self;
        Box::pin(async move { Ok(ReplyBody::fixed(&statfs_out(&ops.statfs(&caller, node).await?))) })
    }

    pub(super) fn getxattr(mut self) -> Result<Work, Errno> {
        let GetxattrIn { size, .. } = self.args.fixed()?;
        let name = NameBuf::from_slice(self.args.text()?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { sized(ops.getxattr(&caller, node, &name).await.map_err(gone(&ops, node))?, size) }))
    }

    pub(super) fn listxattr(mut self) -> Result<Work, Errno> {
        let GetxattrIn { size, .. } = self.args.fixed()?;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { sized(ops.listxattr(&caller, node).await.map_err(gone(&ops, node))?, size) }))
    }

    /// With `extended` the arguments have flags of FUSE itself.
    pub(super) fn setxattr(mut self, extended: bool) -> Result<Work, Errno> {
        let SetxattrIn { size, flags } = self.args.fixed()?;
        let own: SetxattrExt = if extended { self.args.fixed()? } else { SetxattrExt::default() };
        let kill_sgid = own.flags & SETXATTR_ACL_KILL_SGID != 0;
        let name = NameBuf::from_slice(self.args.text()?);
        let value = Bytes::copy_from_slice(self.args.bytes(size as usize)?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            ops.setxattr(&caller, node, &name, value, flags, kill_sgid).await.map(|()| ReplyBody::Empty)
        }))
    }

    pub(super) fn removexattr(mut self) -> Result<Work, Errno> {
        let name = NameBuf::from_slice(self.args.text()?);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { ops.removexattr(&caller, node, &name).await.map(|()| ReplyBody::Empty) }))
    }

    /// Serves only commands whose number says how many bytes go in and out. Without CUSE the kernel lets no others through.
    pub(super) fn ioctl(mut self) -> Result<Work, Errno> {
        let IoctlIn { fh, flags, cmd, arg, in_size, out_size } = self.args.fixed()?;
        if flags & IOCTL_UNRESTRICTED != 0 {
            return Err(Errno::ENOSYS);
        }
        let input = NameBuf::from_slice(self.args.bytes(in_size as usize)?);
        let out_size = (out_size as usize).min(IOCTL_OUT_BYTES_MAX);
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let out = ops.ioctl(&caller, node, fh, cmd, arg, &input, out_size).await?;
            if out.len() > out_size {
                return Err(Errno::EOVERFLOW);
            }
            Ok(ReplyBody::Bytes([bytes_of(&IoctlOut::default()), &out].concat().into()))
        }))
    }
}

/// The reply that brings `value` to a caller with room for `room` bytes; 0 asks for its size alone.
fn sized(value: Bytes, room: u32) -> Result<ReplyBody, Errno> {
    if room == 0 {
        let size = u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
        return Ok(ReplyBody::fixed(&GetxattrOut { size, padding: 0 }));
    }
    if value.len() > room as usize {
        return Err(Errno::ERANGE);
    }
    Ok(ReplyBody::Bytes(value))
}

/// The changes that SETATTR asks for, bit by bit. The kernel's ctime is not among them, because the metadata engine sets it.
fn changes(set: &SetattrIn) -> Result<SetAttr, Errno> {
    let has = |bit: u32| set.valid & bit != 0;
    let time = |given: u32, now: u32, secs: u64, nanos: u32| match (has(given), has(now)) {
        (_, true) => Ok(Some(SetTime::Now)),
        (true, false) if nanos < 1_000_000_000 => Ok(Some(SetTime::At(Timestamp { secs: secs.cast_signed(), nanos }))),
        (true, false) => Err(Errno::EINVAL),
        (false, false) => Ok(None),
    };
    Ok(SetAttr {
        mode: has(fattr::MODE).then_some((set.mode & 0o7777) as u16),
        uid: has(fattr::UID).then_some(set.uid),
        gid: has(fattr::GID).then_some(set.gid),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, set.atime, set.atimensec)?,
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, set.mtime, set.mtimensec)?,
        flags: None,
        tier: None,
        kill_suid_sgid: has(fattr::KILL_SUIDGID),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setattr_bits_do_not_alias() {
        // FH, LOCKOWNER and CTIME alone ask for no change of attributes.
        let handle = SetattrIn { valid: 1 << 6 | 1 << 9 | 1 << 10, ctime: 5, ..Default::default() };
        assert_eq!(changes(&handle), Ok(SetAttr::default()));
        let all = SetattrIn {
            valid: !fattr::MTIME_NOW,
            mode: 0o104_755,
            uid: 1,
            gid: 2,
            mtime: (-1i64).cast_unsigned(),
            ..Default::default()
        };
        let set = changes(&all).expect("valid");
        assert_eq!((set.mode, set.uid, set.gid), (Some(0o4755), Some(1), Some(2)));
        assert_eq!((set.atime, set.flags, set.tier, set.kill_suid_sgid), (Some(SetTime::Now), None, None, true));
        assert_eq!(set.mtime, Some(SetTime::At(Timestamp { secs: -1, nanos: 0 })));
    }

    #[test]
    fn nanoseconds_are_checked() {
        let set = SetattrIn { valid: fattr::ATIME, atimensec: 1_000_000_000, ..Default::default() };
        assert_eq!(changes(&set), Err(Errno::EINVAL));
    }

    #[test]
    fn values_fit_or_are_refused() {
        let value = Bytes::from_static(b"abc");
        assert!(matches!(sized(value.clone(), 0), Ok(ReplyBody::Fixed(_))));
        assert!(matches!(sized(value.clone(), 3), Ok(ReplyBody::Bytes(_))));
        assert_eq!(sized(value, 2).err(), Some(Errno::ERANGE));
    }
}
