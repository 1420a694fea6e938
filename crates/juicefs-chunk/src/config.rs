//! The settings of the data path are one plain structure, which is filled by whoever knows the flags and the volume setting.

use std::{path::PathBuf, sync::Arc, time::Duration};

use juicefs_core::{Clock, Format, SystemClock, Timestamp};
use thiserror::Error;

use crate::{cipher::Cipher, codec::Compression};

/// The smallest data budget that is worked with, in bytes.
pub const MIN_BUFFER_BYTES: usize = 32 << 20;

/// The most bytes of `--buffer-size` that are used with a local store. Such a store takes blocks as fast as they come, and
/// more memory would only hold them longer.
pub const LOCAL_BUFFER_BYTES: usize = 64 << 20;

/// The most bytes of memory for recently fetched blocks beside a disk cache.
pub const DISK_MEMORY_BYTES: u64 = 16 << 20;

/// Says why a configuration cannot be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The volume is compressed in a way that this client does not know.
    #[error("compression \"{0}\" of the volume is not supported; supported are: none, lz4, zstd")]
    Compression(String),
    /// The volume is encrypted, and its cipher is missing.
    #[error("the volume is encrypted, and its key is not at hand")]
    Encrypted,
    /// No volume has this block size.
    #[error("block size {0} KiB of the volume is not a power of two from 64 to 16384")]
    BlockSize(u32),
}

/// The settings of the data path, which are fixed for the life of a mount. Those that are flags of `mount` are named by them.
#[derive(Clone, Debug)]
pub struct ChunkConfig {
    /// Bytes of a full block, from the volume setting.
    pub block_size: usize,
    /// Compression of bodies, from the volume setting.
    pub compression: Compression,
    /// Encryption of bodies, from the volume setting.
    pub cipher: Option<Arc<Cipher>>,
    /// Whether keys begin with two hex digits, from the volume setting.
    pub hash_prefix: bool,
    /// Whether the store is on this machine, so that its requests cost no more than those of the cache.
    pub local_store: bool,
    /// `--buffer-size`: hard cap in bytes on all data buffers; at least [`MIN_BUFFER_BYTES`] and four blocks are used, and
    /// with a local store at most [`LOCAL_BUFFER_BYTES`].
    pub buffer_bytes: usize,
    /// `--max-uploads`: blocks on their way to the store at once, at least 1.
    pub max_uploads: usize,
    /// `--max-downloads`: requests for data at once; 0 means 200.
    pub max_downloads: usize,
    /// `--max-deletes`: deletions at once, at least 1.
    pub max_deletes: usize,
    /// `--get-timeout`: deadline of one GET.
    pub get_timeout: Duration,
    /// `--put-timeout`: deadline of one PUT or DELETE.
    pub put_timeout: Duration,
    /// `--hedge-get`: a GET that takes longer than nearly all of its size is sent a second time. Not with a local store, nor
    /// with a limit on downloads.
    pub hedge_get: bool,
    /// `--io-retries`: tries, at least, after the first of a request that failed in a way that may pass. GET and PUT go on
    /// until ten times the first wait times 1 + 4 + 9 + ... + the square of this has passed: 385 s with the defaults.
    pub io_retries: u32,
    /// Wait before the first retry; doubles with each, up to 5 s, with jitter.
    pub retry_delay: Duration,
    /// `--upload-limit`: megabits a second that uploads may take together; 0 for no limit.
    pub upload_limit_mbps: u64,
    /// `--download-limit`: the same for downloads.
    pub download_limit_mbps: u64,
    /// `--prefetch`: how many whole blocks are fetched in the background at once, after reads of parts of them; 0 for none.
    pub prefetch: usize,
    /// `--writeback`: blocks count as written once they are on the local disk. `None`: once the store has them.
    pub writeback: Option<Writeback>,
    /// The local cache.
    pub cache: CacheConfig,
    /// The time of day, by which the age of cached blocks is told.
    pub clock: Arc<dyn Clock>,
}

