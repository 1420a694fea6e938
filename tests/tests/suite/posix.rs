//! The POSIX suite of the file system community.

use std::{fs, process::Command, time::Duration};

use e2e::{Finished, Mount, Rest, Volume, run, run_within, test_tool, workspace_root};

/// All tests of pjdfstest 0.2.2.
const TOTAL: usize = 398;
/// 13 tests that remount, and one that needs a limit on links.
const SKIPPED: usize = 14;

/// A mount as a native file system would be: set-id bits and device nodes work.
pub(crate) fn native_mount(volume: &Volume) -> Mount {
    let mount = volume.mount_with("mnt", &["--enable-xattr", "--enable-ioctl", "--skip-dir-mtime", "0"]);
    run("mount", ["-i", "-o", "remount,bind,suid,dev", &mount.path().to_string_lossy()]).expect_success();
    mount
}

fn pjdfstest(mount: &Mount, volume: &Volume) -> Finished {
    // Tests of EXDEV rename to a second file system.
    let other = volume.dir().join("other");
    fs::create_dir(&other).unwrap();
    let mut command = Command::new(test_tool("pjdfstest"));
    command.arg("-c").arg(workspace_root().join("tests/expected/pjdfstest.toml"));
    command.arg("-s").arg(&other).arg("-p").arg(mount.path());
    run_within(command, Duration::from_secs(300))
}

#[test]
fn pjdfstest_finds_nothing_unexpected() {
    let volume = Volume::new();
    let mount = native_mount(&volume);
    let finished = pjdfstest(&mount, &volume);
    let interesting = finished.stdout.lines().filter(|line| !line.trim_end().ends_with("ok"));
    println!("{}", interesting.collect::<Vec<_>>().join("\n"));
    let finished = finished.expect_success();
    let summary = finished.stdout.lines().rfind(|line| line.contains("total")).unwrap();
    // A suite that skips more than it did has lost something.
    assert!(summary.contains(&format!("{SKIPPED} skipped")), "{summary}");
    assert!(summary.contains(&format!("{TOTAL} total")), "{summary}");
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// The older suite, of shell scripts around a program in C: 8,798 checks, of which every one has to pass.
#[test]
#[ignore = "scripts/test.sh --full fetches and builds the suite first"]
fn the_suite_in_c_passes() {
    let suite = std::env::var("JUICEFS_TEST_PJDFSTEST").expect("JUICEFS_TEST_PJDFSTEST names the built suite");
    let volume = Volume::new();
    let mount = native_mount(&volume);
    let mut command = Command::new("prove");
    command.args(["-j", "4", "-r"]).arg(format!("{suite}/tests")).current_dir(mount.path());
    let finished = run_within(command, Duration::from_secs(1200)).expect_success();
    let summary = finished.stdout.lines().rfind(|line| line.starts_with("Files=")).unwrap_or_default();
    assert!(summary.starts_with("Files=238, Tests=8798,"), "a suite that checks less has lost something: {summary}");
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
