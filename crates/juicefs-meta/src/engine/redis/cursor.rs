//! Walking through all keys of a database or all fields of a hash, a page at a time. What is there from the beginning of a
//! walk to its end is seen, perhaps more than once; what comes or goes meanwhile may be seen or not.

use bytes::Bytes;
use juicefs_core::error::MetaResult;
use redis::Value as Reply;

use super::{RedisEngine, fetch, link::Request};
use crate::layout::redis::number;

/// Keys looked at in one step: it holds the server for about a millisecond.
const KEYS: usize = 5000;
/// Fields of a hash asked for at once.
const FIELDS: usize = 1000;

/// How far a walk has come.
#[derive(Debug)]
pub(super) struct Cursor(Option<Bytes>);

impl Cursor {
    pub(super) fn start() -> Self {
        Self(Some(Bytes::from_static(b"0")))
    }
}

impl RedisEngine {
    /// The next keys that match a pattern, possibly none; `None` at the end.
    pub(super) async fn next_keys(&self, cursor: &mut Cursor, pattern: &[u8]) -> MetaResult<Option<Vec<Bytes>>> {
        let Some(at) = cursor.0.take() else { return Ok(None) };
        let mut request = Request::new();
        request.command::<&[u8]>(&[b"SCAN", &at, b"MATCH", pattern, b"COUNT", &number(KEYS)]);
        let mut found = Vec::new();
        for key in fetch::list("keys", self.advance(cursor, &request).await?)? {
            found.extend(fetch::bytes("key", key)?);
        }
        Ok(Some(found))
    }

    /// The next fields of a hash with their values, possibly none; `None` at the end.
    pub(super) async fn next_fields(
        &self,
        cursor: &mut Cursor,
        hash: &[u8],
    ) -> MetaResult<Option<Vec<(Bytes, Bytes)>>> {
        let Some(at) = cursor.0.take() else { return Ok(None) };
        let mut request = Request::new();
        request.command::<&[u8]>(&[b"HSCAN", hash, &at, b"COUNT", &number(FIELDS)]);
        Ok(Some(fetch::pairs("hash", self.advance(cursor, &request).await?)?))
    }

    /// Asks for a page, notes where the next one begins, and returns what is on it.
    async fn advance(&self, cursor: &mut Cursor, request: &Request) -> MetaResult<Reply> {
        let mut parts = fetch::list("page", self.one_bulk(request).await?)?.into_iter();
        let next = parts.next().map(|part| fetch::bytes("cursor", part)).transpose()?.flatten();
        cursor.0 = next.filter(|next| next.as_ref() != b"0");
        Ok(parts.next().unwrap_or(Reply::Nil))
    }
}
