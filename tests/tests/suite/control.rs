//! What a mount is asked for through `.control`: removing, copying, counting and compacting whole trees.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use e2e::{Finished, Meta, Mount, Rest, Volume, juicefs, run, run_in, run_within, snapshot, wait_until};

/// A tree of every kind of node.
const TREE: &str = r"
mkdir -p top/deep/deeper top/empty
head -c 300000 /dev/urandom >top/file
head -c 5000 /dev/urandom >top/deep/file
truncate -s 1M top/hole
printf x | dd of=top/hole bs=1 seek=500000 conv=notrunc status=none
ln -s ../file top/deep/link
ln top/deep/file top/deep/again
mkfifo top/fifo
mknod top/device c 1 3
chmod 640 top/file
chmod 2750 top/deep
chown 1001:1002 top/file top/deep
setfattr -n user.one -v first top/file
setfattr -n user.two -v second top
touch -d 2021-03-04T05:06:07 top/file top/deep/deeper
";

fn juicefs_in(dir: &Path, args: &[&str]) -> Finished {
    let mut command = Command::new(juicefs());
    command.args(args).current_dir(dir);
    run_within(command, Duration::from_secs(120))
}

fn as_user(dir: &Path, args: &[&str]) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1001", "--regid=1001", "--clear-groups"]).arg(juicefs()).args(args).current_dir(dir);
    run_within(command, Duration::from_secs(120))
}

/// Owner, times and attributes of every name, as text.
fn looks(dir: &Path) -> String {
    let script = "find . -printf '%p %y %m %U %G %s %l %T@\\n' | sort; getfattr -dR . | sort";
    run_in(dir, script).expect_success().stdout
}

/// A mount whose kernel believes names and attributes for a long time.
fn trusting_mount(volume: &Volume) -> Mount {
    let hour = "3600";
    let flags = ["--attr-cache", hour, "--entry-cache", hour, "--dir-entry-cache", hour];
    volume.mount_with("mnt", &[&["--enable-xattr"][..], &flags].concat())
}

#[test]
fn rmr_takes_trees_away_for_everybody() {
    let volume = Volume::new();
    let mount = trusting_mount(&volume);
    run_in(mount.path(), TREE).expect_success();
    fs::write(mount.join("single"), "one").unwrap();
    snapshot(&mount.join("top"));
    let mut open = File::open(mount.join("top/file")).unwrap();
    let listing = fs::read_dir(mount.join("top/deep")).unwrap();
    juicefs_in(mount.path(), &["rmr", "top", "single"]).expect_success();
    assert!(!mount.join("top").exists() && !mount.join("single").exists(), "the kernel has forgotten the names");
    assert!(!mount.join("top/deep/file").exists());
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert_eq!(content.len(), 300_000, "who has a file open goes on reading");
    assert!(listing.flatten().all(|entry| entry.metadata().is_err()), "what is listed still is not there any more");
    drop(open);
    fs::create_dir(mount.join("top")).unwrap();
    // One that is not there does not keep the others.
    let finished = juicefs_in(mount.path(), &["rmr", "nothing", "top"]).expect_failure();
    assert!(finished.stderr.contains("nothing"), "{finished}");
    assert!(!mount.join("top").exists());
    juicefs_in(volume.dir(), &["rmr", "objects"]).expect_failure();
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(run_in(mount.path(), "ls").expect_success().stdout, "", "nothing comes back");
    mount.unmount();
}