/// Where blocks are kept locally.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CachePlace {
    /// `--cache-size 0`: blocks are kept nowhere but in the short-lived memory for reads.
    None,
    /// `--cache-dir memory`: blocks are kept in memory, up to [`CacheConfig::size_bytes`].
    Memory,
    /// Blocks are kept in these directories. The volume's UUID is part of each (see [`crate::cache_dirs`]).
    Disk(Vec<PathBuf>),
}

/// Which blocks go when the cache is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eviction {
    /// None goes: new blocks are not kept.
    None,
    /// The older of two blocks goes that are taken at random.
    TwoRandom,
    /// The block goes that was unused for longest. In memory that is so in any case.
    Lru,
}

/// How far cached bytes are compared with their checksums (format: data.md §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumLevel {
    /// Checksums are neither compared nor written.
    None,
    /// Checksums are compared when a whole block is read.
    Full,
    /// The checksums are compared of the 32 KiB pieces that lie wholly in what is read.
    Shrink,
    /// The checksums are compared of all 32 KiB pieces that a read touches.
    Extend,
}

/// Which blocks are put into the disk cache as they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepWritten {
    /// No block is: the store is as near as the cache.
    None,
    /// Blocks are that are shorter than a full block, as small files have them.
    Short,
    /// `--cache-large-write`: all blocks are.
    All,
}

/// Settings of `--writeback`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Writeback {
    /// `--writeback-threshold-size`: blocks of this many bytes and more go to the store at once; 0: all are staged.
    pub threshold_bytes: u64,
    /// `--upload-delay`: how long a block waits on the disk at least.
    pub upload_delay: Duration,
    /// `--upload-hours`: when blocks go up; `None`: always.
    pub upload_hours: Option<UploadHours>,
    /// `--max-stage-write`: blocks written to the disk at once; what comes beyond goes to the store.
    pub max_stage_writes: usize,
}

/// Hours of the day, local time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploadHours {
    /// The first hour, 0 to 23.
    pub from: u8,
    /// The first hour after `from` that is not among them, past midnight if it is smaller. All hours are if it is the same.
    pub to: u8,
}

impl UploadHours {
    /// Whether `hour` is one of them.
    #[must_use]
    pub fn contains(self, hour: u8) -> bool {
        match self.from.cmp(&self.to) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => (self.from..self.to).contains(&hour),
            std::cmp::Ordering::Greater => !(self.to..self.from).contains(&hour),
        }
    }
}

/// Returns the hour of the day in the time zone of this machine.
pub(crate) fn local_hour(at: Timestamp) -> u8 {
    let instant = jiff::Timestamp::from_second(at.secs).unwrap_or_default();
    u8::try_from(instant.to_zoned(jiff::tz::TimeZone::system()).hour()).unwrap_or_default()
}

/// The rules by which a cache disk counts as unstable, normal again or down (format: data.md §4.7).
#[derive(Clone, PartialEq, Debug)]
pub struct HealthRules {
    /// How long a reader waits for the disk before it asks the store; a fifth of it while the disk is unstable. What is
    /// nowhere else is waited for up to [`HealthRules::max_operation`].
    pub read_deadline: Duration,
    /// `JFS_MAX_IO_DURATION`: an operation that takes longer counts as failed. Also how long staging a block may take.
    pub max_operation: Duration,
    /// `JFS_MAX_IO_ERR_PERCENTAGE`, as a part of 1: what may fail of the operations of a window that makes a disk normal
    /// again.
    pub max_failed_part: f64,
    /// `JFS_MAX_DURATION_TO_DOWN`: how long a disk may be unstable.
    pub down_after: Duration,
    /// `JFS_MAX_CONCURRENCY_FOR_UNSTABLE`: operations on an unstable disk at once.
    pub unstable_operations: usize,
    /// The time within which failures are counted together.
    pub window: Duration,
    /// The pause between two looks at how an unstable disk does.
    pub probe_interval: Duration,
}

