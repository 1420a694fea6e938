//! The same random calls on a mount and on the local file system: every result and the final tree are equal.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use e2e::{Mount, Rest, Volume, full, seed_of, snapshot};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, fallocate, mknodat, renameat_with};

const NAMES: [&str; 6] = ["a", "b", "c", "dir", "e", "long-name-of-an-entry"];

/// A call that can be made on any root.
#[derive(Debug, Clone)]
enum Call {
    Write {
        path: PathBuf,
        at: u64,
        byte: u8,
        length: usize,
    },
    Append {
        path: PathBuf,
        byte: u8,
        length: usize,
    },
    Truncate {
        path: PathBuf,
        length: u64,
    },
    Punch {
        path: PathBuf,
        at: u64,
        length: u64,
        keep: bool,
    },
    Read {
        path: PathBuf,
        at: u64,
        length: usize,
    },
    Copy {
        from: PathBuf,
        to: PathBuf,
        at: u64,
        length: u64,
    },
    CreateNew(PathBuf),
    Mkdir(PathBuf, u32),
    Mknod(PathBuf),
    Symlink(String, PathBuf),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    RenameWith(PathBuf, PathBuf, bool),
    Unlink(PathBuf),
    Rmdir(PathBuf),
    Chmod(PathBuf, u32),
    Chown(PathBuf, u32, u32),
    List(PathBuf),
    Stat(PathBuf),
    /// Keeps the file open in one of a few slots, so that unlinked files are used.
    Open(PathBuf, usize),
    WriteOpen {
        slot: usize,
        byte: u8,
        length: usize,
    },
    ReadOpen {
        slot: usize,
    },
    Close(usize),
}

/// One side of the comparison.
struct Side {
    root: PathBuf,
    open: [Option<File>; 3],
}

impl Side {
    fn new(root: PathBuf) -> Self {
        fs::create_dir(&root).unwrap();
        Self { root, open: [None, None, None] }
    }

    /// The outcome of a call: what it answers, or its errno.
    fn apply(&mut self, call: &Call) -> Result<String, i32> {
        self.attempt(call).map_err(|error| error.raw_os_error().unwrap_or(-1))
    }

