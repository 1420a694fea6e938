//! What `mount` does, resolved from its flags (cli.md §4.3–4.8, §7.1).

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use super::{Surroundings, Warned};
use crate::config::{
    args::{DataCacheArgs, DataStorageArgs, MetaArgs, MetaCacheArgs, MountArgs, volume::FuseArgs},
    values,
};

/// Everything that a mount decides before it looks at the volume.
#[derive(Clone, Debug)]
pub(crate) struct MountConfig {
    /// Address of the metadata engine; a relative SQLite path is made absolute.
    pub(crate) meta_url: String,
    /// Absolute path to mount on.
    pub(crate) mountpoint: PathBuf,
    /// How the process runs.
    pub(crate) process: ProcessConfig,
    /// How the metadata is used.
    pub(crate) meta: MetaConfig,
    /// What the kernel may remember.
    pub(crate) timeouts: KernelTimeouts,
    /// What the mount offers to applications.
    pub(crate) features: Features,
    /// What this client uses in place of the volume's storage setting.
    pub(crate) overrides: StorageOverrides,
    /// How the data is moved and cached.
    pub(crate) data: DataConfig,
}

/// How the process runs.
#[derive(Clone, Debug)]
pub(crate) struct ProcessConfig {
    /// Go to the background.
    pub(crate) background: bool,
    /// Log file of a background mount.
    pub(crate) log: PathBuf,
    /// Mount over a mount of the same volume.
    pub(crate) force: bool,
    /// Keep /etc/fstab up to date.
    pub(crate) update_fstab: bool,
    /// Turn transparent huge pages off.
    pub(crate) disable_huge_pages: bool,
    /// How long the starter waits for a background mount (JFS_MOUNT_TIMEOUT).
    pub(crate) ready_timeout: Duration,
}

/// How the metadata is used.
#[derive(Clone, Debug)]
pub(crate) struct MetaConfig {
    /// Directory of the volume that is the root of the mount.
    pub(crate) subdir: Option<String>,
    /// Interval of session renewal.
    pub(crate) heartbeat: Duration,
    /// Change nothing.
    pub(crate) read_only: bool,
    /// Run background jobs.
    pub(crate) background_jobs: bool,
    /// Access-time mode.
    pub(crate) atime: AtimeMode,
    /// Smallest step of a directory's times.
    pub(crate) skip_dir_mtime: Duration,
    /// List directories by name.
    pub(crate) sort_dir: bool,
    /// statfs from local counters.
    pub(crate) fast_statfs: bool,
    /// Tries of a transaction.
    pub(crate) retries: u32,
    /// Interfaces whose addresses the session shows; all when empty.
    pub(crate) network_interfaces: Vec<String>,
}

/// When access times change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtimeMode {
    /// Never by reading.
    Noatime,
    /// As the kernel's relatime does.
    Relatime,
    /// By every read.
    Strictatime,
}

impl AtimeMode {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noatime => "noatime",
            Self::Relatime => "relatime",
            Self::Strictatime => "strictatime",
        }
    }
}

/// What the kernel may remember, and how long.
#[derive(Clone, Debug)]
pub(crate) struct KernelTimeouts {
    /// Attributes.
    pub(crate) attr: Duration,
    /// Names of files.
    pub(crate) entry: Duration,
    /// Names of directories.
    pub(crate) dir_entry: Duration,
    /// Missing names.
    pub(crate) negative: Duration,
    /// Listings.
    pub(crate) readdir_cache: bool,
}

/// What the mount offers to applications.
#[derive(Clone, Debug)]
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
    /// The name of the source in mount tables, if not `JuiceFS:NAME`.
    pub(crate) fsname: Option<String>,
    /// Further options for mount(2).
    pub(crate) kernel_options: Vec<String>,
}

/// Storage settings of this client only.
#[derive(Clone, Debug, Default)]
pub(crate) struct StorageOverrides {
    /// Kind.
    pub(crate) storage: Option<String>,
    /// Bucket.
    pub(crate) bucket: Option<String>,
    /// Storage class.
    pub(crate) storage_class: Option<String>,
    /// Tag.
    pub(crate) tag: Option<String>,
}

