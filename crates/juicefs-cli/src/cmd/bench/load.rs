//! The load of `bench`. Every thread writes, reads and stats files of its own.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// Files of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    name: &'static str,
    /// Bytes of a file: whole blocks, once it is larger than one.
    pub(super) file_bytes: u64,
    /// Files per thread.
    pub(super) files: u32,
    block_bytes: usize,
    blocks: u64,
}

/// What is done to the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make and fill them.
    Write,
    /// Read them whole.
    Read,
    /// Ask for their attributes.
    Stat,
}

impl Step {
    /// What the progress bar says.
    pub(super) fn title(self, big: bool) -> &'static str {
        match (self, big) {
            (Self::Write, true) => "Write big blocks",
            (Self::Read, true) => "Read big blocks",
            (Self::Write, false) => "Write small blocks",
            (Self::Read, false) => "Read small blocks",
            (Self::Stat, _) => "Stat small files",
        }
    }
}

impl Case {
    /// A case of `files` files of `file_bytes`, which are moved in blocks of `block_bytes`.
    pub(super) fn new(name: &'static str, file_bytes: u64, files: u32, block_bytes: u64) -> Self {
        let block = block_bytes.min(file_bytes);
        let blocks = file_bytes.div_ceil(block);
        let block_bytes = usize::try_from(block).unwrap_or(usize::MAX);
        Self { name, file_bytes: blocks * block, files, block_bytes, blocks }
    }

    /// Whether this is the big file.
    pub(super) fn is_big(&self) -> bool {
        self.name == "bigfile"
    }

    /// Steps of progress per thread.
    pub(super) fn units(&self, step: Step) -> u64 {
        u64::from(self.files) * if step == Step::Stat { 1 } else { self.blocks }
    }

    fn path(&self, dir: &Path, thread: u32, file: u32) -> PathBuf {
        dir.join(format!("{}.{thread}.{file}", self.name))
    }
}

/// Does `step` on all files with `threads` threads; `moved` is called after each block or file. Returns the seconds.
///
/// # Errors
/// The first failure of any thread, with the file it met.
pub(super) fn run(case: &Case, step: Step, dir: &Path, threads: u32, moved: &(dyn Fn() + Sync)) -> Result<f64> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || one_thread(case, step, dir, thread, moved))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a benchmark thread died"),
        })
    })?;
    Ok(start.elapsed().as_secs_f64())
}

fn one_thread(case: &Case, step: Step, dir: &Path, thread: u32, moved: &(dyn Fn() + Sync)) -> Result<()> {
    let mut block = vec![0; if step == Step::Stat { 0 } else { case.block_bytes }];
    if step == Step::Write {
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut block);
    }
    for file in 0..case.files {
        let path = case.path(dir, thread, file);
        match step {
            Step::Write => {
                write(&path, &block, case.blocks, moved).with_context(|| format!("cannot write {path:?}"))?
            }
            Step::Read => {
                read(&path, &mut block, case.blocks, moved).with_context(|| format!("cannot read {path:?}"))?
            }
            Step::Stat => {
                std::fs::metadata(&path).with_context(|| format!("cannot stat {path:?}"))?;
                moved();
            }
        }
    }
    Ok(())
}

fn write(path: &Path, block: &[u8], blocks: u64, moved: &dyn Fn()) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..blocks {
        file.write_all(block)?;
        moved();
    }
    // Dropping a file hides what close(2) reports, and close is where a network file system tells of lost writes.
    nix::unistd::close(file).map_err(std::io::Error::from)
}

fn read(path: &Path, block: &mut [u8], blocks: u64, moved: &dyn Fn()) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    for _ in 0..blocks {
        file.read_exact(block)?;
        moved();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn sizes_become_whole_blocks() {
        let case = Case::new("bigfile", 10, 1, 4);
        assert_eq!((case.file_bytes, case.blocks, case.block_bytes), (12, 3, 4));
        let small = Case::new("smallfile", 3, 5, 4);
        assert_eq!((small.file_bytes, small.blocks, small.block_bytes), (3, 1, 3));
        assert_eq!((small.units(Step::Write), case.units(Step::Read), small.units(Step::Stat)), (5, 3, 5));
    }

    #[test]
    fn every_block_is_moved_and_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let case = Case::new("smallfile", 10, 2, 4);
        for step in [Step::Write, Step::Read, Step::Stat] {
            let count = AtomicU64::new(0);
            let moved = || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            run(&case, step, dir.path(), 3, &moved).expect("works");
            assert_eq!(count.into_inner(), 3 * case.units(step), "{step:?}");
        }
        assert_eq!(std::fs::metadata(dir.path().join("smallfile.2.1")).expect("there").len(), 12);
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = run(&Case::new("bigfile", 1, 1, 1), Step::Read, dir.path(), 1, &|| {}).expect_err("nothing there");
        assert!(format!("{error:#}").contains("bigfile.0.0"), "{error:#}");
    }
}
