//! The commands. Each has a file of its own.

pub(crate) mod bench;
pub(crate) mod clone;
pub(crate) mod compact;
pub(crate) mod config;
pub(crate) mod format;
pub(crate) mod info;
pub(crate) mod mount;
pub(crate) mod objbench;
pub(crate) mod quota;
pub(crate) mod restore;
pub(crate) mod rmr;
pub(crate) mod status;
pub(crate) mod summary;
pub(crate) mod umount;
pub(crate) mod version;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{
    config::{
        args::{Cli, Command},
        resolved::Surroundings,
    },
    runtime, terminal,
};

/// Runs the command. `words` is the normalised command line. Returns the exit code.
///
/// # Errors
/// Why the command failed, for the user. The exit code is 1 then.
pub(crate) fn run(cli: &Cli, words: &[OsString]) -> Result<u8> {
    let here = Surroundings::of_process();
    match &cli.command {
        Command::Version => terminal::print(&version::text())?,
        Command::Bench(args) => bench::run(args, !cli.global.no_color)?,
        Command::Objbench(args) => runtime::of_mount()?.block_on(objbench::run(args, !cli.global.no_color, &here))?,
        Command::Umount(args) => umount::run(args)?,
        Command::Format(args) => runtime::of_command()?.block_on(format::run(args, &here))?,
        Command::Config(args) => runtime::of_command()?.block_on(config::run(args, words, &here))?,
        Command::Quota(args) => runtime::of_command()?.block_on(quota::run(args))?,
        Command::Restore(args) => runtime::of_command()?.block_on(restore::run(args))?,
        Command::Status(args) => runtime::of_command()?.block_on(status::run(args))?,
        Command::Info(args) => info::run(args)?,
        Command::Summary(args) => summary::run(args)?,
        Command::Rmr(args) => rmr::run(args)?,
        Command::Clone(args) => clone::run(args)?,
        Command::Compact(args) => compact::run(args)?,
        Command::Mount(args) => return mount::run(args, words, &here),
    }
    Ok(0)
}

/// Does `work` for each path, whatever becomes of the others; each failure is logged with its path.
///
/// # Errors
/// When it failed for any.
fn each_path(what: &str, paths: &[PathBuf], mut work: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut failed = 0;
    for path in paths {
        if let Err(error) = work(path) {
            if let [_] = paths {
                return Err(error.context(format!("{what} {}", path.display())));
            }
            tracing::error!("{what} {}: {error:#}", path.display());
            failed += 1;
        }
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{what} failed for {failed} of {} paths", paths.len()),
    }
}
