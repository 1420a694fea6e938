//! Random reads and writes of single files, judged by the tools that others trust.

use std::{process::Command, time::Duration};

use e2e::{Rest, Volume, drop_kernel_caches, full, run_within, seed_of, test_tool, workspace_root};

/// Reads and writes by calls and by mappings, cuts, holes and copies, as `tests/expected/fsx.toml` weighs them.
fn fsx_operations() -> u32 {
    if full() { 100_000 } else { 20_000 }
}

fn fsx(volume: &Volume, mount_flags: &[&str], seeds: u64) {
    let mount = volume.mount_with("mnt", mount_flags);
    let first = seed_of("fsx", 1);
    for seed in first..first + seeds {
        let mut command = Command::new(test_tool("fsx"));
        command.arg("-f").arg(workspace_root().join("tests/expected/fsx.toml"));
        command.args(["-N", &fsx_operations().to_string(), "-S", &seed.to_string(), "-P"]).arg(volume.dir());
        command.arg(mount.join(format!("fsx-{seed}")));
        println!("fsx seed {seed}");
        run_within(command, Duration::from_secs(if full() { 900 } else { 300 })).expect_success();
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn fsx_agrees() {
    fsx(&Volume::new(), &["--enable-ioctl"], if full() { 5 } else { 2 });
}

/// Small blocks, compression and no cache: most reads cross a block's edge and come from the store.
#[test]
fn fsx_agrees_on_small_compressed_blocks() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "64K", "--compress", "lz4"]);
    fsx(&volume, &["--cache-size", "0"], if full() { 3 } else { 1 });
}

#[test]
fn fio_reads_back_what_it_wrote() {
    let volume = Volume::new();
    let mount = volume.mount();
    let size = if full() { "256m" } else { "64m" };
    let fio = |extra: &[&str]| {
        let mut command = Command::new("fio");
        command.args(["--name=verify", "--rw=randwrite", "--bs=64k", "--numjobs=2", "--verify=crc32c"]);
        command.args(["--verify_fatal=1", "--fsync=32", "--randseed=7", "--group_reporting", "--verify_state_save=0"]);
        command.arg(format!("--size={size}")).arg(format!("--directory={}", mount.path().display())).args(extra);
        run_within(command, Duration::from_secs(600)).expect_success()
    };
    fio(&["--do_verify=1"]);
    drop_kernel_caches(3);
    // The same files once more, past the page cache and after a remount.
    mount.unmount();
    let mount = volume.mount();
    let mut command = Command::new("fio");
    command.args(["--name=verify", "--rw=randwrite", "--bs=64k", "--numjobs=2", "--verify=crc32c", "--verify_fatal=1"]);
    command.args(["--fsync=32", "--randseed=7", "--group_reporting", "--verify_only=1", "--verify_state_save=0"]);
    command.arg(format!("--size={size}")).arg(format!("--directory={}", mount.path().display()));
    run_within(command, Duration::from_secs(600)).expect_success();
    mount.unmount();
}

/// Blocks that are rewritten again and again, with mixed sizes: long slice lists and their compaction.
#[test]
fn fio_overwrites_are_read_back() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "256K", "--compress", "zstd"]);
    let mount = volume.mount_with("mnt", &["--cache-size", "16"]);
    let mut command = Command::new("fio");
    command.args([
        "--name=over",
        "--rw=randwrite",
        "--bsrange=512-200k",
        "--bs_unaligned=1",
        "--size=8m",
        "--io_size=48m",
    ]);
    command.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--fsync=8",
        "--randseed=11",
        "--do_verify=1",
        "--norandommap=0",
        "--verify_state_save=0",
    ]);
    command.arg(format!("--directory={}", mount.path().display()));
    run_within(command, Duration::from_secs(600)).expect_success();
    mount.unmount();
}
