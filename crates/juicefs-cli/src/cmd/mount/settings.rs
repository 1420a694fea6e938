//! Makes the settings of each layer of checked flags and the setting of the volume.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use juicefs_chunk::{CachePlace, ChecksumLevel, ChunkConfig, Cipher, Eviction};
use juicefs_core::{Format, SystemClock};
use juicefs_fuse::MountOptions;
use juicefs_meta::ClientConfig;
use juicefs_vfs::{VfsConfig, WriteLimits};
use nix::unistd::{Group, User, getegid, geteuid};
use serde_json::Value;

use crate::config::resolved::{
    MountConfig, Surroundings,
    mount::{self, StorageOverrides},
    volume::{storage_kind, stored_bucket},
};

const NOBODY: u32 = 65534;

/// The setting as this client uses it: with its own storage, bucket and class.
///
/// # Errors
/// When the storage is not supported.
pub(super) fn overridden(format: &Format, overrides: &StorageOverrides) -> Result<Format> {
    let mut format = format.clone();
    if let Some(storage) = &overrides.storage {
        format.storage = storage_kind(storage)?;
    }
    if let Some(bucket) = &overrides.bucket {
        format.bucket = stored_bucket(&format.storage, bucket, &Surroundings::of_process())?;
    }
    if let Some(class) = &overrides.storage_class {
        format.storage_class.clone_from(class);
    }
    if let Some(tier) = format.tiers.as_mut().and_then(|tiers| tiers.get_mut("0")) {
        tier.storage_class = overrides.storage_class.clone().unwrap_or_else(|| tier.storage_class.clone());
        tier.tag = overrides.tag.clone().unwrap_or_else(|| tier.tag.clone());
    }
    Ok(format)
}

/// How long a replaced file can be opened by whoever looked its name up before. It is far longer than the kernel takes
/// from the lookup to the open.
const KEEP_REPLACED: Duration = Duration::from_secs(1);

/// Settings of the metadata client.
pub(super) fn client(config: &MountConfig) -> ClientConfig {
    let meta = &config.meta;
    ClientConfig {
        read_only: meta.read_only,
        skip_dir_mtime: meta.skip_dir_mtime,
        subdir: meta.subdir.clone(),
        heartbeat: meta.heartbeat,
        keep_replaced: KEEP_REPLACED,
        atime_mode: meta.atime,
        sort_dir: meta.sort_dir,
        fast_statfs: meta.fast_statfs,
        clock: Arc::new(SystemClock),
    }
}

/// The bandwidths of uploads and downloads in megabits a second, where 0 is no limit. Those of this client go before
/// those of the volume.
pub(super) fn limits(config: &MountConfig, format: &Format) -> (u64, u64) {
    let chosen = |own: u64, of_volume: i64| if own > 0 { own } else { u64::try_from(of_volume).unwrap_or(0) };
    let data = &config.data;
    (chosen(data.upload_limit_mbps, format.upload_limit), chosen(data.download_limit_mbps, format.download_limit))
}

/// Settings of the data path; `cipher` is that of an encrypted volume.
///
/// # Errors
/// When the volume has a block size or compression that is not supported.
pub(super) fn chunk(config: &MountConfig, format: &Format, cipher: Option<Arc<Cipher>>) -> Result<ChunkConfig> {
    let data = &config.data;
    let mut chunk = ChunkConfig::for_volume(format, cipher).with_context(|| format!("volume {}", format.name))?;
    chunk.buffer_bytes = data.buffer_bytes;
    chunk.max_uploads = data.max_uploads;
    chunk.max_downloads = data.max_downloads;
    chunk.max_deletes = data.max_deletes;
    chunk.get_timeout = data.get_timeout;
    chunk.put_timeout = data.put_timeout;
    chunk.io_retries = data.retries;
    chunk.hedge_get = data.hedge_get;
    (chunk.upload_limit_mbps, chunk.download_limit_mbps) = limits(config, format);
    chunk.prefetch = data.prefetch;
    chunk.writeback.clone_from(&data.writeback);
    let cache = &mut chunk.cache;
    cache.place = match &data.cache {
        mount::CachePlace::None => CachePlace::None,
        mount::CachePlace::Memory => CachePlace::Memory,
        mount::CachePlace::Dirs(dirs) => CachePlace::Disk(dirs.iter().map(|dir| dir.join(&format.uuid)).collect()),
    };
    cache.mode = data.cache_mode;
    cache.size_bytes = data.cache_bytes;
    cache.items = data.cache_items;
    cache.free_space_ratio = data.free_space_ratio;
    cache.eviction = match data.eviction.as_str() {
        "none" => Eviction::None,
        "lru" => Eviction::Lru,
        _ => Eviction::TwoRandom,
    };
    cache.checksum = match data.verify_checksum.as_str() {
        "none" => ChecksumLevel::None,
        "full" => ChecksumLevel::Full,
        "shrink" => ChecksumLevel::Shrink,
        _ => ChecksumLevel::Extend,
    };
    cache.scan_interval = data.scan_interval;
    cache.health = data.health.clone();
    cache.expire = data.expire;
    cache.partial_only = data.cache_partial_only;
    cache.keep_written = ChunkConfig::keep_written(&format.storage, data.cache_large_write);
    cache.memory_bytes = data.buffer_bytes as u64 / 8;
    Ok(chunk)
}

