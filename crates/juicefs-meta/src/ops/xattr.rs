//! Extended attributes (format: metadata.md §6.13).

use bytes::Bytes;
use juicefs_core::{
    attr::{Attr, flags},
    errno::Errno,
    ids::{Ino, Name},
    limits::{MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES},
    meta::XattrMode,
};

use super::{Scope, Verdict, decision};
use crate::{
    record::Key,
    txn::{Decision, Effect, Effects, Operation, ReadSet},
};

/// Attributes that are views of ACL rules and never stored themselves.
const ACL_NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Whether an extended attribute may have this name. EINVAL, ERANGE, EOPNOTSUPP.
pub(crate) fn xattr_name(name: &[u8]) -> Result<Name, Errno> {
    if name.is_empty() {
        Err(Errno::EINVAL)
    } else if name.len() > MAX_XATTR_NAME_BYTES {
        Err(Errno::ERANGE)
    } else if ACL_NAMES.contains(&name) {
        Err(Errno::EOPNOTSUPP)
    } else {
        Ok(Name::new(name))
    }
}

/// Sets an extended attribute, or removes it.
#[derive(Debug)]
pub(crate) struct ChangeXattr {
    pub(crate) scope: Scope,
    pub(crate) ino: Ino,
    pub(crate) name: Name,
    /// The new value; `None` removes.
    pub(crate) value: Option<Bytes>,
    /// How it is set.
    pub(crate) mode: XattrMode,
}

impl Operation for ChangeXattr {
    type Reply = ();
    const NAME: &'static str = "setxattr";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino), Key::Xattr(self.ino, self.name.clone())]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        decision(self.judge(read))
    }
}

impl ChangeXattr {
    fn judge(&self, read: &ReadSet) -> Verdict<()> {
        let attr = read.node(self.ino).ok_or(Errno::ENOENT)?;
        if attr.has_flag(flags::IMMUTABLE | flags::APPEND) {
            return Err(Errno::EPERM.into());
        }
        let exists = read.xattr(self.ino, &self.name).is_some();
        let mut effects = Effects::none();
        match &self.value {
            None if !exists => return Err(Errno::ENODATA.into()),
            None => effects.push(Effect::DeleteXattr(self.ino, self.name.clone())),
            Some(value) => {
                if value.len() > MAX_XATTR_VALUE_BYTES {
                    return Err(Errno::ERANGE.into());
                }
                match self.mode {
                    XattrMode::Create if exists => return Err(Errno::EEXIST.into()),
                    XattrMode::Replace if !exists => return Err(Errno::ENODATA.into()),
                    _ => effects.push(Effect::PutXattr(self.ino, self.name.clone(), value.clone())),
                }
            }
        }
        effects.push(Effect::UpdateNode(self.ino, Attr { ctime: self.scope.now, ..attr.clone() }));
        Ok(((), effects))
    }
}
