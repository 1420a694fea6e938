//! `mount -o remount` changes what the kernel can change of a mount. Everything else must be as it is.

use std::path::Path;

use anyhow::{Context, Result, bail};
use juicefs_fuse::{MountEntry, mounted_at};
use rustix::mount::{MountFlags, mount_remount};

use super::flags::{Flags, shown};
use crate::running::config_of;

/// Changes the options of what is mounted at `path`.
///
/// # Errors
/// When it is no mount of this client, or with the option that cannot change while it is mounted; nothing has changed then.
pub(super) fn run(path: &Path, wanted: &Flags) -> Result<()> {
    let path = &path.canonicalize().with_context(|| format!("mount point {}", path.display()))?;
    let place = path.display();
    let entry = mounted_at(path).context("read the table of mounts")?;
    let Some(entry) = entry.filter(|entry| entry.fstype == "fuse.juicefs") else {
        bail!("{place} cannot be remounted: no JuiceFS is mounted there");
    };
    let Some(present) = config_of(path).as_ref().and_then(Flags::of_config) else {
        bail!("{place} cannot be remounted: the client that serves it does not tell its options");
    };
    let flags = changed(&entry, &present, wanted).with_context(|| format!("{place} cannot be remounted"))?;
    mount_remount(path, flags | MountFlags::BIND, "").with_context(|| format!("remount {place}"))?;
    tracing::info!("remounted {} at {place}", entry.source);
    Ok(())
}

/// The flags that the kernel is to have. Fails with the first option that it cannot change.
fn changed(entry: &MountEntry, present: &Flags, wanted: &Flags) -> Result<MountFlags> {
    let mut flags = MountFlags::empty();
    for item in &entry.options {
        set(&mut flags, item);
    }
    let there = present.resolved()?;
    // Options of the file system stand behind those of the mount, and `ro` and `rw` are among both.
    flags.set(MountFlags::RDONLY, entry.options.first().is_some_and(|item| item == "ro"));
    for word in wanted.iter() {
        let item = word.strip_prefix("-o=");
        match item {
            Some("ro") => flags.set(MountFlags::RDONLY, !there.meta.read_only),
            Some("rw") if !there.meta.read_only => flags.remove(MountFlags::RDONLY),
            // mount(8) says rw unless it was told something else.
            Some("rw") if wanted.has("--read-only") || wanted.has("-o=ro") => {}
            Some("rw") => bail!("it was mounted read-only, and -o rw takes a new mount: unmount it first"),
            Some(item) if entry.options.iter().any(|known| known == item) => {}
            Some(item) if set(&mut flags, item) => {}
            _ => {
                let same = present.with(word, wanted).resolved().is_ok_and(|changed| there.is_like(&changed));
                if !same {
                    bail!("{} cannot change while it is mounted: unmount it first", shown(word));
                }
            }
        }
    }
    Ok(flags)
}

/// Sets an option that the kernel can change of a mount. Returns whether the item is such an option.
fn set(flags: &mut MountFlags, item: &str) -> bool {
    let times = MountFlags::NOATIME | MountFlags::RELATIME | MountFlags::STRICTATIME;
    match item {
        "suid" => flags.remove(MountFlags::NOSUID),
        "nosuid" => flags.insert(MountFlags::NOSUID),
        "dev" => flags.remove(MountFlags::NODEV),
        "nodev" => flags.insert(MountFlags::NODEV),
        "exec" => flags.remove(MountFlags::NOEXEC),
        "noexec" => flags.insert(MountFlags::NOEXEC),
        "diratime" => flags.remove(MountFlags::NODIRATIME),
        "nodiratime" => flags.insert(MountFlags::NODIRATIME),
        // The client decides about access times: these show in the table of mounts, and are as they are.
        "relatime" if !flags.intersects(times) => flags.insert(MountFlags::RELATIME),
        "noatime" if !flags.intersects(times) => flags.insert(MountFlags::NOATIME),
        "strictatime" if !flags.intersects(times) => flags.insert(MountFlags::STRICTATIME),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::config::resolved::Surroundings;

    fn flags(line: &str) -> Flags {
        let words: Vec<OsString> =
            format!("juicefs mount {line} -- u m").split_whitespace().map(OsString::from).collect();
        Flags::of_words(&words, &Surroundings::of_tests())
    }

    fn entry(options: &str) -> MountEntry {
        MountEntry {
            id: 1,
            device: "0:50".into(),
            mountpoint: "/m".into(),
            fstype: "fuse.juicefs".into(),
            source: "JuiceFS:v".into(),
            options: options.split(',').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn the_kernel_changes_what_it_can() {
        let plain = entry("rw,nosuid,nodev,relatime,rw,user_id=0,group_id=0,default_permissions,allow_other");
        let base = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RELATIME;
        let change = |wanted: &str| {
            changed(&plain, &flags("--cache-size=1G --enable-xattr"), &flags(wanted)).map_err(|error| error.to_string())
        };
        for same in ["", "-o=rw", "--cache-size=1024M", "--enable-xattr -o=rw,relatime,user_id=0,allow_other,_netdev"] {
            assert_eq!(change(same), Ok(base), "{same}");
        }
        assert_eq!(change("-o=ro,noexec"), Ok(base | MountFlags::RDONLY | MountFlags::NOEXEC));
        assert_eq!(change("-o=suid"), Ok(base - MountFlags::NOSUID));
        for (word, name) in [
            ("--cache-size=2G", "--cache-size"),
            ("-o=writeback_cache", "-o writeback_cache"),
            ("-o=strictatime", "strictatime"),
        ] {
            let refused = change(word).expect_err(word);
            assert!(refused.contains(name) && refused.contains("unmount"), "{refused}");
        }
    }

    #[test]
    fn read_only_clients_stay_so() {
        let plain = entry("rw,nosuid,nodev,relatime,rw");
        let there = flags("-o=ro");
        assert!(changed(&plain, &there, &flags("-o=rw")).is_err());
        assert!(changed(&plain, &there, &flags("-o=ro")).is_ok());
        assert!(changed(&plain, &flags("--read-only"), &flags("--read-only -o=rw")).is_ok());
        let frozen = entry("ro,nosuid,relatime,rw");
        assert!(changed(&frozen, &flags(""), &flags("")).is_ok_and(|flags| flags.contains(MountFlags::RDONLY)));
        assert!(changed(&frozen, &flags(""), &flags("-o=rw")).is_ok_and(|flags| !flags.contains(MountFlags::RDONLY)));
    }
}
