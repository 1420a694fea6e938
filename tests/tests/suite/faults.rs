//! Damage below the file system: it is repaired from elsewhere or reported, and never shown as data.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use e2e::{Meta, Mount, Owner, Pattern, Rest, Volume, drop_kernel_caches, wait_until};

const MIB: usize = 1 << 20;

fn content(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 30, file, version: 1 }).bytes(length)
}

fn drop_page_cache() {
    drop_kernel_caches(1);
}

/// The files of cached blocks.
fn cached_blocks(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.to_string_lossy().contains("/raw/chunks/") && !path.to_string_lossy().ends_with(".tmp") {
                found.push(path);
            }
        }
    }
    found
}

/// Fills the disk cache by reading, and returns its blocks.
fn fill_cache(volume: &Volume, mount: &Mount, name: &str, blocks: usize) -> Vec<PathBuf> {
    let cache = volume.dir().join("cache-mnt");
    let filled = wait_until(Duration::from_secs(20), || {
        drop_page_cache();
        fs::read(mount.join(name)).unwrap();
        cached_blocks(&cache).len() >= blocks
    });
    assert!(filled, "only {} blocks are cached", cached_blocks(&cache).len());
    cached_blocks(&cache)
}

/// With the default `--verify-cache-checksum extend`, which checks whatever it reads; the other levels check less.
#[test]
fn a_damaged_cache_is_read_around() {
    // Plain objects would be read where they lie.
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "1M", "--compress", "lz4"]);
    let mount = volume.mount_with("mnt", &[]);
    let data = content(1, 8 * MIB);
    fs::write(mount.join("file"), &data).unwrap();
    let blocks = fill_cache(&volume, &mount, "file", 8);
    mount.unmount();
    for (number, path) in blocks.iter().enumerate() {
        match number % 4 {
            // A flipped bit, zeroes, a shorter file, and nothing at all.
            0 => {
                let file = File::options().read(true).write(true).open(path).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, 500_000).unwrap();
                file.write_all_at(&[byte[0] ^ 1], 500_000).unwrap();
            }
            1 => File::options().write(true).open(path).unwrap().write_all_at(&[0; 4096], 100_000).unwrap(),
            2 => File::options().write(true).open(path).unwrap().set_len(300_000).unwrap(),
            _ => fs::write(path, "").unwrap(),
        }
    }
    let mount = volume.mount_with("mnt", &[]);
    drop_page_cache();
    assert!(fs::read(mount.join("file")).unwrap() == data, "bytes of a damaged cache were returned");
    mount.unmount();
}

#[test]
fn a_lost_or_short_object_is_an_error() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "1M"]);
    let mount = volume.mount();
    for number in 0..3 {
        fs::write(mount.join(format!("file-{number}")), content(number, 2 * MIB + 1000)).unwrap();
    }
    mount.unmount();
    fs::remove_dir_all(volume.dir().join("cache-mnt")).unwrap();
    let mut objects = volume.objects();
    objects.retain(|(path, _)| path.components().any(|part| part.as_os_str() == "chunks"));
    objects.sort();
    // The first slice belongs to file-0, the second one to file-1; their second blocks are hurt.
    let second_block = |file: usize| {
        let (path, _) =
            objects.iter().filter(|(path, _)| path.to_string_lossy().ends_with("_1_1048576")).nth(file).unwrap();
        path.clone()
    };
    fs::remove_file(second_block(0)).unwrap();
    File::options().write(true).open(second_block(1)).unwrap().set_len(1000).unwrap();
    let mount = volume.mount_with("mnt", &["--io-retries", "2"]);
    for number in 0..2 {
        let file = File::open(mount.join(format!("file-{number}"))).unwrap();
        let mut seen = vec![0; 4096];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == content(number, 4096), "the sound part of file-{number}");
        let error = file.read_at(&mut seen, (MIB + 500_000) as u64).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "file-{number}");
    }
    assert!(fs::read(mount.join("file-2")).unwrap() == content(2, 2 * MIB + 1000));
    mount.unmount();
}

