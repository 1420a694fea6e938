//! Paths on the command line mean what they mean to the kernel, and so to `rm` and `cp`.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use e2e::{Finished, Mount, Rest, Volume, is_mounted, juicefs, run, run_in, run_within};

/// Runs a command with the path of `dir` as the shell of a user there would know it, with `..` and links untouched.
fn from(dir: &Path, args: &[&OsStr]) -> Finished {
    let mut command = Command::new(juicefs());
    command.args(args).current_dir(dir).env("PWD", dir);
    run_within(command, Duration::from_secs(120))
}

fn juicefs_in(dir: &Path, args: &[&str]) -> Finished {
    from(dir, &args.iter().map(OsStr::new).collect::<Vec<_>>())
}

/// `d/e`, the link `s` to it, and a `victim` above and below.
const TREE: &str = "mkdir -p d/e; ln -s d/e s; echo top >victim; echo below >d/victim";

/// Everything in a directory but what the mount shows of itself, with its content.
fn content(dir: &Path) -> String {
    let script =
        "find . -mindepth 1 ! -path './.*' -printf '%p %y %l\\n' | sort; cat victim d/victim 2>/dev/null || true";
    run_in(dir, script).expect_success().stdout
}

/// What `rm -r` leaves of a tree is what `rmr` leaves, for each way to write a path.
#[test]
fn rmr_removes_what_rm_removes() {
    let volume = Volume::new();
    let mount = volume.mount();
    let model = volume.dir().join("model");
    for path in
        ["s/../victim", "s/../../victim", "./d/./e/../victim", "d//e", "s", "d/../victim", "s/.././victim", "d/"]
    {
        let place = mount.join("place");
        for root in [&place, &model] {
            fs::create_dir(root).unwrap();
            run_in(root, TREE).expect_success();
        }
        let removed = juicefs_in(&place, &["rmr", path]).expect_success();
        run_in(&model, &format!("rm -r {path}")).expect_success();
        assert_eq!(content(&place), content(&model), "{path}: {removed}");
        fs::remove_dir_all(&place).unwrap();
        fs::remove_dir_all(&model).unwrap();
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// A slash behind a link follows it; without one it is the link that goes.
#[test]
fn rmr_follows_a_link_only_with_a_slash() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), "mkdir -p d/e/f; ln -s d/e s; ln -s d/e t; ln -s nowhere n").expect_success();
    juicefs_in(mount.path(), &["rmr", "s", "n"]).expect_success();
    assert!(mount.join("d/e/f").exists() && mount.join("s").symlink_metadata().is_err());
    juicefs_in(mount.path(), &["rmr", "t/"]).expect_success();
    assert!(mount.join("d").exists() && !mount.join("d/e").exists());
    juicefs_in(mount.path(), &["rmr", "t/x"]).expect_failure();
    mount.unmount();
}

/// Links that lead into the mount from elsewhere, and a mount that is bound to other places.
#[test]
fn a_mount_is_found_however_it_is_reached() {
    let volume = Volume::new();
    let mount = volume.mount();
    let data = volume.dir().join("data");
    symlink(mount.path(), &data).unwrap();
    run_in(mount.path(), "mkdir -p a/sub; echo content >a/file; echo content >single; mkdir bound").expect_success();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let here = text(&data);
    for path in [here.clone(), format!("{here}/")] {
        let shown = juicefs_in(volume.dir(), &["info", &path]).expect_success().stdout;
        assert!(shown.contains("  inode: 1\n"), "{shown}");
        juicefs_in(volume.dir(), &["summary", &path]).expect_success();
        juicefs_in(volume.dir(), &["compact", &path]).expect_success();
    }
    juicefs_in(volume.dir(), &["clone", &format!("{here}/a"), &format!("{here}/b")]).expect_success();
    assert_eq!(fs::read_to_string(mount.join("b/file")).unwrap(), "content\n");
    // The same below a directory that is bound elsewhere, which has no root of a mount above it.
    let elsewhere = volume.dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let binding = Binding::make(&mount.join("a"), &elsewhere);
    let there = text(&elsewhere);
    juicefs_in(volume.dir(), &["clone", &format!("{there}/file"), &format!("{there}/sub/")]).expect_success();
    assert_eq!(fs::read_to_string(mount.join("a/sub/file")).unwrap(), "content\n");
    juicefs_in(volume.dir(), &["clone", &format!("{there}/file"), &format!("{here}/copied")]).expect_success();
    juicefs_in(volume.dir(), &["info", "-r", &there]).expect_success();
    juicefs_in(&elsewhere, &["rmr", "sub/../sub/file"]).expect_success();
    assert!(!mount.join("a/sub/file").exists() && mount.join("a/file").exists());
    // What lies below a mount point is not what is seen there.
    let second = Binding::make(&mount.join("a"), &mount.join("bound"));
    let refused = juicefs_in(mount.path(), &["rmr", "bound"]).expect_failure();
    assert!(refused.stderr.contains("mount point"), "{refused}");
    drop(second);
    drop(binding);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// A directory that is seen at another place too, until this is dropped.
struct Binding(PathBuf);

impl Binding {
    fn make(source: &Path, target: &Path) -> Self {
        run("mount", [Path::new("--bind"), source, target]).expect_success();
        Self(target.to_owned())
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        run("umount", [&self.0]).expect_success();
    }
}

/// Another file system inside of a mount is not the mount, whatever its files are called.
#[test]
fn what_is_mounted_inside_is_not_taken_for_the_mount() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), "mkdir inner own; echo kept >own/file").expect_success();
    let other = volume.dir().join("other");
    fs::create_dir_all(other.join("own")).unwrap();
    fs::write(other.join(".control"), "not for requests").unwrap();
    let binding = Binding::make(&other, &mount.join("inner"));
    for args in [
        &["rmr", "inner"][..],
        &["rmr", "inner/own"],
        &["info", "inner"],
        &["summary", "inner"],
        &["compact", "inner"],
        &["clone", "inner", "copy"],
        &["clone", "inner/own", "copy"],
        &["clone", "own", "inner/copy"],
    ] {
        let refused = juicefs_in(mount.path(), args).expect_failure();
        assert!(refused.stderr.contains("inner"), "{refused}");
    }
    assert_eq!(fs::read_to_string(other.join(".control")).unwrap(), "not for requests");
    assert!(other.join("own").exists() && mount.join("own/file").exists() && !mount.join("copy").exists());
    drop(binding);
    assert!(mount.join("inner").exists());
    mount.unmount();
}

