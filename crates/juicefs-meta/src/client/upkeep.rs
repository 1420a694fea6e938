//! Sessions, counters, and the deletion of what nothing refers to.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use juicefs_core::{
    Caller,
    attr::Timestamp,
    error::{MetaError, MetaResult},
    ids::{ChunkIndex, Ino, SessionId, SliceKey},
    meta::{Freed, Job, SessionInfo},
};

use super::{Client, quotas::TellQuotas, setting, usage::TellUsage};
use crate::{
    engine::Scan,
    ops::{
        counter::SetIfOlder,
        file_data::DropChunk,
        session::{EndSession, NewSession, Refresh},
        slices::{ForgetSlice, ReleaseDelayed},
        sustained::Release,
    },
    record::{Counter, Key, Session, Value},
    txn::Usage,
};

/// Records read from the engine at once.
const SCAN_PAGE: usize = 1000;
/// Slice lists of a removed file read at once.
const CHUNK_PAGE: usize = 256;
/// Heartbeats after which a silent session expires.
const EXPIRE_HEARTBEATS: u32 = 5;
const YEAR_SECS: i64 = 365 * 24 * 3600;

impl Client {
    fn expire_secs(&self, now: Timestamp) -> i64 {
        let heartbeats = self.config.heartbeat * EXPIRE_HEARTBEATS;
        let secs = i64::try_from(heartbeats.as_secs()).unwrap_or(YEAR_SECS);
        now.secs + if secs == 0 { YEAR_SECS } else { secs }
    }

    pub(super) async fn register(&self, info: Bytes) -> MetaResult<SessionId> {
        if self.config.read_only {
            return Ok(SessionId::default());
        }
        self.fence.check()?;
        loop {
            let number = self.engine.counter_add(Counter::NextSession, 1).await?;
            let sid = SessionId(number.max(1).unsigned_abs());
            let session = Session { expire_secs: self.expire_secs(self.config.clock.now()), info: info.clone() };
            if self.run_for(None, NewSession { sid, session }).await? {
                self.sid.store(sid.0, Ordering::Release);
                return Ok(sid);
            }
        }
    }

    /// Ends the session. Nothing is left to do for a client whose session another one has ended, or whose volume is gone.
    pub(super) async fn unregister(&self) -> MetaResult<Vec<Freed>> {
        if self.config.read_only {
            return Ok(Vec::new());
        }
        // The address may lead to another volume by now, whose sessions have the same numbers.
        if let Err(MetaError::Setting(why)) = self.reload_setting().await {
            tracing::warn!("the session is not ended: {why}");
            return Ok(Vec::new());
        }
        self.write_stats(true).await?;
        let sid = self.sid();
        if sid.0 == 0 {
            return Ok(Vec::new());
        }
        match self.end_session(sid).await {
            Err(MetaError::Fenced) => Ok(Vec::new()),
            freed => freed,
        }
    }

    /// Takes up the setting as it is stored now. `Setting` when the volume is gone or replaced.
    async fn reload_setting(&self) -> MetaResult<()> {
        let format = setting::load(self.engine.as_ref()).await?.ok_or_else(setting::unformatted)?;
        let old = self.setting();
        setting::check_same_volume(&old, &format)?;
        if *old != format {
            *self.format.write() = Arc::new(format);
        }
        Ok(())
    }

    async fn end_session(&self, sid: SessionId) -> MetaResult<Vec<Freed>> {
        let freed = self.release_sustained(sid).await?;
        self.write_stats(true).await?;
        self.run_for(None, EndSession { sid, expired_before_secs: None }).await?;
        self.sid.store(0, Ordering::Release);
        self.locks.forget();
        Ok(freed)
    }

