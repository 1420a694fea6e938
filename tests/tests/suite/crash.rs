//! kill -9 of the client while writers run: what was acknowledged is there, and nothing is foreign.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use e2e::{BLOCK_SIZE_BYTES, Mount, Owner, Pattern, Rest, Volume, full, judge_block, seed_of, wait_until};
use rand::{Rng, SeedableRng, rngs::StdRng};

const WRITERS: u64 = 8;
const SLOTS_PER_WRITER: u64 = 4;
const SLOT_BLOCKS: usize = 48;
/// Files that a client must have acknowledged before it is killed.
const LEAST_FILES: usize = 8;

/// What the writers know that the file system promised. It lies outside the mount, so the crash cannot touch it.
#[derive(Debug, Default)]
struct Manifest {
    /// Files whose fsync or close returned, with their length.
    whole: Mutex<HashMap<PathBuf, (u64, usize)>>,
    /// Files that were begun: their identity and the length that they would have had.
    begun: Mutex<HashMap<u64, usize>>,
    /// Per file that is overwritten in place: the last version begun and the last version acknowledged.
    slots: Mutex<HashMap<u64, (u64, u64)>>,
    /// Numbers of files ever made, so that no two have the same identity.
    next_file: AtomicU64,
    /// Calls that were cut off by the crash.
    cut_off: AtomicU64,
}

/// One writer until the mount dies under it.
struct Writer {
    run: u64,
    id: u64,
    dir: PathBuf,
    rng: StdRng,
    manifest: Arc<Manifest>,
}

impl Writer {
    fn work(mut self) {
        while self.step().is_ok() {}
        self.manifest.cut_off.fetch_add(1, Ordering::Relaxed);
    }

    fn step(&mut self) -> io::Result<()> {
        match self.rng.random_range(0..10) {
            0..=3 => self.write_new(false),
            4..=6 => self.write_new(true),
            _ => self.overwrite(),
        }
    }

    /// A new file in pieces of random length. Acknowledged by fsync or by close; half of them arrive by rename.
    fn write_new(&mut self, by_rename: bool) -> io::Result<()> {
        let number = self.manifest.next_file.fetch_add(1, Ordering::Relaxed);
        let length = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(4 << 20..9 << 20),
            1..=3 => self.rng.random_range(100_000..3 << 20),
            _ => self.rng.random_range(1..60_000),
        };
        let data = Pattern::of(Owner { run: self.run, file: number, version: 1 }).bytes(length);
        self.manifest.begun.lock().unwrap().insert(number, length);
        let last = self.dir.join(format!("new-{number}"));
        let first = if by_rename { self.dir.join(format!("tmp-{number}")) } else { last.clone() };
        let mut file = File::create(&first)?;
        let mut rest = &data[..];
        while !rest.is_empty() {
            let piece = self.rng.random_range(1..=rest.len().min(200_000));
            file.write_all(&rest[..piece])?;
            rest = &rest[piece..];
        }
        if self.rng.random_bool(0.5) {
            file.sync_all()?;
        } else {
            close(file)?;
        }
        if by_rename {
            fs::rename(&first, &last)?;
        }
        self.manifest.whole.lock().unwrap().insert(last, (number, length));
        if self.rng.random_bool(0.1) {
            self.remove_one()?;
        }
        Ok(())
    }

    /// Unlinks an acknowledged file of this writer; until the call returns both outcomes are right, so it leaves the
    /// manifest first.
    fn remove_one(&mut self) -> io::Result<()> {
        let mine = {
            let mut whole = self.manifest.whole.lock().unwrap();
            let mine = whole.keys().find(|path| path.starts_with(&self.dir)).cloned();
            if let Some(path) = &mine {
                whole.remove(path);
            }
            mine
        };
        mine.map_or(Ok(()), fs::remove_file)
    }

    /// Writes the next version over a file of fixed length and waits for fsync.
    fn overwrite(&mut self) -> io::Result<()> {
        let slot = self.id * SLOTS_PER_WRITER + self.rng.random_range(0..SLOTS_PER_WRITER);
        let version = {
            let mut slots = self.manifest.slots.lock().unwrap();
            let (begun, _) = slots.entry(slot).or_insert((0, 0));
            *begun += 1;
            *begun
        };
        let owner = Owner { run: self.run, file: slot_identity(slot), version };
        let data = Pattern::of(owner).bytes(SLOT_BLOCKS * BLOCK_SIZE_BYTES);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(self.dir.join(slot_name(slot)))?;
        // Blocks in random order, so that slices overlap and interleave.
        let mut order: Vec<usize> = (0..SLOT_BLOCKS).collect();
        rand::seq::SliceRandom::shuffle(&mut order[..], &mut self.rng);
        for index in order {
            let at = index * BLOCK_SIZE_BYTES;
            file.write_all_at(&data[at..at + BLOCK_SIZE_BYTES], at as u64)?;
        }
        file.sync_all()?;
        self.manifest.slots.lock().unwrap().insert(slot, (version, version));
        Ok(())
    }
}

