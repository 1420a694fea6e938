//! Listings of directories, stable while the directory changes.
//!
//! A listing numbers the entries as the metadata service gives them, page by page, and never renumbers: an entry keeps its
//! offset until the listing is begun anew at offset 0. So every entry that is present throughout is given exactly once,
//! wherever reading starts again. While a reader takes entries of the last page that is there, the next one is asked for.

mod pages;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use juicefs_core::{
    Attr, Errno, Ino, MetaError,
    meta::{DirCursor, DirPage},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::pages::{Body, EntryPages, Missing, Next, Page, Wanted, hash};
pub(crate) use self::pages::{Change, Listed};
use crate::{context::Context, fault, metrics::MetaOp};

/// How many entries the first page has. Whoever reads waits for all of it.
const PAGE_LEN: usize = 1_000;
/// How often pages become twice as long. Later ones come while the one before is read; each costs a round trip or two.
const DOUBLINGS: usize = 3;
/// An open directory.
pub(crate) struct DirHandle {
    pub(crate) ino: Ino,
    /// How many entries the first page has.
    page_len: usize,
    pages: Mutex<EntryPages>,
    /// The last attributes that are known. fstat(2) shows them when the directory is removed while it is open.
    attr: Mutex<Option<Attr>>,
    /// Held by whoever fetches, so that one does at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl DirHandle {
    pub(crate) fn new(ino: Ino) -> Arc<Self> {
        Self::with_pages(ino, PAGE_LEN)
    }

    fn with_pages(ino: Ino, page_len: usize) -> Arc<Self> {
        Arc::new(Self { ino, page_len, pages: Mutex::default(), attr: Mutex::default(), turn: Arc::default() })
    }

    /// The last attributes known.
    pub(crate) fn last_attr(&self) -> Option<Attr> {
        self.attr.lock().clone()
    }

    /// Takes note of the attributes; `None` when they are not known.
    pub(crate) fn set_last_attr(&self, attr: Option<Attr>) {
        *self.attr.lock() = attr;
    }

    /// Begins the listing anew, so that the next read shows the directory as it is then.
    pub(crate) fn rewind(&self) {
        let mut known = self.pages.lock();
        *known = EntryPages { generation: known.generation + 1, ..EntryPages::default() };
    }

    /// Reads up to `limit` entries from position `index` on. The result is empty only at the end.
    pub(crate) async fn read(
        self: &Arc<Self>,
        cx: &Arc<Context>,
        mut index: u64,
        limit: usize,
        with_attrs: bool,
    ) -> Result<Vec<Listed>, Errno> {
        let (mut out, mut turn) = (Vec::new(), None);
        loop {
            let wanted = {
                let mut known = self.pages.lock();
                match known.take_all(&mut index, limit, &mut out) {
                    Err(missing) if out.is_empty() => turn.as_ref().map(|_| known.begin(missing)),
                    // What is there is enough for now: the caller comes back.
                    _ => break,
                }
            };
            match wanted {
                Some(wanted) => {
                    let fetched = self.fetch(cx, wanted, with_attrs).await;
                    fetched.map_err(|error| fault::of_meta("listing", self.ino, &error))?;
                }
                // Whoever has the turn may bring what is missing.
                None => turn = Some(self.turn.lock().await),
            }
        }
        drop(turn);
        self.read_on(cx, with_attrs);
        Ok(out)
    }

    /// Asks for the next page, if entries of the last one are being read and nobody fetches.
    fn read_on(self: &Arc<Self>, cx: &Arc<Context>, with_attrs: bool) {
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else { return };
        let Some(wanted) = self.pages.lock().begin_next() else { return };
        let (dir, context) = (Arc::clone(self), Arc::clone(cx));
        cx.tasks.spawn_until_stopped("list-ahead", async move {
            // Who reads on asks again, and learns of the error.
            let _ = dir.fetch(&context, wanted, with_attrs).await;
            drop(turn);
        });
    }

    async fn fetch(&self, cx: &Context, wanted: Wanted, with_attrs: bool) -> Result<(), MetaError> {
        let Wanted { missing, generation } = wanted;
        let fetched = match &missing {
            Missing::Next(next) => self.fetch_next(cx, next, generation, with_attrs).await,
            Missing::Page(at) => self.fetch_again(cx, *at, generation, with_attrs).await,
        };
        if fetched.is_err()
            && let Some(mut known) = self.pages_of(generation)
        {
            known.meanwhile = None;
        }
        fetched
    }