/// Names are bytes.
#[test]
fn names_that_are_no_text_are_meant_as_they_are() {
    let volume = Volume::new();
    let mount = volume.mount();
    let odd = OsStr::from_bytes(b"n\xFFt");
    fs::create_dir(mount.path().join(odd)).unwrap();
    fs::write(mount.path().join(odd).join(odd), "x").unwrap();
    let word = OsStr::new;
    let inner = Path::new(odd).join(odd);
    from(mount.path(), &[word("info"), inner.as_os_str()]).expect_success();
    from(mount.path(), &[word("summary"), odd]).expect_success();
    from(mount.path(), &[word("clone"), odd, word("copy")]).expect_success();
    assert!(mount.join("copy").join(odd).exists());
    let url = volume.meta_url();
    let path = [b"/", odd.as_bytes()].concat();
    let set =
        [word("quota"), word("set"), word(&url), word("--path"), OsStr::from_bytes(&path), word("--inodes"), word("5")];
    from(volume.dir(), &set).expect_success();
    from(mount.path(), &[word("rmr"), word("copy"), odd]).expect_success();
    assert!(!mount.path().join(odd).exists() && !mount.join("copy").exists());
    mount.unmount();
}

/// Paths of quotas are those of the volume: `..` leads up, and is never made.
#[test]
fn quotas_know_dots() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), "mkdir -p a/b c").expect_success();
    let set =
        |path: &str| volume.juicefs(&["quota", "set", &volume.meta_url(), "--path", path, "--inodes", "5", "--create"]);
    set("/a/b/../../c/./new").expect_success();
    set("/../a").expect_success();
    let listed = volume.juicefs(&["quota", "list", &volume.meta_url()]).expect_success().stdout;
    assert!(listed.contains("| /c/new ") && listed.contains("| /a "), "{listed}");
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// A mount point is found through links, and is not looked into for it.
#[test]
fn mounts_and_their_ends_follow_links() {
    let volume = Volume::new();
    run_in(volume.dir(), "mkdir -p d/e/deep far; ln -s d/e s; ln -s d/mnt link; ln -s link again").expect_success();
    let mounted = |place: &str| {
        let mount = volume.mount_with(place, &[]);
        assert!(is_mounted(&volume.dir().join("d/mnt")), "{place}");
        mount
    };
    for way in ["s/../mnt", "link", "again/", "d/e/deep/../../mnt/", "./far/../again"] {
        let mount = mounted("d/mnt");
        volume.juicefs(&["umount", way]).expect_success();
        assert!(!is_mounted(&volume.dir().join("d/mnt")), "{way}");
        assert!(mount.ended().success());
    }
    // Mounted through such a path it is where the kernel finds it.
    let mut command = Command::new(juicefs());
    let cache = volume.dir().join("cache").to_string_lossy().into_owned();
    command.args(["mount", "-d", "--no-syslog", "--log", "log", "--cache-dir", &cache, &volume.meta_url(), "s/../mnt"]);
    command.current_dir(volume.dir());
    run_within(command, Duration::from_secs(60)).expect_success();
    assert!(is_mounted(&volume.dir().join("d/mnt")) && !is_mounted(&volume.dir().join("mnt")));
    volume.juicefs(&["umount", "d/mnt"]).expect_success();
}

/// `info` tells about a link itself; with a slash, and for what can only be opened, it is what the link leads to.
#[test]
fn info_tells_about_links_themselves() {
    let volume = Volume::new();
    let mount: Mount = volume.mount();
    run_in(mount.path(), TREE).expect_success();
    let ino = |path: &str| fs::symlink_metadata(mount.join(path)).unwrap().ino();
    let told = |args: &[&str]| {
        let shown = juicefs_in(mount.path(), args).expect_success().stdout;
        let line = shown.lines().find_map(|line| line.trim().strip_prefix("inode: ")).unwrap_or("0").to_owned();
        line.parse::<u64>().unwrap()
    };
    assert_eq!(told(&["info", "s"]), ino("s"));
    assert_eq!(told(&["info", "s/"]), ino("d/e"));
    assert_eq!(told(&["info", "s/.."]), ino("d"));
    let summary = juicefs_in(mount.path(), &["summary", "--csv", "s/.."]).expect_success().stdout;
    let linked = juicefs_in(mount.path(), &["summary", "--csv", "s"]).expect_success().stdout;
    assert!(summary.contains("victim,") && linked.starts_with("PATH,SIZE,DIRS,FILES\n/,4096,1,0"), "{summary}{linked}");
    mount.unmount();
}
