//! Operations on the content of open files.

use bytes::Bytes;
use juicefs_core::{Errno, Ino, buffer::segments_len};

use super::{Call, Work, gone};
use crate::{
    abi::{
        CopyFileRangeIn, CopyFileRangeOut, FSYNC_FDATASYNC, FallocateIn, FlushIn, FsyncIn, LseekIn, LseekOut, OpenIn,
        ReadIn, ReleaseIn, WRITE_CACHE, WriteIn, WriteOut,
    },
    notify::Notifier,
    ops::Operations,
    reply::ReplyBody,
    wire::open_out,
};

/// How many bytes one COPY_FILE_RANGE copies at most when its answer has 32 bits for the number. These are whole chunks.
const COPY_32_BYTES_MAX: u64 = (1 << 32) - (64 << 20);

impl<O: Operations> Call<'_, O> {
    pub(super) fn open(mut self, notifier: &Notifier) -> Result<Work, Errno> {
        let OpenIn { flags, .. } = self.args.fixed()?;
        let Call { ops, caller, node, .. } = self;
        let notifier = notifier.clone();
        Ok(Box::pin(async move {
            let opened = ops.open(&caller, node, flags.cast_signed()).await.map_err(gone(&ops, node))?;
            if (!opened.keep_cache || opened.new_atime) && !opened.direct_io {
                // Another client may have changed the file: with its pages the kernel must drop the size it knows, or
                // reads would end at the old one until the attributes time out. Opening may have moved the access time.
                notifier.inval_attr(node);
            }
            Ok(ReplyBody::fixed(&open_out(&opened)))
        }))
    }

    pub(super) fn read(mut self) -> Result<Work, Errno> {
        let ReadIn { fh, offset, size, .. } = self.args.fixed()?;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let data = ops.read(&caller, node, fh, offset, size).await?;
            if segments_len(&data) > size as usize {
                tracing::error!(node = node.0, offset, size, "a read returned more than was asked for");
                return Err(Errno::EIO);
            }
            Ok(ReplyBody::Data(data))
        }))
    }

    pub(super) fn write(self, head: &WriteIn, data: Bytes) -> Work {
        let WriteIn { fh, offset, fuse_flags, flags, .. } = *head;
        // What comes from the kernel's cache has its place already.
        let append = flags.cast_signed() & libc::O_APPEND != 0 && fuse_flags & WRITE_CACHE == 0;
        let Call { ops, caller, node, .. } = self;
        Box::pin(async move {
            let size = ops.write(&caller, node, fh, offset, data, append).await?;
            Ok(ReplyBody::fixed(&WriteOut { size, padding: 0 }))
        })
    }

    pub(super) fn flush(mut self) -> Result<Work, Errno> {
        let FlushIn { fh, lock_owner, .. } = self.args.fixed()?;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { ops.flush(&caller, node, fh, lock_owner).await.map(|()| ReplyBody::Empty) }))
    }

    pub(super) fn fsync(mut self) -> Result<Work, Errno> {
        let FsyncIn { fh, fsync_flags, .. } = self.args.fixed()?;
        let datasync = fsync_flags & FSYNC_FDATASYNC != 0;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { ops.fsync(&caller, node, fh, datasync).await.map(|()| ReplyBody::Empty) }))
    }

    pub(super) fn release(mut self) -> Result<Work, Errno> {
        let ReleaseIn { fh, .. } = self.args.fixed()?;
        let Call { ops, node, .. } = self;
        // Which locks go with the handle is known better than the kernel says: of those of open files it says nothing.
        Ok(Box::pin(async move { ops.release(node, fh).await.map(|()| ReplyBody::Empty) }))
    }

    pub(super) fn fallocate(mut self, notifier: &Notifier) -> Result<Work, Errno> {
        let FallocateIn { fh, offset, length, mode, .. } = self.args.fixed()?;
        let Call { ops, caller, node, .. } = self;
        let notifier = notifier.clone();
        Ok(Box::pin(async move {
            ops.fallocate(&caller, node, fh, mode.cast_signed(), offset, length).await?;
            // The kernel asks anew for size and times afterwards, but not for the mode, which may have lost set-gid.
            notifier.inval_attr(node);
            Ok(ReplyBody::Empty)
        }))
    }

    pub(super) fn lseek(mut self) -> Result<Work, Errno> {
        let LseekIn { fh, offset, whence, .. } = self.args.fixed()?;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let offset = ops.lseek(&caller, node, fh, offset, whence).await?;
            Ok(ReplyBody::fixed(&LseekOut { offset }))
        }))
    }

    /// With `wide` the request has the form whose answer has 64 bits for the number of bytes.
    pub(super) fn copy_file_range(mut self, wide: bool) -> Result<Work, Errno> {
        let CopyFileRangeIn { fh_in, offset_in, nodeid_out, fh_out, offset_out, len, flags } = self.args.fixed()?;
        let len = if wide || len <= u64::from(u32::MAX) { len } else { COPY_32_BYTES_MAX };
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let target = Ino(nodeid_out);
            let bytes_copied =
                ops.copy_file_range(&caller, node, fh_in, offset_in, target, fh_out, offset_out, len, flags).await?;
            if wide {
                return Ok(ReplyBody::fixed(&CopyFileRangeOut { bytes_copied }));
            }
            let Ok(size) = u32::try_from(bytes_copied) else {
                tracing::error!(node = node.0, bytes_copied, len, "a copy was longer than asked for");
                return Err(Errno::EIO);
            };
            Ok(ReplyBody::fixed(&WriteOut { size, padding: 0 }))
        }))
    }
}
