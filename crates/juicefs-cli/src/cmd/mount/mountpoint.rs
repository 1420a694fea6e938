//! Prepares the directory that is mounted on. It is made if it is missing, and freed of a broken mount.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use juicefs_fuse::unmount_path;

/// How many broken mounts may lie on top of each other.
const MOST_BROKEN: usize = 16;

/// Makes `path` ready and returns it without links.
///
/// # Errors
/// When it is no directory and cannot become one, or is the root of the system.
pub(super) fn prepare(path: &Path) -> Result<PathBuf> {
    for _ in 0..MOST_BROKEN {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                let real = path.canonicalize().with_context(|| format!("mount point {}", path.display()))?;
                if real.parent().is_none() {
                    bail!("cannot mount on {}: it is the root directory", path.display());
                }
                return Ok(real);
            }
            Ok(_) => bail!("mount point {} is not a directory", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path).with_context(|| format!("cannot make the mount point {}", path.display()))?;
            }
            Err(error) if is_broken(&error) => {
                tracing::warn!("{} holds a broken mount ({error}): unmounting it", path.display());
                unmount_path(path, true)
                    .with_context(|| format!("cannot clear the broken mount {}", path.display()))?;
            }
            Err(error) => return Err(error).with_context(|| format!("mount point {}", path.display())),
        }
    }
    bail!("mount point {} holds too many broken mounts: unmount them first", path.display())
}

/// Whether this is the answer of the kernel for a FUSE mount whose process is gone.
fn is_broken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ESTALE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_and_files_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("it exists");
        assert_eq!(prepare(&dir.path().join("a/b")).expect("made"), real.join("a/b"));
        std::os::unix::fs::symlink(real.join("a"), dir.path().join("link")).expect("a link");
        assert_eq!(prepare(&dir.path().join("link/b")).expect("there"), real.join("a/b"));
        fs::write(dir.path().join("file"), b"").expect("written");
        assert!(prepare(&dir.path().join("file")).expect_err("no directory").to_string().contains("not a directory"));
        assert!(prepare(Path::new("/proc/..")).expect_err("the root").to_string().contains("root"));
    }

    #[test]
    fn dead_mounts_are_told_from_other_trouble() {
        assert!(is_broken(&io::Error::from_raw_os_error(libc::ENOTCONN)));
        assert!(!is_broken(&io::Error::from_raw_os_error(libc::EACCES)));
    }
}
