//! Nothing left: the volume's own limits, and a store without space.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::AsRawFd,
    path::Path,
    sync::Barrier,
    thread,
    time::Duration,
};

use e2e::{Owner, Pattern, Rest, SmallDisk, Volume, wait_until};
use rustix::fs::statvfs;

const MIB: usize = 1 << 20;

fn content(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 40, file, version: 1 }).bytes(length)
}

/// write, fsync and close, each of which may be the one that reports.
fn write_synced(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    file.sync_all()?;
    close(file)
}

fn write_closed(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    close(file)
}

/// Closes and reports what close(2) says, which dropping a `File` does not.
fn close(file: File) -> io::Result<()> {
    let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
    // SAFETY: the descriptor was just taken out of its owner, so nobody else closes or uses it.
    if unsafe { libc::close(fd) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn a_full_object_store_is_reported_and_harms_nothing() {
    let volume = Volume::unformatted();
    let disk = SmallDisk::mount(volume.bucket(), "size=24m");
    volume.format(&["--trash-days", "0", "--block-size", "1M"]).expect_success();
    let ballast = volume.bucket().join("ballast");
    fs::write(&ballast, vec![0; 8 * MIB]).unwrap();
    let mount = volume.mount_with("mnt", &["--io-retries", "2", "--buffer-size", "32"]);
    let mut whole = Vec::new();
    let mut refused = Vec::new();
    for number in 0..12 {
        let path = mount.join(format!("file-{number}"));
        let data = content(number, 3 * MIB);
        let result = if number % 2 == 0 { write_synced(&path, &data) } else { write_closed(&path, &data) };
        match result {
            Ok(()) => whole.push(number),
            Err(error) => refused.push((number, error)),
        }
    }
    assert!(whole.len() >= 2, "hardly anything fitted: {whole:?} {refused:?}");
    assert!(refused.len() >= 4, "36 MiB fitted into 16 MiB: {whole:?}");
    for (number, error) in &refused {
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "file {number}: {error}");
    }
    let check = |mount: &e2e::Mount, whole: &[u64]| {
        for &number in whole {
            let seen = fs::read(mount.join(format!("file-{number}"))).unwrap();
            assert!(seen == content(number, 3 * MIB), "acknowledged file {number} is damaged");
        }
    };
    check(&mount, &whole);
    // Space comes back, and the same mount goes on.
    fs::remove_file(&ballast).unwrap();
    for (number, _) in &refused {
        // What is left of a refused file may be short, but is not foreign; it is replaced.
        fs::remove_file(mount.join(format!("file-{number}"))).unwrap();
    }
    let later = 100;
    assert!(
        wait_until(Duration::from_secs(20), || write_synced(&mount.join("file-100"), &content(later, 3 * MIB)).is_ok()),
        "still no space after 8 MiB were freed"
    );
    whole.push(later);
    check(&mount, &whole);
    mount.unmount();
    let mount = volume.mount();
    check(&mount, &whole);
    mount.unmount();
    volume.assert_sound(Rest::Crashed);
    drop(disk);
}

#[test]
fn the_capacity_is_exact() {
    let volume = Volume::with(&["--trash-days", "0", "--capacity", "16M"]);
    let mount = volume.mount();
    let available = |mount: &e2e::Mount| {
        let stat = statvfs(mount.path()).unwrap();
        usize::try_from(stat.f_bavail * stat.f_frsize).unwrap()
    };
    let start = available(&mount);
    assert!(start > 15 * MIB && start <= 16 * MIB, "{start} bytes available at the start");
    // Everything but three pages in one file, then page by page.
    let page = 4096;
    write_synced(&mount.join("bulk"), &content(1, start - 3 * page)).unwrap();
    for number in 0..3 {
        write_synced(&mount.join(format!("page-{number}")), &content(2, page)).unwrap();
    }
    assert_eq!(available(&mount), 0);
    let error = write_synced(&mount.join("one-too-many"), &[1]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let _ = fs::remove_file(mount.join("one-too-many"));
    // Overwriting needs no new space, growing does.
    let file = File::options().write(true).open(mount.join("page-0")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.set_len(4097).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    drop(file);
    fs::remove_file(mount.join("page-1")).unwrap();
    write_synced(&mount.join("page-3"), &content(3, page)).unwrap();
    assert_eq!(fs::read(mount.join("bulk")).unwrap(), content(1, start - 3 * page));
    mount.unmount();
}

/// Data that was taken has its place: it is `write` that says that the volume is full, never a later close, and neither says
/// it early because data is on its way.
#[test]
fn what_was_written_before_the_volume_was_full_is_kept() {
    let volume = Volume::with(&["--trash-days", "0", "--capacity", "200M"]);
    let mount = volume.mount();
    let piece = 256 << 10;
    // Each has its share: nobody begins when the other is done.
    let both = Barrier::new(2);
    let fill = |number: u64| {
        let data = content(number, 201 * MIB);
        let mut file = File::create(mount.join(format!("file-{number}"))).unwrap();
        both.wait();
        let mut written = 0;
        let error = loop {
            match file.write(&data[written..][..piece]) {
                Ok(bytes) => written += bytes,
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
        close(file).expect("what was taken has room");
        written
    };
    let written = thread::scope(|scope| {
        [1, 2].map(|number| scope.spawn(move || fill(number))).map(|writer| writer.join().unwrap())
    });
    let sum: usize = written.iter().sum();
    assert!((199 * MIB..=200 * MIB).contains(&sum), "{written:?} of 200 MiB");
    mount.unmount();
    let mount = volume.mount();
    for (number, length) in [1, 2].into_iter().zip(written) {
        let seen = fs::read(mount.join(format!("file-{number}"))).unwrap();
        assert!(seen == content(number, 200 * MIB)[..length], "file {number} is not what was written");
    }
    fs::remove_file(mount.join("file-1")).unwrap();
    write_closed(&mount.join("file-3"), &content(3, written[0].saturating_sub(MIB))).unwrap();
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn the_number_of_inodes_is_exact() {
    let volume = Volume::with(&["--trash-days", "0", "--inodes", "120"]);
    let mount = volume.mount();
    let free = statvfs(mount.path()).unwrap().f_ffree;
    assert!((118..=120).contains(&free), "{free} inodes free at the start");
    for number in 0..free {
        let path = mount.join(format!("n-{number}"));
        let made = if number % 3 == 0 { fs::create_dir(&path) } else { File::create(&path).map(drop) };
        made.unwrap_or_else(|error| panic!("inode {number} of {free}: {error}"));
    }
    assert_eq!(statvfs(mount.path()).unwrap().f_ffree, 0);
    let no_space = Some(libc::ENOSPC);
    assert_eq!(File::create(mount.join("more")).unwrap_err().raw_os_error(), no_space);
    assert_eq!(fs::create_dir(mount.join("more")).unwrap_err().raw_os_error(), no_space);
    assert_eq!(std::os::unix::fs::symlink("x", mount.join("more")).unwrap_err().raw_os_error(), no_space);
    // A second name is no new inode.
    fs::hard_link(mount.join("n-1"), mount.join("second-name")).unwrap();
    fs::remove_file(mount.join("n-2")).unwrap();
    File::create(mount.join("again")).unwrap();
    assert_eq!(File::create(mount.join("more")).unwrap_err().raw_os_error(), no_space);
    mount.unmount();
}

/// A mount learns of a new limit from its metadata engine, without a restart.
#[test]
fn a_raised_capacity_reaches_a_running_mount() {
    let volume = Volume::with(&["--trash-days", "0", "--capacity", "4M"]);
    let mount = volume.mount_with("mnt", &["--heartbeat", "1"]);
    let error = write_synced(&mount.join("large"), &content(1, 8 * MIB)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    volume.juicefs(&["config", &volume.meta_url(), "--capacity", "64M", "--yes"]).expect_success();
    assert!(
        wait_until(Duration::from_secs(20), || {
            thread::sleep(Duration::from_millis(200));
            write_synced(&mount.join("large"), &content(1, 8 * MIB)).is_ok()
        }),
        "the new capacity never arrived"
    );
    assert_eq!(fs::read(mount.join("large")).unwrap(), content(1, 8 * MIB));
    mount.unmount();
}

/// The space of an open file that was unlinked comes back at its close.
#[test]
fn unlinked_files_give_their_space_back() {
    let volume = Volume::with(&["--trash-days", "0", "--capacity", "8M"]);
    let mount = volume.mount();
    for round in 0..4 {
        let path = mount.join("temporary");
        let mut file = File::create(&path).unwrap();
        file.write_all(&content(round, 6 * MIB)).unwrap();
        file.sync_all().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(file.as_raw_fd() >= 0);
        close(file).unwrap();
        let regained = wait_until(Duration::from_secs(10), || {
            let stat = statvfs(mount.path()).unwrap();
            stat.f_bavail * stat.f_frsize > 7 << 20
        });
        assert!(regained, "round {round}: the space of an unlinked file never came back");
    }
    mount.unmount();
}
