//! Names that are replaced all the time, watched by readers that do nothing else.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use e2e::{Mount, Owner, Pattern, Rest, Volume, full, wait_until};
use rustix::fs::{CWD, RenameFlags, renameat_with};

const LENGTH: usize = 10_000;
/// Looks of each reader, and replacements, without which a run shows nothing.
const ENOUGH: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(120);

fn content(version: u64) -> Vec<u8> {
    Pattern::of(Owner { run: 51, file: 1, version }).bytes(LENGTH)
}

/// Which version these bytes are, all of them.
fn version_of(seen: &[u8]) -> u64 {
    assert_eq!(seen.len(), LENGTH, "a part of a file");
    let version = u64::from_be_bytes(seen[16..24].try_into().unwrap());
    assert!(seen == content(version), "a mixture of versions");
    version
}

/// How long a replaced file can be opened at least.
const KEPT: Duration = Duration::from_millis(700);

/// Changes something for a while, and until every reader has looked often enough, while the readers look again and again.
fn watch(mut change: impl FnMut(u64) + Send, looks: &[&(dyn Fn() + Sync)]) {
    let load = Duration::from_secs(if full() { 60 } else { 2 });
    let counts: Vec<AtomicU64> = looks.iter().map(|_| AtomicU64::new(0)).collect();
    // Gone when the changes end, whatever ends them.
    let alive = Arc::new(());
    let changing = Arc::downgrade(&alive);
    thread::scope(|scope| {
        let counts = &counts;
        scope.spawn(move || {
            let _alive = alive;
            let begun = Instant::now();
            let lagging = || counts.iter().any(|count| count.load(Ordering::Relaxed) < ENOUGH);
            let mut version = 0;
            while begun.elapsed() < load || ((version < ENOUGH || lagging()) && begun.elapsed() < PATIENCE) {
                version += 1;
                change(version);
            }
        });
        for (look, count) in looks.iter().zip(counts) {
            let changing = changing.clone();
            scope.spawn(move || {
                while changing.strong_count() > 0 {
                    look();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let counts: Vec<u64> = counts.into_iter().map(AtomicU64::into_inner).collect();
    println!("looks: {counts:?}");
    assert!(counts.iter().all(|count| *count >= ENOUGH), "a reader looked too rarely: {counts:?}");
}

/// Puts a new file in the place of `target`, complete.
fn replace(dir: &Path, version: u64) {
    fs::write(dir.join("next"), content(version)).unwrap();
    fs::rename(dir.join("next"), dir.join("target")).unwrap();
}

fn attributes(path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("the name was missing: {error}"));
    assert_eq!((meta.len(), meta.is_file()), (LENGTH as u64, true));
}

/// Between `before` and `after`, which are there all along, each listing has the name once.
fn listing(dir: &Path) {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.filter(|name| name != "next").collect();
    assert!(names.len() == 3 && names.iter().any(|name| name == "target"), "{names:?}");
}

/// A replaced file can be opened for about a second after it was looked up; whoever took longer for that looks again.
fn open(path: &Path) -> File {
    loop {
        let begun = Instant::now();
        match File::open(path) {
            Ok(file) => return file,
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) && begun.elapsed() > KEPT => {}
            Err(error) => panic!("the name could not be opened: {error}, after {:?}", begun.elapsed()),
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(path);
    let mut seen = Vec::new();
    file.read_to_end(&mut seen)?;
    Ok(seen)
}

fn directory(mount: &Mount) -> PathBuf {
    let dir = mount.join("d");
    fs::create_dir(&dir).unwrap();
    for name in ["after", "before"] {
        fs::write(dir.join(name), "").unwrap();
    }
    replace(&dir, 0);
    dir
}

#[test]
fn a_replaced_name_is_there_at_every_moment() {
    let volume = Volume::new();
    let mount = volume.mount();
    let dir = directory(&mount);
    let target = dir.join("target");
    // Who opens the name after a version was seen does not get an older one.
    let last = AtomicU64::new(0);
    let open = || {
        let floor = last.load(Ordering::SeqCst);
        let version = version_of(&read(&target).unwrap());
        assert!(version >= floor, "version {version} after {floor}");
        last.fetch_max(version, Ordering::SeqCst);
    };
    watch(|version| replace(&dir, version), &[&open, &open, &|| attributes(&target), &|| listing(&dir)]);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// With the caches that a mount has by default: what is seen may be a second old, but it is one version as a whole.
#[test]
fn a_replaced_name_is_there_at_every_moment_in_the_other_mount() {
    let volume = Volume::new();
    let [one, two] = ["one", "two"].map(|place| volume.mount_with(place, &["--heartbeat", "2"]));
    let dir = directory(&one);
    let other = two.join("d");
    let target = other.join("target");
    assert!(wait_until(PATIENCE, || target.exists()));
    let newest = AtomicU64::new(0);
    let change = |version| {
        newest.store(version, Ordering::SeqCst);
        replace(&dir, version);
    };
    // A file that was replaced more than a second ago may be gone under who still reads it.
    let open = || match read(&target) {
        Ok(seen) => assert!(version_of(&seen) <= newest.load(Ordering::SeqCst)),
        Err(error) => assert!([Some(libc::EBADF), Some(libc::ESTALE)].contains(&error.raw_os_error()), "{error}"),
    };
    watch(change, &[&open, &open, &|| attributes(&target), &|| listing(&other)]);
    for mount in [one, two] {
        mount.unmount();
    }
    volume.assert_sound(Rest::Clean);
}

/// Two directories change places; whoever looks through either name finds a file below it.
#[test]
fn exchanged_directories_are_both_there_at_every_moment() {
    let volume = Volume::new();
    let mount = volume.mount();
    let [one, two] = ["one", "two"].map(|name| mount.join(name));
    let mut inodes = Vec::new();
    for dir in [&one, &two] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), content(1)).unwrap();
        inodes.push(fs::metadata(dir.join("file")).unwrap().ino());
    }
    let look = |dir: &Path| {
        let meta = fs::metadata(dir.join("file")).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        assert!(inodes.contains(&meta.ino()));
        version_of(&read(&dir.join("file")).unwrap());
    };
    let exchange = |_| renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
    watch(exchange, &[&|| look(&one), &|| look(&two)]);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
