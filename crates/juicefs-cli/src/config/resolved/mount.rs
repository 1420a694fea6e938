//! Settles what `mount` does, by its flags (cli.md §4.3–4.8, §7.1).

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use juicefs_meta::AtimeMode;

use self::features::{atime_option, has_option};
pub(crate) use self::{
    data::{CachePlace, DataConfig},
    features::Features,
};
use super::{Surroundings, Warned};
use crate::config::{
    args::{MetaArgs, MetaCacheArgs, MountArgs},
    values,
};

pub(crate) mod atime;
mod data;
mod features;

/// What `--open-cache-limit` and `--skip-dir-nlink` are when nobody gives them.
const DEFAULT_OPEN_CACHE_LIMIT: u64 = 10_000;
const DEFAULT_SKIP_DIR_NLINK: u32 = 20;

/// Everything that a mount decides before it looks at the volume.
#[derive(Clone, Debug, PartialEq)]
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

impl MountConfig {
    /// Whether applications would find no difference between a mount of these settings and one of `other`, wherever
    /// they are and however their processes run.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let settings = |it: &Self| {
            let Self { meta_url: _, mountpoint: _, process: _, meta, timeouts, features, overrides, data } = it.clone();
            (meta, timeouts, features, overrides, data)
        };
        settings(self) == settings(other)
    }
}

/// How the process runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProcessConfig {
    /// Go to the background.
    pub(crate) background: bool,
    /// Log file of a background mount.
    pub(crate) log: PathBuf,
    /// Mount over what is mounted there.
    pub(crate) force: bool,
    /// mount(8) asks.
    pub(crate) via_mount: bool,
    /// Keep /etc/fstab up to date.
    pub(crate) update_fstab: bool,
    /// Turn transparent huge pages off.
    pub(crate) disable_huge_pages: bool,
    /// How long the starter waits for a background mount (JFS_MOUNT_TIMEOUT).
    pub(crate) ready_timeout: Duration,
}

/// How the metadata is used.
#[derive(Clone, Debug, PartialEq)]
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

/// What the kernel may remember, and how long.
#[derive(Clone, Debug, PartialEq)]
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

/// Storage settings of this client only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    let features = features::resolve(&args.fuse, here)?;
    let mut meta = meta(&args.meta, args.data.io_retries, has_option(&args.fuse, "ro"), &mut warnings);
    meta.atime = atime_option(&args.fuse).unwrap_or(meta.atime);
    let timeouts = timeouts(&args.meta_cache, args.meta.skip_dir_mtime, &mut warnings);
    let data = data::resolve(&args.data, &args.cache, here, &mut warnings);
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
            via_mount: process.via_mount,
            update_fstab: process.update_fstab,
            disable_huge_pages: process.disable_transparent_hugepage,
            ready_timeout: ready_timeout(here, &mut warnings),
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

/// Refuses flags that are not built yet and without which the mount would not have the properties that are asked for.
fn refuse_unbuilt(args: &MountArgs) -> Result<()> {
    let unbuilt = [(args.metrics.consul.is_some(), "--consul")];
    match unbuilt.iter().find(|(given, _)| *given) {
        Some((_, flag)) => bail!("{flag} is not supported yet: leave it out"),
        None => Ok(()),
    }
}

/// Refuses backups so frequent that they would be a load of their own.
fn check_backup(interval: Option<Duration>, here: &Surroundings) -> Result<()> {
    const LEAST: Duration = Duration::from_secs(300);
    let unchecked = here.var("SKIP_BACKUP_META_CHECK") == Some("true");
    match interval.filter(|interval| !interval.is_zero() && *interval < LEAST && !unchecked) {
        Some(interval) => bail!("--backup-meta {interval:?} is too short: give at least 5m, or 0 for no backups"),
        None => Ok(()),
    }
}

/// Warns of flags that are not built yet and that are harmless to leave out.
fn note_unbuilt(args: &MountArgs, warnings: &mut Vec<String>) {
    let (meta, cache) = (&args.meta, &args.meta_cache);
    let unbuilt = [
        (
            meta.backup_meta.is_some_and(|interval| !interval.is_zero()) || meta.backup_skip_trash,
            "--backup-meta and --backup-skip-trash have no effect yet: metadata is not backed up automatically",
        ),
        (args.metrics.metrics.is_some(), "--metrics has no effect yet: metrics are in the file .stats of the mount"),
        (args.metrics.custom_labels.is_some(), "--custom-labels has no effect yet: there is no endpoint to label"),
        (
            !cache.open_cache.is_zero() || cache.open_cache_limit != DEFAULT_OPEN_CACHE_LIMIT,
            "--open-cache and --open-cache-limit have no effect: every open asks the metadata engine",
        ),
        (
            meta.skip_dir_nlink != DEFAULT_SKIP_DIR_NLINK,
            "--skip-dir-nlink has no effect: the link counts of directories are always kept",
        ),
        (args.data.tag.is_some(), "--tag has no effect yet: objects are stored without tags"),
    ];
    warnings.extend(unbuilt.iter().filter(|(given, _)| *given).map(|(_, text)| (*text).to_owned()));
}

fn ready_timeout(here: &Surroundings, warnings: &mut Vec<String>) -> Duration {
    const USUAL: Duration = Duration::from_secs(10);
    let Some(text) = here.var("JFS_MOUNT_TIMEOUT") else { return USUAL };
    values::duration(text).ok().filter(|timeout| !timeout.is_zero()).unwrap_or_else(|| {
        warnings.push(format!("JFS_MOUNT_TIMEOUT is {text:?}, which is not a number of seconds above 0: using 10"));
        USUAL
    })
}

/// The address with an absolute path. A relative path in a SQLite address would mean another file once the process
/// stands in another directory.
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

fn meta(args: &MetaArgs, retries: u32, ro_option: bool, warnings: &mut Vec<String>) -> MetaConfig {
    let heartbeat = args.heartbeat.clamp(Duration::from_secs(1), Duration::from_secs(600));
    if heartbeat != args.heartbeat {
        warnings.push(format!("heartbeat {:?} is outside of 1s to 10m: using {heartbeat:?}", args.heartbeat));
    }
    let atime = atime::parse(&args.atime_mode).unwrap_or_else(|| {
        let word = &args.atime_mode;
        warnings.push(format!("unknown atime mode {word:?} (noatime, relatime, strictatime): using noatime"));
        AtimeMode::NoAtime
    });
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

#[cfg(test)]
mod tests;