fn slot_name(slot: u64) -> String {
    format!("slot-{slot}")
}

fn slot_identity(slot: u64) -> u64 {
    (1 << 40) + slot
}

fn close(file: File) -> io::Result<()> {
    let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
    // SAFETY: the descriptor was just taken out of its owner, so nobody else closes or uses it.
    if unsafe { libc::close(fd) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Everything that a read of the volume shows must be explained by the manifest.
fn check(mount: &Mount, run: u64, manifest: &Manifest) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, &(number, length)) in manifest.whole.lock().unwrap().iter() {
        let wanted = Pattern::of(Owner { run, file: number, version: 1 }).bytes(length);
        match fs::read(path) {
            Ok(seen) if seen == wanted => {}
            Ok(seen) => faults.push(format!("acknowledged {}: {}", path.display(), first_difference(&seen, &wanted))),
            Err(error) => faults.push(format!("acknowledged {} is lost: {error}", path.display())),
        }
    }
    for writer in 0..WRITERS {
        let dir = mount.join(format!("writer-{writer}"));
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if let Err(fault) = check_file(&path, run, manifest) {
                faults.push(format!("{}: {fault}", path.display()));
            }
        }
    }
    faults
}

/// Judges any file that is there, acknowledged or not.
fn check_file(path: &Path, run: u64, manifest: &Manifest) -> Result<(), String> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let seen = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let (kind, number) = name.split_once('-').ok_or("a foreign name")?;
    let number: u64 = number.parse().map_err(|_| "a foreign name")?;
    match kind {
        "new" | "tmp" => {
            let length = *manifest.begun.lock().unwrap().get(&number).ok_or("a file that nobody wrote")?;
            let wanted = Pattern::of(Owner { run, file: number, version: 1 }).bytes(length);
            if wanted.starts_with(&seen) { Ok(()) } else { Err(first_difference(&seen, &wanted)) }
        }
        "slot" => check_slot(number, &seen, run, manifest),
        _ => Err("a foreign name".into()),
    }
}

/// Each block of a slot is of a version that was begun, and not older than the last acknowledged one.
fn check_slot(slot: u64, seen: &[u8], run: u64, manifest: &Manifest) -> Result<(), String> {
    let (begun, acknowledged) = *manifest.slots.lock().unwrap().get(&slot).ok_or("a slot that nobody wrote")?;
    if acknowledged > 0 && seen.len() != SLOT_BLOCKS * BLOCK_SIZE_BYTES {
        return Err(format!("has {} bytes, version {acknowledged} was acknowledged", seen.len()));
    }
    for (index, block) in seen.chunks(BLOCK_SIZE_BYTES).enumerate() {
        // Before the first acknowledgement a block may not have been written: a hole.
        if acknowledged == 0 && block.iter().all(|&byte| byte == 0) {
            continue;
        }
        let version = judge_block(run, slot_identity(slot), index as u64, block)?;
        if version < acknowledged || version > begun {
            return Err(format!("block {index} is of version {version}, not {acknowledged}..={begun}"));
        }
    }
    Ok(())
}

