//! The promises of docs/semantics.md that need only one mount.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
        },
    },
    path::Path,
    thread,
    time::Duration,
};

use e2e::{Mount, Owner, Pattern, Rest, Volume, is_mounted, run, run_in, wait_until};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags, fallocate, getxattr, listxattr,
    removexattr, renameat_with, setxattr, utimensat,
};

fn content(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 60, file, version: 1 }).bytes(length)
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// The names in a directory but the hidden ones, in order.
fn listing(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

#[test]
fn a_write_is_seen_at_once_in_its_own_mount() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("seen");
    let data = content(1, 6_000_000);
    let mut writer = File::create(&path).unwrap();
    let reader = File::open(&path).unwrap();
    for (index, piece) in data.chunks(123_456).enumerate() {
        writer.write_all(piece).unwrap();
        let mut seen = vec![0; piece.len()];
        reader.read_exact_at(&mut seen, (index * 123_456) as u64).unwrap();
        assert!(seen == piece, "piece {index} is not seen through another descriptor");
        assert_eq!(fs::metadata(&path).unwrap().len(), (index * 123_456 + piece.len()) as u64);
    }
    drop((writer, reader));
    assert!(fs::read(&path).unwrap() == data);
    mount.unmount();
}

#[test]
fn appends_from_many_descriptors_do_not_overlap() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("log");
    const RECORD: usize = 1000;
    thread::scope(|scope| {
        for writer in 0..6u8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).create(true).open(path).unwrap();
                for _ in 0..100 {
                    file.write_all(&[b'a' + writer; RECORD]).unwrap();
                }
            });
        }
    });
    let seen = fs::read(&path).unwrap();
    assert_eq!(seen.len(), 6 * 100 * RECORD);
    for (index, record) in seen.chunks(RECORD).enumerate() {
        assert!(record.iter().all(|byte| *byte == record[0]), "record {index} is a mixture");
    }
    mount.unmount();
}

#[test]
fn an_unlinked_open_file_lives_until_its_close() {
    for trash_days in ["0", "1"] {
        let volume = Volume::with(&["--trash-days", trash_days]);
        let mount = volume.mount();
        let path = mount.join("open");
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all(&content(2, 500_000)).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!path.exists());
        file.write_all(&content(3, 1000)).unwrap();
        file.sync_all().unwrap();
        let mut seen = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut seen).unwrap();
        assert!(seen == [content(2, 500_000), content(3, 1000)].concat());
        // A file in the trash still has the name that it has there.
        assert_eq!(file.metadata().unwrap().nlink(), u64::from(trash_days != "0"));
        // An open file under a name that is renamed over lives on as well.
        fs::write(mount.join("target"), content(4, 70_000)).unwrap();
        let target = File::open(mount.join("target")).unwrap();
        fs::write(mount.join("source"), "new").unwrap();
        fs::rename(mount.join("source"), mount.join("target")).unwrap();
        let mut seen = vec![0; 70_000];
        target.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == content(4, 70_000));
        drop((file, target));
        if trash_days == "0" {
            let gone =
                wait_until(Duration::from_secs(20), || volume.objects().iter().map(|(_, size)| size).sum::<u64>() <= 3);
            assert!(gone, "objects of removed files stay: {:?}", volume.objects());
        }
        mount.unmount();
    }
}

/// JuiceFS (Go) loses such a file at close; see also the remount here.
#[test]
fn a_temporary_file_that_gets_a_name_stays() {
    for trash_days in ["0", "1"] {
        let volume = Volume::with(&["--trash-days", trash_days]);
        let mount = volume.mount();
        let unnamed =
            || File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(mount.path()).unwrap();
        let mut file = unnamed();
        let mut other = unnamed();
        other.write_all(b"goes with its descriptor").unwrap();
        assert_eq!(listing(mount.path()), [""; 0], "it has no name");
        assert_eq!(other.metadata().unwrap().nlink(), 0);
        drop(other);
        file.write_all(&content(5, 200_000)).unwrap();
        file.sync_all().unwrap();
        let link = CString::new(mount.join("named").as_os_str().as_bytes()).unwrap();
        let proc = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        // SAFETY: both strings end with NUL and live until the call returns.
        let linked = unsafe {
            libc::linkat(libc::AT_FDCWD, proc.as_ptr(), libc::AT_FDCWD, link.as_ptr(), libc::AT_SYMLINK_FOLLOW)
        };
        assert_eq!(linked, 0, "{}", io::Error::last_os_error());
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        drop(file);
        thread::sleep(Duration::from_millis(300));
        assert!(fs::read(mount.join("named")).unwrap() == content(5, 200_000));
        mount.unmount();
        let mount = volume.mount();
        assert!(fs::read(mount.join("named")).unwrap() == content(5, 200_000), "lost after a remount");
        fs::remove_file(mount.join("named")).unwrap();
        mount.unmount();
    }
}

