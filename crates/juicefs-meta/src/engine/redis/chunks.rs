//! Finding the chunks of a file: Redis has no index of them, so they are asked for by number.

use std::ops::Range;

use juicefs_core::{
    error::MetaResult,
    ids::{ChunkIndex, Ino},
};

use super::{RedisEngine, cursor::Cursor, fetch, link::Request};
use crate::{
    layout::redis::parse_number,
    record::{Key, Value},
};

/// Chunks of a file looked at in one round trip.
const CHUNK_WINDOW: u32 = 256;
/// Chunks that are asked for at once.
const PROBE_WINDOW: u32 = 4096;
/// After so many chunks (16 TiB) it is in any case less work to look at all keys of the database than to ask for each.
const PROBE_MAX: u32 = 1 << 18;

/// From which end of a range chunks are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    First,
    Last,
}

impl RedisEngine {
    /// Up to `limit` chunks of a range that have a list, those nearest to one end of it, ascending. They are asked for one
    /// by one from that end on; when that has taken longer than looking at all keys of the database takes, these are
    /// looked at instead: so a file that spans much and holds little costs no more than the database has.
    pub(super) async fn chunks_between(
        &self,
        ino: Ino,
        range: Range<ChunkIndex>,
        side: Side,
        limit: usize,
    ) -> MetaResult<Vec<ChunkIndex>> {
        let Range { start: mut low, end: mut high } = range;
        let patience =
            if high.saturating_sub(low) > PROBE_MAX { self.keys_stored().await?.min(PROBE_MAX) } else { high };
        let (mut there, mut asked) = (Vec::new(), 0);
        while low < high && there.len() < limit {
            if asked > patience {
                there.extend(self.chunks_among_all_keys(ino, low..high).await?);
                break;
            }
            let window = match side {
                Side::First => low..high.min(low.saturating_add(PROBE_WINDOW)),
                Side::Last => low.max(high.saturating_sub(PROBE_WINDOW))..high,
            };
            match side {
                Side::First => low = window.end,
                Side::Last => high = window.start,
            }
            there.extend(self.probe(ino, window).await?);
            asked += PROBE_WINDOW;
        }
        there.sort_unstable();
        if side == Side::Last {
            drop(there.drain(..there.len().saturating_sub(limit)));
        }
        there.truncate(limit);
        Ok(there)
    }

    /// Which chunks of a short range have a list.
    async fn probe(&self, ino: Ino, window: Range<ChunkIndex>) -> MetaResult<Vec<ChunkIndex>> {
        let keys = self.keys().await?;
        let mut request = Request::with_capacity(40 * window.len());
        window.clone().for_each(|index| request.command::<&[u8]>(&[b"EXISTS", &keys.chunk(ino, index)]));
        let mut there = Vec::new();
        for (index, reply) in window.zip(self.call_bulk(&request).await?) {
            if fetch::integer("chunk", &reply)? == 1 {
                there.push(index);
            }
        }
        Ok(there)
    }

    /// How many keys the database has.
    async fn keys_stored(&self) -> MetaResult<u32> {
        let mut request = Request::new();
        request.command::<&[u8]>(&[b"DBSIZE"]);
        let stored = fetch::integer("number of keys", &self.call_one(&request).await?)?;
        Ok(u32::try_from(stored).unwrap_or(u32::MAX))
    }

    async fn chunks_among_all_keys(&self, ino: Ino, range: Range<ChunkIndex>) -> MetaResult<Vec<ChunkIndex>> {
        let stem = self.keys().await?.chunk_stem(ino);
        let mut pattern = stem.clone();
        pattern.push(b'*');
        let (mut there, mut cursor): (Vec<ChunkIndex>, _) = (Vec::new(), Cursor::start());
        while let Some(keys) = self.next_keys(&mut cursor, &pattern).await? {
            let indexes = keys.iter().filter_map(|key| key.strip_prefix(stem.as_slice()));
            let indexes = indexes.filter_map(|index| parse_number::<ChunkIndex>("chunk", index).ok());
            there.extend(indexes.filter(|index| range.contains(index)));
        }
        there.sort_unstable();
        there.dedup();
        Ok(there)
    }

    /// Slice lists of the chunks of a range that have one, each as of a moment of its own: a slot that moves is no hindrance.
    pub(super) async fn chunks_of(
        &self,
        ino: Ino,
        range: Range<ChunkIndex>,
        after: Option<Key>,
        limit: usize,
    ) -> MetaResult<Vec<(Key, Value)>> {
        let mut at = match after {
            Some(Key::Chunk(_, index)) => index.saturating_add(1).max(range.start),
            _ => range.start,
        };
        let mut found = Vec::new();
        while at < range.end && found.len() < limit {
            let upto = range.end.min(at.saturating_add(CHUNK_WINDOW));
            let before = found.len();
            self.look_at_chunks(ino, at..upto, &mut found).await?;
            at = upto;
            if found.len() == before && range.end - at > CHUNK_WINDOW {
                // The next one may be far.
                let next = self.chunks_between(ino, at..range.end, Side::First, 1).await?;
                at = next.first().copied().unwrap_or(range.end);
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Reads slice lists and adds those that there are.
    async fn look_at_chunks(
        &self,
        ino: Ino,
        window: Range<ChunkIndex>,
        found: &mut Vec<(Key, Value)>,
    ) -> MetaResult<()> {
        let keys = self.keys().await?;
        let mut request = Request::new();
        window.clone().for_each(|index| fetch::ask(&mut request, keys, &Key::Chunk(ino, index)));
        for (index, list) in window.zip(self.call_bulk(&request).await?) {
            let list = fetch::slices(list)?;
            found.extend((!list.is_empty()).then_some((Key::Chunk(ino, index), Value::Chunk(list))));
        }
        Ok(())
    }
}
