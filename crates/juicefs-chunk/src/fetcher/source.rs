//! Each piece of a read has a source, and arrives from there.

use bytes::Bytes;
use juicefs_core::{ChunkError, Share, store::ReadPurpose};
use smallvec::SmallVec;

use super::flights::{Flight, WeakFlight};
use crate::{block::Piece, cache::LocalBlock, tasks::Started};

/// Where the bytes of a piece come from.
pub(super) enum Source {
    /// The block is in memory.
    Here(Bytes),
    /// The local tier has the block open.
    Open(LocalBlock),
    /// The local tier has to open the block, if it is there.
    Closed,
    /// Somebody fetches the block already.
    Join(Flight),
    /// Somebody fetches the block already, and it is not held meanwhile.
    Elsewhere(WeakFlight),
    /// The whole block is to be fetched.
    Whole,
    /// Only the piece is to be fetched.
    Part,
}

/// Pieces of one read.
pub(super) type Pieces = SmallVec<[Piece; 2]>;
/// Pieces of one read with their sources.
pub(super) type Sources = SmallVec<[(Piece, Source); 2]>;

impl Source {
    /// Stops holding memory that was taken for a fetch.
    pub(super) fn let_go(&mut self) {
        if let Self::Join(flight) = self {
            *self = Self::Elsewhere(flight.downgrade());
        }
    }
}

/// What memory is taken for by a read from these sources. One that stays on this machine does not wait for others that wait
/// for the store.
pub(super) fn share_of(sources: &[(Piece, Source)], purpose: ReadPurpose) -> Share {
    if purpose == ReadPurpose::ReadAhead {
        return Share::Ahead;
    }
    let is_local = sources.iter().all(|(_, source)| matches!(source, Source::Here(_) | Source::Open(_)));
    if is_local { Share::Disk } else { Share::Fetch }
}

/// A piece on its way.
pub(super) enum Arrival {
    /// The whole block is here.
    Block(Bytes),
    /// The whole block is being fetched.
    Flight(Flight),
    /// The piece alone is being read or fetched.
    Piece(Started<Result<Bytes, ChunkError>>),
}

impl Arrival {
    /// Waits for the bytes of the piece.
    ///
    /// # Errors
    /// Those of the fetch.
    pub(super) async fn bytes(self, piece: Piece) -> Result<Bytes, ChunkError> {
        let range = piece.range();
        Ok(match self {
            Self::Block(block) => block.slice(range),
            Self::Flight(flight) => flight.await?.slice(range),
            Self::Piece(started) => started.outcome().await?,
        })
    }
}
