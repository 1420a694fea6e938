//! The fetcher answers reads. It finds out where each piece of a read comes from, and takes memory for all of them at once.
//!
//! A reader that waits for memory holds none, not even that of a block which somebody else fetches. Readers that held some and
//! waited for more would wait for one another for good.

mod behind;
mod download;
mod flights;
mod prefetch;
mod reuse;
mod source;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{
    Budget, ChunkError, Lease, Segments, Share, SliceKey,
    store::{ReadPurpose, Stretch},
};
use smallvec::SmallVec;

pub(crate) use self::{behind::small_file_bytes, download::Downloader, flights::Flights};
use self::{
    prefetch::Prefetcher,
    source::{Arrival, Pieces, Source, Sources, share_of},
};
use crate::{
    block::{self, BlockId, Piece},
    cache::{Cache, Found, Keep, LocalBlock},
    config::ChunkConfig,
    counters::Counters,
    lease::leased,
    tasks::{Started, Tasks},
};

/// How often read-ahead looks whether there is memory, and the pause between.
const AHEAD_TRIES: u32 = 4;
const AHEAD_PAUSE: Duration = Duration::from_millis(5);

/// Whether bytes that are at hand need not be taken from the budget. They are as many as an application asked for, and the
/// thread answers that request before it takes another one. Read-ahead and compaction hold bytes for longer.
fn is_answered_at_once(purpose: ReadPurpose) -> bool {
    match purpose {
        ReadPurpose::Random | ReadPurpose::RandomInSmall | ReadPurpose::Sequential => true,
        ReadPurpose::ReadAhead | ReadPurpose::Once => false,
    }
}

/// Whether a block that was fetched for a read is kept.
fn keep_of(purpose: ReadPurpose) -> Keep {
    if purpose == ReadPurpose::Once { Keep::No } else { Keep::Normal }
}

/// Answers reads from the cache, from the files of a local store, or from the object store.
#[derive(Debug)]
pub(crate) struct Fetcher {
    config: Arc<ChunkConfig>,
    budget: Budget,
    cache: Arc<Cache>,
    downloader: Arc<Downloader>,
    prefetcher: Prefetcher,
    counters: Arc<Counters>,
    tasks: Tasks,
}

impl Fetcher {
    pub(crate) fn new(budget: Budget, counters: Arc<Counters>, downloader: Downloader) -> Self {
        let downloader = Arc::new(downloader);
        Self {
            config: Arc::clone(&downloader.config),
            cache: Arc::clone(&downloader.cache),
            tasks: downloader.tasks.clone(),
            prefetcher: Prefetcher::new(budget.clone(), Arc::clone(&downloader)),
            budget,
            downloader,
            counters,
        }
    }

    /// See `ChunkStore::read`.
    pub(crate) async fn read(
        self: &Arc<Self>,
        slice: SliceKey,
        off: u32,
        len: u32,
        purpose: ReadPurpose,
    ) -> Result<Segments, ChunkError> {
        let pieces = self.pieces(Stretch { slice, off, len })?;
        self.read_pieces(pieces, purpose).await
    }

    /// See `ChunkStore::read_all`.
    pub(crate) async fn read_all(
        self: &Arc<Self>,
        stretches: &[Stretch],
        purpose: ReadPurpose,
    ) -> Result<Vec<Segments>, ChunkError> {
        let (mut pieces, mut counts) = (Pieces::new(), Vec::with_capacity(stretches.len()));
        for stretch in stretches {
            let before = pieces.len();
            pieces.extend(self.pieces(*stretch)?);
            counts.push(pieces.len() - before);
        }
        let mut segments = self.read_pieces(pieces, purpose).await?.into_iter();
        Ok(counts.into_iter().map(|count| segments.by_ref().take(count).collect()).collect())
    }

    /// Brings a block into the cache proper, whatever the settings keep.
    ///
    /// # Errors
    /// When the block cannot be fetched.
    pub(crate) async fn fill(&self, id: BlockId) -> Result<(), ChunkError> {
        if !self.cache.contains(id) {
            let lease = self.budget.acquire(Share::Background, self.downloader.fetch_bytes(id)).await;
            self.downloader.join_or_fetch(id, Keep::Forced, lease).await?;
        }
        Ok(())
    }

    /// Brings a block into the cache if it is not there, memory is free and nobody does it yet. Never waits.
    pub(crate) fn prefetch(&self, id: BlockId) {
        self.prefetcher.prefetch(id);
    }

    /// Whether a block is on this machine, as far as is known without looking.
    pub(crate) fn holds(&self, id: BlockId) -> bool {
        self.cache.holds(id) || self.downloader.in_place().is_some()
    }

    fn pieces(&self, Stretch { slice, off, len }: Stretch) -> Result<Pieces, ChunkError> {
        block::pieces(slice, self.config.block_size, off, len)
            .ok_or(ChunkError::Misuse("a read beyond the end of its slice"))
    }

