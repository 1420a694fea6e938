//! `juicefs clone` (cli.md §8.6).

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::sys::stat::{Mode, umask};

use crate::{
    config::args::CloneArgs,
    control::{Command, Control, inode_of, mountpoint_of, parent_and_name},
    process::absolute,
    terminal,
};

/// Bit of the mode: attributes are preserved.
const PRESERVE: u8 = 2;

/// Copies a file or a tree within a mount; the copy shares the data of the source.
///
/// # Errors
/// When source and target do not lie in one mount, the target exists or lies in the source, or the mount refuses.
pub(crate) fn run(args: &CloneArgs) -> Result<()> {
    let source = absolute(&args.source);
    let source_ino = inode_of(&source)?;
    let (source_parent, source_name) = parent_and_name(&args.source)?;
    let target = if args.target.as_os_str().as_encoded_bytes().ends_with(b"/") {
        args.target.join(os_name(&source_name))
    } else {
        args.target.clone()
    };
    if target.symlink_metadata().is_ok() {
        bail!("{} exists already", target.display());
    }
    let (parent, name) = parent_and_name(&target)?;
    let mount = mountpoint_of(&source)?;
    if mount != mountpoint_of(&parent)? {
        bail!("{} does not lie in the same mount as {}", target.display(), args.source.display());
    }
    if absolute(&target).starts_with(&source) {
        bail!("{} lies in {}, which is to be copied", target.display(), args.source.display());
    }
    let name_len = u8::try_from(name.len()).with_context(|| format!("the name of {} is too long", target.display()))?;
    let mut body: Vec<u8> =
        [source_ino, inode_of(&source_parent)?, inode_of(&parent)?].into_iter().flat_map(u64::to_be_bytes).collect();
    body.push(name_len);
    body.extend_from_slice(&name);
    body.extend_from_slice(&own_umask().to_be_bytes());
    body.extend([if args.preserve { PRESERVE } else { 0 }, args.threads]);
    let bar = terminal::progress("Cloning entries", 0);
    let copied = Control::open(&mount)?.ask(Command::Clone, &body, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish();
    copied.with_context(|| format!("clone {} to {}", args.source.display(), target.display()))?;
    Ok(())
}

fn os_name(name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(name))
}

/// The umask of this process: asking for it means setting it for a moment, which no other thread notices here.
fn own_umask() -> u16 {
    let mask = umask(Mode::empty());
    umask(mask);
    u16::try_from(mask.bits()).unwrap_or(0o22)
}
