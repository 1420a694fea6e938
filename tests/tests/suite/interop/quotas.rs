//! Quotas: what one client set and counted, the other one lists, checks and enforces.

use std::{fs, path::Path, time::Duration};

use e2e::{Finished, Volume, run_in, wait_until};

use super::{GoMount, run_go};

/// Flags of mounts that take a new quota up within a second.
const QUICK: [&str; 6] = ["--heartbeat", "1", "--attr-cache", "0", "--entry-cache", "0"];
const PATIENCE: Duration = Duration::from_secs(60);

fn command(volume: &Volume, ours: bool, args: &[&str]) -> Finished {
    if ours { volume.juicefs(args) } else { run_go(args, volume.variables()) }
}

/// Runs `work` on a mount of one of the clients.
fn on_mount(volume: &Volume, ours: bool, work: impl FnOnce(&Path)) {
    if ours {
        let mount = volume.mount_with("mnt", &QUICK);
        work(mount.path());
        mount.unmount();
    } else {
        let other = GoMount::start(volume, &QUICK);
        work(&other.point);
        other.unmount();
    }
}

/// Both clients list the same, and find all counts right.
fn compare(volume: &Volume, paths: &[&str]) {
    let url = volume.meta_url();
    let [ours, theirs] = [true, false].map(|ours| command(volume, ours, &["quota", "list", &url]).expect_success());
    assert_eq!(ours.stdout, theirs.stdout);
    assert!(ours.stdout.lines().count() > 4, "{ours}");
    for ours in [true, false] {
        if paths.is_empty() {
            command(volume, ours, &["quota", "check", &url]).expect_success();
        }
        for path in paths {
            command(volume, ours, &["quota", "check", &url, "--path", path]).expect_success();
        }
    }
}

/// Whether nothing more can be made in a directory, once a mount has heard of its quota.
fn is_full(dir: &Path, user: &str) -> bool {
    wait_until(PATIENCE, || {
        let made = run_in(dir, &format!("{user} touch more"));
        if made.success() {
            fs::remove_file(dir.join("more")).unwrap();
        }
        made.text().contains("quota exceeded")
    })
}

#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn quotas_of_directories_are_those_of_the_other_client() {
    for ours_first in [true, false] {
        let volume = Volume::with(&["--trash-days", "0"]);
        let url = volume.meta_url();
        on_mount(&volume, ours_first, |root| {
            run_in(root, "mkdir -p d/inner other; head -c 3000000 /dev/zero > d/before").expect_success();
        });
        let set = |flags: &[&str]| {
            command(&volume, ours_first, &[&["quota", "set", &url], flags].concat()).expect_success();
        };
        set(&["--path", "/d", "--capacity", "1", "--inodes", "8"]);
        set(&["--path", "/d/inner", "--inodes", "3"]);
        set(&["--path", "/other", "--capacity", "2"]);
        let paths = ["/d", "/d/inner", "/other"];
        compare(&volume, &paths);
        on_mount(&volume, ours_first, |root| {
            let script = "touch d/inner/1 d/inner/2 d/inner/3; head -c 100000 /dev/zero > d/inner/1; mv d/before other/; rm d/inner/2;
                ln -s x d/link; mkdir d/sub; head -c 5000 /dev/zero > d/sub/f; truncate -s 100 d/sub/f";
            run_in(root, script).expect_success();
        });
        compare(&volume, &paths);
        on_mount(&volume, !ours_first, |root| {
            run_in(root, "touch d/inner/4; head -c 70000 /dev/zero > d/inner/4; rm d/link; touch d/5").expect_success();
            assert!(is_full(&root.join("d/inner"), ""), "beyond 3 inodes");
            run_in(root, "touch d/6").expect_success();
            assert!(is_full(&root.join("d"), ""), "beyond 8 inodes");
        });
        compare(&volume, &paths);
        command(&volume, !ours_first, &["quota", "delete", &url, "--path", "/other"]).expect_success();
        compare(&volume, &paths[..2]);
    }
}

#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn quotas_of_users_and_groups_are_those_of_the_other_client() {
    let user = "setpriv --reuid 1000 --regid 1001 --clear-groups";
    for ours_first in [true, false] {
        let volume = Volume::with(&["--trash-days", "0"]);
        let url = volume.meta_url();
        on_mount(&volume, ours_first, |root| {
            run_in(root, "mkdir -m 777 d; head -c 30000 /dev/zero > d/old; chown 1000:1001 d/old").expect_success();
        });
        command(&volume, ours_first, &["config", &url, "--user-group-quota", "--yes"]).expect_success();
        let set = |flags: &[&str]| {
            command(&volume, ours_first, &[&["quota", "set", &url], flags].concat()).expect_success();
        };
        set(&["--uid", "1000", "--inodes", "4"]);
        set(&["--gid", "1001", "--capacity", "1"]);
        compare(&volume, &[]);
        on_mount(&volume, ours_first, |root| {
            run_in(root, &format!("{user} sh -c 'touch d/a d/b; head -c 200000 /dev/zero > d/a'; chown 0 d/b"))
                .expect_success();
        });
        compare(&volume, &[]);
        on_mount(&volume, !ours_first, |root| {
            run_in(root, &format!("{user} touch d/e d/f")).expect_success();
            assert!(is_full(&root.join("d"), user), "beyond 4 inodes");
        });
        compare(&volume, &[]);
    }
}
