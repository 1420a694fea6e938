//! The trash: which hourly directory removed files go to, and emptying those that are old.

use std::collections::VecDeque;

use juicefs_core::{
    Caller,
    attr::{FileType, Timestamp},
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::{Ino, Name},
    listing::Listing,
    meta::{DirEntry, Freed, Removed},
};

use super::Client;
use crate::{
    ops::{
        remove::Removal,
        rmdir::Rmdir,
        trash::{MakeHourly, hour_of, hourly_name, parse_hourly},
        unlink::Unlink,
    },
    record::Counter,
};

/// Entries of an hourly directory that are looked at between two checks of the limit.
const CLEAN_PAGE: usize = 256;

/// What an emptying has done so far.
struct Sweep {
    freed: Vec<Freed>,
    left: usize,
    stuck: Stuck,
}

/// How far a directory was emptied.
enum Emptied {
    /// Nothing is in it.
    Whole,
    /// Something is in it that cannot be removed.
    Partly,
    /// The limit came first.
    Limit,
}

/// A directory that is being emptied.
struct OpenDirectory {
    ino: Ino,
    /// Its own entry.
    place: Option<(Ino, Name)>,
    /// Entries that were listed.
    page: VecDeque<DirEntry>,
    /// Gives all others.
    listing: Listing,
    /// Something in it cannot be removed.
    stuck: bool,
}

impl OpenDirectory {
    fn new(ino: Ino, place: Option<(Ino, Name)>) -> Self {
        Self { ino, place, page: VecDeque::new(), listing: Listing::of(ino).by(CLEAN_PAGE), stuck: false }
    }
}

/// What a round of background work could not do: it goes on past that, and tells of it once.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    count: usize,
    first: Option<(String, MetaError)>,
}

impl Stuck {
    /// Notes a failure that is about one record. One that the next record would meet too is returned.
    pub(super) fn note(&mut self, error: MetaError, what: impl FnOnce() -> String) -> MetaResult<()> {
        match error {
            MetaError::Posix(_) | MetaError::Corrupt { .. } | MetaError::Conflict(_) => {
                self.count += 1;
                self.first.get_or_insert_with(|| (what(), error));
                Ok(())
            }
            MetaError::Unavailable(_) | MetaError::Fenced | MetaError::Setting(_) | MetaError::Unsupported(_) => {
                Err(error)
            }
        }
    }

    /// Says what was left, if anything was.
    pub(super) fn report(self, what: &str) {
        if let Some((first, error)) = self.first {
            tracing::warn!(count = self.count, first, %error, "{what}; they are left to a later round");
        }
    }
}

impl Client {
    /// The hourly directory that takes what is removed from `parent` now; `None` when nothing does.
    pub(super) async fn trash_for(&self, parent: Ino) -> MetaResult<Option<Ino>> {
        if parent.is_trash() || !self.format.borrow().has_trash() {
            return Ok(None);
        }
        let now = self.config.clock.now();
        let hour = hour_of(now);
        let known = *self.hourly_trash.lock();
        if let Some((_, ino)) = known.filter(|(known, _)| *known == hour) {
            return Ok(Some(ino));
        }
        let name = hourly_name(hour);
        let ino = match self.transactor.lookup(Ino::TRASH_ROOT, name.as_bytes()).await? {
            Some((edge, _)) => edge.ino,
            None => {
                let number = self.engine.counter_add(Counter::NextTrash, 1).await?;
                let number = u64::try_from(number).map_err(|_| MetaError::Corrupt {
                    what: "counter NextTrash".to_owned(),
                    why: format!("it is {number}"),
                })?;
                self.run(MakeHourly { name, ino: Ino(Ino::TRASH_ROOT.0 + number), now }).await?
            }
        };
        *self.hourly_trash.lock() = Some((hour, ino));
        Ok(Some(ino))
    }

