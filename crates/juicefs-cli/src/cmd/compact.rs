//! `juicefs compact` joins the slices of files (cli.md §8.7).

use anyhow::Result;

use crate::{
    cmd::each_path,
    config::args::CompactArgs,
    control::{Command, subject_of_target},
    paths::absolute,
    terminal,
};

/// Joins the slices of files, so that reading them takes fewer requests.
///
/// # Errors
/// When one of the paths could not be compacted; the others are.
pub(crate) fn run(args: &CompactArgs) -> Result<()> {
    each_path("compact", &args.paths, |path| {
        let (ino, mut control) = subject_of_target(path)?;
        let body = [&ino.to_be_bytes()[..], &args.threads.to_be_bytes()].concat();
        let bar = terminal::progress("Compacted chunks", 0);
        let compacted = control.ask(Command::Compact, &body, |total, done| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish();
        compacted?;
        tracing::info!("compact [{ino}:{:?}] success.", absolute(path));
        Ok(())
    })
}
