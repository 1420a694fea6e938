//! The tests that Python has for its own modules around files, with their temporary files on a mount.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use e2e::{Rest, Volume, run, run_within};

use crate::posix::native_mount;

const MODULES: &[&str] = &[
    "test_os",
    "test_shutil",
    "test_tempfile",
    "test_pathlib",
    "test_posix",
    "test_fcntl",
    "test_mmap",
    "test_file",
    "test_fileio",
    "test_glob",
    "test_filecmp",
    "test_tarfile",
    "test_mailbox",
    "test_dbm",
];

const USERS: [&str; 2] = ["root", "tests"];

/// Runs test modules as `python3 -m test` does, and writes down what became of each test.
const RUNNER: &str = r#"
import json, sys, unittest
from test import support
from test.support import os_helper

support.use_resources = []
ORDER = ["ok", "skipped", "failed"]
outcomes = {}

class Result(unittest.TestResult):
    def note(self, test, outcome, detail=""):
        name = getattr(test, "test_case", test).id()
        known = outcomes.get(name)
        if known is None or ORDER.index(outcome) > ORDER.index(known[0]):
            outcomes[name] = [outcome, detail]

    def addSuccess(self, test):
        self.note(test, "ok")

    def addExpectedFailure(self, test, error):
        self.note(test, "ok")

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addFailure(self, test, error):
        self.note(test, "failed", self._exc_info_to_string(error, test))

    def addError(self, test, error):
        self.addFailure(test, error)

    def addUnexpectedSuccess(self, test):
        self.note(test, "failed", "it should have failed")

    def addSubTest(self, test, part, error):
        if error is not None:
            self.addFailure(test, error)

with os_helper.temp_cwd():
    for name in sys.argv[2:]:
        unittest.defaultTestLoader.loadTestsFromName("test." + name).run(Result())
with open(sys.argv[1], "w") as out:
    json.dump(outcomes, out)
"#;

/// What became of each test (`ok`, `skipped` or `failed`), with the reason.
type Outcomes = BTreeMap<String, (String, String)>;

/// Runs all modules as `user` with everything that they make below `dir`.
fn outcomes(volume: &Volume, user: &str, dir: &Path, name: &str) -> Outcomes {
    fs::create_dir(dir).unwrap();
    let written = volume.dir().join(format!("{name}.json"));
    fs::write(&written, "").unwrap();
    run("chown", [user, &dir.to_string_lossy(), &written.to_string_lossy()]).expect_success();
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
    // That of the system, since another one may lie where only its owner can read.
    command.args(["/usr/bin/python3", "-B", "-c", RUNNER]).arg(&written).args(MODULES);
    command.current_dir(dir).env("TMPDIR", dir).env("HOME", dir).env("LC_ALL", "C.UTF-8");
    run_within(command, Duration::from_secs(1500)).expect_success();
    serde_json::from_str(&fs::read_to_string(&written).unwrap()).unwrap()
}

/// Whatever passes on the local file system passes here, for root and for an ordinary user.
#[test]
#[ignore = "scripts/test.sh --full installs Python's tests first"]
fn its_own_tests_pass_as_on_a_local_file_system() {
    let volume = Volume::new();
    run("chmod", ["755", &volume.dir().to_string_lossy()]).expect_success();
    let locally = |user| outcomes(&volume, user, &volume.dir().join(user), &format!("local-{user}"));
    let local = USERS.map(locally);
    let mount = native_mount(&volume);
    let mut faults = Vec::new();
    for (user, local) in USERS.into_iter().zip(local) {
        let here = outcomes(&volume, user, &mount.join(user), &format!("mount-{user}"));
        let passed = |outcomes: &Outcomes| outcomes.values().filter(|(outcome, _)| outcome == "ok").count();
        println!("as {user}: {} tests, {} pass locally, {} here", local.len(), passed(&local), passed(&here));
        assert!(passed(&local) > 1000, "Python has more tests than that");
        for (test, (outcome, _)) in &local {
            let missing = ("missing".to_owned(), String::new());
            let (seen, detail) = here.get(test).unwrap_or(&missing);
            if outcome == "ok" && seen != "ok" {
                faults.push(format!("{test} as {user}: {seen}\n{detail}"));
            }
        }
    }
    assert!(faults.is_empty(), "{} tests pass on a local file system only:\n{}", faults.len(), faults.join("\n"));
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
