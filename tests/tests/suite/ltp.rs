//! The system calls of a file system, judged by the Linux Test Project.
//!
//! `scripts/suites/ltp.sh` builds the suite. What may fail or not run is in `tests/expected/ltp.txt`.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use e2e::{Mount, Outcome, Outcomes, Rest, Volume, run_into, workspace_root};

use crate::posix::native_mount;

/// Tests of the folders that are built, without those of [`OWN_DEVICE`]. One that is missing was not built, or is lost.
const TOTAL: usize = 441;

/// What the source of a test has that makes a file system of its own, on a loop device, and says nothing about ours.
const OWN_DEVICE: [&str; 6] =
    [".all_filesystems", ".mount_device", ".needs_device", ".format_device", ".dev_min_size", "tst_acquire_device"];

/// The suite ends its tests itself long before.
const TEST_LIMIT: Duration = Duration::from_secs(600);

/// One line of `runtest/syscalls`.
struct Case {
    name: String,
    command: String,
    folder: PathBuf,
}

struct Suite {
    root: PathBuf,
    folders: Vec<PathBuf>,
}

impl Suite {
    fn of_this_run() -> Self {
        let root = PathBuf::from(env::var_os("JUICEFS_TEST_LTP").expect("JUICEFS_TEST_LTP names the built suite"));
        let list = fs::read_to_string(workspace_root().join("scripts/suites/ltp-folders.txt")).unwrap();
        let syscalls = root.join("testcases/kernel/syscalls");
        let folders = list.lines().filter(|line| !line.starts_with('#')).map(|name| syscalls.join(name)).collect();
        Self { root, folders }
    }

    fn cases(&self) -> Vec<Case> {
        let list = fs::read_to_string(self.root.join("runtest/syscalls")).unwrap();
        list.lines().filter_map(|line| self.case(line)).collect()
    }

    /// The test of a line, when it was built and is about the file system that it finds.
    fn case(&self, line: &str) -> Option<Case> {
        let (name, command) = line.split_once(char::is_whitespace).filter(|(name, _)| !name.starts_with('#'))?;
        let program = command.split_whitespace().next()?;
        let folder = self.folders.iter().find(|folder| folder.join(program).is_file())?;
        // The variant for large files on 32 bits is built from the same source.
        let source = [program, program.trim_end_matches("_64")].map(|stem| folder.join(format!("{stem}.c")));
        let text = source.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let own_device = OWN_DEVICE.iter().any(|sign| text.contains(sign));
        (!own_device).then(|| Case { name: name.to_owned(), command: command.to_owned(), folder: folder.clone() })
    }

    /// The command of a test, as the suite's own runner would start it.
    fn command(&self, case: &Case, place: &Path) -> Command {
        let mut command = Command::new("bash");
        // It looks for its data files where it starts, and works in a directory that it makes in `place`.
        command.args(["-c", &case.command]).current_dir(&case.folder);
        // Tests start helper programs by their names.
        let own_path = env::var_os("PATH").unwrap_or_default();
        let lib = [self.root.join("testcases/lib")];
        let path = lib.into_iter().chain(self.folders.iter().cloned()).chain(env::split_paths(&own_path));
        command.env("PATH", env::join_paths(path).unwrap());
        command.env("TMPDIR", place).env("LTPROOT", &self.root);
        command.envs([("LTP_COLORIZE_OUTPUT", "n"), ("LTP_TIMEOUT_MUL", "4")]);
        command
    }
}

/// A place for the suite on a mount, and what is kept of each test outside of it.
struct Judge<'a> {
    suite: &'a Suite,
    mount: &'a Mount,
    place: PathBuf,
    outputs: PathBuf,
}

impl<'a> Judge<'a> {
    fn new(suite: &'a Suite, volume: &Volume, mount: &'a Mount) -> Self {
        let place = mount.join("tmp");
        fs::create_dir(&place).unwrap();
        // Some tests go on as another user.
        fs::set_permissions(&place, fs::Permissions::from_mode(0o1777)).unwrap();
        let outputs = volume.dir().join("outputs");
        fs::create_dir(&outputs).unwrap();
        Self { suite, mount, place, outputs }
    }

    fn output(&self, case: &Case) -> PathBuf {
        self.outputs.join(&case.name)
    }

    fn outcome(&self, case: &Case) -> Outcome {
        let ended = run_into(&self.output(case), self.suite.command(case, &self.place), TEST_LIMIT);
        match ended.map(|status| status.code()) {
            Some(Some(0)) => Outcome::Pass,
            // What it needs is not there.
            Some(Some(32)) => Outcome::NotRun,
            _ => {
                self.assert_alive(case);
                Outcome::Fail
            }
        }
    }

    /// Runs a test, once more if it fails: some measure time, and fail when the machine is busy with other things.
    /// Returns its line for the list of outcomes.
    fn line(&self, case: &Case) -> String {
        let mut outcome = self.outcome(case);
        if outcome == Outcome::Fail {
            println!("{} once more, after:\n{}", case.name, self.said(case));
            outcome = self.outcome(case);
        }
        let said = if outcome == Outcome::Pass { String::new() } else { self.said(case) };
        format!("{} {outcome} {}", case.name, said.lines().next().unwrap_or_default())
    }

    /// A client that died or hangs fails whatever comes after: then only the first failure says something.
    fn assert_alive(&self, case: &Case) {
        let mut look = Command::new("stat");
        look.arg("--file-system").arg(self.mount.path());
        let alive = run_into(&self.outputs.join(".alive"), look, Duration::from_secs(60));
        let alive = alive.is_some_and(|status| status.success());
        assert!(alive, "the client does not answer after {}:\n{}", case.name, self.said(case));
    }

    /// What a test has said, as far as it says why.
    fn said(&self, case: &Case) -> String {
        let text = fs::read(self.output(case)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("TINFO") && !line.contains("TPASS")).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Whether root may go beyond limits of resources, as it may not in most containers.
fn may_exceed_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("the rights of this process");
    u64::from_str_radix(mask.trim(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

#[test]
#[ignore = "scripts/test.sh --full fetches and builds the suite first"]
fn the_system_call_tests_pass() {
    let mut expected = Outcomes::expected("ltp");
    if !may_exceed_limits() {
        expected.extend(Outcomes::expected("ltp-confined"));
    }
    let suite = Suite::of_this_run();
    let volume = Volume::with(&["--trash-days", "0", "--enable-acl"]);
    let mount = native_mount(&volume);
    let judge = Judge::new(&suite, &volume, &mount);
    let lines: Vec<String> = suite.cases().iter().map(|case| judge.line(case)).collect();
    let found = Outcomes::parse(&lines.join("\n")).unwrap();
    println!("{} passed, {} did not run", found.count(Outcome::Pass), found.count(Outcome::NotRun));
    found.assert_as(&expected);
    assert_eq!(lines.len(), TOTAL, "a suite that runs less has lost something");
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