    /// The pages, unless the listing was begun anew since.
    fn pages_of(&self, generation: u64) -> Option<MutexGuard<'_, EntryPages>> {
        let known = self.pages.lock();
        (known.generation == generation).then_some(known)
    }

    async fn page(
        &self,
        cx: &Context,
        from: Option<DirCursor>,
        with_attrs: bool,
        limit: usize,
    ) -> Result<DirPage, MetaError> {
        let call = cx.meta.readdir(self.ino, from.clone(), with_attrs, limit);
        match cx.timed(MetaOp::Readdir, call).await {
            Err(MetaError::Posix(Errno::EACCES)) if with_attrs => {
                cx.timed(MetaOp::Readdir, cx.meta.readdir(self.ino, from, false, limit)).await
            }
            answer => answer,
        }
    }

    async fn fetch_next(&self, cx: &Context, next: &Next, generation: u64, with_attrs: bool) -> Result<(), MetaError> {
        let from = match next {
            Next::Start | Next::End => None,
            Next::From(cursor) => Some(cursor.clone()),
        };
        let Some(pages) = self.pages_of(generation).map(|known| known.pages.len()) else { return Ok(()) };
        let (since, fetched) = (cx.stamps.now(), Instant::now());
        let page = self.page(cx, from.clone(), with_attrs, self.page_len << pages.min(DOUBLINGS)).await?;
        let Some(mut known) = self.pages_of(generation) else { return Ok(()) };
        let single = known.pages.is_empty() && page.next.is_none();
        known.next = page.next.map_or(Next::End, Next::From);
        let mut entries = page.entries;
        if !single {
            entries.retain(|entry| known.names.insert(hash(entry.name.as_bytes())));
        }
        if !entries.is_empty() {
            let first = known.pages.last().map_or(0, |page| page.first + page.names.len() as u64);
            let names = entries.iter().map(|entry| hash(entry.name.as_bytes())).collect();
            known.pages.push(Page { from, first, names, body: None });
            let entries = entries.into_iter().map(Some).collect();
            let at = known.pages.len() - 1;
            known.fill(at, Body { entries, places: None, since, fetched });
        }
        known.catch_up();
        Ok(())
    }

    /// Reads a page again whose entries were dropped. Names that came since are left out, and names that went leave a
    /// gap. A page with gaps ends where the entries of other pages begin, however many names came between its own.
    async fn fetch_again(&self, cx: &Context, at: usize, generation: u64, with_attrs: bool) -> Result<(), MetaError> {
        let (mut from, len, places) = {
            let Some(known) = self.pages_of(generation) else { return Ok(()) };
            let page = &known.pages[at];
            let places: HashMap<u64, usize> =
                page.names.iter().enumerate().map(|(place, name)| (*name, place)).collect();
            (page.from.clone(), page.names.len(), places)
        };
        let (since, fetched) = (cx.stamps.now(), Instant::now());
        let mut entries = vec![None; len];
        let (mut found, mut beyond, mut anew) = (0, 0, false);
        // A listing that began anew gives the entries in another order: those of this page are anywhere.
        while found < places.len() && (anew || beyond < 2 * len.max(self.page_len)) {
            let page = self.page(cx, from.take(), with_attrs, places.len()).await?;
            anew |= page.anew;
            let Some(known) = self.pages_of(generation) else { return Ok(()) };
            for entry in page.entries {
                let name = hash(entry.name.as_bytes());
                if let Some(place) = places.get(&name) {
                    found += usize::from(entries[*place].is_none());
                    entries[*place] = Some(entry);
                } else if known.names.contains(&name) {
                    beyond += 1;
                }
            }
            drop(known);
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        let Some(mut known) = self.pages_of(generation) else { return Ok(()) };
        known.fill(at, Body { entries, places: Some(places), since, fetched });
        known.catch_up();
        Ok(())
    }

    /// Takes note of what became of a name of the directory.
    pub(crate) fn note(&self, name: &Bytes, change: Change) {
        let mut known = self.pages.lock();
        known.apply(name, change);
        if let Some(meanwhile) = &mut known.meanwhile {
            meanwhile.push((name.clone(), change));
        }
    }
}
