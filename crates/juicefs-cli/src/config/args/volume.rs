//! Flags of the commands that make, change and mount a volume.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{DataCacheArgs, DataStorageArgs, ManagementArgs, MetaArgs, MetaCacheArgs, MetricsArgs, StorageArgs};
use crate::config::values::{count, duration, integer, mbps, octal, size_b, size_k, squash};

/// `format`.
#[derive(Args, Debug, Clone)]
pub(crate) struct FormatArgs {
    /// Address of the metadata engine, for example sqlite3://meta.db
    #[arg(value_name = "META-URL")]
    pub(crate) meta_url: String,
    /// Name of the volume
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
    #[command(flatten)]
    pub(crate) management: ManagementArgs,
    /// Size of a block (default unit KiB): 64K to 16M [default: 4M]
    #[arg(long, value_parser = size_k, value_name = "SIZE")]
    pub(crate) block_size: Option<u64>,
    /// Compression: none, lz4 or zstd [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) compress: Option<String>,
    /// PEM file with the private key that encrypts the data
    #[arg(long, value_name = "FILE")]
    pub(crate) encrypt_rsa_key: Option<PathBuf>,
    /// aes256gcm-rsa, chacha20-rsa or sm4gcm [default: aes256gcm-rsa]
    #[arg(long, value_name = "NAME")]
    pub(crate) encrypt_algo: Option<String>,
    /// Begin object keys with two hex digits
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) hash_prefix: Option<bool>,
    /// Number of buckets, with %d in --bucket
    #[arg(long, value_parser = count, value_name = "N")]
    pub(crate) shards: Option<u32>,
    /// Overwrite the setting of an existing volume
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave an existing volume as it is
    #[arg(long)]
    pub(crate) no_update: bool,
}

/// `config`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ConfigArgs {
    /// Address of the metadata engine
    #[arg(value_name = "META-URL")]
    pub(crate) meta_url: String,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
    #[command(flatten)]
    pub(crate) management: ManagementArgs,
    /// Upload limit of every client in Mbps
    #[arg(long, value_parser = mbps, value_name = "MBPS")]
    pub(crate) upload_limit: Option<i64>,
    /// Download limit of every client in Mbps
    #[arg(long, value_parser = mbps, value_name = "MBPS")]
    pub(crate) download_limit: Option<i64>,
    /// Store the secrets encrypted if they are not
    #[arg(long)]
    pub(crate) encrypt_secret: bool,
    /// Oldest client that may open the volume
    #[arg(long, value_name = "VERSION")]
    pub(crate) min_client_version: Option<String>,
    /// Newest client that may open the volume
    #[arg(long, value_name = "VERSION")]
    pub(crate) max_client_version: Option<String>,
    /// Keep directory statistics
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) dir_stats: Option<bool>,
    /// Count use per user and group
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) user_group_quota: Option<bool>,
    /// Keep a log of changes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) changelog: Option<bool>,
    /// Age at which change-log lines go, 0 for never [default: 2h]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) changelog_max_age: Option<Duration>,
    /// Change-log lines kept, 0 for all
    #[arg(long, value_parser = integer, value_name = "N")]
    pub(crate) changelog_max_lines: Option<i64>,
    /// Tier that --storage-class and --tag belong to
    #[arg(long, value_name = "0..3", value_parser = clap::value_parser!(u8).range(0..=3))]
    pub(crate) tier: Option<u8>,
    /// Answer all questions with yes
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Skip all checks
    #[arg(long)]
    pub(crate) force: bool,
}

/// `mount`.
#[derive(Args, Debug, Clone)]
pub(crate) struct MountArgs {
    /// Address of the metadata engine
    #[arg(value_name = "META-URL")]
    pub(crate) meta_url: String,
    /// Directory to mount on; made if missing
    #[arg(value_name = "MOUNTPOINT")]
    pub(crate) mountpoint: PathBuf,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    pub(crate) fuse: FuseArgs,
    #[command(flatten)]
    pub(crate) meta: MetaArgs,
    #[command(flatten)]
    pub(crate) meta_cache: MetaCacheArgs,
    #[command(flatten)]
    pub(crate) data: DataStorageArgs,
    #[command(flatten)]
    pub(crate) cache: DataCacheArgs,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
}

/// How the mount process runs.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Process options")]
pub(crate) struct ProcessArgs {
    /// Stay in the foreground (the default)
    #[arg(long, short = 'f', hide = true)]
    pub(crate) foreground: bool,
    /// Run in the background; return when the mount serves
    #[arg(long, short = 'd')]
    pub(crate) background: bool,
    /// Do not also log to syslog in the background
    #[arg(long)]
    pub(crate) no_syslog: bool,
    /// Log file of the background process [default: /var/log/juicefs.log, ~/.juicefs/juicefs.log for users]
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// mount(8) asks: what is mounted there already is no failure
    #[arg(long, hide = true)]
    pub(crate) via_mount: bool,
    /// Change the options of the mount that is there
    #[arg(long, hide = true)]
    pub(crate) remount: bool,
    /// Mount even if something is mounted there already
    #[arg(long)]
    pub(crate) force: bool,
    /// Write a line into /etc/fstab and link /sbin/mount.juicefs
    #[arg(long)]
    pub(crate) update_fstab: bool,
    /// Turn transparent huge pages off for this process
    #[arg(long)]
    pub(crate) disable_transparent_hugepage: bool,
}

/// How the kernel sees the mount.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "FUSE options")]
pub(crate) struct FuseArgs {
    /// Do not list .accesslog, .stats and the like
    #[arg(long)]
    pub(crate) hide_internal: bool,
    /// Name internal files .jfs.*
    #[arg(long)]
    pub(crate) prefix_internal: bool,
    /// Extended attributes
    #[arg(long)]
    pub(crate) enable_xattr: bool,
    /// Allow security.capability attributes
    #[arg(long)]
    pub(crate) enable_cap: bool,
    /// Allow security.selinux attributes
    #[arg(long)]
    pub(crate) enable_selinux: bool,
    /// Allow FS_IOC_GETFLAGS and FS_IOC_SETFLAGS (chattr)
    #[arg(long)]
    pub(crate) enable_ioctl: bool,
    /// Map root to uid:gid
    #[arg(long, value_parser = squash, value_name = "UID:GID")]
    pub(crate) root_squash: Option<(Option<u32>, Option<u32>)>,
    /// Map everyone to uid:gid
    #[arg(long, value_parser = squash, value_name = "UID:GID")]
    pub(crate) all_squash: Option<(Option<u32>, Option<u32>)>,
    /// Check permissions here and not in the kernel
    #[arg(long, hide = true)]
    pub(crate) non_default_permission: bool,
    /// Largest request (default unit bytes), up to 1M
    #[arg(long, value_parser = size_b, value_name = "SIZE")]
    pub(crate) max_fuse_io: Option<u64>,
    /// Octal umask in place of the caller's
    #[arg(long, value_parser = octal, value_name = "OCTAL")]
    pub(crate) umask: Option<u16>,
    /// Options for the kernel, separated by commas
    #[arg(short = 'o', action = clap::ArgAction::Append, value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
}
