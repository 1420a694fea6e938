//! Extended attributes (format: metadata.md §6.13).

use bytes::Bytes;
use juicefs_core::{
    Caller,
    attr::{Attr, flags},
    errno::Errno,
    ids::{Ino, Name},
    limits::{MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES},
    meta::XattrMode,
};

use super::{
    Halt, Scope, Verdict,
    access::{R, W, permit},
    decision,
    setattr::{is_owner, is_trusted},
};
use crate::{
    record::Key,
    txn::{Decision, Effect, Effects, NodeEffect, Operation, ReadSet},
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

/// What the system does with an attribute, by the first part of its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    /// `trusted.`: for root alone, who alone sees that it is there.
    Trusted,
    /// `security.`: everybody may look, root changes.
    Security,
    /// `system.`: everybody may look, owners change.
    System,
    /// `user.`: as the content, of files and directories.
    User,
    /// As the content.
    Other,
}

impl Space {
    fn of(name: &[u8]) -> Self {
        match name.split(|byte| *byte == b'.').next() {
            Some(b"trusted") => Self::Trusted,
            Some(b"security") => Self::Security,
            Some(b"system") => Self::System,
            Some(b"user") => Self::User,
            _ => Self::Other,
        }
    }
}

/// Whether a caller who is checked may learn that a node has an attribute of this name.
pub(crate) fn may_list(caller: &Caller, name: &[u8]) -> bool {
    is_trusted(caller) || Space::of(name) != Space::Trusted
}

/// Whether the caller may read this attribute, as xattr(7) and the kernel have it. EACCES; ENODATA where it cannot be seen.
pub(crate) fn may_get(read: &ReadSet, caller: &Caller, attr: &Attr, name: &[u8]) -> Result<(), Halt> {
    if is_trusted(caller) {
        return Ok(());
    }
    match Space::of(name) {
        Space::Trusted => Err(Errno::ENODATA.into()),
        Space::User if !attr.is_file() && !attr.is_dir() => Err(Errno::ENODATA.into()),
        Space::Security | Space::System => Ok(()),
        Space::User | Space::Other => permit(read, caller, attr, R),
    }
}

/// Whether the caller may set this attribute, or remove it. EPERM, EACCES.
fn may_change(read: &ReadSet, caller: &Caller, attr: &Attr, name: &[u8], removes: bool) -> Result<(), Halt> {
    if is_trusted(caller) {
        return Ok(());
    }
    let sticky = attr.is_dir() && attr.mode & 0o1000 != 0;
    let denied = match Space::of(name) {
        // Whoever writes to a file takes its capabilities away, which the kernel does on their behalf.
        Space::Security if removes && name == b"security.capability" => false,
        Space::Trusted | Space::Security => true,
        Space::System if is_owner(caller, attr) => return Ok(()),
        Space::System => true,
        Space::User => !attr.is_file() && !attr.is_dir() || sticky && !is_owner(caller, attr),
        Space::Other => false,
    };
    if denied { Err(Errno::EPERM.into()) } else { permit(read, caller, attr, W) }
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
        may_change(read, &self.scope.caller, attr, self.name.as_bytes(), self.value.is_none())?;
        let exists = read.xattr(self.ino, &self.name).is_some();
        let mut effects = Effects::none();
        match &self.value {
            None if !exists => return Err(Errno::ENODATA.into()),
            None => effects.push(Effect::Node(self.ino, NodeEffect::DeleteXattr(self.name.clone()))),
            Some(value) => {
                if value.len() > MAX_XATTR_VALUE_BYTES {
                    return Err(Errno::ERANGE.into());
                }
                match self.mode {
                    XattrMode::Create if exists => return Err(Errno::EEXIST.into()),
                    XattrMode::Replace if !exists => return Err(Errno::ENODATA.into()),
                    _ => effects.push(Effect::Node(self.ino, NodeEffect::PutXattr(self.name.clone(), value.clone()))),
                }
            }
        }
        effects.push(Effect::Node(self.ino, NodeEffect::Update(Attr { ctime: self.scope.now, ..attr.clone() })));
        Ok(((), effects))
    }
}
