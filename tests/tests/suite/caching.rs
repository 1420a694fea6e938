//! The local cache of a mount: disks that fail, limits, and what its flags do.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use e2e::{Mount, Owner, Pattern, Rest, SmallDisk, Volume, drop_kernel_caches, full, wait_until};

const MIB: usize = 1 << 20;

fn content(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 52, file, version: 1 }).bytes(length)
}

fn write_synced(path: &Path, data: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(data).unwrap();
    file.sync_all().unwrap();
}

fn check(mount: &Mount, files: impl Iterator<Item = u64>, length: usize) {
    for number in files {
        let seen = fs::read(mount.join(format!("f{number}"))).unwrap();
        assert!(seen == content(number, length), "file {number} is damaged");
    }
}

/// A mount whose cache lies on a small disk.
fn mount_on(volume: &Volume, cache: &Path, flags: &[&str]) -> Mount {
    Mount::start_at(&volume.meta_url(), volume.dir(), "mnt", cache, flags, volume.variables())
}

/// Files below a directory whose path has `part`, in-progress ones left out.
fn files(root: &Path, part: &str) -> Vec<PathBuf> {
    let (mut pending, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.components().any(|c| c.as_os_str() == part) && path.extension().is_none_or(|e| e != "tmp") {
                found.push(path);
            }
        }
    }
    found
}

/// The cache disk turns read-only while blocks are staged on it: nobody meets an error, what is acknowledged from then on is
/// in the store, and what was staged before is still read. When the disk can be written again, it is used again.
#[test]
fn a_cache_disk_that_turns_read_only_is_isolated() {
    const LENGTH: usize = 300_000;
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "1M"]);
    let cache = volume.dir().join("small");
    fs::create_dir(&cache).unwrap();
    let disk = SmallDisk::mount(&cache, "size=64m");
    let flags = ["--writeback", "--upload-delay", "1h", "--free-space-ratio", "0.01"];
    let mount = mount_on(&volume, &cache, &flags);
    for number in 0..10 {
        write_synced(&mount.join(format!("f{number}")), &content(number, LENGTH));
    }
    assert_eq!(files(&cache, "rawstaging").len(), 10);
    assert!(volume.objects().is_empty());
    assert_eq!((mount.stat("staging_write_bytes"), mount.stat("staging_writing_blocks")), (3_000_000.0, 0.0));
    assert!(wait_until(Duration::from_secs(20), || disk.set_read_only(true)), "somebody goes on writing to the disk");
    for number in 10..30 {
        write_synced(&mount.join(format!("f{number}")), &content(number, LENGTH));
    }
    assert_eq!(volume.objects().len(), 20, "what cannot be staged is in the store");
    assert_eq!((mount.stat("blockcache_disks_unstable"), mount.stat("blockcache_disks_normal")), (1.0, 0.0));
    assert!(mount.stat("blockcache_disk_errors") >= 3.0);
    assert!(mount.log().contains("is unstable"), "{}", mount.log());
    let elsewhere = volume.mount_with("elsewhere", &[]);
    check(&elsewhere, 10..30, LENGTH);
    elsewhere.unmount();
    drop_kernel_cache();
    check(&mount, 0..30, LENGTH);
    assert!(disk.set_read_only(false));
    if full() {
        // A whole minute without a failure, and the rest of the one before.
        let normal = wait_until(Duration::from_secs(200), || mount.stat("blockcache_disks_normal") == 1.0);
        assert!(normal, "{}", mount.log());
        let before = volume.objects().len();
        write_synced(&mount.join("f30"), &content(30, LENGTH));
        assert_eq!(volume.objects().len(), before, "staged again");
    }
    mount.unmount();
    let mount = mount_on(&volume, &cache, &["--writeback", "--free-space-ratio", "0.01"]);
    assert!(wait_until(Duration::from_secs(60), || mount.stat("staging_blocks") == 0.0), "{}", mount.log());
    let counted = (mount.stat("staging_block_delay_seconds"), mount.stat("staging_write_bytes"));
    assert!(counted.0 > 0.0 && counted.1 == 0.0, "{counted:?}: they had waited, and were staged by another mount");
    mount.unmount();
    let elsewhere = volume.mount_with("elsewhere", &[]);
    check(&elsewhere, 0..30, LENGTH);
    elsewhere.unmount();
    volume.assert_sound(Rest::Clean);
    drop(disk);
}

fn drop_kernel_cache() {
    drop_kernel_caches(1);
}

/// A cache disk without space: what cannot be staged goes to the store, and nothing fails.
#[test]
fn a_full_cache_disk_harms_nothing() {
    const LENGTH: usize = 2 * MIB;
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "1M"]);
    let cache = volume.dir().join("small");
    fs::create_dir(&cache).unwrap();
    let disk = SmallDisk::mount(&cache, "size=24m");
    let mount = mount_on(&volume, &cache, &["--writeback", "--upload-delay", "1h", "--free-space-ratio", "0"]);
    for number in 0..24 {
        write_synced(&mount.join(format!("f{number}")), &content(number, LENGTH));
    }
    let staged = files(&cache, "rawstaging").len();
    assert!((4..=24).contains(&staged), "{staged} blocks of 1 MiB are staged on 24 MiB");
    assert!(volume.objects().len() >= 24, "{} of 48 blocks are in the store", volume.objects().len());
    drop_kernel_cache();
    check(&mount, 0..24, LENGTH);
    assert_eq!(mount.stat("blockcache_disks_normal"), 1.0, "a full disk is not a broken one");
    mount.unmount();
    let mount = mount_on(&volume, &cache, &["--writeback"]);
    volume.juicefs(&["umount", "--flush", mount.path().to_str().unwrap()]).expect_success();
    assert!(mount.ended().success());
    let mount = volume.mount_with("elsewhere", &[]);
    check(&mount, 0..24, LENGTH);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
    drop(disk);
}

