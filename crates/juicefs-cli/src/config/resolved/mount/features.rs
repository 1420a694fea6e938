//! Settles what a mount offers to applications, by its flags and by the kernel options of `-o`.

use anyhow::{Result, bail};
use juicefs_meta::AtimeMode;

use super::atime;
use crate::config::{args::volume::FuseArgs, resolved::Surroundings};

/// What the mount offers to applications.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Features {
    /// Internal files are not listed.
    pub(crate) hide_internal: bool,
    /// Internal files are named `.jfs.*`.
    pub(crate) prefix_internal: bool,
    /// Extended attributes.
    pub(crate) xattr: bool,
    /// `security.capability`.
    pub(crate) capabilities: bool,
    /// `security.selinux`.
    pub(crate) selinux: bool,
    /// Inode flags.
    pub(crate) ioctl: bool,
    /// Replaces callers' umasks.
    pub(crate) umask: Option<u16>,
    /// The kernel checks permission bits.
    pub(crate) default_permissions: bool,
    /// Who root becomes; `None` in a part stands for nobody.
    pub(crate) root_squash: Option<(Option<u32>, Option<u32>)>,
    /// Who everybody becomes.
    pub(crate) all_squash: Option<(Option<u32>, Option<u32>)>,
    /// Largest request in bytes.
    pub(crate) max_io_bytes: usize,
    /// Others than the mounting user may use the mount.
    pub(crate) allow_other: bool,
    /// The kernel collects writes (`-o writeback_cache`).
    pub(crate) writeback_cache: bool,
    /// Locks that the kernel keeps, for this mount alone (`-o local_lock=`).
    pub(crate) local_locks: LocalLocks,
    /// The name of the source in mount tables, if not `JuiceFS:NAME`.
    pub(crate) fsname: Option<String>,
    /// Further options for mount(2).
    pub(crate) kernel_options: Vec<String>,
}

/// Kinds of locks that are not shared with other mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalLocks {
    /// Locks of flock(2) are not shared.
    pub(crate) flock: bool,
    /// Locks of fcntl(2) are not shared.
    pub(crate) posix: bool,
}

/// The kernel options of all `-o`, one by one.
fn options(fuse: &FuseArgs) -> impl Iterator<Item = &str> {
    fuse.options.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|option| !option.is_empty())
}

/// Whether this is a word of /etc/fstab that says something to mount(8), and nothing to a mount.
fn is_remark(option: &str) -> bool {
    const WORDS: [&str; 10] =
        ["_netdev", "nofail", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group"];
    WORDS.contains(&option) || ["x-", "X-", "comment="].iter().any(|start| option.starts_with(start))
}

/// Whether the kernel option `name` is given.
pub(super) fn has_option(fuse: &FuseArgs, name: &str) -> bool {
    options(fuse).any(|option| option == name)
}

/// The last access-time mode among the kernel options. It wins over `--atime-mode`, because an entry of /etc/fstab or
/// mount(8) says it so for every file system.
pub(super) fn atime_option(fuse: &FuseArgs) -> Option<AtimeMode> {
    options(fuse).fold(None, |mode, option| if option == "atime" { None } else { atime::parse(option).or(mode) })
}

/// The last `local_lock=` among the kernel options, with the values that NFS has.
fn local_locks(fuse: &FuseArgs) -> Result<LocalLocks> {
    let Some(value) = options(fuse).filter_map(|option| option.strip_prefix("local_lock=")).last() else {
        return Ok(LocalLocks::default());
    };
    let (flock, posix) = match value {
        "none" => (false, false),
        "flock" => (true, false),
        "posix" => (false, true),
        "all" => (true, true),
        other => bail!("local_lock is {other:?}: it can be none, flock, posix or all"),
    };
    Ok(LocalLocks { flock, posix })
}

/// Checks the flags that concern what applications see, and the options of `-o`.
///
/// # Errors
/// A sentence for the user.
pub(super) fn resolve(fuse: &FuseArgs, here: &Surroundings) -> Result<Features> {
    if let Some(unknown) = options(fuse).find(|option| !juicefs_fuse::is_option(option)) {
        bail!("{unknown:?} in -o is neither an option of the kernel nor a flag of `juicefs mount`: leave it out");
    }
    let consumed = ["allow_other", "allow_root", "nonempty", "ro", "rw", "debug", "writeback_cache", "async_dio"];
    let largest = juicefs_core::limits::MAX_FUSE_IO_BYTES;
    let max_io = fuse.max_fuse_io.and_then(|size| usize::try_from(size).ok()).unwrap_or(largest).min(largest);
    Ok(Features {
        hide_internal: fuse.hide_internal,
        prefix_internal: fuse.prefix_internal,
        xattr: fuse.enable_xattr,
        capabilities: fuse.enable_cap,
        selinux: fuse.enable_selinux,
        ioctl: fuse.enable_ioctl,
        umask: fuse.umask,
        default_permissions: !fuse.non_default_permission,
        root_squash: fuse.root_squash.filter(|_| fuse.all_squash.is_none()),
        all_squash: fuse.all_squash,
        max_io_bytes: max_io,
        allow_other: here.is_root || has_option(fuse, "allow_other") || has_option(fuse, "allow_root"),
        writeback_cache: has_option(fuse, "writeback_cache"),
        local_locks: local_locks(fuse)?,
        fsname: options(fuse).filter_map(|option| option.strip_prefix("fsname=")).last().map(str::to_owned),
        kernel_options: options(fuse)
            .filter(|option| !consumed.contains(option))
            .filter(|option| !option.starts_with("fsname=") && !option.starts_with("local_lock="))
            .filter(|option| !is_remark(option))
            .map(str::to_owned)
            .collect(),
    })
}
