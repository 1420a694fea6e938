//! The command: what it prints, how it ends, and that a mistake changes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use e2e::{Finished, Volume, is_mounted, juicefs, run, run_in, run_within, wait_until};

fn setting(volume: &Volume) -> serde_json::Value {
    let status = volume.juicefs(&["status", &volume.meta_url()]).expect_success();
    serde_json::from_str(&status.stdout).unwrap_or_else(|error| panic!("status is not JSON ({error}): {status}"))
}

/// One clear sentence on standard error, no table of flags, no backtrace.
fn assert_one_sentence(finished: &Finished, about: &str) {
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(!lines.is_empty() && lines.len() <= 4, "{finished}");
    assert!(finished.stderr.contains(about), "the message does not name {about:?}: {finished}");
    assert!(!finished.text().contains("panicked"), "{finished}");
}

fn assert_untouched(volume: &Volume) {
    assert!(!volume.has_metadata(), "metadata were written");
    assert_eq!(fs::read_dir(volume.bucket()).unwrap().count(), 0, "objects were written");
}

#[test]
fn bad_format_arguments_write_nothing() {
    let cases: [(&[&str], &str); 9] = [
        (&["--compress", "rot13"], "rot13"),
        (&["--block-size", "many"], "many"),
        (&["--trash-days", "-1"], "-1"),
        (&["--capacity", "12Q"], "12Q"),
        (&["--shards", "300"], "300"),
        (&["--no-such-flag"], "no-such-flag"),
        (&["--inodes", "x"], "x"),
        (&["--encrypt-rsa-key", "/no/such/key.pem"], "/no/such/key.pem"),
        (&["--trash-days"], "trash-days"),
    ];
    for (flags, about) in cases {
        let volume = Volume::unformatted();
        // The last case has no value: the flag ends the line.
        let finished = if flags == ["--trash-days"] {
            let bucket = volume.bucket().to_string_lossy().into_owned();
            volume.juicefs(&["format", "--bucket", &bucket, &volume.meta_url(), "myvol", "--trash-days"])
        } else {
            volume.format(flags)
        };
        let finished = finished.expect_failure();
        assert_one_sentence(&finished, about);
        assert_untouched(&volume);
    }
}

#[test]
fn bad_names_and_urls_are_refused() {
    let volume = Volume::unformatted();
    let bucket = format!("{}/", volume.bucket().display());
    for name in ["ab", "Upper", "under_score", "-front", "back-", &"x".repeat(64)] {
        let args = ["format", "--bucket", &bucket, &volume.meta_url(), "--", name];
        let args: Vec<&str> = if name.starts_with('-') { args.to_vec() } else { [&args[..4], &args[5..]].concat() };
        let finished = volume.juicefs(&args).expect_failure();
        assert!(!finished.text().contains("panicked"), "{finished}");
        assert_untouched(&volume);
    }
    let finished = volume.juicefs(&["format", "--bucket", &bucket, "nosuch://x", "myvol"]).expect_failure();
    assert_one_sentence(&finished, "nosuch");
    volume.juicefs(&["format", &volume.meta_url()]).expect_failure();
    volume.juicefs(&["format"]).expect_failure();
    volume.juicefs(&["no-such-command"]).expect_failure();
    assert_untouched(&volume);
}

