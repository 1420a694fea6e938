//! Directory statistics, gathered here and written in batches (format: metadata.md §6.21).

use std::collections::HashMap;

use juicefs_core::{error::MetaResult, ids::Ino, limits::READDIR_PAGE};
use parking_lot::Mutex;

use crate::{
    engine::Engine,
    ops::account::entry_stat,
    record::{DirStat, Key},
    txn::{Decision, Effect, Effects, Operation, OperationJob, ReadSet},
};

/// How often a directory that keeps changing is counted anew before the last count is taken.
const RECOUNTS: usize = 3;

/// What changed and is not written.
#[derive(Debug, Default)]
pub(super) struct DirStatBook {
    pending: Mutex<HashMap<Ino, DirStat>>,
}

impl DirStatBook {
    /// Notes changes.
    pub(super) fn add(&self, deltas: Vec<(Ino, DirStat)>) {
        if deltas.is_empty() {
            return;
        }
        let mut pending = self.pending.lock();
        for (ino, delta) in deltas {
            let stat = pending.entry(ino).or_default();
            stat.length += delta.length;
            stat.space += delta.space;
            stat.inodes += delta.inodes;
        }
    }

    /// Writes everything noted so far. Directories without record are counted and get one. On an error the changes stay
    /// noted; those that the engine may have taken before it failed are counted twice at worst.
    pub(super) async fn flush(&self, engine: &dyn Engine) -> MetaResult<()> {
        let taken = std::mem::take(&mut *self.pending.lock());
        let deltas: Vec<_> = taken.into_iter().filter(|(_, delta)| *delta != DirStat::default()).collect();
        if deltas.is_empty() {
            return Ok(());
        }
        let missing = match engine.add_dir_stats(deltas.clone()).await {
            Ok(missing) => missing,
            Err(error) => {
                self.add(deltas);
                return Err(error);
            }
        };
        for ino in missing {
            self.recount(engine, ino).await?;
        }
        Ok(())
    }

    /// Counts the entries of a directory and stores that. What is noted about it when the count begins is part of the
    /// count; when something is noted meanwhile, it is counted again.
    async fn recount(&self, engine: &dyn Engine, ino: Ino) -> MetaResult<()> {
        for round in 1..=RECOUNTS {
            self.pending.lock().remove(&ino);
            let stat = count(engine, ino).await?;
            if round < RECOUNTS && self.pending.lock().contains_key(&ino) {
                continue;
            }
            let job = engine.run(OperationJob::new(StoreDirStat { ino, stat })).await?;
            OperationJob::<StoreDirStat>::outcome(job)?;
            break;
        }
        Ok(())
    }
}

/// Statistics over the entries that a directory has now.
async fn count(engine: &dyn Engine, ino: Ino) -> MetaResult<DirStat> {
    let mut sum = DirStat::default();
    let mut from = None;
    loop {
        let page = engine.readdir(ino, from, true, READDIR_PAGE).await?;
        for entry in &page.entries {
            let stat = entry_stat(entry.attr.as_ref());
            sum.length += stat.length;
            sum.space += stat.space;
            sum.inodes += stat.inodes;
        }
        from = page.next;
        if from.is_none() {
            return Ok(sum);
        }
    }
}

/// Stores statistics that were counted, if the directory is still there.
#[derive(Debug)]
struct StoreDirStat {
    ino: Ino,
    stat: DirStat,
}

impl Operation for StoreDirStat {
    type Reply = ();
    const NAME: &'static str = "store_dir_stat";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.ino)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        let mut effects = Effects::none();
        if read.node(self.ino).is_some_and(juicefs_core::Attr::is_dir) {
            effects.push(Effect::PutDirStat(self.ino, self.stat));
        }
        Decision::Done((), effects)
    }
}
