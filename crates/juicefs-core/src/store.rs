//! The data side: blocks of slices, and the object stores below them.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    attr::Timestamp,
    budget::{Budget, Lease},
    buffer::Segments,
    error::{ChunkError, StorageError},
    ids::{SliceId, SliceKey},
};

/// Why a range is read; decides how much is fetched and what is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadPurpose {
    /// An application waits for exactly this range, at an unpredicted place.
    #[default]
    Random,
    /// The same in a file that is small beside the cache ([`ChunkStore::small_file_bytes`]) and read again and again: the rest
    /// of its blocks may be fetched behind it.
    RandomInSmall,
    /// An application reads on: whole blocks are worth fetching and keeping.
    Sequential,
    /// Nobody waits yet: give way, and give up, when memory is short.
    ReadAhead,
    /// Read once to be written elsewhere (compaction): do not fill the caches.
    Once,
}

/// How a slice is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteOptions {
    /// Storage tier of the file.
    pub tier: u8,
    /// Never stage on local disk; go to the store at once (compaction).
    pub direct: bool,
}

/// Counters of the data path since the mount, for `.stats` and `bench`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ChunkStats {
    /// GET requests and the seconds they took in all.
    pub get: OpStats,
    /// GET requests sent a second time because the first took long.
    pub hedges_sent: u64,
    /// Those of them that were answered first.
    pub hedges_won: u64,
    /// PUT requests.
    pub put: OpStats,
    /// DELETE requests.
    pub delete: OpStats,
    /// Reads answered by a cache, with their bytes.
    pub cache_hit: OpStats,
    /// Reads not answered by a cache.
    pub cache_miss: OpStats,
    /// Writes into the cache.
    pub cache_write: OpStats,
    /// Blocks and bytes in the caches now.
    pub cached_blocks: u64,
    /// Bytes in the caches now.
    pub cached_bytes: u64,
    /// Blocks that were to be cached and were not: the disk is slow, full or in trouble.
    pub cache_drops: u64,
    /// Blocks that had to leave the cache, to make room or because they were old.
    pub cache_evicts: u64,
    /// Blocks on their way to the store now.
    pub uploading: u64,
    /// Failed object requests.
    pub object_errors: u64,
    /// Blocks that wait on the local disk for their upload.
    pub staging: StagingStats,
    /// The disks of the local cache.
    pub disks: DiskCounts,
}

/// Disks of the local cache by how far they are relied on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCounts {
    /// Those that do as they should.
    pub normal: u64,
    /// Those that have failed lately: hardly read from, and not written to.
    pub unstable: u64,
    /// Those given up until the end of the mount.
    pub down: u64,
    /// Operations on all of them that failed or took too long.
    pub failures: u64,
}

/// What waits on the local disk for its upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StagingStats {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// For how many seconds the oldest has waited.
    pub oldest_secs: u64,
    /// Uploads that failed and were or will be tried again.
    pub errors: u64,
    /// Blocks that are being written to the local disk now.
    pub writing: u64,
    /// Bytes of all blocks that this mount has staged.
    pub written_bytes: u64,
    /// Milliseconds that blocks had waited when their upload was begun, over all uploads, those that failed among them.
    pub delay_ms: u64,
}

/// Count, bytes and seconds of one kind of operation.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct OpStats {
    /// How many.
    pub count: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Seconds in all.
    pub seconds: f64,
}

/// What is present of a slice in the local cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CachePresence {
    /// Bytes found.
    pub cached_bytes: u64,
    /// Bytes not found.
    pub missing_bytes: u64,
}

/// A part of one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectPart {
    /// Key of the object without the volume's name.
    pub key: String,
    /// Bytes of the object's plain data.
    pub size: u32,
    /// First byte of the part.
    pub off: u32,
    /// Bytes of the part.
    pub len: u32,
}

/// `[off, off + len)` of a slice, within it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The slice.
    pub slice: SliceKey,
    /// First byte within it.
    pub off: u32,
    /// Bytes.
    pub len: u32,
}

