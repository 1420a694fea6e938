//! What is mounted where, read from `/proc/self/mountinfo`.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// Where.
    pub(crate) mountpoint: PathBuf,
    /// File-system type, `fuse.juicefs` for ours.
    pub(crate) kind: String,
    /// Source, `JuiceFS:NAME` for ours.
    pub(crate) source: String,
}

impl MountEntry {
    /// The name of the volume, when this is one.
    pub(crate) fn volume(&self) -> Option<&str> {
        if self.kind == "fuse.juicefs" { self.source.strip_prefix("JuiceFS:") } else { None }
    }
}

/// What one sees at exactly `path`: the last thing mounted there.
///
/// # Errors
/// When the mount table cannot be read.
pub(crate) fn at(path: &Path) -> std::io::Result<Option<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).into_iter().rfind(|entry| entry.mountpoint == path))
}

/// The mount that holds `path`, which is absolute and without symlinks.
///
/// # Errors
/// When the mount table cannot be read.
pub(crate) fn holding(path: &Path) -> std::io::Result<Option<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let deepest = parse(&table)
        .into_iter()
        .filter(|entry| path.starts_with(&entry.mountpoint))
        .max_by_key(|entry| entry.mountpoint.components().count());
    Ok(deepest)
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `id parent dev root mountpoint options [optional]... - type source super-options`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(&unescape(bytes)).into_owned();
    Some(MountEntry {
        mountpoint: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        kind: text(fields.get(dash + 1)?),
        source: text(fields.get(dash + 2)?),
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let code = field.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if field[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let table = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            95 22 0:40 / /mnt/a\\040b rw,nosuid - fuse.juicefs JuiceFS:vol rw,user_id=0\n\
            96 22 0:41 / /mnt rw shared:3 master:1 - tmpfs none rw\nbroken\n";
        let entries = parse(table);
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1].mountpoint, Path::new("/mnt/a b"));
        assert_eq!(entries[1].volume(), Some("vol"));
        assert_eq!((entries[0].volume(), entries[2].kind.as_str()), (None, "tmpfs"));
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(at(Path::new("/")).expect("readable").is_some());
        assert!(holding(Path::new("/proc/self")).expect("readable").is_some_and(|entry| entry.kind == "proc"));
    }
}
