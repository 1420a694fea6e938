//! Copying a tree (format: metadata.md §6.19). A directory is made without a name, filled, and attached at the end, so that
//! nobody ever sees a part of it; what is not completed is removed again, here or by the job of a later day.

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use juicefs_core::{
    Caller,
    attr::{Attr, Timestamp},
    errno::Errno,
    error::MetaResult,
    ids::{Ino, Name},
    listing::Listing,
    meta::{DirEntry, Freed, Removed},
    tree::{Cloning, Progress, RemovalWatch},
};
use parking_lot::Mutex;

use super::{Walk, is, remove::Removing};
use crate::{
    client::{Client, trash::Stuck},
    engine::Scan,
    ops::{
        access::{TRASH_NAME, new_name},
        account::signed,
        ascent::{Ascent, Step},
        clone::{Attach, CloneNode, Cloned, CopyChunks, Place, RemoveDetached},
        link::Link,
        sustained::Release,
    },
    record::{Key, NoteKey},
    txn::Usage,
};

/// Steps side by side when a copy is taken away again.
const REMOVAL_THREADS: usize = 8;

/// A copy under way.
struct Copying<'a> {
    walk: Walk<'a>,
    cx: &'a Caller,
    how: Cloning,
}

/// What a removal that nobody watches has freed.
#[derive(Default)]
struct FreedFiles(Mutex<Vec<Freed>>);

impl RemovalWatch for FreedFiles {
    fn removed(&self, _parent: Ino, _name: &Name, removed: Removed) {
        self.0.lock().extend(removed.freed);
    }
}

/// What became of the copy of a node.
enum Copy {
    /// It is complete, but for the entries of a directory.
    Made(Ino, Attr),
    /// Nothing is to be copied.
    Gone,
    /// Nothing was done: it takes several steps, and the place is one that everybody sees.
    TooLarge,
}

fn room_for(attr: &Attr) -> Usage {
    Usage { space: signed(attr.used_space()), inodes: 1 }
}

impl Client {
    pub(in crate::client) async fn clone_whole(
        &self,
        cx: &Caller,
        source: Ino,
        (to, name): (Ino, &[u8]),
        how: Cloning,
        watch: &dyn RemovalWatch,
        progress: &Progress,
    ) -> MetaResult<Ino> {
        if name.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        if source.is_trash() || to.is_trash() || to == Ino::ROOT && name == TRASH_NAME {
            return Err(Errno::EPERM.into());
        }
        self.writable()?;
        let name = new_name(name)?;
        let attr = self.node(source).await?.ok_or(Errno::ENOENT)?;
        if self.transactor.lookup(to, name.as_bytes()).await?.is_some() {
            return Err(Errno::EEXIST.into());
        }
        let job = Copying { walk: Walk::new(how.threads, progress), cx, how };
        if !attr.is_dir() {
            progress.add_second(1);
            let ino = match self.copy_node(&job, (source, &attr), to, Place::Final(name.clone())).await? {
                Copy::Made(ino, _) => ino,
                Copy::TooLarge => self.clone_large(&job, (source, &attr), (to, name), watch).await?,
                Copy::Gone => return Err(Errno::ENOENT.into()),
            };
            progress.add_first(1);
            return Ok(ino);
        }
        self.check_not_below(source, to).await?;
        self.clone_directory(&job, (source, &attr), (to, name), watch).await
    }

    /// EINVAL when `dir` is `top` or below it: the copy would hold itself.
    async fn check_not_below(&self, top: Ino, dir: Ino) -> MetaResult<()> {
        let (mut at, mut way) = (dir, Ascent::default());
        loop {
            if at == top {
                return Err(Errno::EINVAL.into());
            }
            if way.step(at) != Step::Up {
                return Ok(());
            }
            at = self.node(at).await?.ok_or(Errno::ENOENT)?.parent;
        }
    }

    async fn clone_directory(
        &self,
        job: &Copying<'_>,
        (source, attr): (Ino, &Attr),
        (to, name): (Ino, Name),
        watch: &dyn RemovalWatch,
    ) -> MetaResult<Ino> {
        let counted = Progress::default();
        let all = self.summarize_whole(&Caller::root(), source, true, false, &counted).await?;
        let inodes = all.files + all.dirs;
        job.walk.progress.add_second(inodes);
        // All of it must fit; each node takes its own room when its turn comes.
        let room = Usage { space: signed(all.size_bytes), inodes: signed(inodes) };
        drop(self.books.usage.reserve(&self.setting(), room)?);
        let Copy::Made(ino, _) = self.copy_node(job, (source, attr), to, Place::Detached).await? else {
            return Err(Errno::ENOENT.into());
        };
        job.walk.progress.add_first(1);
        let filled = async {
            self.copy_entries(job, source, ino).await?;
            job.walk.progress.go_on()?;
            self.run(Attach { scope: self.scope(job.cx), ino, dir: to, name }).await
        };
        let Err(error) = filled.await else { return Ok(ino) };
        if let Err(left) = self.remove_detached(ino, watch).await {
            tracing::warn!(%ino, error = %left, "a part of a copy is left to the clean-up of another day");
        }
        Err(error)
    }

