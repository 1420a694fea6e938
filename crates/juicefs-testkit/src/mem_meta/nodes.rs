//! What operations do to a node itself.

use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, Errno, Ino, SetAttr, SetTime, Timestamp,
    acl::{AclKind, AclRule},
    meta::XattrMode,
};

use super::State;

impl State {
    /// EACCES unless the mode of `ino` grants all of `mask`.
    pub(super) fn access(&self, cx: &Caller, ino: Ino, mask: u8) -> Result<(), Errno> {
        let attr = &self.node(ino)?.attr;
        let shift = if cx.uid == attr.uid {
            6
        } else if cx.in_group(attr.gid) {
            3
        } else {
            0
        };
        let granted = attr.mode >> shift & 7;
        if cx.uid == 0 || granted & u16::from(mask) == u16::from(mask) { Ok(()) } else { Err(Errno::EACCES) }
    }

    pub(super) fn set_attr(&mut self, ino: Ino, set: &SetAttr, now: Timestamp) -> Result<Attr, Errno> {
        let attr = &mut self.node_mut(ino)?.attr;
        let before = attr.clone();
        let time = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(at) => at,
        };
        attr.mode = set.mode.unwrap_or(attr.mode);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.map_or(attr.atime, time);
        attr.mtime = set.mtime.map_or(attr.mtime, time);
        attr.flags = set.flags.unwrap_or(attr.flags);
        attr.tier = set.tier.unwrap_or(attr.tier);
        if *attr != before {
            attr.ctime = now;
        }
        Ok(attr.clone())
    }

    pub(super) fn set_xattr(&mut self, ino: Ino, name: &[u8], value: Bytes, mode: XattrMode) -> Result<(), Errno> {
        let xattrs = &mut self.node_mut(ino)?.xattrs;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(Errno::EEXIST),
            (XattrMode::Replace, false) => return Err(Errno::ENODATA),
            _ => xattrs.insert(Bytes::copy_from_slice(name), value),
        };
        Ok(())
    }

    /// Sets an ACL rule; the empty one removes what is there.
    pub(super) fn set_rule(&mut self, ino: Ino, kind: AclKind, rule: AclRule) -> Result<(), Errno> {
        let rules = &mut self.node_mut(ino)?.rules;
        rules.retain(|(known, _)| *known != kind);
        if !rule.is_empty() {
            rules.push((kind, rule));
        }
        Ok(())
    }
}