    fn attempt(&mut self, call: &Call) -> io::Result<String> {
        let at_root = |path: &Path| self.root.join(path);
        match call {
            Call::Write { path, at, byte, length } => {
                let file = File::options().write(true).create(true).truncate(false).open(at_root(path))?;
                file.write_all_at(&vec![*byte; *length], *at)?;
            }
            Call::Append { path, byte, length } => {
                File::options().append(true).open(at_root(path))?.write_all(&vec![*byte; *length])?;
            }
            Call::Truncate { path, length } => File::options().write(true).open(at_root(path))?.set_len(*length)?,
            Call::Punch { path, at, length, keep } => {
                let file = File::options().write(true).open(at_root(path))?;
                let flags = if *keep {
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
                } else {
                    FallocateFlags::ZERO_RANGE
                };
                fallocate(&file, flags, *at, *length)?;
            }
            Call::Read { path, at, length } => {
                let mut data = vec![0; *length];
                let file = File::open(at_root(path))?;
                let count = file.read_at(&mut data, *at)?;
                return Ok(digest(&data[..count]));
            }
            Call::Copy { from, to, at, length } => {
                let source = File::open(at_root(from))?;
                let target = File::options().write(true).open(at_root(to))?;
                let (mut read_at, mut write_at) = (*at, *at / 2);
                let length = usize::try_from(*length).unwrap();
                // A shorter copy is legal; both sides end at the same place when it is repeated.
                while rustix::fs::copy_file_range(&source, Some(&mut read_at), &target, Some(&mut write_at), length)?
                    > 0
                    && read_at < at + length as u64
                {}
            }
            Call::CreateNew(path) => drop(File::create_new(at_root(path))?),
            Call::Mkdir(path, mode) => {
                fs::create_dir(at_root(path))?;
                fs::set_permissions(at_root(path), fs::Permissions::from_mode(*mode))?;
            }
            Call::Mknod(path) => mknodat(CWD, at_root(path), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?,
            Call::Symlink(target, path) => symlink(target, at_root(path))?,
            Call::Link(from, to) => fs::hard_link(at_root(from), at_root(to))?,
            Call::Rename(from, to) => fs::rename(at_root(from), at_root(to))?,
            Call::RenameWith(from, to, exchange) => {
                let flags = if *exchange { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
                renameat_with(CWD, at_root(from), CWD, at_root(to), flags)?;
            }
            Call::Unlink(path) => fs::remove_file(at_root(path))?,
            Call::Rmdir(path) => fs::remove_dir(at_root(path))?,
            Call::Chmod(path, mode) => fs::set_permissions(at_root(path), fs::Permissions::from_mode(*mode))?,
            Call::Chown(path, uid, gid) => std::os::unix::fs::lchown(at_root(path), Some(*uid), Some(*gid))?,
            Call::List(path) => {
                let list: io::Result<Vec<_>> = fs::read_dir(at_root(path))?.map(|e| Ok(e?.file_name())).collect();
                let mut list = list?;
                list.sort();
                return Ok(format!("{list:?}"));
            }
            Call::Stat(path) => {
                let meta = fs::symlink_metadata(at_root(path))?;
                let size = if meta.is_file() || meta.is_symlink() { meta.len() } else { 0 };
                return Ok(format!("{:o} {} {} {} {size}", meta.mode(), meta.nlink(), meta.uid(), meta.gid()));
            }
            Call::Open(path, slot) => {
                let path = at_root(path);
                // Opening a pipe waits for its other end.
                if fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_fifo()) {
                    return Ok("a pipe".into());
                }
                self.open[*slot] = Some(File::options().read(true).write(true).open(path)?);
            }
            Call::WriteOpen { slot, byte, length } => {
                if let Some(file) = &mut self.open[*slot] {
                    file.seek(SeekFrom::End(0))?;
                    file.write_all(&vec![*byte; *length])?;
                }
            }
            Call::ReadOpen { slot } => {
                if let Some(file) = &mut self.open[*slot] {
                    let mut data = Vec::new();
                    file.seek(SeekFrom::Start(0))?;
                    file.read_to_end(&mut data)?;
                    return Ok(format!("{} nlink {}", digest(&data), file.metadata()?.nlink()));
                }
            }
            Call::Close(slot) => self.open[*slot] = None,
        }
        Ok(String::new())
    }
}

/// Enough of some bytes to compare them by eye as well.
fn digest(data: &[u8]) -> String {
    let mut runs: Vec<(u8, usize)> = Vec::new();
    for &byte in data {
        match runs.last_mut() {
            Some((last, count)) if *last == byte => *count += 1,
            _ => runs.push((byte, 1)),
        }
    }
    format!("{} bytes {runs:?}", data.len())
}

fn any_path(rng: &mut StdRng) -> PathBuf {
    let depth = [1, 1, 2, 2, 3][rng.random_range(0..5)];
    (0..depth).map(|_| NAMES[rng.random_range(0..NAMES.len())]).collect()
}

/// Offsets and lengths near the places where a block, a chunk or a page ends.
fn any_offset(rng: &mut StdRng) -> u64 {
    let near = [0u64, 4096, 65_536, 131_072, 1 << 20][rng.random_range(0..5)];
    (near + rng.random_range(0..5000)).saturating_sub(2500)
}

fn any_call(rng: &mut StdRng) -> Call {
    let path = any_path(rng);
    let byte = rng.random_range(1..=255);
    let length = usize::try_from(any_offset(rng)).unwrap() / 4 + 1;
    let slot = rng.random_range(0..3);
    match rng.random_range(0..34) {
        0..=3 => Call::Write { path, at: any_offset(rng), byte, length },
        4 => Call::Append { path, byte, length },
        5 => Call::Truncate { path, length: any_offset(rng) },
        6 => Call::Punch { path, at: any_offset(rng), length: length as u64, keep: rng.random_bool(0.6) },
        7 | 8 => Call::Read { path, at: any_offset(rng), length },
        9 => Call::Copy { from: path, to: any_path(rng), at: any_offset(rng), length: length as u64 },
        10 | 11 => Call::CreateNew(path),
        12..=14 => Call::Mkdir(path, [0o755, 0o700, 0o2775, 0o1777][rng.random_range(0..4)]),
        15 => Call::Mknod(path),
        16 => Call::Symlink(any_path(rng).to_string_lossy().into_owned(), path),
        17 | 18 => Call::Link(path, any_path(rng)),
        19..=21 => Call::Rename(path, any_path(rng)),
        22 => Call::RenameWith(path, any_path(rng), rng.random_bool(0.7)),
        23 | 24 => Call::Unlink(path),
        25 => Call::Rmdir(path),
        26 => Call::Chmod(path, [0o644, 0o600, 0o755, 0o4755, 0o2711][rng.random_range(0..5)]),
        27 => Call::Chown(path, rng.random_range(0..3), rng.random_range(0..3)),
        28 => Call::List(path.parent().map(Path::to_owned).unwrap_or_default()),
        29 => Call::Stat(path),
        30 => Call::Open(path, slot),
        31 => Call::WriteOpen { slot, byte, length: length.min(20_000) },
        32 => Call::ReadOpen { slot },
        _ => Call::Close(slot),
    }
}

/// Calls that read or write through a pipe would wait for its other end.
fn touches_a_pipe(call: &Call, root: &Path) -> bool {
    let is_pipe = |path: &PathBuf| fs::metadata(root.join(path)).is_ok_and(|meta| meta.file_type().is_fifo());
    match call {
        Call::Write { path, .. }
        | Call::Append { path, .. }
        | Call::Truncate { path, .. }
        | Call::Punch { path, .. }
        | Call::Read { path, .. } => is_pipe(path),
        Call::Copy { from, to, .. } => is_pipe(from) || is_pipe(to) || from == to || same_file(root, from, to),
        _ => false,
    }
}

/// Copies within one file may overlap, which ends differently.
fn same_file(root: &Path, one: &Path, two: &Path) -> bool {
    let ino = |path: &Path| fs::metadata(root.join(path)).map(|meta| meta.ino()).ok();
    ino(one).is_some() && ino(one) == ino(two)
}

fn compare(mount: &Mount, reference: &Path, seed: u64, calls: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ours = Side::new(mount.join(format!("tree-{seed}")));
    let mut theirs = Side::new(reference.join(format!("tree-{seed}")));
    let mut succeeded = 0;
    for number in 0..calls {
        let call = any_call(&mut rng);
        if touches_a_pipe(&call, &theirs.root) {
            continue;
        }
        let wanted = theirs.apply(&call);
        let seen = ours.apply(&call);
        succeeded += usize::from(wanted.is_ok());
        assert!(
            seen == wanted || both_are_right(&call, &seen, &wanted),
            "seed {seed}, call {number} {call:?}:\n  ours {seen:?}\n  ext4 {wanted:?}"
        );
    }
    assert!(succeeded > calls / 8, "seed {seed}: only {succeeded} of {calls} calls succeeded");
    drop((ours.open, theirs.open));
    let (ours, theirs) = (snapshot(&ours.root), snapshot(&theirs.root));
    for (path, wanted) in &theirs {
        assert_eq!(ours.get(path), Some(wanted), "seed {seed}: {}", path.display());
    }
    assert_eq!(ours.len(), theirs.len(), "seed {seed}: names that should not be there");
}

/// Where POSIX leaves a choice between errors and file systems differ.
fn both_are_right(call: &Call, seen: &Result<String, i32>, wanted: &Result<String, i32>) -> bool {
    let either = |a: i32, b: i32| {
        let pair = [seen, wanted].map(|result| result.as_ref().err().copied());
        pair == [Some(a), Some(b)] || pair == [Some(b), Some(a)]
    };
    match call {
        // A directory that is not empty: POSIX allows both.
        Call::Rmdir(_) | Call::Rename(..) => either(libc::ENOTEMPTY, libc::EEXIST),
        _ => false,
    }
}

#[test]
fn random_calls_end_as_on_a_local_file_system() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "64K"]);
    let mount = crate::posix::native_mount(&volume);
    let reference = volume.dir().join("reference");
    fs::create_dir(&reference).unwrap();
    let first = seed_of("differential", 100);
    for seed in first..first + if full() { 60 } else { 12 } {
        compare(&mount, &reference, seed, 1500);
    }
    mount.unmount();
    // What was compared before is still so after a remount.
    let mount = volume.mount();
    for seed in first..first + 3 {
        let name = format!("tree-{seed}");
        assert!(snapshot(&mount.join(&name)) == snapshot(&reference.join(&name)), "seed {seed} after a remount");
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
