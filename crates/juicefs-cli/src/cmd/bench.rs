//! `juicefs bench` measures how fast a directory is, with big files and with many small ones (cli.md §8.1).

mod load;
mod report;

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use self::{
    load::{Case, Step},
    report::{Report, Row, Stats},
};
use crate::{config::args::BenchArgs, paths::absolute, terminal};

/// What is to be run; all numbers are checked.
#[derive(Clone, Debug)]
struct Plan {
    dir: PathBuf,
    threads: u32,
    big: Option<Case>,
    small: Option<Case>,
}

/// Runs the benchmark and prints its table.
///
/// # Errors
/// When a flag is out of range, or the directory cannot be written or read.
pub(crate) fn run(args: &BenchArgs, colors: bool) -> Result<()> {
    let plan = plan(args)?;
    let scratch = Scratch::make(&plan.dir)?;
    let mountpoint = mount_root(&plan.dir.canonicalize().unwrap_or_else(|_| plan.dir.clone()));
    if !nix::unistd::geteuid().is_root() {
        terminal::print("Cleaning kernel cache, may ask for root privilege...")?;
    }
    drop_caches();
    let before = mountpoint.as_deref().and_then(Stats::read);
    let mut rows = Vec::new();
    if let Some(case) = &plan.big {
        rows.push(Row::throughput(
            "Write big file",
            "bigwr",
            case,
            plan.threads,
            step(case, Step::Write, &scratch, &plan)?,
        ));
        drop_caches();
        rows.push(Row::throughput(
            "Read big file",
            "bigrd",
            case,
            plan.threads,
            step(case, Step::Read, &scratch, &plan)?,
        ));
    }
    if let Some(case) = &plan.small {
        rows.push(Row::files(
            "Write small file",
            "smallwr",
            case,
            plan.threads,
            step(case, Step::Write, &scratch, &plan)?,
        ));
        drop_caches();
        rows.push(Row::files(
            "Read small file",
            "smallrd",
            case,
            plan.threads,
            step(case, Step::Read, &scratch, &plan)?,
        ));
        drop_caches();
        rows.push(Row::files("Stat file", "stat", case, plan.threads, step(case, Step::Stat, &scratch, &plan)?));
    }
    drop(scratch);
    let after = mountpoint.as_deref().and_then(Stats::read);
    let report = Report { rows, stats: before.zip(after), threads: plan.threads };
    terminal::print("Benchmark finished!")?;
    terminal::print(report.text(args, colors && terminal::shows_colors()).trim_end())?;
    Ok(())
}

fn plan(args: &BenchArgs) -> Result<Plan> {
    if args.block_size == 0 {
        bail!("--block-size 0 is not possible: give at least one byte");
    }
    if args.threads == 0 {
        bail!("--threads 0 is not possible: give at least 1");
    }
    let case = |name, file_size, files| {
        (file_size > 0 && files > 0).then(|| Case::new(name, file_size, files, args.block_size))
    };
    Ok(Plan {
        dir: absolute(&args.path),
        threads: args.threads,
        big: case("bigfile", args.big_file_size, 1),
        small: case("smallfile", args.small_file_size, args.small_file_count),
    })
}

fn step(case: &Case, step: Step, scratch: &Scratch, plan: &Plan) -> Result<f64> {
    let total = u64::from(plan.threads) * case.units(step);
    let bar = terminal::progress(step.title(case.is_big()), total);
    let seconds = load::run(case, step, &scratch.0, plan.threads, &|| bar.inc(1))?;
    bar.finish();
    Ok(seconds)
}

/// The directory that holds the files. It is removed when the value is dropped, whatever happened.
struct Scratch(PathBuf);

impl Scratch {
    #[allow(clippy::disallowed_methods, reason = "only makes the name of the directory unique")]
    fn make(parent: &Path) -> Result<Self> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let dir = parent.join(format!("__juicefs_benchmark_{nanos}__"));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make the directory {dir:?}"))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {:?}: {error}", self.0);
        }
    }
}

/// The root of the JuiceFS mount that holds `dir`: the nearest directory upwards with inode 1 and a file `.stats`.
fn mount_root(dir: &Path) -> Option<PathBuf> {
    let root = dir.ancestors().find(|path| std::fs::metadata(path).is_ok_and(|meta| meta.ino() == 1))?;
    Stats::file(root).map(|_| root.to_owned())
}

fn drop_caches() {
    if std::env::var_os("SKIP_DROP_CACHES").is_some_and(|value| value == "true") {
        tracing::warn!("Clear cache operation has been skipped");
        return;
    }
    let shell = ["/bin/sh", "-c", "echo 3 > /proc/sys/vm/drop_caches"];
    let is_root = nix::unistd::geteuid().is_root();
    let words = if is_root { shell.to_vec() } else { [&["sudo"], shell.as_slice()].concat() };
    match Command::new(words[0]).args(&words[1..]).status() {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::warn!("Failed to clean kernel caches: {status}"),
        Err(error) => tracing::warn!("Failed to clean kernel caches: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> BenchArgs {
        BenchArgs {
            path: "/tmp".into(),
            block_size: 1 << 20,
            big_file_size: 0,
            small_file_size: 128 << 10,
            small_file_count: 100,
            threads: 1,
        }
    }

    #[test]
    fn zeros_are_refused_or_skip() {
        assert!(plan(&BenchArgs { block_size: 0, ..args() }).is_err());
        assert!(plan(&BenchArgs { threads: 0, ..args() }).is_err());
        let plan = plan(&BenchArgs { small_file_count: 0, ..args() }).expect("good flags");
        assert!(plan.big.is_none() && plan.small.is_none());
    }

    #[test]
    fn the_directory_is_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::make(dir.path()).expect("made");
        let case = Case::new("smallfile", 10, 3, 4);
        for wanted in [Step::Write, Step::Read, Step::Stat] {
            load::run(&case, wanted, &scratch.0, 2, &|| {}).expect("works");
        }
        assert_eq!(std::fs::read_dir(&scratch.0).expect("there").count(), 6);
        drop(scratch);
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
        assert_eq!(mount_root(dir.path()), None);
    }
}
