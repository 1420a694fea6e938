//! The setuid helper that mounts for users who may not mount themselves. It opens the device, mounts, and sends the
//! descriptor back.

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    mount::MountFlags,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

use super::{MountError, Resolved};

const HELPER: &str = "fusermount3";
/// The variable that tells the helper on which descriptor to answer.
const CHANNEL_ENV: &str = "_FUSE_COMMFD";

/// Mounts as `resolved` says.
pub(super) fn mount(resolved: &Resolved) -> Result<OwnedFd, MountError> {
    let failed = |error: std::io::Error| MountError::Fusermount(error.to_string());
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| failed(e.into()))?;
    let child = Command::new(HELPER)
        .env(CHANNEL_ENV, theirs.as_raw_fd().to_string())
        .args(["-o", &option_string(resolved), "--"])
        .arg(&resolved.mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    drop(theirs);
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(MountError::Fusermount(complaint(&output)));
    }
    receive(&ours).ok_or_else(|| MountError::Fusermount("it did not send the FUSE descriptor".into()))
}

/// Ends the mount at `path`; the error is the helper's own text.
pub(super) fn unmount(path: &Path, lazy: bool) -> Result<(), String> {
    let output = Command::new(HELPER)
        .args(if lazy { &["-u", "-z", "--"][..] } else { &["-u", "--"] })
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(complaint(&output)) }
}

fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().trim_start_matches("fusermount3:").trim();
    if text.is_empty() { output.status.to_string() } else { text.to_owned() }
}

fn option_string(resolved: &Resolved) -> String {
    let source = resolved.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut items = vec![format!("fsname={source}"), "subtype=juicefs".into()];
    let flags = [
        (MountFlags::NOSUID, "nosuid"),
        (MountFlags::NODEV, "nodev"),
        (MountFlags::NOEXEC, "noexec"),
        (MountFlags::NOATIME, "noatime"),
        (MountFlags::SYNCHRONOUS, "sync"),
        (MountFlags::DIRSYNC, "dirsync"),
    ];
    items.extend(flags.iter().filter(|(flag, _)| resolved.flags.contains(*flag)).map(|(_, name)| (*name).to_owned()));
    items.extend(resolved.data.iter().cloned());
    items.join(",")
}

fn receive(channel: &UnixStream) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}
