//! Quotas of directories, users and groups on real mounts.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use e2e::{Finished, GoldenVolume, Mount, Volume, juicefs, run, run_in, wait_until};

/// Flags of mounts that take a new quota up within a second, and ask for what they show.
const QUICK: [&str; 6] = ["--heartbeat", "1", "--attr-cache", "0", "--entry-cache", "0"];
const PATIENCE: Duration = Duration::from_secs(60);

fn quota(volume: &Volume, action: &str, flags: &[&str]) -> Finished {
    let url = volume.meta_url();
    let args: Vec<&str> = ["quota", action, &url].into_iter().chain(flags.iter().copied()).collect();
    volume.juicefs(&args)
}

fn set(volume: &Volume, flags: &[&str]) {
    quota(volume, "set", flags).expect_success();
}

fn refused<T: std::fmt::Debug>(outcome: io::Result<T>) {
    let error = outcome.expect_err("beyond the quota");
    assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
}

/// Writes a file and waits until the store has it.
fn write_synced(path: &Path, length: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&vec![7; length])?;
    file.sync_all()
}

/// The row of a quota as `quota get` shows it.
fn row(volume: &Volume, flags: &[&str]) -> Vec<String> {
    let shown = quota(volume, "get", flags).expect_success();
    let line = shown.stdout.lines().nth(3).unwrap_or_else(|| panic!("no row in {shown}"));
    line.split('|').map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
}

/// Waits until a mount knows of a new quota, which `probe` shows.
fn await_quota(probe: impl FnMut() -> bool) {
    assert!(wait_until(PATIENCE, probe), "the mount never heard of the quota");
}

fn df(path: &Path) -> (u64, u64) {
    let stat = nix_statvfs(path);
    (stat.f_blocks * stat.f_frsize, stat.f_files)
}

fn nix_statvfs(path: &Path) -> libc::statvfs {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: statvfs is plain data, for which all zeroes are a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with NUL and `stat` is valid for writes; both outlive the call.
    assert_eq!(unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) }, 0);
    stat
}

fn mounted() -> (Volume, Mount) {
    let volume = Volume::with(&["--trash-days", "0"]);
    let mount = volume.mount_with("mnt", &QUICK);
    (volume, mount)
}

#[test]
fn what_grows_beyond_the_limit_is_edquot() {
    let (volume, mount) = mounted();
    let dir = mount.join("d");
    fs::create_dir(&dir).unwrap();
    write_synced(&mount.join("big"), 600 << 10).unwrap();
    set(&volume, &["--path", "/d", "--capacity", "1M", "--inodes", "4"]);
    await_quota(|| df(&dir).0 == 1 << 20);
    write_synced(&dir.join("a"), 500 << 10).unwrap();
    refused(write_synced(&dir.join("b"), 600 << 10));
    fs::remove_file(dir.join("b")).unwrap();
    let file = File::options().write(true).open(dir.join("a")).unwrap();
    refused(file.set_len(2 << 20));
    // SAFETY: fallocate(2) takes plain numbers, and the descriptor is open for as long as `file` is borrowed.
    let grown = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, 2 << 20) };
    refused(if grown == 0 { Ok(()) } else { Err(io::Error::last_os_error()) });
    drop(file);
    refused(fs::hard_link(mount.join("big"), dir.join("link")));
    refused(fs::rename(mount.join("big"), dir.join("big")));
    fs::create_dir(dir.join("sub")).unwrap();
    File::create(dir.join("sub/c")).unwrap();
    File::create(dir.join("sub/d")).unwrap();
    refused(File::create(dir.join("e")).map(drop));
    refused(fs::create_dir(dir.join("sub/e")));
    refused(std::os::unix::fs::symlink("x", dir.join("s")));
    assert_eq!(df(&dir.join("sub")), (1 << 20, 4));
    assert_eq!(row(&volume, &["--path", "/d"]), ["/d", "1.0 MiB", "512 KiB", "50%", "4", "4", "100%"]);
    // What goes gives its room back at once.
    fs::remove_file(dir.join("sub/c")).unwrap();
    fs::rename(dir.join("a"), mount.join("a")).unwrap();
    fs::rename(mount.join("big"), dir.join("big")).unwrap();
    File::create(dir.join("e")).unwrap();
    quota(&volume, "check", &["--path", "/d", "--strict"]).expect_success();
    mount.unmount();
}

