//! The data side of a volume: the blocks of slices, and the object stores below them.

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

/// Why a range is read. It decides how much is fetched and what is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadPurpose {
    /// An application waits for exactly this range, which nobody expected.
    #[default]
    Random,
    /// As `Random`, in a file that is small beside the cache ([`ChunkStore::small_file_bytes`]) and read again and
    /// again, so that the rest of its blocks may be fetched behind the read.
    RandomInSmall,
    /// An application reads on, so that whole blocks are worth fetching and keeping.
    Sequential,
    /// Nobody waits yet, so that the read gives way, and gives up, when memory is short.
    ReadAhead,
    /// The data is read once to be written elsewhere (compaction), so that it does not go into the caches.
    Once,
}

/// How a slice is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteOptions {
    /// Storage tier of the file.
    pub tier: u8,
    /// The data goes to the store at once and is never staged on the local disk (compaction).
    pub direct: bool,
}

/// The counters of the data path since the mount, for `.stats` and `bench`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ChunkStats {
    /// GET requests and the seconds they took in all.
    pub get: OpStats,
    /// GET requests sent a second time because the first took long.
    pub hedges_sent: u64,
    /// How many of those were answered before the first.
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
    /// Blocks in the caches now.
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

/// How many disks of the local cache are relied on, and how far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCounts {
    /// Disks that work as they should.
    pub normal: u64,
    /// Disks that have failed lately. They are hardly read from, and not written to.
    pub unstable: u64,
    /// Disks that are given up until the end of the mount.
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

/// The range `[off, off + len)` of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The slice.
    pub slice: SliceKey,
    /// First byte within it.
    pub off: u32,
    /// Bytes.
    pub len: u32,
}

/// The store of slices, for whoever assembles files of them. Holes (id 0) never come here.
#[async_trait]
pub trait ChunkStore: Send + Sync {
    /// Bytes of a full block.
    fn block_size(&self) -> usize;
    /// The budget that all data buffers of this mount are taken from.
    fn budget(&self) -> &Budget;
    /// Reads `[off, off + len)` of a slice without copying what is cached. The range lies within the slice.
    ///
    /// Every byte is verified as far as its source carries a checksum. It fails when a block is missing or corrupt, or
    /// the store stays unreachable through all retries. Cancel safe.
    async fn read(&self, slice: SliceKey, off: u32, len: u32, purpose: ReadPurpose) -> Result<Segments, ChunkError>;
    /// Reads several stretches, each as [`ChunkStore::read`] does. The result has one answer for each, in their order.
    ///
    /// Whoever needs more than one at a time asks here, because memory is taken for all of them together. Reads that
    /// had a part of what they need and waited for the rest could all wait for each other.
    async fn read_all(&self, stretches: &[Stretch], purpose: ReadPurpose) -> Result<Vec<Segments>, ChunkError>;
    /// Suggests that a range will be read soon. The store may do nothing. It never blocks.
    fn prefetch(&self, slice: SliceKey, off: u32, len: u32);
    /// Whether a read of this range would be answered from this machine now, so that nothing is gained by holding it in
    /// memory beforehand and [`ChunkStore::prefetch`] is all that it needs. The answer is a guess, made without
    /// waiting.
    fn at_hand(&self, _slice: SliceKey, _off: u32, _len: u32) -> bool {
        false
    }
    /// The length in bytes up to which a file is small beside the cache, so that whole blocks of it are worth having
    /// for random reads. 0 where they never are.
    fn small_file_bytes(&self) -> u64 {
        0
    }
    /// The objects that hold `[off, off + len)` of a slice. There is none where nothing is kept in objects.
    fn objects(&self, _slice: SliceKey, _off: u32, _len: u32) -> Vec<ObjectPart> {
        Vec::new()
    }
    /// Starts a new slice.
    fn writer(&self, options: WriteOptions) -> Box<dyn SliceWriter>;
    /// Deletes all blocks of a slice from the caches and the store. It is no error if some are missing.
    async fn remove(&self, slice: SliceKey) -> Result<(), ChunkError>;
    /// Loads every block of the slice into the cache.
    async fn fill(&self, slice: SliceKey) -> Result<(), ChunkError>;
    /// Drops every cached block of the slice; staged ones stay.
    async fn evict(&self, slice: SliceKey);
    /// What of the slice is cached.
    async fn presence(&self, slice: SliceKey) -> CachePresence;
    /// Counters since the mount.
    fn stats(&self) -> ChunkStats;
    /// Finishes cache writes under way and joins all tasks. Writers must be finished before. Downloads end at once with
    /// an error, and requests that change the store have a few seconds, so that a store that is away does not hold this
    /// up.
    async fn shutdown(&self);
}

/// One slice while it is being written. It has at most 64 MiB, and is filled in any order within the part that is not
/// uploaded yet.
///
/// All methods but `finish` and `abort` only touch memory. To drop a writer aborts it without waiting.
#[async_trait]
pub trait SliceWriter: Send {
    /// Puts `data` at `off` over what is there. A gap before `off` becomes zeros. Large `data` is kept by reference,
    /// small data is copied. `lease` covers `data` and is held until its block is stored.
    ///
    /// `Misuse` when the range passes 64 MiB or touches a block already handed to upload.
    fn write(&mut self, off: u32, data: Bytes, lease: Lease) -> Result<(), ChunkError>;
    /// Bytes written so far, counted from 0.
    fn len(&self) -> u32;
    /// Whether nothing was written.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The offset below which bytes were handed to upload, so that they can no longer be written.
    fn sealed(&self) -> u32;
    /// Gives the slice its id. No block is uploaded before.
    fn set_id(&mut self, id: SliceId);
    /// The id, once it is set.
    fn id(&self) -> Option<SliceId>;
    /// Starts to upload every full block that lies wholly below `off`. It does nothing before the id is set. The work is done
    /// elsewhere, so that this may be called under a lock.
    fn flush_to(&mut self, off: u32);
    /// Uploads the rest and waits until every block of the slice is durable in the store, or staged. After an error the
    /// data is kept, and another call tries again what failed.
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
    /// Makes the bucket, or the root directory, if it is missing.
    async fn create(&self) -> Result<(), StorageError>;
    /// Gets the object, or `range` (offset, length) of it. A range that goes past the end is cut, so the caller checks
    /// lengths.
    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError>;
    /// Stores an object. It replaces one of the same key as a whole, so that a reader sees either the old or the new bytes.
    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError>;
    /// Deletes an object. It is no error if there is none.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;
    /// Size and time of an object.
    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError>;
    /// Stores an object from parts that are sent one by one, of which all but the last are as large as the store wants them
    /// (5 MiB for S3). Where a store takes no parts, it returns false and does nothing.
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