/// Where blocks are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CachePlace {
    /// Nowhere.
    None,
    /// In memory.
    Memory,
    /// In directories, given without the volume's part.
    Dirs(Vec<PathBuf>),
}

/// How data is moved and cached.
#[derive(Clone, Debug)]
pub(crate) struct DataConfig {
    /// Time limit of a download.
    pub(crate) get_timeout: Duration,
    /// Time limit of an upload.
    pub(crate) put_timeout: Duration,
    /// Tries after a failure.
    pub(crate) retries: u32,
    /// Uploads at once.
    pub(crate) max_uploads: usize,
    /// Downloads at once.
    pub(crate) max_downloads: usize,
    /// Deletions at once; 0 deletes nothing.
    pub(crate) max_deletes: usize,
    /// Try the storage before mounting.
    pub(crate) check_storage: bool,
    /// Cap of all buffers in bytes.
    pub(crate) buffer_bytes: usize,
    /// Read-ahead of one reader in bytes; 0 stands for 8 blocks.
    pub(crate) max_readahead_bytes: usize,
    /// Blocks to fetch around a random read.
    pub(crate) prefetch: usize,
    /// Where blocks are kept.
    pub(crate) cache: CachePlace,
    /// Mode of cache files.
    pub(crate) cache_mode: u32,
    /// Size of the cache over all directories in bytes.
    pub(crate) cache_bytes: u64,
    /// Blocks in the cache; 0 to derive it from the free space.
    pub(crate) cache_items: u64,
    /// Share of the disk that stays free.
    pub(crate) free_space_ratio: f64,
    /// Do not cache whole blocks.
    pub(crate) cache_partial_only: bool,
    /// Keep full blocks after upload.
    pub(crate) cache_large_write: bool,
    /// `none`, `full`, `shrink` or `extend`.
    pub(crate) verify_checksum: String,
    /// `none`, `2-random` or `lru`.
    pub(crate) eviction: String,
    /// Interval of scans.
    pub(crate) scan_interval: Duration,
    /// Idle time after which blocks go; zero for never.
    pub(crate) expire: Duration,
}

/// Checks the flags of `mount`.
///
/// # Errors
/// A sentence for the user. Nothing was done.
pub(crate) fn resolve(args: &MountArgs, here: &Surroundings) -> Result<Warned<MountConfig>> {
    let mut warnings = Vec::new();
    refuse_unbuilt(args)?;
    check_backup(args.meta.backup_meta, here)?;
    let mountpoint = here.absolute(&args.mountpoint);
    if mountpoint.parent().is_none() {
        bail!("cannot mount on {:?}: choose a directory other than the root", args.mountpoint);
    }
    let features = features(&args.fuse, args, here);
    let meta = meta(&args.meta, args.data.io_retries, has_option(&args.fuse, "ro"), &mut warnings);
    let timeouts = timeouts(&args.meta_cache, args.meta.skip_dir_mtime, &mut warnings);
    let data = data(&args.data, &args.cache, here, &mut warnings)?;
    note_unbuilt(args, &mut warnings);
    let tag = args.data.tag.clone().filter(|tag| {
        let good = values::tag(tag).is_ok();
        if !good {
            warnings.push(format!("tag {tag:?} is ignored: a tag is key=value"));
        }
        good
    });
    let process = &args.process;
    let config = MountConfig {
        meta_url: absolute_meta_url(&args.meta_url, here),
        mountpoint,
        process: ProcessConfig {
            background: process.background && here.var("JFS_FOREGROUND").is_none(),
            log: process
                .log
                .as_ref()
                .map_or_else(|| here.place("/var/log/juicefs.log", "juicefs.log"), |log| here.absolute(log)),
            force: process.force,
            update_fstab: process.update_fstab,
            disable_huge_pages: process.disable_transparent_hugepage,
            ready_timeout: ready_timeout(here)?,
        },
        meta,
        timeouts,
        features,
        overrides: StorageOverrides {
            storage: args.data.storage.as_ref().map(|storage| storage.to_ascii_lowercase()),
            bucket: args.data.bucket.clone(),
            storage_class: args.data.storage_class.clone(),
            tag,
        },
        data,
    };
    Ok(Warned { value: config, warnings })
}

