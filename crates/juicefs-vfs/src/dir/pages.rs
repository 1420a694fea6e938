//! The pages of a listing: which entries there are, at which offsets, and what changed since they were read.
//!
//! Of pages that were left behind only hashes of the names stay, some 24 bytes an entry. A reader who comes back to
//! such a page reads it again, and each name gets its old place.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;
use juicefs_core::{
    FileType, Ino, Name,
    meta::{DirCursor, DirEntry},
    stamps::Moment,
};
use tokio::time::Instant;

/// How many pages of a listing keep their entries: the one that is read, the one before, and the next.
pub(super) const PAGES_KEPT: usize = 3;

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

/// The entries of a listing, as far as they were read.
#[derive(Default)]
pub(super) struct EntryPages {
    /// How often the listing was begun anew. What was asked for before does not belong to it.
    pub(super) generation: u64,
    pub(super) pages: Vec<Page>,
    /// Hashes of all names, if there are several pages: a store may give an entry twice while others are removed.
    pub(super) names: HashSet<u64>,
    pub(super) next: Next,
    /// Pages with entries, the latest used last.
    pub(super) bodies: Vec<usize>,
    /// Changes made here while a page is on its way.
    pub(super) meanwhile: Option<Vec<(Bytes, Change)>>,
}

/// Where the page after the last one begins.
#[derive(Default, Clone)]
pub(super) enum Next {
    #[default]
    Start,
    From(DirCursor),
    End,
}

/// Entries that came together.
pub(super) struct Page {
    pub(super) from: Option<DirCursor>,
    pub(super) first: u64,
    pub(super) names: Box<[u64]>,
    pub(super) body: Option<Body>,
}

/// The entries of a page themselves.
pub(super) struct Body {
    /// `None` where an entry is gone.
    pub(super) entries: Vec<Option<DirEntry>>,
    /// The places of names by their hash. The map is made when it is first needed.
    pub(super) places: Option<HashMap<u64, usize>>,
    pub(super) since: Moment,
    pub(super) fetched: Instant,
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
pub(super) enum Missing {
    Next(Next),
    Page(usize),
}

/// What is being fetched.
pub(super) struct Wanted {
    pub(super) missing: Missing,
    pub(super) generation: u64,
}

/// The hash by which a listing knows a name.
pub(super) fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl EntryPages {
    /// Notes that what is missing is being fetched.
    pub(super) fn begin(&mut self, missing: Missing) -> Wanted {
        self.meanwhile = Some(Vec::new());
        Wanted { missing, generation: self.generation }
    }

    /// Notes that the page after the last one is being fetched, if the last one was used last.
    pub(super) fn begin_next(&mut self) -> Option<Wanted> {
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
    pub(super) fn take_all(&mut self, index: &mut u64, limit: usize, out: &mut Vec<Listed>) -> Result<(), Missing> {
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

    pub(super) fn fill(&mut self, at: usize, body: Body) {
        self.pages[at].body = Some(body);
        self.bodies.retain(|body| *body != at);
        self.bodies.push(at);
        while self.bodies.len() > PAGES_KEPT {
            let old = self.bodies.remove(0);
            self.pages[old].body = None;
        }
    }

    /// Applies what changed here while a page was on its way, because the page may show the time before.
    pub(super) fn catch_up(&mut self) {
        for (name, change) in self.meanwhile.take().unwrap_or_default() {
            self.apply(&name, change);
        }
    }

    pub(super) fn apply(&mut self, name: &Bytes, change: Change) {
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
