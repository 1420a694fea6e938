//! Reading: from memory, from disk, from the store; one fetch per block at a time.

use std::{collections::HashMap, io, sync::Arc};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use juicefs_core::{ChunkError, Lease, Segments, Share, SliceKey, StorageError, store::ReadPurpose};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    block::{self, BlockId, Piece},
    body::join,
    cache::{Found, Keep, OnDisk},
    lease::leased,
    store::{Inner, Started},
};

/// Blocks up to this size are always fetched whole: a request for a part would cost as much.
const TINY_BLOCK_BYTES: u32 = 8 << 10;
/// Of blocks up to this size the second read of a part shows that the whole is worth having.
const SMALL_BLOCK_BYTES: u32 = 128 << 10;
/// Reads of parts of a larger block after which the whole of it is worth having.
const REUSE_READS: u32 = 3;
/// How often a body that does not decode is fetched.
const CORRUPT_TRIES: u32 = 2;

type Flight = Shared<BoxFuture<'static, Result<Bytes, ChunkError>>>;

/// A fetch that only one reader waits for.
type Fetch = Started<Result<Bytes, ChunkError>>;

/// Fetches under way, by block.
#[derive(Default)]
pub(crate) struct Flights {
    by_block: Mutex<HashMap<BlockId, Flight>>,
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flights({})", self.by_block.lock().len())
    }
}

impl Flights {
    fn of(&self, id: BlockId) -> Option<Flight> {
        self.by_block.lock().get(&id).cloned()
    }
}

/// Ends a flight, however its task ends.
struct Landing {
    inner: Arc<Inner>,
    id: BlockId,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.inner.flights.by_block.lock().remove(&self.id);
    }
}

/// A block and how often parts of it were read.
type Reuse = Option<(BlockId, u32)>;

/// How often parts of blocks were read lately. A fixed table: what collides is forgotten, which costs a guess.
#[derive(Debug)]
pub(crate) struct ReuseTable {
    slots: Mutex<Box<[Reuse]>>,
}

impl Default for ReuseTable {
    fn default() -> Self {
        Self { slots: Mutex::new(vec![None; 1024].into_boxed_slice()) }
    }
}

impl ReuseTable {
    /// Counts a read of a part of the block; how many there were.
    fn count(&self, id: BlockId) -> u32 {
        let mut slots = self.slots.lock();
        let at = (id.slice.wrapping_mul(31).wrapping_add(u64::from(id.index)) % slots.len() as u64) as usize;
        let slot = &mut slots[at];
        let reads = match slot {
            Some((seen, reads)) if *seen == id => *reads + 1,
            _ => 1,
        };
        *slot = Some((id, reads));
        reads
    }
}

/// What memory is taken for by a read from these sources. One that stays on this machine does not wait for others that wait
/// for the store.
fn share_of(sources: &[(Piece, Source)], purpose: ReadPurpose) -> Share {
    if purpose == ReadPurpose::ReadAhead {
        return Share::Ahead;
    }
    let is_local = sources.iter().all(|(_, source)| matches!(source, Source::Here(_) | Source::Disk(_)));
    if is_local { Share::Disk } else { Share::Fetch }
}

/// Where the bytes of a piece come from.
enum Source {
    /// They are here.
    Here(Bytes),
    /// From an open file of the disk cache.
    Disk(OnDisk),
    /// A file of the disk cache is to be opened, if it is there.
    Closed,
    /// Somebody fetches the block already.
    Join(Flight),
    /// The whole block is to be fetched.
    Whole,
    /// Only the piece is to be fetched.
    Part,
}

