//! `juicefs clone` copies a file or a tree without copying data (cli.md §8.6).

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use nix::sys::stat::{Mode, umask};

use crate::{
    config::args::CloneArgs,
    control::{Command, Control, ROOT_INO},
    paths::{Dir, Located, ends_in_slash},
    terminal,
};

/// Bit of the mode: attributes are preserved.
const PRESERVE: u8 = 2;

/// Copies a file or a tree within a mount; the copy shares the data of the source.
///
/// # Errors
/// When source and target do not lie in one mount, the target exists or lies in the source, or the mount refuses.
pub(crate) fn run(args: &CloneArgs) -> Result<()> {
    let source = Located::of(&args.source)?;
    let node = source.existing()?;
    let target = if ends_in_slash(&args.target) {
        Located { dir: Dir::open(&args.target)?, name: source.name.clone() }
    } else {
        Located::of(&args.target)?
    };
    if target.node()?.is_some() {
        bail!("{} exists already", target.path().display());
    }
    let mut control = Control::of_node(&source, &node)?;
    if node.device != target.dir.device {
        bail!("{} does not lie in the same mount as {}", target.path().display(), args.source.display());
    }
    if node.is_dir() && target.path().starts_with(source.path()) {
        bail!("{} lies in {}, which is to be copied", target.path().display(), args.source.display());
    }
    let name = target.name.as_bytes();
    let name_len =
        u8::try_from(name.len()).with_context(|| format!("the name of {} is too long", target.path().display()))?;
    // What is mounted whole has its directory elsewhere.
    let source_parent = if node.device == source.dir.device { source.dir.ino } else { ROOT_INO };
    let mut body: Vec<u8> = [node.ino, source_parent, target.dir.ino].into_iter().flat_map(u64::to_be_bytes).collect();
    body.push(name_len);
    body.extend_from_slice(name);
    body.extend_from_slice(&own_umask().to_be_bytes());
    body.extend([if args.preserve { PRESERVE } else { 0 }, args.threads]);
    let bar = terminal::progress("Cloning entries", 0);
    let copied = control.ask(Command::Clone, &body, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish();
    copied.with_context(|| format!("clone {} to {}", args.source.display(), target.path().display()))?;
    Ok(())
}

/// The umask of this process. To ask for it sets it for a moment, which no other thread notices here.
fn own_umask() -> u16 {
    let mask = umask(Mode::empty());
    umask(mask);
    u16::try_from(mask.bits()).unwrap_or(0o22)
}
