//! Finds out what the paths of a command line mean.
//!
//! They mean what they mean to the kernel: `..` leads to where the directory before it really lies, links on the way
//! are followed, the last name is taken as it is, and with a slash behind it that one is followed too. If paths were
//! taken as text, `link/../victim` would be another file than the one that `rm link/../victim` removes.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, fstat, openat, statx};

/// A name in a directory, to which a path leads.
#[derive(Debug)]
pub(crate) struct Located {
    /// The directory that has the name, or would have it.
    pub(crate) dir: Dir,
    /// The name in it.
    pub(crate) name: OsString,
}

/// A directory that is held open, so that a rename in the meantime does not change what is meant.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    /// Where it lies, without links.
    pub(crate) path: PathBuf,
    /// Its inode.
    pub(crate) ino: u64,
    /// The file system that it lies in.
    pub(crate) device: u64,
}

/// The node that a name leads to.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its inode; a symlink's own.
    pub(crate) ino: u64,
    /// The file system that it lies in, which is not that of its directory when something is mounted there.
    pub(crate) device: u64,
    /// Something is mounted there, maybe another part of the same file system.
    pub(crate) is_mount_point: bool,
    kind: FileType,
}

impl Dir {
    /// Opens a directory.
    ///
    /// # Errors
    /// With the path, when it is none or may not be searched.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || {
            let real = path.canonicalize()?;
            let fd = openat(CWD, &real, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let stat = fstat(&fd)?;
            io::Result::Ok(Self { fd, path: real, ino: stat.st_ino, device: stat.st_dev })
        };
        open().with_context(|| path.display().to_string())
    }

    /// What has `name` here, without following it; `None` when nothing has.
    ///
    /// # Errors
    /// As lstat(2).
    pub(crate) fn node(&self, name: &OsStr) -> io::Result<Option<Node>> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let known = match statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(known) => known,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        Ok(Some(Node {
            ino: known.stx_ino,
            device: rustix::fs::makedev(known.stx_dev_major, known.stx_dev_minor),
            is_mount_point: known.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT),
            kind: FileType::from_raw_mode(u32::from(known.stx_mode)),
        }))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Node {
    /// Whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether it is a symlink.
    pub(crate) fn is_symlink(&self) -> bool {
        self.kind == FileType::Symlink
    }
}

impl Located {
    /// Finds what `path` names. The last name need not be there, unless a slash, `.` or `..` ends the path.
    ///
    /// # Errors
    /// With the path, when what leads to it is not there, is no directory or may not be searched, and for the root of the
    /// system, which has no name.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let (parent, name) = split(path);
        let Some(name) = name else { return Self::of_target(path) };
        let dir = Dir::open(parent).with_context(|| format!("{} cannot be looked up", path.display()))?;
        Ok(Self { dir, name: name.to_owned() })
    }

    /// Finds what `path` leads to when its last name is followed too.
    ///
    /// # Errors
    /// As [`Located::of`], and when nothing is there.
    pub(crate) fn of_target(path: &Path) -> Result<Self> {
        let looked_up = || format!("{} cannot be looked up", path.display());
        if ends_in_slash(path) && !path.metadata().with_context(looked_up)?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory)).with_context(looked_up);
        }
        let real = path.canonicalize().with_context(looked_up)?;
        match (real.parent(), real.file_name()) {
            (Some(parent), Some(name)) => {
                Ok(Self { dir: Dir::open(parent).with_context(looked_up)?, name: name.to_owned() })
            }
            _ => bail!("{} has no name in a directory", path.display()),
        }
    }

    /// The absolute path, in which only the last name may be a link.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path.join(&self.name)
    }

    /// The node that has the name, if there is one.
    ///
    /// # Errors
    /// As lstat(2), with the path.
    pub(crate) fn node(&self) -> Result<Option<Node>> {
        self.dir.node(&self.name).with_context(|| format!("{} cannot be looked up", self.path().display()))
    }

    /// The node that has the name.
    ///
    /// # Errors
    /// When there is none, and as lstat(2), with the path.
    pub(crate) fn existing(&self) -> Result<Node> {
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        self.node()?.ok_or_else(missing).with_context(|| format!("{} cannot be looked up", self.path().display()))
    }
}

/// Whether a slash follows the last name.
pub(crate) fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

/// Splits a path into what leads to the last name, and that name. The name is `None` for a path whose end is to be followed.
fn split(path: &Path) -> (&Path, Option<&OsStr>) {
    let bytes = path.as_os_str().as_bytes();
    let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => bytes.split_at(slash + 1),
        None => (&b"."[..], bytes),
    };
    let name = (!matches!(name, b"" | b"." | b"..")).then(|| OsStr::from_bytes(name));
    (Path::new(OsStr::from_bytes(parent)), name)
}

