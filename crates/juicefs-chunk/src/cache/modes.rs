//! Making and deleting the files of a cache directory, with the permissions of `--cache-mode` (format: data.md §4.1).

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// The permission bits that files and directories get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modes {
    file: u32,
    dir: u32,
}

impl Modes {
    /// The bits for a cache whose files have `mode`: whoever may read a file may search its directory.
    pub(super) fn of(mode: u32) -> Self {
        let reads = mode & 0o444;
        Self { file: mode, dir: mode | reads >> 2 | reads >> 1 }
    }

    /// Makes a file, and the directories above it that are missing. Also tells whether a directory was made.
    ///
    /// # Errors
    /// Those of the file system, `AlreadyExists` among them.
    pub(super) fn create(self, path: &Path) -> io::Result<(File, bool)> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(self.file);
        match options.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(dir) = path.parent() {
                    self.make_dirs(dir)?;
                }
                Ok((options.open(path)?, true))
            }
            other => Ok((other?, false)),
        }
    }

    /// Makes a directory and those above it that are missing. The umask does not change their permissions.
    ///
    /// # Errors
    /// Those of the file system, `NotADirectory` when something else has the name.
    pub(super) fn make_dirs(self, dir: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(self.dir).create(dir) {
            Ok(()) => fs::set_permissions(dir, Permissions::from_mode(self.dir)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if dir.is_dir() {
                    Ok(())
                } else {
                    Err(io::ErrorKind::NotADirectory.into())
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make_dirs(dir.parent().ok_or(e)?)?;
                self.make_dirs(dir)
            }
            Err(e) => Err(e),
        }
    }
}

/// Deletes a file; one that is missing is fine.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