impl Inner {
    /// See `ChunkStore::read`.
    pub(crate) async fn read(
        self: &Arc<Self>,
        slice: SliceKey,
        off: u32,
        len: u32,
        purpose: ReadPurpose,
    ) -> Result<Segments, ChunkError> {
        let pieces = block::pieces(slice, self.config.block_size, off, len)
            .ok_or(ChunkError::Misuse("a read beyond the end of its slice"))?;
        let mut sources: SmallVec<[(Piece, Source); 2]> =
            pieces.into_iter().map(|piece| (piece, self.source(piece, purpose))).collect();
        self.open_files(&mut sources, purpose).await?;
        let need = sources.iter().map(|(piece, source)| self.source_bytes(*piece, source)).sum();
        let mut lease =
            if need == 0 { Lease::empty() } else { self.lease_for(need, share_of(&sources, purpose)).await };
        // Start all that must be fetched before waiting for any of it.
        let mut parts: SmallVec<[Option<Fetch>; 2]> = SmallVec::new();
        for (piece, source) in &mut sources {
            let part = lease.split(self.source_bytes(*piece, source));
            let started = match source {
                Source::Here(_) | Source::Join(_) | Source::Closed => None,
                Source::Whole => {
                    let keep = if purpose == ReadPurpose::Once { Keep::No } else { Keep::Normal };
                    *source = Source::Join(self.join_or_fetch(piece.block, keep, part));
                    None
                }
                Source::Part => Some(self.start(Arc::clone(self).fetch_part(*piece, part))),
                Source::Disk(file) => match file.read_now(piece.off, piece.len) {
                    Some(bytes) => {
                        self.counters.cache_hit.hit(bytes.len());
                        Some(Started::Done(Ok(leased(bytes, part))))
                    }
                    None => Some(self.start(Arc::clone(self).read_disk(*piece, file.clone(), part, purpose))),
                },
            };
            parts.push(started);
        }
        let mut out = Segments::new();
        for ((piece, source), part) in sources.into_iter().zip(parts) {
            let range = piece.off as usize..(piece.off + piece.len) as usize;
            out.push(match (source, part) {
                (_, Some(started)) => self.finish(started).await?,
                (Source::Here(block), None) => block.slice(range),
                (Source::Join(flight), None) => flight.await?.slice(range),
                (Source::Disk(_) | Source::Closed | Source::Whole | Source::Part, None) => {
                    return Err(ChunkError::Closed);
                }
            });
        }
        Ok(out)
    }

    /// Finds out where a piece comes from, without waiting.
    fn source(self: &Arc<Self>, piece: Piece, purpose: ReadPurpose) -> Source {
        match self.cache.find(piece.block) {
            Found::Memory(block) => self.here(block, piece),
            Found::Disk(file) => Source::Disk(file),
            Found::Closed => Source::Closed,
            Found::Nothing => self.beyond_the_cache(piece, purpose),
        }
    }

    fn here(&self, block: Bytes, piece: Piece) -> Source {
        self.counters.cache_hit.hit(piece.len as usize);
        Source::Here(block)
    }

    fn beyond_the_cache(self: &Arc<Self>, piece: Piece, purpose: ReadPurpose) -> Source {
        self.counters.cache_miss.hit(piece.len as usize);
        if let Some(flight) = self.flights.of(piece.block) {
            let is_random = matches!(purpose, ReadPurpose::Random | ReadPurpose::RandomInSmall);
            let goes_before = is_random && piece.len < piece.block.size.div_ceil(2) && self.behind.has(piece.block);
            return if goes_before { Source::Part } else { Source::Join(flight) };
        }
        if self.wants_part(piece, purpose) { Source::Part } else { Source::Whole }
    }

    /// Opens the files that some pieces are or may be in, all at once. Done before memory is taken: what is not found, or not
    /// in time, has to be fetched, and that needs more of it.
    async fn open_files(
        self: &Arc<Self>,
        sources: &mut [(Piece, Source)],
        purpose: ReadPurpose,
    ) -> Result<(), ChunkError> {
        let mut opening: SmallVec<[_; 2]> = SmallVec::new();
        for (at, (piece, source)) in sources.iter().enumerate() {
            if let Source::Closed = source {
                let (inner, block) = (Arc::clone(self), piece.block);
                opening.push((at, self.start(async move { Ok(inner.cache.open_file(block).await) })));
            }
        }
        for (at, opened) in opening {
            let (piece, source) = &mut sources[at];
            *source = match self.finish(opened).await? {
                Found::Memory(block) => self.here(block, *piece),
                Found::Disk(file) => Source::Disk(file),
                Found::Closed | Found::Nothing => self.beyond_the_cache(*piece, purpose),
            };
        }
        Ok(())
    }

