//! `juicefs rmr` removes whole trees (cli.md §8.5).

use std::{os::unix::ffi::OsStrExt, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    cmd::each_path,
    config::args::RmrArgs,
    control::{Command, Control},
    paths::Located,
    terminal,
};

/// Removes trees by asking the mounts that they lie in.
///
/// # Errors
/// When one of them could not be removed; the others are.
pub(crate) fn run(args: &RmrArgs) -> Result<()> {
    if args.skip_trash && !nix::unistd::geteuid().is_root() {
        bail!("only root may remove files without the trash");
    }
    let bar = terminal::counter("Removing entries");
    let mut before = 0;
    let outcome = each_path("remove", &args.paths, |path| {
        let mut last = 0;
        let removed = remove(path, args, |count| {
            last = count;
            bar.set_position(before + count);
        });
        before += last;
        removed
    });
    bar.finish();
    tracing::info!("removed {before} entries");
    outcome
}

fn remove(path: &Path, args: &RmrArgs, mut report: impl FnMut(u64)) -> Result<()> {
    let place = Located::of(path)?;
    if place.existing()?.is_mount_point {
        bail!("{} is a mount point: unmount it first", place.path().display());
    }
    let name = place.name.as_bytes();
    let name_len = u8::try_from(name.len()).with_context(|| format!("the name of {} is too long", path.display()))?;
    let mut body = place.dir.ino.to_be_bytes().to_vec();
    body.push(name_len);
    body.extend_from_slice(name);
    body.extend([u8::from(args.skip_trash), args.threads]);
    Control::open(&place.dir)?.ask(Command::Remove, &body, |count, _| report(count))?;
    Ok(())
}
