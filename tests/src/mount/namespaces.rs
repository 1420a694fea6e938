//! Mounts in other mount namespaces. One that was copied there, as `unshare --mount` or a service with a file system of its
//! own does, keeps the connection to the client, which rightly goes on serving it: that is no client that hangs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::command::run;

/// A mount of the wanted device that another mount namespace has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// A process that lives in the namespace.
    pub(super) pid: u32,
    /// Where it is mounted there.
    pub(super) point: PathBuf,
}

/// The copies of the FUSE device `0:minor` in mount namespaces that are not this process' own, one process for each namespace.
///
/// A process that ends while it is looked at has no copy any more.
pub(super) fn copies_of(minor: u32) -> Vec<Copy> {
    let own = fs::read_link("/proc/self/ns/mnt").expect("the kernel has mount namespaces");
    let mut processes = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(namespace) = fs::read_link(entry.path().join("ns/mnt")) else { continue };
        if namespace != own {
            processes.entry(namespace).or_insert(pid);
        }
    }
    let copies = processes.into_values().flat_map(|pid| {
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        points_in(&table, minor).into_iter().map(move |point| Copy { pid, point })
    });
    copies.collect()
}

/// Detaches copies where they are, and says so, since whoever made them did not.
pub(super) fn detach(copies: &[Copy]) {
    for Copy { pid, point } in copies {
        eprintln!("{} lived on in the mount namespace of process {pid}: it is detached there", point.display());
        // Best effort: the namespace may have ended meanwhile, and its mount with it.
        let namespace = format!("--mount=/proc/{pid}/ns/mnt");
        let _ = run("nsenter", [Path::new(&namespace), Path::new("umount"), Path::new("--lazy"), point]);
    }
}

/// The mount points of the device `0:minor` in a table of the form of `/proc/self/mountinfo`.
fn points_in(table: &str, minor: u32) -> Vec<PathBuf> {
    let device = format!("0:{minor}");
    let points = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next() == Some(device.as_str())).then(|| fields.nth(1)).flatten()
    });
    points.map(|point| PathBuf::from(point.replace("\\040", " "))).collect()
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;
    use crate::{command::wait_until, volume::Volume};

    #[test]
    fn a_mount_that_lives_on_elsewhere_is_told_from_a_client_that_hangs() {
        let volume = Volume::new();
        let mount = volume.mount();
        let minor = mount.minor;
        assert_eq!(copies_of(minor), []);
        let mut elsewhere = Command::new("unshare").args(["--mount", "sleep", "300"]).spawn().expect("util-linux");
        assert!(wait_until(Duration::from_secs(20), || !copies_of(minor).is_empty()), "the mount is copied");
        let copies = copies_of(minor);
        assert_eq!(copies[0].point, mount.path());
        // It ends although the copy is there: `unmount` fails where a client goes on.
        mount.unmount();
        elsewhere.kill().expect("it still runs");
        elsewhere.wait().expect("a child can be waited for");
    }

    #[test]
    fn mounts_are_found_by_their_device() {
        let table = "36 35 0:48 / /mnt/a\\040b rw,nosuid - fuse.juicefs JuiceFS:x rw\n\
                     37 35 0:4 / /mnt/other rw - tmpfs tmpfs rw\n\
                     38 35 8:48 / /mnt/disk rw - ext4 /dev/sda rw\n";
        assert_eq!(points_in(table, 48), [PathBuf::from("/mnt/a b")]);
        assert!(points_in(table, 8).is_empty());
    }
}
