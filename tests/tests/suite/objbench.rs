//! `juicefs objbench` on a directory and on an S3 server.

use std::{fs, process::Command, time::Duration};

use e2e::{Finished, juicefs, run_within};
use juicefs_testkit::s3::{ACCESS_KEY, S3Server, SECRET_KEY};

const SMALL: [&str; 8] =
    ["--block-size", "1M", "--big-object-size", "4M", "--small-object-size", "4K", "--small-objects", "12"];
const BASIC: [&str; 9] = [
    "create a bucket",
    "put an object",
    "get an object",
    "get non-exist",
    "get partial object",
    "head an object",
    "delete an object",
    "delete non-exist",
    "list objects",
];
const SPEED: [&str; 7] = [
    "upload objects",
    "download objects",
    "put small objects",
    "get small objects",
    "list objects",
    "head objects",
    "delete objects",
];
const OF_FILES: [&str; 3] = ["change permissions", "change owner/group", "update mtime"];

fn objbench(args: &[&str]) -> Finished {
    let mut command = Command::new(juicefs());
    command.arg("objbench").args(args).env_remove("ACCESS_KEY").env_remove("SECRET_KEY");
    run_within(command, Duration::from_secs(280))
}

/// The cells of the line with this title in the part of the output after `part`.
fn line(finished: &Finished, part: &str, title: &str) -> Vec<String> {
    let (_, text) = finished.stdout.split_once(part).unwrap_or_else(|| panic!("no {part:?} in {finished}"));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let found = text.lines().map(cells).find(|cells| cells.iter().any(|cell| cell == title));
    found.unwrap_or_else(|| panic!("no {title:?} in {finished}"))
}

fn verdict(finished: &Finished, title: &str) -> String {
    line(finished, "Start Functional Testing", title).pop().unwrap()
}

fn assert_measured(finished: &Finished, title: &str) {
    let cells = line(finished, "Benchmark finished!", title);
    let unit = if title.ends_with("load objects") { "MiB/s" } else { "objects/s" };
    let per = if title == "list objects" { "ms/op" } else { "ms/object" };
    assert!(cells[1].ends_with(unit) && cells[2].ends_with(per), "{cells:?}");
    let value: f64 = cells[1].split(' ').next().unwrap().parse().unwrap();
    assert!(value > 0.0, "{cells:?}");
}

#[test]
fn a_directory_passes_and_is_left_empty() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let finished = objbench(&[&SMALL[..], &["-p", "3", place]].concat()).expect_success();
    for title in BASIC.iter().chain(&["special key", "put a big object", "put an empty object"]) {
        assert_eq!(verdict(&finished, title), "pass", "{title}: {finished}");
    }
    for title in ["change owner/group", "change permission", "change mtime"] {
        assert_eq!(verdict(&finished, title), "pass", "{title}: {finished}");
    }
    assert_eq!(verdict(&finished, "multipart upload"), "not support");
    SPEED.iter().chain(&OF_FILES).for_each(|title| assert_measured(&finished, title));
    let parameters = "Benchmark finished! block-size: 1.0 MiB, big-object-size: 4.0 MiB, small-object-size: 4.0 KiB, \
                      small-objects: 12, NumThreads: 3";
    assert!(finished.stdout.contains(parameters), "{finished}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
}

#[test]
fn a_bucket_passes_and_is_left_empty() {
    let server = S3Server::start();
    let bucket = server.bucket_url("bench");
    let keys = ["--storage", "s3", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY, &bucket];
    let finished = objbench(&[&SMALL[..], &keys].concat()).expect_success();
    for title in BASIC.iter().chain(&["special key", "put a big object", "put an empty object", "multipart upload"]) {
        assert_eq!(verdict(&finished, title), "pass", "{title}: {finished}");
    }
    for title in ["change owner/group", "change permission", "change mtime"] {
        assert_eq!(verdict(&finished, title), "not support");
    }
    SPEED.iter().for_each(|title| assert_measured(&finished, title));
    for title in OF_FILES {
        assert_eq!(line(&finished, "Benchmark finished!", title)[1..], ["not support", "not support"]);
    }
    // Whatever the server makes of keys as directories: no object is left.
    let left = Command::new("find").arg(server.bucket_dir("bench")).args(["-type", "f"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    let of_class = |class| objbench(&[&SMALL[..], &["--skip-functional-tests", "--sc", class], &keys].concat());
    let quick = of_class("REDUCED_REDUNDANCY").expect_success();
    assert!(!quick.stdout.contains("Functional"), "{quick}");
    SPEED.iter().for_each(|title| assert_measured(&quick, title));
    let refused = of_class("NO_SUCH_CLASS").expect_success();
    assert_eq!(line(&refused, "Benchmark finished!", "upload objects")[1..], ["failed", "failed"]);
    assert!(refused.stderr.contains("InvalidStorageClass"), "{refused}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let server = S3Server::start();
    let bucket = server.bucket_url("bench");
    let wrong = ["--storage", "s3", "--access-key", ACCESS_KEY, "--secret-key", "wrong", &bucket];
    let finished = objbench(&[&SMALL[..], &["--skip-functional-tests"], &wrong].concat()).expect_failure();
    assert!(finished.stderr.contains("can't create bucket") && finished.stderr.contains("--secret-key"), "{finished}");
    // The tables show what fails.
    let finished = objbench(&[&SMALL[..], &wrong].concat()).expect_success();
    assert!(verdict(&finished, "put an object").starts_with("put object failed: "), "{finished}");
    assert_eq!(line(&finished, "Benchmark finished!", "upload objects")[1..], ["failed", "failed"]);
}

#[test]
fn bad_flags_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    for flag in ["--block-size", "--big-object-size", "--small-object-size", "--small-objects", "--threads"] {
        let finished = objbench(&[flag, "0", place]).expect_failure();
        assert!(finished.stderr.contains(&format!("{flag} 0 is not possible")), "{finished}");
    }
    let finished = objbench(&["http://localhost/bucket"]).expect_failure();
    assert!(finished.text().contains("Did you forget to specify the `--storage <type>`?"), "{finished}");
    assert!(finished.stderr.contains("Aborted"), "{finished}");
    let finished = objbench(&["--storage", "ceph", "ceph://pool"]).expect_failure();
    assert!(finished.stderr.contains("\"ceph\" is not supported"), "{finished}");
    let few = ["--skip-functional-tests", "--small-objects", "2", "--big-object-size", "1M", place];
    let finished = objbench(&few).expect_success();
    assert!(finished.stderr.contains("using 1 threads") && finished.stdout.contains("NumThreads: 1"), "{finished}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
}
