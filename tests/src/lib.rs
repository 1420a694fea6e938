//! The harness of the end-to-end tests: fresh volumes, real mounts, and what tests need to judge them.
//!
//! It owns processes and directories and gives them back: a [`Mount`] that is dropped is unmounted and its client
//! is gone, also when the test panics. It holds no expectation about the file system; those are in `tests/suite/`.
//!
//! Settings come from the environment, and `scripts/test.sh` sets them:
//! - `JUICEFS_BIN`: the client under test. Without it the workspace's own binary is built once.
//! - `JUICEFS_TEST_META`: where volumes lie if a test does not say it: `sqlite3` (default), `redis` (each volume has
//!   a server of its own), or `redis-cluster` (the volumes share a cluster).
//! - `JUICEFS_TEST_REDIS`: another server program than `redis-server`.
//! - `JUICEFS_TEST_S3_SERVER`: the binary of `s3-server`, which is built otherwise.
//! - `JUICEFS_TEST_FULL=1`: the long variants (more rounds, more files, larger data).
//! - `JUICEFS_TEST_SEED`: replays a random test; each one prints the seed that it used.
//! - `JUICEFS_TEST_TOOLS`: the folder of `pjdfstest` and `fsx`.
//! - `JUICEFS_TEST_PJDFSTEST`, `JUICEFS_TEST_XFSTESTS`, `JUICEFS_TEST_LTP`: the folders of suites that are built from
//!   their sources.
//! - `JUICEFS_TEST_STRESS_S`: how many seconds fsstress runs, instead of ten minutes.
//! - `JFS_GOLDEN`: the folder of the golden volumes.

mod audit;
mod binary;
mod command;
mod disk;
mod environment;
mod expected;
mod golden;
mod mount;
mod pattern;
mod tree;
mod volume;

pub use audit::Rest;
pub use binary::juicefs;
pub use command::{Finished, children_of, kill_tree, run, run_in, run_into, run_within, wait_until};
pub use disk::{Hang, HangingDisk, SmallDisk};
pub use environment::{drop_kernel_caches, full, golden_dir, keep_kernel_caches, seed_of, test_tool, workspace_root};
pub use expected::{Outcome, Outcomes};
pub use golden::{GoldenVolume, verify};
pub use mount::{Mount, is_mounted};
pub use pattern::{BLOCK_SIZE_BYTES, Owner, Pattern, judge_block};
pub use tree::{Entry, snapshot};
pub use volume::{Meta, Volume};
