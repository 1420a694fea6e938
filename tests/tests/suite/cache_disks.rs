//! A cache disk that hangs under a mount: nobody meets an error for it but who wants what is nowhere else, and it is taken
//! back when it answers.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use e2e::{HangingDisk, Mount, Owner, Pattern, Rest, Volume, wait_until};

const LENGTH: usize = 300_000;
/// `JFS_MAX_IO_DURATION` of these mounts.
const LONGEST: Duration = Duration::from_secs(8);

fn content(file: u64) -> Vec<u8> {
    Pattern::of(Owner { run: 53, file, version: 1 }).bytes(LENGTH)
}

fn path(mount: &Mount, number: u64) -> std::path::PathBuf {
    mount.join(format!("f{number}"))
}

fn write_synced(mount: &Mount, files: std::ops::Range<u64>) {
    for number in files {
        let mut file = File::create(path(mount, number)).unwrap();
        file.write_all(&content(number)).unwrap();
        file.sync_all().unwrap();
    }
}

fn check(mount: &Mount, files: std::ops::Range<u64>) {
    for number in files {
        assert!(fs::read(path(mount, number)).unwrap() == content(number), "file {number} is damaged");
    }
}

/// A volume whose mounts find a disk slow after [`LONGEST`].
fn impatient(mut volume: Volume) -> Volume {
    volume.set_variable("JFS_MAX_IO_DURATION", &format!("{}s", LONGEST.as_secs()));
    volume
}

fn mount_on(volume: &Volume, cache: &Path, flags: &[&str]) -> Mount {
    let flags = [flags, &["--free-space-ratio", "0.01", "--attr-cache", "3600", "--entry-cache", "3600"]].concat();
    Mount::start_at(&volume.meta_url(), volume.dir(), "mnt", cache, &flags, volume.variables())
}

/// What the kernel still has of files and directories goes.
fn drop_kernel_caches() {
    // Only what is written can go. Not `sync`: it would wait for every disk of the machine.
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// While the disk hangs the store comes back: what is staged cannot be read, is kept, and goes up by itself once the disk
/// answers.
#[test]
fn what_is_staged_on_a_disk_that_hung_is_uploaded() {
    let volume = impatient(Volume::with_objects_on_s3(&["--trash-days", "0", "--block-size", "1M"]));
    let cache = volume.dir().join("disk");
    fs::create_dir(&cache).unwrap();
    let disk = HangingDisk::mount(&cache, 128);
    // Without retries the bytes are read from the disk for each try.
    let mount = mount_on(&volume, &cache, &["--writeback", "--io-retries", "0"]);
    volume.object_server().kill();
    write_synced(&mount, 0..10);
    assert_eq!(mount.stat("staging_blocks"), 10.0);
    let hang = disk.hang();
    drop_kernel_caches();
    volume.object_server().restart();
    let failed = wait_until(Duration::from_secs(120), || mount.stat("blockcache_disk_errors") >= 3.0);
    assert!(failed, "nobody has asked the disk:\n{}", mount.log());
    write_synced(&mount, 10..12);
    drop(hang);
    let uploaded = wait_until(Duration::from_secs(120), || mount.stat("staging_blocks") == 0.0);
    assert!(uploaded, "{} blocks stay:\n{}", mount.stat("staging_blocks"), mount.log());
    let elsewhere = volume.mount_with("elsewhere", &["--cache-size", "0"]);
    check(&elsewhere, 0..12);
    elsewhere.unmount();
    mount.unmount();
    volume.assert_sound(Rest::Clean);
    drop(disk);
}

/// Reads that find the disk slow wait for it once and then ask the store; after a few of them the others do so at once.
#[test]
fn reads_and_writes_go_on_beside_a_disk_that_hangs() {
    let volume = impatient(Volume::with(&["--trash-days", "0"]));
    let cache = volume.dir().join("disk");
    fs::create_dir(&cache).unwrap();
    let disk = HangingDisk::mount(&cache, 128);
    let mount = mount_on(&volume, &cache, &[]);
    write_synced(&mount, 0..40);
    mount.unmount();
    let is_cached = |mount: &Mount| {
        let found = wait_until(Duration::from_secs(60), || mount.stat("blockcache_blocks") >= 40.0);
        assert!(found, "{} blocks in the cache:\n{}", mount.stat("blockcache_blocks"), mount.log());
    };
    // What a mount reads it has in memory too, but the next only on the disk.
    let mount = mount_on(&volume, &cache, &[]);
    check(&mount, 0..40);
    is_cached(&mount);
    mount.unmount();
    let mount = mount_on(&volume, &cache, &[]);
    is_cached(&mount);
    check(&mount, 0..5);
    assert!(mount.stat("blockcache_hits") >= 5.0, "the cache is not used");
    rustix::fs::syncfs(File::open(&cache).unwrap()).unwrap();
    let hang = disk.hang();
    drop_kernel_caches();
    let mut slow = 0;
    for number in 5..40 {
        let begun = Instant::now();
        check(&mount, number..number + 1);
        let took = begun.elapsed();
        // Once for its file to open, and once for the data.
        assert!(took < LONGEST * 2 + Duration::from_secs(2), "a read took {took:?}:\n{}", mount.log());
        slow += usize::from(took > LONGEST / 2);
    }
    assert!((1..=8).contains(&slow), "{slow} of 35 reads waited for the disk");
    let begun = Instant::now();
    write_synced(&mount, 40..50);
    check(&mount, 40..50);
    assert!(begun.elapsed() < LONGEST, "ten writes took {:?}:\n{}", begun.elapsed(), mount.log());
    drop(hang);
    check(&mount, 0..50);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
    drop(disk);
}
