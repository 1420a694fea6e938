//! How mounts are made and ended: by mount(2) where this user may, and by the setuid helper `fusermount3` elsewhere.

mod abort;
mod fusermount;
mod holders;
mod options;
mod table;

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

pub use holders::{Holder, holders};
pub(crate) use options::Resolved;
pub use options::{MountOptions, is_option};
use rustix::{
    io::Errno as IoErrno,
    mount::{UnmountFlags, unmount},
};
pub use table::{MountEntry, mounted_at, mounts};
use thiserror::Error;

const DEVICE: &str = "/dev/fuse";
const FS_TYPE: &str = "fuse.juicefs";

/// Why a mount could not be made or ended.
#[derive(Debug, Error)]
pub enum MountError {
    /// The mount point cannot be used.
    #[error("mount point {}: {why}", .path.display())]
    MountPoint {
        /// The mount point as it was given.
        path: PathBuf,
        /// What is wrong with it.
        why: io::Error,
    },
    /// There is no usable FUSE device.
    #[error("cannot open /dev/fuse: {0} (is the fuse module loaded, and may this user or container use the device?)")]
    Device(io::Error),
    /// The kernel refused the mount.
    #[error("cannot mount on {}: {why}", .path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel says.
        why: io::Error,
    },
    /// `fusermount3` is missing or refused.
    #[error("fusermount3: {0}")]
    Fusermount(String),
    /// The kernel and this client do not understand each other.
    #[error("FUSE protocol: {0}")]
    Protocol(String),
    /// A thread or descriptor could not be had.
    #[error("cannot start serving: {0}")]
    Start(io::Error),
    /// Something below the mount point is in use.
    #[error("{} is busy{}", .path.display(), list(.holders))]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// Who uses it, as far as could be seen.
        holders: Vec<Holder>,
    },
    /// Nothing is mounted there.
    #[error("{} is not a mount point", .0.display())]
    NotMounted(PathBuf),
    /// The kernel refused to end the mount.
    #[error("cannot unmount {}: {why}", .path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel says.
        why: io::Error,
    },
}

fn list(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return String::new();
    }
    let shown: Vec<_> = holders.iter().take(10).map(|h| format!("{} (pid {}, {})", h.command, h.pid, h.what)).collect();
    let more =
        if holders.len() > shown.len() { format!(" and {} more", holders.len() - shown.len()) } else { String::new() };
    format!(": used by {}{more}", shown.join(", "))
}

/// Mounts as `resolved` says. The descriptor is the session with the kernel, which now waits for an answer to INIT.
pub(crate) fn mount(resolved: &Resolved) -> Result<OwnedFd, MountError> {
    let path = &resolved.mountpoint;
    let root = fs::metadata(path).map_err(|why| MountError::MountPoint { path: path.clone(), why })?;
    let device = match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(device) => OwnedFd::from(device),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return fusermount::mount(resolved),
        Err(error) => return Err(MountError::Device(error)),
    };
    let data = format!(
        "fd={},rootmode={:o},user_id={},group_id={}{}",
        device.as_raw_fd(),
        root.mode() & 0o170_000,
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        resolved.data.iter().map(|item| format!(",{item}")).collect::<String>(),
    );
    let refused = |why| MountError::Mount { path: path.clone(), why };
    let data = CString::new(data).map_err(|_| refused(io::ErrorKind::InvalidInput.into()))?;
    match rustix::mount::mount(resolved.source.as_str(), path, FS_TYPE, resolved.flags, data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(IoErrno::PERM) => fusermount::mount(resolved),
        Err(error) => Err(refused(error.into())),
    }
}

/// Ends what is mounted at `path`. With `lazy` the mount disappears at once and ends when nobody uses it any more.
///
/// Does not touch the file system there, so a dead mount can be ended too.
///
/// # Errors
/// [`MountError::NotMounted`]; [`MountError::Busy`] with the holders, never with `lazy`; [`MountError::Unmount`].
pub fn unmount_path(path: &Path, lazy: bool) -> Result<(), MountError> {
    let path = resolve(path).map_err(|why| MountError::MountPoint { path: path.to_owned(), why })?;
    let table = mounted_at(&path).map_err(|why| MountError::Unmount { path: path.clone(), why })?;
    if table.is_none() {
        return Err(MountError::NotMounted(path));
    }
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
    match unmount(&path, flags) {
        Ok(()) => Ok(()),
        Err(IoErrno::BUSY) => Err(MountError::Busy { holders: holders(&path), path }),
        Err(IoErrno::PERM) => fusermount::unmount(&path, lazy).map_err(|text| match holders(&path) {
            holders if !holders.is_empty() && !lazy => MountError::Busy { holders, path },
            _ => MountError::Fusermount(text),
        }),
        Err(error) => Err(MountError::Unmount { path, why: error.into() }),
    }
}

/// Breaks the session behind what is mounted at `path` and unmounts it: every request under way ends with an error, and
/// so does every later one. For a mount that nobody serves, or that must end whatever uses it.
///
/// # Errors
/// [`MountError::NotMounted`]; [`MountError::Unmount`] when this is neither root nor the user who mounted.
pub fn abort_path(path: &Path) -> Result<(), MountError> {
    let path = resolve(path).map_err(|why| MountError::MountPoint { path: path.to_owned(), why })?;
    let failed = |why| MountError::Unmount { path: path.clone(), why };
    let entry = mounted_at(&path).map_err(failed)?.ok_or_else(|| MountError::NotMounted(path.clone()))?;
    abort_session(&entry)?;
    unmount_path(&path, true)
}

/// Breaks the session of the mount that `entry` describes, whether it is still in the table or was detached from it.
pub(crate) fn abort_session(entry: &MountEntry) -> Result<(), MountError> {
    let failed = |why| MountError::Unmount { path: entry.mountpoint.clone(), why };
    let number = entry.connection().ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?;
    abort::abort_connection(number).map_err(failed)
}

/// The absolute path of a mount point without links, found without touching what is mounted there.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let bytes = path.as_os_str().as_bytes();
    if bytes.ends_with(b"/..") || bytes.ends_with(b"/.") || path.read_link().is_ok() {
        return path.canonicalize();
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve_without_the_last_part_being_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("it exists");
        std::os::unix::fs::symlink(&real, real.join("link")).expect("a link");
        assert_eq!(resolve(&real.join("link/none")).ok(), Some(real.join("none")));
        assert_eq!(resolve(&real.join("link")).ok(), Some(real));
        assert_eq!(resolve(Path::new("/")).ok(), Some(PathBuf::from("/")));
    }

    #[test]
    fn unmounting_a_plain_directory_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(unmount_path(dir.path(), false), Err(MountError::NotMounted(_))));
    }

    #[test]
    fn busy_names_the_holders() {
        let holder = Holder { pid: 7, command: "vim".into(), what: "cwd".into() };
        let error = MountError::Busy { path: "/m".into(), holders: vec![holder] };
        assert_eq!(error.to_string(), "/m is busy: used by vim (pid 7, cwd)");
    }
}
