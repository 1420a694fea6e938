//! `juicefs compact` (cli.md §8.7).

use anyhow::Result;

use crate::{
    cmd::each_path,
    config::args::CompactArgs,
    control::{Command, Control, inode_of},
    process::absolute,
    terminal,
};

/// Joins the slices of files, so that reading them takes fewer requests.
///
/// # Errors
/// When one of the paths could not be compacted; the others are.
pub(crate) fn run(args: &CompactArgs) -> Result<()> {
    each_path("compact", &args.paths, |path| {
        let whole = absolute(path);
        let ino = inode_of(&whole)?;
        let body = [&ino.to_be_bytes()[..], &args.threads.to_be_bytes()].concat();
        let bar = terminal::progress("Compacted chunks", 0);
        let compacted = Control::open_near(&whole)?.ask(Command::Compact, &body, |total, done| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish();
        compacted?;
        tracing::info!("compact [{ino}:{:?}] success.", whole);
        Ok(())
    })
}
