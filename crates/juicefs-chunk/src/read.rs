//! Answering reads: where each piece comes from, and the memory for all of them at once.
//!
//! Who waits for memory holds none, not even that of a block that somebody else fetches for him: readers that each held some
//! and waited for more would wait for one another for good.

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{ChunkError, Lease, Segments, Share, SliceKey, store::ReadPurpose, store::Stretch};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{
    block::{self, BlockId, Piece},
    cache::{Found, Keep, OnDisk},
    download::{Fetch, Flight, WeakFlight},
    lease::leased,
    store::{Inner, Started},
};

/// Blocks up to this size are always fetched whole: a request for a part would cost as much.
const TINY_BLOCK_BYTES: u32 = 8 << 10;
/// Of blocks up to this size the second read of a part shows that the whole is worth having.
const SMALL_BLOCK_BYTES: u32 = 128 << 10;
/// Reads of parts of a larger block after which the whole of it is worth having.
const REUSE_READS: u32 = 3;
/// The same of a block on a disk of this machine, where a read of a part costs a seek and no round trip.
const REUSE_READS_IN_PLACE: u32 = 8;

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
    /// Likewise, and it is not held meanwhile.
    Elsewhere(WeakFlight),
    /// The whole block is to be fetched.
    Whole,
    /// Only the piece is to be fetched.
    Part,
}

impl Source {
    /// Holds no memory that was taken for a fetch.
    fn let_go(&mut self) {
        if let Self::Join(flight) = self {
            *self = Self::Elsewhere(flight.downgrade());
        }
    }
}

/// A piece on its way.
enum Begun {
    /// The whole block is here.
    Block(Bytes),
    /// The whole block is being fetched.
    Flight(Flight),
    /// The piece alone is.
    Fetch(Fetch),
}

type Pieces = SmallVec<[Piece; 2]>;
type Sources = SmallVec<[(Piece, Source); 2]>;

/// What memory is taken for by a read from these sources. One that stays on this machine does not wait for others that wait
/// for the store.
fn share_of(sources: &[(Piece, Source)], purpose: ReadPurpose) -> Share {
    if purpose == ReadPurpose::ReadAhead {
        return Share::Ahead;
    }
    let is_local = sources.iter().all(|(_, source)| matches!(source, Source::Here(_) | Source::Disk(_)));
    if is_local { Share::Disk } else { Share::Fetch }
}

/// Whether what is at hand need not be counted: it is as much as an application asked for, by a request that its thread answers before
/// it takes another one. Whoever reads for himself holds it for longer.
fn is_answered_at_once(purpose: ReadPurpose) -> bool {
    match purpose {
        ReadPurpose::Random | ReadPurpose::RandomInSmall | ReadPurpose::Sequential => true,
        ReadPurpose::ReadAhead | ReadPurpose::Once => false,
    }
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
        self.open_files(&mut sources, purpose).await?;
        let (need, share) = (self.needed_bytes(&sources), share_of(&sources, purpose));
        if need > self.budget.limit_bytes(share) {
            return self.read_one_by_one(sources, purpose).await;
        }
        let mut lease = self.memory_for(&mut sources, purpose).await?;
        // Start all that must be fetched before waiting for any of it.
        let begun: SmallVec<[(Piece, Begun); 2]> = sources
            .into_iter()
            .map(|(piece, source)| {
                let part = lease.split(self.source_bytes(piece, &source));
                (piece, self.begin(piece, source, part, purpose))
            })
            .collect();
        let mut out = Segments::new();
        for (piece, begun) in begun {
            out.push(self.end(piece, begun).await?);
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
                let begun = self.begin(piece, source, std::mem::take(&mut lease), purpose);
                out.push(Bytes::copy_from_slice(&self.end(piece, begun).await?));
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
            self.open_files(sources, purpose).await?;
            // Some may have been fetched and forgotten meanwhile. They are few: taking whatever is free keeps them from waiting.
            let more = self.needed_bytes(sources).saturating_sub(need);
            lease.merge(self.budget.try_acquire(share, more).unwrap_or_default());
        }
        Ok(lease)
    }

    /// Joins again what was let go, or looks for it anew.
    fn recall(&self, piece: Piece, source: &mut Source) {
        if let Source::Elsewhere(flight) = source {
            *source = match flight.upgrade().or_else(|| self.flights.of(piece.block)) {
                Some(flight) => Source::Join(flight),
                None => match self.cache.find(piece.block) {
                    Found::Memory(block) => Source::Here(block),
                    Found::Disk(file) => Source::Disk(file),
                    Found::Closed => Source::Closed,
                    Found::Nothing => Source::Whole,
                },
            };
        }
    }

    /// Starts what is to be fetched, and reads what is at hand.
    fn begin(self: &Arc<Self>, piece: Piece, source: Source, lease: Lease, purpose: ReadPurpose) -> Begun {
        match source {
            Source::Here(block) => Begun::Block(block),
            Source::Join(flight) => Begun::Flight(flight),
            Source::Whole | Source::Closed | Source::Elsewhere(_) => {
                let keep = if purpose == ReadPurpose::Once { Keep::No } else { Keep::Normal };
                Begun::Flight(self.join_or_fetch(piece.block, keep, lease))
            }
            Source::Part => Begun::Fetch(self.start(Arc::clone(self).fetch_part(piece, lease))),
            Source::Disk(file) => Begun::Fetch(match file.read_now(piece.off, piece.len) {
                Some(bytes) => {
                    self.counters.cache_hit.hit(bytes.len());
                    Started::Done(Ok(leased(bytes, lease)))
                }
                None => self.start(Arc::clone(self).read_disk(piece, file, lease, purpose)),
            }),
        }
    }

    /// The bytes of a piece.
    async fn end(&self, piece: Piece, begun: Begun) -> Result<Bytes, ChunkError> {
        let range = piece.range();
        Ok(match begun {
            Begun::Block(block) => block.slice(range),
            Begun::Flight(flight) => flight.await?.slice(range),
            Begun::Fetch(fetch) => self.finish(fetch).await?,
        })
    }

    /// All pieces, if each of them is at hand.
    fn read_at_hand(&self, pieces: &[Piece]) -> Option<Segments> {
        let (mut out, mut of_store) = (Segments::new(), SmallVec::<[bool; 2]>::new());
        for piece in pieces {
            let (bytes, is_of_store) = match self.cache.find(piece.block) {
                Found::Memory(block) => (block.slice(piece.range()), false),
                Found::Disk(file) => (file.read_now(piece.off, piece.len)?, false),
                Found::Closed => return None,
                Found::Nothing => (self.in_place()?.read_now(*piece)?, true),
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
        if self.in_place().is_some() {
            if purpose == ReadPurpose::Random && self.reuse.count(piece.block) >= REUSE_READS_IN_PLACE {
                self.prefetch_reused(piece.block);
            }
            return true;
        }
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
            Source::Here(_) | Source::Join(_) | Source::Elsewhere(_) | Source::Closed => 0,
            Source::Whole => self.fetch_bytes(piece.block),
            Source::Part => piece.len as usize,
            Source::Disk(file) => file.read_bytes(piece.off, piece.len),
        }
    }

    fn needed_bytes(&self, sources: &[(Piece, Source)]) -> usize {
        sources.iter().map(|(piece, source)| self.source_bytes(*piece, source)).sum()
    }
}
