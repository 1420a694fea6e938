//! `juicefs umount` unmounts, and waits for the process that served (cli.md §7.2).

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use juicefs_fuse::{MountEntry, MountError, mounts, unmount_path};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::Value;

use crate::{
    config::args::UmountArgs,
    paths::{absolute, absolute_from},
    running::config_of,
};

/// How many links that lead to each other are followed. The kernel follows as many.
const MOST_LINKS: usize = 40;
/// How long the serving process may take to end after the unmount.
const END_WAIT: Duration = Duration::from_secs(30);

/// Unmounts, and waits until the process that served the mount has ended.
///
/// # Errors
/// When it is no mount of ours, or is busy. Then the error names the processes that use it.
pub(crate) fn run(args: &UmountArgs) -> Result<()> {
    let table = mounts().context("read the table of mounts")?;
    let path = resolve(&args.mountpoint, &table)?;
    let here = table.into_iter().rfind(|entry| entry.mountpoint == path);
    if here.is_none_or(|entry| !entry.fstype.contains("juicefs")) {
        bail!("{} is not a JuiceFS mount point", args.mountpoint.display());
    }
    let config = if args.force && !args.flush { None } else { config_of(&path) };
    if args.flush {
        flush(config.as_ref())?;
    }
    let server = config.as_ref().and_then(server);
    match unmount_path(&path, args.force) {
        Ok(()) => {}
        Err(MountError::NotMounted(_)) => bail!("{} is not a JuiceFS mount point", args.mountpoint.display()),
        Err(error) => return Err(error.into()),
    }
    // A busy mount that was detached by force lives on until its last user is gone.
    if let Some(server) = server.filter(|_| !args.force) {
        wait_for_end(&server);
    }
    Ok(())
}

/// The mount point in `table` that `path` means, absolute and without links. It is found without touching what is
/// mounted there, which may hang: links are read only where nothing is mounted.
fn resolve(path: &Path, table: &[MountEntry]) -> Result<PathBuf> {
    let mut path = absolute(path);
    for _ in 0..MOST_LINKS {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            let parent = parent.canonicalize().with_context(|| format!("{} cannot be unmounted", path.display()))?;
            path = parent.join(name);
        }
        if table.iter().any(|entry| entry.mountpoint == path) {
            break;
        }
        let Ok(target) = path.read_link() else { break };
        path = absolute_from(path.parent().unwrap_or(Path::new("/")), &target);
    }
    Ok(path)
}

/// Waits until no staged block is left in any cache directory of the mount.
fn flush(config: Option<&Value>) -> Result<()> {
    let Some(config) = config else {
        bail!("the mount does not say where its cache is, so it cannot be flushed");
    };
    let dirs = config["Chunk"]["CacheDir"].as_str().unwrap_or_default().to_owned();
    let staging: Vec<PathBuf> =
        crate::config::values::directories(&dirs).iter().map(|dir| dir.join("rawstaging")).collect();
    let (start, mut first) = (Instant::now(), None);
    loop {
        let left: u64 = staging.iter().map(|dir| count_files(dir)).sum();
        let first = *first.get_or_insert(left);
        if left == 0 {
            return Ok(());
        }
        let rate = first.saturating_sub(left) as f64 / start.elapsed().as_secs_f64().max(1.0);
        crate::terminal::print(&format!("{left} staging chunks are being flushed... rate: {rate:.1}/s"))?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn count_files(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            // What a crash cut off was never acknowledged, and is cleared away later.
            Ok(_) if entry.path().extension().is_some_and(|extension| extension == "tmp") => 0,
            Ok(_) => 1,
            Err(_) => 0,
        })
        .sum()
}

/// The process that serves the mount, held so that its number cannot come to mean another one.
fn server(config: &Value) -> Option<OwnedFd> {
    let pid = i32::try_from(config["Pid"].as_i64()?).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits until the process has ended. The mount is gone for everybody by then, but the process still closes the
/// session, and whoever mounts again at once should find that closed.
fn wait_for_end(server: &OwnedFd) {
    let wait = Timespec { tv_sec: END_WAIT.as_secs().cast_signed(), tv_nsec: 0 };
    if let Ok(0) = poll(&mut [PollFd::new(server, PollFlags::IN)], Some(&wait)) {
        tracing::warn!("unmounted, but the process that served the mount has not ended yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mount_is_said_so() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in [dir.path(), Path::new("/proc"), Path::new("/")] {
            let args = UmountArgs { mountpoint: path.to_owned(), force: false, flush: false };
            let error = run(&args).expect_err("no mount of ours").to_string();
            assert!(error.ends_with("is not a JuiceFS mount point"), "{error}");
        }
    }

    #[test]
    fn staged_files_are_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let staging = dir.path().join("rawstaging/chunks/0/0");
        std::fs::create_dir_all(&staging).expect("made");
        std::fs::write(staging.join("1_0_4"), b"test").expect("written");
        std::fs::write(staging.join("2_0.5.tmp"), b"te").expect("written");
        assert_eq!(count_files(&dir.path().join("rawstaging")), 1);
        assert_eq!(count_files(&dir.path().join("none")), 0);
        std::fs::remove_file(staging.join("1_0_4")).expect("removed");
        let config = serde_json::json!({ "Chunk": { "CacheDir": dir.path() } });
        flush(Some(&config)).expect("nothing staged");
        assert!(flush(None).is_err());
    }
}