#[test]
fn format_keeps_its_flags_and_is_harmless_twice() {
    let volume = Volume::with(&["--block-size", "1M", "--compress", "zstd", "--trash-days", "3", "--capacity", "10"]);
    let first = setting(&volume);
    let set = &first["Setting"];
    assert_eq!(set["Name"], "e2e-volume");
    assert_eq!(set["Storage"], "file");
    assert_eq!(set["BlockSize"], 1024);
    assert_eq!(set["Compression"], "zstd");
    assert_eq!(set["TrashDays"], 3);
    assert_eq!(set["Capacity"], 10u64 << 30);
    assert_eq!(set["MetaVersion"], 1);
    assert_eq!(set["DirStats"], true);
    assert_eq!(first["Sessions"], serde_json::json!([]));
    assert_eq!(set["Bucket"], format!("{}/", volume.bucket().display()));
    // Formatting again with nothing new keeps the identity, and --no-update changes nothing at all.
    volume.format(&["--trash-days", "3"]).expect_success();
    volume.format(&["--no-update", "--trash-days", "9"]).expect_success();
    assert_eq!(setting(&volume)["Setting"]["UUID"], set["UUID"]);
    assert_eq!(setting(&volume)["Setting"]["TrashDays"], 3);
    // What cannot change is refused.
    volume.format(&["--block-size", "2M"]).expect_failure();
    volume.format(&["--compress", "none"]).expect_failure();
    assert_eq!(setting(&volume)["Setting"]["BlockSize"], 1024);
}

#[test]
fn a_used_object_directory_is_refused() {
    let volume = Volume::unformatted();
    fs::create_dir_all(volume.bucket().join("e2e-volume/chunks/0/0")).unwrap();
    fs::write(volume.bucket().join("e2e-volume/chunks/0/0/1_0_4"), "data").unwrap();
    volume.format(&[]).expect_failure();
    assert_eq!(fs::read(volume.bucket().join("e2e-volume/chunks/0/0/1_0_4")).unwrap(), b"data");
}

#[test]
fn config_prints_and_changes() {
    let volume = Volume::with(&["--trash-days", "1"]);
    let url = volume.meta_url();
    let printed = volume.juicefs(&["config", &url]).expect_success();
    let json: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(json["Name"], "e2e-volume");
    let changes = ["config", &url, "--capacity", "20", "--inodes", "1000", "--trash-days", "7", "--yes"];
    let changed = volume.juicefs(&changes).expect_success();
    for word in ["capacity", "inodes", "trash-days"] {
        assert!(changed.text().contains(word), "{word} is not reported: {changed}");
    }
    let set = setting(&volume)["Setting"].clone();
    assert_eq!(set["Capacity"], 20u64 << 30);
    assert_eq!(set["Inodes"], 1000);
    assert_eq!(set["TrashDays"], 7);
    let before = setting(&volume);
    for bad in [["--trash-days", "-3"], ["--capacity", "lots"], ["--inodes", "-1"]] {
        let finished = volume.juicefs(&["config", &url, bad[0], bad[1], "--yes"]).expect_failure();
        assert!(!finished.text().contains("panicked"), "{finished}");
    }
    assert_eq!(setting(&volume), before);
}

#[test]
fn an_unformatted_database_is_named_as_such() {
    let volume = Volume::unformatted();
    let point = volume.dir().join("mnt").to_string_lossy().into_owned();
    for args in [vec!["status", &volume.meta_url()], vec!["config", &volume.meta_url()]] {
        let finished = volume.juicefs(&args).expect_failure();
        assert!(finished.text().contains("format"), "no hint at format: {finished}");
    }
    let finished = volume.juicefs(&["mount", &volume.meta_url(), &point]).expect_failure();
    assert!(finished.text().contains("format"), "no hint at format: {finished}");
    assert!(!is_mounted(Path::new(&point)));
}

#[test]
fn bad_mount_arguments_are_refused_before_anything_is_mounted() {
    let volume = Volume::new();
    let point = volume.dir().join("mnt");
    let text = point.to_string_lossy().into_owned();
    let url = volume.meta_url();
    let cases: [(&[&str], &str); 5] = [
        (&["--no-such-flag"], "no-such-flag"),
        (&["--cache-size", "big"], "big"),
        (&["--buffer-size", "-"], "-"),
        (&["--backup-meta", "60"], "backup-meta"),
        (&["--max-uploads", "x"], "x"),
    ];
    for (flags, about) in cases {
        let mut args = vec!["mount"];
        args.extend(flags);
        args.extend([url.as_str(), text.as_str()]);
        let finished = volume.juicefs(&args).expect_failure();
        assert_one_sentence(&finished, about);
        assert!(!is_mounted(&point));
    }
    let file = volume.dir().join("a-file");
    fs::write(&file, "x").unwrap();
    volume.juicefs(&["mount", &url, &file.to_string_lossy()]).expect_failure();
    volume.juicefs(&["mount", &url, "/"]).expect_failure();
    assert_eq!(setting(&volume)["Sessions"], serde_json::json!([]), "a failed mount left a session");
}

