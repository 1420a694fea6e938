//! Which crate may depend on which.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::Command,
    time::Duration,
};

use e2e::{run_within, workspace_root};

/// Every crate of the workspace with all workspace crates that it may use in its normal dependencies.
const ALLOWED: &[(&str, &[&str])] = &[
    ("juicefs-core", &[]),
    ("juicefs-tls", &[]),
    ("juicefs-meta", &["juicefs-core", "juicefs-tls"]),
    ("juicefs-chunk", &["juicefs-core", "juicefs-tls"]),
    ("juicefs-vfs", &["juicefs-core"]),
    ("juicefs-fuse", &["juicefs-core", "juicefs-vfs"]),
    ("juicefs-cli", &["juicefs-core", "juicefs-meta", "juicefs-chunk", "juicefs-vfs", "juicefs-fuse"]),
    ("juicefs-testkit", &["juicefs-core"]),
    ("e2e", &["juicefs-testkit"]),
    ("s3-server", &[]),
];

#[derive(serde::Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(serde::Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(serde::Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

fn packages() -> Vec<Package> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(workspace_root());
    let output = run_within(command, Duration::from_secs(60)).expect_success();
    serde_json::from_str::<Metadata>(&output.stdout).unwrap().packages
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let packages = packages();
    let members: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    assert_eq!(members, allowed.keys().copied().collect(), "a crate without a line in ALLOWED, or the reverse");
    for package in &packages {
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            if !members.contains(to) || dependency.kind.as_deref() == Some("dev") {
                continue;
            }
            let from = package.name.as_str();
            assert!(allowed[from].contains(&to), "{from} must not depend on {to}");
        }
    }
}

#[test]
fn dev_dependencies_keep_the_siblings_apart_and_nobody_needs_the_cli() {
    let siblings = ["juicefs-meta", "juicefs-chunk", "juicefs-vfs"];
    for package in packages() {
        let from = package.name.as_str();
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            assert_ne!(to, "juicefs-cli", "{from} depends on the command");
            assert!(from == to || !siblings.contains(&from) || !siblings.contains(&to), "{from} sees its sibling {to}");
            // This package is all tests: it ships nothing.
            if to == "juicefs-testkit" && from != "e2e" {
                assert_eq!(dependency.kind.as_deref(), Some("dev"), "{from} ships the testkit");
            }
        }
    }
}