/// Settings of the file system.
pub(super) fn vfs(config: &MountConfig, format: &Format, config_json: Value) -> VfsConfig {
    let (timeouts, features) = (&config.timeouts, &config.features);
    VfsConfig {
        attr_ttl: timeouts.attr,
        entry_ttl: timeouts.entry,
        dir_entry_ttl: timeouts.dir_entry,
        negative_ttl: timeouts.negative,
        keep_readdir_cache: timeouts.readdir_cache,
        read_only: config.meta.read_only,
        enable_acl: format.enable_acl,
        enable_xattr: features.xattr || format.enable_acl,
        enable_cap: features.capabilities,
        enable_selinux: features.selinux,
        enable_ioctl: features.ioctl,
        prefix_internal: features.prefix_internal,
        hide_internal: features.hide_internal,
        umask: features.umask,
        max_readahead_bytes: config.data.max_readahead_bytes,
        heartbeat: config.meta.heartbeat,
        background_jobs: config.meta.background_jobs && !config.meta.read_only,
        max_deletes: config.data.max_deletes,
        write_limits: WriteLimits::standard(),
        commit_patience: commit_patience(config.data.retries),
        config_json,
        subdir: config.meta.subdir.is_some(),
        mount_uid: geteuid().as_raw(),
        mount_gid: getegid().as_raw(),
    }
}

/// How long somebody waits for a commit, which is as long as for everything else that the metadata engine is asked.
fn commit_patience(retries: u32) -> Duration {
    Duration::from_secs(6 * u64::from(retries.max(1)))
}

/// Settings of the mount.
pub(super) fn fuse(config: &MountConfig, format: &Format) -> MountOptions {
    let features = &config.features;
    let nobody = |squash: Option<(Option<u32>, Option<u32>)>| {
        squash.map(|(uid, gid)| (uid.unwrap_or_else(nobody_uid), gid.unwrap_or_else(nogroup_gid)))
    };
    MountOptions {
        mountpoint: config.mountpoint.clone(),
        volume: format.name.clone(),
        fsname: features.fsname.clone(),
        allow_other: features.allow_other,
        read_only: config.meta.read_only,
        default_permissions: features.default_permissions,
        max_io_bytes: features.max_io_bytes,
        // Beside the buffers, and in proportion to them.
        waiting_bytes: (config.data.buffer_bytes / 4).clamp(16 << 20, 128 << 20),
        writeback_cache: features.writeback_cache,
        enable_acl: format.enable_acl,
        enable_xattr: features.xattr || format.enable_acl,
        local_flock: features.local_locks.flock,
        local_posix_locks: features.local_locks.posix,
        extra: features.kernel_options.clone(),
        threads: None,
        root_squash: nobody(features.root_squash),
        all_squash: nobody(features.all_squash),
        umask: features.umask,
    }
}

fn nobody_uid() -> u32 {
    User::from_name("nobody").ok().flatten().map_or(NOBODY, |user| user.uid.as_raw())
}

fn nogroup_gid() -> u32 {
    Group::from_name("nogroup").ok().flatten().map_or(NOBODY, |group| group.gid.as_raw())
}
