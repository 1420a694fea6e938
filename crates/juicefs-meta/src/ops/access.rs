//! Who may do what: permission bits, access ACLs, sticky directories, immutable and append-only nodes, rules for names.

use juicefs_core::{
    attr::{Attr, flags},
    caller::Caller,
    errno::Errno,
    ids::{Ino, Name},
    limits::MAX_NAME_BYTES,
};

use super::{Halt, need};
use crate::{record::Key, txn::ReadSet};

/// Permission to read.
pub(crate) const R: u8 = 4;
/// Permission to write.
pub(crate) const W: u8 = 2;
/// Permission to execute or search.
pub(crate) const X: u8 = 1;

/// The name under which the root of a volume shows its trash; no entry of this name exists.
pub(crate) const TRASH_NAME: &[u8] = b".trash";

/// EACCES unless `caller` gets all bits of `mask` on the node.
pub(crate) fn permit(read: &ReadSet, caller: &Caller, attr: &Attr, mask: u8) -> Result<(), Halt> {
    if !caller.check_permission || caller.uid == 0 {
        return Ok(());
    }
    let granted = if attr.access_acl != 0 && attr.mode & 0o070 != 0 {
        need(read, [Key::Acl(attr.access_acl)])?;
        read.acl(attr.access_acl).ok_or(Errno::EIO)?.permits(caller, attr, mask)
    } else {
        class_bits(caller, attr) & mask == mask
    };
    if granted { Ok(()) } else { Err(Errno::EACCES.into()) }
}

/// The permission bits of the class that the caller is in.
fn class_bits(caller: &Caller, attr: &Attr) -> u8 {
    let shift = if caller.uid == attr.uid {
        6
    } else if caller.in_group(attr.gid) {
        3
    } else {
        0
    };
    (attr.mode >> shift & 7) as u8
}

/// The directory `ino`. ENOENT, ENOTDIR.
pub(crate) fn directory(read: &ReadSet, ino: Ino) -> Result<&Attr, Errno> {
    let attr = read.node(ino).ok_or(Errno::ENOENT)?;
    if attr.is_dir() { Ok(attr) } else { Err(Errno::ENOTDIR) }
}

/// A directory that can gain entries at all: one that was removed into the trash cannot.
pub(crate) fn living_directory(read: &ReadSet, ino: Ino) -> Result<&Attr, Errno> {
    let attr = directory(read, ino)?;
    if attr.parent.is_hourly_trash() { Err(Errno::ENOENT) } else { Ok(attr) }
}

/// Whether the caller may add an entry to `dir`. EPERM, EACCES.
pub(crate) fn may_create(read: &ReadSet, caller: &Caller, dir: &Attr) -> Result<(), Halt> {
    if dir.has_flag(flags::IMMUTABLE) {
        return Err(Errno::EPERM.into());
    }
    permit(read, caller, dir, W | X)
}

/// Whether the caller may take the entry of `node` out of `dir`; `None` for an entry whose node is missing.
pub(crate) fn may_remove(read: &ReadSet, caller: &Caller, dir: &Attr, node: Option<&Attr>) -> Result<(), Halt> {
    may_create(read, caller, dir)?;
    if dir.has_flag(flags::APPEND) {
        return Err(Errno::EPERM.into());
    }
    let Some(node) = node else { return Ok(()) };
    if dir.mode & 0o1000 != 0 && caller.uid != 0 && caller.uid != dir.uid && caller.uid != node.uid {
        return Err(Errno::EACCES.into());
    }
    if node.has_flag(flags::APPEND | flags::IMMUTABLE) {
        return Err(Errno::EPERM.into());
    }
    Ok(())
}

/// Whether a new entry may have this name. EEXIST for `.` and `..`, EINVAL, ENAMETOOLONG.
pub(crate) fn new_name(name: &[u8]) -> Result<Name, Errno> {
    if name == b"." || name == b".." {
        return Err(Errno::EEXIST);
    }
    entry_name(name)
}

