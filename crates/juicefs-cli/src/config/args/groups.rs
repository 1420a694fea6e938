//! Flag groups that several commands share.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::config::values::{
    Interval, count, duration, integer, interval, large_count, mbps, size_b, size_g, size_m, tag,
};

/// Where the data of a volume lives.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Storage options")]
pub(crate) struct StorageArgs {
    /// Kind of the object storage [default: file]
    #[arg(long, value_name = "NAME")]
    pub(crate) storage: Option<String>,
    /// Bucket or directory [default: /var/jfs, ~/.juicefs/local for users]
    #[arg(long, value_name = "BUCKET")]
    pub(crate) bucket: Option<String>,
    /// Access key [env: ACCESS_KEY]
    #[arg(long, value_name = "KEY")]
    pub(crate) access_key: Option<String>,
    /// Secret key [env: SECRET_KEY]
    #[arg(long, value_name = "KEY")]
    pub(crate) secret_key: Option<String>,
    /// Session token [env: SESSION_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) session_token: Option<String>,
    /// Storage class of objects
    #[arg(long, value_name = "CLASS")]
    pub(crate) storage_class: Option<String>,
    /// Tag of objects
    #[arg(long, value_parser = tag, value_name = "KEY=VALUE")]
    pub(crate) tag: Option<String>,
}

/// Limits and features of a volume.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Management options")]
pub(crate) struct ManagementArgs {
    /// Limit of the volume's space (default unit GiB), 0 for none
    #[arg(long, value_parser = size_g, value_name = "SIZE")]
    pub(crate) capacity: Option<u64>,
    /// Limit of the volume's inodes, 0 for none
    #[arg(long, value_parser = whole, value_name = "N")]
    pub(crate) inodes: Option<u64>,
    /// Days that removed files stay in the trash, 0 for no trash [default: 1]
    #[arg(long, value_parser = trash_days, allow_negative_numbers = true, value_name = "DAYS")]
    pub(crate) trash_days: Option<i64>,
    /// POSIX ACLs; cannot be turned off again
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) enable_acl: Option<bool>,
    /// Ranger service address
    #[arg(long, value_name = "URL")]
    pub(crate) ranger_rest_url: Option<String>,
    /// Ranger service name
    #[arg(long, value_name = "NAME")]
    pub(crate) ranger_service: Option<String>,
    /// Kerberos configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) kerberos_config_file: Option<PathBuf>,
}

fn trash_days(text: &str) -> Result<i64, String> {
    integer(text).ok().filter(|days| *days >= 0).ok_or_else(|| "trash days are 0 or a positive number".to_owned())
}

/// A number that is not below zero.
fn whole(text: &str) -> Result<u64, String> {
    integer(text)
        .ok()
        .and_then(|number| number.try_into().ok())
        .ok_or_else(|| "0 or a positive number is wanted".to_owned())
}

/// How a client uses the metadata.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Metadata options")]
pub(crate) struct MetaArgs {
    /// Directory of the volume that becomes the root of the mount
    #[arg(long, value_name = "DIR")]
    pub(crate) subdir: Option<String>,
    /// Interval of metadata backups (no effect yet)
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) backup_meta: Option<Duration>,
    /// Leave the trash out of backups (no effect yet)
    #[arg(long)]
    pub(crate) backup_skip_trash: bool,
    /// Interval at which the session is renewed
    #[arg(long, value_parser = duration, default_value = "12s", value_name = "DURATION")]
    pub(crate) heartbeat: Duration,
    /// Change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Run no background jobs
    #[arg(long)]
    pub(crate) no_bgjob: bool,
    /// When access times change: noatime, relatime or strictatime
    #[arg(long, default_value = "noatime", value_name = "MODE")]
    pub(crate) atime_mode: String,
    /// Conflicts after which a parent's link count is left behind (key-value engines)
    #[arg(long, value_parser = count, default_value = "20", value_name = "N")]
    pub(crate) skip_dir_nlink: u32,
    /// Smallest step of a directory's modification time
    #[arg(long, value_parser = duration, default_value = "100ms", value_name = "DURATION")]
    pub(crate) skip_dir_mtime: Duration,
    /// List directories by name
    #[arg(long)]
    pub(crate) sort_dir: bool,
    /// Answer statfs from local counters
    #[arg(long)]
    pub(crate) fast_statfs: bool,
    /// Network interfaces whose addresses the session shows, separated by commas
    #[arg(long, value_name = "NAMES")]
    pub(crate) network_interfaces: Option<String>,
}

