//! Checks what a job may work on. Whoever asks for a job names inodes, which anybody can guess, so a job is done only
//! on what its caller could walk to.

use juicefs_core::{Caller, Errno, Ino, MetaError, MetaResult};

use crate::{Vfs, fault, internal::Command, reply::VfsResult};

/// How many paths of a file with many names are looked at.
const MAX_PATHS: usize = 1024;

impl Vfs {
    /// Fails with EACCES unless the caller can walk to all that a command names.
    pub(super) async fn may_reach_all(&self, cx: &Caller, command: &Command) -> VfsResult<()> {
        let named = match command {
            Command::Remove { parent, .. } => vec![*parent],
            Command::Clone { source, to, .. } => vec![*source, *to],
            Command::Info { ino, .. } | Command::Summary { ino, .. } | Command::Compact { ino, .. } => vec![*ino],
        };
        for ino in named {
            let reached = self.cx.meta.reach(cx, ino).await;
            reached.map_err(|error| fault::of_meta("job", ino, &error))?;
        }
        Ok(())
    }

    /// The paths of a node, from the root of the mount, that the caller can walk. Root can walk all of them.
    pub(super) async fn reachable(&self, cx: &Caller, ino: Ino) -> MetaResult<Vec<Vec<u8>>> {
        let paths = self.cx.meta.paths(ino, MAX_PATHS).await?;
        if cx.uid == 0 {
            return Ok(paths);
        }
        let mut reachable = Vec::new();
        for path in paths {
            if self.leads(cx, &path, ino).await? {
                reachable.push(path);
            }
        }
        Ok(reachable)
    }

    /// Whether the caller gets to `ino` on this path.
    async fn leads(&self, cx: &Caller, path: &[u8], ino: Ino) -> MetaResult<bool> {
        let mut at = Ino::ROOT;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = match self.cx.meta.lookup(cx, at, name).await {
                Ok((found, _)) => found,
                // The names may have moved since they were collected.
                Err(MetaError::Posix(Errno::EACCES | Errno::ENOENT | Errno::ENOTDIR)) => return Ok(false),
                Err(error) => return Err(error),
            };
        }
        Ok(at == ino)
    }
}