/// Mounts in the background and undoes it at the end, also when the test fails.
struct Background {
    point: PathBuf,
}

impl Background {
    fn start(volume: &Volume, flags: &[&str]) -> (Self, Finished) {
        let point = volume.dir().join("background");
        let cache = volume.dir().join("cache-background").to_string_lossy().into_owned();
        let log = volume.dir().join("background.log").to_string_lossy().into_owned();
        let (url, text) = (volume.meta_url(), point.to_string_lossy().into_owned());
        let mut args =
            vec!["mount", "-d", "--no-usage-report", "--backup-meta", "0", "--cache-dir", &cache, "--log", &log];
        args.extend(flags);
        args.extend([url.as_str(), text.as_str()]);
        (Self { point }, volume.juicefs(&args))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if is_mounted(&self.point) {
            let _ = run("umount", [Path::new("-l"), &self.point]);
        }
    }
}

#[test]
fn a_background_mount_returns_when_it_serves() {
    let volume = Volume::new();
    let (mount, started) = Background::start(&volume, &[]);
    started.expect_success();
    assert!(is_mounted(&mount.point));
    fs::write(mount.point.join("file"), "at once").unwrap();
    let sessions = setting(&volume)["Sessions"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 1);
    assert_eq!(sessions[0]["MountPoint"], mount.point.to_string_lossy().into_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(&*mount.point.to_string_lossy())).unwrap();
    assert!(line.starts_with("JuiceFS:e2e-volume ") && line.contains(" fuse.juicefs "), "{line}");
    let volume_url = volume.juicefs(&["umount", &mount.point.to_string_lossy()]);
    volume_url.expect_success();
    assert!(!is_mounted(&mount.point));
    let closed = wait_until(Duration::from_secs(20), || setting(&volume)["Sessions"] == serde_json::json!([]));
    assert!(closed, "the session of an unmounted client stays");
}

#[test]
fn a_background_mount_that_cannot_serve_says_why() {
    let volume = Volume::new();
    // The object directory is gone and a file is in its place.
    fs::remove_dir_all(volume.bucket()).unwrap();
    fs::write(volume.bucket(), "").unwrap();
    let (mount, started) = Background::start(&volume, &["--check-storage"]);
    let started = started.expect_failure();
    assert!(started.text().contains("objects") || started.text().contains("storage"), "{started}");
    assert!(!is_mounted(&mount.point));
}

#[test]
fn umount_of_a_busy_mount_names_the_holder() {
    let volume = Volume::new();
    let mount = volume.mount();
    let file = mount.join("held");
    fs::write(&file, "x").unwrap();
    let mut holder = Command::new("sleep").arg("60").stdin(fs::File::open(&file).unwrap()).spawn().unwrap();
    let refused = volume.juicefs(&["umount", &mount.path().to_string_lossy()]).expect_failure();
    assert!(refused.text().contains(&holder.id().to_string()), "process {} is not named: {refused}", holder.id());
    assert!(is_mounted(mount.path()));
    assert_eq!(fs::read(&file).unwrap(), b"x");
    holder.kill().unwrap();
    holder.wait().unwrap();
    mount.unmount();
    let refused = volume.juicefs(&["umount", &volume.dir().to_string_lossy()]).expect_failure();
    assert_one_sentence(&refused, "mount point");
}