    /// Copies a file that takes several steps: it gets its name when it is complete. What is not completed goes at once, or
    /// with the session.
    async fn clone_large(
        &self,
        job: &Copying<'_>,
        (source, attr): (Ino, &Attr),
        (to, name): (Ino, Name),
        watch: &dyn RemovalWatch,
    ) -> MetaResult<Ino> {
        let sid = self.sid();
        if sid.0 == 0 {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let ino = Ino(self.inodes.take().await?);
        let filled = async {
            match self.copy_node_as(job, (source, attr), to, ino, Place::Unnamed).await? {
                Copy::Made(..) => {}
                Copy::Gone | Copy::TooLarge => return Err(Errno::ENOENT.into()),
            }
            self.run(Link { scope: self.scope(job.cx), ino, parent: to, name: name.clone() }).await
        };
        let Err(error) = filled.await else { return Ok(ino) };
        match self.run(Release { scope: self.scope(&Caller::root()), sid, ino, hold: None }).await {
            Ok(freed) => watch.removed(to, &name, Removed { ino: None, freed }),
            Err(left) => tracing::warn!(%ino, error = %left, "a part of a copy is left to the end of the session"),
        }
        Err(error)
    }

    /// Copies one node within the capacity of the volume.
    async fn copy_node(&self, job: &Copying<'_>, source: (Ino, &Attr), dir: Ino, place: Place) -> MetaResult<Copy> {
        let ino = Ino(self.inodes.take().await?);
        self.copy_node_as(job, source, dir, ino, place).await
    }

    async fn copy_node_as(
        &self,
        job: &Copying<'_>,
        (source, attr): (Ino, &Attr),
        dir: Ino,
        ino: Ino,
        place: Place,
    ) -> MetaResult<Copy> {
        let room = self.books.usage.reserve(&self.setting(), room_for(attr))?;
        let scope = self.scope(job.cx);
        let made = self.run(CloneNode { scope, source, ino, dir, place, how: job.how }).await?;
        drop(room);
        let (attr, mut rest) = match made {
            Cloned::Done(attr) => (attr, None),
            Cloned::Partly(attr, rest) => (attr, Some(rest)),
            Cloned::Gone => return Ok(Copy::Gone),
            Cloned::TooLarge => return Ok(Copy::TooLarge),
        };
        while let Some(end) = rest {
            job.walk.progress.go_on()?;
            rest = self.run(CopyChunks { source, ino, end }).await?;
        }
        Ok(Copy::Made(ino, attr))
    }

    /// Copies everything in the directory `source` into `copy`.
    fn copy_entries<'a>(&'a self, job: &'a Copying<'a>, source: Ino, copy: Ino) -> BoxFuture<'a, MetaResult<()>> {
        async move {
            let mut listing = Listing::of(source).with_attrs();
            while let Some(entries) = listing.next(&self.transactor).await? {
                let lent = job.walk.lend(entries.len());
                let steps = stream::iter(entries).map(|entry| async move {
                    let outcome = self.copy_entry(job, entry, copy).await;
                    job.walk.note(outcome)
                });
                let mut steps = steps.buffer_unordered(1 + lent.steps);
                let mut outcome = Ok(());
                while let Some(done) = steps.next().await {
                    outcome = outcome.and(done);
                }
                outcome?;
            }
            Ok(())
        }
        .boxed()
    }

    async fn copy_entry(&self, job: &Copying<'_>, entry: DirEntry, dir: Ino) -> MetaResult<()> {
        // An entry whose node is missing is damage that need not be copied.
        let Some(attr) = entry.attr.as_ref() else { return Ok(()) };
        if !job.walk.goes_on()? {
            return Ok(());
        }
        let made = self.copy_node(job, (entry.ino, attr), dir, Place::Within(entry.name)).await?;
        let Copy::Made(ino, made) = made else { return Ok(()) };
        job.walk.progress.add_first(1);
        if made.is_dir() { self.copy_entries(job, entry.ino, ino).await } else { Ok(()) }
    }

    /// Removes a directory without a name with everything below it.
    async fn remove_detached(&self, ino: Ino, watch: &dyn RemovalWatch) -> MetaResult<()> {
        let (root, progress) = (Caller::root(), Progress::default());
        let job = Removing { walk: Walk::new(REMOVAL_THREADS, &progress), cx: &root, skip_trash: true, watch };
        self.empty_tree(&job, ino).await?;
        self.run(RemoveDetached { ino }).await
    }

    pub(in crate::client) async fn clean_unattached(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>> {
        self.writable()?;
        let freed = FreedFiles::default();
        let left = self.engine.scan(Scan::Detached { before_secs: before.secs }, None, limit).await?;
        let mut stuck = Stuck::default();
        for (key, _) in left {
            let Key::Note(NoteKey::Detached(ino)) = key else { continue };
            match self.remove_detached(ino, &freed).await {
                Ok(()) => tracing::info!(%ino, "removed what was left of a copy"),
                // Somebody else is at it.
                Err(error) if is(&error, Errno::ENOENT) || is(&error, Errno::ENOTEMPTY) => {}
                Err(error) => stuck.note(error, || format!("inode {ino}"))?,
            }
        }
        stuck.report("copies that were not completed cannot be removed");
        Ok(freed.0.into_inner())
    }
}