/// What would give a mount other properties than it was asked for is refused until it is built.
fn refuse_unbuilt(args: &MountArgs) -> Result<()> {
    let unbuilt = [
        (args.cache.writeback, "--writeback"),
        (args.data.upload_limit > 0, "--upload-limit"),
        (args.data.download_limit > 0, "--download-limit"),
        (args.metrics.consul.is_some(), "--consul"),
    ];
    match unbuilt.iter().find(|(given, _)| *given) {
        Some((_, flag)) => bail!("{flag} is not supported yet: leave it out"),
        None => Ok(()),
    }
}

/// More backups than this would be a load of their own.
fn check_backup(interval: Option<Duration>, here: &Surroundings) -> Result<()> {
    const LEAST: Duration = Duration::from_secs(300);
    let unchecked = here.var("SKIP_BACKUP_META_CHECK") == Some("true");
    match interval.filter(|interval| !interval.is_zero() && *interval < LEAST && !unchecked) {
        Some(interval) => bail!("--backup-meta {interval:?} is too short: give at least 5m, or 0 for no backups"),
        None => Ok(()),
    }
}

/// What is harmless to leave undone is said once.
fn note_unbuilt(args: &MountArgs, warnings: &mut Vec<String>) {
    if args.meta.backup_meta.is_some_and(|interval| !interval.is_zero()) {
        warnings.push("--backup-meta has no effect yet: metadata is not backed up automatically".to_owned());
    }
    if args.metrics.metrics.is_some() {
        warnings.push("--metrics has no effect yet: metrics are in the file .stats of the mount".to_owned());
    }
    if !args.cache.upload_delay.is_zero() || args.cache.upload_hours.is_some() {
        warnings.push("--upload-delay and --upload-hours are ignored without --writeback".to_owned());
    }
}

fn ready_timeout(here: &Surroundings) -> Result<Duration> {
    match here.var("JFS_MOUNT_TIMEOUT") {
        None => Ok(Duration::from_secs(10)),
        Some(text) => match values::duration(text) {
            Ok(timeout) if !timeout.is_zero() => Ok(timeout),
            _ => bail!("JFS_MOUNT_TIMEOUT is {text:?}, which is not a number of seconds above 0"),
        },
    }
}

/// A relative path in a SQLite address would mean another file once the process stands in another directory.
pub(crate) fn absolute_meta_url(url: &str, here: &Surroundings) -> String {
    match url.split_once("://") {
        Some((scheme @ ("sqlite3" | "badger"), path)) if !path.starts_with('/') && !path.is_empty() => {
            let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
            let path = here.absolute(path.as_ref());
            let query = query.map_or_else(String::new, |query| format!("?{query}"));
            format!("{scheme}://{}{query}", path.display())
        }
        _ => url.to_owned(),
    }
}

fn kernel_options(fuse: &FuseArgs) -> impl Iterator<Item = &str> {
    fuse.options.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|option| !option.is_empty())
}

fn has_option(fuse: &FuseArgs, name: &str) -> bool {
    kernel_options(fuse).any(|option| option == name)
}

