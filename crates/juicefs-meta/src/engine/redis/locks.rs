//! Locks of a session that is gone.

use juicefs_core::{error::MetaResult, ids::SessionId};

use super::{RedisEngine, cursor::Cursor, fetch, link::Request};
use crate::layout::redis::number;

impl RedisEngine {
    /// Notes every key in which a session holds locks in the index of the session. JuiceFS (Go) does not note shared
    /// flocks there, so they would stay for ever. It looks at all keys of the database, which is for sessions of others that
    /// are cleaned up only.
    pub(super) async fn index_locks(&self, sid: SessionId) -> MetaResult<()> {
        let keys = self.keys().await?;
        let mut owner = number(sid.0);
        owner.push(b'_');
        let pattern = keys.any_lock();
        let mut cursor = Cursor::start();
        while let Some(page) = self.next_keys(&mut cursor, &pattern).await? {
            for key in page {
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
        }
        Ok(())
    }
}
