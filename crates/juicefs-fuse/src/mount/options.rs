//! The options of a mount, and what of them the kernel is told.

use std::{io, path::PathBuf};

use rustix::mount::MountFlags;

use super::MountError;
use crate::{
    init::{self, Wanted},
    transport::dev::parked,
};

/// The options of a mount. None has a default here, so that whoever builds them decides about each.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Directory to mount on; it must exist.
    pub mountpoint: PathBuf,
    /// Name of the volume, for the mount table.
    pub volume: String,
    /// Source in the mount table; `JuiceFS:<volume>` when `None`.
    pub fsname: Option<String>,
    /// Other users than the one who mounts may look inside.
    pub allow_other: bool,
    /// Nothing will be written, so no writeback cache is asked for, and locks are left to the kernel. The kernel does
    /// not learn that the mount is read-only, because the control file stays writable; the layers above refuse changes
    /// with EROFS.
    pub read_only: bool,
    /// The kernel checks permission bits. Otherwise operations do, for callers who are not root.
    pub default_permissions: bool,
    /// Largest READ and WRITE in bytes (`--max-fuse-io`): rounded up to pages, at most 1 MiB.
    pub max_io_bytes: usize,
    /// How many bytes WRITE requests may hold while they wait for something, memory for instance. Beyond that the data
    /// of further writes stays where it is until one of them is answered.
    pub waiting_bytes: usize,
    /// The kernel gathers small writes (`-o writeback_cache`).
    pub writeback_cache: bool,
    /// The volume has POSIX ACLs; the kernel evaluates them. Implies extended attributes.
    pub enable_acl: bool,
    /// Extended attributes are served. Otherwise the kernel gets ENOSYS, and asks only once.
    pub enable_xattr: bool,
    /// Locks of flock(2) are left to the kernel, which keeps them for this mount alone and shows them in /proc/locks.
    pub local_flock: bool,
    /// Locks of fcntl(2) are left to the kernel, likewise.
    pub local_posix_locks: bool,
    /// Further items of `-o`, one by one: mount flags such as `noexec`, old names that mean nothing any more, and
    /// whatever else goes to the kernel as it is.
    pub extra: Vec<String>,
    /// How many threads read `/dev/fuse`; `None` chooses by the number of CPUs.
    pub threads: Option<usize>,
    /// Who root becomes, as uid and gid.
    pub root_squash: Option<(u32, u32)>,
    /// Who everybody becomes, as uid and gid. Turns off the kernel's permission check.
    pub all_squash: Option<(u32, u32)>,
    /// The VFS replaces the umask of callers by this one, so the kernel must not apply theirs.
    pub umask: Option<u16>,
}

/// Options as mount(2) and INIT want them.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) mountpoint: PathBuf,
    pub(crate) source: String,
    pub(crate) flags: MountFlags,
    /// Items of the option string.
    pub(crate) data: Vec<String>,
    pub(crate) default_permissions: bool,
    pub(crate) wanted: Wanted,
}

impl MountOptions {
    /// The options with which root mounts `volume` on `mountpoint` by `juicefs mount` without flags.
    #[must_use]
    pub fn standard(mountpoint: PathBuf, volume: &str) -> Self {
        Self {
            mountpoint,
            volume: volume.to_owned(),
            fsname: None,
            allow_other: true,
            read_only: false,
            default_permissions: true,
            max_io_bytes: 128 << 10,
            waiting_bytes: 128 << 20,
            writeback_cache: false,
            enable_acl: false,
            enable_xattr: false,
            local_flock: false,
            local_posix_locks: false,
            extra: Vec::new(),
            threads: None,
            root_squash: None,
            all_squash: None,
            umask: None,
        }
    }