/// `path` from the root, without `.` and `..`. Links stay as they are, except those before a `..`.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    absolute_from(&std::env::current_dir().unwrap_or_default(), path)
}

/// Does what [`absolute`] does, for a process that stands in `cwd`. What is not there yet has no links.
pub(crate) fn absolute_from(cwd: &Path, path: &Path) -> PathBuf {
    let mut out = if path.is_absolute() { PathBuf::new() } else { cwd.to_owned() };
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if let Ok(real) = out.canonicalize() {
                    out = real;
                }
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use super::*;

    /// `d/e`, `s` that leads to it, `loop` that leads nowhere, and a file of a name that is no text.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("it is there");
        fs::create_dir_all(real.join("d/e")).expect("made");
        symlink("d/e", real.join("s")).expect("made");
        symlink("loop", real.join("loop")).expect("made");
        fs::write(real.join(OsStr::from_bytes(b"n\xFFt")), b"").expect("written");
        (dir, real)
    }

    #[test]
    fn places_are_those_of_the_kernel() {
        let (_dir, root) = tree();
        let place = |path: &str| Located::of(&root.join(path)).expect(path).path();
        assert_eq!(place("s/../victim"), root.join("d/victim"));
        assert_eq!(place("s"), root.join("s"));
        assert_eq!(place("s/"), root.join("d/e"));
        assert_eq!(place("s//"), root.join("d/e"));
        assert_eq!(place("s/."), root.join("d/e"));
        assert_eq!(place("s/.."), root.join("d"));
        assert_eq!(place("d//e/./new"), root.join("d/e/new"));
        assert_eq!(place("d/../d/e/"), root.join("d/e"));
        let odd = OsStr::from_bytes(b"s/../../n\xFFt");
        let place = Located::of(&root.join(odd)).expect("there");
        let ino = fs::symlink_metadata(place.path()).expect("there").ino();
        assert_eq!(place.existing().expect("there").ino, ino);
    }

    #[test]
    fn a_link_itself_is_what_its_name_means() {
        let (_dir, root) = tree();
        let node = Located::of(&root.join("s")).and_then(|place| place.existing()).expect("there");
        assert!(node.is_symlink());
        let node = Located::of(&root.join("s/")).and_then(|place| place.existing()).expect("there");
        assert_eq!((node.is_dir(), node.ino), (true, fs::metadata(root.join("d/e")).expect("there").ino()));
        let node = Located::of(&root.join("d/none")).and_then(|place| place.node()).expect("looked up");
        assert!(node.is_none());
    }

    #[test]
    fn what_leads_nowhere_is_said_so() {
        let (_dir, root) = tree();
        for path in ["none/x", "loop/x", "loop/", "none/", "n/../x", "d/e/none/.."] {
            let error = Located::of(&root.join(path)).expect_err(path).to_string();
            assert!(error.contains(path) && error.contains("cannot be looked up"), "{error}");
        }
        let file = root.join(OsStr::from_bytes(b"n\xFFt/"));
        let error = format!("{:#}", Located::of(&file).expect_err("no directory"));
        assert!(error.to_lowercase().contains("not a directory"), "{error}");
        for path in ["/", "/..", ""] {
            assert!(Located::of(Path::new(path)).is_err(), "{path:?}");
        }
    }

    #[test]
    fn mount_points_are_known() {
        let node = Located::of(Path::new("/proc")).and_then(|place| place.existing()).expect("there");
        assert!(node.is_mount_point);
        let node = Located::of(Path::new("/proc/self/status")).and_then(|place| place.existing()).expect("there");
        assert!(!node.is_mount_point);
    }

    #[test]
    fn paths_become_absolute() {
        let here = std::env::current_dir().expect("there is one");
        assert_eq!(absolute(Path::new("a/./b/../c")), here.join("a/c"));
        assert_eq!(absolute(Path::new("/a//b/")), PathBuf::from("/a/b"));
        assert_eq!(absolute(Path::new("/..")), PathBuf::from("/"));
        let (_dir, root) = tree();
        assert_eq!(absolute_from(&root, Path::new("s/../new")), root.join("d/new"));
        assert_eq!(absolute_from(&root, Path::new("s/new")), root.join("s/new"));
        assert_eq!(absolute_from(&root, Path::new("none/../new")), root.join("new"));
    }
}
