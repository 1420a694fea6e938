//! Who asks for an operation.

use smallvec::SmallVec;

use crate::ids::SessionId;

/// Identity of the process on whose behalf an operation runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups; only filled when [`Caller::check_permission`] is set.
    pub groups: SmallVec<[u32; 4]>,
    /// Process id, 0 when unknown.
    pub pid: u32,
    /// Whether operations check permission bits themselves. False when the kernel did (`default_permissions`).
    pub check_permission: bool,
    /// The session that what is asked for must not outlive, because it is asked for under what that session keeps: with its end
    /// the answer is `Fenced`. 0 for none in particular.
    pub session: SessionId,
}

impl Caller {
    /// Root without permission checks: background work and tools.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The same caller, for what must not outlive this session.
    #[must_use]
    pub fn within(&self, session: SessionId) -> Self {
        Self { session, ..self.clone() }
    }

    /// Whether `gid` is the primary or a supplementary group.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}