impl Default for HealthRules {
    fn default() -> Self {
        Self {
            read_deadline: Duration::from_secs(5),
            max_operation: Duration::from_secs(30),
            max_failed_part: 0.0,
            down_after: Duration::from_secs(30 * 60),
            unstable_operations: 10,
            window: Duration::from_secs(60),
            probe_interval: Duration::from_millis(500),
        }
    }
}

/// Settings of the local cache.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// `--cache-dir` and `--cache-size 0`.
    pub place: CachePlace,
    /// `--cache-mode`: permission bits of cache files.
    pub mode: u32,
    /// `--cache-size`: bytes over all directories.
    pub size_bytes: u64,
    /// `--cache-items`: blocks over all directories, 0 for no limit but that of free inodes.
    pub items: u64,
    /// `--free-space-ratio`: part of the file system, in bytes and inodes, that stays free.
    pub free_space_ratio: f64,
    /// `--cache-eviction`.
    pub eviction: Eviction,
    /// `--verify-cache-checksum`.
    pub checksum: ChecksumLevel,
    /// `--cache-scan-interval`: zero scans once at the start, `None` never.
    pub scan_interval: Option<Duration>,
    /// `--cache-expire`: age of the last use at which a block goes; zero for never.
    pub expire: Duration,
    /// `--cache-partial-only`: full blocks are not kept unless they were prefetched or asked for.
    pub partial_only: bool,
    /// `--cache-large-write`, and what is worth keeping otherwise.
    pub keep_written: KeepWritten,
    /// Bytes of recently fetched blocks held in memory, outside of the budget; beside a disk cache at most
    /// [`DISK_MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// The rules by which a disk is no longer relied on.
    pub health: HealthRules,
}

impl ChunkConfig {
    /// Makes the settings with JuiceFS' defaults, for a volume that is not encrypted and without a local cache.
    ///
    /// # Errors
    /// When the setting has a block size or compression that no volume of ours has, or it is encrypted.
    pub fn for_format(format: &Format) -> Result<Self, ConfigError> {
        Self::for_volume(format, None)
    }

    /// Makes the settings with JuiceFS' defaults, for a volume without a local cache. `cipher` is that of the volume setting.
    ///
    /// # Errors
    /// When the setting has a block size or compression that no volume of ours has, or says that the volume is encrypted
    /// and there is no cipher: nothing may be stored in the clear then.
    pub fn for_volume(format: &Format, cipher: Option<Arc<Cipher>>) -> Result<Self, ConfigError> {
        if !format.encrypt_key.is_empty() && cipher.is_none() {
            return Err(ConfigError::Encrypted);
        }
        let compression = Compression::parse(&format.compression)
            .ok_or_else(|| ConfigError::Compression(format.compression.clone()))?;
        if !format.block_size.is_power_of_two() || !(64..=16384).contains(&format.block_size) {
            return Err(ConfigError::BlockSize(format.block_size));
        }
        let buffer_bytes = 300 << 20;
        Ok(Self {
            block_size: format.block_bytes(),
            compression,
            cipher,
            hash_prefix: format.hash_prefix,
            local_store: is_local(&format.storage),
            buffer_bytes,
            max_uploads: 20,
            max_downloads: 200,
            max_deletes: 10,
            get_timeout: Duration::from_secs(60),
            put_timeout: Duration::from_secs(60),
            hedge_get: true,
            io_retries: 10,
            retry_delay: Duration::from_millis(100),
            upload_limit_mbps: u64::try_from(format.upload_limit).unwrap_or(0),
            download_limit_mbps: u64::try_from(format.download_limit).unwrap_or(0),
            prefetch: 1,
            writeback: None,
            cache: CacheConfig {
                place: CachePlace::None,
                mode: 0o600,
                size_bytes: 100 << 30,
                items: 0,
                free_space_ratio: 0.1,
                eviction: Eviction::TwoRandom,
                checksum: ChecksumLevel::Extend,
                scan_interval: Some(Duration::from_secs(3600)),
                expire: Duration::ZERO,
                partial_only: false,
                keep_written: Self::keep_written(&format.storage, false),
                memory_bytes: buffer_bytes as u64 / 8,
                health: HealthRules::default(),
            },
            clock: Arc::new(SystemClock),
        })
    }