fn features(fuse: &FuseArgs, args: &MountArgs, here: &Surroundings) -> Features {
    let consumed = ["allow_other", "allow_root", "nonempty", "ro", "rw", "debug", "writeback_cache", "async_dio"];
    let largest = juicefs_core::limits::MAX_FUSE_IO_BYTES;
    let max_io = fuse.max_fuse_io.and_then(|size| usize::try_from(size).ok()).unwrap_or(largest).min(largest);
    Features {
        hide_internal: fuse.hide_internal,
        prefix_internal: fuse.prefix_internal,
        xattr: fuse.enable_xattr,
        capabilities: fuse.enable_cap,
        selinux: fuse.enable_selinux,
        ioctl: fuse.enable_ioctl,
        umask: args.fuse.umask,
        default_permissions: !fuse.non_default_permission,
        root_squash: fuse.root_squash.filter(|_| fuse.all_squash.is_none()),
        all_squash: fuse.all_squash,
        max_io_bytes: max_io,
        allow_other: here.is_root || has_option(fuse, "allow_other") || has_option(fuse, "allow_root"),
        writeback_cache: has_option(fuse, "writeback_cache"),
        fsname: kernel_options(fuse).filter_map(|option| option.strip_prefix("fsname=")).last().map(str::to_owned),
        kernel_options: kernel_options(fuse)
            .filter(|option| !consumed.contains(option) && !option.starts_with("fsname="))
            .map(str::to_owned)
            .collect(),
    }
}

