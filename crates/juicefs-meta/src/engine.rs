//! What a metadata engine must be able to do. It knows records, keys and transactions; it never sees EACCES, nlink
//! arithmetic or trash.

pub mod mem;
pub mod optimistic;
pub(crate) mod redis;
pub(crate) mod sql;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{
    attr::Attr,
    error::MetaResult,
    ids::{ChunkIndex, Ino, SessionId},
    listing::Directories,
    meta::{DirCursor, DirPage},
};

use self::optimistic::Transactions;
use crate::{
    record::{Counter, DirStat, Edge, Key, Value},
    txn::{Applied, Effects, ReadSet},
};

/// Traits of an engine that the client must respect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Usage counters change inside each transaction (Redis). Otherwise the client batches them every second.
    pub usage_in_transaction: bool,
    /// Most records that one compaction reads.
    pub max_compact_records: usize,
    /// Directories are listed in the order of their names. Otherwise in any order, and an entry may be listed twice
    /// while entries are removed.
    pub lists_by_name: bool,
    /// [`Engine::chunk_indexes`] costs what a file holds. Otherwise it costs what the range spans, so nobody asks for chunks
    /// that the file is not likely to have.
    pub indexes_chunks: bool,
}

/// How long the outcome of a change is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Until the retry budget is used up.
    Budget,
    /// Until it is known, however often the budget is used up: what was sent may have been executed. Only closing the engine
    /// ends this.
    UntilKnown,
}

/// What is found under a name.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// The entry.
    pub edge: Edge,
    /// The node that it names; `None` when that is missing.
    pub attr: Option<Attr>,
    /// See [`ReadSet::stored`].
    pub stored: Option<Bytes>,
}

/// How an optimistic [`Engine::apply`] ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApplyOutcome {
    /// Everything is in place, durable as the engine's commit is.
    Applied(Applied),
    /// Something that was read has changed; nothing was written.
    Conflict,
}

/// Records of one kind that background work and tools walk through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan {
    /// `HolderKey::Session`, live and stale.
    Sessions,
    /// `HolderKey::Session` that expire before this second. One that cannot be read is passed over.
    Expiring {
        /// Exclusive bound in seconds.
        before_secs: i64,
    },
    /// `HolderKey::Sustained` of one session.
    Sustained(SessionId),
    /// `NoteKey::DelFile` removed before this second.
    DelFiles {
        /// Exclusive bound in seconds.
        before_secs: i64,
    },
    /// `Key::SliceRef` without references left.
    DeadSlices,
    /// `NoteKey::DelaySlices` older than this second.
    DelaySlices {
        /// Exclusive bound in seconds.
        before_secs: i64,
    },
    /// `Key::Chunk` of one inode with `from <= index < to`, ascending by index, each as of a moment of its own. It costs what
    /// [`Engine::chunk_indexes`] costs.
    Chunks {
        /// The file.
        ino: Ino,
        /// The first chunk.
        from: ChunkIndex,
        /// The one behind the last.
        to: ChunkIndex,
    },
    /// `Key::Xattr` of one inode.
    Xattrs(Ino),
    /// `Key::Acl`.
    Acls,
    /// `NoteKey::Detached` made before this second.
    Detached {
        /// Exclusive bound in seconds.
        before_secs: i64,
    },
    /// `AccountKey::Quota` of users, groups and directories, in this order.
    Quotas,
}

/// A store of records with atomic changes.
///
/// Any method may fail with `Unavailable` (after its own retries up to the deadline), `Corrupt`, or `Fenced`.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Kind and address without password.
    fn describe(&self) -> String;
    /// Its traits.
    fn caps(&self) -> Caps;

    /// How long an operation is tried anew that others get in the way of.
    fn patience(&self) -> Duration;

    /// The stored setting, `None` on a store that was never formatted. Does not write, works on every older schema.
    async fn load_setting(&self) -> MetaResult<Option<Bytes>> {
        Ok(self.fetch(&[Key::Setting]).await?.setting().cloned())
    }
    /// Makes tables, indexes and the like that are missing, also columns of later versions. Idempotent. Called before
    /// the first write; never on a read-only mount.
    async fn prepare(&self) -> MetaResult<()> {
        Ok(())
    }
    /// Whether the store holds nothing of a volume.
    async fn is_empty(&self) -> MetaResult<bool>;
    /// Removes every record of the volume.
    async fn reset(&self) -> MetaResult<()>;

    /// Reads records, absences included, as of one moment since the call began, in one round trip.
    async fn fetch(&self, keys: &[Key]) -> MetaResult<ReadSet>;
    /// What the engine knows of these records without asking its store, if it knows all of them. It may be as old as the
    /// user allows by the address.
    fn cached(&self, _keys: &[Key]) -> Option<ReadSet> {
        None
    }
    /// Applies effects if everything in `read` (narrowed as the effects say) still holds, all or nothing. `Err` means that
    /// nothing was applied, or that this could not be found out with [`Patience::Budget`].
    async fn apply(&self, read: &ReadSet, effects: &Effects, patience: Patience) -> MetaResult<ApplyOutcome>;
    /// The engine's own way of running operations, if it has one: otherwise they are judged on what was fetched and applied
    /// under guards.
    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }

    /// Reads ahead what the address asks for, below the root of the mount.
    async fn warm_up(&self, _root: Ino) -> MetaResult<()> {
        Ok(())
    }

    /// Entry and attributes in one round trip.
    async fn lookup(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<Found>>;
    /// A page of a directory after `from`. It may repeat names, as [`DirPage`] says: read by a [`juicefs_core::Listing`].
    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage>;
    /// The first `limit` chunks with `from <= index < to` that have a list, ascending. Costs about what the file holds, not
    /// what it spans; an engine without an index of chunks asks for each or looks at all that is stored, whichever is less ([`Caps::indexes_chunks`]).
    async fn chunk_indexes(
        &self,
        ino: Ino,
        from: ChunkIndex,
        to: ChunkIndex,
        limit: usize,
    ) -> MetaResult<Vec<ChunkIndex>>;
    /// Adds to a counter on its own and returns the new value (logical meaning, see [`Counter`]).
    async fn counter_add(&self, counter: Counter, delta: i64) -> MetaResult<i64>;
    /// Up to `limit` records of a kind. Callers that consume what they read call again until it is empty; `after` is the
    /// last key of the previous page for callers that only look.
    async fn scan(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Vec<(Key, Value)>>;
    /// Adds batched statistics to directories whose record exists (as one transaction); returns the directories that
    /// have none, for which the client recounts and stores. Never given up before its outcome is known, except when the engine is
    /// closed: `Err` means that nothing was added.
    async fn add_dir_stats(&self, deltas: Vec<(Ino, DirStat)>) -> MetaResult<Vec<Ino>>;
    /// Closes connections after finishing what is queued.
    async fn close(&self) {}
}

#[async_trait]
impl Directories for dyn Engine + '_ {
    async fn page(&self, dir: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        self.readdir(dir, from, with_attrs, limit).await
    }
}
