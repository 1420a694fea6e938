//! Listings of directories, stable while the directory changes.
//!
//! A listing numbers the entries as the metadata service gives them, page by page, and never renumbers: an entry keeps its
//! offset until the listing is begun anew at offset 0. So every entry that is present throughout is given exactly once,
//! wherever reading starts again. Of pages that were left behind only hashes of the names stay (some 24 bytes an entry); coming
//! back to one reads it again and puts each name into its old place.
//!
//! While a reader takes entries of the last page that is there, the next one is asked for.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use juicefs_core::{
    Attr, Errno, FileType, Ino, MetaError, Name,
    meta::{DirCursor, DirEntry, DirPage},
    stamps::Moment,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::{context::Context, fault, metrics::MetaOp};

/// Entries of the first page. Whoever reads waits for all of it.
const PAGE_LEN: usize = 1_000;
/// How often pages become twice as long. Later ones come while the one before is read; each costs a round trip or two.
const DOUBLINGS: usize = 3;
/// Pages of a listing that keep their entries: the one that is read, the one before, and the next.
const PAGES_KEPT: usize = 3;

/// An open directory.
pub(crate) struct DirHandle {
    pub(crate) ino: Ino,
    /// Entries of the first page.
    page_len: usize,
    listing: Mutex<Listing>,
    /// The last attributes known: what fstat(2) shows when the directory is removed while it is open.
    attr: Mutex<Option<Attr>>,
    /// One at a time fetches.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// An entry with what is needed to judge how fresh it is.
pub(crate) struct Listed {
    /// Position in the listing.
    pub(crate) index: u64,
    pub(crate) entry: DirEntry,
    /// Taken before the entry was asked for.
    pub(crate) since: Moment,
    /// When it was asked for.
    pub(crate) fetched: Instant,
}

#[derive(Default)]
struct Listing {
    /// How often it was begun anew. What was asked for before that does not belong to it.
    generation: u64,
    pages: Vec<Page>,
    /// Hashes of all names of a listing of several pages: a store may give an entry twice while others are removed.
    names: HashSet<u64>,
    next: Next,
    /// Pages with entries, the latest used last.
    bodies: Vec<usize>,
    /// Changes made here while a page is on its way.
    meanwhile: Option<Vec<(Bytes, Change)>>,
}

#[derive(Default, Clone)]
enum Next {
    #[default]
    Start,
    From(DirCursor),
    End,
}

struct Page {
    from: Option<DirCursor>,
    first: u64,
    names: Box<[u64]>,
    body: Option<Body>,
}

struct Body {
    /// `None` where an entry is gone.
    entries: Vec<Option<DirEntry>>,
    /// Places by hash of the name, made when first needed.
    places: Option<HashMap<u64, usize>>,
    since: Moment,
    fetched: Instant,
}

/// What became of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// It is gone.
    Gone,
    /// It names this node now.
    Is(Ino, FileType),
}

/// What a reader must do before it can go on.
enum Missing {
    Next(Next),
    Page(usize),
}

