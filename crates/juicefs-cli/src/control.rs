//! Asks the client that serves a mount to do something, through the `.control` file of the mount (data.md §5.6).
//! JuiceFS (Go) may serve the mount as well.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use juicefs_core::Errno;
use rustix::fs::{Mode, OFlags, openat};

use crate::paths::{Dir, Located, Node};

/// The inode of the root directory of every mount.
pub(crate) const ROOT_INO: u64 = 1;
/// The inode of the control file of every mount.
const CONTROL_INO: u64 = 0x7FFF_FFFF_0000_0002;
/// The names of the control file. The first is that of mounts with `--prefix-internal`.
const NAMES: [&str; 2] = [".jfs.control", ".control"];
/// The shortest and the longest pause before looking again for a reply.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(300));
/// The byte with which a report of progress begins, and how long it is.
const PROGRESS: (u8, usize) = (0xFE, 17);
/// The byte with which data begin, and how many bytes stand before them.
const DATA: (u8, usize) = (0xFF, 5);
/// How long data may be.
const MAX_DATA_BYTES: usize = 1 << 30;

/// Numbers of the requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Remove = 1002,
    Info = 1005,
    Clone = 1006,
    Summary = 1007,
    Compact = 1008,
}

/// A part of a reply.
#[derive(Debug, PartialEq, Eq)]
enum Element {
    Progress(u64, u64),
    Data(Vec<u8>),
    Errno(u8),
}

/// The mount that a path lies in, open for one request.
#[derive(Debug)]
pub(crate) struct Control {
    file: File,
}

/// The inode of a node that a path names, and the mount that it lies in.
///
/// A symlink stands for itself, unless it lies outside of every mount: then only what it leads to can be meant.
///
/// # Errors
/// With the path, when there is nothing, or it lies in no mount.
pub(crate) fn subject(path: &Path) -> Result<(u64, Control)> {
    let place = Located::of(path)?;
    let node = place.existing()?;
    if !node.is_symlink() {
        return Ok((node.ino, Control::of_node(&place, &node)?));
    }
    match Control::of_node(&place, &node) {
        Ok(control) => Ok((node.ino, control)),
        Err(_) => subject_of_target(path),
    }
}

/// Does what [`subject`] does for what must be opened, like a directory that is listed. A symlink stands for what it
/// leads to.
///
/// # Errors
/// As [`subject`].
pub(crate) fn subject_of_target(path: &Path) -> Result<(u64, Control)> {
    let place = Located::of_target(path)?;
    let node = place.existing()?;
    Ok((node.ino, Control::of_node(&place, &node)?))
}

impl Control {
    /// Opens the control file of the mount in which the directory `dir` lies.
    ///
    /// # Errors
    /// When it lies in none.
    pub(crate) fn open(dir: &Dir) -> Result<Self> {
        for name in NAMES {
            let found = match dir.node(OsStr::new(name)) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(error).with_context(|| format!("look into {}", dir.path.display()));
                }
                found => found.unwrap_or_default(),
            };
            // A file of that name in another file system is anybody's, and nothing is written to it.
            if !found.is_some_and(|node| node.ino == CONTROL_INO && node.device == dir.device) {
                continue;
            }
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(dir, name, flags, Mode::empty());
            let file = opened.with_context(|| format!("open {}", dir.path.join(name).display()))?;
            return Ok(Self { file: file.into() });
        }
        bail!("{} is not inside JuiceFS", dir.path.display())
    }

    /// Opens the control file of the mount in which `node` lies. Its directory tells which mount that is, except for a
    /// mount point.
    ///
    /// # Errors
    /// As [`Control::open`]; also for a file that something else is mounted on.
    pub(crate) fn of_node(place: &Located, node: &Node) -> Result<Self> {
        let is_elsewhere = node.device != place.dir.device;
        if node.is_dir() && (is_elsewhere || node.is_mount_point) {
            return Self::open(&Dir::open(&place.path())?);
        }
        if is_elsewhere {
            bail!("{} is not inside JuiceFS", place.path().display());
        }
        Self::open(&place.dir).with_context(|| place.path().display().to_string())
    }

    /// Sends a request and waits for the end of its reply, however long that takes. `report` hears how far the job is.
    /// Returns the data of the reply, which are empty for a job that only succeeds.
    ///
    /// # Errors
    /// What the client that serves the mount answers.
    pub(crate) fn ask(&mut self, command: Command, body: &[u8], mut report: impl FnMut(u64, u64)) -> Result<Vec<u8>> {
        let size = u32::try_from(body.len()).context("a request that is too long")?;
        let request = [&(command as u32).to_be_bytes(), &size.to_be_bytes(), body].concat();
        self.file.write_all(&request).map_err(|error| refused(&error))?;
        let mut reply = Vec::new();
        let mut pause = PAUSES.0;
        loop {
            while let Some((element, bytes)) = first_element(&reply)? {
                match element {
                    Element::Progress(first, second) => report(first, second),
                    Element::Data(data) => return Ok(data),
                    Element::Errno(0) => return Ok(Vec::new()),
                    Element::Errno(errno) => return Err(failure(Errno(errno.into()))),
                }
                reply.drain(..bytes);
            }
            let mut piece = [0; 64 << 10];
            match self.file.read(&mut piece) {
                Ok(0) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
                Ok(read) => {
                    reply.extend_from_slice(&piece[..read]);
                    pause = PAUSES.0;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(refused(&error)),
            }
        }
    }
}