#[test]
fn times_keep_their_nanoseconds_and_have_a_floor() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("times");
    File::create(&path).unwrap();
    for (seconds, nanoseconds) in [(0, 0), (1, 1), (1_700_000_000, 123_456_789), (4_294_967_296, 999_999_999)] {
        set_times(&path, seconds, nanoseconds).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, nanoseconds));
        assert_eq!((meta.atime(), meta.atime_nsec()), (seconds, nanoseconds));
    }
    // The format has no times before 1970: a file shows 1970 then, not the time of the call and not the far future.
    set_times(&path, -86_400, 0).unwrap();
    let seen = fs::metadata(&path).unwrap().mtime();
    assert!(seen == -86_400 || seen == 0, "a time before 1970 became {seen}");
    drop(path);
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(fs::metadata(mount.join("times")).unwrap().mtime(), seen, "it changed with the remount");
    mount.unmount();
}

#[test]
fn extended_attributes_keep_any_value() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("attributes");
    File::create(&path).unwrap();
    let large = content(6, 60_000);
    let values: [(&str, &[u8]); 4] =
        [("user.empty", b""), ("user.zeroes", b"a\0b\0"), ("user.large", &large), ("trusted.root", b"x")];
    for (name, value) in values {
        setxattr(&path, name, value, XattrFlags::CREATE).unwrap();
    }
    assert!(setxattr(&path, "user.empty", b"x", XattrFlags::CREATE).is_err_and(|e| e.raw_os_error() == libc::EEXIST));
    assert!(setxattr(&path, "user.no", b"x", XattrFlags::REPLACE).is_err_and(|e| e.raw_os_error() == libc::ENODATA));
    mount.unmount();
    let mount = volume.mount();
    let path = mount.join("attributes");
    let mut buffer = vec![0u8; 70_000];
    for (name, value) in values {
        let length = getxattr(&path, name, &mut buffer[..]).unwrap();
        assert!(&buffer[..length] == value, "{name}");
    }
    let length = listxattr(&path, &mut buffer[..]).unwrap();
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).count();
    assert_eq!(names, 4);
    removexattr(&path, "user.empty").unwrap();
    assert!(getxattr(&path, "user.empty", &mut buffer[..]).is_err_and(|e| e.raw_os_error() == libc::ENODATA));
    mount.unmount();
}

#[test]
fn rename_can_refuse_and_exchange() {
    let volume = Volume::new();
    let mount = volume.mount();
    let (a, b) = (mount.join("a"), mount.join("b"));
    fs::write(&a, "file a").unwrap();
    fs::create_dir(&b).unwrap();
    fs::write(b.join("inner"), "x").unwrap();
    let refused = renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE).unwrap_err();
    assert_eq!(refused.raw_os_error(), libc::EEXIST);
    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(&b).unwrap(), "file a");
    assert_eq!(fs::read_to_string(a.join("inner")).unwrap(), "x");
    assert_eq!(errno(fs::rename(&b, &a)), Some(libc::EISDIR));
    assert_eq!(errno(fs::rename(&a, &b)), Some(libc::ENOTDIR));
    fs::create_dir(mount.join("empty")).unwrap();
    assert_eq!(errno(fs::rename(mount.join("empty"), &a)), Some(libc::ENOTEMPTY));
    assert_eq!(errno(fs::rename(&a, a.join("below"))), Some(libc::EINVAL));
    // A whiteout is the character device 0:0; the listing shows it at once.
    renameat_with(CWD, &b, CWD, mount.join("c"), RenameFlags::WHITEOUT).unwrap();
    assert_eq!(fs::read_to_string(mount.join("c")).unwrap(), "file a");
    let left = fs::symlink_metadata(&b).unwrap();
    assert!(left.file_type().is_char_device() && left.rdev() == 0 && left.mode() & 0o7777 == 0);
    assert_eq!(listing(mount.path()), ["a", "b", "c", "empty"]);
    mount.unmount();
}

