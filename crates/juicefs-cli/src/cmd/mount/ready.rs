//! Checks that a mount is ready, which it is when its root can be seen through the kernel.

use std::{os::unix::fs::MetadataExt, path::Path, sync::mpsc, time::Duration};

use anyhow::{Context, Result, bail};

/// Looks at the root of the mount. That is done on a thread of its own, because an answer that does not come must not
/// hold the caller.
///
/// # Errors
/// When there is no answer in time, or the answer is not that of the root of a volume.
pub(super) fn check(mountpoint: &Path, timeout: Duration) -> Result<()> {
    let (send, receive) = mpsc::sync_channel(1);
    let path = mountpoint.to_owned();
    std::thread::Builder::new()
        .name("juicefs-ready".to_owned())
        .spawn(move || {
            // Nobody waits any more when this took too long.
            let _ = send.send(std::fs::metadata(path).map(|root| root.ino()));
        })
        .context("check the mount")?;
    match receive.recv_timeout(timeout) {
        Ok(Ok(1)) => Ok(()),
        Ok(Ok(ino)) => bail!("{} shows inode {ino}, not the root of the volume", mountpoint.display()),
        Ok(Err(error)) => bail!("{} is mounted but does not answer: {error}", mountpoint.display()),
        Err(_) => bail!("{} is mounted but does not answer within {timeout:?}", mountpoint.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_directory_is_not_the_root_of_a_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(check(dir.path(), Duration::from_secs(5)).is_err());
        assert!(check(&dir.path().join("none"), Duration::from_secs(5)).is_err());
    }
}