#[test]
fn rmr_leaves_no_object_behind() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), TREE).expect_success();
    juicefs_in(mount.path(), &["rmr", "-p", "3", "top"]).expect_success();
    assert!(wait_until(Duration::from_secs(60), || volume.objects().is_empty()), "{:?}", volume.objects());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn rmr_goes_into_the_trash_and_asks_for_permission() {
    let volume = Volume::with(&["--trash-days", "1"]);
    fs::set_permissions(volume.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = volume.mount();
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o777)).unwrap();
    run_in(mount.path(), TREE).expect_success();
    run_in(mount.path(), "mkdir -m 777 wide; mkdir wide/foreign; touch wide/foreign/kept").expect_success();
    as_user(mount.path(), &["rmr", "wide"]).expect_failure();
    assert!(mount.join("wide/foreign/kept").exists());
    as_user(mount.path(), &["rmr", "--skip-trash", "wide"]).expect_failure();
    run(
        "setpriv",
        ["--reuid=1001", "--regid=1001", "--clear-groups", "mkdir", "-p", &*mount.join("mine/a/b").to_string_lossy()],
    )
    .expect_success();
    as_user(mount.path(), &["rmr", "mine"]).expect_success();
    juicefs_in(mount.path(), &["rmr", "top"]).expect_success();
    let trashed =
        || fs::read_dir(mount.join(".trash")).unwrap().flat_map(|hour| fs::read_dir(hour.unwrap().path()).unwrap());
    // Entry by entry: three of the user's, and eleven of the tree.
    assert_eq!(trashed().count(), 3 + 11);
    run_in(mount.path(), TREE).expect_success();
    juicefs_in(mount.path(), &["rmr", "--skip-trash", "top"]).expect_success();
    assert_eq!(trashed().count(), 3 + 11);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn a_clone_is_the_same_and_stays_apart() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), TREE).expect_success();
    let wait = || assert!(wait_until(Duration::from_secs(60), || !volume.objects().is_empty()));
    wait();
    let objects = volume.objects().len();
    juicefs_in(mount.path(), &["clone", "-p", "top", "copy"]).expect_success();
    assert_eq!(volume.objects().len(), objects, "no data are copied");
    assert_eq!(looks(&mount.join("top")), looks(&mount.join("copy")));
    let (source, copy) = (snapshot(&mount.join("top")), snapshot(&mount.join("copy")));
    assert_eq!(source.len(), copy.len());
    for (path, entry) in &source {
        assert_eq!((&entry.content, &entry.target), (&copy[path].content, &copy[path].target), "{path:?}");
    }
    assert_eq!(fs::metadata(mount.join("copy/deep/file")).unwrap().nlink(), 1, "names of one file become files");
    // Neither sees what is done to the other.
    File::options().write(true).open(mount.join("copy/file")).unwrap().write_all_at(b"changed", 10).unwrap();
    fs::remove_file(mount.join("top/deep/file")).unwrap();
    assert_eq!(fs::read(mount.join("top/file")).unwrap(), source[Path::new("file")].content);
    assert_eq!(fs::read(mount.join("copy/deep/file")).unwrap(), source[Path::new("deep/file")].content);
    assert_eq!(&fs::read(mount.join("copy/file")).unwrap()[10..17], b"changed");
    // Without preserving it belongs to whoever copies.
    run_in(mount.path(), &format!("umask 027; {} clone top/file fresh", juicefs().display())).expect_success();
    let fresh = fs::metadata(mount.join("fresh")).unwrap();
    assert_eq!((fresh.uid(), fresh.gid(), fresh.mode() & 0o7777), (0, 0, 0o640));
    assert!(fresh.mtime() > 1_700_000_000);
    // Into a directory, with what is not flushed yet.
    let mut unflushed = File::create(mount.join("young")).unwrap();
    unflushed.write_all(b"just written").unwrap();
    juicefs_in(mount.path(), &["clone", "young", "copy/empty/"]).expect_success();
    assert_eq!(fs::read(mount.join("copy/empty/young")).unwrap(), b"just written");
    drop(unflushed);
    juicefs_in(mount.path(), &["rmr", "top"]).expect_success();
    assert_eq!(fs::read(mount.join("copy/hole")).unwrap(), source[Path::new("hole")].content);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn what_cannot_be_cloned_is_refused_in_one_sentence() {
    let volume = Volume::new();
    fs::set_permissions(volume.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = volume.mount();
    run_in(mount.path(), TREE).expect_success();
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let outside = volume.dir().join("outside").to_string_lossy().into_owned();
    for (source, target, about) in [
        ("top", "top/deep/copy", "lies in"),
        ("top", "top/file", "exists"),
        ("nothing", "copy", "nothing"),
        ("top", outside.as_str(), ""),
        ("top", "nowhere/copy", "nowhere"),
    ] {
        let finished = juicefs_in(mount.path(), &["clone", source, target]).expect_failure();
        assert!(finished.stderr.contains(about) && !finished.text().contains("panicked"), "{finished}");
    }
    // The directory `deep` is closed to this user.
    run_in(mount.path(), "chown 0:0 top/deep; chmod 700 top/deep").expect_success();
    as_user(mount.path(), &["clone", "top", "copy"]).expect_failure();
    assert!(!mount.join("copy").exists());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Copies of directories that are not complete.
fn unfinished(volume: &Volume) -> i64 {
    match Meta::of_this_run() {
        Meta::Sqlite => {
            let sql = "pragma busy_timeout=10000; select count(*) from jfs_detached_node;";
            let counted = run("sqlite3", [&*volume.meta_path().to_string_lossy(), sql]).expect_success();
            counted.stdout.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0)
        }
        Meta::Redis | Meta::RedisCluster => volume.redis().call(&["ZCARD", &volume.key("detachedNodes")]).int(),
    }
}

#[test]
fn a_client_killed_while_it_clones_leaves_no_half_tree() {
    let volume = Volume::new();
    let mount = volume.mount();
    let files = 1500;
    let script = format!("mkdir top; cd top; for d in $(seq 15); do mkdir $d; touch $d/{{1..{}}}; done", files / 15);
    run_in(mount.path(), &script).expect_success();
    let mut copying = Command::new(juicefs());
    copying.args(["clone", "--threads", "1", "top", "copy"]).current_dir(mount.path());
    let mut copying = copying.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(Duration::from_secs(60), || unfinished(&volume) > 0 || mount.join("copy").exists()));
    mount.kill().clear();
    copying.wait().unwrap();
    let mount = volume.mount();
    let copy = mount.join("copy");
    if copy.exists() {
        // It was faster than we looked.
        assert_eq!(snapshot(&copy).len(), files + 15);
    } else {
        assert_eq!(unfinished(&volume), 1, "what is there waits for the clean-up of another day");
    }
    assert_eq!(snapshot(&mount.join("top")).len(), files + 15);
    mount.unmount();
    volume.assert_sound(Rest::Crashed);
}

