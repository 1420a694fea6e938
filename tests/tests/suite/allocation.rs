//! What fallocate(2) promises beyond zeroes, and where files say that they have holes.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
};

use e2e::{Mount, Rest, Volume, run};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

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
