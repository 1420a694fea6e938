//! The table of mounts that the kernel keeps for us.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Unique number of the mount.
    pub id: u32,
    /// Device number as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Type, `fuse.juicefs` for our mounts.
    pub fstype: String,
    /// Source, `JuiceFS:<volume>` for our mounts.
    pub source: String,
    /// Options of this mount, such as `nosuid`, and those of the file system, such as `user_id=0`.
    pub options: Vec<String>,
}

impl MountEntry {
    /// Number of the FUSE connection below `/sys/fs/fuse/connections`.
    #[must_use]
    pub fn connection(&self) -> Option<u32> {
        let (major, minor) = self.device.split_once(':')?;
        (major == "0").then(|| minor.parse().ok())?
    }
}

/// All mounts in this mount namespace, later ones hiding earlier ones.
///
/// # Errors
/// Whatever reading `/proc/self/mountinfo` answers.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// What is mounted at exactly `path`, `None` if nothing is. Does not touch the file system there, so it answers for a
/// dead or hanging mount too. `path` must be absolute and free of links.
///
/// # Errors
/// As [`mounts`].
pub fn mounted_at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rfind(|m| m.mountpoint == path))
}

fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let own = text(fields.next()?);
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let (fstype, source) = (text(fields.next()?), text(fields.next()?));
    let shared = fields.next().map(text).unwrap_or_default();
    let options = own.split(',').chain(shared.split(',')).filter(|item| !item.is_empty()).map(str::to_owned).collect();
    Some(MountEntry { id, device, mountpoint, fstype, source, options })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes `\040` and its like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_parse_with_escapes_and_optional_fields() {
        let line = br"391 29 0:53 / /mnt/a\040b rw,nosuid shared:7 master:1 - fuse.juicefs JuiceFS:vol rw,user_id=0";
        let entry = parse(line).expect("a mount");
        assert_eq!(
            entry,
            MountEntry {
                id: 391,
                device: "0:53".into(),
                mountpoint: "/mnt/a b".into(),
                fstype: "fuse.juicefs".into(),
                source: "JuiceFS:vol".into(),
                options: ["rw", "nosuid", "rw", "user_id=0"].map(String::from).into(),
            }
        );
        assert_eq!(entry.connection(), Some(53));
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_root_is_a_mount_and_a_plain_directory_is_not() {
        assert!(mounted_at(Path::new("/")).expect("procfs").is_some());
        assert!(mounted_at(Path::new("/proc/self/no such place")).expect("procfs").is_none());
    }
}
