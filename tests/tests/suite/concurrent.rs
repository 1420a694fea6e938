//! Many threads at work in one mount.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use e2e::{BLOCK_SIZE_BYTES, Mount, Owner, Pattern, Rest, Volume, full, judge_block, seed_of, wait_until};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::fs::statvfs;

/// Writers rewrite blocks of one file, readers check that each block is whole and of this file.
#[test]
fn readers_see_whole_blocks_while_writers_rewrite_them() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "256K"]);
    let mount = volume.mount_with("mnt", &["--cache-size", "32"]);
    let path = mount.join("file");
    const BLOCKS: u64 = 1024;
    let seed = seed_of("rewrite", 21);
    let block =
        |index: u64, version: u64| Pattern::of(Owner { run: seed, file: index, version }).bytes(BLOCK_SIZE_BYTES);
    let mut file = File::create(&path).unwrap();
    for index in 0..BLOCKS {
        file.write_all(&block(index, 1)).unwrap();
    }
    drop(file);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..4u64 {
            let (path, block, done) = (&path, &block, &done);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed + writer);
                let mut version = 2;
                while !done.load(Ordering::Relaxed) {
                    let file = File::options().write(true).open(path).unwrap();
                    for _ in 0..rng.random_range(1..60) {
                        // Each writer has its own blocks, so that versions of a block only grow.
                        let index = rng.random_range(0..BLOCKS / 4) * 4 + writer;
                        file.write_all_at(&block(index, version), index * BLOCK_SIZE_BYTES as u64).unwrap();
                        version += 1;
                    }
                    if rng.random_bool(0.3) {
                        file.sync_all().unwrap();
                    }
                }
            });
        }
        for reader in 0..3u64 {
            let path = &path;
            let done = &done;
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed ^ (reader << 20));
                let file = File::open(path).unwrap();
                let mut seen = vec![0; BLOCK_SIZE_BYTES];
                let mut newest = vec![0; usize::try_from(BLOCKS).unwrap()];
                while !done.load(Ordering::Relaxed) {
                    let index = rng.random_range(0..BLOCKS);
                    // The kernel copies from its cached page while a write copies to it, on every file system: one
                    // read may be torn, the same block twice in a row not.
                    let mut judge = || {
                        file.read_exact_at(&mut seen, index * BLOCK_SIZE_BYTES as u64).unwrap();
                        judge_block(seed, index, 0, &seen)
                    };
                    let version = judge().or_else(|_| judge()).or_else(|_| judge()).unwrap();
                    let newest = &mut newest[usize::try_from(index).unwrap()];
                    assert!(version >= *newest, "block {index} went back from version {newest} to {version}");
                    *newest = version;
                }
            });
        }
        thread::sleep(Duration::from_secs(if full() { 30 } else { 5 }));
        done.store(true, Ordering::Relaxed);
    });
    mount.unmount();
    let mount = volume.mount();
    let seen = fs::read(mount.join("file")).unwrap();
    for (index, block) in seen.chunks(BLOCK_SIZE_BYTES).enumerate() {
        judge_block(seed, index as u64, 0, block).unwrap();
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Threads fight over a handful of names with every call that changes a directory. The outcome of a single call is
/// open, but only a few errors are legal, and the tree must be sound in the end.
#[test]
fn a_fight_over_few_names_leaves_a_sound_tree() {
    let volume = Volume::new();
    let mount = volume.mount();
    let used = |mount: &Mount| {
        let stat = statvfs(mount.path()).unwrap();
        stat.f_files - stat.f_ffree
    };
    let used_at_first = used(&mount);
    let root = mount.join("fight");
    for dir in ["a", "b"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let seed = seed_of("fight", 22);
    let end = Instant::now() + Duration::from_secs(if full() { 30 } else { 6 });
    thread::scope(|scope| {
        for fighter in 0..8u64 {
            let root = &root;
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed + fighter);
                let mut calls = 0;
                while Instant::now() < end {
                    blow(&mut rng, root);
                    calls += 1;
                }
                assert!(calls > 20, "only {calls} calls in the whole time");
            });
        }
    });
    mount.unmount();
    let mount = volume.mount();
    let links = count_links(&mount.join("fight"));
    for (ino, (seen, nlink)) in links {
        assert_eq!(seen, nlink, "inode {ino} has nlink {nlink} but {seen} names");
    }
    fs::remove_dir_all(mount.join("fight")).unwrap();
    let settled = wait_until(Duration::from_secs(5), || used(&mount) == used_at_first);
    assert!(settled, "{} inodes are used by an empty volume, {used_at_first} were at first", used(&mount));
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

fn blow(rng: &mut StdRng, root: &Path) {
    let pick =
        |rng: &mut StdRng| root.join(["a", "b"][rng.random_range(0..2)]).join(["x", "y", "z"][rng.random_range(0..3)]);
    let (one, two) = (pick(rng), pick(rng));
    let result: io::Result<()> = match rng.random_range(0..9) {
        0 => fs::write(&one, "content"),
        1 => fs::create_dir(&one),
        2 => fs::remove_file(&one),
        3 => fs::remove_dir(&one),
        4 => fs::rename(&one, &two),
        5 => fs::hard_link(&one, &two),
        6 => fs::read(&one).map(drop),
        7 => fs::read_dir(one.parent().unwrap()).map(|list| list.for_each(drop)),
        _ => std::os::unix::fs::symlink("x", &one),
    };
    let legal = [
        libc::ENOENT,
        libc::EEXIST,
        libc::EISDIR,
        libc::ENOTDIR,
        libc::ENOTEMPTY,
        libc::EPERM,
        libc::ELOOP,
        libc::EINVAL,
        libc::EBUSY,
    ];
    if let Err(error) = result {
        let code = error.raw_os_error().unwrap_or(0);
        assert!(legal.contains(&code), "{one:?} {two:?}: {error}");
    }
}

/// For each file below `root`: how many names were found, and its nlink.
fn count_links(root: &Path) -> std::collections::BTreeMap<u64, (u64, u64)> {
    let mut found = std::collections::BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let meta = fs::metadata(&dir).unwrap();
        let mut directories = 2;
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                directories += 1;
                pending.push(path);
            } else {
                found.entry(meta.ino()).or_insert((0, meta.nlink())).0 += 1;
            }
        }
        found.insert(meta.ino(), (directories, meta.nlink()));
    }
    found
}