    /// Empties hourly directories older than `before`, the oldest first, until about `limit` entries are gone. Returns
    /// data to delete, and whether something is left that another call may remove. What cannot be removed is reported and
    /// left to a later round.
    pub(super) async fn empty_trash(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<Freed>, bool)> {
        self.writable()?;
        let mut sweep = Sweep { freed: Vec::new(), left: limit.max(1), stuck: Stuck::default() };
        let mut more = false;
        for (hour, name, ino) in self.hourly_directories().await? {
            if hour * 3600 >= before.secs {
                break;
            }
            match self.empty_directory(ino, &mut sweep).await? {
                Emptied::Whole => {
                    self.sweep_entry(Ino::TRASH_ROOT, &name, FileType::Directory, &mut sweep).await?;
                }
                Emptied::Partly => {}
                Emptied::Limit => {
                    more = true;
                    break;
                }
            }
        }
        sweep.stuck.report("entries of the trash cannot be removed");
        Ok((sweep.freed, more))
    }

    async fn hourly_directories(&self) -> MetaResult<Vec<(i64, Name, Ino)>> {
        let mut found = Vec::new();
        for entry in Listing::of(Ino::TRASH_ROOT).rest(&self.transactor).await? {
            match parse_hourly(&entry.name) {
                Some(hour) => found.push((hour, entry.name, entry.ino)),
                None => tracing::warn!(name = %entry.name, "an entry of the trash is no hour"),
            }
        }
        found.sort_by_key(|(_, _, ino)| *ino);
        Ok(found)
    }

    /// Removes what is below `top`, children before their directory.
    async fn empty_directory(&self, top: Ino, sweep: &mut Sweep) -> MetaResult<Emptied> {
        let mut open = vec![OpenDirectory::new(top, None)];
        while let Some(dir) = open.last_mut() {
            if let Some(DirEntry { name, ino, kind, .. }) = dir.page.pop_front() {
                if sweep.left == 0 {
                    return Ok(Emptied::Limit);
                }
                let parent = dir.ino;
                if kind == FileType::Directory && self.has_entries(ino).await? {
                    open.push(OpenDirectory::new(ino, Some((parent, name))));
                } else {
                    let gone = self.sweep_entry(parent, &name, kind, sweep).await?;
                    dir.stuck |= !gone;
                }
                continue;
            }
            if let Some(entries) = dir.listing.next(&self.transactor).await? {
                dir.page = entries.into();
                continue;
            }
            let (mut stuck, place) = (dir.stuck, dir.place.take());
            open.pop();
            if let (false, Some((parent, name))) = (stuck, place) {
                stuck = !self.sweep_entry(parent, &name, FileType::Directory, sweep).await?;
            }
            match open.last_mut() {
                Some(above) => above.stuck |= stuck,
                None if stuck => return Ok(Emptied::Partly),
                None => {}
            }
        }
        Ok(Emptied::Whole)
    }

    async fn has_entries(&self, ino: Ino) -> MetaResult<bool> {
        let first = Listing::of(ino).by(1).next(&self.transactor).await?;
        Ok(first.is_some_and(|entries| !entries.is_empty()))
    }

    /// Removes one entry, and tells whether it went; one that is gone, or was restored meanwhile, is none of our business any
    /// more.
    async fn sweep_entry(&self, parent: Ino, name: &Name, kind: FileType, sweep: &mut Sweep) -> MetaResult<bool> {
        match self.remove_trashed(parent, name, kind).await {
            Ok(removed) => sweep.freed.extend(removed.freed),
            Err(MetaError::Posix(Errno::ENOENT | Errno::ENOTEMPTY)) => {}
            Err(error) => {
                sweep.stuck.note(error, || format!("{name} in {parent}"))?;
                return Ok(false);
            }
        }
        sweep.left = sweep.left.saturating_sub(1);
        Ok(true)
    }

    async fn remove_trashed(&self, parent: Ino, name: &Name, kind: FileType) -> MetaResult<Removed> {
        let scope = self.scope(&Caller::root());
        let removal = Removal { trash: None, opens: self.opens.hold(), keep: false };
        let name = name.clone();
        match kind {
            FileType::Directory => self.run(Rmdir { scope, parent, name, removal }).await,
            _ => self.run(Unlink { scope, parent, name, removal }).await,
        }
    }
}
