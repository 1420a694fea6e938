//! Which client is under test.

use std::{env, path::PathBuf, process::Command, sync::OnceLock};

use crate::environment::workspace_root;

/// The client under test: `JUICEFS_BIN`, else the workspace's own, built once per test process.
///
/// # Panics
/// If the named file is not there, or the build fails.
pub fn juicefs() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("JUICEFS_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "JUICEFS_BIN={} is not a file", path.display());
            path
        }
        None => build(),
    })
}

/// Builds the client and takes its place from cargo's own messages, which know about every target directory setting.
fn build() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace_root())
        .args(["build", "--quiet", "--package", "juicefs-cli", "--message-format", "json"])
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "the client does not build: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .find(|path| path.file_name().is_some_and(|name| name == "juicefs"))
        .expect("cargo names the binary that it built")
}