#[test]
fn fallocate_reserves_punches_and_zeroes() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("holes");
    let mut data = content(7, 6 << 20);
    fs::write(&path, &data).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut zero = |from: usize, length: usize, flags| {
        fallocate(&file, flags, from as u64, length as u64).unwrap();
        let end = (from + length).min(data.len());
        data[from..end].fill(0);
    };
    zero(1000, 100, punch);
    zero(3 << 20, 2 << 20, punch);
    zero((6 << 20) - 10, 100, punch);
    zero(500_000, 77_777, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE);
    assert!(fs::read(&path).unwrap() == data);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 10 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 6 << 20);
    fallocate(&file, FallocateFlags::empty(), 0, 7 << 20).unwrap();
    data.resize(7 << 20, 0);
    file.sync_all().unwrap();
    drop(file);
    mount.unmount();
    let mount = volume.mount();
    assert!(fs::read(mount.join("holes")).unwrap() == data);
    mount.unmount();
}

#[test]
fn copy_file_range_copies_what_was_written() {
    let volume = Volume::new();
    let mount = volume.mount();
    let data = content(8, 9_000_000);
    let mut source = File::options().read(true).write(true).create_new(true).open(mount.join("source")).unwrap();
    source.write_all(&data).unwrap();
    let target = File::options().read(true).write(true).create_new(true).open(mount.join("target")).unwrap();
    let (mut from, mut to) = (1234u64, 77u64);
    let mut left = 8_000_000usize;
    while left > 0 {
        let copied = rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), left).unwrap();
        assert!(copied > 0, "copy_file_range stopped {left} bytes before its end");
        left -= copied;
    }
    // The copy does not follow its source.
    source.write_all_at(&[0; 100_000], 1234).unwrap();
    let mut wanted = vec![0; 77];
    wanted.extend_from_slice(&data[1234..8_001_234]);
    assert!(fs::read(mount.join("target")).unwrap() == wanted);
    drop((source, target));
    fs::remove_file(mount.join("source")).unwrap();
    mount.unmount();
    let mount = volume.mount();
    assert!(fs::read(mount.join("target")).unwrap() == wanted, "the copy went with its source");
    mount.unmount();
}

fn trash_entries(mount: &Mount) -> Vec<std::path::PathBuf> {
    let hours = fs::read_dir(mount.join(".trash")).unwrap().map(|hour| hour.unwrap().path());
    hours.flat_map(|hour| fs::read_dir(hour).unwrap().map(|entry| entry.unwrap().path())).collect()
}

#[test]
fn removed_files_lie_in_the_trash_and_come_back() {
    let volume = Volume::with(&["--trash-days", "1"]);
    let mount = volume.mount();
    let data = content(9, 300_000);
    fs::create_dir(mount.join("dir")).unwrap();
    fs::write(mount.join("dir/removed"), &data).unwrap();
    fs::write(mount.join("dir/replaced"), "old").unwrap();
    fs::write(mount.join("dir/new"), "new").unwrap();
    let ino = fs::metadata(mount.join("dir/removed")).unwrap().ino();
    let parent = fs::metadata(mount.join("dir")).unwrap().ino();
    fs::remove_file(mount.join("dir/removed")).unwrap();
    fs::rename(mount.join("dir/new"), mount.join("dir/replaced")).unwrap();
    let entries = trash_entries(&mount);
    assert_eq!(entries.len(), 2, "{entries:?}");
    let name = format!("{parent}-{ino}-removed");
    let entry = entries.iter().find(|entry| entry.file_name().unwrap() == name.as_str()).unwrap();
    assert!(fs::read(entry).unwrap() == data);
    // Nothing is made or changed there, but it can be moved out.
    assert_eq!(errno(fs::write(mount.join(".trash/x"), "x")), Some(libc::EPERM));
    fs::rename(entry, mount.join("dir/back")).unwrap();
    assert!(fs::read(mount.join("dir/back")).unwrap() == data);
    assert_eq!(trash_entries(&mount).len(), 1);
    // Others may look, but take nothing out.
    let entry = trash_entries(&mount).remove(0);
    let (entry, target) = (entry.to_string_lossy().into_owned(), mount.join("taken").to_string_lossy().into_owned());
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o777)).unwrap();
    run("setpriv", ["--reuid=nobody", "--clear-groups", "mv", &entry, &target]).expect_failure();
    run("setpriv", ["--reuid=nobody", "--clear-groups", "rm", "-f", &entry]).expect_failure();
    assert_eq!(trash_entries(&mount).len(), 1);
    mount.unmount();
}

