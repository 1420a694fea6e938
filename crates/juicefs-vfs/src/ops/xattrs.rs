//! Operations on extended attributes.

use std::{fmt::Write as _, pin::pin};

use bytes::Bytes;
use juicefs_core::{
    Caller, Errno, Ino,
    acl::{AclKind, AclRule},
    limits::{MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES},
    meta::XattrMode,
};

use crate::{
    Vfs,
    internal::{Text, is_special},
    metrics::{MetaOp, Op},
    reply::VfsResult,
};

const XATTR_CREATE: u32 = libc::XATTR_CREATE as u32;
const XATTR_REPLACE: u32 = libc::XATTR_REPLACE as u32;

impl Vfs {
    /// Whether attributes of this name are served by this mount.
    fn serves(&self, name: &[u8]) -> bool {
        match name {
            b"security.capability" => self.cx.config.enable_cap,
            b"security.selinux" => self.cx.config.enable_selinux,
            _ => self.cx.config.enable_acl || AclKind::of_xattr(name).is_none(),
        }
    }

    fn check_change(&self, ino: Ino, name: &[u8]) -> VfsResult<()> {
        if !self.cx.config.enable_xattr {
            return Err(Errno::ENOSYS);
        }
        if is_special(ino) {
            return Err(Errno::EPERM);
        }
        if name.is_empty() {
            return Err(Errno::EINVAL);
        }
        if name.len() > MAX_XATTR_NAME_BYTES {
            return Err(Errno::ERANGE);
        }
        if self.serves(name) { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    /// The ACL rule of a node in the form of the kernel. ENODATA when it has none.
    ///
    /// The kernel asks for it before each check of permissions that its own cache cannot answer. Most nodes have no
    /// rule, and their attributes say so, so attributes that the kernel could still have are looked at first.
    async fn acl(&self, ino: Ino, kind: AclKind) -> VfsResult<Bytes> {
        if let Some((attr, _)) = self.cx.meta.recent_attr(ino, self.cx.config.attr_ttl) {
            let id = match kind {
                AclKind::Access => attr.access_acl,
                AclKind::Default => attr.default_acl,
            };
            if id == 0 {
                return Err(Errno::ENODATA);
            }
        }
        let rule = self.ask(MetaOp::GetFacl, ino, self.cx.meta.acl(ino, kind)).await?;
        Ok(rule.to_xattr().into())
    }

    async fn set_acl(&self, cx: &Caller, ino: Ino, kind: AclKind, value: &[u8], kill_sgid: bool) -> VfsResult<()> {
        let rule = AclRule::from_xattr(value).ok_or(Errno::EINVAL)?;
        self.ask(MetaOp::SetFacl, ino, self.cx.meta.set_acl(cx, ino, kind, rule, kill_sgid)).await
    }

    /// The value of an attribute. ENODATA, ENOSYS when the mount serves none, ERANGE for a name that is too long.
    pub async fn getxattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> VfsResult<Bytes> {
        let work = pin!(async {
            if !self.cx.config.enable_xattr {
                return Err(Errno::ENOSYS);
            }
            if is_special(ino) {
                return Err(Errno::ENODATA);
            }
            if name.len() > MAX_XATTR_NAME_BYTES {
                return Err(Errno::ERANGE);
            }
            if name.is_empty() {
                return Err(Errno::EINVAL);
            }
            if !self.serves(name) {
                return Err(Errno::ENODATA);
            }
            match AclKind::of_xattr(name) {
                Some(kind) => self.acl(ino, kind).await,
                None => self.ask(MetaOp::GetXattr, ino, self.cx.meta.getxattr(cx, ino, name)).await,
            }
        });
        self.operation(Op::Getxattr, cx, work, |line, answer| {
            let got = answer.as_ref().map_or(0, Bytes::len);
            write!(line, "({ino},{},{got}): ({got})", Text(name))
        })
        .await
    }

    /// The names of all attributes, each ended by NUL. ENOSYS when the mount serves none.
    pub async fn listxattr(&self, cx: &Caller, ino: Ino) -> VfsResult<Bytes> {
        let work = pin!(async {
            if !self.cx.config.enable_xattr {
                return Err(Errno::ENOSYS);
            }
            if is_special(ino) {
                return Err(Errno::ENODATA);
            }
            let names = self.ask(MetaOp::ListXattr, ino, self.cx.meta.listxattr(cx, ino)).await?;
            let mut out = Vec::new();
            for name in names {
                out.extend_from_slice(name.as_bytes());
                out.push(0);
            }
            Ok(Bytes::from(out))
        });
        self.operation(Op::Listxattr, cx, work, |line, answer| {
            let got = answer.as_ref().map_or(0, Bytes::len);
            write!(line, "({ino},{got}): ({got})")
        })
        .await
    }

    /// Sets an attribute; `flags` are those of setxattr(2). With `kill_sgid` a new ACL takes set-gid away, since the
    /// caller is not in the group of the file.
    ///
    /// EEXIST and ENODATA as the flags say, EINVAL for unknown flags and an empty name, ERANGE for a name or value that is
    /// too long, EOPNOTSUPP for names that this mount does not serve, EPERM for internal files, ENOSYS, EROFS.
    pub async fn setxattr(
        &self,
        cx: &Caller,
        ino: Ino,
        name: &[u8],
        value: Bytes,
        flags: u32,
        kill_sgid: bool,
    ) -> VfsResult<()> {
        let size = value.len();
        let work = pin!(async {
            self.check_change(ino, name)?;
            if size > MAX_XATTR_VALUE_BYTES {
                return Err(Errno::ERANGE);
            }
            let mode = match flags {
                0 => XattrMode::Any,
                XATTR_CREATE => XattrMode::Create,
                XATTR_REPLACE => XattrMode::Replace,
                _ => return Err(Errno::EINVAL),
            };
            match AclKind::of_xattr(name) {
                Some(kind) => self.set_acl(cx, ino, kind, &value, kill_sgid).await?,
                None => {
                    let call = self.cx.meta.setxattr(cx, ino, name, value, mode);
                    self.ask(MetaOp::SetXattr, ino, call).await?;
                }
            }
            self.cx.stamps.touch(ino);
            Ok(())
        });
        self.operation(Op::Setxattr, cx, work, |line, _| write!(line, "({ino},{},{size},{flags})", Text(name))).await
    }

    /// Removes an attribute. ENODATA, and as `setxattr`.
    pub async fn removexattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> VfsResult<()> {
        let work = pin!(async {
            self.check_change(ino, name)?;
            match AclKind::of_xattr(name) {
                Some(kind) => self.set_acl(cx, ino, kind, &[], false).await?,
                None => self.ask(MetaOp::RemoveXattr, ino, self.cx.meta.removexattr(cx, ino, name)).await?,
            }
            self.cx.stamps.touch(ino);
            Ok(())
        });
        self.operation(Op::Removexattr, cx, work, |line, _| write!(line, "({ino},{})", Text(name))).await
    }
}