#[test]
fn nested_quotas_bind_together_and_trees_carry_theirs() {
    let (volume, mount) = mounted();
    run_in(mount.path(), "mkdir -p outer/inner other tree/x && touch tree/x/1 tree/x/2 tree/3").expect_success();
    set(&volume, &["--path", "/outer", "--inodes", "6"]);
    set(&volume, &["--path", "/outer/inner", "--inodes", "3"]);
    let inner = mount.join("outer/inner");
    await_quota(|| df(&inner).1 == 3);
    refused(fs::rename(mount.join("tree"), inner.join("tree")));
    fs::rename(mount.join("tree"), mount.join("outer/tree")).unwrap();
    refused(File::create(inner.join("f")).map(drop));
    fs::rename(mount.join("outer/tree/x"), mount.join("other/x")).unwrap();
    for name in ["1", "2", "3"] {
        File::create(inner.join(name)).unwrap();
    }
    refused(File::create(inner.join("4")).map(drop));
    refused(File::create(mount.join("outer/4")).map(drop));
    let listed = quota(&volume, "list", &[]).expect_success();
    assert!(listed.stdout.contains("| /outer/inner |") && listed.stdout.contains("| /outer       |"), "{listed}");
    for path in ["/outer", "/outer/inner"] {
        quota(&volume, "check", &["--path", path]).expect_success();
    }
    quota(&volume, "delete", &["--path", "/outer/inner"]).expect_success();
    fs::remove_file(mount.join("outer/tree/3")).unwrap();
    await_quota(|| File::create(inner.join("5")).is_ok());
    mount.unmount();
    assert!(!quota(&volume, "ls", &[]).stdout.contains("inner"));
}

#[test]
fn two_mounts_stop_at_the_same_limit() {
    let (volume, first) = mounted();
    let second = volume.mount_with("second", &QUICK);
    fs::create_dir(first.join("d")).unwrap();
    set(&volume, &["--path", "/d", "--inodes", "100", "--capacity", "10M"]);
    await_quota(|| df(&first.join("d")).1 == 100 && df(&second.join("d")).1 == 100);
    let fill = |mount: &Mount, who: &str| {
        let dir = mount.join("d");
        let made = (0..200).take_while(|n| match File::create_new(dir.join(format!("{who}{n}"))) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
                false
            }
        });
        made.count()
    };
    let made = std::thread::scope(|scope| {
        let other = scope.spawn(|| fill(&second, "b"));
        fill(&first, "a") + other.join().unwrap()
    });
    assert_eq!(made, 100, "together they made exactly as many as are allowed");
    assert_eq!(fs::read_dir(first.join("d")).unwrap().count(), 100);
    quota(&volume, "check", &["--path", "/d"]).expect_success();
    // A limit that is raised is in force at once.
    set(&volume, &["--path", "/d", "--inodes", "101"]);
    File::create_new(second.join("d/last")).unwrap();
    refused(File::create_new(first.join("d/more")).map(drop));
    second.unmount();
    first.unmount();
}

#[test]
fn df_shows_the_quota() {
    let (volume, mount) = mounted();
    set(&volume, &["--path", "/made/for/df", "--create", "--capacity", "2G", "--inodes", "500"]);
    let dir = mount.join("made/for/df");
    await_quota(|| df(&dir) == (2 << 30, 500));
    assert!(df(mount.path()).0 > 2 << 30);
    let below = volume.mount_with("below", &["--subdir", "/made/for/df"]);
    assert_eq!(df(below.path()), (2 << 30, 500));
    below.unmount();
    mount.unmount();
}