    /// Reads pieces, a segment for each.
    async fn read_pieces(self: &Arc<Self>, pieces: Pieces, purpose: ReadPurpose) -> Result<Segments, ChunkError> {
        if is_answered_at_once(purpose)
            && let Some(all) = self.read_at_hand(&pieces)
        {
            return Ok(all);
        }
        let mut sources: Sources = pieces.into_iter().map(|piece| (piece, self.source(piece, purpose))).collect();
        self.open_blocks(&mut sources, purpose).await?;
        let (need, share) = (self.needed_bytes(&sources), share_of(&sources, purpose));
        if need > self.budget.limit_bytes(share) {
            return self.read_one_by_one(sources, purpose).await;
        }
        let mut lease = self.memory_for(&mut sources, purpose).await?;
        // Start all that must be fetched before waiting for any of it.
        let arrivals: SmallVec<[(Piece, Arrival); 2]> = sources
            .into_iter()
            .map(|(piece, source)| {
                let part = lease.split(self.source_bytes(piece, &source));
                (piece, self.begin(piece, source, part, purpose))
            })
            .collect();
        let mut out = Segments::new();
        for (piece, arrival) in arrivals {
            out.push(arrival.bytes(piece).await?);
        }
        Ok(out)
    }

    /// The same where more memory is needed than can be had at once: many blocks, and little of each. A piece is copied out
    /// of its block, which goes before the next one comes. The copies are not counted: they are no more than was asked for.
    async fn read_one_by_one(
        self: &Arc<Self>,
        mut sources: Sources,
        purpose: ReadPurpose,
    ) -> Result<Segments, ChunkError> {
        sources.iter_mut().for_each(|(_, source)| source.let_go());
        let mut out = Segments::new();
        for (piece, source) in sources {
            let mut one = Sources::new();
            one.push((piece, source));
            let mut lease = self.memory_for(&mut one, purpose).await?;
            for (piece, source) in one {
                let arrival = self.begin(piece, source, std::mem::take(&mut lease), purpose);
                out.push(Bytes::copy_from_slice(&arrival.bytes(piece).await?));
            }
        }
        Ok(out)
    }

    /// Takes memory for all that is to be fetched.
    async fn memory_for(self: &Arc<Self>, sources: &mut Sources, purpose: ReadPurpose) -> Result<Lease, ChunkError> {
        let (need, share) = (self.needed_bytes(sources), share_of(sources, purpose));
        let mut lease = match self.budget.try_acquire(share, need) {
            Some(lease) => lease,
            None => {
                sources.iter_mut().for_each(|(_, source)| source.let_go());
                self.lease_for(need, share).await?
            }
        };
        if sources.iter().any(|(_, source)| matches!(source, Source::Elsewhere(_))) {
            for (piece, source) in sources.iter_mut() {
                self.recall(*piece, source);
            }
            self.open_blocks(sources, purpose).await?;
            // Some may have been fetched and forgotten meanwhile. They are few: taking whatever is free keeps them from waiting.
            let more = self.needed_bytes(sources).saturating_sub(need);
            lease.merge(self.budget.try_acquire(share, more).unwrap_or_default());
        }
        Ok(lease)
    }

    /// Joins again what was let go, or looks for it anew.
    fn recall(&self, piece: Piece, source: &mut Source) {
        if let Source::Elsewhere(flight) = source {
            *source = match flight.upgrade().or_else(|| self.downloader.flight(piece.block)) {
                Some(flight) => Source::Join(flight),
                None => match self.cache.find(piece.block) {
                    Found::Memory(block) => Source::Here(block),
                    Found::Open(block) => Source::Open(block),
                    Found::Closed => Source::Closed,
                    Found::Nothing => Source::Whole,
                },
            };
        }
    }

    /// Takes memory for a read. Read-ahead gives way to everybody who waits for memory, and gives up soon: who waits for what it
    /// was to bring can have memory of his own.
    async fn lease_for(&self, bytes: usize, share: Share) -> Result<Lease, ChunkError> {
        if share != Share::Ahead {
            return Ok(self.budget.acquire(share, bytes).await);
        }
        for _ in 0..AHEAD_TRIES {
            if let Some(lease) = self.budget.try_acquire(share, bytes) {
                return Ok(lease);
            }
            self.tasks.sleep(AHEAD_PAUSE).await;
        }
        Err(ChunkError::NoMemory)
    }

    /// Starts what is to be fetched, and reads what is at hand.
    fn begin(self: &Arc<Self>, piece: Piece, source: Source, lease: Lease, purpose: ReadPurpose) -> Arrival {
        match source {
            Source::Here(block) => Arrival::Block(block),
            Source::Join(flight) => Arrival::Flight(flight),
            Source::Whole | Source::Closed | Source::Elsewhere(_) => {
                Arrival::Flight(self.downloader.join_or_fetch(piece.block, keep_of(purpose), lease))
            }
            Source::Part => Arrival::Piece(self.tasks.start(Arc::clone(&self.downloader).fetch_part(piece, lease))),
            Source::Open(block) => Arrival::Piece(match block.read_now(piece.off, piece.len) {
                Some(bytes) => {
                    self.counters.cache_hit.hit(bytes.len());
                    Started::Done(Ok(leased(bytes, lease)))
                }
                None => self.tasks.start(Arc::clone(self).read_local(piece, block, lease, purpose)),
            }),
        }
    }

