//! Walking through all keys of a database or all fields of a hash, a page at a time. What is there from the beginning of a
//! walk to its end is seen, perhaps more than once; what comes or goes meanwhile may be seen or not.
//!
//! A place in a walk is one of a server process. Where another goes on (after a restart, a fail-over, or when the slot has moved),
//! the walk begins anew.

use bytes::Bytes;
use juicefs_core::{error::MetaResult, meta::DirCursor};
use redis::Value as Reply;

use super::{
    RedisEngine, fetch,
    link::{Lane, Origin, Request},
};
use crate::layout::redis::number;

/// Keys looked at in one step: it holds the server for about a millisecond.
const KEYS: usize = 5000;
/// Fields of a hash asked for at once, if they may be large.
pub(super) const FIELDS: usize = 1000;

/// How far a walk has come.
#[derive(Debug)]
pub(super) struct Cursor {
    /// `None` at the end.
    at: Option<Bytes>,
    /// Whose place this is.
    origin: Option<Origin>,
    /// The walk began anew.
    anew: bool,
}

/// Where walks begin, and what they end with.
pub(super) const START: &[u8] = b"0";

impl Cursor {
    pub(super) fn start() -> Self {
        Self { at: Some(Bytes::from_static(START)), origin: None, anew: false }
    }

    /// Where a listing goes on. What [`Self::pause`] did not write is the beginning.
    pub(super) fn resume(from: &DirCursor) -> Self {
        let place = std::str::from_utf8(&from.0).ok().and_then(|text| text.split_once('@'));
        match place.and_then(|(at, origin)| Some((at, u64::from_str_radix(origin, 16).ok()?))) {
            Some((at, origin)) => {
                let at = Bytes::copy_from_slice(at.as_bytes());
                Self { at: Some(at), origin: Some(Origin(origin)), anew: false }
            }
            None => Self { anew: true, ..Self::start() },
        }
    }

    /// Whether the walk has begun anew since it was resumed.
    pub(super) fn is_anew(&self) -> bool {
        self.anew
    }

    /// Where a listing is to go on later; `None` at the end.
    pub(super) fn pause(&self) -> Option<DirCursor> {
        let mut text = self.at.as_ref()?.to_vec();
        if let Some(Origin(origin)) = self.origin {
            text.extend_from_slice(format!("@{origin:016x}").as_bytes());
        }
        Some(DirCursor(text.into()))
    }

    /// Notes where the next page begins, and who says so.
    pub(super) fn advance_to(&mut self, next: Option<Bytes>, origin: Origin) {
        self.origin = Some(origin);
        self.at = next.filter(|next| next.as_ref() != START);
    }
}

impl RedisEngine {
    /// The next keys that match a pattern, possibly none; `None` at the end.
    pub(super) async fn next_keys(&self, cursor: &mut Cursor, pattern: &[u8]) -> MetaResult<Option<Vec<Bytes>>> {
        let Some(at) = &cursor.at else { return Ok(None) };
        let mut request = Request::new();
        let keys = self.keys().await?;
        if keys.may_move() {
            // SCAN itself is answered by any node, about the keys that it has.
            request.command::<&[u8]>(&[b"EXISTS", &keys.nowhere()[..]]);
            request = request.steady();
        }
        request.command::<&[u8]>(&[b"SCAN", at, b"MATCH", pattern, b"COUNT", &number(KEYS)]);
        let Some(page) = self.advance(cursor, &request).await? else { return Ok(Some(Vec::new())) };
        let mut found = Vec::new();
        for key in fetch::list("keys", page)? {
            found.extend(fetch::bytes("key", key)?);
        }
        Ok(Some(found))
    }

    /// The next fields of a hash with their values, possibly none; `None` at the end.
    pub(super) async fn next_fields(
        &self,
        cursor: &mut Cursor,
        hash: &[u8],
        count: usize,
    ) -> MetaResult<Option<Vec<(Bytes, Bytes)>>> {
        let Some(at) = &cursor.at else { return Ok(None) };
        let mut request = Request::new();
        request.command::<&[u8]>(&[b"HSCAN", hash, at, b"COUNT", &number(count)]);
        let Some(page) = self.advance(cursor, &request).await? else { return Ok(Some(Vec::new())) };
        Ok(Some(fetch::pairs("hash", page)?))
    }

    /// Asks for a page, notes where the next one begins, and returns what is on it; `None` when the walk begins anew.
    async fn advance(&self, cursor: &mut Cursor, request: &Request) -> MetaResult<Option<Reply>> {
        let mut answer = self.link.ask_whom(Lane::Bulk, request).await?;
        if cursor.origin.is_some_and(|origin| origin != answer.origin) {
            *cursor = Cursor { anew: true, ..Cursor::start() };
            return Ok(None);
        }
        let mut parts = fetch::list("page", answer.values.pop().unwrap_or(Reply::Nil))?.into_iter();
        let next = parts.next().map(|part| fetch::bytes("cursor", part)).transpose()?.flatten();
        cursor.advance_to(next, answer.origin);
        Ok(Some(parts.next().unwrap_or(Reply::Nil)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_of_a_process() {
        let mut cursor = Cursor::start();
        cursor.advance_to(Some(Bytes::from_static(b"18446744073709551615")), Origin(0xab));
        let paused = cursor.pause().expect("not at the end");
        let resumed = Cursor::resume(&paused);
        assert_eq!((resumed.at, resumed.origin), (cursor.at.clone(), cursor.origin));
        cursor.advance_to(Some(Bytes::from_static(b"0")), Origin(0xab));
        assert_eq!(cursor.pause(), None);
        for odd in ["", "5", "5@", "5@xyz", "@"] {
            let resumed = Cursor::resume(&DirCursor(Bytes::from_static(odd.as_bytes())));
            assert_eq!((resumed.at.as_deref(), resumed.origin), (Some(START), None), "{odd}");
        }
    }
}
