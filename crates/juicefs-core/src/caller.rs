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
    /// The session within which the operation must happen, because it depends on locks of that session. When that
    /// session has ended the answer is `Fenced`. 0 stands for any session.
    pub session: SessionId,
}

impl Caller {
    /// Root without permission checks. It is the caller for background work and tools.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The same caller, for an operation that must happen within this session.
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
