//! A session that others may end, and what is lost with it.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use juicefs_core::{Ino, MetaError, MetaResult, SessionId, meta::SessionLoss};

use super::MemMeta;

type Tell = dyn Fn(&SessionLoss) + Send + Sync;

/// The session of the one client.
#[derive(Default)]
pub(super) struct Lives {
    /// How many sessions there were before this one.
    before: AtomicU64,
    /// Whether another client has ended it.
    ended: AtomicBool,
    tell: OnceLock<Box<Tell>>,
}

impl Lives {
    pub(super) fn session(&self) -> SessionId {
        SessionId(1 + self.before.load(Ordering::Acquire))
    }

    pub(super) fn on_loss(&self, tell: Box<Tell>) {
        // Said once, as the trait has it.
        let _ = self.tell.set(tell);
    }
}

impl MemMeta {
    /// Ends the session as another client does that takes this one for dead.
    pub fn end_session(&self) {
        self.lives.ended.store(true, Ordering::Release);
    }

    /// Whether something may be changed in a session; 0 stands for the present one.
    pub(super) fn check_session(&self, session: SessionId) -> MetaResult<()> {
        let other = session.0 != 0 && session != self.lives.session();
        if other || self.lives.ended.load(Ordering::Acquire) { Err(MetaError::Fenced) } else { Ok(()) }
    }

    pub(super) fn next_session(&self) -> MetaResult<()> {
        self.note("come_back", Ino::ROOT)?;
        if !self.lives.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        let (flocks, ranges) = self.lose_locks();
        let mut unnamed: Vec<Ino> = Vec::new();
        {
            let mut state = self.state.lock();
            let open = state.nodes.iter().filter(|(_, node)| node.opens > 0 && node.attr.nlink == 0);
            unnamed.extend(open.map(|(ino, _)| *ino));
            unnamed.iter().for_each(|ino| drop(state.nodes.remove(ino)));
        }
        let old = self.lives.session();
        let loss = SessionLoss { old, new: SessionId(old.0 + 1), flocks, ranges, unnamed };
        if let Some(tell) = self.lives.tell.get() {
            tell(&loss);
        }
        self.lives.before.fetch_add(1, Ordering::AcqRel);
        self.lives.ended.store(false, Ordering::Release);
        Ok(())
    }
}