/// What the kernel and the client may remember of metadata.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Metadata cache options")]
pub(crate) struct MetaCacheArgs {
    /// How long the kernel keeps attributes
    #[arg(long, value_parser = duration, default_value = "1s", value_name = "DURATION")]
    pub(crate) attr_cache: Duration,
    /// How long the kernel keeps file entries
    #[arg(long, value_parser = duration, default_value = "1s", value_name = "DURATION")]
    pub(crate) entry_cache: Duration,
    /// How long the kernel keeps directory entries
    #[arg(long, value_parser = duration, default_value = "1s", value_name = "DURATION")]
    pub(crate) dir_entry_cache: Duration,
    /// How long the kernel remembers that a name is missing
    #[arg(long, value_parser = duration, default_value = "0s", value_name = "DURATION")]
    pub(crate) negative_entry_cache: Duration,
    /// Let the kernel keep directory listings
    #[arg(long)]
    pub(crate) readdir_cache: bool,
    /// How long an open may trust what this client knows
    #[arg(long, value_parser = duration, default_value = "0s", value_name = "DURATION")]
    pub(crate) open_cache: Duration,
    /// Open files remembered at most, 0 for no limit
    #[arg(long, value_parser = large_count, default_value = "10000", value_name = "N")]
    pub(crate) open_cache_limit: u64,
}

/// How a client uses the object storage.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Data storage options")]
pub(crate) struct DataStorageArgs {
    /// Kind of the object storage, for this client only
    #[arg(long, value_name = "NAME")]
    pub(crate) storage: Option<String>,
    /// Bucket or directory, for this client only
    #[arg(long, value_name = "BUCKET")]
    pub(crate) bucket: Option<String>,
    /// Storage class, for this client only
    #[arg(long, value_name = "CLASS")]
    pub(crate) storage_class: Option<String>,
    /// Tag, for this client only
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) tag: Option<String>,
    /// Time limit of one download
    #[arg(long, value_parser = duration, default_value = "60s", value_name = "DURATION")]
    pub(crate) get_timeout: Duration,
    /// Time limit of one upload
    #[arg(long, value_parser = duration, default_value = "60s", value_name = "DURATION")]
    pub(crate) put_timeout: Duration,
    /// Send a download a second time when it takes unusually long
    #[arg(
        long,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub(crate) hedge_get: bool,
    /// Tries after a failure, and how long they go on: 1 + 4 + 9 + ... + N*N seconds at least for data, 6*N for metadata
    #[arg(long, value_parser = count, default_value = "10", value_name = "N")]
    pub(crate) io_retries: u32,
    /// Uploads at once
    #[arg(long, value_parser = integer, default_value = "20", allow_negative_numbers = true, value_name = "N")]
    pub(crate) max_uploads: i64,
    /// Downloads at once
    #[arg(long, value_parser = integer, default_value = "200", allow_negative_numbers = true, value_name = "N")]
    pub(crate) max_downloads: i64,
    /// Writers to the staging disk at once
    #[arg(long, value_parser = integer, default_value = "1000", allow_negative_numbers = true, value_name = "N")]
    pub(crate) max_stage_write: i64,
    /// Deletions at once, 0 for none
    #[arg(long, value_parser = integer, default_value = "10", allow_negative_numbers = true, value_name = "N")]
    pub(crate) max_deletes: i64,
    /// Upload limit in Mbps, 0 for that of the volume
    #[arg(long, value_parser = mbps, default_value = "0", value_name = "MBPS")]
    pub(crate) upload_limit: i64,
    /// Download limit in Mbps, 0 for that of the volume
    #[arg(long, value_parser = mbps, default_value = "0", value_name = "MBPS")]
    pub(crate) download_limit: i64,
    /// Try the object storage before mounting
    #[arg(long)]
    pub(crate) check_storage: bool,
}