#[test]
fn a_compressed_object_that_does_not_decode_is_an_error() {
    for codec in ["lz4", "zstd"] {
        let volume = Volume::with(&["--trash-days", "0", "--compress", codec]);
        let mount = volume.mount();
        // Compressible, so that the object is more than a copy.
        let data: Vec<u8> = (0..MIB).map(|at| (at / 100).to_le_bytes()[0]).collect();
        fs::write(mount.join("file"), &data).unwrap();
        mount.unmount();
        fs::remove_dir_all(volume.dir().join("cache-mnt")).unwrap();
        let (object, length) =
            volume.objects().into_iter().find(|(path, _)| path.to_string_lossy().contains("chunks")).unwrap();
        assert!(length < MIB as u64 / 2, "{codec} did not compress: {length}");
        File::options().write(true).open(&object).unwrap().set_len(length / 2).unwrap();
        let mount = volume.mount_with("mnt", &["--io-retries", "2"]);
        let mut seen = Vec::new();
        let error = File::open(mount.join("file")).unwrap().read_to_end(&mut seen).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{codec}");
        mount.unmount();
    }
}

/// The store goes away under writers and readers, and comes back: what is cached is read all the time, fsync waits or
/// fails but does not lie, and the mount heals by itself.
#[test]
fn an_absent_store_is_waited_for() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "1M"]);
    let mount = volume.mount_with("mnt", &["--io-retries", "5", "--cache-large-write"]);
    let before = content(1, 3 * MIB);
    fs::write(mount.join("before"), &before).unwrap();
    fill_cache(&volume, &mount, "before", 3);
    let hidden = volume.dir().join("hidden");
    fs::rename(volume.bucket(), &hidden).unwrap();
    // A file in its place: nothing can be made below it.
    fs::write(volume.bucket(), "").unwrap();
    drop_page_cache();
    assert!(fs::read(mount.join("before")).unwrap() == before, "cached data cannot be read while the store is away");
    let path = mount.join("during");
    let data = content(2, 2 * MIB);
    let outcome = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut file = File::create(&path)?;
            file.write_all(&data)?;
            file.sync_all()
        });
        thread::sleep(Duration::from_secs(2));
        let early = writer.is_finished();
        fs::remove_file(volume.bucket()).unwrap();
        fs::rename(&hidden, volume.bucket()).unwrap();
        let begun = Instant::now();
        let outcome = writer.join().unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "fsync returned {:?} after the store was back",
            begun.elapsed()
        );
        assert!(!(early && outcome.is_ok()), "fsync said that data is stored where no store was");
        outcome
    });
    if outcome.is_ok() {
        assert!(fs::read(&path).unwrap() == data, "acknowledged data is lost");
    }
    let healed = wait_until(Duration::from_secs(30), || {
        File::create(mount.join("after"))
            .and_then(|mut file| file.write_all(&data).and_then(|()| file.sync_all()))
            .is_ok()
    });
    assert!(healed, "the mount did not heal");
    mount.unmount();
    volume.assert_sound(Rest::Crashed);
    let mount = volume.mount();
    assert!(fs::read(mount.join("before")).unwrap() == before);
    assert!(fs::read(mount.join("after")).unwrap() == data);
    if outcome.is_ok() {
        assert!(fs::read(mount.join("during")).unwrap() == data);
    }
    mount.unmount();
}

/// Another client holds the lock of the metadata file for some seconds: operations wait and then succeed. Only SQLite
/// has such a lock; a server that does not answer is in `redis_faults`.
#[test]
fn a_locked_metadata_file_is_waited_for() {
    let volume = Volume::on(Meta::Sqlite, &["--trash-days", "0"]);
    let mount = volume.mount();
    fs::write(mount.join("before"), "x").unwrap();
    let other = rusqlite::Connection::open(volume.meta_path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let path = mount.join(format!("file-{number}"));
                scope.spawn(move || fs::write(path, "content"))
            })
            .collect();
        // Readers are not in the way of a writer.
        assert_eq!(fs::read(mount.join("before")).unwrap(), b"x");
        thread::sleep(Duration::from_secs(3));
        other.execute_batch("COMMIT").unwrap();
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
    });
    for number in 0..4 {
        assert_eq!(fs::read(mount.join(format!("file-{number}"))).unwrap(), b"content");
    }
    drop(other);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