    pub(crate) fn resolve(&self) -> Result<Resolved, MountError> {
        let bad = |why| MountError::MountPoint { path: self.mountpoint.clone(), why };
        let mountpoint = self.mountpoint.canonicalize().map_err(bad)?;
        if !mountpoint.is_dir() {
            return Err(bad(io::ErrorKind::NotADirectory.into()));
        }
        let mut resolved = Resolved {
            mountpoint,
            source: self.fsname.clone().unwrap_or_else(|| format!("JuiceFS:{}", self.volume)),
            flags: MountFlags::NOSUID | MountFlags::NODEV,
            data: Vec::new(),
            default_permissions: self.default_permissions && self.all_squash.is_none(),
            wanted: Wanted {
                // A request must fit into the pipe in which it may have to wait.
                max_io_bytes: init::io_bytes(self.max_io_bytes.min(parked::largest_io_bytes())),
                writeback_cache: self.writeback_cache,
                acl: self.enable_acl,
                own_umask: self.umask.is_some(),
                flock: !self.read_only && !self.local_flock,
                posix_locks: !self.read_only && !self.local_posix_locks,
            },
        };
        let mut allow_other = self.allow_other;
        for item in &self.extra {
            match item.as_str() {
                "allow_other" | "allow_root" => allow_other = true,
                "writeback_cache" => resolved.wanted.writeback_cache = true,
                item => resolved.take(item),
            }
        }
        resolved.wanted.writeback_cache &= !self.read_only;
        resolved.data.push(format!("max_read={}", resolved.wanted.max_io_bytes));
        if resolved.default_permissions {
            resolved.data.push("default_permissions".into());
        }
        if allow_other {
            resolved.data.push("allow_other".into());
        }
        Ok(resolved)
    }
}

/// Whether one item of `-o` is known: to the kernel, to a mount here, or as a word of /etc/fstab that means nothing to
/// either. An item that is not known would make the kernel refuse the mount without saying why.
#[must_use]
pub fn is_option(item: &str) -> bool {
    const FLAGS: [&str; 17] = [
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "strictatime",
        "async",
        "sync",
        "dirsync",
        "norelatime",
        "nostrictatime",
    ];
    const HERE: [&str; 22] = [
        "",
        "ro",
        "rw",
        "nonempty",
        "debug",
        "async_dio",
        "default_permissions",
        "max_read",
        "subtype",
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "_netdev",
        "nofail",
        "fsname",
        "writeback_cache",
        "local_lock",
    ];
    const KERNEL: [&str; 12] = [
        "allow_other",
        "allow_root",
        "fd",
        "rootmode",
        "user_id",
        "group_id",
        "blksize",
        "context",
        "fscontext",
        "defcontext",
        "rootcontext",
        "seclabel",
    ];
    let name = item.split_once('=').map_or(item, |(name, _)| name);
    let is_comment = name.starts_with("x-") || name.starts_with("X-") || name == "comment";
    is_comment || [&FLAGS[..], &HERE, &KERNEL].iter().any(|names| names.contains(&name))
}

impl Resolved {
    /// Takes one item of `-o`: it becomes a flag of mount(2), means something here, or goes on to the kernel as it is.
    fn take(&mut self, item: &str) {
        let (set, flag) = match item {
            "suid" => (false, MountFlags::NOSUID),
            "nosuid" => (true, MountFlags::NOSUID),
            "dev" => (false, MountFlags::NODEV),
            "nodev" => (true, MountFlags::NODEV),
            "exec" => (false, MountFlags::NOEXEC),
            "noexec" => (true, MountFlags::NOEXEC),
            "atime" => (false, MountFlags::NOATIME),
            "noatime" => (true, MountFlags::NOATIME),
            "diratime" => (false, MountFlags::NODIRATIME),
            "nodiratime" => (true, MountFlags::NODIRATIME),
            "relatime" => (true, MountFlags::RELATIME),
            "strictatime" => (true, MountFlags::STRICTATIME),
            "async" => (false, MountFlags::SYNCHRONOUS),
            "sync" => (true, MountFlags::SYNCHRONOUS),
            "dirsync" => (true, MountFlags::DIRSYNC),
            _ => return self.take_data(item),
        };
        self.flags.set(flag, set);
    }

