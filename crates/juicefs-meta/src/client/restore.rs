//! Taking removed files out of the trash again (format: metadata.md §6.14).

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use juicefs_core::{
    Caller, Meta,
    attr::FileType,
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::{Ino, Name},
    listing::Listing,
    meta::RenameFlags,
};

use super::Client;

/// What became of one entry of the trash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// It is in its old place.
    Moved,
    /// Its old directory is not in the same hour of the trash: only who puts back moves it.
    NeedsPutBack,
    /// Something else has its name now.
    Conflict,
    /// Its old directory is gone, it does not fit into a quota, ...
    Refused(Errno),
    /// Its name does not tell where it was.
    Nameless,
}

impl Client {
    /// Moves the entries of `hour`, a directory of the trash named like `2023-05-10-01`, to where they were, `side_by_side` at
    /// a time, and tells `told` what became of each. Nothing is ever replaced. Without `put_back` only those are moved whose
    /// directory was removed in the same hour, so that whole trees stand in the trash again.
    ///
    /// ENOENT when there is no such hour; EROFS. An engine that fails ends it, and what was moved stays moved. Cancel safe.
    pub async fn restore(
        &self,
        hour: &str,
        put_back: bool,
        side_by_side: usize,
        told: &(dyn Fn(&Name, Restored) + Sync),
    ) -> MetaResult<()> {
        self.writable()?;
        let (edge, _) = self.transactor.lookup(Ino::TRASH_ROOT, hour.as_bytes()).await?.ok_or(Errno::ENOENT)?;
        let entries = Listing::of(edge.ino).rest(&self.transactor).await?;
        let directories: HashSet<Ino> =
            entries.iter().filter(|entry| entry.kind == FileType::Directory).map(|entry| entry.ino).collect();
        let wanted = |parent: &Ino| put_back || directories.contains(parent);
        stream::iter(&entries)
            .map(|entry| async {
                let restored = match old_place(&entry.name) {
                    None => Restored::Nameless,
                    Some((parent, _)) if !wanted(&parent) => Restored::NeedsPutBack,
                    Some((parent, name)) => self.move_back(edge.ino, &entry.name, parent, name).await?,
                };
                told(&entry.name, restored);
                Ok::<_, MetaError>(())
            })
            .buffer_unordered(side_by_side.max(1))
            .try_collect::<()>()
            .await?;
        self.flush_stats().await
    }

    async fn move_back(&self, hour: Ino, trashed: &Name, parent: Ino, name: &[u8]) -> MetaResult<Restored> {
        let flags = RenameFlags { no_replace: true, restore: true, ..RenameFlags::default() };
        match self.rename(&Caller::root(), hour, trashed.as_bytes(), parent, name, flags).await {
            Ok(_) => Ok(Restored::Moved),
            Err(MetaError::Posix(Errno::EEXIST)) => Ok(Restored::Conflict),
            Err(MetaError::Posix(errno)) => Ok(Restored::Refused(errno)),
            Err(error) => Err(error),
        }
    }
}

/// The directory and the name that an entry of the trash, `PARENT-INODE-NAME`, had.
fn old_place(trashed: &Name) -> Option<(Ino, &[u8])> {
    let mut parts = trashed.as_bytes().splitn(3, |byte| *byte == b'-');
    let number = |part: &[u8]| std::str::from_utf8(part).ok()?.parse::<u64>().ok();
    let (parent, _) = (number(parts.next()?)?, number(parts.next()?)?);
    Some((Ino(parent), parts.next().filter(|name| !name.is_empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_tells_where_it_was() {
        let place = |name: &'static [u8]| {
            let name = Name::from(name.to_vec());
            old_place(&name).map(|(parent, name)| (parent.0, name.to_vec()))
        };
        assert_eq!(place(b"1-5-a-b.txt"), Some((1, b"a-b.txt".to_vec())));
        assert_eq!(place(b"77-5--\xff"), Some((77, b"-\xff".to_vec())));
        for wrong in [&b"a"[..], b"1-2", b"1-2-", b"x-2-a", b"1-x-a", b"-1-2-a"] {
            assert_eq!(place(wrong), None);
        }
    }
}