/// Slices as whoever assembles files sees them. Holes (id 0) never come here.
#[async_trait]
pub trait ChunkStore: Send + Sync {
    /// Bytes of a full block.
    fn block_size(&self) -> usize;
    /// The budget that all data buffers of this mount are taken from.
    fn budget(&self) -> &Budget;
    /// Reads `[off, off + len)` of a slice without copying what is cached. The range lies within the slice.
    ///
    /// Every byte was verified as far as its source carries a checksum. Fails when a block is missing or corrupt or the
    /// store stays unreachable through all retries. Cancel safe.
    async fn read(&self, slice: SliceKey, off: u32, len: u32, purpose: ReadPurpose) -> Result<Segments, ChunkError>;
    /// Reads several stretches, each as [`ChunkStore::read`] does; one answer for each, in their order.
    ///
    /// Whoever needs more than one at a time asks here: memory is taken for all of them together. Reads that had a part of
    /// what they need in hand and waited for the rest could all wait for each other.
    async fn read_all(&self, stretches: &[Stretch], purpose: ReadPurpose) -> Result<Vec<Segments>, ChunkError>;
    /// Suggests that a range will be read soon; may do nothing. Never blocks.
    fn prefetch(&self, slice: SliceKey, off: u32, len: u32);
    /// Whether a read of this range would be answered from this machine now, so that holding it in memory beforehand gains
    /// nothing: [`ChunkStore::prefetch`] is all that it needs. A guess, made without waiting.
    fn at_hand(&self, _slice: SliceKey, _off: u32, _len: u32) -> bool {
        false
    }
    /// Length up to which a file is small beside the cache, in bytes, so that whole blocks of it are worth having for random
    /// reads; 0 where they never are.
    fn small_file_bytes(&self) -> u64 {
        0
    }
    /// The objects that hold `[off, off + len)` of a slice; none where nothing is kept in objects.
    fn objects(&self, _slice: SliceKey, _off: u32, _len: u32) -> Vec<ObjectPart> {
        Vec::new()
    }
    /// Starts a new slice.
    fn writer(&self, options: WriteOptions) -> Box<dyn SliceWriter>;
    /// Deletes all blocks of a slice from the caches and the store. Missing blocks are fine.
    async fn remove(&self, slice: SliceKey) -> Result<(), ChunkError>;
    /// Loads every block of the slice into the cache.
    async fn fill(&self, slice: SliceKey) -> Result<(), ChunkError>;
    /// Drops every cached block of the slice; staged ones stay.
    async fn evict(&self, slice: SliceKey);
    /// What of the slice is cached.
    async fn presence(&self, slice: SliceKey) -> CachePresence;
    /// Counters since the mount.
    fn stats(&self) -> ChunkStats;
    /// Finishes cache writes under way and joins all tasks. Writers must be finished before. Downloads end at once with an
    /// error, and what changes the store has a few seconds: a store that is away does not hold this up.
    async fn shutdown(&self);
}

/// One slice while it is being written: at most 64 MiB, filled in any order within the part not yet uploaded.
///
/// All methods but `finish` and `abort` only touch memory. Dropping a writer aborts it without waiting.
#[async_trait]
pub trait SliceWriter: Send {
    /// Puts `data` at `off`, overwriting what is there; a gap before `off` becomes zeros. Large `data` is kept by
    /// reference, small data is copied. `lease` covers `data` and is held until its block is stored.
    ///
    /// `Misuse` when the range passes 64 MiB or touches a block already handed to upload.
    fn write(&mut self, off: u32, data: Bytes, lease: Lease) -> Result<(), ChunkError>;
    /// Bytes written so far, counted from 0.
    fn len(&self) -> u32;
    /// Whether nothing was written.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes below this offset were handed to upload and can no longer be written.
    fn sealed(&self) -> u32;
    /// Gives the slice its id; no block is uploaded before.
    fn set_id(&mut self, id: SliceId);
    /// The id, once set.
    fn id(&self) -> Option<SliceId>;
    /// Starts to upload every full block that lies wholly below `off`; does nothing before the id is set. The work is done
    /// elsewhere, so that this may be called under a lock.
    fn flush_to(&mut self, off: u32);
    /// Uploads the rest and waits until every block of the slice is durable in the store (or staged). On an error the
    /// data is kept: calling again retries what failed.
    async fn finish(&mut self) -> Result<(), ChunkError>;
    /// Drops the data and deletes, as well as it can, what was uploaded.
    async fn abort(self: Box<Self>);
}

/// One object as a listing or HEAD shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectInfo {
    /// Full key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Last modification.
    pub mtime: Timestamp,
}

/// A flat store of immutable objects. Keys are complete: the volume's name is part of them.
#[async_trait]
pub trait ObjectStorage: Send + Sync + std::fmt::Debug {
    /// The store and place, without secrets, for logs.
    fn describe(&self) -> String;
    /// Makes the bucket or root directory if it is missing.
    async fn create(&self) -> Result<(), StorageError>;
    /// The object, or `range` (offset, length) of it. A range past the end is cut; the caller checks lengths.
    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError>;
    /// Stores an object, replacing one of the same key as a whole: a reader sees the old or the new bytes.
    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError>;
    /// Deletes an object; a missing one is success.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;
    /// Size and time of an object.
    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError>;
    /// Stores an object from parts that are sent one by one, of which all but the last are as large as the store wants them
    /// (5 MiB for S3). False, and nothing done, where a store takes no parts.
    async fn put_in_parts(&self, _key: &str, _parts: Vec<Segments>) -> Result<bool, StorageError> {
        Ok(false)
    }
    /// The file that an object is, in a store that is a directory of this machine.
    fn file_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
    /// Up to `limit` objects whose key starts with `prefix` and is greater than `after`, in key order.
    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError>;
}