fn first_difference(seen: &[u8], wanted: &[u8]) -> String {
    let at = seen.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or_else(|| seen.len().min(wanted.len()));
    let zeroes = seen[at..].iter().take_while(|&&byte| byte == 0).count();
    format!("{} bytes, {} expected, first difference at {at} ({zeroes} zeroes there)", seen.len(), wanted.len())
}

fn round(volume: &Volume, flags: &[&str], run: u64, manifest: &Arc<Manifest>, load: Duration) -> usize {
    let before = manifest.whole.lock().unwrap().len();
    let mount = volume.mount_with("mnt", flags);
    let writers: Vec<_> = (0..WRITERS)
        .map(|id| {
            let dir = mount.join(format!("writer-{id}"));
            fs::create_dir_all(&dir).unwrap();
            let rng = StdRng::seed_from_u64(run ^ (id << 32) ^ before as u64);
            let writer = Writer { run, id, dir, rng, manifest: Arc::clone(manifest) };
            thread::Builder::new().name(format!("writer-{id}")).spawn(move || writer.work()).unwrap()
        })
        .collect();
    thread::sleep(load);
    // On a busy machine that takes longer, and a round without files would prove nothing.
    let acknowledged = || manifest.whole.lock().unwrap().len() - before;
    assert!(wait_until(Duration::from_secs(60), || acknowledged() >= LEAST_FILES), "{} files only", acknowledged());
    let wreck = mount.kill();
    for writer in writers {
        writer.join().unwrap();
    }
    wreck.clear();
    assert_eq!(manifest.cut_off.swap(0, Ordering::Relaxed), WRITERS, "the kill came when not all writers ran");
    acknowledged()
}

fn crash_rounds(name: &str, volume: &Volume, flags: &[&str], rounds: u64) {
    let run = seed_of(name, 0xC0FFEE);
    let mut rng = StdRng::seed_from_u64(run);
    let manifest = Arc::new(Manifest::default());
    for number in 0..rounds {
        let load = Duration::from_millis(rng.random_range(700..2500));
        let acknowledged = round(volume, flags, run, &manifest, load);
        println!("round {number}: {acknowledged} files acknowledged in {load:?}");
        // First with the caches that the dead client left, then from the object store alone.
        let mount = volume.mount_with("mnt", flags);
        let faults = check(&mount, run, &manifest);
        assert!(faults.is_empty(), "round {number}:\n{}", faults.join("\n"));
        mount.unmount();
        volume.assert_sound(Rest::Crashed);
    }
    let _ = fs::remove_dir_all(volume.dir().join("cache-mnt"));
    let mount = volume.mount_with("mnt", flags);
    let faults = check(&mount, run, &manifest);
    assert!(faults.is_empty(), "with an empty cache:\n{}", faults.join("\n"));
    // The volume takes everything away again: no name is stuck.
    for writer in 0..WRITERS {
        fs::remove_dir_all(mount.join(format!("writer-{writer}"))).unwrap();
    }
    mount.unmount();
    volume.assert_sound(Rest::Crashed);
}

#[test]
fn acknowledged_files_survive_a_killed_client() {
    crash_rounds("crash", &Volume::new(), &[], if full() { 20 } else { 3 });
}

#[test]
fn acknowledged_files_survive_with_small_compressed_blocks() {
    let volume = Volume::with(&["--trash-days", "1", "--block-size", "64K", "--compress", "lz4"]);
    crash_rounds("crash-64k", &volume, &["--cache-size", "8"], if full() { 6 } else { 1 });
}