    /// Decides which written blocks are kept: all with `--cache-large-write`, otherwise the short ones. With a store in a
    /// local directory none are, because a second file doubles the cost of a small file, and reading it back is as cheap
    /// from the store.
    #[must_use]
    pub fn keep_written(storage: &str, large_write: bool) -> KeepWritten {
        match large_write {
            true => KeepWritten::All,
            false if is_local(storage) => KeepWritten::None,
            false => KeepWritten::Short,
        }
    }

    /// Returns the same settings with every number within its bounds.
    pub(crate) fn corrected(mut self) -> Self {
        if self.local_store {
            self.buffer_bytes = self.buffer_bytes.min(LOCAL_BUFFER_BYTES);
        }
        // Four blocks let a compressed block be read while others are written.
        self.buffer_bytes = self.buffer_bytes.max(MIN_BUFFER_BYTES).max(4 * self.block_size);
        self.max_uploads = self.max_uploads.max(1);
        self.max_deletes = self.max_deletes.max(1);
        if self.max_downloads == 0 {
            self.max_downloads = 200;
        }
        let cache = &mut self.cache;
        if cache.size_bytes == 0 {
            cache.place = CachePlace::None;
        }
        if cache.place == CachePlace::None {
            self.prefetch = 0;
        }
        cache.free_space_ratio =
            if cache.free_space_ratio.is_finite() { cache.free_space_ratio.clamp(0.0, 1.0) } else { 0.1 };
        if cache.expire > Duration::ZERO {
            cache.expire = cache.expire.max(Duration::from_secs(1));
        }
        if matches!(cache.place, CachePlace::Disk(_)) {
            // What is on disk is in the page cache when it is hot, and cheap to read from there.
            cache.memory_bytes = cache.memory_bytes.min(DISK_MEMORY_BYTES);
        }
        // A sequential reader needs its block until it has read all of it.
        cache.memory_bytes = cache.memory_bytes.max(2 * self.block_size as u64);
        self
    }
}

/// Whether a kind of storage is on this machine.
pub(crate) fn is_local(storage: &str) -> bool {
    matches!(storage.to_ascii_lowercase().as_str(), "file" | "mem")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(block_size: u32, compression: &str) -> Format {
        Format { block_size, compression: compression.into(), storage: "file".into(), ..Format::default() }
    }

    #[test]
    fn strange_volumes_are_refused_with_a_sentence() {
        assert!(ChunkConfig::for_format(&format(4096, "none")).is_ok());
        let text = ChunkConfig::for_format(&format(4096, "snappy")).expect_err("unknown").to_string();
        assert!(text.contains("snappy") && text.contains("zstd"));
        for size in [0, 32, 100, 32768] {
            assert_eq!(ChunkConfig::for_format(&format(size, "")).expect_err("bad"), ConfigError::BlockSize(size));
        }
    }

    #[test]
    fn numbers_are_brought_within_bounds() {
        let mut config = ChunkConfig::for_format(&format(16384, "lz4")).expect("a config");
        config.buffer_bytes = 1;
        config.max_uploads = 0;
        config.max_downloads = 0;
        let config = config.corrected();
        assert_eq!((config.buffer_bytes, config.max_uploads, config.max_downloads), (64 << 20, 1, 200));
        assert_eq!(config.prefetch, 0, "no cache, no prefetch");
        let config = ChunkConfig::for_format(&format(4096, "")).expect("a config").corrected();
        assert_eq!(config.buffer_bytes, LOCAL_BUFFER_BYTES, "of 300 MiB");
    }
}