    /// All pieces, if each of them is at hand.
    fn read_at_hand(&self, pieces: &[Piece]) -> Option<Segments> {
        let (mut out, mut of_store) = (Segments::new(), SmallVec::<[bool; 2]>::new());
        for piece in pieces {
            let (bytes, is_of_store) = match self.cache.find(piece.block) {
                Found::Memory(block) => (block.slice(piece.range()), false),
                Found::Open(block) => (block.read_now(piece.off, piece.len)?, false),
                Found::Closed => return None,
                Found::Nothing => (self.downloader.in_place()?.read_now(*piece)?, true),
            };
            out.push(bytes);
            of_store.push(is_of_store);
        }
        for (bytes, is_of_store) in out.iter().zip(of_store) {
            if is_of_store {
                self.counters.cache_miss.hit(bytes.len());
                self.counters.get.hit(bytes.len());
            } else {
                self.counters.cache_hit.hit(bytes.len());
            }
        }
        Some(out)
    }

    /// Reads a piece from a block that the local tier has open. What cannot be read there or fails its checksums is fetched.
    async fn read_local(
        self: Arc<Self>,
        piece: Piece,
        block: LocalBlock,
        lease: Lease,
        purpose: ReadPurpose,
    ) -> Result<Bytes, ChunkError> {
        match block.read(piece.off, piece.len).await {
            Ok(bytes) => {
                self.counters.cache_hit.hit(bytes.len());
                Ok(leased(bytes, lease))
            }
            Err(why) => {
                tracing::warn!("the local copy of block {} is not used: {why}", self.downloader.key(piece.block));
                if !matches!(why.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
                    // A staged one stays, damaged as it is: it is all that there is.
                    self.cache.evict(piece.block).await;
                }
                self.counters.cache_miss.hit(piece.len as usize);
                drop(lease);
                // Taking whatever is free keeps this rare path from waiting while other pieces of the read hold memory.
                let need = self.downloader.fetch_bytes(piece.block);
                let lease = self.budget.try_acquire(Share::Fetch, need).unwrap_or_default();
                let block = self.downloader.join_or_fetch(piece.block, keep_of(purpose), lease).await?;
                Ok(block.slice(piece.range()))
            }
        }
    }

    /// Finds out where a piece comes from, without waiting.
    fn source(self: &Arc<Self>, piece: Piece, purpose: ReadPurpose) -> Source {
        match self.cache.find(piece.block) {
            Found::Memory(block) => self.here(block, piece),
            Found::Open(block) => Source::Open(block),
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
        if let Some(flight) = self.downloader.flight(piece.block) {
            let is_random = matches!(purpose, ReadPurpose::Random | ReadPurpose::RandomInSmall);
            let goes_before =
                is_random && piece.len < piece.block.size.div_ceil(2) && self.prefetcher.is_behind(piece.block);
            return if goes_before { Source::Part } else { Source::Join(flight) };
        }
        if self.prefetcher.wants_part(piece, purpose) { Source::Part } else { Source::Whole }
    }

    /// Opens the blocks that the local tier has or may have, all at once. Done before memory is taken: what is not found, or not
    /// in time, has to be fetched, and that needs more of it.
    async fn open_blocks(
        self: &Arc<Self>,
        sources: &mut [(Piece, Source)],
        purpose: ReadPurpose,
    ) -> Result<(), ChunkError> {
        let mut opening: SmallVec<[_; 2]> = SmallVec::new();
        for (at, (piece, source)) in sources.iter().enumerate() {
            if let Source::Closed = source {
                let (cache, block) = (Arc::clone(&self.cache), piece.block);
                opening.push((at, self.tasks.start(async move { Ok(cache.open_block(block).await) })));
            }
        }
        for (at, opened) in opening {
            let (piece, source) = &mut sources[at];
            *source = match opened.outcome().await? {
                Found::Memory(block) => self.here(block, *piece),
                Found::Open(block) => Source::Open(block),
                Found::Closed | Found::Nothing => self.beyond_the_cache(*piece, purpose),
            };
        }
        Ok(())
    }

    /// Budget bytes that a source needs.
    fn source_bytes(&self, piece: Piece, source: &Source) -> usize {
        match source {
            Source::Here(_) | Source::Join(_) | Source::Elsewhere(_) | Source::Closed => 0,
            Source::Whole => self.downloader.fetch_bytes(piece.block),
            Source::Part => piece.len as usize,
            Source::Open(block) => block.read_bytes(piece.off, piece.len),
        }
    }

    fn needed_bytes(&self, sources: &[(Piece, Source)]) -> usize {
        sources.iter().map(|(piece, source)| self.source_bytes(*piece, source)).sum()
    }
}