fn meta(args: &MetaArgs, retries: u32, ro_option: bool, warnings: &mut Vec<String>) -> MetaConfig {
    let heartbeat = args.heartbeat.clamp(Duration::from_secs(1), Duration::from_secs(600));
    if heartbeat != args.heartbeat {
        warnings.push(format!("heartbeat {:?} is outside of 1s to 10m: using {heartbeat:?}", args.heartbeat));
    }
    let atime = match args.atime_mode.as_str() {
        "noatime" => AtimeMode::Noatime,
        "relatime" => AtimeMode::Relatime,
        "strictatime" => AtimeMode::Strictatime,
        other => {
            warnings.push(format!("unknown atime mode {other:?} (noatime, relatime, strictatime): using noatime"));
            AtimeMode::Noatime
        }
    };
    let names = args.network_interfaces.as_deref().unwrap_or_default();
    MetaConfig {
        subdir: args.subdir.clone().filter(|dir| !dir.trim_matches('/').is_empty()),
        heartbeat,
        read_only: args.read_only || ro_option,
        background_jobs: !args.no_bgjob,
        atime,
        skip_dir_mtime: args.skip_dir_mtime,
        sort_dir: args.sort_dir,
        fast_statfs: args.fast_statfs,
        retries,
        network_interfaces: names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

fn timeouts(args: &MetaCacheArgs, skip_dir_mtime: Duration, warnings: &mut Vec<String>) -> KernelTimeouts {
    if args.readdir_cache && args.attr_cache.is_zero() {
        warnings.push("--readdir-cache has no effect while --attr-cache is 0".to_owned());
    }
    if args.readdir_cache && !skip_dir_mtime.is_zero() {
        warnings.push("--readdir-cache may show old listings while --skip-dir-mtime is above 0".to_owned());
    }
    KernelTimeouts {
        attr: args.attr_cache,
        entry: args.entry_cache,
        dir_entry: args.dir_entry_cache,
        negative: args.negative_entry_cache,
        readdir_cache: args.readdir_cache,
    }
}

fn data(
    storage: &DataStorageArgs,
    cache: &DataCacheArgs,
    here: &Surroundings,
    warnings: &mut Vec<String>,
) -> Result<DataConfig> {
    const LEAST_BUFFER: u64 = 32 << 20;
    if !(0.0..1.0).contains(&cache.free_space_ratio) {
        bail!("--free-space-ratio {} is not a share from 0 to below 1", cache.free_space_ratio);
    }
    if cache.buffer_size < LEAST_BUFFER {
        warnings.push("--buffer-size is too small: using 32M".to_owned());
    }
    if storage.max_deletes <= 0 {
        warnings.push("with --max-deletes 0 this client deletes no data of removed files".to_owned());
    }
    let mut place = cache_place(cache, here);
    if cache.cache_size == 0 {
        warnings.push("with --cache-size 0 nothing is cached or prefetched".to_owned());
        place = CachePlace::None;
    }
    let among = |value: &str, flag: &str, known: &[&str], default: &str, warnings: &mut Vec<String>| {
        let known_value = known.iter().find(|known| **known == value).copied();
        if known_value.is_none() {
            warnings.push(format!("unknown {flag} {value:?} ({}): using {default}", known.join(", ")));
        }
        known_value.unwrap_or(default).to_owned()
    };
    let levels = ["none", "full", "shrink", "extend"];
    let verify = among(&cache.verify_cache_checksum, "--verify-cache-checksum", &levels, "extend", warnings);
    let mut eviction =
        among(&cache.cache_eviction, "--cache-eviction", &["none", "2-random", "lru"], "2-random", warnings);
    if place == CachePlace::Memory && eviction == "lru" {
        warnings.push("a cache in memory evicts by 2-random, not lru".to_owned());
        "2-random".clone_into(&mut eviction);
    }
    let prefetch = if cache.cache_size == 0 { 0 } else { cache.prefetch };
    let expire =
        if cache.cache_expire.is_zero() { Duration::ZERO } else { cache.cache_expire.max(Duration::from_secs(1)) };
    if expire != cache.cache_expire {
        warnings.push("--cache-expire is below a second: using 1s".to_owned());
    }
    Ok(DataConfig {
        get_timeout: storage.get_timeout,
        put_timeout: storage.put_timeout,
        retries: storage.io_retries,
        max_uploads: usize::try_from(storage.max_uploads).unwrap_or(0).max(1),
        max_downloads: usize::try_from(storage.max_downloads).ok().filter(|n| *n > 0).unwrap_or(200),
        max_deletes: usize::try_from(storage.max_deletes).unwrap_or(0),
        check_storage: storage.check_storage,
        buffer_bytes: bytes(cache.buffer_size.max(LEAST_BUFFER)),
        max_readahead_bytes: bytes(cache.max_readahead.unwrap_or(0)),
        prefetch: prefetch as usize,
        cache: place,
        cache_mode: cache_mode(&cache.cache_mode, warnings),
        cache_bytes: cache.cache_size,
        cache_items: cache.cache_items,
        free_space_ratio: cache.free_space_ratio,
        cache_partial_only: cache.cache_partial_only,
        cache_large_write: cache.cache_large_write,
        verify_checksum: verify,
        eviction,
        scan_interval: cache.cache_scan_interval,
        expire,
    })
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn cache_mode(text: &str, warnings: &mut Vec<String>) -> u32 {
    match values::octal(text) {
        Ok(mode) => u32::from(mode),
        Err(_) => {
            warnings.push(format!("--cache-mode {text:?} is no octal mode: using 0600"));
            0o600
        }
    }
}

/// Patterns are expanded; a pattern that matches nothing stays as it is and becomes a directory of that name.
fn cache_place(cache: &DataCacheArgs, here: &Surroundings) -> CachePlace {
    match cache.cache_dir.as_deref().filter(|list| !list.is_empty()) {
        None => CachePlace::Dirs(vec![here.place("/var/jfsCache", "cache")]),
        Some("memory") => CachePlace::Memory,
        Some(list) => {
            CachePlace::Dirs(values::directories(list).iter().flat_map(|dir| expand(&here.absolute(dir))).collect())
        }
    }
}

/// The existing directories that a path with `*` or `?` in its parts matches, in name order.
fn expand(pattern: &std::path::Path) -> Vec<PathBuf> {
    let is_pattern = |part: &str| part.contains(['*', '?']);
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        if !is_pattern(&text) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let matching = |parent: &PathBuf| {
            let mut names: Vec<PathBuf> = std::fs::read_dir(parent)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| matches(&text, &entry.file_name().to_string_lossy()) && entry.path().is_dir())
                .map(|entry| entry.path())
                .collect();
            names.sort();
            names
        };
        found = found.iter().flat_map(matching).collect();
    }
    if found.is_empty() { vec![pattern.to_owned()] } else { found }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| matches(rest, &name[at..]))
        }
        Some(wanted) => name.chars().next().is_some_and(|first| {
            (wanted == '?' || wanted == first) && matches(&pattern[wanted.len_utf8()..], &name[first.len_utf8()..])
        }),
    }
}

#[cfg(test)]
mod tests;
