//! How a session is broken off through the kernel's control file system, whether that is mounted or not.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno as IoErrno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// Aborts connection `number`; success when it does not exist any more. Works for a mount that was detached before,
/// which no path leads to.
pub(super) fn abort_connection(number: u32) -> io::Result<()> {
    let file = format!("{number}/abort");
    match fs::write(format!("/sys/fs/fuse/connections/{file}"), b"1") {
        Ok(()) => return Ok(()),
        // Not there, or the control file system is not mounted, as in many containers.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let control = control_files()?;
    let file = match openat(&control, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(IoErrno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    rustix::io::write(&file, b"1")?;
    Ok(())
}

/// Mounts the control file system where nobody else sees it; the mount goes with the descriptor.
fn control_files() -> io::Result<OwnedFd> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}
