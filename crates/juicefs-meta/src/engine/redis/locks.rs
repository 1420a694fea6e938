//! Locks of a session that is gone.

use bytes::Bytes;
use juicefs_core::{error::MetaResult, ids::SessionId};

use super::{RedisEngine, fetch, link::Request};
use crate::layout::redis::number;

/// Keys looked at in one step.
const SCAN_COUNT: usize = 5000;

impl RedisEngine {
    /// Notes every key in which a session holds locks in the index of the session. JuiceFS (Go) does not note shared
    /// flocks there, so they would stay for ever. It looks at all keys of the database, which is for sessions of others that
    /// are cleaned up only.
    pub(super) async fn index_locks(&self, sid: SessionId) -> MetaResult<()> {
        let keys = self.keys().await?;
        let mut owner = number(sid.0);
        owner.push(b'_');
        let pattern = keys.any_lock();
        let mut cursor: Bytes = "0".into();
        loop {
            let mut request = Request::new();
            request.command::<&[u8]>(&[b"SCAN", &cursor, b"MATCH", &pattern, b"COUNT", &number(SCAN_COUNT)]);
            let mut parts = fetch::list("keys", self.one_bulk(&request).await?)?.into_iter();
            let next = parts.next().map(|part| fetch::bytes("keys", part)).transpose()?.flatten();
            for key in parts.next().map(|part| fetch::list("keys", part)).transpose()?.unwrap_or_default() {
                let key = fetch::bytes("key", key)?.unwrap_or_default();
                let mut request = Request::new();
                request.command::<&[u8]>(&[b"HKEYS", &key]);
                let holders = fetch::list("locks", self.call_one(&request).await?)?;
                let holds = |holder| fetch::bytes("lock", holder).ok().flatten().is_some_and(|h| h.starts_with(&owner));
                if holders.into_iter().any(holds) {
                    let mut request = Request::new();
                    request.command::<&[u8]>(&[b"SADD", &keys.locked(sid)[..], &key]);
                    fetch::integer("locks", &self.call_one(&request).await?)?;
                }
            }
            match next {
                Some(next) if next.as_ref() != b"0" => cursor = next,
                _ => return Ok(()),
            }
        }
    }
}