#[test]
fn hard_links_and_symbolic_links() {
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.join("first"), "shared").unwrap();
    for number in 0..50 {
        fs::hard_link(mount.join("first"), mount.join(format!("link-{number}"))).unwrap();
    }
    assert_eq!(fs::metadata(mount.join("first")).unwrap().nlink(), 51);
    fs::remove_file(mount.join("first")).unwrap();
    fs::write(mount.join("link-7"), "changed").unwrap();
    assert_eq!(fs::read_to_string(mount.join("link-49")).unwrap(), "changed");
    assert_eq!(fs::metadata(mount.join("link-0")).unwrap().nlink(), 50);
    assert_eq!(errno(fs::hard_link(mount.path(), mount.join("dir-link"))), Some(libc::EPERM));
    let long = "t".repeat(4000);
    for (name, target) in [("relative", "link-1"), ("dangling", "nowhere"), ("long", long.as_str())] {
        symlink(target, mount.join(name)).unwrap();
        assert_eq!(fs::read_link(mount.join(name)).unwrap().as_os_str(), target);
    }
    assert_eq!(fs::read_to_string(mount.join("relative")).unwrap(), "changed");
    mount.unmount();
}

#[test]
fn ownership_and_set_id_bits() {
    let volume = Volume::new();
    let mount = crate::posix::native_mount(&volume);
    let path = mount.join("program");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6755);
    std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    // A write by somebody else clears the bits.
    let target = path.to_string_lossy().into_owned();
    let script = format!("echo more >> '{target}'");
    run("setpriv", ["--reuid=1", "--regid=1", "--clear-groups", "bash", "-c", &script]).expect_success();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
    // A set-group directory hands its group down.
    let dir = mount.join("team");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, None, Some(1234)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "x").unwrap();
    assert_eq!(fs::metadata(dir.join("sub")).unwrap().mode() & 0o2000, 0o2000);
    assert_eq!(fs::metadata(dir.join("sub")).unwrap().gid(), 1234);
    assert_eq!(fs::metadata(dir.join("file")).unwrap().gid(), 1234);
    // A sticky directory protects the files of others.
    let shared = mount.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(shared.join("mine"), "x").unwrap();
    let target = shared.join("mine").to_string_lossy().into_owned();
    run("setpriv", ["--reuid=1", "--regid=1", "--clear-groups", "rm", "-f", &target]).expect_failure();
    assert!(shared.join("mine").exists());
    mount.unmount();
}