    fn take_data(&mut self, item: &str) {
        match item.split_once('=').unwrap_or((item, "")) {
            // Said by the options themselves, always on, or of no meaning here.
            (
                ""
                | "ro"
                | "rw"
                | "nonempty"
                | "debug"
                | "async_dio"
                | "default_permissions"
                | "max_read"
                | "subtype"
                | "defaults"
                | "auto"
                | "noauto"
                | "user"
                | "nouser"
                | "users"
                | "owner"
                | "group"
                | "_netdev"
                | "nofail"
                | "norelatime"
                | "nostrictatime"
                | "local_lock"
                | "comment"
                // What a mount has already comes back from mount tables.
                | "fd"
                | "rootmode"
                | "user_id"
                | "group_id",
                _,
            ) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            ("fsname", name) if !name.is_empty() => self.source = name.to_owned(),
            _ => self.data.push(item.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(change: impl FnOnce(&mut MountOptions)) -> Resolved {
        let mut options = MountOptions::standard("/".into(), "vol");
        change(&mut options);
        options.resolve().expect("the root is a directory")
    }

    #[test]
    fn plain_mounts_are_as_the_go_client_makes_them() {
        let plain = resolve(|_| {});
        assert_eq!(plain.source, "JuiceFS:vol");
        assert_eq!(plain.data, ["max_read=131072", "default_permissions", "allow_other"]);
        assert_eq!(plain.flags, MountFlags::NOSUID | MountFlags::NODEV);
    }

    #[test]
    fn items_become_flags_meanings_or_kernel_options() {
        let items = ["suid", "noexec", "nonempty", "ro", "fsname=x,y", "writeback_cache", "blksize=512", "allow_root"];
        let resolved = resolve(|o| {
            o.extra = items.map(String::from).into();
            o.allow_other = false;
            o.max_io_bytes = 1 << 19;
        });
        assert_eq!(resolved.flags, MountFlags::NODEV | MountFlags::NOEXEC);
        assert_eq!(resolved.source, "x,y");
        assert!(resolved.wanted.writeback_cache);
        assert_eq!(resolved.data, ["blksize=512", "max_read=524288", "default_permissions", "allow_other"]);
    }

    #[test]
    fn words_are_known_or_not() {
        for item in
            ["ro", "noexec", "max_read=9", "fsname=a", "x-systemd.automount", "_netdev", "user_id=0", "context=a"]
        {
            assert!(is_option(item), "{item}");
        }
        for item in ["romm", "cache-sise=3", "noexecc", "big_writes"] {
            assert!(!is_option(item), "{item}");
        }
        let resolved = resolve(|o| o.extra = ["x-a=b", "user_id=7", "comment=c", "group"].map(String::from).into());
        assert_eq!(resolved.data, ["max_read=131072", "default_permissions", "allow_other"]);
    }

    #[test]
    fn squashing_everybody_takes_the_check_from_the_kernel() {
        let resolved = resolve(|o| o.all_squash = Some((1, 1)));
        assert!(!resolved.default_permissions);
        assert!(!resolved.data.iter().any(|item| item == "default_permissions"));
    }

    #[test]
    fn locks_are_asked_for_by_kind() {
        let kinds = |change: fn(&mut MountOptions)| {
            let Wanted { flock, posix_locks, .. } = resolve(change).wanted;
            (flock, posix_locks)
        };
        assert_eq!(kinds(|_| {}), (true, true));
        assert_eq!(kinds(|o| o.local_flock = true), (false, true));
        assert_eq!(kinds(|o| o.local_posix_locks = true), (true, false));
    }

    #[test]
    fn read_only_mounts_cache_no_writes_and_files_are_no_mount_points() {
        let read_only = resolve(|o| (o.read_only, o.writeback_cache) = (true, true)).wanted;
        assert!(!read_only.writeback_cache && !read_only.flock && !read_only.posix_locks);
        let file = MountOptions::standard("/proc/version".into(), "vol").resolve();
        assert!(matches!(file, Err(MountError::MountPoint { .. })));
    }
}
