//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod config;
pub(crate) mod format;
pub(crate) mod mount;
pub(crate) mod quota;
pub(crate) mod status;
pub(crate) mod umount;
pub(crate) mod version;

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    config::{
        args::{Cli, Command},
        resolved::Surroundings,
    },
    runtime, terminal,
};

/// Runs the command; `words` is the normalised command line. Returns the exit code.
///
/// # Errors
/// Why the command failed, for the user; the exit code is 1 then.
pub(crate) fn run(cli: &Cli, words: &[OsString]) -> Result<u8> {
    let here = Surroundings::of_process();
    match &cli.command {
        Command::Version => terminal::print(&version::text())?,
        Command::Bench(args) => bench::run(args, !cli.global.no_color)?,
        Command::Umount(args) => umount::run(args)?,
        Command::Format(args) => runtime::of_command()?.block_on(format::run(args, &here))?,
        Command::Config(args) => runtime::of_command()?.block_on(config::run(args, words, &here))?,
        Command::Quota(args) => runtime::of_command()?.block_on(quota::run(args))?,
        Command::Status(args) => runtime::of_command()?.block_on(status::run(args))?,
        Command::Mount(args) => return mount::run(args, words, &here),
    }
    Ok(0)
}
