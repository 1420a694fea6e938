//! The text of `.config` of a mount. It shows all settings in force without secrets, in the shape that tools of JuiceFS
//! parse.

use std::time::Duration;

use anyhow::Result;
use juicefs_core::{Format, version::CLIENT_VERSION};
use serde_json::{Value, json};

use crate::config::resolved::{
    MountConfig,
    mount::{CachePlace, atime},
};

/// The nanoseconds of a duration, as `.config` shows durations.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The text of `.config`.
///
/// # Errors
/// When the setting cannot be written as JSON, which happens for none.
pub(super) fn build(config: &MountConfig, format: &Format, sid: u64) -> Result<Value> {
    let (timeouts, features) = (&config.timeouts, &config.features);
    Ok(json!({
        "Meta": meta(config, sid),
        "Format": serde_json::to_value(crate::volume::shown(format)?)?,
        "Chunk": chunk(config, format),
        "Security": { "EnableCap": features.capabilities, "EnableSELinux": features.selinux },
        "Port": { "PrometheusAgent": "", "DebugAgent": "" },
        "Version": CLIENT_VERSION,
        "AttrTimeout": nanos(timeouts.attr),
        "DirEntryTimeout": nanos(timeouts.dir_entry),
        "NegEntryTimeout": nanos(timeouts.negative),
        "EntryTimeout": nanos(timeouts.entry),
        "ReaddirCache": timeouts.readdir_cache,
        "BackupMeta": 0,
        "BackupSkipTrash": false,
        "PrefixInternal": features.prefix_internal,
        "HideInternal": features.hide_internal,
        "UMask": features.umask.unwrap_or(u16::MAX),
        "Pid": std::process::id(),
        "PPid": nix::unistd::getppid().as_raw(),
        "FuseOpts": fuse(config, format),
        "Mountpoint": config.mountpoint,
    }))
}

fn meta(config: &MountConfig, sid: u64) -> Value {
    let meta = &config.meta;
    json!({
        "Retries": meta.retries,
        "MaxDeletes": config.data.max_deletes,
        "SkipDirNlink": 0,
        "CaseInsensi": false,
        "ReadOnly": meta.read_only,
        "NoBGJob": !meta.background_jobs,
        "OpenCache": 0,
        "OpenCacheLimit": 0,
        "Heartbeat": nanos(meta.heartbeat),
        "MountPoint": config.mountpoint,
        "Subdir": meta.subdir.as_deref().unwrap_or_default(),
        "AtimeMode": atime::name(meta.atime),
        "DirStatFlushPeriod": nanos(Duration::from_secs(1)),
        "SkipDirMtime": nanos(meta.skip_dir_mtime),
        "Sid": sid,
        "SortDir": meta.sort_dir,
        "FastStatfs": meta.fast_statfs,
        "NetworkInterfaces": meta.network_interfaces,
    })
}

fn chunk(config: &MountConfig, format: &Format) -> Value {
    let data = &config.data;
    let writeback = data.writeback.as_ref();
    let cache_dir = match &data.cache {
        CachePlace::None | CachePlace::Memory => "memory".to_owned(),
        CachePlace::Dirs(dirs) => {
            let dirs: Vec<String> = dirs.iter().map(|dir| dir.join(&format.uuid).display().to_string()).collect();
            dirs.join(":")
        }
    };
    json!({
        "CacheDir": cache_dir,
        "CacheMode": data.cache_mode,
        "CacheSize": data.cache_bytes,
        "CacheItems": data.cache_items,
        "CacheChecksum": data.verify_checksum,
        "CacheEviction": data.eviction,
        "CacheScanInterval": data.scan_interval.map_or(json!(-1_000_000_000_i64), |every| json!(nanos(every))),
        "CacheExpire": nanos(data.expire),
        "OSCache": true,
        "FreeSpace": data.free_space_ratio,
        "AutoCreate": true,
        "Compress": format.compression,
        "MaxUpload": data.max_uploads,
        "MaxDownload": data.max_downloads,
        "MaxRetries": data.retries,
        "UploadLimit": bytes_a_second(data.upload_limit_mbps, format.upload_limit),
        "DownloadLimit": bytes_a_second(data.download_limit_mbps, format.download_limit),
        "Writeback": data.writeback.is_some(),
        "MaxStageWrite": writeback.map_or(0, |rules| rules.max_stage_writes),
        "WritebackThresholdSize": writeback.map_or(0, |rules| rules.threshold_bytes),
        "UploadDelay": nanos(writeback.map_or(Duration::ZERO, |rules| rules.upload_delay)),
        "UploadHours": writeback
            .and_then(|rules| rules.upload_hours)
            .map_or_else(String::new, |hours| format!("{}-{}", hours.from, hours.to)),
        "HashPrefix": format.hash_prefix,
        "BlockSize": format.block_bytes(),
        "GetTimeout": nanos(data.get_timeout),
        "PutTimeout": nanos(data.put_timeout),
        "CacheFullBlock": !data.cache_partial_only,
        "CacheLargeWrite": data.cache_large_write,
        "BufferSize": data.buffer_bytes,
        "Readahead": if data.max_readahead_bytes == 0 { 8 * format.block_bytes() } else { data.max_readahead_bytes },
        "Prefetch": data.prefetch,
    })
}

/// The limit in force, which is that of the mount, else that of the volume. Both are in Mbps.
fn bytes_a_second(mount: u64, volume: i64) -> u64 {
    let mbps = if mount > 0 { mount } else { u64::try_from(volume).unwrap_or(0) };
    mbps.saturating_mul(1_000_000 / 8)
}

fn fuse(config: &MountConfig, format: &Format) -> Value {
    let features = &config.features;
    let mut options = features.kernel_options.clone();
    if features.default_permissions && features.all_squash.is_none() {
        options.push("default_permissions".to_owned());
    }
    json!({
        "AllowOther": features.allow_other,
        "Options": options,
        "MaxWrite": features.max_io_bytes,
        "FsName": features.fsname.clone().unwrap_or_else(|| format!("JuiceFS:{}", format.name)),
        "Name": "juicefs",
        "DisableXAttrs": !features.xattr && !format.enable_acl,
        "EnableLocks": true,
        "EnableAcl": format.enable_acl,
        "EnableWriteback": features.writeback_cache,
    })
}
