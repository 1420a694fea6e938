//! Removing a tree (format: metadata.md §6.22).

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use juicefs_core::{
    Caller,
    attr::FileType,
    errno::Errno,
    error::MetaResult,
    ids::{Ino, Name},
    listing::Listing,
    meta::{DirEntry, Removed},
    tree::{Progress, RemovalWatch, TreeRemoval},
};

use super::{Walk, is};
use crate::{
    client::Client,
    ops::access::{W, X},
};

/// How often a directory is emptied anew that somebody else keeps filling.
const EMPTYING_TRIES: u32 = 16;

/// A removal under way.
pub(super) struct Removing<'a> {
    pub(super) walk: Walk<'a>,
    pub(super) cx: &'a Caller,
    pub(super) skip_trash: bool,
    pub(super) watch: &'a dyn RemovalWatch,
}

impl Removing<'_> {
    fn done(&self, parent: Ino, name: &Name, removed: Removed) {
        self.walk.progress.add_first(1);
        self.watch.removed(parent, name, removed);
    }
}

impl Client {
    pub(in crate::client) async fn remove_whole(
        &self,
        cx: &Caller,
        (parent, name): (Ino, &[u8]),
        how: TreeRemoval,
        watch: &dyn RemovalWatch,
        progress: &Progress,
    ) -> MetaResult<()> {
        self.writable()?;
        if name == b"." || name == b".." {
            return Err(Errno::EINVAL.into());
        }
        if how.skip_trash && cx.uid != 0 {
            return Err(Errno::EPERM.into());
        }
        self.check_access(cx, parent, W | X).await?;
        let (ino, attr) = self.lookup_entry(cx, parent, name).await?;
        if ino == Ino::TRASH_ROOT || parent.is_trash() && cx.uid != 0 {
            return Err(Errno::EPERM.into());
        }
        // What lies in the trash is not put there a second time.
        let skip_trash = how.skip_trash || parent.is_trash() || attr.parent.is_hourly_trash();
        let job = Removing { walk: Walk::new(how.threads, progress), cx, skip_trash, watch };
        let name = Name::new(name);
        if attr.kind != FileType::Directory {
            let removed = self.unlink_name(cx, parent, name.as_bytes(), skip_trash).await?;
            job.done(parent, &name, removed);
            return Ok(());
        }
        if parent == Ino::TRASH_ROOT {
            // The hour itself goes when it is old enough.
            return self.empty_tree(&job, ino).await;
        }
        self.remove_branch(&job, parent, &name, ino).await
    }

    /// Removes everything below `dir`.
    pub(super) fn empty_tree<'a>(&'a self, job: &'a Removing<'a>, dir: Ino) -> BoxFuture<'a, MetaResult<()>> {
        async move {
            for _ in 0..EMPTYING_TRIES {
                let mut gone = true;
                while gone {
                    // Always what is there now: so nothing has to be remembered of what went.
                    let entries = Listing::of(dir).next(&self.transactor).await?.unwrap_or_default();
                    if entries.is_empty() || !job.walk.goes_on()? {
                        return Ok(());
                    }
                    gone = self.remove_entries(job, dir, entries).await?;
                }
            }
            // Entries that are listed and cannot be found.
            Err(Errno::ENOTEMPTY.into())
        }
        .boxed()
    }

    /// Removes entries of `dir` side by side, and tells whether any went. After a failure those under way are finished.
    async fn remove_entries(&self, job: &Removing<'_>, dir: Ino, entries: Vec<DirEntry>) -> MetaResult<bool> {
        let lent = job.walk.lend(entries.len());
        let steps = stream::iter(entries).map(|entry| async move {
            let outcome = self.remove_below(job, dir, entry).await;
            job.walk.note(outcome)
        });
        let mut steps = steps.buffer_unordered(1 + lent.steps);
        let (mut any, mut failure) = (false, None);
        while let Some(outcome) = steps.next().await {
            match outcome {
                Ok(gone) => any |= gone,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(any), Err)
    }

    /// Removes one entry with everything below it; false when it was gone.
    async fn remove_below(&self, job: &Removing<'_>, parent: Ino, entry: DirEntry) -> MetaResult<bool> {
        if !job.walk.goes_on()? {
            return Ok(false);
        }
        let DirEntry { name, ino, kind, .. } = entry;
        let outcome = if kind == FileType::Directory {
            self.remove_branch(job, parent, &name, ino).await
        } else {
            let removed = self.unlink_name(job.cx, parent, name.as_bytes(), job.skip_trash).await;
            removed.map(|removed| job.done(parent, &name, removed))
        };
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if is(&error, Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Empties the directory `ino` and removes its name, again when somebody put something into it meanwhile.
    async fn remove_branch(&self, job: &Removing<'_>, parent: Ino, name: &Name, ino: Ino) -> MetaResult<()> {
        for _ in 0..EMPTYING_TRIES {
            self.empty_tree(job, ino).await?;
            if !job.walk.goes_on()? {
                return Ok(());
            }
            match self.remove_directory(job.cx, parent, name.as_bytes(), job.skip_trash).await {
                Ok(removed) => {
                    job.done(parent, name, removed);
                    return Ok(());
                }
                Err(error) if is(&error, Errno::ENOTEMPTY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::ENOTEMPTY.into())
    }
}
