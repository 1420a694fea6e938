//! What `.control` and the other internal files let those do who are not root.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use e2e::{Finished, Mount, Volume, juicefs, run_in, run_within};

fn as_user(dir: &Path, program: &Path, args: &[&str]) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1001", "--regid=1001", "--clear-groups"]).arg(program).args(args).current_dir(dir);
    run_within(command, Duration::from_secs(60))
}

/// Sends a request as clients do, and prints the first byte of the reply that is no progress, and what follows.
const ASK: &str = r"
import struct, sys, time
command, body = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
f = open('.control', 'r+b', buffering=0)
f.write(struct.pack('>II', command, len(body)) + body)
reply, end = b'', time.time() + 30
while time.time() < end:
    reply += f.read(1 << 16) or b''
    while len(reply) >= 17 and reply[0] == 0xFE:
        reply = reply[17:]
    if reply and reply[0] != 0xFE and (reply[0] != 0xFF or len(reply) > 5):
        print(reply[0], reply[5:].decode())
        break
    time.sleep(0.01)
";

fn ask_as_user(mount: &Mount, command: u32, body: &[u8]) -> String {
    let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    let args = ["-c", ASK, &command.to_string(), &hex];
    as_user(mount.path(), Path::new("/usr/bin/python3"), &args).expect_success().stdout.trim().to_owned()
}

/// A volume whose directory anybody may search, and a tree of which user 1001 may read only a part.
fn prepare(volume: &Volume) -> Mount {
    fs::set_permissions(volume.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = volume.mount();
    let script = r"
        mkdir -p open/below open/closed secret/wide; chmod 777 secret/wide open
        echo text >open/file; echo text >open/closed/file; echo text >secret/file; echo text >secret/wide/file
        echo text >private; chmod 600 private; chmod 700 open/closed secret; ln secret/file open/also
        mkdir fine; echo text >fine/file; ln -s nowhere fine/link
    ";
    run_in(mount.path(), script).expect_success();
    mount
}

#[test]
fn info_and_summary_tell_what_the_caller_may_read() {
    let volume = Volume::new();
    let mount = prepare(&volume);
    let client = |args: &[&str]| as_user(mount.path(), juicefs(), args);
    for args in [
        &["info", "fine", "fine/file", "fine/link"][..],
        &["info", "-r", "fine"],
        &["summary", "fine"],
        &["info", "open"],
    ] {
        client(args).expect_success();
    }
    let ino = |path: &str| fs::symlink_metadata(mount.join(path)).unwrap().ino().to_string();
    for args in [
        &["info", "private"][..],
        &["info", "secret"],
        &["summary", "secret"],
        &["info", "-r", "open"],
        &["info", "-r", "--strict", "open"],
        &["summary", "open"],
        &["summary", "--depth", "0", "open"],
        &["info", "-i", &ino("private")],
        &["info", "-i", &ino("secret/wide")],
        &["info", "-i", &ino("secret/wide/file")],
        &["info", "-i", &ino("open/closed/file")],
    ] {
        let refused = client(args).expect_failure();
        assert!(refused.stderr.contains("ermission denied"), "{args:?}: {refused}");
    }
    // Of a file with two names only the one that the caller can walk to.
    let shown = client(&["info", "open/also"]).expect_success().stdout;
    assert!(shown.contains("/open/also") && !shown.contains("/secret/file"), "{shown}");
    // Root is told everything.
    run_in(mount.path(), &format!("{0} info -r open secret; {0} summary .", juicefs().display())).expect_success();
    mount.unmount();
}

/// Numbers of nodes can be guessed; rights are those of the way to them.
#[test]
fn a_job_is_done_on_what_the_caller_can_walk_to() {
    let volume = Volume::new();
    let mount = prepare(&volume);
    let ino = |path: &str| fs::symlink_metadata(mount.join(path)).unwrap().ino().to_be_bytes();
    let (wide, hidden, open) = (ino("secret/wide"), ino("secret/wide/file"), ino("open"));
    let removal = [&wide[..], b"\x04file"].concat();
    assert_eq!(ask_as_user(&mount, 1002, &removal), "13");
    let copy = [&hidden[..], &wide, &open, b"\x04mine\0\x12\0\x04"].concat();
    assert_eq!(ask_as_user(&mount, 1006, &copy), "13");
    assert_eq!(ask_as_user(&mount, 1008, &[&hidden[..], &[0, 1]].concat()), "13");
    let info = ask_as_user(&mount, 1005, &hidden);
    assert!(info.starts_with("255 ") && info.contains("ermission denied") && !info.contains("wide"), "{info}");
    assert!(ask_as_user(&mount, 1007, &wide).contains("\"Errno\":13"));
    assert!(mount.join("secret/wide/file").exists() && !mount.join("open/mine").exists());
    // What can be reached is done.
    let fine = [&ino("fine/file")[..], &ino("fine"), &open, b"\x04mine\0\x12\0\x04"].concat();
    assert_eq!(ask_as_user(&mount, 1006, &fine), "0");
    assert!(mount.join("open/mine").exists());
    assert_eq!(ask_as_user(&mount, 4711, &[0; 60_000]), "22");
    mount.unmount();
}

/// A mount of a directory is no way to what lies beside it.
#[test]
fn a_mount_of_a_directory_ends_at_its_root() {
    let volume = Volume::new();
    let whole = volume.mount();
    run_in(whole.path(), "mkdir -p sub/own beside; echo text >beside/file; echo text >sub/file").expect_success();
    let part = volume.mount_with("part", &["--subdir", "sub"]);
    let ino = |path: &str| fs::metadata(whole.join(path)).unwrap().ino().to_string();
    let info = |ino: &str| run_in(part.path(), &format!("{} info -i {ino}", juicefs().display()));
    info(&ino("sub/file")).expect_success();
    info(&ino("sub/own")).expect_success();
    info("1").expect_success();
    for outside in ["beside", "beside/file"] {
        info(&ino(outside)).expect_failure();
    }
    part.unmount();
    whole.unmount();
}

/// What goes through a whole tree does not hang on a file that never ends; by its name it is there.
#[test]
fn copying_and_searching_the_root_comes_to_an_end() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), "mkdir dir; echo needle >dir/file").expect_success();
    let copy = volume.dir().join("copy");
    let (from, to) = (mount.path().display().to_string(), copy.display().to_string());
    for script in [
        format!("cp -r {from} {to}; cmp {to}/dir/file {from}/dir/file"),
        format!("grep -r needle {from} | grep -q dir/file"),
        format!("find {from} -type f -exec md5sum {{}} +"),
    ] {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]);
        run_within(command, Duration::from_secs(60)).expect_success();
    }
    let names = run_in(mount.path(), "ls -A").expect_success().stdout;
    assert!(!names.contains(".accesslog") && names.contains(".stats"), "{names}");
    let script = "dd if=.accesslog bs=64k count=3 status=none & sleep 0.5; touch dir/{1..3}; wait $!";
    let log = run_in(mount.path(), script).expect_success().stdout;
    assert!(log.contains("create ("), "the log is there by its name: {log}");
    mount.unmount();
}