    pub(super) async fn beat(&self) -> MetaResult<()> {
        // The setting first: nothing may be written to a volume that is gone or another one.
        self.reload_setting().await?;
        self.load_usage().await?;
        self.load_quotas().await?;
        let sid = self.sid();
        if sid.0 != 0 && !self.config.read_only {
            let expire_secs = self.expire_secs(self.config.clock.now());
            if !self.run(Refresh { sid, expire_secs }).await? {
                self.fence.shut(sid);
                return self.fence.check();
            }
        }
        Ok(())
    }

    /// Tells the engine what was used, with `all` also what is told less often. What a client has not told when it is taken
    /// for dead stays untold.
    pub(super) async fn write_stats(&self, all: bool) -> MetaResult<()> {
        if self.writable().is_err() {
            return Ok(());
        }
        match self.tell_stats(all).await {
            Err(MetaError::Fenced) => Ok(()),
            told => told,
        }
    }

    async fn tell_stats(&self, all: bool) -> MetaResult<()> {
        {
            let _turn = self.counters.lock().await;
            let delta = self.books.usage.pending();
            if delta != Usage::default() {
                self.run(TellUsage { delta, books: Arc::clone(&self.books) }).await?;
            }
            let charges = self.books.quotas.untold(all);
            if !charges.is_empty() {
                self.run(TellQuotas { charges, books: Arc::clone(&self.books) }).await?;
            }
        }
        self.books.dir_stats.flush(self.engine.as_ref(), self.writer()).await
    }