/// What is being fetched.
struct Wanted {
    missing: Missing,
    generation: u64,
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl DirHandle {
    pub(crate) fn new(ino: Ino) -> Arc<Self> {
        Self::with_pages(ino, PAGE_LEN)
    }

    fn with_pages(ino: Ino, page_len: usize) -> Arc<Self> {
        Arc::new(Self { ino, page_len, listing: Mutex::default(), attr: Mutex::default(), turn: Arc::default() })
    }

    /// Begins anew: the next read shows the directory as it is then.
    pub(crate) fn rewind(&self) {
        let mut listing = self.listing.lock();
        *listing = Listing { generation: listing.generation + 1, ..Listing::default() };
    }

    /// Up to `limit` entries from position `index` on; empty only at the end.
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
                let mut listing = self.listing.lock();
                match listing.take_all(&mut index, limit, &mut out) {
                    Err(missing) if out.is_empty() => turn.as_ref().map(|_| listing.begin(missing)),
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
        let Some(wanted) = self.listing.lock().begin_next() else { return };
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
            && let Some(mut listing) = self.listing_of(generation)
        {
            listing.meanwhile = None;
        }
        fetched
    }

    /// The listing, unless it was begun anew since.
    fn listing_of(&self, generation: u64) -> Option<MutexGuard<'_, Listing>> {
        let listing = self.listing.lock();
        (listing.generation == generation).then_some(listing)
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
        let Some(pages) = self.listing_of(generation).map(|listing| listing.pages.len()) else { return Ok(()) };
        let (since, fetched) = (cx.stamps.now(), Instant::now());
        let page = self.page(cx, from.clone(), with_attrs, self.page_len << pages.min(DOUBLINGS)).await?;
        let Some(mut listing) = self.listing_of(generation) else { return Ok(()) };
        let single = listing.pages.is_empty() && page.next.is_none();
        listing.next = page.next.map_or(Next::End, Next::From);
        let mut entries = page.entries;
        if !single {
            entries.retain(|entry| listing.names.insert(hash(entry.name.as_bytes())));
        }
        if !entries.is_empty() {
            let first = listing.pages.last().map_or(0, |page| page.first + page.names.len() as u64);
            let names = entries.iter().map(|entry| hash(entry.name.as_bytes())).collect();
            listing.pages.push(Page { from, first, names, body: None });
            let entries = entries.into_iter().map(Some).collect();
            let at = listing.pages.len() - 1;
            listing.fill(at, Body { entries, places: None, since, fetched });
        }
        listing.catch_up();
        Ok(())
    }

    /// Reads a page again whose entries were dropped. Names that came since are left out, names that went leave a gap: a
    /// page with gaps ends where the entries of other pages begin, however many came between its own.
    async fn fetch_again(&self, cx: &Context, at: usize, generation: u64, with_attrs: bool) -> Result<(), MetaError> {
        let (mut from, len, places) = {
            let Some(listing) = self.listing_of(generation) else { return Ok(()) };
            let page = &listing.pages[at];
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
            let Some(listing) = self.listing_of(generation) else { return Ok(()) };
            for entry in page.entries {
                let name = hash(entry.name.as_bytes());
                if let Some(place) = places.get(&name) {
                    found += usize::from(entries[*place].is_none());
                    entries[*place] = Some(entry);
                } else if listing.names.contains(&name) {
                    beyond += 1;
                }
            }
            drop(listing);
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        let Some(mut listing) = self.listing_of(generation) else { return Ok(()) };
        listing.fill(at, Body { entries, places: Some(places), since, fetched });
        listing.catch_up();
        Ok(())
    }

    fn note(&self, name: &Bytes, change: Change) {
        let mut listing = self.listing.lock();
        listing.apply(name, change);
        if let Some(meanwhile) = &mut listing.meanwhile {
            meanwhile.push((name.clone(), change));
        }
    }
}

impl Listing {
    /// Notes that what is missing is being fetched.
    fn begin(&mut self, missing: Missing) -> Wanted {
        self.meanwhile = Some(Vec::new());
        Wanted { missing, generation: self.generation }
    }

    /// The same for the page after the last one, if that was used last.
    fn begin_next(&mut self) -> Option<Wanted> {
        let is_at_last = self.bodies.last().is_some_and(|at| at + 1 == self.pages.len());
        match &self.next {
            next @ Next::From(_) if is_at_last => {
                let missing = Missing::Next(next.clone());
                Some(self.begin(missing))
            }
            _ => None,
        }
    }

    /// Takes up to `limit` entries from `index` on, as far as they are there.
    fn take_all(&mut self, index: &mut u64, limit: usize, out: &mut Vec<Listed>) -> Result<(), Missing> {
        while out.len() < limit && self.take(index, limit - out.len(), out)? {}
        Ok(())
    }

