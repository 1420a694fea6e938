//! What the environment says about this run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

/// The kernel's caches are those of the whole machine, and so of the tests that run beside.
static KERNEL_CACHES: RwLock<()> = RwLock::new(());

/// Whether the long variants of the tests were asked for (`scripts/test.sh --full`).
pub fn full() -> bool {
    env::var_os("JUICEFS_TEST_FULL").is_some_and(|value| value == "1")
}

/// The folder that holds the workspace's `Cargo.toml`.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("invariant: the tests package lies inside the workspace")
}

/// The folder of the golden volumes: `JFS_GOLDEN`, else `../shared/golden` beside the repository.
///
/// # Panics
/// If there is none: without it the tests of the volume format would say nothing.
pub fn golden_dir() -> PathBuf {
    let dir = env::var_os("JFS_GOLDEN").map_or_else(|| workspace_root().join("../shared/golden"), PathBuf::from);
    assert!(dir.join("verify.py").is_file(), "no golden volumes in {}: set JFS_GOLDEN", dir.display());
    dir
}

/// The path of a test tool that `scripts/test.sh` installs.
///
/// # Panics
/// If it is not there: a suite that does not run must not look like one that passes.
pub fn test_tool(name: &str) -> PathBuf {
    let dir =
        env::var_os("JUICEFS_TEST_TOOLS").map_or_else(|| workspace_root().join("target/tools/bin"), PathBuf::from);
    let path = dir.join(name);
    assert!(path.is_file(), "{} is missing: run scripts/test.sh, or set JUICEFS_TEST_TOOLS", path.display());
    path
}

/// The seed of a random test: `JUICEFS_TEST_SEED`, else `default`. Printed, so that a failure can be replayed.
pub fn seed_of(test: &str, default: u64) -> u64 {
    let seed = match env::var("JUICEFS_TEST_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("JUICEFS_TEST_SEED={text} is not a number")),
        Err(_) => default,
    };
    println!("{test}: seed {seed}");
    seed
}

/// Makes the kernel drop its caches: 1 for pages, 3 for names and inodes too. Waits for those who need them kept.
pub fn drop_kernel_caches(kinds: u8) {
    let _alone = KERNEL_CACHES.write().unwrap_or_else(PoisonError::into_inner);
    fs::write("/proc/sys/vm/drop_caches", kinds.to_string()).expect("the tests run as root");
}

/// No test makes the kernel drop its caches as long as this is held.
pub fn keep_kernel_caches() -> RwLockReadGuard<'static, ()> {
    KERNEL_CACHES.read().unwrap_or_else(PoisonError::into_inner)
}
