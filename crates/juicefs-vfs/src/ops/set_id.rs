//! How files lose their set-id bits when somebody other than root changes them.

use juicefs_core::{Caller, Ino, SetAttr};

use crate::{Vfs, metrics::MetaOp, reply::VfsResult};

/// Permission to write.
const WRITE: u8 = 2;
/// Set-uid and set-gid.
const SET_ID: u16 = 0o6000;

impl Vfs {
    /// Takes the set-id bits of a file away before a caller whose permissions are checked here changes its content. For
    /// other callers the kernel does so with each write, but not for root, who may be squashed. EACCES without the
    /// right to write.
    pub(super) async fn drop_set_id(&self, cx: &Caller, ino: Ino) -> VfsResult<()> {
        if !cx.check_permission || cx.uid == 0 {
            return Ok(());
        }
        let known = match self.cx.meta.recent_attr(ino, self.cx.config.attr_ttl) {
            Some((attr, _)) => Ok(attr),
            None => self.ask(MetaOp::GetAttr, ino, self.cx.meta.getattr(ino)).await,
        };
        // What cannot be looked at cannot be changed either, and says so itself.
        if !known.is_ok_and(|attr| attr.is_file() && attr.mode & SET_ID != 0) {
            return Ok(());
        }
        self.ask(MetaOp::Access, ino, self.cx.meta.access(cx, ino, WRITE)).await?;
        let set = SetAttr { kill_suid_sgid: true, ..SetAttr::default() };
        self.ask(MetaOp::SetAttr, ino, self.cx.meta.setattr(cx, ino, set)).await?;
        self.cx.stamps.touch(ino);
        Ok(())
    }
}
