//! Who is alive: this client says so, watches the others, and ends the sessions of those that are dead
//! (`docs/adr/0008-fencing.md`).

mod comeback;
mod watch;

use std::{
    sync::{OnceLock, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{
    Caller,
    attr::Timestamp,
    error::{MetaError, MetaResult},
    ids::{Ino, SessionId},
    meta::{Freed, Job, SessionInfo, SessionLoss},
};
use parking_lot::Mutex;
use serde::Deserialize;

use self::watch::{Look, Watch};
use super::Client;
use crate::{
    engine::Scan,
    ops::{
        session::{CONDEMNED_SECS, Condemn, EndSession, Ending, Refresh},
        sustained::ReleaseSome,
    },
    record::{HolderKey, Key, Session, Value},
};

/// Heartbeats for which a session lasts without being renewed, and for which others watch it before they end it.
const EXPIRE_HEARTBEATS: u32 = 5;
/// Of a client that does not say how often it sends heartbeats. JuiceFS (Go) does not.
const USUAL_HEARTBEAT: Duration = Duration::from_secs(12);
/// A session that would expire within so many heartbeats has missed some, and is watched.
const WATCHED_HEARTBEATS: u32 = 3;
/// Heartbeats of this client within which looks at the sessions follow one another while nothing is wrong.
const GAP_HEARTBEATS: u32 = 2;
/// And what a busy machine may add.
const GAP_SLACK: Duration = Duration::from_secs(2);
/// Sessions read from the engine at once.
const SESSION_PAGE: usize = 1000;
/// Inodes that a dead session lets go of in one step.
const RELEASED_AT_ONCE: usize = 128;
/// Inodes that dead sessions let go of in one round; the rest is left to the next.
const RELEASED_A_ROUND: usize = 1 << 16;
/// How often a session is tried to be ended anew because it keeps yet another file alive.
const END_TRIES: u32 = 3;
/// How often a call is made in all because the session that it was made in was ended. Each time costs a new session.
pub(super) const CALLS: u32 = 5;
const YEAR_SECS: i64 = 365 * 24 * 3600;

/// What a client knows of its own session and of those of others.
#[derive(Default)]
pub(super) struct Liveness {
    /// What the own session says of this client.
    info: Mutex<Bytes>,
    watch: Mutex<Watch>,
    /// Held while a new session takes the place of one that was ended.
    returning: tokio::sync::Mutex<()>,
    on_loss: OnceLock<Box<OnLoss>>,
    /// Data that came free where nobody waits for it.
    freed: Mutex<Vec<Freed>>,
}

/// Takes note of what went with a session that was ended.
type OnLoss = dyn Fn(&SessionLoss) + Send + Sync;

/// What of a session record tells how often it is renewed (`SessionRecord` of the command line, which has the other fields).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pace {
    #[serde(rename = "Heartbeat")]
    heartbeat_secs: u64,
}

impl Pace {
    fn heartbeat(info: &[u8]) -> Duration {
        let Self { heartbeat_secs } = serde_json::from_slice(info).unwrap_or_default();
        if heartbeat_secs == 0 { USUAL_HEARTBEAT } else { Duration::from_secs(heartbeat_secs) }
    }
}

/// A session that its client does not renew any more.
#[derive(Debug)]
struct Dead {
    sid: SessionId,
    /// The expiry that it had all the time.
    still: i64,
    info: Bytes,
    /// It has been watched for twice as long as is necessary.
    overdue: bool,
}

/// How far the release of what a session keeps has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Released {
    All,
    /// There was no more room in this round.
    Some,
    /// The session was renewed meanwhile.
    Renewed,
}

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
        *self.liveness.info.lock() = info;
        let sid = self.take_session().await?;
        self.locks.lose(sid);
        self.sid.store(sid.0, Ordering::Release);
        Ok(sid)
    }

    /// Says who is told what goes with a session that is ended, before a new one is used.
    pub(super) fn tell_loss(&self, tell: Box<OnLoss>) {
        // A second call changes nothing: who is told does not change while the client is in use.
        let _ = self.liveness.on_loss.set(tell);
    }

    /// Moves the expiry of the own session on, however long ago it has passed, and does nothing else: whatever else is wrong
    /// with the volume must not make others take this client for dead.
    pub(super) async fn renew(&self) -> MetaResult<()> {
        let sid = self.sid();
        if sid.0 == 0 || self.config.read_only {
            return Ok(());
        }
        let info = self.liveness.info.lock().clone();
        let expire_secs = self.expire_secs(self.config.clock.now());
        match self.run(Refresh { sid, info, expire_secs }).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(MetaError::Fenced) => self.come_back().await,
            Err(error) => Err(error),
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
        let mut freed = Vec::new();
        match self.end_own(sid, &mut freed).await {
            Ok(()) | Err(MetaError::Fenced) => Ok(freed),
            Err(error) => Err(error),
        }
    }

    async fn end_own(&self, sid: SessionId, freed: &mut Vec<Freed>) -> MetaResult<()> {
        for _ in 0..END_TRIES {
            self.release_kept(self.writer(), sid, None, &mut usize::MAX.clone(), freed).await?;
            self.write_stats(true).await?;
            if self.run_for(None, EndSession { sid, still: None }).await? == Ending::Ended {
                self.sid.store(0, Ordering::Release);
                self.locks.lose(SessionId::default());
                return Ok(());
            }
        }
        Err(MetaError::Conflict(END_TRIES))
    }

    pub(super) async fn list_sessions(&self) -> MetaResult<Vec<SessionInfo>> {
        let mut sessions = Vec::new();
        for (sid, session) in self.scan_sessions(Scan::Sessions).await? {
            let sustained = self.sustained_by(sid).await?;
            let expire = Timestamp::from_secs(session.expire_secs);
            sessions.push(SessionInfo { sid, expire, info: session.info, sustained });
        }
        Ok(sessions)
    }

    async fn scan_sessions(&self, scan: Scan) -> MetaResult<Vec<(SessionId, Session)>> {
        let mut sessions = Vec::new();
        let mut after = None;
        loop {
            let page = self.engine.scan(scan, after, SESSION_PAGE).await?;
            let last = page.len() < SESSION_PAGE;
            after = page.last().map(|(key, _)| key.clone());
            sessions.extend(page.into_iter().filter_map(|(key, value)| match (key, value) {
                (Key::Holder(HolderKey::Session(sid)), Value::Session(session)) => Some((sid, session)),
                _ => None,
            }));
            if last {
                return Ok(sessions);
            }
        }
    }

    async fn sustained_by(&self, sid: SessionId) -> MetaResult<Vec<Ino>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let (page, last) = self.sustained_page(sid, after, SESSION_PAGE).await?;
            found.extend(page);
            if last.is_none() {
                return Ok(found);
            }
            after = last;
        }
    }

    /// Some of the inodes that a session keeps alive, and where the next ones begin; `None` after the last.
    async fn sustained_page(
        &self,
        sid: SessionId,
        after: Option<Key>,
        limit: usize,
    ) -> MetaResult<(Vec<Ino>, Option<Key>)> {
        let page = self.engine.scan(Scan::Sustained(sid), after, limit).await?;
        let next = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() == limit);
        let inos = page.into_iter().filter_map(|(key, _)| match key {
            Key::Holder(HolderKey::Sustained(_, ino)) => Some(ino),
            _ => None,
        });
        Ok((inos.collect(), next))
    }

    /// Frees the files that a session keeps alive, at most `room` of them, as long as it has the expiry `still`. One that
    /// cannot be freed is passed over.
    async fn release_kept(
        &self,
        writer: Option<SessionId>,
        sid: SessionId,
        still: Option<i64>,
        room: &mut usize,
        freed: &mut Vec<Freed>,
    ) -> MetaResult<Released> {
        let mut after = None;
        loop {
            if *room == 0 {
                return Ok(Released::Some);
            }
            let (inos, next) = self.sustained_page(sid, after, RELEASED_AT_ONCE.min(*room)).await?;
            *room -= inos.len();
            let scope = self.scope(&Caller::root());
            let release = |inos| ReleaseSome { scope: scope.clone(), sid, inos, still };
            match self.run_for(writer, release(inos.clone())).await {
                Ok(Some(more)) => freed.extend(more),
                Ok(None) => return Ok(Released::Renewed),
                Err(error @ (MetaError::Unavailable(_) | MetaError::Fenced)) => return Err(error),
                // One of them is in the way of the others.
                Err(_) => {
                    for ino in inos {
                        match self.run_for(writer, release(vec![ino])).await {
                            Ok(Some(more)) => freed.extend(more),
                            Ok(None) => return Ok(Released::Renewed),
                            Err(error @ (MetaError::Unavailable(_) | MetaError::Fenced)) => return Err(error),
                            Err(error) => tracing::error!(sid = sid.0, %ino, %error, "a removed file is not freed"),
                        }
                    }
                }
            }
            if next.is_none() {
                return Ok(Released::All);
            }
            after = next;
        }
    }

    /// Looks at the sessions of others, and ends up to `limit` of those that are dead. What cannot be ended is logged and left
    /// to a later round; it does not keep others from being ended.
    pub(super) async fn clean_sessions(&self, limit: usize) -> MetaResult<Vec<Freed>> {
        self.writable()?;
        let mut freed = std::mem::take(&mut *self.liveness.freed.lock());
        let mut room = RELEASED_A_ROUND;
        let dead = self.look_for_dead().await?;
        // Also when there is nothing to do: as long as somebody who judges with care has the turn, JuiceFS (Go), which goes by
        // the wall clock, does not end any.
        let interval_secs = self.config.heartbeat.as_secs() * 9 / 10;
        let turn = self.claim_job(Job::StaleSessions, interval_secs).await;
        if let Err(error @ (MetaError::Unavailable(_) | MetaError::Fenced)) = turn {
            return Err(error);
        }
        // Whoever has the turn may not have watched for long.
        let mine = dead.into_iter().filter(|dead| dead.overdue || matches!(turn, Ok(true)));
        for dead in mine.take(limit) {
            tracing::info!(sid = dead.sid.0, info = %dead.info.escape_ascii(), "ending the session of a dead client");
            match self.end_other(self.writer(), dead.sid, Some(dead.still), &mut room, &mut freed).await {
                Ok(()) => {}
                Err(MetaError::Fenced) => break,
                Err(error) => {
                    tracing::warn!(sid = dead.sid.0, %error, "the session is left for a later round");
                    if matches!(error, MetaError::Unavailable(_)) {
                        break;
                    }
                }
            }
        }
        Ok(freed)
    }

    /// The sessions that were silent for too long while this client was watching.
    async fn look_for_dead(&self) -> MetaResult<Vec<Dead>> {
        let (heartbeat, clock) = (self.config.heartbeat, &self.config.clock);
        let now_secs = clock.now().secs;
        let soon_secs = i64::try_from((heartbeat * WATCHED_HEARTBEATS).as_secs()).unwrap_or(YEAR_SECS);
        let begun = clock.awake();
        let shown = self.scan_sessions(Scan::Expiring { before_secs: now_secs.saturating_add(soon_secs) }).await;
        let look = Look { begun, ended: clock.awake() };
        let mut watch = self.liveness.watch.lock();
        let shown = shown.inspect_err(|_| watch.interrupted())?;
        let expiries = shown.iter().map(|(sid, session)| (*sid, session.expire_secs));
        watch.note(look, heartbeat * GAP_HEARTBEATS + GAP_SLACK, expiries);
        let own = self.sid();
        let judge = |(sid, Session { expire_secs, info }): (SessionId, Session)| {
            let patience = heartbeat.max(Pace::heartbeat(&info)) * EXPIRE_HEARTBEATS;
            let silence = watch.silence(sid, look);
            let dead = sid != own && expire_secs < now_secs && silence >= patience;
            dead.then_some(Dead { sid, still: expire_secs, info, overdue: silence >= 2 * patience })
        };
        Ok(shown.into_iter().filter_map(judge).collect())
    }

    pub(super) async fn end_others(&self, dead: &[SessionId]) -> MetaResult<Vec<Freed>> {
        self.writable()?;
        let mut freed = Vec::new();
        for sid in dead.iter().filter(|sid| **sid != self.sid()) {
            self.end_other(self.writer(), *sid, None, &mut usize::MAX.clone(), &mut freed).await?;
        }
        Ok(freed)
    }

    /// Ends the session of another client for `writer`, if it has still this expiry. What was freed is in `freed` also when it fails.
    async fn end_other(
        &self,
        writer: Option<SessionId>,
        sid: SessionId,
        still: Option<i64>,
        room: &mut usize,
        freed: &mut Vec<Freed>,
    ) -> MetaResult<()> {
        let mut still = still;
        for _ in 0..=END_TRIES {
            match self.run_for(writer, EndSession { sid, still }).await? {
                Ending::KeepsFiles => {}
                Ending::Renewed => return Ok(()),
                Ending::Ended => {
                    // Who waits here may wait for its locks.
                    self.locks.ring_all();
                    return Ok(());
                }
            }
            // Its client must not go on with a part of its files.
            if let Some(seen) = still.filter(|seen| *seen != CONDEMNED_SECS) {
                if !self.run_for(writer, Condemn { sid, still: seen }).await? {
                    return Ok(());
                }
                still = Some(CONDEMNED_SECS);
            }
            match self.release_kept(writer, sid, still, room, freed).await? {
                Released::All => {}
                Released::Some | Released::Renewed => return Ok(()),
            }
        }
        Err(MetaError::Conflict(END_TRIES))
    }
}
