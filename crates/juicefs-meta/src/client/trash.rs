//! The trash: which hourly directory removed files go to, and emptying those that are old.

use juicefs_core::{
    Caller,
    attr::{FileType, Timestamp},
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::{Ino, Name},
    limits::READDIR_PAGE,
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
        let ino = match self.engine.lookup(Ino::TRASH_ROOT, name.as_bytes()).await? {
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
    /// data to delete, and whether something is left.
    pub(super) async fn empty_trash(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<Freed>, bool)> {
        self.writable()?;
        let mut sweep = Sweep { freed: Vec::new(), left: limit.max(1) };
        for (hour, name, ino) in self.hourly_directories().await? {
            if hour * 3600 >= before.secs {
                break;
            }
            if !self.empty_directory(ino, &mut sweep).await? {
                return Ok((sweep.freed, true));
            }
            match self.remove_trashed(Ino::TRASH_ROOT, &name, FileType::Directory).await {
                Ok(_) | Err(MetaError::Posix(Errno::ENOENT | Errno::ENOTEMPTY)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((sweep.freed, false))
    }

    async fn hourly_directories(&self) -> MetaResult<Vec<(i64, Name, Ino)>> {
        let mut found = Vec::new();
        let mut from = None;
        loop {
            let page = self.engine.readdir(Ino::TRASH_ROOT, from, false, READDIR_PAGE).await?;
            for entry in page.entries {
                match parse_hourly(&entry.name) {
                    Some(hour) => found.push((hour, entry.name, entry.ino)),
                    None => tracing::warn!(name = %entry.name, "an entry of the trash is no hour"),
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        found.sort_by_key(|(_, _, ino)| *ino);
        Ok(found)
    }

    /// Removes what is below `top`, children before their directory; false when the limit came first.
    async fn empty_directory(&self, top: Ino, sweep: &mut Sweep) -> MetaResult<bool> {
        let mut open: Vec<(Ino, Option<(Ino, Name)>)> = vec![(top, None)];
        while let Some((dir, place)) = open.last().cloned() {
            let page = self.engine.readdir(dir, None, false, CLEAN_PAGE).await?;
            if page.entries.is_empty() {
                open.pop();
                if let Some((parent, name)) = place {
                    self.sweep_entry(parent, &name, FileType::Directory, sweep).await?;
                }
                continue;
            }
            for DirEntry { name, ino, kind, .. } in page.entries {
                if sweep.left == 0 {
                    return Ok(false);
                }
                if kind == FileType::Directory && self.has_entries(ino).await? {
                    open.push((ino, Some((dir, name))));
                } else {
                    self.sweep_entry(dir, &name, kind, sweep).await?;
                }
            }
        }
        Ok(true)
    }

    async fn has_entries(&self, ino: Ino) -> MetaResult<bool> {
        Ok(!self.engine.readdir(ino, None, false, 1).await?.entries.is_empty())
    }

    /// Removes one entry; one that is gone, or was restored meanwhile, is none of our business any more.
    async fn sweep_entry(&self, parent: Ino, name: &Name, kind: FileType, sweep: &mut Sweep) -> MetaResult<()> {
        sweep.left = sweep.left.saturating_sub(1);
        match self.remove_trashed(parent, name, kind).await {
            Ok(removed) => sweep.freed.extend(removed.freed),
            Err(MetaError::Posix(Errno::ENOENT | Errno::ENOTEMPTY)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
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