/// The first complete part of a reply and its length.
fn first_element(reply: &[u8]) -> Result<Option<(Element, usize)>> {
    let number = |at: usize| reply[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    match reply {
        [] => Ok(None),
        [kind, ..] if *kind == PROGRESS.0 => {
            let whole = reply.len() >= PROGRESS.1;
            Ok(whole.then(|| (Element::Progress(number(1), number(9)), PROGRESS.1)))
        }
        [kind, rest @ ..] if *kind == DATA.0 => {
            let Some((size, data)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            let size = u32::from_be_bytes(*size) as usize;
            if size > MAX_DATA_BYTES {
                bail!("the mount answers with {size} bytes, which cannot be right");
            }
            Ok(data.get(..size).map(|data| (Element::Data(data.to_vec()), DATA.1 + size)))
        }
        [errno, ..] => Ok(Some((Element::Errno(*errno), 1))),
    }
}

/// The sentence for an errno with which a job ended.
fn failure(errno: Errno) -> anyhow::Error {
    match errno {
        Errno::EINVAL => {
            anyhow!("{errno} (if the client that serves the mount is an older one: mount again with a new one)")
        }
        Errno::EAGAIN => anyhow!("the mount is busy with too many other jobs: try again later"),
        errno => anyhow!("{errno}"),
    }
}

/// The sentence for a failed read or write of the control file.
fn refused(error: &io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EBADF) => anyhow!("the client that serves the mount was restarted meanwhile"),
        Some(libc::ENOTCONN) => anyhow!("nobody serves this mount any more"),
        _ => anyhow!("asking the mount: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_as_it_comes() {
        let progress = [&[0xFE], &7u64.to_be_bytes()[..], &9u64.to_be_bytes()[..]].concat();
        let read = |bytes: &[u8]| first_element(bytes).expect("nothing is wrong with it");
        assert_eq!(read(&[]), None);
        assert_eq!(read(&progress[..16]), None);
        assert_eq!(read(&[&progress[..], &[0]].concat()), Some((Element::Progress(7, 9), 17)));
        assert_eq!(read(b"\xFF\0\0\0\x02{"), None);
        assert_eq!(read(b"\xFF\0\0\0\x02{}"), Some((Element::Data(b"{}".to_vec()), 7)));
        assert_eq!(read(&[13]), Some((Element::Errno(13), 1)));
        assert!(first_element(b"\xFF\xFF\xFF\xFF\xFF").is_err());
    }

    #[test]
    fn what_is_no_mount_is_said_so() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(".control"), b"mine").expect("written");
        std::fs::write(dir.path().join("file"), b"").expect("written");
        let opened = Dir::open(dir.path()).expect("there");
        let error = Control::open(&opened).expect_err("no mount").to_string();
        assert!(error.ends_with("is not inside JuiceFS"), "{error}");
        for path in [dir.path().to_owned(), dir.path().join("file"), "/".into(), dir.path().join("none")] {
            subject(&path).expect_err("no mount");
            subject_of_target(&path).expect_err("no mount");
        }
        assert_eq!(std::fs::read(dir.path().join(".control")).expect("there"), b"mine");
    }
}
