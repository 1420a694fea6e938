//! Whether a file may be opened (format: metadata.md §6.3).

use juicefs_core::{
    Caller,
    attr::{Attr, flags},
    errno::Errno,
    meta::OpenFlags,
};

use super::{
    Halt,
    access::{R, W, X, permit},
    setattr::is_owner,
};
use crate::txn::ReadSet;

/// Whether `caller` may open the node so. EACCES; EPERM for writing to what is immutable, append-only or in the trash, and for
/// O_NOATIME on what is somebody else's.
pub(crate) fn may_open(read: &ReadSet, caller: &Caller, attr: &Attr, open: OpenFlags) -> Result<(), Halt> {
    let mut mask = 0;
    if open.read {
        mask |= if open.exec { X } else { R };
    }
    if open.write || open.truncate {
        mask |= W;
    }
    permit(read, caller, attr, mask)?;
    if open.no_atime && !is_owner(caller, attr) {
        return Err(Errno::EPERM.into());
    }
    may_change(attr, open)?;
    Ok(())
}

/// Whether the state of the node lets anybody open it so.
pub(crate) fn may_change(attr: &Attr, open: OpenFlags) -> Result<(), Errno> {
    let writes = open.write || open.truncate;
    if writes && (attr.has_flag(flags::IMMUTABLE) || attr.parent.is_hourly_trash()) {
        return Err(Errno::EPERM);
    }
    if attr.has_flag(flags::APPEND) && (open.write && !open.append || open.truncate) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_only_files_open_for_appending_only() {
        let attr = Attr { flags: flags::APPEND, ..Attr::default() };
        let write = OpenFlags { write: true, ..OpenFlags::default() };
        assert_eq!(may_change(&attr, write), Err(Errno::EPERM));
        assert_eq!(may_change(&attr, OpenFlags { append: true, ..write }), Ok(()));
        assert_eq!(may_change(&attr, OpenFlags { append: true, truncate: true, ..write }), Err(Errno::EPERM));
        let immutable = Attr { flags: flags::IMMUTABLE, ..Attr::default() };
        assert_eq!(may_change(&immutable, OpenFlags { append: true, ..write }), Err(Errno::EPERM));
        assert_eq!(may_change(&immutable, OpenFlags { read: true, ..OpenFlags::default() }), Ok(()));
    }
}