    /// Whether it is better to fetch a piece than its block. What is fetched beyond what is asked for is never more than
    /// that, until the block is read again.
    fn wants_part(self: &Arc<Self>, piece: Piece, purpose: ReadPurpose) -> bool {
        let size = piece.block.size;
        if !self.body.is_plain() || size <= TINY_BLOCK_BYTES || piece.len >= size.div_ceil(2) {
            return false;
        }
        match purpose {
            ReadPurpose::Sequential | ReadPurpose::ReadAhead => false,
            ReadPurpose::Once => true,
            ReadPurpose::RandomInSmall if size > SMALL_BLOCK_BYTES && self.fetch_behind(piece.block) => true,
            ReadPurpose::Random | ReadPurpose::RandomInSmall => match self.reuse.count(piece.block) {
                2.. if size <= SMALL_BLOCK_BYTES => false,
                REUSE_READS.. => {
                    self.prefetch_reused(piece.block);
                    // The prefetch may just have brought the block under way; then this read would only repeat it.
                    true
                }
                _ => true,
            },
        }
    }

    /// Budget bytes that a source needs.
    fn source_bytes(&self, piece: Piece, source: &Source) -> usize {
        match source {
            Source::Here(_) | Source::Join(_) | Source::Closed => 0,
            Source::Whole => self.fetch_bytes(piece.block),
            Source::Part => piece.len as usize,
            Source::Disk(file) => file.read_bytes(piece.off, piece.len),
        }
    }

    /// Budget bytes that fetching a block takes: what is stored lies beside what becomes of it.
    pub(crate) fn fetch_bytes(&self, id: BlockId) -> usize {
        self.body.fetch_bytes(id.size as usize)
    }

    /// The flight of a block, started if there is none. Its bytes stay whole blocks.
    pub(crate) fn join_or_fetch(self: &Arc<Self>, id: BlockId, keep: Keep, lease: Lease) -> Flight {
        let (land, flight) = {
            let mut flights = self.flights.by_block.lock();
            if let Some(flight) = flights.get(&id) {
                return flight.clone();
            }
            let (land, landed) = oneshot::channel();
            let flight = landed.map(|done| done.unwrap_or(Err(ChunkError::Closed))).boxed().shared();
            flights.insert(id, flight.clone());
            (land, flight)
        };
        let landing = Landing { inner: Arc::clone(self), id };
        // Detached: whoever waits holds the flight, and shutdown waits for the task.
        let _ = self.start(async move {
            let done = landing.inner.fetch(id, keep, lease).await;
            drop(landing);
            let _ = land.send(done);
        });
        flight
    }

    /// Fetches a whole block and keeps it as `keep` says.
    async fn fetch(&self, id: BlockId, keep: Keep, mut lease: Lease) -> Result<Bytes, ChunkError> {
        let key = self.key(id);
        let plain = {
            // The semaphore is never closed.
            let _slot = self.requests.downloads.acquire().await;
            self.fetch_plain(id, &key).await
        };
        let plain = plain.map_err(|e| self.unreadable(id, e))?;
        drop(lease.split(lease.bytes().saturating_sub(plain.len())));
        // The cache counts what it has. Whoever reads may hold the bytes for longer than it does.
        self.cache.insert(id, &plain, keep).await;
        Ok(leased(plain, lease))
    }

    /// Logs why a block cannot be read. Of one that is nowhere but on a disk here it is no news that the store lacks it:
    /// whoever reads need not look for it elsewhere.
    fn unreadable(&self, id: BlockId, error: ChunkError) -> ChunkError {
        let key = self.key(id);
        let error = match error {
            ChunkError::Storage(StorageError::NotFound(_)) if self.cache.is_staged(id) => {
                StorageError::Permanent(format!("{key} is staged on a cache disk here, which does not give it")).into()
            }
            other => other,
        };
        if matches!(error, ChunkError::Storage(StorageError::NotFound(_))) {
            // Whoever reads looks whether it was compacted meanwhile, and says so as an error if it was not.
            tracing::warn!("cannot read block {key}: {error}");
        } else {
            tracing::error!("cannot read block {key}: {error}");
        }
        error
    }

