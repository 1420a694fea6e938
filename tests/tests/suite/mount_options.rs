//! Items of `-o` that change what applications see.

use std::{
    fs::{self, File, FileTimes},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, SystemTime},
};

use e2e::{Mount, Rest, Volume, wait_until};
use rustix::fs::{FlockOperation, fcntl_lock, flock};

/// Whether reading a file moves its access time on a mount with these flags.
fn reading_shows(volume: &Volume, flags: &[&str]) -> bool {
    let mount = volume.mount_with("mnt", &[&["--attr-cache", "0"], flags].concat());
    let path = mount.join("file");
    fs::write(&path, "content").unwrap();
    let accessed = || fs::metadata(&path).unwrap().accessed().unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_accessed(old)).unwrap();
    assert_eq!(accessed(), old);
    File::open(&path).unwrap().read_to_end(&mut Vec::new()).unwrap();
    let moved = accessed() != old;
    mount.unmount();
    moved
}

#[test]
fn an_access_time_option_wins_over_the_flag() {
    let volume = Volume::new();
    assert!(reading_shows(&volume, &["--atime-mode", "strictatime"]));
    assert!(!reading_shows(&volume, &["--atime-mode", "strictatime", "-o", "noatime"]));
    assert!(reading_shows(&volume, &["-o", "noatime,relatime"]));
    assert!(!reading_shows(&volume, &[]));
    volume.assert_sound(Rest::Clean);
}

#[test]
fn an_open_that_moves_the_access_time_shows_it_at_once() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--attr-cache", "1h", "--atime-mode", "strictatime"]);
    let path = mount.join("file");
    fs::write(&path, "content").unwrap();
    let read = || {
        fs::read(&path).unwrap();
        fs::metadata(&path).unwrap().accessed().unwrap()
    };
    read();
    let mut before = read();
    for _ in 0..2 {
        // By less than a second it does not move.
        thread::sleep(Duration::from_millis(1100));
        let after = read();
        assert!(after > before);
        before = after;
    }
    mount.unmount();
}

fn lock(mount: &Mount) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(mount.join("file")).unwrap()
}

fn try_flock(file: &File) -> bool {
    taken(flock(file, FlockOperation::NonBlockingLockExclusive))
}

fn try_posix(file: &File) -> bool {
    taken(fcntl_lock(file, FlockOperation::NonBlockingLockExclusive))
}

fn taken(result: rustix::io::Result<()>) -> bool {
    match result.map_err(io::Error::from) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

/// Whether the kernel's table has a lock of this kind on the file.
fn is_in_the_table(kind: &str, path: &Path) -> bool {
    let file = fs::metadata(path).unwrap();
    let place = format!(" {:02x}:{:02x}:{} ", libc::major(file.dev()), libc::minor(file.dev()), file.ino());
    let table = fs::read_to_string("/proc/locks").unwrap();
    table.lines().any(|line| line.contains(kind) && line.contains(&place))
}

/// For each kind of lock, whether two mounts with this option get it at once: `flock`, and that of `fcntl`.
fn both_get(option: &str) -> (bool, bool) {
    let volume = Volume::new();
    let flags = ["--attr-cache", "0", "-o", option];
    let (one, two) = (volume.mount_with("one", &flags), volume.mount_with("two", &flags));
    let (first, second) = (lock(&one), lock(&two));
    assert!(try_flock(&first) && try_posix(&first));
    let both = (try_flock(&second), try_posix(&second));
    for (kind, is_local) in [("FLOCK", both.0), ("POSIX", both.1)] {
        let shows = || is_in_the_table(kind, &one.join("file"));
        // The table is read in several steps, and a line can be passed over when others go meanwhile. None comes of itself.
        assert!(if is_local { wait_until(Duration::from_secs(10), shows) } else { !shows() }, "{option}: {kind}");
    }
    // Within the mount it holds in any case.
    assert!(!try_flock(&lock(&one)), "{option}");
    drop((first, second));
    one.unmount();
    two.unmount();
    volume.assert_sound(Rest::Clean);
    both
}

#[test]
fn local_locks_hold_in_their_mount_and_show_in_the_table() {
    assert_eq!(both_get("local_lock=none"), (false, false));
    assert_eq!(both_get("local_lock=flock"), (true, false));
    assert_eq!(both_get("local_lock=posix"), (false, true));
    assert_eq!(both_get("local_lock=all"), (true, true));
}

#[test]
fn a_value_that_local_lock_has_not_is_refused() {
    let volume = Volume::new();
    let refused = volume.juicefs(&["mount", "-o", "local_lock=maybe", &volume.meta_url(), "mnt"]).expect_failure();
    assert!(refused.stderr.contains("none, flock, posix or all"), "{refused}");
}

#[test]
fn hidden_internal_files_are_not_listed_and_still_there() {
    let volume = Volume::new();
    let names = |mount: &Mount| -> Vec<_> {
        fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let mount = volume.mount();
    assert!(names(&mount).contains(&".stats".into()));
    mount.unmount();
    let mount = volume.mount_with("mnt", &["--hide-internal"]);
    assert!(names(&mount).is_empty());
    assert!(mount.stat("uptime") >= 0.0);
    assert!(fs::read_to_string(mount.join(".config")).unwrap().contains("e2e-volume"));
    mount.unmount();
}
