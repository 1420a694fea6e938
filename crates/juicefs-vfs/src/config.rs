//! The options of a VFS, which its mount decides.

use std::time::Duration;

/// How much of one file may wait for its commit, whatever memory there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteLimits {
    /// How many slices may be pending. A write beyond that waits for all of them.
    pub pending_slices: usize,
    /// How many slices of one chunk may be open behind the newest. What a random writer has left further behind is closed.
    pub open_behind: usize,
}

impl WriteLimits {
    /// The limits of every mount.
    #[must_use]
    pub fn standard() -> Self {
        Self { pending_slices: 1000, open_behind: 4 }
    }
}

/// The options of a [`Vfs`](crate::Vfs). Whoever builds them decides about each.
#[derive(Clone, Debug)]
pub struct VfsConfig {
    /// How long front ends may trust attributes (`--attr-cache`, default 1 s).
    pub attr_ttl: Duration,
    /// How long front ends may trust names of files (`--entry-cache`, default 1 s).
    pub entry_ttl: Duration,
    /// How long front ends may trust names of directories (`--dir-entry-cache`, default 1 s).
    pub dir_entry_ttl: Duration,
    /// How long front ends may trust that a name does not exist (`--negative-entry-cache`, default 0: not at all).
    pub negative_ttl: Duration,
    /// Front ends may cache listings (`--readdir-cache`).
    pub keep_readdir_cache: bool,
    /// Nothing may be changed (`--read-only`); the metadata client enforces it too.
    pub read_only: bool,
    /// The volume has POSIX ACLs, which are served as extended attributes.
    pub enable_acl: bool,
    /// Extended attributes are served (`--enable-xattr`); ENOSYS otherwise.
    pub enable_xattr: bool,
    /// `security.capability` is served (`--enable-cap`).
    pub enable_cap: bool,
    /// `security.selinux` is served (`--enable-selinux`).
    pub enable_selinux: bool,
    /// Inode flags through ioctl are served (`--enable-ioctl`); ENOSYS otherwise.
    pub enable_ioctl: bool,
    /// Internal files are named `.jfs.stats` and so on (`--prefix-internal`).
    pub prefix_internal: bool,
    /// Internal files are not listed (`--hide-internal`).
    pub hide_internal: bool,
    /// Replaces the umask of every caller (`--umask`).
    pub umask: Option<u16>,
    /// Upper bound of the read-ahead of one file in bytes (`--max-readahead`); 0 stands for 8 blocks.
    pub max_readahead_bytes: usize,
    /// Interval of session renewal (`--heartbeat`, default 12 s).
    pub heartbeat: Duration,
    /// Clean-up jobs run in this client (off with `--no-bgjob` and on read-only mounts).
    pub background_jobs: bool,
    /// Concurrent deletions of file data (`--max-deletes`, default 10); 0 never deletes.
    pub max_deletes: usize,
    /// How much of a file may wait for its commit.
    pub write_limits: WriteLimits,
    /// How long a commit may take before whoever waits for it is told that it failed. It goes on all the same.
    pub commit_patience: Duration,
    /// What `.config` shows: all settings of the mount, without secrets.
    pub config_json: serde_json::Value,
    /// The mount shows a sub-directory, so that the trash is hidden.
    pub subdir: bool,
    /// The owner of the internal files, who is the user that mounted.
    pub mount_uid: u32,
    /// Group of the internal files.
    pub mount_gid: u32,
}

impl VfsConfig {
    /// The defaults of `juicefs mount`.
    #[must_use]
    pub fn standard() -> Self {
        let second = Duration::from_secs(1);
        Self {
            attr_ttl: second,
            entry_ttl: second,
            dir_entry_ttl: second,
            negative_ttl: Duration::ZERO,
            keep_readdir_cache: false,
            read_only: false,
            enable_acl: false,
            enable_xattr: false,
            enable_cap: false,
            enable_selinux: false,
            enable_ioctl: false,
            prefix_internal: false,
            hide_internal: false,
            umask: None,
            max_readahead_bytes: 0,
            heartbeat: Duration::from_secs(12),
            background_jobs: true,
            max_deletes: 10,
            write_limits: WriteLimits::standard(),
            commit_patience: Duration::from_secs(60),
            config_json: serde_json::Value::Null,
            subdir: false,
            mount_uid: 0,
            mount_gid: 0,
        }
    }
}