#[test]
fn users_and_groups_have_quotas_on_every_engine() {
    let (volume, mount) = mounted();
    run_in(mount.path(), "mkdir -m 777 d && touch d/old && chown 1000:1001 d/old && ln -s old d/link").expect_success();
    let url = volume.meta_url();
    let on = volume.juicefs(&["config", &url, "--user-group-quota", "--yes"]).expect_success();
    assert!(on.text().contains("user-group-quota: false -> true"), "{on}");
    set(&volume, &["--uid", "1000", "--inodes", "3"]);
    set(&volume, &["--gid", "1001", "--capacity", "100K"]);
    set(&volume, &["--path", "/d", "--inodes", "20"]);
    assert_eq!(row(&volume, &["--uid", "1000"])[4], "1", "what was there is counted");
    await_quota(|| df(&mount.join("d")).1 == 20);
    let as_user = |script: &str| {
        let user = "setpriv --reuid 1000 --regid 1001 --clear-groups";
        run_in(mount.path(), &format!("{user} sh -c '{script}'"))
    };
    as_user("touch d/a d/b").expect_success();
    let full = as_user("touch d/c").expect_failure();
    assert!(full.text().contains("quota exceeded"), "{full}");
    as_user("head -c 80000 /dev/zero > d/a && sync d/a").expect_success();
    as_user("head -c 80000 /dev/zero > d/b && sync d/b").expect_failure();
    as_user("rm d/a d/b").expect_success();
    as_user("touch d/c").expect_success();
    run_in(mount.path(), "touch d/x && chown 1000 d/x").expect_success();
    run_in(mount.path(), "touch d/y && chown 1000 d/y").expect_failure();
    run_in(mount.path(), "chown 0:0 d/old").expect_success();
    mount.unmount();
    quota(&volume, "check", &[]).expect_success();
    quota(&volume, "check", &["--path", "/d"]).expect_success();
    let rows = (row(&volume, &["--uid", "1000"]), row(&volume, &["--path", "/d"]));
    assert_eq!((rows.0[3].as_str(), rows.0[4].as_str()), ("3", "2"));
    assert_eq!(rows.1.last().map(String::as_str), Some("25%"), "directory quotas are kept beside: {rows:?}");
}

/// Every sentence and exit code that scripts may rest on.
#[test]
fn the_command_says_what_is_wrong() {
    let volume = Volume::new();
    let fails = |action: &str, flags: &[&str], sentence: &str| {
        let failed = quota(&volume, action, flags).expect_failure();
        assert!(failed.text().contains(sentence), "{failed}");
    };
    fails("set", &["--inodes", "1"], "Please specify the directory");
    fails("set", &["--uid", "0", "--inodes", "1"], "0 is not allowed");
    fails("get", &["--uid", "1", "--gid", "1"], "both --uid and --gid");
    fails("set", &["--path", "/none", "--inodes", "1"], "resolve dir /none");
    fails("set", &["--path", "/.trash", "--inodes", "1"], "no quota for any trash directory");
    fails("check", &["--path", "/"], "no quota for path /");
    fails("mend", &["--path", "/"], "set, get, delete, list or check");
    assert_eq!(quota(&volume, "list", &[]).expect_success().stdout, "");
    assert_eq!(quota(&volume, "get", &["--uid", "5"]).expect_success().stdout, "");
    set(&volume, &["--path", "/", "--capacity", "1"]);
    assert_eq!(row(&volume, &["--path", "/"]), ["/", "1.0 GiB", "0 B", "0%", "unchanged", "0"]);
    let url = volume.meta_url();
    let refused = volume.juicefs(&["config", &url, "--dir-stats=false"]).expect_failure();
    assert!(refused.text().contains("still 1 dir quotas: /"), "{refused}");
    quota(&volume, "del", &["--path", "/"]).expect_success();
    volume.juicefs(&["config", &url, "--dir-stats=false"]).expect_success();
}

/// What JuiceFS (Go) stored reads as its own `quota list` showed it.
#[test]
fn quotas_of_the_other_client_are_listed_alike() {
    for name in ["sqlite-acl", "redis-acl"] {
        let volume = GoldenVolume::unpack(name);
        let listed = run(juicefs(), ["quota", "list", &volume.meta_url()]).expect_success();
        let theirs = fs::read_to_string(volume.manifest().with_file_name("quota.txt")).unwrap();
        assert_eq!(listed.stdout, theirs, "{name}");
    }
}

/// JuiceFS (Go) 1.4 does not count directories on SQL once users and groups are counted: their use is stale there.
#[test]
fn a_stale_count_of_the_other_client_is_mended() {
    let volume = GoldenVolume::unpack("sqlite-acl");
    let url = volume.meta_url();
    for path in ["/quota", "/quota/inner"] {
        let check = |flags: &[&str]| run(juicefs(), [&["quota", "check", &url, "--path", path][..], flags].concat());
        let wrong = check(&[]).expect_failure();
        assert!(wrong.text().contains("is inconsistent, please repair it with --repair flag"), "{wrong}");
        check(&["--repair"]).expect_success();
        check(&["--strict"]).expect_success();
    }
    let listed = run(juicefs(), ["quota", "ls", &url]).expect_success();
    let right = fs::read_to_string(e2e::golden_dir().join("redis-acl/quota.txt")).unwrap();
    assert_eq!(listed.stdout, right, "the same files, counted by a client that counts right");
}
