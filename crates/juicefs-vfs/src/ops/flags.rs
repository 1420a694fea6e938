//! Inode flags through ioctl(2), as chattr(1) and lsattr(1) use them.

use std::{fmt::Write as _, pin::pin};

use bytes::Bytes;
use juicefs_core::{Attr, Caller, Errno, Ino, SetAttr, attr::flags};

use crate::{
    Vfs,
    internal::is_special,
    metrics::{MetaOp, Op},
    reply::VfsResult,
};

const GETFLAGS: u32 = 0x8008_6601;
const GETFLAGS_32: u32 = 0x8004_6601;
const SETFLAGS: u32 = 0x4008_6602;
const SETFLAGS_32: u32 = 0x4004_6602;
const FSGETXATTR: u32 = 0x801C_581F;
const FSSETXATTR: u32 = 0x401C_5820;

/// Bits of the FS_IOC_* calls and the flags of ours that they stand for.
const FS_FLAGS: [(u64, u8); 3] = [(0x1, flags::SKIP_TRASH), (0x10, flags::IMMUTABLE), (0x20, flags::APPEND)];
/// Bits of `fsxattr.fsx_xflags`.
const FSX_FLAGS: [(u64, u8); 2] = [(0x8, flags::IMMUTABLE), (0x10, flags::APPEND)];
/// Bytes of `struct fsxattr`.
const FSXATTR_BYTES: usize = 28;

impl Vfs {
    /// Gets or sets inode flags.
    ///
    /// ENOSYS unless the mount serves ioctl, ENOTTY for any other command, EPERM for internal files, EOPNOTSUPP for
    /// flags that a volume cannot hold, EINVAL for a short argument.
    #[allow(clippy::too_many_arguments, reason = "the arguments are those of ioctl(2)")]
    pub async fn ioctl(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: u64,
        cmd: u32,
        arg: u64,
        input: &[u8],
        out_size: usize,
    ) -> VfsResult<Bytes> {
        let _ = fh;
        let work = pin!(self.flags(cx, ino, cmd, input, out_size));
        self.operation(Op::Ioctl, cx, work, |line, answer| {
            write!(line, "({ino},0x{cmd:X},0x{arg:X},{input:?},{:?})", answer.as_deref().unwrap_or_default())
        })
        .await
    }

    async fn flags(&self, cx: &Caller, ino: Ino, cmd: u32, input: &[u8], out_size: usize) -> VfsResult<Bytes> {
        if !self.cx.config.enable_ioctl {
            return Err(Errno::ENOSYS);
        }
        if is_special(ino) {
            return Err(Errno::EPERM);
        }
        match cmd {
            GETFLAGS | GETFLAGS_32 => {
                let bits = bits_of(&self.node_attr(ino).await?, &FS_FLAGS);
                let bytes = bits.to_ne_bytes();
                let width = if cmd == GETFLAGS { 8 } else { 4 };
                // The bits lie in the lower half, which comes first on the machines that we run on.
                Ok(Bytes::copy_from_slice(&bytes[..width.min(out_size)]))
            }
            SETFLAGS | SETFLAGS_32 => {
                let bits = match (input.first_chunk::<8>(), input.first_chunk::<4>()) {
                    (Some(bytes), _) if cmd == SETFLAGS => u64::from_ne_bytes(*bytes),
                    (_, Some(bytes)) => u64::from(u32::from_ne_bytes(*bytes)),
                    _ => return Err(Errno::EINVAL),
                };
                self.set_flags(cx, ino, bits & u64::from(u32::MAX), &FS_FLAGS).await?;
                Ok(Bytes::new())
            }
            FSGETXATTR => {
                let attr = self.node_attr(ino).await?;
                let bits = bits_of(&attr, &FSX_FLAGS);
                let mut out = [0; FSXATTR_BYTES];
                // The bits lie in the lower half, which comes first on the machines that we run on.
                out[..4].copy_from_slice(&bits.to_ne_bytes()[..4]);
                Ok(Bytes::copy_from_slice(&out[..FSXATTR_BYTES.min(out_size)]))
            }
            FSSETXATTR => {
                let (flags, others) = input.split_first_chunk::<4>().ok_or(Errno::EINVAL)?;
                // Extent sizes and projects are not kept; how many extents there are is only ever told.
                let told = 4..8;
                if others.iter().enumerate().any(|(at, byte)| *byte != 0 && !told.contains(&at)) {
                    return Err(Errno::EOPNOTSUPP);
                }
                let bits = u32::from_ne_bytes(*flags);
                self.set_flags(cx, ino, bits.into(), &FSX_FLAGS).await?;
                Ok(Bytes::new())
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    async fn node_attr(&self, ino: Ino) -> VfsResult<Attr> {
        self.ask(MetaOp::GetAttr, ino, self.cx.meta.getattr(ino)).await
    }

    /// Sets the flags that `bits` name and clears the others that `names` has; flags without a name there stay.
    async fn set_flags(&self, cx: &Caller, ino: Ino, bits: u64, names: &[(u64, u8)]) -> VfsResult<()> {
        if cx.check_permission && cx.uid != 0 {
            return Err(Errno::EPERM);
        }
        if bits & !names.iter().fold(0, |all, (bit, _)| all | bit) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let kept = names.iter().fold(self.node_attr(ino).await?.flags, |all, (_, ours)| all & !ours);
        let wanted = names.iter().filter(|(bit, _)| bits & bit != 0).fold(kept, |all, (_, ours)| all | ours);
        let set = SetAttr { flags: Some(wanted), ..SetAttr::default() };
        self.ask(MetaOp::SetAttr, ino, self.cx.meta.setattr(cx, ino, set)).await?;
        self.cx.stamps.touch(ino);
        Ok(())
    }
}

/// The bits of `names` whose flags are set.
fn bits_of(attr: &Attr, names: &[(u64, u8)]) -> u64 {
    names.iter().filter(|(_, ours)| attr.has_flag(*ours)).fold(0, |all, (bit, _)| all | bit)
}
