//! What happens when something is mounted already at the mount point.

use anyhow::{Context, Result, bail};
use juicefs_core::Format;
use juicefs_fuse::mounted_at;

use super::flags::Flags;
use crate::{config::resolved::MountConfig, running::config_of};

/// Looks at what is mounted at the mount point. If that is a mount of this volume like the one that is asked for,
/// nothing is to be done, and this returns the sentence that says so. mount(8), which asks at every `mount -a`, is
/// content with any mount that shows the same directory of the volume.
///
/// # Errors
/// With what is there: another volume, or this one with other flags, which are named.
pub(super) fn look(config: &MountConfig, flags: &Flags, format: &Format) -> Result<Option<String>> {
    let (place, volume) = (config.mountpoint.display(), &format.name);
    let present = mounted_at(&config.mountpoint).context("read the table of mounts")?;
    let Some(present) = present.filter(|entry| entry.fstype == "fuse.juicefs") else { return Ok(None) };
    if config.process.force {
        tracing::warn!("mounting over {} at {place}", present.source);
        return Ok(None);
    }
    let advice = "unmount it first, or mount over it with --force";
    let Some(told) = config_of(&config.mountpoint) else {
        bail!("{} is mounted at {place} already and does not tell what it is: {advice}", present.source);
    };
    if told["Format"]["UUID"].as_str() != Some(&format.uuid) {
        bail!("{} is mounted at {place}, which is another volume than {volume}: {advice}", present.source);
    }
    let already = format!("{volume} is mounted at {place} already");
    let differences = match Flags::of_config(&told) {
        Some(there) => there.differences(flags)?,
        None if config.process.via_mount => return Ok(Some(already)),
        None => bail!("{already}, by another client: {advice}"),
    };
    match differences.as_slice() {
        [] => Ok(Some(already)),
        names if config.process.via_mount && !names.iter().any(|name| name == "--subdir") => {
            Ok(Some(format!("{already}, with other options, which stay as they are: {}", names.join(", "))))
        }
        names => bail!("{already}, with other options ({}): {advice}", names.join(", ")),
    }
}
