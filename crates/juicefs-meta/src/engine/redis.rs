//! The Redis engine (format: metadata.md §2), for Redis from 4.0 on, Valkey and KeyDB.
//!
//! A change is sent as one script that checks all that it was judged on and applies the effects
//! (`docs/adr/0009-redis-one-script-per-operation.md`).
//!
//! * `address`: the URL; `link`: connections, and finding the server that has the volume.
//! * `fetch`: records from replies; `plan` and `script`: guards and effects as Lua; `lanes`: exactly once.
//! * `run`: sending all of it. `listing` and `scan`: directories and whole kinds; `cursor`: the walk below. `cache`: what the
//!   server tells the changes of.

pub(crate) mod address;
mod cache;
mod chunks;
mod cursor;
mod fetch;
mod lanes;
pub(crate) mod link;
mod listing;
mod plan;
mod run;
mod scan;
mod script;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use juicefs_core::{
    error::{MetaError, MetaResult},
    ids::{ChunkIndex, Ino, SessionId},
    meta::{DirCursor, DirPage},
};
use tokio::sync::OnceCell;

use self::{
    address::Address,
    cache::Cache,
    cursor::Cursor,
    lanes::Lanes,
    link::{Link, Request},
    run::Ended,
    script::{Plan, Scripts, StepKind},
};
use super::{ApplyOutcome, Caps, Engine, Found, Patience, Scan};
use crate::{
    layout::redis::{KeySpace, counter_shift, number},
    record::{AccountKey, Counter, DirStat, Key, Value},
    txn::{Effects, ReadSet},
};

/// A volume in Redis.
pub(crate) struct RedisEngine {
    link: Link,
    /// Nothing is written, and the server may be one that cannot.
    read_only: bool,
    keys: OnceCell<KeySpace>,
    lanes: Lanes,
    scripts: Scripts,
    /// Set with the first connection, if the URL asks for it.
    cache: OnceLock<Arc<Cache>>,
}

impl RedisEngine {
    /// An engine that connects when it is first used. What is `read_only` may read from a replica, if the URL says so.
    pub(crate) fn new(address: Address, read_only: bool) -> Self {
        Self {
            cache: OnceLock::new(),
            link: Link::new(address, read_only),
            read_only,
            keys: OnceCell::new(),
            lanes: Lanes::new(rand::random()),
            scripts: Scripts::default(),
        }
    }

    /// The keys of the volume, which depend on whether the server is part of a cluster.
    async fn keys(&self) -> MetaResult<&KeySpace> {
        let connect = || async {
            let keys = KeySpace::new(&self.link.ready().await?.key_prefix);
            self.start_cache(&keys);
            Ok::<_, MetaError>(keys)
        };
        self.keys.get_or_try_init(connect).await
    }

    /// Begins to cache what is read, if the URL asks for it.
    fn start_cache(&self, keys: &KeySpace) {
        let options = &self.link.options().client_cache;
        if options.enabled {
            let cache = self.cache.get_or_init(|| Arc::new(Cache::new(keys, options)));
            let prefixes = cache.stems().iter().map(|stem| stem.to_vec()).collect();
            self.link.watch(prefixes, keys.nowhere().to_vec(), Arc::clone(cache) as _);
        }
    }

    /// Adds to statistics with one script; returns the directories that have none. It goes on until it knows that they were added:
    /// what is added again is counted twice, and nobody notices.
    async fn add_stats(&self, deltas: &[(Ino, DirStat)], writer: Option<SessionId>) -> MetaResult<Vec<Ino>> {
        let keys = self.keys().await?;
        let outcome = keys.outcome(self.lanes.client());
        let mut plan = Plan::default();
        if let Some(sid) = writer {
            plan.push(StepKind::Alive, [keys.sessions()], [number(sid.0)]);
        }
        for (ino, delta) in deltas {
            plan.push(
                StepKind::AddStat,
                [keys.dir_lengths(), keys.dir_spaces(), keys.dir_inodes()],
                [number(ino.0), number(delta.length), number(delta.space), number(delta.inodes)],
            );
        }
        let missing =
            |has: Vec<bool>| deltas.iter().zip(has).filter(|(_, has)| !has).map(|((ino, _), _)| *ino).collect();
        match self.execute(keys, &outcome, &plan, Patience::UntilKnown).await? {
            Ended::Done(Some(answers)) => Ok(missing(answers.into_iter().map(|has| has == 1).collect())),
            // An earlier copy of the request did it: whoever had statistics then has them now.
            Ended::Done(None) => {
                let wanted: Vec<_> = deltas.iter().map(|(ino, _)| Key::Account(AccountKey::DirStat(*ino))).collect();
                let read = self.look(&wanted).await?;
                Ok(missing(wanted.iter().map(|key| read.get(key).is_some()).collect()))
            }
            Ended::Conflict => Err(MetaError::Conflict(1)),
        }
    }
}