#[test]
fn umount_by_force_detaches_a_busy_mount() {
    let volume = Volume::new();
    let mount = volume.mount();
    let held = fs::File::create(mount.join("held")).unwrap();
    volume.juicefs(&["umount", "--force", &mount.path().to_string_lossy()]).expect_success();
    assert!(!is_mounted(mount.path()));
    drop(held);
}

#[test]
fn a_second_mount_on_the_same_point_does_no_harm() {
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.join("file"), "x").unwrap();
    let (_guard, started) = Background::start(&volume, &[]);
    started.expect_success();
    assert_eq!(fs::read(volume.dir().join("background/file")).unwrap(), b"x");
    mount.unmount();
    assert_eq!(fs::read(volume.dir().join("background/file")).unwrap(), b"x");
}

/// A mount point whose client died is taken over without help.
#[test]
fn a_dead_mount_point_is_mounted_again() {
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.join("file"), "x").unwrap();
    let wreck = mount.kill();
    let mount = volume.mount();
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"x");
    mount.unmount();
    drop(wreck);
}

#[test]
fn version_and_help_are_printed() {
    let volume = Volume::unformatted();
    for args in [vec!["version"], vec!["--version"], vec!["-V"]] {
        let text = volume.juicefs(&args).expect_success().stdout;
        assert!(text.starts_with("juicefs version 1."), "{text}");
    }
    let help = volume.juicefs(&["--help"]).expect_success().stdout;
    for command in ["format", "mount", "umount", "status", "config", "bench", "objbench"] {
        assert!(help.contains(command), "{command} is missing in the help");
        volume.juicefs(&[command, "--help"]).expect_success();
    }
}

#[test]
fn flags_may_stand_anywhere_and_have_two_spellings() {
    let volume = Volume::unformatted();
    let bucket = format!("--bucket={}/", volume.bucket().display());
    let args = [
        "-q",
        "format",
        &volume.meta_url(),
        "-trash-days=0",
        "--storage",
        "file",
        "myvol",
        &bucket,
        "-block-size",
        "256",
    ];
    volume.juicefs(&args).expect_success();
    assert_eq!(setting(&volume)["Setting"]["BlockSize"], 256);
    assert_eq!(setting(&volume)["Setting"]["TrashDays"], 0);
}

#[test]
fn bench_measures_a_mount() {
    let volume = Volume::new();
    let mount = volume.mount();
    let mut command = Command::new(juicefs());
    command.args(["bench", "--big-file-size", "32M", "--small-file-count", "20", "-p", "2"]).arg(mount.path());
    let finished = run_within(command, Duration::from_secs(200)).expect_success();
    for item in
        ["Write big file", "Read big file", "Write small file", "Read small file", "Stat file", "MiB/s", "files/s"]
    {
        assert!(finished.stdout.contains(item), "{item} is missing: {finished}");
    }
    assert_eq!(run_in(mount.path(), "ls").expect_success().stdout, "", "bench left files");
    mount.unmount();
}

#[test]
fn a_sub_directory_can_be_the_root() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--subdir", "/part/inner"]);
    fs::write(mount.join("file"), "x").unwrap();
    assert_eq!(run_in(mount.path(), "ls").expect_success().stdout, "file\n");
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(fs::read(mount.join("part/inner/file")).unwrap(), b"x");
    mount.unmount();
}

/// The quickstart of the README, twice.
#[test]
#[ignore = "builds the release binary: part of scripts/test.sh --full"]
fn quickstart_is_harmless_twice() {
    let home = tempfile::tempdir().unwrap();
    let point = home.path().join("jfs");
    for _ in 0..2 {
        let mut command = Command::new("bash");
        command
            .arg(e2e::workspace_root().join("scripts/quickstart.sh"))
            .arg(&point)
            .env("JFS_QUICKSTART_HOME", home.path());
        run_within(command, Duration::from_secs(1500)).expect_success();
        assert!(is_mounted(&point));
        fs::write(point.join("mine"), "kept").unwrap();
    }
    assert_eq!(fs::read(point.join("mine")).unwrap(), b"kept");
    run("umount", [&point]).expect_success();
}
