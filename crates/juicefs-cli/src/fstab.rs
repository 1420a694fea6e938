//! `mount --update-fstab` keeps a line of `/etc/fstab`, and the helper that mount(8) looks for.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

const HELPER: &str = "/sbin/mount.juicefs";

/// The options of an fstab line from the flags of a normalised command line.
pub(crate) fn options(words: &[OsString]) -> String {
    let mut options: Vec<String> = Vec::new();
    for word in words.iter().take_while(|word| *word != "--").map(|word| word.to_string_lossy()) {
        let (name, value) = word.split_once('=').map_or((&*word, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("--update-fstab" | "--background" | "--foreground" | "--via-mount" | "--force", _) => {}
            ("-o", Some(value)) => options.push(value.to_owned()),
            ("--cache-dir", Some(value)) => options.push(format!("cache-dir={}", absolute_dirs(value))),
            (name, None) => options.extend(name.strip_prefix("--").map(str::to_owned)),
            (name, Some(value)) => options.extend(name.strip_prefix("--").map(|name| format!("{name}={value}"))),
        }
    }
    options.sort();
    options.insert(0, "_netdev,nofail".to_owned());
    options.join(",")
}

fn absolute_dirs(value: &str) -> String {
    if value == "memory" {
        return value.to_owned();
    }
    let dirs: Vec<String> = crate::config::values::directories(value)
        .iter()
        .map(|dir| crate::paths::absolute(dir).to_string_lossy().into_owned())
        .collect();
    dirs.join(":")
}

/// The table with the line for this address and mount point put in, or in the place of an older one.
fn updated(table: &str, address: &str, mountpoint: &Path, options: &str) -> String {
    let mountpoint = mountpoint.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    let entry = format!("{address}  {mountpoint}  juicefs  {options}  0 0");
    let mut lines: Vec<&str> = table.lines().collect();
    let same = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() >= 6 && fields[0] == address && fields[1] == mountpoint && fields[2] == "juicefs"
    };
    match lines.iter().rposition(same) {
        Some(at) => lines[at] = &entry,
        None => lines.push(&entry),
    }
    lines.join("\n") + "\n"
}

/// Writes the line into `/etc/fstab`, as a whole or not at all, and links the mount helper to this program.
///
/// # Errors
/// When a file cannot be written: only root can.
pub(crate) fn update(address: &str, mountpoint: &Path, options: &str) -> Result<()> {
    write_table(Path::new("/etc/fstab"), address, mountpoint, options)?;
    if fs::symlink_metadata(HELPER).is_err() {
        let program: PathBuf = std::env::current_exe().context("finding this program")?;
        std::os::unix::fs::symlink(&program, HELPER).with_context(|| format!("linking {HELPER}"))?;
    }
    Ok(())
}

fn write_table(path: &Path, address: &str, mountpoint: &Path, options: &str) -> Result<()> {
    let table = fs::read_to_string(path).with_context(|| format!("reading {path:?}"))?;
    let new = updated(&table, address, mountpoint, options);
    if new == table {
        return Ok(());
    }
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(new.as_bytes())?;
        file.set_permissions(fs::metadata(path)?.permissions())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).with_context(|| format!("writing {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_and_kernel_options_kept() {
        let words: Vec<OsString> = [
            "--update-fstab",
            "--background",
            "--max-uploads=50",
            "-o=allow_other",
            "--enable-xattr",
            "--",
            "u",
            "--m",
        ]
        .into_iter()
        .map(OsString::from)
        .collect();
        assert_eq!(options(&words), "_netdev,nofail,allow_other,enable-xattr,max-uploads=50");
        assert!(options(&["--cache-dir=a:/b".into()]).ends_with("/a:/b"));
        assert!(options(&["--cache-dir=memory".into()]).ends_with(",cache-dir=memory"));
    }

    #[test]
    fn the_line_is_put_in_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fstab");
        fs::write(&path, "# comment\n/dev/vda / ext4 rw 0 0\n").expect("written");
        for options in ["a", "b", "b"] {
            write_table(&path, "redis://h/1", Path::new("/m p"), options).expect("written");
        }
        let wanted = "# comment\n/dev/vda / ext4 rw 0 0\nredis://h/1  /m\\040p  juicefs  b  0 0\n";
        assert_eq!(fs::read_to_string(&path).expect("there"), wanted);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
    }
}