    /// Takes entries from `index` on out of one page. `Ok(false)` at the end of the directory.
    fn take(&mut self, index: &mut u64, limit: usize, out: &mut Vec<Listed>) -> Result<bool, Missing> {
        let at = self.pages.partition_point(|page| page.first + page.names.len() as u64 <= *index);
        let Some(page) = self.pages.get(at) else {
            return match &self.next {
                Next::End => Ok(false),
                next => Err(Missing::Next(next.clone())),
            };
        };
        let Some(body) = &page.body else { return Err(Missing::Page(at)) };
        let skip = usize::try_from(*index - page.first).unwrap_or(usize::MAX);
        let mut left = limit;
        for entry in &body.entries[skip..] {
            if left == 0 {
                break;
            }
            if let Some(entry) = entry {
                left -= 1;
                out.push(Listed { index: *index, entry: entry.clone(), since: body.since, fetched: body.fetched });
            }
            *index += 1;
        }
        if self.bodies.last() != Some(&at) {
            self.bodies.retain(|body| *body != at);
            self.bodies.push(at);
        }
        Ok(true)
    }

    fn fill(&mut self, at: usize, body: Body) {
        self.pages[at].body = Some(body);
        self.bodies.retain(|body| *body != at);
        self.bodies.push(at);
        while self.bodies.len() > PAGES_KEPT {
            let old = self.bodies.remove(0);
            self.pages[old].body = None;
        }
    }

    /// Applies what changed here while a page was on its way: the page may show the time before.
    fn catch_up(&mut self) {
        for (name, change) in self.meanwhile.take().unwrap_or_default() {
            self.apply(&name, change);
        }
    }

    fn apply(&mut self, name: &Bytes, change: Change) {
        let key = hash(name);
        for at in &self.bodies {
            let page = &mut self.pages[*at];
            let Some(body) = &mut page.body else { continue };
            let places = body
                .places
                .get_or_insert_with(|| page.names.iter().enumerate().map(|(place, name)| (*name, place)).collect());
            if let Some(place) = places.get(&key) {
                body.entries[*place] = match change {
                    Change::Gone => None,
                    Change::Is(ino, kind) => Some(DirEntry { name: Name(name.clone()), ino, kind, attr: None }),
                };
            }
        }
    }
}

/// Directories whose attributes were seen lately.
const RECENT: usize = 64;

/// Directories that are being listed.
#[derive(Default)]
pub(crate) struct OpenDirs {
    dirs: Mutex<HashMap<Ino, Vec<Arc<DirHandle>>>>,
    count: AtomicUsize,
    /// Attributes seen before the directory is opened; a directory is looked up just before that.
    recent: Mutex<HashMap<u64, (Ino, Attr)>>,
}

impl OpenDirs {
    pub(crate) fn add(&self, dir: &Arc<DirHandle>) {
        let recent = self.recent.lock().get(&(dir.ino.0 % RECENT as u64)).cloned();
        *dir.attr.lock() = recent.filter(|(ino, _)| *ino == dir.ino).map(|(_, attr)| attr);
        self.dirs.lock().entry(dir.ino).or_default().push(Arc::clone(dir));
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes note of the attributes of a directory.
    pub(crate) fn seen(&self, ino: Ino, attr: &Attr) {
        self.recent.lock().insert(ino.0 % RECENT as u64, (ino, attr.clone()));
        if self.count.load(Ordering::Acquire) > 0 {
            for dir in self.dirs.lock().get(&ino).into_iter().flatten() {
                *dir.attr.lock() = Some(attr.clone());
            }
        }
    }

    /// Attributes of a directory that was removed while it is open here.
    pub(crate) fn removed_attr(&self, ino: Ino) -> Option<Attr> {
        let dirs = self.dirs.lock();
        let attr = dirs.get(&ino)?.iter().find_map(|dir| dir.attr.lock().clone())?;
        Some(Attr { nlink: 0, ..attr })
    }

    pub(crate) fn remove(&self, dir: &Arc<DirHandle>) {
        let mut dirs = self.dirs.lock();
        if let Some(handles) = dirs.get_mut(&dir.ino) {
            handles.retain(|handle| !Arc::ptr_eq(handle, dir));
            if handles.is_empty() {
                dirs.remove(&dir.ino);
            }
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Tells everyone who lists `dir` what became of `name`.
    pub(crate) fn changed(&self, dir: Ino, name: &[u8], change: Change) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let handles = self.dirs.lock().get(&dir).cloned().unwrap_or_default();
        if handles.is_empty() {
            return;
        }
        let name = Bytes::copy_from_slice(name);
        for handle in handles {
            handle.note(&name, change);
        }
    }
}

#[cfg(test)]
mod tests;
