//! Settles how a mount moves and caches data, by its flags (cli.md §4.5, §4.6, §4.8).

mod health;
mod place;

use std::time::Duration;

use juicefs_chunk::{HealthRules, UploadHours, Writeback};

pub(crate) use self::place::CachePlace;
use crate::config::{
    args::{DataCacheArgs, DataStorageArgs},
    resolved::Surroundings,
    values,
};

/// How data is moved and cached.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DataConfig {
    /// Time limit of a download.
    pub(crate) get_timeout: Duration,
    /// Time limit of an upload.
    pub(crate) put_timeout: Duration,
    /// Tries after a failure.
    pub(crate) retries: u32,
    /// Slow downloads are sent a second time.
    pub(crate) hedge_get: bool,
    /// Uploads at once.
    pub(crate) max_uploads: usize,
    /// Downloads at once.
    pub(crate) max_downloads: usize,
    /// Deletions at once; 0 deletes nothing.
    pub(crate) max_deletes: usize,
    /// Limit of all uploads in Mbps; 0 for that of the volume.
    pub(crate) upload_limit_mbps: u64,
    /// Limit of all downloads in Mbps; 0 for that of the volume.
    pub(crate) download_limit_mbps: u64,
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
    /// Interval of scans: zero for one at the start only, `None` for none at all.
    pub(crate) scan_interval: Option<Duration>,
    /// Idle time after which blocks go; zero for never.
    pub(crate) expire: Duration,
    /// Blocks count as written once they are on the local disk.
    pub(crate) writeback: Option<Writeback>,
    /// When a cache disk is no longer relied on.
    pub(crate) health: HealthRules,
}

/// The smallest cap of all buffers.
const LEAST_BUFFER: u64 = 32 << 20;

/// Settles what the flags leave open, and corrects what cannot be. Corrections are added to `warnings`.
pub(super) fn resolve(
    storage: &DataStorageArgs,
    cache: &DataCacheArgs,
    here: &Surroundings,
    warnings: &mut Vec<String>,
) -> DataConfig {
    warn_of_values(storage, cache, warnings);
    let mut place = place::resolve(cache, here);
    if cache.cache_size == 0 {
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
    DataConfig {
        get_timeout: storage.get_timeout,
        put_timeout: storage.put_timeout,
        retries: storage.io_retries,
        hedge_get: storage.hedge_get,
        max_uploads: usize::try_from(storage.max_uploads).unwrap_or(0).max(1),
        max_downloads: usize::try_from(storage.max_downloads).ok().filter(|n| *n > 0).unwrap_or(200),
        max_deletes: usize::try_from(storage.max_deletes).unwrap_or(0),
        upload_limit_mbps: u64::try_from(storage.upload_limit).unwrap_or(0),
        download_limit_mbps: u64::try_from(storage.download_limit).unwrap_or(0),
        check_storage: storage.check_storage,
        buffer_bytes: bytes(cache.buffer_size.max(LEAST_BUFFER)),
        max_readahead_bytes: bytes(cache.max_readahead.unwrap_or(0)),
        prefetch: prefetch as usize,
        cache_mode: cache_mode(&cache.cache_mode, warnings),
        cache_bytes: cache.cache_size,
        cache_items: cache.cache_items,
        free_space_ratio: share(cache.free_space_ratio),
        cache_partial_only: cache.cache_partial_only,
        cache_large_write: cache.cache_large_write,
        verify_checksum: verify,
        eviction,
        scan_interval: cache.cache_scan_interval.0,
        expire,
        writeback: writeback(storage, cache, &place, warnings),
        cache: place,
        health: health::resolve(here, warnings),
    }
}

/// Warns of values that are corrected, or that have an effect which their giver may not expect.
fn warn_of_values(storage: &DataStorageArgs, cache: &DataCacheArgs, warnings: &mut Vec<String>) {
    if !(0.0..1.0).contains(&cache.free_space_ratio) {
        let used = if cache.free_space_ratio < 0.0 { "all of the disk may be used" } else { "nothing is cached" };
        warnings.push(format!("--free-space-ratio {} is no share from 0 to below 1: {used}", cache.free_space_ratio));
    }
    if cache.buffer_size < LEAST_BUFFER {
        warnings.push("--buffer-size is too small: using 32M".to_owned());
    }
    if storage.max_deletes <= 0 {
        warnings.push("with --max-deletes 0 this client deletes no data of removed files".to_owned());
    }
    if cache.cache_size == 0 {
        warnings.push("with --cache-size 0 nothing is cached or prefetched".to_owned());
    }
}

/// The nearest share; what is no number leaves everything free.
fn share(ratio: f64) -> f64 {
    if ratio.is_nan() { 1.0 } else { ratio.clamp(0.0, 1.0) }
}

/// What waits on the local disk, if there is one. Without it the flags that go with it mean nothing.
fn writeback(
    storage: &DataStorageArgs,
    cache: &DataCacheArgs,
    place: &CachePlace,
    warnings: &mut Vec<String>,
) -> Option<Writeback> {
    if !cache.writeback {
        if !cache.upload_delay.is_zero() || cache.upload_hours.is_some() {
            warnings.push("--upload-delay and --upload-hours are ignored without --writeback".to_owned());
        }
        return None;
    }
    if !matches!(place, CachePlace::Dirs(_)) {
        warnings.push("--writeback is ignored without a cache directory".to_owned());
        return None;
    }
    if cache.cache_partial_only {
        warnings.push("with --writeback whole blocks stay in the cache until they are uploaded".to_owned());
    }
    let hours = cache.upload_hours.as_deref().and_then(|text| {
        let hours = upload_hours(text);
        if hours.is_none() {
            warnings.push(format!("--upload-hours {text:?} is ignored: give two hours from 0 to 23, as 22-6"));
        }
        hours
    });
    Some(Writeback {
        threshold_bytes: cache.writeback_threshold_size,
        upload_delay: cache.upload_delay,
        upload_hours: hours,
        max_stage_writes: usize::try_from(storage.max_stage_write).unwrap_or(0).max(1),
    })
}

/// `A-B` or `A,B`.
fn upload_hours(text: &str) -> Option<UploadHours> {
    let (from, to) = text.split_once(['-', ','])?;
    let hour = |text: &str| text.trim().parse().ok().filter(|hour: &u8| *hour < 24);
    Some(UploadHours { from: hour(from)?, to: hour(to)? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_two_numbers() {
        assert_eq!(upload_hours("22-6"), Some(UploadHours { from: 22, to: 6 }));
        assert_eq!(upload_hours("0, 23"), Some(UploadHours { from: 0, to: 23 }));
        for text in ["", "5", "5-24", "-1-3", "a-b"] {
            assert_eq!(upload_hours(text), None, "{text}");
        }
        let night = UploadHours { from: 22, to: 6 };
        assert!(night.contains(22) && night.contains(5) && !night.contains(6) && !night.contains(21));
        assert!(UploadHours { from: 3, to: 3 }.contains(17));
    }
}
