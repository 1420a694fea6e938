//! Operations on whole trees, one node after another.

use std::{sync::atomic::Ordering, time::Duration};

use juicefs_core::{
    Caller, Ino, Meta, MetaResult, Name,
    listing::Directories,
    tree::{Progress, RemovalWatch, Summary, TreeRemoval},
};

use super::{MemMeta, listing::Plain};

impl MemMeta {
    /// Removes a name and everything below it, the leaves first.
    pub(super) async fn remove_all(
        &self,
        cx: &Caller,
        (parent, name): (Ino, &[u8]),
        how: TreeRemoval,
        watch: &dyn RemovalWatch,
        progress: &Progress,
    ) -> MetaResult<()> {
        let mut todo = vec![(parent, Name::new(name), false)];
        while let Some((parent, name, emptied)) = todo.pop() {
            progress.go_on()?;
            let (ino, attr) = self.lookup(cx, parent, name.as_bytes()).await?;
            let removed = if !attr.is_dir() {
                self.unlink(cx, parent, name.as_bytes(), how.skip_trash).await?
            } else if emptied {
                self.rmdir(cx, parent, name.as_bytes(), how.skip_trash).await?
            } else {
                todo.push((parent, name, true));
                let page = Plain(self).page(ino, None, false, usize::MAX).await?;
                todo.extend(page.entries.into_iter().map(|entry| (ino, entry.name, false)));
                continue;
            };
            progress.add_first(1);
            watch.removed(parent, &name, removed);
        }
        Ok(())
    }

    /// Counts one node alone, and slowly when a test holds it up: it goes on until it is stopped or let go.
    pub(super) async fn count(&self, ino: Ino, progress: &Progress) -> MetaResult<Summary> {
        let attr = self.getattr(ino).await?;
        self.note("summarize", ino)?;
        while self.held.load(Ordering::Acquire) {
            progress.go_on()?;
            progress.add_first(1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (files, dirs) = if attr.is_dir() { (0, 1) } else { (1, 0) };
        Ok(Summary {
            length_bytes: if attr.is_dir() { 0 } else { attr.length },
            size_bytes: attr.used_space(),
            files,
            dirs,
        })
    }
}