/// Whether an entry can have this name. EINVAL, ENAMETOOLONG.
pub(crate) fn entry_name(name: &[u8]) -> Result<Name, Errno> {
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(Errno::EINVAL);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(Name::new(name))
}

#[cfg(test)]
mod tests {
    use juicefs_core::acl::AclRule;

    use super::*;
    use crate::record::Value;

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller { uid, gid, check_permission: true, ..Caller::default() }
    }

    fn outcome(result: Result<(), Halt>) -> Result<(), Errno> {
        result.map_err(|halt| match halt {
            Halt::Fail(errno) => errno,
            Halt::More(keys) => panic!("asks for {keys:?}"),
        })
    }

    #[test]
    fn only_the_bits_of_the_own_class_count() {
        let read = ReadSet::default();
        let attr = Attr { mode: 0o407, uid: 1, gid: 1, ..Attr::default() };
        assert_eq!(outcome(permit(&read, &caller(1, 9), &attr, R)), Ok(()));
        assert_eq!(outcome(permit(&read, &caller(1, 9), &attr, W)), Err(Errno::EACCES));
        assert_eq!(outcome(permit(&read, &caller(2, 1), &attr, R)), Err(Errno::EACCES));
        assert_eq!(outcome(permit(&read, &caller(2, 2), &attr, R | W | X)), Ok(()));
        assert_eq!(outcome(permit(&read, &Caller { uid: 2, ..Caller::root() }, &attr, W)), Ok(()));
    }

    #[test]
    fn an_access_rule_replaces_the_bits_unless_the_group_has_none() {
        let rule = AclRule { owner: 7, group: 0, mask: 5, other: 0, users: vec![(3, 7)], groups: vec![] };
        let mut read = ReadSet::default();
        let attr = Attr { mode: 0o750, uid: 1, gid: 1, access_acl: 4, ..Attr::default() };
        assert!(matches!(permit(&read, &caller(3, 3), &attr, R), Err(Halt::More(keys)) if keys == [Key::Acl(4)]));
        read.insert(Key::Acl(4), Some(Value::Acl(rule)));
        assert_eq!(outcome(permit(&read, &caller(3, 3), &attr, R | X)), Ok(()));
        assert_eq!(outcome(permit(&read, &caller(3, 3), &attr, W)), Err(Errno::EACCES));
        let bare = Attr { mode: 0o700, ..attr };
        assert_eq!(outcome(permit(&read, &caller(3, 3), &bare, R)), Err(Errno::EACCES));
    }

    #[test]
    fn removal_checks_go_from_the_directory_to_the_node() {
        let read = ReadSet::default();
        let dir = Attr { mode: 0o1777, uid: 1, ..Attr::default() };
        let node = Attr { uid: 2, flags: flags::APPEND, ..Attr::default() };
        let remove = |dir: &Attr, uid| outcome(may_remove(&read, &caller(uid, 9), dir, Some(&node)));
        assert_eq!(remove(&Attr { flags: flags::IMMUTABLE, mode: 0, ..dir.clone() }, 3), Err(Errno::EPERM));
        assert_eq!(remove(&Attr { flags: flags::APPEND, mode: 0, ..dir.clone() }, 3), Err(Errno::EACCES));
        assert_eq!(remove(&dir, 3), Err(Errno::EACCES));
        assert_eq!(remove(&dir, 2), Err(Errno::EPERM));
    }

    #[test]
    fn names_are_checked_in_order() {
        assert_eq!(new_name(b".."), Err(Errno::EEXIST));
        assert_eq!(new_name(b""), Err(Errno::EINVAL));
        assert_eq!(new_name(&[b'/'; 300]), Err(Errno::EINVAL));
        assert_eq!(new_name(&[b'a'; 256]), Err(Errno::ENAMETOOLONG));
        assert!(new_name(&[0xff; 255]).is_ok());
    }
}
