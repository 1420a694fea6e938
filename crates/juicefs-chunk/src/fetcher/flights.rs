//! A table knows which blocks are being fetched, so that each is fetched by one request at a time.

use std::{collections::HashMap, fmt, sync::Arc};

use bytes::Bytes;
use juicefs_core::{ChunkError, Joint, WeakJoint};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::block::BlockId;

/// A block that is being fetched. Whoever waits for it holds a clone.
pub(super) type Flight = Joint<Result<Bytes, ChunkError>>;
/// A flight that is not held, and may be joined while somebody else holds it.
pub(super) type WeakFlight = WeakJoint<Result<Bytes, ChunkError>>;

type ByBlock = Mutex<HashMap<BlockId, Flight>>;

/// The flights under way, by block.
#[derive(Clone, Default)]
pub(crate) struct Flights {
    by_block: Arc<ByBlock>,
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", self.by_block.lock().len())
    }
}

impl Flights {
    /// Returns the flight of a block, if it is under way.
    pub(super) fn of(&self, id: BlockId) -> Option<Flight> {
        self.by_block.lock().get(&id).cloned()
    }

    /// Joins the flight of a block. When there is none one begins, and whoever asked has to land it.
    pub(super) fn join(&self, id: BlockId) -> (Flight, Option<Landing>) {
        let mut by_block = self.by_block.lock();
        if let Some(flight) = by_block.get(&id) {
            return (flight.clone(), None);
        }
        let (land, landed) = oneshot::channel();
        let flight = Joint::new(async move { landed.await.unwrap_or(Err(ChunkError::Closed)) });
        by_block.insert(id, flight.clone());
        (flight, Some(Landing { entry: TableEntry { by_block: Arc::clone(&self.by_block), id }, land }))
    }
}

/// The duty to end a flight. When it is dropped instead, the flight ends with `Closed`.
pub(super) struct Landing {
    entry: TableEntry,
    land: oneshot::Sender<Result<Bytes, ChunkError>>,
}

impl Landing {
    /// Ends the flight with its outcome. From now on the block can be fetched anew.
    pub(super) fn land(self, outcome: Result<Bytes, ChunkError>) {
        drop(self.entry);
        // Nobody may wait any more.
        let _ = self.land.send(outcome);
    }
}

/// The entry of a flight in the table, for as long as the flight is under way.
struct TableEntry {
    by_block: Arc<ByBlock>,
    id: BlockId,
}

impl Drop for TableEntry {
    fn drop(&mut self) {
        self.by_block.lock().remove(&self.id);
    }
}
