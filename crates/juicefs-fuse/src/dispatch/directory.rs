//! Operations on open directories.

use juicefs_core::Errno;

use super::{Call, Work, gone};
use crate::{
    abi::{FsyncIn, ReadIn, ReleaseIn},
    ops::Operations,
    reply::ReplyBody,
    wire::{ReaddirReply, open_out},
};

impl<O: Operations> Call<'_, O> {
    pub(super) fn opendir(self) -> Work {
        let Call { ops, caller, node, .. } = self;
        Box::pin(async move {
            Ok(ReplyBody::fixed(&open_out(&ops.opendir(&caller, node).await.map_err(gone(&ops, node))?)))
        })
    }

    pub(super) fn readdir(mut self, plus: bool) -> Result<Work, Errno> {
        let ReadIn { fh, offset, size, .. } = self.args.fixed()?;
        let room = size as usize;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let items = ops.readdir(&caller, node, fh, offset, ReaddirReply::entries_for(room, plus), plus).await?;
            let mut reply = ReaddirReply::new(room, plus);
            // What does not fit is asked for again: the kernel goes on from the cookie of the last entry it got.
            let all_fit = items.iter().all(|item| reply.push(item));
            if !all_fit && reply.is_empty() {
                return Err(Errno::EINVAL);
            }
            Ok(ReplyBody::Bytes(reply.into_bytes().into()))
        }))
    }

    pub(super) fn releasedir(mut self) -> Result<Work, Errno> {
        let ReleaseIn { fh, .. } = self.args.fixed()?;
        let Call { ops, node, .. } = self;
        Ok(Box::pin(async move { ops.releasedir(node, fh).await.map(|()| ReplyBody::Empty) }))
    }

    pub(super) fn fsyncdir(mut self) -> Result<Work, Errno> {
        let FsyncIn { fh, .. } = self.args.fixed()?;
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move { ops.fsyncdir(&caller, node, fh).await.map(|()| ReplyBody::Empty) }))
    }
}