#[test]
fn an_interrupted_clone_is_taken_away() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), "mkdir top; cd top; for d in $(seq 15); do mkdir $d; touch $d/{1..100}; done")
        .expect_success();
    let mut copying = Command::new(juicefs());
    copying.args(["clone", "--threads", "1", "top", "copy"]).current_dir(mount.path());
    let mut copying = copying.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(Duration::from_secs(60), || unfinished(&volume) > 0 || mount.join("copy").exists()));
    copying.kill().unwrap();
    copying.wait().unwrap();
    assert!(wait_until(Duration::from_secs(60), || unfinished(&volume) == 0));
    if mount.join("copy").exists() {
        assert_eq!(snapshot(&mount.join("copy")).len(), 1515, "it was complete before");
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Files, directories and bytes of a tree as other programs count them.
pub(crate) fn counted(dir: &Path) -> (u64, u64, u64) {
    let number = |script: &str| run_in(dir, script).expect_success().stdout.trim().parse().unwrap();
    let used = "find . -printf '%i %y %s\\n' | awk '{ n += $2 == \"f\" && $3 > 0 ? int(($3 + 4095) / 4096) * 4096 : 4096 } END { print n }'";
    (number("find . ! -type d | wc -l"), number("find . -type d | wc -l"), number(used))
}

#[test]
fn summary_and_info_say_what_other_programs_count() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), TREE).expect_success();
    run_in(mount.path(), "for n in $(seq 20); do head -c ${n}000 /dev/zero >top/empty/$n; done").expect_success();
    let (files, dirs, size) = counted(&mount.join("top"));
    for strict in [&[][..], &["--strict"]] {
        let args = [&["summary", "--csv", "-d", "2", "-e", "3", "top"][..], strict].concat();
        let shown = juicefs_in(mount.path(), &args).expect_success().stdout;
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "PATH,SIZE,DIRS,FILES", "{shown}");
        assert_eq!(lines[1], format!("/,{size},{dirs},{files}"), "{shown}");
        let (below_files, below_dirs, below_size) = counted(&mount.join("top/empty"));
        assert!(lines.contains(&&*format!("empty/,{below_size},{below_dirs},{below_files}")), "{shown}");
        assert!(lines.iter().any(|line| line.starts_with("empty/...,")), "{shown}");
        assert!(lines.iter().any(|line| line.starts_with("...,")), "{shown}");
        let args = [&["info", "-r", "top"][..], strict].concat();
        let shown = juicefs_in(mount.path(), &args).expect_success().stdout;
        assert!(shown.contains(&format!("  files: {files}\n   dirs: {dirs}\n")), "{shown}");
        assert!(shown.contains(&format!("({size} Bytes)")), "{shown}");
        assert!(shown.contains("   path: /top\n"), "{shown}");
    }
    let table = juicefs_in(mount.path(), &["summary", "top"]).expect_success().stdout;
    assert!(table.contains("| PATH") || table.contains("PATH "), "{table}");
    // A file names its objects, each of which is there.
    let shown = juicefs_in(mount.path(), &["info", "top/file"]).expect_success().stdout;
    let keys: Vec<&str> = shown.split_whitespace().filter(|word| word.starts_with("e2e-volume/chunks/")).collect();
    assert!(!keys.is_empty(), "{shown}");
    for key in keys {
        assert!(volume.bucket().join(key).exists(), "{key}: {shown}");
    }
    // Every name of a file, and by its inode.
    let ino = fs::metadata(mount.join("top/deep/file")).unwrap().ino().to_string();
    let shown = juicefs_in(mount.path(), &["info", "--raw", "-i", &ino]).expect_success().stdout;
    assert!(shown.contains("  paths:\n") && shown.contains("\t/top/deep/again\n"), "{shown}");
    assert!(shown.contains("sliceId"), "{shown}");
    juicefs_in(mount.path(), &["info", "-i", "x"]).expect_failure();
    juicefs_in(mount.path(), &["info", "nothing"]).expect_failure();
    juicefs_in(mount.path(), &["info", "-i", "471147"]).expect_failure();
    juicefs_in(volume.dir(), &["summary", "objects"]).expect_failure();
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// How many slices the chunks of a file have.
fn slices(dir: &Path, file: &str) -> usize {
    let shown = juicefs_in(dir, &["info", "--raw", file]).expect_success().stdout;
    shown.lines().filter(|line| line.starts_with("| ")).count() - 1
}