/// Internal files keep their rules where the kernel looks at no mode bits.
#[test]
fn internal_files_are_closed_without_the_kernels_check() {
    let volume = Volume::new();
    fs::set_permissions(volume.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = volume.mount_with("mnt", &["--non-default-permission"]);
    let user = |script: &str| as_user(mount.path(), Path::new("bash"), &["-c", script]);
    user("head -c 1 .config").expect_failure();
    user("timeout 5 head -c 1 .accesslog").expect_failure();
    user("head -c 1 .stats").expect_success();
    user(": >>.stats").expect_failure();
    user(": <>.control").expect_success();
    run_in(mount.path(), "head -c 1 .config").expect_success();
    mount.unmount();
}

/// Numbers beyond what there is are as good as the most there is.
#[test]
fn numbers_of_threads_are_bounded_and_not_refused() {
    let volume = Volume::new();
    let mount = volume.mount();
    run_in(mount.path(), "mkdir -p a/b; echo x >a/file").expect_success();
    let client = |line: &str| run_in(mount.path(), &format!("{} {line}", juicefs().display()));
    client("clone --threads 1000 a copy").expect_success();
    client("clone --threads -1 a other").expect_success();
    client("compact --threads 100000 a").expect_success();
    client("compact -p 0 a").expect_success();
    client("rmr -p 0 copy").expect_success();
    client("rmr --threads 1000 other").expect_success();
    let refused = client("clone --threads many a third").expect_failure();
    assert!(refused.stderr.contains("many"), "{refused}");
    mount.unmount();
}
