//! Directories that are listed as they are.

use std::ops::Bound;

use async_trait::async_trait;
use juicefs_core::{
    Ino, MetaResult, Name,
    listing::Directories,
    meta::{DirCursor, DirEntry, DirPage},
};

use super::MemMeta;

/// The tree, listed in the order of names.
pub(super) struct Plain<'a>(pub(super) &'a MemMeta);

#[async_trait]
impl Directories for Plain<'_> {
    async fn page(&self, dir: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        let state = self.0.state.lock();
        let after = from.map_or(Bound::Unbounded, |cursor| Bound::Excluded(cursor.0));
        let mut rest = state.dir(dir)?.entries.range((after, Bound::Unbounded));
        let mut page = DirPage { by_name: true, ..DirPage::default() };
        for (name, ino) in rest.by_ref().take(limit) {
            let attr = &state.node(*ino)?.attr;
            page.entries.push(DirEntry {
                name: Name(name.clone()),
                ino: *ino,
                kind: attr.kind,
                attr: with_attrs.then(|| attr.clone()),
            });
        }
        if rest.next().is_some() {
            page.next = page.entries.last().map(|entry| DirCursor(entry.name.0.clone()));
        }
        Ok(page)
    }
}