/// What was acknowledged may be nowhere but on the local disk. The next client of that disk has it and uploads it; once it
/// has, every other client has it too.
fn writeback_rounds(name: &str, volume: &Volume, rounds: u64) {
    let run = seed_of(name, 0xC0FFEE);
    let mut rng = StdRng::seed_from_u64(run);
    let manifest = Arc::new(Manifest::default());
    let holding = ["--writeback", "--upload-delay", "1h"];
    for number in 0..rounds {
        let load = Duration::from_millis(rng.random_range(700..2500));
        let acknowledged = round(volume, &holding, run, &manifest, load);
        let staged = staged_blocks(volume);
        println!("round {number}: {acknowledged} files acknowledged in {load:?}, {staged} blocks staged");
        assert!(acknowledged >= 8, "a vacuous round: {acknowledged} files in {load:?}");
        assert!(staged > 0, "nothing was staged");
        let mount = volume.mount_with("mnt", &holding);
        let faults = check(&mount, run, &manifest);
        assert!(faults.is_empty(), "round {number}:\n{}", faults.join("\n"));
        assert!(staged_blocks(volume) > 0, "nothing was left to upload");
        let waiting = (mount.stat("staging_blocks"), mount.stat("staging_block_bytes"));
        assert!(waiting.0 > 0.0 && waiting.1 > waiting.0, "{waiting:?} blocks and bytes wait");
        let is_old = || mount.stat("staging_oldest_seconds") > 0.0;
        assert!(wait_until(Duration::from_secs(20), is_old), "what was staged before the crash has no age");
        mount.unmount();
    }
    let mount = volume.mount_with("mnt", &["--writeback"]);
    volume.juicefs(&["umount", "--flush", mount.path().to_str().unwrap()]).expect_success();
    assert!(mount.ended().success());
    assert_eq!(staged_blocks(volume), 0);
    let mount = volume.mount_with("elsewhere", &[]);
    let here = Arc::new(manifest_at(&manifest, &volume.dir().join("mnt"), mount.path()));
    let faults = check(&mount, run, &here);
    assert!(faults.is_empty(), "from another client:\n{}", faults.join("\n"));
    mount.unmount();
    volume.assert_sound(Rest::Crashed);
}

#[test]
fn acknowledged_files_survive_with_writeback() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "256K"]);
    writeback_rounds("crash-writeback", &volume, if full() { 20 } else { 2 });
}

#[test]
fn acknowledged_files_survive_with_writeback_on_s3() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0", "--block-size", "256K", "--compress", "lz4"]);
    writeback_rounds("crash-writeback-s3", &volume, if full() { 20 } else { 2 });
}

/// Blocks that wait on the local disk of the mount `mnt`.
fn staged_blocks(volume: &Volume) -> usize {
    let mut pending = vec![volume.dir().join("cache-mnt")];
    let mut staged = 0;
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let is_staged = path.components().any(|part| part.as_os_str() == "rawstaging");
                staged += usize::from(is_staged && path.extension().is_none_or(|extension| extension != "tmp"));
            }
        }
    }
    staged
}

/// The same promises, seen through another mount point.
fn manifest_at(manifest: &Manifest, from: &Path, to: &Path) -> Manifest {
    let moved = |(path, what): (&PathBuf, &(u64, usize))| (to.join(path.strip_prefix(from).unwrap()), *what);
    Manifest {
        whole: Mutex::new(manifest.whole.lock().unwrap().iter().map(moved).collect()),
        begun: Mutex::new(manifest.begun.lock().unwrap().clone()),
        slots: Mutex::new(manifest.slots.lock().unwrap().clone()),
        next_file: AtomicU64::new(0),
        cut_off: AtomicU64::new(0),
    }
}

/// A file that was open and unlinked when its client died is removed by a later client, with its objects.
#[test]
fn orphans_of_a_dead_session_are_removed() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--heartbeat", "1"]);
    let path = mount.join("orphan");
    let mut file = File::create(&path).unwrap();
    file.write_all(&vec![7; 3 << 20]).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!volume.objects().is_empty());
    mount.kill().clear();
    drop(file);
    let mount = volume.mount_with("mnt", &["--heartbeat", "1"]);
    let gone = wait_until(Duration::from_secs(60), || volume.objects().is_empty());
    assert!(gone, "the objects of the orphan are still there: {:?}", volume.objects());
    mount.unmount();
}