/// What an error reply means for the caller. Those that are about the connection are dealt with below.
fn server_error(what: &str, error: &redis::ServerError) -> MetaError {
    let text = format!("{what}: {} {}", error.code(), error.details().unwrap_or_default());
    match error.code() {
        "WRONGTYPE" => MetaError::Corrupt { what: what.to_owned(), why: text },
        "NOPERM" | "NOAUTH" | "WRONGPASS" => MetaError::Setting(format!("the Redis user may not do this: {text}")),
        _ => MetaError::Unavailable(text),
    }
}

#[async_trait]
impl Engine for RedisEngine {
    fn describe(&self) -> String {
        self.link.describe()
    }

    fn caps(&self) -> Caps {
        Caps { usage_in_transaction: true, max_compact_records: 1000, lists_by_name: false, indexes_chunks: false }
    }

    fn patience(&self) -> Duration {
        self.link.options().retry_budget
    }

    async fn is_empty(&self) -> MetaResult<bool> {
        let keys = self.keys().await?;
        let counters = [Counter::NextInode, Counter::NextChunk, Counter::NextSession].map(|c| keys.counter(c));
        let [setting, root, sessions, files] =
            [keys.setting(), keys.node(Ino::ROOT), keys.sessions(), keys.removed_files()];
        let mut request = Request::new();
        request.begin(8);
        request.arg(b"EXISTS");
        [setting, root, sessions, files].iter().chain(&counters).for_each(|key| request.arg(key));
        Ok(fetch::integer("keys", &self.call_one(&request).await?)? == 0)
    }

    /// Removes the keys of the volume and leaves others of the same database alone.
    async fn reset(&self) -> MetaResult<()> {
        let keys = self.keys().await?;
        let mut pattern: Vec<u8> = keys.prefix().as_bytes().to_vec();
        pattern.push(b'*');
        let mut cursor = Cursor::start();
        while let Some(mut found) = self.next_keys(&mut cursor, &pattern).await? {
            found.retain(|key| keys.owns(key));
            if !found.is_empty() {
                let mut request = Request::new();
                request.begin(1 + found.len());
                request.arg(b"DEL");
                found.iter().for_each(|key| request.arg(key));
                fetch::integer("keys", &self.call_one(&request).await?)?;
            }
        }
        Ok(())
    }

    async fn fetch(&self, keys: &[Key]) -> MetaResult<ReadSet> {
        self.look(keys).await
    }

    fn cached(&self, keys: &[Key]) -> Option<ReadSet> {
        self.cache.get()?.get_all(keys)
    }

    async fn apply(&self, read: &ReadSet, effects: &Effects, patience: Patience) -> MetaResult<ApplyOutcome> {
        self.apply_to(read, effects, patience).await
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<Found>> {
        self.find(parent, name).await
    }

    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        self.list(ino, from, with_attrs, limit).await
    }

    async fn chunk_indexes(
        &self,
        ino: Ino,
        from: ChunkIndex,
        to: ChunkIndex,
        limit: usize,
    ) -> MetaResult<Vec<ChunkIndex>> {
        self.chunks_between(ino, from..to, chunks::Side::First, limit).await
    }

    async fn counter_add(&self, counter: Counter, delta: i64) -> MetaResult<i64> {
        let keys = self.keys().await?;
        let mut request = Request::new();
        // Sent twice it takes numbers that nobody uses.
        request.command::<&[u8]>(&[b"INCRBY", &keys.counter(counter)[..], &number(delta)]);
        let stored = fetch::integer("counter", &self.call_one(&request).await?)?;
        Ok(stored.saturating_add(counter_shift(counter)))
    }

    async fn warm_up(&self, root: Ino) -> MetaResult<()> {
        self.preload(root).await
    }

    async fn scan(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Vec<(Key, Value)>> {
        self.walk(scan, after, limit).await
    }

    async fn add_dir_stats(&self, deltas: Vec<(Ino, DirStat)>) -> MetaResult<Vec<Ino>> {
        self.add_stats(&deltas, None).await
    }

    async fn close(&self) {
        if let Some(keys) = self.keys.get().filter(|_| !self.read_only) {
            let mut request = Request::new();
            request.command::<&[u8]>(&[b"DEL", keys.outcome(self.lanes.client()).as_slice()]);
            // It expires on its own if this fails.
            if let Err(error) = self.call(&request).await {
                tracing::debug!(%error, "the note of finished changes is left to expire");
            }
        }
        self.link.close().await;
    }
}

#[cfg(test)]
mod tests;