#[test]
fn immutable_and_append_only_files_are_kept() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("kept");
    fs::write(&path, "first\n").unwrap();
    let chattr = |flag: &str| run("chattr", [flag, &path.to_string_lossy()]).expect_success();
    chattr("+i");
    assert_eq!(errno(fs::write(&path, "x")), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_file(&path)), Some(libc::EPERM));
    assert_eq!(errno(fs::rename(&path, mount.join("moved"))), Some(libc::EPERM));
    assert_eq!(errno(fs::hard_link(&path, mount.join("linked"))), Some(libc::EPERM));
    chattr("-i");
    chattr("+a");
    assert_eq!(errno(fs::write(&path, "x")), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_file(&path)), Some(libc::EPERM));
    File::options().append(true).open(&path).unwrap().write_all(b"second\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
    let flags = run("lsattr", [&path]).expect_success();
    assert!(flags.stdout.split(' ').next().unwrap().contains('a'), "{flags}");
    chattr("-a");
    fs::remove_file(&path).unwrap();
    mount.unmount();
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.join("file"), "x").unwrap();
    fs::create_dir(mount.join("dir")).unwrap();
    mount.unmount();
    let mount = volume.mount_with("mnt", &["--read-only", "--enable-xattr"]);
    let file = mount.join("file");
    let refused = [
        ("create", errno(File::create_new(mount.join("new")))),
        ("open for writing", errno(File::options().write(true).open(&file))),
        ("truncate", errno(File::options().write(true).truncate(true).open(&file))),
        ("unlink", errno(fs::remove_file(&file))),
        ("mkdir", errno(fs::create_dir(mount.join("d")))),
        ("rmdir", errno(fs::remove_dir(mount.join("dir")))),
        ("rename", errno(fs::rename(&file, mount.join("other")))),
        ("link", errno(fs::hard_link(&file, mount.join("other")))),
        ("symlink", errno(symlink("x", mount.join("other")))),
        ("chmod", errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))),
        ("chown", errno(std::os::unix::fs::chown(&file, Some(1), Some(1)))),
        ("utimensat", errno(set_times(&file, 5, 5))),
        ("setxattr", errno(setxattr(&file, "user.a", b"x", XattrFlags::empty()).map_err(io::Error::from))),
    ];
    for (what, errno) in refused {
        assert_eq!(errno, Some(libc::EROFS), "{what}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    mount.unmount();
}

/// mmap, shared and written through, is what databases and linkers use.
#[test]
fn shared_mappings_reach_the_file() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("mapped");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    const LENGTH: usize = 5_000_000;
    file.set_len(LENGTH as u64).unwrap();
    // SAFETY: a fresh mapping of a file that stays as long; it is unmapped below, before anything else frees it.
    unsafe {
        let flags = libc::PROT_READ | libc::PROT_WRITE;
        let start = libc::mmap(std::ptr::null_mut(), LENGTH, flags, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let bytes = std::slice::from_raw_parts_mut(start.cast::<u8>(), LENGTH);
        bytes.copy_from_slice(&content(10, LENGTH));
        assert_eq!(libc::msync(start, LENGTH, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(start, LENGTH), 0);
    }
    drop(file);
    mount.unmount();
    let mount = volume.mount();
    assert!(fs::read(mount.join("mapped")).unwrap() == content(10, LENGTH));
    mount.unmount();
}

/// Everything that was written arrives with the end of a mount, also when nobody closed the file.
#[test]
fn sigterm_flushes_what_is_open() {
    let volume = Volume::new();
    let mount = volume.mount();
    let mut file = File::create(mount.join("open")).unwrap();
    file.write_all(&content(11, 7_000_000)).unwrap();
    mount.terminate();
    let detached = wait_until(Duration::from_secs(20), || !is_mounted(mount.path()));
    assert!(detached, "a mount in use was not detached");
    // The data is in the volume, though the file is open; its user may go on, and the client ends with its close.
    let other = volume.mount_with("other", &[]);
    assert!(fs::read(other.join("open")).unwrap() == content(11, 7_000_000));
    file.write_all(b"the end").unwrap();
    drop(file);
    let status = mount.ended();
    assert!(status.success(), "SIGTERM ended the client with {status}");
    other.unmount();
    let mount = volume.mount();
    assert!(fs::read(mount.join("open")).unwrap() == [&content(11, 7_000_000)[..], b"the end"].concat());
    mount.terminate();
    let status = mount.ended();
    assert!(status.success(), "SIGTERM ended an idle client with {status}");
}

/// An open file that nobody writes to any more reaches the store by itself.
#[test]
fn idle_data_is_flushed_without_a_close() {
    let volume = Volume::new();
    let mount = volume.mount();
    let mut file = File::create(mount.join("idle")).unwrap();
    file.write_all(&content(12, 100_000)).unwrap();
    let stored = || volume.objects().iter().map(|(_, size)| size).sum::<u64>() >= 100_000;
    assert!(wait_until(Duration::from_secs(20), stored), "still only in memory after 20 seconds");
    drop(file);
    mount.unmount();
}

#[test]
fn o_direct_and_o_sync_write_and_read() {
    let volume = Volume::new();
    let mount = volume.mount();
    let mut options = File::options();
    options.read(true).write(true).create(true);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(mount.join("direct")).unwrap();
    // O_DIRECT wants an aligned buffer.
    let layout = std::alloc::Layout::from_size_align(1 << 20, 4096).unwrap();
    // SAFETY: the layout is not empty; the buffer is used only until it is freed with the same layout.
    unsafe {
        let start = std::alloc::alloc(layout);
        let buffer = std::slice::from_raw_parts_mut(start, layout.size());
        buffer.copy_from_slice(&content(13, layout.size()));
        direct.write_all_at(buffer, 0).unwrap();
        buffer.fill(0);
        direct.read_exact_at(buffer, 0).unwrap();
        assert!(buffer == content(13, layout.size()));
        std::alloc::dealloc(start, layout);
    }
    let mut synced = options.custom_flags(libc::O_SYNC).open(mount.join("synced")).unwrap();
    synced.write_all(&content(14, 50_000)).unwrap();
    // O_SYNC: the bytes are in the store when write returns, so a killed client does not lose them.
    mount.kill().clear();
    drop((direct, synced));
    let mount = volume.mount();
    assert!(fs::read(mount.join("synced")).unwrap() == content(14, 50_000));
    mount.unmount();
}

/// fsync of a directory, and of a descriptor that only reads, is no error.
#[test]
fn fsync_works_on_every_kind_of_descriptor() {
    let volume = Volume::new();
    let mount = volume.mount();
    fs::create_dir(mount.join("dir")).unwrap();
    File::open(mount.join("dir")).unwrap().sync_all().unwrap();
    fs::write(mount.join("file"), "x").unwrap();
    File::open(mount.join("file")).unwrap().sync_all().unwrap();
    // SAFETY: syncfs(2) on a descriptor that is open for the whole call.
    let synced = unsafe {
        let root = File::from_raw_fd(libc::dup(File::open(mount.path()).unwrap().as_raw_fd()));
        libc::syncfs(root.as_raw_fd())
    };
    assert_eq!(synced, 0);
    mount.unmount();
}

/// The files in the root that tell about the mount.
#[test]
fn internal_files_tell_about_the_mount() {
    let volume = Volume::new();
    let mount = volume.mount();
    let config: serde_json::Value = serde_json::from_slice(&fs::read(mount.join(".config")).unwrap()).unwrap();
    assert_eq!(config["Format"]["Name"], "e2e-volume");
    let stats = fs::read_to_string(mount.join(".stats")).unwrap();
    assert!(stats.lines().any(|line| line.starts_with("juicefs_uptime ")), "{stats}");
    let mut log = File::open(mount.join(".accesslog")).unwrap();
    fs::write(mount.join("traced"), "x").unwrap();
    let mut text = String::new();
    let told = wait_until(Duration::from_secs(10), || {
        let mut buffer = vec![0; 100_000];
        let count = log.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        text.contains("create (1,traced") && text.contains("flush (") && text.contains("write (")
    });
    assert!(told, "the access log has only: {text}");
    for name in [".config", ".stats", ".accesslog", ".trash"] {
        assert!(fs::remove_file(mount.join(name)).is_err(), "{name} was removed");
        assert!(fs::write(mount.join(name), "x").is_err(), "{name} was written");
    }
    drop(log);
    mount.unmount();
}

/// Everything that was made can be taken away, and nothing stays behind in the store.
#[test]
fn an_emptied_volume_holds_no_objects() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "256K"]);
    let mount = volume.mount();
    for number in 0..300u64 {
        let dir = mount.join(format!("d{}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{number}")), content(number, 1 + usize::try_from(number).unwrap() * 3000))
            .unwrap();
    }
    // Overwritten, copied and cut data as well.
    let script = "for i in 0 1 2 3; do for j in 1 2 3 4 5 6; do dd if=/dev/zero of=d1/f8 bs=50k seek=$j count=2 conv=notrunc status=none;
        done; cp --reflink=auto d1/f8 d1/copy$i; truncate -s 10k d1/copy$i; done; rm -rf d*";
    run_in(mount.path(), script).expect_success();
    let gone = wait_until(Duration::from_secs(30), || volume.objects().is_empty());
    assert!(gone, "objects of removed files stay: {:?}", volume.objects());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
    assert!(volume.objects().is_empty());
}
