//! Tools that do everything at once: nothing may hang, the client has to live, and the volume has to be sound after it.
//!
//! They find what nobody thought of; each finding gets a test of its own elsewhere.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use e2e::{Mount, Outcome, Outcomes, Rest, Volume, full, run, run_into, seed_of};

use crate::posix::native_mount;

const FSSTRESS_PROCESSES: u32 = 4;
/// Of each process in a round.
const FSSTRESS_OPERATIONS: u32 = 1000;
const FSSTRESS_TIME: Duration = Duration::from_secs(600);
/// A round takes some seconds.
const ROUND_LIMIT: Duration = Duration::from_secs(300);

/// Of each program of stress-ng.
const STRESSOR_INSTANCES: &str = "2";
const STRESSOR_TIME_S: &str = "4";
/// Of one that has done nothing in that time.
const STRESSOR_LONG_TIME_S: &str = "60";
/// Some make ten thousands of files before they look at the clock, and remove them after it.
const STRESSOR_LIMIT: Duration = Duration::from_secs(400);

fn stress_time() -> Duration {
    let seconds = env::var("JUICEFS_TEST_STRESS_S").ok().map(|text| text.parse().expect("a number of seconds"));
    let time = seconds.map_or(FSSTRESS_TIME, Duration::from_secs);
    assert!(full() || time < FSSTRESS_TIME, "without JUICEFS_TEST_FULL=1 a mount is ended after ten minutes");
    time
}

fn mounted() -> (Volume, Mount) {
    let volume = Volume::with(&["--trash-days", "0", "--enable-acl"]);
    let mount = native_mount(&volume);
    (volume, mount)
}

/// Everything below `dir` can be looked at; returns how many entries those are.
fn count_entries(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    let below = |path: PathBuf, is_dir: bool| if is_dir { 1 + count_entries(&path) } else { 1 };
    entries.map(|entry| entry.unwrap()).map(|entry| below(entry.path(), entry.metadata().unwrap().is_dir())).sum()
}

/// The program of LTP and that of xfstests in turn: the second knows more operations, the first does fewer more often.
fn fsstress(round: u64, place: &Path) -> Command {
    let below = |variable: &str, path: &str| {
        let root = env::var_os(variable).unwrap_or_else(|| panic!("{variable} names the built suite"));
        Command::new(Path::new(&root).join(path))
    };
    let mut command = if round.is_multiple_of(2) {
        let mut command = below("JUICEFS_TEST_LTP", "testcases/kernel/fs/fsstress/fsstress");
        // Without it everything is removed at the end.
        command.arg("-c");
        command
    } else {
        below("JUICEFS_TEST_XFSTESTS", "ltp/fsstress")
    };
    command.args(["-p", &FSSTRESS_PROCESSES.to_string(), "-n", &FSSTRESS_OPERATIONS.to_string()]);
    command.args(["-s", &round.to_string(), "-d"]).arg(place);
    command
}

#[test]
#[ignore = "scripts/test.sh --full builds fsstress first; it takes ten minutes"]
fn fsstress_leaves_a_sound_volume() {
    let time = stress_time();
    let (volume, mount) = mounted();
    let output = volume.dir().join("fsstress.out");
    let started = Instant::now();
    let first = seed_of("fsstress", 1);
    let mut round = first;
    while started.elapsed() < time {
        let place = mount.join(format!("round-{round}"));
        let ended = run_into(&output, fsstress(round, &place), ROUND_LIMIT);
        let said = fs::read_to_string(&output).unwrap_or_default();
        assert!(ended.is_some_and(|status| status.success()), "seed {round} ended with {ended:?}:\n{said}");
        count_entries(&place);
        if round > first {
            fs::remove_dir_all(mount.join(format!("round-{}", round - 1))).unwrap();
        }
        round += 1;
    }
    println!("{} rounds of fsstress", round - first);
    mount.unmount();
    // What the last round left is still there.
    volume.assert_sound(Rest::Clean);
}

/// The names of what stress-ng does to file systems.
fn stressors() -> Vec<String> {
    let finished = run("stress-ng", ["--class", "filesystem?"]);
    let text = finished.text();
    let (_, names) = text.split_once("stressors:").unwrap_or_else(|| panic!("no list of stressors: {text}"));
    names.split_whitespace().map(str::to_owned).collect()
}

fn stress(name: &str, time_s: &str, place: &Path, outputs: &Path) -> Outcome {
    let metrics = outputs.join(format!("{name}.yaml"));
    let mut command = Command::new("stress-ng");
    command.arg(format!("--{name}")).args([STRESSOR_INSTANCES, "--timeout", time_s, "--verify", "--verbose"]);
    command.arg("--temp-path").arg(place).arg("--yaml").arg(&metrics).current_dir(place);
    let ended = run_into(&outputs.join(name), command, STRESSOR_LIMIT);
    // It has to answer, and what is left there has to be readable.
    count_entries(place);
    match ended.map(|status| status.code()) {
        // What it needs is not supported.
        Some(Some(0)) if operations_in(&metrics) == 0 => Outcome::NotRun,
        Some(Some(0)) => Outcome::Pass,
        // What it needs is not there, or it does not dare to.
        Some(Some(1 | 3 | 4)) => Outcome::NotRun,
        _ => Outcome::Fail,
    }
}

/// How much a program of stress-ng has done, in its own measure.
fn operations_in(metrics: &Path) -> u64 {
    let text = fs::read_to_string(metrics).unwrap_or_default();
    let counts = text.lines().filter_map(|line| line.trim().strip_prefix("bogo-ops:"));
    counts.map(|count| count.trim().parse::<u64>().unwrap_or_else(|_| panic!("no number in {text}"))).sum()
}

#[test]
#[ignore = "scripts/test.sh --full installs stress-ng first"]
fn the_file_system_stressors_find_nothing() {
    let expected = Outcomes::expected("stress-ng");
    let (volume, mount) = mounted();
    let place = mount.join("stress");
    fs::create_dir(&place).unwrap();
    let outputs = volume.dir().join("outputs");
    fs::create_dir(&outputs).unwrap();
    let mut lines = Vec::new();
    for name in stressors() {
        let started = Instant::now();
        let mut outcome = stress(&name, STRESSOR_TIME_S, &place, &outputs);
        if outcome == Outcome::NotRun {
            // What it counts as one operation may take longer on a busy machine.
            outcome = stress(&name, STRESSOR_LONG_TIME_S, &place, &outputs);
        }
        println!("{name}: {outcome} after {:?}", started.elapsed());
        if outcome != Outcome::Pass {
            println!("{}", fs::read_to_string(outputs.join(&name)).unwrap_or_default());
        }
        lines.push(format!("{name} {outcome}"));
    }
    Outcomes::parse(&lines.join("\n")).unwrap().assert_as(&expected);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