/// Buffers and caches of a client.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Data cache options")]
pub(crate) struct DataCacheArgs {
    /// All read and write buffers (default unit MiB)
    #[arg(long, value_parser = size_m, default_value = "300M", value_name = "SIZE")]
    pub(crate) buffer_size: u64,
    /// Read-ahead of one reader (default unit MiB) [default: 8 blocks]
    #[arg(long, value_parser = size_m, value_name = "SIZE")]
    pub(crate) max_readahead: Option<u64>,
    /// Whole blocks fetched after a partial read, 0 for none
    #[arg(long, value_parser = count, default_value = "1", value_name = "N")]
    pub(crate) prefetch: u32,
    /// Acknowledge writes once they are on the local disk, and upload them later
    #[arg(long)]
    pub(crate) writeback: bool,
    /// Stage only blocks below this size (default unit bytes), 0 for all
    #[arg(long, value_parser = size_b, default_value = "0", value_name = "SIZE")]
    pub(crate) writeback_threshold_size: u64,
    /// Keep staged blocks this long before they go up
    #[arg(long, value_parser = duration, default_value = "0s", value_name = "DURATION")]
    pub(crate) upload_delay: Duration,
    /// Hours of the day in which delayed blocks go up
    #[arg(long, value_name = "START-END")]
    pub(crate) upload_hours: Option<String>,
    /// Cache directories; `memory` for none [default: /var/jfsCache, ~/.juicefs/cache for users]
    #[arg(long, value_name = "DIRS")]
    pub(crate) cache_dir: Option<String>,
    /// Octal mode of cache files
    #[arg(long, default_value = "0600", value_name = "OCTAL")]
    pub(crate) cache_mode: String,
    /// Size of the cache (default unit MiB), 0 for none
    #[arg(long, value_parser = size_m, default_value = "100G", value_name = "SIZE")]
    pub(crate) cache_size: u64,
    /// Blocks in the cache, 0 to derive it
    #[arg(long, value_parser = large_count, default_value = "0", value_name = "N")]
    pub(crate) cache_items: u64,
    /// Share of the disk that stays free
    #[arg(long, default_value_t = 0.1, value_name = "RATIO")]
    pub(crate) free_space_ratio: f64,
    /// Cache only small and random reads
    #[arg(long)]
    pub(crate) cache_partial_only: bool,
    /// Keep full blocks in the cache after upload
    #[arg(long)]
    pub(crate) cache_large_write: bool,
    /// Check of cached bytes: none, full, shrink or extend
    #[arg(long, default_value = "extend", value_name = "LEVEL")]
    pub(crate) verify_cache_checksum: String,
    /// Eviction: none, 2-random or lru
    #[arg(long, default_value = "2-random", value_name = "POLICY")]
    pub(crate) cache_eviction: String,
    /// Interval at which cache directories are scanned: 0 for once at the start, below 0 for never
    #[arg(long, value_parser = interval, allow_negative_numbers = true, allow_hyphen_values = true, default_value = "1h",
        value_name = "DURATION")]
    pub(crate) cache_scan_interval: Interval,
    /// Drop blocks that were not used for this long, 0 for never
    #[arg(long, value_parser = duration, default_value = "0s", value_name = "DURATION")]
    pub(crate) cache_expire: Duration,
}

/// Metrics endpoint.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Metrics options")]
pub(crate) struct MetricsArgs {
    /// Address that serves metrics (no effect yet)
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    /// Labels of all metrics, key:value;key:value (no effect yet)
    #[arg(long, value_name = "LABELS")]
    pub(crate) custom_labels: Option<String>,
    /// Consul to register at (not supported yet)
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) consul: Option<String>,
    /// Do not report use (this client never does)
    #[arg(long)]
    pub(crate) no_usage_report: bool,
}