#[test]
fn compact_joins_what_was_written_in_pieces() {
    let volume = Volume::new();
    let mount = volume.mount();
    fs::create_dir_all(mount.join("dir/deep")).unwrap();
    for name in ["dir/a", "dir/deep/b"] {
        let mut file = OpenOptions::new().create(true).append(true).open(mount.join(name)).unwrap();
        for n in 0..20u8 {
            file.write_all(&[n; 1000]).unwrap();
            file.sync_all().unwrap();
        }
        assert!(slices(mount.path(), name) >= 20);
    }
    let wanted: Vec<u8> = (0..20).flat_map(|n| [n; 1000]).collect();
    juicefs_in(mount.path(), &["compact", "dir"]).expect_success();
    for name in ["dir/a", "dir/deep/b"] {
        assert_eq!(slices(mount.path(), name), 1);
        assert_eq!(fs::read(mount.join(name)).unwrap(), wanted);
    }
    assert!(wait_until(Duration::from_secs(60), || volume.objects().len() == 2), "{:?}", volume.objects());
    juicefs_in(mount.path(), &["compact", "dir/a", "nothing"]).expect_failure();
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn a_mount_below_the_root_serves_its_own_part() {
    let volume = Volume::new();
    let whole = volume.mount();
    run_in(whole.path(), "mkdir -p sub/top; touch sub/top/file").expect_success();
    let part = volume.mount_with("part", &["--subdir", "sub"]);
    juicefs_in(part.path(), &["clone", "top", "copy"]).expect_success();
    assert!(part.join("copy/file").exists());
    // Statistics of another mount are seen after a second, nodes at once.
    let shown = juicefs_in(part.path(), &["info", "-r", "--strict", "."]).expect_success().stdout;
    assert!(shown.contains("  files: 2\n   dirs: 3\n") && shown.contains("   path: /\n"), "{shown}");
    juicefs_in(part.path(), &["rmr", "top"]).expect_success();
    assert!(
        wait_until(Duration::from_secs(20), || !whole.join("sub/top").exists() && whole.join("sub/copy/file").exists())
    );
    part.unmount();
    whole.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Who holds what, also from another mount.
#[test]
fn info_lists_the_locks_of_all_mounts() {
    let volume = Volume::new();
    let (one, two) = (volume.mount(), volume.mount_with("two", &[]));
    fs::write(one.join("file"), "content").unwrap();
    let bare = juicefs_in(one.path(), &["info", "file"]).expect_success().stdout;
    assert!(!bare.contains("locks"), "{bare}");
    let held = |mount: &Mount, lock: &str| {
        let look = format!("{} info file", juicefs().display());
        let python = format!(
            "import fcntl, os, subprocess\nf = open('file', 'r+')\n{lock}\n\
             print(subprocess.run('{look}', shell=True, cwd='{}', capture_output=True, text=True).stdout)",
            one.path().display()
        );
        let mut command = Command::new("python3");
        command.args(["-c", &python]).current_dir(mount.path());
        run_within(command, Duration::from_secs(60)).expect_success().stdout
    };
    let flock = held(&two, "fcntl.flock(f, fcntl.LOCK_EX)");
    assert!(flock.contains("flocks:") && !flock.contains("plocks:"), "{flock}");
    let range = held(&one, "fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)");
    assert!(range.contains("plocks:") && !range.contains("flocks:"), "{range}");
    assert!(range.lines().any(|line| line.contains(" W ") && line.contains(" 5 ") && line.contains(" 14 ")), "{range}");
    two.unmount();
    one.unmount();
}