/// `--free-space-ratio` keeps a part of the disk free, of its bytes and of its inodes.
#[test]
fn a_part_of_the_disk_stays_free() {
    const LENGTH: usize = 100_000;
    let volume = Volume::with(&["--trash-days", "0"]);
    for (number, options) in ["size=32m", "size=256m,nr_inodes=200"].into_iter().enumerate() {
        let cache = volume.dir().join(format!("small-{number}"));
        fs::create_dir(&cache).unwrap();
        let disk = SmallDisk::mount(&cache, options);
        let mount = mount_on(&volume, &cache, &["--cache-large-write", "--free-space-ratio", "0.5"]);
        let count = 260;
        for file in 0..count {
            write_synced(&mount.join(format!("f{file}")), &content(file, LENGTH));
        }
        let (mut least_bytes, mut least_inodes) = (1.0_f64, 1.0_f64);
        let within = wait_until(Duration::from_secs(20), || {
            let stat = rustix::fs::statvfs(&cache).unwrap();
            least_bytes = stat.f_bavail as f64 / stat.f_blocks as f64;
            least_inodes = stat.f_ffree as f64 / stat.f_files as f64;
            least_bytes >= 0.5 && least_inodes >= 0.5
        });
        assert!(within, "{options}: {least_bytes} of the bytes and {least_inodes} of the inodes are free");
        assert!(!files(&cache, "raw").is_empty(), "{options}: nothing is kept");
        drop_kernel_cache();
        check(&mount, 0..count, LENGTH);
        mount.unmount();
        drop(disk);
    }
}

/// Blocks go when they were not used for `--cache-expire`; with several directories each has its share, and with levels of
/// checksums the files are as the level says.
#[test]
fn flags_of_the_cache_do_what_they_say() {
    const LENGTH: usize = 100_000;
    let volume = Volume::with(&["--trash-days", "0"]);
    let dirs: Vec<PathBuf> = ["a", "b", "c"].map(|name| volume.dir().join(name)).to_vec();
    let list = dirs.iter().map(|dir| dir.to_str().unwrap()).collect::<Vec<_>>().join(":");
    let keep = ["--cache-large-write", "--free-space-ratio", "0.01"];
    let mount = mount_on(&volume, Path::new(&list), &keep);
    for number in 0..60 {
        write_synced(&mount.join(format!("f{number}")), &content(number, LENGTH));
    }
    let kept = || dirs.iter().map(|dir| files(dir, "raw").len()).collect::<Vec<_>>();
    assert!(wait_until(Duration::from_secs(20), || kept().iter().sum::<usize>() == 60), "{:?}", kept());
    assert!(kept().iter().all(|count| *count > 5), "{:?}", kept());
    let places = dirs.iter().map(|dir| files(dir, "raw")).collect::<Vec<_>>();
    let with_sums = fs::metadata(&places[0][0]).unwrap().len();
    assert_eq!(with_sums, LENGTH as u64 + 16, "a checksum for each 32 KiB");
    mount.unmount();
    // Another order of the directories changes nothing: all is found where it is.
    let turned = dirs.iter().rev().map(|dir| dir.to_str().unwrap()).collect::<Vec<_>>().join(":");
    let mount = mount_on(&volume, Path::new(&turned), &keep);
    drop_kernel_cache();
    check(&mount, 0..60, LENGTH);
    assert_eq!(mount.stat("object_request_data_bytes_GET"), 0.0, "all is cached");
    mount.unmount();
    let expiring = [&keep[..], &["--cache-expire", "2s", "--verify-cache-checksum", "none"]].concat();
    let mount = mount_on(&volume, Path::new(&list), &expiring);
    assert!(wait_until(Duration::from_secs(60), || kept().iter().sum::<usize>() == 0), "{:?} stay", kept());
    let begun = Instant::now();
    let mut seen = None;
    while seen.is_none() && begun.elapsed() < Duration::from_secs(30) {
        write_synced(&mount.join("fresh"), &content(100, LENGTH));
        thread::sleep(Duration::from_millis(100));
        let path = dirs.iter().flat_map(|dir| files(dir, "raw")).next();
        seen = path.and_then(|path| fs::metadata(path).ok());
    }
    assert_eq!(seen.expect("a file in the cache").len(), LENGTH as u64, "no checksums");
    mount.unmount();
}

/// Random reads of a cold file fetch little more than what is asked for.
#[test]
fn cold_random_reads_fetch_little() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0"]);
    let size = 256 * MIB;
    let mount = volume.mount();
    write_synced(&mount.join("f0"), &content(0, size));
    mount.unmount();
    let mount = volume.mount_with("second", &["--cache-size", "1G"]);
    let file = File::open(mount.join("f0")).unwrap();
    let whole = content(0, size);
    let mut asked = 0;
    // One read in each block, with sizes in turn. At page edges: what needs more pages than the kernel reads ahead is read on
    // by the kernel itself.
    for block in 0..size / (4 * MIB) {
        let length = [4 << 10, 16 << 10, 64 << 10, 128 << 10][block % 4];
        let at = (block * 37 % (size / (4 * MIB))) * 4 * MIB + (171 + block) * 4096;
        let mut seen = vec![0; length];
        file.read_exact_at(&mut seen, at as u64).unwrap();
        assert!(seen == whole[at..at + length], "{length} bytes at {at}");
        asked += length;
    }
    let fetched = mount.stat("object_request_data_bytes_GET");
    println!("{asked} bytes asked for, {fetched} fetched");
    assert!(fetched <= 2.0 * asked as f64, "{fetched} bytes were fetched for {asked}");
    drop(file);
    mount.unmount();
}
