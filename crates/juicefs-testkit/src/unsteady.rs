//! Listings of the worst kind that an engine may give: in no order, with names twice, and begun anew in the middle.

use std::cmp::Reverse;

use bytes::Bytes;
use juicefs_core::{
    Ino, MetaResult, Name,
    listing::Directories,
    meta::{DirCursor, DirPage},
};

/// How many names of the page before a page repeats.
const REPEATED: usize = 2;

/// How listings go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Unsteady {
    /// How many new names a page has. If the names of a directory fill whole pages, the last page has only what it repeats.
    pub page_len: usize,
    /// After so many pages the cursor means nothing any more, and the listing begins anew, once, in another order. 0
    /// stands for never.
    pub anew_after: usize,
}

/// Where a listing is: whether it has begun anew, how many pages it gave since, and its last new name.
struct Position {
    second: bool,
    pages: usize,
    last: Name,
}

impl Position {
    fn read(cursor: &DirCursor) -> Self {
        let bytes = &cursor.0;
        Self { second: bytes[0] == 1, pages: usize::from(bytes[1]), last: Name(bytes.slice(2..)) }
    }

    fn cursor(&self) -> DirCursor {
        let pages = u8::try_from(self.pages).expect("directories of tests are small");
        let head = [u8::from(self.second), pages];
        DirCursor(Bytes::from([&head, self.last.as_bytes()].concat()))
    }
}

impl Unsteady {
    /// A page of what `inner` holds. Entries that are there during the whole listing are on one of its pages at least.
    ///
    /// Errors are those of `inner`.
    pub async fn page<D: Directories + ?Sized>(
        &self,
        inner: &D,
        dir: Ino,
        from: Option<DirCursor>,
        with_attrs: bool,
        limit: usize,
    ) -> MetaResult<DirPage> {
        let mut entries = inner.page(dir, None, with_attrs, usize::MAX).await?.entries;
        let from = from.as_ref().map(Position::read);
        let anew = from.as_ref().is_some_and(|from| !from.second && from.pages == self.anew_after);
        let second = anew || from.as_ref().is_some_and(|from| from.second);
        let from = from.filter(|_| !anew);
        if second {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        } else {
            entries.sort_by(|a, b| Reverse(&a.name).cmp(&Reverse(&b.name)));
        }
        let given = |name: &Name| {
            from.as_ref().is_some_and(|from| if second { *name <= from.last } else { *name >= from.last })
        };
        let at = entries.iter().position(|entry| !given(&entry.name)).unwrap_or(entries.len());
        let len = self.page_len.min(limit).max(1);
        let new = at..entries.len().min(at + len);
        let full = new.len() == len;
        let pages = from.map_or(0, |from| from.pages) + 1;
        let next = full.then(|| Position { second, pages, last: entries[new.end - 1].name.clone() }.cursor());
        let mut shown = entries[at.saturating_sub(REPEATED)..new.end].to_vec();
        // Within a page too.
        shown.extend(shown.first().cloned());
        Ok(DirPage { entries: shown, next, anew, by_name: false })
    }
}
