//! How a directory is read whole, with each name once, whatever the engine repeats.
//!
//! An engine that keeps no order may give a name on two pages of one listing, and begin a listing anew when the
//! directory has moved to another server ([`DirPage::anew`]). Whoever counts, copies or removes what is in a directory
//! reads it by a [`Listing`], which leaves out what it has given before.

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

/// A store whose directories are read page by page.
#[async_trait]
pub trait Directories: Sync {
    /// A page of the entries of `dir` after `from` (`None`: the start), about `limit` of them. Errors are those of the
    /// store.
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
/// It gives an entry that is present all the time exactly once, and one that comes or goes meanwhile at most once.
/// Where entries come in the order of their names ([`DirPage::by_name`]) it remembers one name; elsewhere it needs some
/// 30 bytes for each name that it gave.
#[derive(Debug)]
pub struct Listing {
    dir: Ino,
    with_attrs: bool,
    page_len: usize,
    position: Position,
    given: Given,
}

#[derive(Debug)]
enum Position {
    Start,
    At(DirCursor),
    End,
}

/// What was given so far.
#[derive(Debug, Default)]
struct Given {
    /// The last name, when they come in order.
    last: Option<Name>,
    /// Hashes of all names, when they do not. They have 128 bits, and keys that nobody knows, because two names with
    /// one hash would hide a file.
    names: HashSet<u128>,
    keys: [RandomState; 2],
}

impl Listing {
    /// The entries of `dir`, without their attributes.
    #[must_use]
    pub fn of(dir: Ino) -> Self {
        Self { dir, with_attrs: false, page_len: READDIR_PAGE, position: Position::Start, given: Given::default() }
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
    /// Errors are those of the store. After one the next call asks for the same page again, and so it does after a
    /// future that was dropped: cancel safe.
    pub async fn next<D: Directories + ?Sized>(&mut self, store: &D) -> MetaResult<Option<Vec<DirEntry>>> {
        let from = match &self.position {
            Position::Start => None,
            Position::At(cursor) => Some(cursor.clone()),
            Position::End => return Ok(None),
        };
        let page = store.page(self.dir, from, self.with_attrs, self.page_len).await?;
        Ok(Some(self.take(page)))
    }

    /// All entries that were not given yet. This is for directories that are known to fit into memory.
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
        self.position = next.map_or(Position::End, Position::At);
        entries.retain(|entry| self.given.is_new(&entry.name, by_name));
        entries
    }
}

impl Given {
    /// Notes that `name` is given. Returns whether it was not given before.
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
