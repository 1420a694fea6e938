//! Two clients at work in the same directories of one volume on Redis: nothing is lost, foreign or stuck.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use e2e::{BLOCK_SIZE_BYTES, Meta, Owner, Pattern, Rest, Volume, full, judge_block, seed_of, snapshot, wait_until};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Names and attributes may be a second old; this is that and what a busy machine takes.
const CACHE_LIMIT: Duration = Duration::from_secs(15);
const WORKERS: u64 = 3;
const NAMES: u32 = 25;
/// Below one of our own, since the root also has files that are not stored.
const DIRECTORIES: [&str; 4] = ["w", "w/a", "w/b", "w/a/deep"];

/// What all workers know together.
#[derive(Default)]
struct Ledger {
    next_file: AtomicU64,
    /// Lengths of files by their number; whatever is found under any name must be one of them.
    lengths: Mutex<HashMap<u64, usize>>,
    /// Calls that succeeded, by what they were.
    done: Mutex<HashMap<&'static str, u64>>,
}

struct Worker<'a> {
    root: &'a Path,
    run: u64,
    rng: StdRng,
    ledger: &'a Ledger,
}

/// What another client may do to a path at any moment.
fn is_race(error: &io::Error) -> bool {
    let races = [
        libc::ENOENT,
        libc::EEXIST,
        libc::ENOTEMPTY,
        libc::ENOTDIR,
        libc::EISDIR,
        libc::EINVAL,
        libc::ESTALE,
        // link and unlink of what has become a directory.
        libc::EPERM,
    ];
    error.raw_os_error().is_some_and(|code| races.contains(&code))
}

