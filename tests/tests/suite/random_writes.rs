//! Large writes at random places of one file, hardly ever synced, with everything else that changes a file in between:
//! by calls and by mappings, compared with a local file.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use e2e::{Rest, Volume, full, seed_of};
use rand::{Rng, SeedableRng, rngs::StdRng};

const MIB: usize = 1 << 20;
/// Largest write.
const WRITE_MAX: usize = 8 * MIB;
/// Writes begin within as many bytes.
const SPREAD: u64 = 12 << 20;
/// Where the part of the file begins that is used: everything before it is a hole. The second crosses two chunks.
const BASES: [u64; 2] = [0, (64 << 20) - SPREAD / 2];
const PAGE: u64 = 4096;

/// One of the two files, with descriptors of several kinds.
struct Side {
    path: PathBuf,
    files: Vec<File>,
    append: File,
}

impl Side {
    fn new(path: PathBuf) -> Self {
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let files = (0..3).map(|_| open()).collect();
        let append = OpenOptions::new().append(true).open(&path).unwrap();
        Self { path, files, append }
    }

    fn length(&self) -> u64 {
        self.files[0].metadata().unwrap().len()
    }

    /// Through a mapping, which is dropped before anything of it needs to be stored.
    fn write_mapped(&self, file: usize, at: u64, data: &[u8]) -> io::Result<()> {
        let start = at - at % PAGE;
        let skip = usize::try_from(at - start).unwrap();
        let (length, flags) = (skip + data.len(), libc::PROT_READ | libc::PROT_WRITE);
        let offset = i64::try_from(start).unwrap();
        // SAFETY: the mapping is new, lies wholly within the file that nobody else cuts, and is only written within its
        // length before it is unmapped.
        unsafe {
            let fd = self.files[file].as_raw_fd();
            let map = libc::mmap(std::ptr::null_mut(), length, flags, libc::MAP_SHARED, fd, offset);
            if map == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            std::ptr::copy_nonoverlapping(data.as_ptr(), map.cast::<u8>().add(skip), data.len());
            if libc::munmap(map, length) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    fn punch(&self, file: usize, at: u64, length: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (at, length) = (i64::try_from(at).unwrap(), i64::try_from(length).unwrap());
        // SAFETY: fallocate(2) takes plain numbers, and the descriptor is open.
        let result = unsafe { libc::fallocate(self.files[file].as_raw_fd(), mode, at, length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn copy(&self, from: (usize, u64), to: (usize, u64), length: usize) -> io::Result<()> {
        let (mut off_in, mut off_out) = (i64::try_from(from.1).unwrap(), i64::try_from(to.1).unwrap());
        let mut left = length;
        while left > 0 {
            let (fd_in, fd_out) = (self.files[from.0].as_raw_fd(), self.files[to.0].as_raw_fd());
            // SAFETY: both descriptors are open and both offsets are ours.
            let copied = unsafe { libc::copy_file_range(fd_in, &mut off_in, fd_out, &mut off_out, left, 0) };
            match usize::try_from(copied) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(copied) => left -= copied,
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }

    fn reopen(&mut self, file: usize) -> io::Result<()> {
        self.files[file] = OpenOptions::new().read(true).write(true).open(&self.path)?;
        Ok(())
    }
}

struct Run {
    seed: u64,
    rng: StdRng,
    base: u64,
    ours: Side,
    local: Side,
    unit: Vec<u8>,
    step: usize,
}

impl Run {
    fn new(seed: u64, mount: &Path, local: &Path) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let base = BASES[rng.random_range(0..BASES.len())];
        let name = format!("random-{seed}");
        let mut unit = vec![0; 2 * WRITE_MAX];
        rng.fill(&mut unit[..]);
        Self { seed, rng, base, ours: Side::new(mount.join(&name)), local: Side::new(local.join(&name)), unit, step: 0 }
    }

    /// Does the same to both; both must succeed.
    fn both(&mut self, what: &str, mut act: impl FnMut(&mut Side) -> io::Result<()>) {
        act(&mut self.local).unwrap_or_else(|error| panic!("local {what}: {error}"));
        let (seed, step) = (self.seed, self.step);
        act(&mut self.ours).unwrap_or_else(|error| panic!("JUICEFS_TEST_SEED={seed}, step {step}: {what}: {error}"));
    }

    /// From one byte to `most`, each order of magnitude as often as the others.
    fn size(&mut self, most: usize) -> usize {
        let bits = self.rng.random_range(0..=most.ilog2());
        self.rng.random_range(1..=(2_usize << bits).min(most))
    }

    fn place(&mut self) -> u64 {
        self.base + self.rng.random_range(0..SPREAD)
    }

    fn file(&mut self) -> usize {
        self.rng.random_range(0..3)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let from = self.rng.random_range(0..self.unit.len() - length);
        self.unit[from..from + length].to_vec()
    }

    /// A part of the file that is used, possibly empty.
    fn part(&mut self, most: usize) -> (u64, usize) {
        let (at, length) = (self.place(), self.size(most));
        let left = self.local.length().saturating_sub(at);
        (at, length.min(usize::try_from(left).unwrap()))
    }

    fn write(&mut self, most: usize) {
        let (file, at, length) = (self.file(), self.place(), self.size(most));
        let data = self.bytes(length);
        self.both(&format!("write of {length} at {at}"), |side| side.files[file].write_all_at(&data, at));
    }

    fn write_mapped(&mut self) {
        let (file, (at, length)) = (self.file(), self.part(WRITE_MAX));
        if length > 0 {
            let data = self.bytes(length);
            self.both(&format!("mapped write of {length} at {at}"), |side| side.write_mapped(file, at, &data));
        }
    }

    fn append(&mut self) {
        let length = self.size(MIB);
        let data = self.bytes(length);
        self.both(&format!("append of {length}"), |side| side.append.write_all(&data));
    }

    fn read(&mut self) {
        let (file, (at, length)) = (self.file(), self.part(WRITE_MAX));
        let (mut ours, mut local) = (vec![0; length], vec![0; length]);
        self.local.files[file].read_exact_at(&mut local, at).unwrap();
        // The side that comes last is ours.
        self.both("read", |side| side.files[file].read_exact_at(&mut ours, at));
        assert!(ours == local, "JUICEFS_TEST_SEED={}, step {}: read of {length} at {at}", self.seed, self.step);
    }

    fn copy(&mut self) {
        let ((from, length), to) = (self.part(WRITE_MAX), self.place());
        let (file_in, file_out) = (self.file(), self.file());
        let end = length as u64;
        if length > 0 && (from + end <= to || to + end <= from) {
            let what = format!("copy of {length} from {from} to {to}");
            self.both(&what, |side| side.copy((file_in, from), (file_out, to), length));
        }
    }

    fn one(&mut self) {
        match self.rng.random_range(0..100) {
            0..56 => self.write(WRITE_MAX),
            56..60 => (0..300).for_each(|_| self.write(100)),
            60..66 => self.write_mapped(),
            66..74 => self.append(),
            74..80 => self.read(),
            80..84 => {
                let (file, size) = (self.file(), self.place());
                self.both(&format!("truncate to {size}"), |side| side.files[file].set_len(size));
            }
            84..88 => {
                let (file, (at, length)) = (self.file(), self.part(WRITE_MAX));
                if length > 0 {
                    self.both(&format!("punch of {length} at {at}"), |side| side.punch(file, at, length as u64));
                }
            }
            88..93 => self.copy(),
            93..95 => {
                let file = self.file();
                self.both("fsync", |side| side.files[file].sync_all());
            }
            95..98 => {
                let file = self.file();
                self.both("reopen", |side| side.reopen(file));
            }
            _ => assert_eq!(self.ours.length(), self.local.length(), "JUICEFS_TEST_SEED={}", self.seed),
        }
        self.step += 1;
    }

    /// Everything, through descriptors that know nothing.
    fn check(&self, ours: &Path) {
        let open = |path: &Path| {
            let mut file = File::open(path).unwrap();
            file.seek(SeekFrom::Start(self.base)).unwrap();
            file
        };
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        open(ours).read_to_end(&mut mine).unwrap();
        open(&self.local.path).read_to_end(&mut theirs).unwrap();
        let first = mine.iter().zip(&theirs).position(|(mine, theirs)| mine != theirs);
        assert!(mine == theirs, "JUICEFS_TEST_SEED={}: differs from {first:?} on", self.seed);
    }
}

/// How many seeds to run: a replay is about one.
fn seeds(usual: u64, long: u64) -> u64 {
    match (env::var_os("JUICEFS_TEST_SEED").is_some(), full()) {
        (true, _) => 1,
        (false, true) => long,
        (false, false) => usual,
    }
}

/// Runs the seeds on one mount, two at a time; what they left is compared once more after a remount.
fn agree(volume: &Volume, flags: &[&str], first: u64, count: u64, steps: usize) {
    let local = tempfile::tempdir().unwrap();
    let mount = volume.mount_with("mnt", flags);
    let next = AtomicU64::new(first);
    let runs: Vec<Run> = thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + count {
                            return done;
                        }
                        let mut run = Run::new(seed, mount.path(), local.path());
                        (0..steps).for_each(|_| run.one());
                        run.unit = Vec::new();
                        run.check(&run.ours.path);
                        done.push(run);
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(mount.stat("write_left_behind") > 0.0, "no writer left slices behind");
    let names: Vec<_> = runs.iter().map(|run| run.ours.path.file_name().unwrap().to_owned()).collect();
    let runs: Vec<_> = runs
        .into_iter()
        .map(|mut run| {
            // Nothing may be open when it is unmounted.
            run.ours.files.clear();
            run.ours.append = File::open("/dev/null").unwrap();
            run
        })
        .collect();
    mount.unmount();
    let mount = volume.mount_with("mnt", flags);
    for (run, name) in runs.iter().zip(names) {
        run.check(&mount.join(name));
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn large_random_writes_agree_with_a_local_file() {
    let first = seed_of("large_random_writes_agree_with_a_local_file", 1);
    agree(&Volume::new(), &[], first, seeds(12, 60), 40);
}

/// Little memory and small blocks: writes wait for one another's uploads.
#[test]
fn large_random_writes_agree_where_memory_is_short() {
    let first = seed_of("large_random_writes_agree_where_memory_is_short", 1001);
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "256K", "--compress", "lz4"]);
    agree(&volume, &["--buffer-size", "32", "--cache-size", "0"], first, seeds(8, 40), 40);
}
