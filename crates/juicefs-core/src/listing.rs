//! Reading a directory whole: each name once, whatever the engine repeats.
//!
//! An engine that keeps no order may give a name on two pages of one listing, and begin a listing anew when the directory has
//! moved to another server ([`DirPage::anew`]). Whoever counts, copies or removes what is in a directory reads it by a
//! [`Listing`], which leaves out what it has given before.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use async_trait::async_trait;

use crate::{
    error::MetaResult,
    ids::{Ino, Name},
    limits::READDIR_PAGE,
    meta::{DirCursor, DirEntry, DirPage, Meta},
};

/// Where directories are read page by page.
#[async_trait]
pub trait Directories: Sync {
    /// A page of the entries of `dir` after `from` (`None`: the start), about `limit` of them. Errors are those of the store.
    async fn page(&self, dir: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage>;
}

#[async_trait]
impl Directories for dyn Meta + '_ {
    async fn page(&self, dir: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        self.readdir(dir, from, with_attrs, limit).await
    }
}

/// A directory that is being read.
///
/// An entry that is present during all of it is given exactly once, one that comes or goes meanwhile at most once. Where
/// entries come in the order of their names ([`DirPage::by_name`]) it remembers one name; elsewhere some 30 bytes for each
/// name that it gave.
#[derive(Debug)]
pub struct Listing {
    dir: Ino,
    with_attrs: bool,
    page_len: usize,
    place: Place,
    given: Given,
}

#[derive(Debug)]
enum Place {
    Start,
    At(DirCursor),
    End,
}

/// What was given so far.
#[derive(Debug, Default)]
struct Given {
    /// The last name, when they come in order.
    last: Option<Name>,
    /// Hashes of all names, when they do not. Of 128 bits, and by keys that nobody knows: two names that meet in one would hide
    /// a file.
    names: HashSet<u128>,
    keys: [RandomState; 2],
}

impl Listing {
    /// The entries of `dir`, without their attributes.
    #[must_use]
    pub fn of(dir: Ino) -> Self {
        Self { dir, with_attrs: false, page_len: READDIR_PAGE, place: Place::Start, given: Given::default() }
    }

    /// The same entries with their attributes.
    #[must_use]
    pub fn with_attrs(self) -> Self {
        Self { with_attrs: true, ..self }
    }

    /// The same entries in pages of about `len`.
    #[must_use]
    pub fn by(self, len: usize) -> Self {
        Self { page_len: len, ..self }
    }

    /// The next entries, `None` at the end. A page may be empty when more follow, or when nothing is in the directory.
    ///
    /// Errors are those of the store; the same page is asked for again by the next call. Cancel safe likewise.
    pub async fn next<D: Directories + ?Sized>(&mut self, store: &D) -> MetaResult<Option<Vec<DirEntry>>> {
        let from = match &self.place {
            Place::Start => None,
            Place::At(cursor) => Some(cursor.clone()),
            Place::End => return Ok(None),
        };
        let page = store.page(self.dir, from, self.with_attrs, self.page_len).await?;
        Ok(Some(self.take(page)))
    }

    /// All entries that were not given yet. For directories that are known to fit into memory.
    ///
    /// Errors are those of the store.
    pub async fn rest<D: Directories + ?Sized>(mut self, store: &D) -> MetaResult<Vec<DirEntry>> {
        let mut entries = Vec::new();
        while let Some(page) = self.next(store).await? {
            entries.extend(page);
        }
        Ok(entries)
    }

    fn take(&mut self, page: DirPage) -> Vec<DirEntry> {
        let DirPage { mut entries, next, anew: _, by_name } = page;
        self.place = next.map_or(Place::End, Place::At);
        entries.retain(|entry| self.given.is_new(&entry.name, by_name));
        entries
    }
}

impl Given {
    /// Whether `name` was not given before; it is now.
    fn is_new(&mut self, name: &Name, by_name: bool) -> bool {
        if by_name {
            // All before the last one were given, also to a listing that begins anew.
            let new = self.last.as_ref().is_none_or(|last| last < name);
            if new {
                self.last = Some(name.clone());
            }
            return new;
        }
        let [high, low] = &self.keys;
        let half = |keys: &RandomState| u128::from(keys.hash_one(name.as_bytes()));
        self.names.insert(half(high) << 64 | half(low))
    }
}

#[cfg(test)]
mod tests;