    async fn fetch_plain(&self, id: BlockId, key: &str) -> Result<Bytes, ChunkError> {
        let size = id.size as usize;
        if self.body.is_plain() {
            return Ok(join(self.requests.get(key, None, size, Some(size)).await?));
        }
        let mut tries = 1;
        loop {
            let (form, body) = (self.body.clone(), join(self.requests.get(key, None, size, None).await?));
            let done = self.compute(size, move || form.unpack(body, size)).await;
            match done {
                Ok(plain) => return Ok(plain),
                Err(why) if tries == CORRUPT_TRIES => return Err(ChunkError::Corrupt { key: key.to_owned(), why }),
                Err(why) => tracing::warn!("body of {key} does not decode, fetching it again: {why}"),
            }
            tries += 1;
        }
    }

    /// Fetches only a piece of a block that is stored as it is.
    async fn fetch_part(self: Arc<Self>, piece: Piece, lease: Lease) -> Result<Bytes, ChunkError> {
        let key = self.key(piece.block);
        let range = (u64::from(piece.off), u64::from(piece.len));
        // The semaphore is never closed.
        let _slot = self.requests.downloads.acquire().await;
        let body = self.requests.get(&key, Some(range), piece.len as usize, Some(piece.len as usize)).await;
        let body = body.map_err(|e| self.unreadable(piece.block, e.into()))?;
        Ok(leased(join(body), lease))
    }

    /// Reads a piece from the disk cache; what cannot be read there or fails its checksums is fetched.
    async fn read_disk(
        self: Arc<Self>,
        piece: Piece,
        file: OnDisk,
        lease: Lease,
        purpose: ReadPurpose,
    ) -> Result<Bytes, ChunkError> {
        match file.read(piece.off, piece.len).await {
            Ok(bytes) => {
                self.counters.cache_hit.hit(bytes.len());
                Ok(leased(bytes, lease))
            }
            Err(why) => {
                tracing::warn!("the local copy of block {} is not used: {why}", self.key(piece.block));
                if !matches!(why.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
                    // A staged one stays, damaged as it is: it is all that there is.
                    self.cache.evict(piece.block).await;
                }
                self.counters.cache_miss.hit(piece.len as usize);
                drop(lease);
                // Taking whatever is free keeps this rare path from waiting while other pieces of the read hold memory.
                let lease = self.budget.try_acquire(Share::Fetch, self.fetch_bytes(piece.block)).unwrap_or_default();
                let keep = if purpose == ReadPurpose::Once { Keep::No } else { Keep::Normal };
                let block = self.join_or_fetch(piece.block, keep, lease).await?;
                Ok(block.slice(piece.off as usize..(piece.off + piece.len) as usize))
            }
        }
    }

    /// Brings a block into the cache if it is not there, memory is free and nobody does it yet.
    pub(crate) fn prefetch(self: &Arc<Self>, id: BlockId) {
        if self.closing.is_cancelled() || self.budget.waiting() > 0 || self.flights.of(id).is_some() {
            return;
        }
        if self.cache.holds(id) {
            if self.cache.is_cold(id) {
                let inner = Arc::clone(self);
                self.tasks.spawn_on(async move { inner.cache.warm(id).await }, &self.handle);
            }
        } else if let Some(lease) = self.budget.try_acquire(Share::Ahead, self.fetch_bytes(id)) {
            self.spawn_fetch(id, Keep::Normal, lease, None);
        }
    }

    /// The same for a block of which parts were read several times, within the slots of `--prefetch`.
    fn prefetch_reused(self: &Arc<Self>, id: BlockId) {
        let Ok(slot) = Arc::clone(&self.prefetches).try_acquire_owned() else { return };
        let Some(lease) = self.budget.try_acquire(Share::Ahead, self.fetch_bytes(id)) else { return };
        self.spawn_fetch(id, Keep::Forced, lease, Some(slot));
    }

    fn spawn_fetch(self: &Arc<Self>, id: BlockId, keep: Keep, lease: Lease, slot: Option<OwnedSemaphorePermit>) {
        let inner = Arc::clone(self);
        self.tasks.spawn_on(
            async move {
                // A failure was logged, and meets the reader who needs the block.
                let _ = inner.join_or_fetch(id, keep, lease).await;
                drop(slot);
            },
            &self.handle,
        );
    }
}