impl Worker<'_> {
    fn work_until(mut self, end: Instant) {
        while Instant::now() < end {
            let (what, result) = self.step();
            match result {
                Ok(()) => *self.ledger.done.lock().unwrap().entry(what).or_default() += 1,
                Err(error) if is_race(&error) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }

    fn any_path(&mut self) -> PathBuf {
        let dir = DIRECTORIES[self.rng.random_range(0..DIRECTORIES.len())];
        self.root.join(dir).join(format!("name-{}", self.rng.random_range(0..NAMES)))
    }

    fn step(&mut self) -> (&'static str, io::Result<()>) {
        let path = self.any_path();
        let other = self.any_path();
        match self.rng.random_range(0..20) {
            0..=5 => ("replace", self.replace(&path)),
            6..=8 => ("rename", fs::rename(&path, &other)),
            9..=10 => ("unlink", fs::remove_file(&path)),
            11 => ("link", fs::hard_link(&path, &other)),
            12 => ("mkdir", fs::create_dir(&path)),
            13..=14 => ("rmdir", fs::remove_dir(&path)),
            15 => (
                "list",
                fs::read_dir(self.root.join(DIRECTORIES[0]))
                    .and_then(|mut names| names.try_for_each(|entry| entry.map(drop))),
            ),
            16 => ("touch", File::create_new(&path).map(drop)),
            _ => ("read", self.read(&path)),
        }
    }

    /// Writes a whole file beside and renames it over the name.
    fn replace(&mut self, path: &Path) -> io::Result<()> {
        let number = self.ledger.next_file.fetch_add(1, Ordering::Relaxed);
        let blocks = self.rng.random_range(1..20);
        let data = Pattern::of(Owner { run: self.run, file: number, version: 1 }).bytes(blocks * BLOCK_SIZE_BYTES);
        self.ledger.lengths.lock().unwrap().insert(number, data.len());
        let temporary = path.with_file_name(format!(".new-{number}"));
        let mut file = File::create_new(&temporary)?;
        file.write_all(&data)?;
        drop(file);
        // A directory may have the name.
        fs::rename(&temporary, path).inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
    }

    /// What is read is one file, from its beginning to its end.
    fn read(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut seen = Vec::new();
        // A file that the other client removes while it is open here is gone: the read may fail, or end early.
        let whole = file.read_to_end(&mut seen).is_ok();
        judge(self.run, self.ledger, &seen, whole && path.exists()).map_err(io::Error::other)
    }
}

/// Whether these bytes are a file that somebody wrote, or the empty one of `touch`.
fn judge(run: u64, ledger: &Ledger, seen: &[u8], whole: bool) -> Result<(), String> {
    if seen.is_empty() {
        return Ok(());
    }
    let number = u64::from_be_bytes(seen.get(8..16).ok_or("a torn header")?.try_into().expect("eight bytes"));
    for (index, block) in seen.chunks(BLOCK_SIZE_BYTES).enumerate() {
        judge_block(run, number, index as u64, block)?;
    }
    let length = ledger.lengths.lock().unwrap().get(&number).copied();
    if whole && length != Some(seen.len()) {
        return Err(format!("file {number} has {} bytes, {length:?} were written", seen.len()));
    }
    Ok(())
}

#[test]
fn two_mounts_in_the_same_directories_stay_sound() {
    let seed = seed_of("together", 61);
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let mounts = ["one", "two"].map(|place| volume.mount_with(place, &["--heartbeat", "2"]));
    for dir in DIRECTORIES {
        fs::create_dir(mounts[0].join(dir)).unwrap();
    }
    assert!(wait_until(CACHE_LIMIT, || mounts[1].join("w/a/deep").exists()));
    let ledger = Ledger::default();
    let end = Instant::now() + Duration::from_secs(if full() { 300 } else { 20 });
    thread::scope(|scope| {
        for (side, mount) in (0u64..).zip(&mounts) {
            for id in 0..WORKERS {
                let rng = StdRng::seed_from_u64(seed ^ (side << 32 | id << 8));
                let worker = Worker { root: mount.path(), run: seed, rng, ledger: &ledger };
                scope.spawn(move || worker.work_until(end));
            }
        }
    });
    let done = ledger.done.lock().unwrap().clone();
    println!("{done:?}");
    for what in ["replace", "rename", "unlink", "link", "mkdir", "rmdir", "read"] {
        assert!(done.get(what).is_some_and(|&count| count > 10), "hardly any {what} succeeded: {done:?}");
    }
    let look = || mounts.each_ref().map(|mount| snapshot(&mount.join("w")));
    let mut trees = look();
    let equal = wait_until(CACHE_LIMIT, || {
        trees = look();
        trees[0] == trees[1]
    });
    let names = trees.each_ref().map(|tree| tree.keys().collect::<Vec<_>>());
    assert!(equal, "the mounts show different trees: {names:?}");
    for (path, entry) in &trees[0] {
        judge(seed, &ledger, &entry.content, true).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
    }
    for mount in mounts {
        mount.unmount();
    }
    volume.assert_sound(Rest::Clean);
}

/// A file that its own client has open lives on after its last name, whoever else is there.
#[test]
fn an_open_file_outlives_its_name() {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let [one, two] = ["one", "two"].map(|place| volume.mount_with(place, &["--heartbeat", "1"]));
    let data = Pattern::of(Owner { run: 62, file: 1, version: 1 }).bytes(3 << 20);
    let file = File::options().read(true).write(true).create_new(true).open(one.join("file")).unwrap();
    file.write_all_at(&data, 0).unwrap();
    file.sync_all().unwrap();
    assert!(wait_until(CACHE_LIMIT, || fs::read(two.join("file")).is_ok_and(|seen| seen == data)));
    fs::remove_file(one.join("file")).unwrap();
    assert!(wait_until(CACHE_LIMIT, || !two.join("file").exists()), "the removal does not arrive");
    // Heartbeats of both go by, and the name is used again.
    thread::sleep(Duration::from_secs(3));
    fs::write(two.join("file"), "another one").unwrap();
    let mut seen = vec![0; data.len()];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == data, "the open file has changed");
    file.write_all_at(b"still writable", 100).unwrap();
    file.sync_all().unwrap();
    file.read_exact_at(&mut seen[..14], 100).unwrap();
    assert_eq!(&seen[..14], b"still writable");
    drop(file);
    let gone = wait_until(CACHE_LIMIT, || volume.redis().keys("session[0-9]*").is_empty());
    assert!(gone, "the removed file is kept after its close");
    assert_eq!(fs::read(two.join("file")).unwrap(), b"another one");
    one.unmount();
    two.unmount();
    volume.assert_sound(Rest::Clean);
}

/// A file that only the other client has open is removed at once. Its reader gets its bytes or an error, and nothing else.
#[test]
fn a_file_removed_by_the_other_client_is_never_foreign() {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let [one, two] = ["one", "two"].map(|place| volume.mount_with(place, &["--cache-size", "0"]));
    let data = Pattern::of(Owner { run: 63, file: 1, version: 1 }).bytes(9 << 20);
    fs::write(one.join("file"), &data).unwrap();
    assert!(wait_until(CACHE_LIMIT, || two.join("file").exists()));
    let file = File::open(two.join("file")).unwrap();
    fs::remove_file(one.join("file")).unwrap();
    let gone = wait_until(Duration::from_secs(30), || volume.objects().is_empty());
    assert!(gone, "the objects of a removed file stay: {:?}", volume.objects());
    fs::write(one.join("file"), vec![1; data.len()]).unwrap();
    let mut seen = vec![0; 4096];
    for at in (0..data.len()).step_by(1 << 20) {
        if file.read_exact_at(&mut seen, at as u64).is_ok() {
            assert!(seen == data[at..at + 4096], "foreign bytes at {at}");
        }
    }
    drop(file);
    one.unmount();
    two.unmount();
    volume.assert_sound(Rest::Clean);
}
