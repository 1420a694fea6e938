//! A client whose session another one has ended comes back with a new one.
//!
//! What went with the old session is told first, then the new one is used: whoever finds the new session in use finds the
//! loss noted. So what was begun in the old session can only fail (each change names its session, which the engine looks for in
//! the same step), and what is begun in the new one knows what it must not touch.

use std::sync::atomic::Ordering;

use juicefs_core::{
    error::{MetaError, MetaResult},
    ids::{Ino, SessionId},
    meta::SessionLoss,
};

use super::{super::Client, Session};
use crate::{
    ops::session::{NewSession, is_condemned},
    record::{Counter, HolderKey, Key},
};

/// Nodes of open files looked at in one trip.
const LOOKED_AT_ONCE: usize = 512;

impl Client {
    /// After an answer `Fenced`: takes a new session if the present one was ended. Nothing happens to a client that never had
    /// one, or has ended it itself.
    pub(in crate::client) async fn come_back(&self) -> MetaResult<()> {
        let _turn = self.liveness.returning.lock().await;
        let old = self.sid();
        if old.0 == 0 {
            return Err(MetaError::Fenced);
        }
        // Somebody else may have been here already.
        if self
            .transactor
            .fetch(&[Key::Holder(HolderKey::Session(old))])
            .await?
            .session(old)
            .is_some_and(|found| self.is_own(found))
        {
            return Ok(());
        }
        // Never in a volume that has taken the place of this one.
        if let Err(error @ (MetaError::Setting(_) | MetaError::Unavailable(_))) = self.reload_setting().await {
            return Err(error);
        }
        let new = self.take_session().await?;
        // Whoever began to end it may not be done: nothing more may come into it when the loss is told.
        let mut freed = Vec::new();
        let ended = self.end_other(Some(new), old, None, &mut usize::MAX.clone(), &mut freed).await;
        self.liveness.freed.lock().append(&mut freed);
        match ended {
            Ok(()) => {}
            Err(error @ (MetaError::Unavailable(_) | MetaError::Fenced)) => return Err(error),
            // A file that cannot be read must not keep this client away.
            Err(error) => tracing::warn!(old = old.0, %error, "the ended session is left to others"),
        }
        let unnamed = self.lost_files().await?;
        let (flocks, ranges) = self.locks.lose(new);
        let loss = SessionLoss { old, new, flocks, ranges, unnamed };
        tracing::error!(
            old = old.0,
            new = new.0,
            locks = loss.flocks.len() + loss.ranges.len(),
            unnamed_files = loss.unnamed.len(),
            "another client has ended the session of this one, which goes on with a new one; lost are the locks that it held, \
             the files without a name that it had open, and what was written under those locks and not yet stored: these \
             descriptors answer EIO until they are closed"
        );
        if let Some(tell) = self.liveness.on_loss.get() {
            tell(&loss);
        }
        self.sid.store(new.0, Ordering::Release);
        Ok(())
    }

    fn is_own(&self, found: &Session) -> bool {
        found.info == *self.liveness.info.lock() && !is_condemned(found)
    }

    /// Registers a session, which nobody uses yet.
    pub(super) async fn take_session(&self) -> MetaResult<SessionId> {
        let info = self.liveness.info.lock().clone();
        loop {
            let number = self.engine.counter_add(Counter::NextSession, 1).await?;
            let sid = SessionId(number.max(1).unsigned_abs());
            let session = Session { expire_secs: self.expire_secs(self.config.clock.now()), info: info.clone() };
            if self.run_for(None, NewSession { sid, session }).await? {
                return Ok(sid);
            }
        }
    }

    /// The open files that have no name any more: whoever ended the session has freed them.
    async fn lost_files(&self) -> MetaResult<Vec<Ino>> {
        let mut lost = Vec::new();
        for inos in self.opens.maybe_unnamed().chunks(LOOKED_AT_ONCE) {
            let read = self.transactor.fetch(&inos.iter().map(|ino| Key::Node(*ino)).collect::<Vec<_>>()).await?;
            lost.extend(inos.iter().copied().filter(|ino| read.node(*ino).is_none_or(|attr| attr.nlink == 0)));
        }
        Ok(lost)
    }
}
