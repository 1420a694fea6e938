//! The list of promises is true to the tests: each test that it names is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use e2e::workspace_root;

const LIST: &str = "docs/semantics.md";

/// The Rust files below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The module of a file by its path in the workspace: `crates/juicefs-meta/src/engine/redis.rs` is `meta::engine::redis`.
fn module_of(path: &Path) -> String {
    let parts = path.with_extension("");
    let parts: Vec<&str> = parts.iter().map(|part| part.to_str().unwrap()).collect();
    let (package, inner) = match &parts[..] {
        ["crates", package, "src" | "tests", inner @ ..] => (package.trim_start_matches("juicefs-"), inner),
        ["tests", "src", inner @ ..] => ("e2e", inner),
        ["tests", "tests", package, inner @ ..] => (*package, inner),
        other => ("", other),
    };
    let inner = inner.iter().copied().filter(|part| !["lib", "main"].contains(part));
    std::iter::once(package).chain(inner).collect::<Vec<_>>().join("::")
}

/// The word that `line` begins with after `before`.
fn word_after<'a>(line: &'a str, before: &str) -> Option<&'a str> {
    let rest = line.trim_start().strip_prefix(before)?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|word| !word.is_empty())
}

/// The tests in a source file of `module`, by their whole names. A macro that makes tests has a line `name: ...` for each.
fn tests_in(module: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut inner, mut is_test) = (String::new(), false);
    let makes_tests = text.contains("fn $test()");
    for line in text.lines() {
        let code = line.trim_start();
        if let Some(name) = word_after(line, "mod ").filter(|_| line.ends_with('{')) {
            inner = format!("::{name}");
        } else if line == "}" {
            inner.clear();
        } else if code.starts_with("#[") || code.starts_with("$(#[") {
            is_test |= code.contains("[test]") || code.contains("::test");
        } else if let Some(name) = word_after(code, "fn ").or_else(|| word_after(code, "async fn ")) {
            if is_test {
                found.push(format!("{module}{inner}::{name}"));
            }
            is_test = false;
        } else if makes_tests && let Some((name, _)) = code.split_once(": \"") {
            found.push(format!("{module}{inner}::{name}"));
        }
    }
    found
}

/// Whether `name` means at least one of the tests: its name, the end of it, a module of tests, or any of them before a `*`.
fn is_there(tests: &BTreeSet<String>, name: &str) -> bool {
    let (wanted, is_whole) = match name.strip_suffix('*') {
        Some(begin) => (format!("::{begin}"), false),
        None => (format!("::{name}"), true),
    };
    let is_meant = |test: &str| test.ends_with(&wanted) || test.contains(&format!("{wanted}::"));
    tests.iter().map(|test| format!("::{test}")).any(
        |test| {
            if is_whole { is_meant(&test) } else { test.contains(&wanted) }
        },
    )
}

/// What a text has between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Tests and files that `text` names and that are not there.
fn missing(text: &str, tests: &BTreeSet<String>, is_file: impl Fn(&str) -> bool) -> Vec<String> {
    let is_test_name = |name: &str| {
        name.contains("::") && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:*".contains(c))
    };
    let tests = quoted(text).filter(|name| is_test_name(name) && !is_there(tests, name));
    let files = quoted(text).filter(|name| name.ends_with(".rs") && !is_file(name));
    tests.chain(files).map(str::to_owned).collect()
}

/// Promises of a table whose last cell names no test and does not say that there is none.
fn untested(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_list = false;
    for line in text.lines() {
        is_list = line == "| promise | test |" || (is_list && line.starts_with('|'));
        if !is_list || line.starts_with("|---") || line == "| promise | test |" {
            continue;
        }
        let test = line.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default().trim();
        if test != "-" && !test.contains('`') {
            found.push(line);
        }
    }
    found
}

#[test]
fn every_test_that_is_named_exists() {
    let root = workspace_root();
    let mut tests = BTreeSet::new();
    for path in sources(&root.join("crates")).into_iter().chain(sources(&root.join("tests"))) {
        let text = fs::read_to_string(&path).unwrap();
        tests.extend(tests_in(&module_of(path.strip_prefix(root).unwrap()), &text));
    }
    assert!(tests.contains("suite::promises::every_test_that_is_named_exists"), "tests are not recognised");
    let list = fs::read_to_string(root.join(LIST)).unwrap();
    assert!(quoted(&list).filter(|name| is_there(&tests, name)).count() > 100, "{LIST} is not understood");
    let missing = missing(&list, &tests, |path| root.join(path).is_file());
    assert!(missing.is_empty(), "{LIST} names what is not there:\n{}", missing.join("\n"));
    let untested = untested(&list);
    assert!(untested.is_empty(), "{LIST} has promises without a test:\n{}", untested.join("\n"));
}

#[test]
fn what_is_missing_is_found() {
    let source = "#[test]\n#[ignore = \"slow\"]\nfn holds() {}\nfn plain() {}\nmod tests {\n    #[tokio::test(start_paused = true)]\n    \
        async fn inner() {}\n}\n#[test]\nfn after() {}\n";
    let module = module_of(Path::new("crates/juicefs-meta/src/engine/redis.rs"));
    let tests: BTreeSet<String> = tests_in(&module, source).into_iter().collect();
    let names = ["meta::engine::redis::after", "meta::engine::redis::holds", "meta::engine::redis::tests::inner"];
    assert_eq!(tests.iter().collect::<Vec<_>>(), names);
    assert_eq!(module_of(Path::new("tests/tests/suite/apps/sqlite.rs")), "suite::apps::sqlite");
    assert_eq!(module_of(Path::new("crates/juicefs-chunk/src/store/tests/disks.rs")), "chunk::store::tests::disks");
    assert_eq!(module_of(Path::new("crates/juicefs-meta/tests/conformance/main.rs")), "meta::conformance");
    let text =
        "`redis::holds` `redis::tests::*` `engine::redis` `redis::aft*` `is/there.rs` `a plain word` `std::io::Error`";
    assert_eq!(missing(text, &tests, |path| path == "is/there.rs"), [""; 0]);
    let text = "`redis::hold` `redis::plain` `dis::holds` `rabbit::*` `redis::held*` `gone.rs`";
    assert_eq!(missing(text, &tests, |_| false).len(), 6);
    let rows = "| promise | test |\n|---|---|\n| a | `x` |\n| b | - |\n| c | |\n| d | some day |\n\n| e | f |\n";
    assert_eq!(untested(rows), ["| c | |", "| d | some day |"]);
}
