//! xfstests, the suite that the file systems of the kernel are tested with.

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use e2e::{Outcome, Outcomes, juicefs, run, run_within, workspace_root};

/// Tests of the group `quick` for any file system, but [`ENDLESS`].
const TOTAL: usize = 632;
/// Sets extended attributes until the volume has no room for more, which they do not take from it.
const ENDLESS: &str = "generic/449";
/// Tests that want another mount than the others: one looks for its lock in the table of the kernel, which has those that
/// are not shared with other mounts; two open a file and want its access time to stay, which opening moves where it is kept.
const OTHERWISE: &[&str] = &["generic/392", "generic/468", "generic/504"];
const OTHER_FLAGS: &str = "-o local_lock=all,noatime";
/// Tests that want limits which containers seldom allow, and what succeeds where they are allowed.
const LIMITS: &[(&str, &[&str])] =
    &[("ulimit -f 1024 && ulimit -f 2048", &["generic/394", "generic/564"]), ("ulimit -n 50000", &["generic/531"])];

/// Runs some of the suite and tells how each test ended.
fn xfstests(work: &Path, mount_flags: &str, which: &[&str]) -> Outcomes {
    let suite = env::var("JUICEFS_TEST_XFSTESTS").expect("JUICEFS_TEST_XFSTESTS names the built suite");
    let mut command = Command::new(workspace_root().join("scripts/suites/xfstests.sh"));
    command.arg(juicefs()).arg(suite).arg(work).args(which).env("MOUNT_FLAGS", mount_flags);
    let finished = run_within(command, Duration::from_secs(6000)).expect_success();
    println!("{}", finished.stdout);
    Outcomes::parse(&fs::read_to_string(work.join("outcomes")).expect("outcomes")).expect("a list")
}

#[test]
#[ignore = "scripts/test.sh --full fetches and builds the suite first"]
fn the_quick_group_ends_as_expected() {
    let dir = tempfile::tempdir().unwrap();
    // Ordinary users of the suite go through here.
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let without = OTHERWISE.iter().chain([&ENDLESS]).flat_map(|test| ["-e", *test]);
    let most: Vec<_> = ["-g", "quick"].into_iter().chain(without).collect();
    let mut found = xfstests(&dir.path().join("most"), "", &most);
    found.extend(xfstests(&dir.path().join("others"), OTHER_FLAGS, OTHERWISE));
    let counted = [Outcome::Pass, Outcome::Fail, Outcome::NotRun].map(|outcome| found.count(outcome));
    println!("passed, failed, not run: {counted:?}");
    let mut expected = Outcomes::expected("xfstests");
    for (allowed, tests) in LIMITS {
        if run("bash", ["-c", allowed]).success() {
            expected.must_pass(tests);
        }
    }
    found.assert_as(&expected);
    assert_eq!(counted.iter().sum::<usize>(), TOTAL, "a suite that has less has lost something");
}