    pub(super) async fn list_sessions(&self) -> MetaResult<Vec<SessionInfo>> {
        let mut sessions = Vec::new();
        let mut after = None;
        loop {
            let page = self.engine.scan(Scan::Sessions, after, SCAN_PAGE).await?;
            let last = page.len() < SCAN_PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                let (Key::Session(sid), Value::Session(session)) = (key, value) else { continue };
                let sustained = self.sustained_by(sid).await?;
                let expire = Timestamp::from_secs(session.expire_secs);
                sessions.push(SessionInfo { sid, expire, info: session.info, sustained });
            }
            if last {
                return Ok(sessions);
            }
        }
    }

    async fn sustained_by(&self, sid: SessionId) -> MetaResult<Vec<Ino>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.engine.scan(Scan::Sustained(sid), after, SCAN_PAGE).await?;
            found.extend(page.iter().filter_map(|(key, _)| match key {
                Key::Sustained(_, ino) => Some(*ino),
                _ => None,
            }));
            if page.len() < SCAN_PAGE {
                return Ok(found);
            }
            after = page.last().map(|(key, _)| key.clone());
        }
    }

    /// Frees every file that a session kept alive.
    async fn release_sustained(&self, sid: SessionId) -> MetaResult<Vec<Freed>> {
        let mut freed = Vec::new();
        for ino in self.sustained_by(sid).await? {
            let scope = self.scope(&Caller::root());
            freed.extend(self.run(Release { scope, sid, ino, hold: None }).await?);
        }
        Ok(freed)
    }

    pub(super) async fn clean_sessions(&self, limit: usize) -> MetaResult<Vec<Freed>> {
        self.writable()?;
        let now_secs = self.config.clock.now().secs;
        let mut freed = Vec::new();
        let own = self.sid();
        let stale = self.list_sessions().await?.into_iter().filter(|s| s.expire.secs < now_secs && s.sid != own);
        for session in stale.take(limit) {
            tracing::info!(sid = session.sid.0, info = %session.info.escape_ascii(), "cleaning up a stale session");
            freed.extend(self.end_other(session.sid, Some(now_secs)).await?);
        }
        Ok(freed)
    }

    pub(super) async fn end_others(&self, dead: &[SessionId]) -> MetaResult<Vec<Freed>> {
        self.writable()?;
        let mut freed = Vec::new();
        for sid in dead.iter().filter(|sid| **sid != self.sid()) {
            freed.extend(self.end_other(*sid, None).await?);
        }
        Ok(freed)
    }

    async fn end_other(&self, sid: SessionId, expired_before_secs: Option<i64>) -> MetaResult<Vec<Freed>> {
        let freed = self.release_sustained(sid).await?;
        self.run(EndSession { sid, expired_before_secs }).await?;
        // Who waits here may wait for its locks.
        self.locks.ring_all();
        Ok(freed)
    }

    pub(super) async fn claim_job(&self, job: Job, interval_secs: u64) -> MetaResult<bool> {
        self.writable()?;
        let counter = match job {
            Job::StaleSessions => Counter::LastCleanupSessions,
            Job::DeletedFiles => Counter::LastCleanupFiles,
            Job::Slices => Counter::NextCleanupSlices,
            Job::Trash => Counter::LastCleanupTrash,
        };
        let interval_secs = i64::try_from(interval_secs).unwrap_or(i64::MAX);
        self.run(SetIfOlder { counter, now_secs: self.config.clock.now().secs, interval_secs }).await
    }

    pub(super) async fn removed_files(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>> {
        let page = self.engine.scan(Scan::DelFiles { before_secs: before.secs }, None, limit).await?;
        let files = page.into_iter().filter_map(|(key, value)| match (key, value) {
            (Key::DelFile(ino, _), Value::DelFile(file)) => Some(Freed { ino, length: file.length }),
            _ => None,
        });
        Ok(files.collect())
    }

    /// Chunk by chunk, each in a transaction of its own; the note of the removal goes with the last.
    pub(super) async fn drop_file_data(&self, Freed { ino, length }: Freed) -> MetaResult<Vec<SliceKey>> {
        self.writable()?;
        let mut chunks = self.chunks_of(ino, length).await?;
        // Backwards: an engine without an index of chunks sees by those within the file that it was cut and has chunks
        // beyond, also when all of this has to be begun anew.
        chunks.sort_unstable();
        let mut dead = Vec::new();
        loop {
            let index = chunks.pop();
            let last = chunks.is_empty();
            let Some(slices) = self.run(DropChunk { ino, length, index, last }).await? else {
                tracing::error!(%ino, "data of a file that exists is noted for deletion; it is kept");
                return Ok(dead);
            };
            dead.extend(slices);
            if last {
                return Ok(dead);
            }
        }
    }

    /// The chunks of a removed file that have a list.
    async fn chunks_of(&self, ino: Ino, length: u64) -> MetaResult<Vec<ChunkIndex>> {
        let (mut indexes, mut after) = (Vec::new(), None);
        loop {
            let page = self.engine.scan(Scan::Chunks { ino, length }, after, CHUNK_PAGE).await?;
            indexes.extend(page.iter().filter_map(|(key, _)| match key {
                Key::Chunk(_, index) => Some(*index),
                _ => None,
            }));
            if page.len() < CHUNK_PAGE {
                return Ok(indexes);
            }
            after = page.last().map(|(key, _)| key.clone());
        }
    }

    pub(super) async fn slices_without_use(&self, limit: usize) -> MetaResult<Vec<SliceKey>> {
        let page = self.engine.scan(Scan::DeadSlices, None, limit).await?;
        let slices = page.into_iter().filter_map(|(key, _)| match key {
            Key::SliceRef(slice) => Some(slice),
            _ => None,
        });
        Ok(slices.collect())
    }

    pub(super) async fn forget(&self, slice: SliceKey) -> MetaResult<()> {
        self.writable()?;
        self.run(ForgetSlice { slice }).await
    }

    pub(super) async fn release_delayed(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<SliceKey>> {
        self.writable()?;
        let page = self.engine.scan(Scan::DelaySlices { before_secs: before.secs }, None, limit).await?;
        let mut dead = Vec::new();
        for (key, _) in page {
            if let Key::DelaySlices(id, since_secs) = key {
                dead.extend(self.run(ReleaseDelayed { id, since_secs }).await?);
            }
        }
        Ok(dead)
    }
}
