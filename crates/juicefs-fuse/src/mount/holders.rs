//! Which processes keep a mount busy.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::table::{MountEntry, mounted_at};

/// A process that uses something below a mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its command name.
    pub command: String,
    /// What it uses: `cwd`, `root`, `exe`, an open file or a mapped one.
    pub what: String,
}

/// Processes that use what is mounted at `path`, as far as this user may see them.
///
/// Looks at `/proc` only and never at the mount, so it does not hang on a dead one.
#[must_use]
pub fn holders(path: &Path) -> Vec<Holder> {
    let Ok(Some(mount)) = mounted_at(path) else { return Vec::new() };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Holder> = processes
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let proc = entry.path();
            let what = what_holds(&proc, &mount)?;
            let command = fs::read_to_string(proc.join("comm")).unwrap_or_default().trim_end().to_owned();
            Some(Holder { pid, command, what })
        })
        .collect();
    found.sort_by_key(|h| h.pid);
    found
}

fn what_holds(proc: &Path, mount: &MountEntry) -> Option<String> {
    for link in ["cwd", "root", "exe"] {
        if fs::read_link(proc.join(link)).is_ok_and(|target| is_below(&target, &mount.mountpoint)) {
            return Some(link.to_owned());
        }
    }
    open_file(proc, mount).or_else(|| mapped_file(proc, mount)).map(|path| path.display().to_string())
}

fn open_file(proc: &Path, mount: &MountEntry) -> Option<PathBuf> {
    let id = mount.id.to_string();
    fs::read_dir(proc.join("fdinfo")).ok()?.flatten().find_map(|entry| {
        let info = fs::read_to_string(entry.path()).ok()?;
        let on = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        (on == id).then(|| fs::read_link(proc.join("fd").join(entry.file_name())).unwrap_or_default())
    })
}

fn mapped_file(proc: &Path, mount: &MountEntry) -> Option<PathBuf> {
    let (major, minor) = mount.device.split_once(':')?;
    let device = format!("{:02x}:{:02x}", major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    let maps = fs::read(proc.join("maps")).ok()?;
    maps.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.splitn(6, |b| *b == b' ').skip(3);
        let on = fields.next()?;
        let path = fields.nth(1)?.trim_ascii_start();
        (on == device.as_bytes()).then(|| PathBuf::from(OsStr::from_bytes(path)))
    })
}

/// Compares the text of the paths alone. A removed working directory shows as `... (deleted)` and still counts.
fn is_below(path: &Path, mountpoint: &Path) -> bool {
    path.starts_with(mountpoint)
        || path
            .as_os_str()
            .as_bytes()
            .strip_suffix(b" (deleted)")
            .is_some_and(|p| p == mountpoint.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_held_by_this_process() {
        let own = std::process::id();
        assert!(holders(Path::new("/")).iter().any(|h| h.pid == own && !h.command.is_empty()));
        assert!(holders(Path::new("/no such mount")).is_empty());
    }

    #[test]
    fn paths_are_compared_by_component() {
        assert!(is_below(Path::new("/mnt/a/b"), Path::new("/mnt/a")));
        assert!(is_below(Path::new("/mnt/a (deleted)"), Path::new("/mnt/a")));
        assert!(!is_below(Path::new("/mnt/ab"), Path::new("/mnt/a")));
    }
}
