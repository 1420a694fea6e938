//! What fallocate(2) promises beyond zeroes, where files say that they have holes, and what holes cost.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, PermissionsExt},
    },
    time::{Duration, Instant},
};

use e2e::{Mount, Rest, Volume, run};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, statvfs};

const GIB: u64 = 1 << 30;

fn create(mount: &Mount, name: &str) -> File {
    File::options().read(true).write(true).create_new(true).open(mount.join(name)).unwrap()
}

fn free_bytes(mount: &Mount) -> u64 {
    let stat = statvfs(mount.path()).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn more_than_is_free_cannot_be_allocated() {
    for flags in [&["--trash-days", "0"][..], &["--trash-days", "0", "--capacity", "1"]] {
        let volume = Volume::with(flags);
        let mount = volume.mount();
        let (file, free) = (create(&mount, "file"), free_bytes(&mount));
        for mode in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE] {
            let refused = fallocate(&file, mode, 0, 2 * free).map_err(io::Error::from);
            assert_eq!(refused.map_err(|error| error.raw_os_error()), Err(Some(libc::ENOSPC)), "{flags:?}, {mode:?}");
        }
        assert_eq!(file.metadata().unwrap().len(), 0);
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, GIB / 2).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, GIB / 2).unwrap();
        assert_eq!(file.metadata().unwrap().len(), GIB / 2);
        // What is there already takes no more room.
        fallocate(&file, FallocateFlags::empty(), 0, GIB / 2).unwrap();
        drop(file);
        mount.unmount();
        volume.assert_sound(Rest::Clean);
    }
}

#[test]
fn allocating_takes_set_id_bits_as_writing_does() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("file").display().to_string();
    fs::write(&path, "content").unwrap();
    // What stat(1) asks for is the mode alone, which the kernel may know from before.
    let modes = |mode: u32, who: &[&str], how: &str| {
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let script = format!("fallocate {how} -o 0 -l 65536 {path} && stat -c %a {path}");
        let words = [who, &["bash", "-c", &script]].concat();
        run(words[0], &words[1..]).expect_success().stdout.trim().to_owned()
    };
    let somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    for how in ["", "--keep-size", "--punch-hole", "--zero-range"] {
        assert_eq!(modes(0o6666, &somebody, how), "666", "{how}");
        assert_eq!(modes(0o6777, &somebody, how), "777", "{how}");
        assert_eq!(modes(0o2676, &somebody, how), "676", "{how}");
        assert_eq!(modes(0o6666, &["env"], how), "6666", "root keeps them, {how}");
    }
    mount.unmount();
}

fn seek(file: &File, offset: i64, whence: i32) -> i64 {
    // SAFETY: lseek(2) takes plain numbers, and the descriptor is open for as long as `file` is borrowed.
    unsafe { libc::lseek(file.as_raw_fd(), offset, whence) }
}

#[test]
fn holes_are_told_in_pages() {
    use std::os::unix::fs::FileExt;
    const PAGE: i64 = 4096;
    let volume = Volume::new();
    let mount = volume.mount();
    let file = create(&mount, "file");
    file.write_all_at(b"x", 5 * PAGE as u64 + 100).unwrap();
    file.write_all_at(b"x", 7 * PAGE as u64 - 1).unwrap();
    file.set_len(9 * PAGE as u64 + 10).unwrap();
    let (data, hole) = (|at| seek(&file, at, libc::SEEK_DATA), |at| seek(&file, at, libc::SEEK_HOLE));
    assert_eq!([data(0), data(5 * PAGE), data(5 * PAGE + 200)], [5 * PAGE, 5 * PAGE, 5 * PAGE + 200]);
    assert_eq!([hole(0), hole(77), hole(5 * PAGE + 1)], [0, 77, 7 * PAGE]);
    assert_eq!([hole(7 * PAGE), hole(9 * PAGE + 5)], [7 * PAGE, 9 * PAGE + 5]);
    assert_eq!([data(7 * PAGE), data(9 * PAGE + 5)], [-1, -1]);
    file.write_all_at(b"x", 9 * PAGE as u64 + 9).unwrap();
    assert_eq!([data(7 * PAGE), hole(9 * PAGE + 1)], [9 * PAGE, 9 * PAGE + 10]);
    drop(file);
    mount.unmount();
}

/// Whatever anybody does to a file that spans more than it holds costs what it holds: nobody else waits for it.
#[test]
fn a_pebibyte_of_nothing_costs_nothing() {
    const PEBIBYTE: u64 = 1 << 50;
    let volume = Volume::new();
    let mount = volume.mount();
    let begun = Instant::now();
    let (file, copy) = (create(&mount, "file"), create(&mount, "copy"));
    let places = [0, PEBIBYTE / 3, PEBIBYTE - 4096];
    file.set_len(PEBIBYTE).unwrap();
    for at in places {
        file.write_all_at(&[7; 4096], at).unwrap();
    }
    file.sync_all().unwrap();
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(SeekFrom::Data(4096)).unwrap(), PEBIBYTE / 3 / 4096 * 4096);
    assert_eq!(seek(SeekFrom::Data(PEBIBYTE / 2)).unwrap(), PEBIBYTE - 4096);
    assert_eq!(seek(SeekFrom::Hole(0)).unwrap(), 4096);
    // Whole pieces as the kernel asks for them.
    let (mut from, mut to) = (PEBIBYTE / 3, 0);
    rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), 4 << 30).unwrap();
    copy.set_len(PEBIBYTE).unwrap();
    let path = mount.join("file").display().to_string();
    for command in ["info", "summary", "compact"] {
        volume.juicefs(&[command, &path]).expect_success();
    }
    volume.juicefs(&["clone", &path, &mount.join("clone").display().to_string()]).expect_success();
    assert_eq!(fs::metadata(mount.join("clone")).unwrap().len(), PEBIBYTE);
    for mode in [FallocateFlags::ZERO_RANGE, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE] {
        fallocate(&file, mode, 4096, PEBIBYTE - 4096).unwrap();
    }
    assert_eq!(seek(SeekFrom::Data(4096)).map_err(|error| error.raw_os_error()), Err(libc::ENXIO));
    for length in [1, PEBIBYTE, 0] {
        file.set_len(length).unwrap();
    }
    drop((file, copy));
    for name in ["file", "copy", "clone"] {
        fs::remove_file(mount.join(name)).unwrap();
    }
    mount.unmount();
    // Step by step through sixteen million chunks it takes minutes.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(40), "{took:?}");
    volume.assert_sound(Rest::Clean);
}
