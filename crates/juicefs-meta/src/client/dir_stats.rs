//! Directory statistics, gathered here and written in batches (format: metadata.md §6.21).

use std::{collections::HashMap, sync::Arc};

use juicefs_core::{
    error::MetaResult,
    ids::{Ino, SessionId},
    listing::Listing,
};
use parking_lot::Mutex;

use super::run::Books;
use crate::{
    engine::optimistic::Transactor,
    ops::account::entry_stat,
    record::{DirStat, Key},
    txn::{AccountEffect, Decision, Effect, Effects, Operation, ReadSet},
};

/// What changed and is not written.
#[derive(Debug, Default)]
pub(super) struct DirStatBook {
    pages: Mutex<HashMap<Ino, Page>>,
}

/// What the book says of one directory.
#[derive(Debug, Default, Clone, Copy)]
struct Page {
    /// Done and not written.
    pending: DirStat,
    /// Changes under way: a count may see them or not.
    under_way: u32,
    /// Changes begun since the page is there.
    begun: u64,
    /// It could not be counted, so the next flush has to look at it in any case.
    again: bool,
}

/// Changes of statistics that an operation is about to make. Dropped before they are settled, they are taken back.
#[derive(Debug)]
pub(super) struct Announced {
    books: Arc<Books>,
    deltas: Vec<(Ino, DirStat)>,
    /// Directories whose records go.
    gone: Vec<Ino>,
}

impl DirStatBook {
    /// Says that an operation is about to change statistics by `deltas`, and to delete the records of `gone`. It has to be said
    /// before the change can be seen in the store, so that nobody counts it there and adds it once more.
    pub(super) fn announce(books: &Arc<Books>, deltas: Vec<(Ino, DirStat)>, gone: Vec<Ino>) -> Announced {
        if !deltas.is_empty() {
            let mut pages = books.dir_stats.pages.lock();
            for (ino, _) in &deltas {
                let page = pages.entry(*ino).or_default();
                page.under_way += 1;
                page.begun += 1;
            }
        }
        Announced { books: Arc::clone(books), deltas, gone }
    }

    /// Ends what was announced, done or not.
    fn end(&self, deltas: &[(Ino, DirStat)], done: bool) {
        if deltas.is_empty() {
            return;
        }
        let mut pages = self.pages.lock();
        for (ino, delta) in deltas {
            let page = pages.entry(*ino).or_default();
            page.under_way = page.under_way.saturating_sub(1);
            if done {
                page.pending += *delta;
            } else if page.under_way == 0 && page.pending == DirStat::default() && !page.again {
                pages.remove(ino);
            }
        }
    }

    /// Forgets what was done in directories whose records went. A directory that the trash gives back has none until somebody
    /// counts it, and that count sees what was done: told afterwards it would come on top.
    fn forget(&self, gone: &[Ino]) {
        if gone.is_empty() {
            return;
        }
        let mut pages = self.pages.lock();
        for ino in gone {
            if let Some(page) = pages.get_mut(ino) {
                (page.pending, page.again) = (DirStat::default(), false);
                if page.under_way == 0 {
                    pages.remove(ino);
                }
            }
        }
    }

    /// Takes what is done out of the book. Pages with nothing on them go.
    fn take(&self) -> Vec<(Ino, DirStat)> {
        let mut taken = Vec::new();
        self.pages.lock().retain(|ino, page| {
            if page.pending != DirStat::default() || page.again {
                taken.push((*ino, std::mem::take(&mut page.pending)));
                page.again = false;
            }
            page.under_way > 0
        });
        taken
    }

    /// Writes everything done so far. Directories without record are counted and get one. On an error the changes stay
    /// noted: the engine fails only when it knows that it has not taken them, or is closed. What is counted anew is stored
    /// only while the session `writer` is alive: a client that stood still meanwhile knows an old number.
    pub(super) async fn flush(&self, transactor: &Transactor, writer: Option<SessionId>) -> MetaResult<()> {
        let deltas = self.take();
        if deltas.is_empty() {
            return Ok(());
        }
        let missing = match transactor.engine().add_dir_stats(deltas.clone()).await {
            Ok(missing) => missing,
            Err(error) => {
                let mut pages = self.pages.lock();
                for (ino, delta) in deltas {
                    let page = pages.entry(ino).or_default();
                    page.pending += delta;
                }
                return Err(error);
            }
        };
        let mut outcome = Ok(());
        for ino in missing {
            let counted = self.recount(transactor, writer, ino).await;
            if !matches!(counted, Ok(true)) {
                self.pages.lock().entry(ino).or_default().again = true;
            }
            outcome = outcome.and(counted.map(drop));
        }
        outcome
    }

    /// Counts the entries of a directory and stores that. What is done when the count begins is part of it. When a change
    /// was under way or began meanwhile, nobody knows whether it was counted: false, and a later flush counts again. A
    /// directory that does not rest is thus counted once a flush at most.
    async fn recount(&self, transactor: &Transactor, writer: Option<SessionId>, ino: Ino) -> MetaResult<bool> {
        let Some(begun) = self.begin_count(ino) else { return Ok(false) };
        let stat = count(transactor, ino).await?;
        if !self.end_count(ino, begun) {
            return Ok(false);
        }
        transactor.run(StoreDirStat { writer, ino, stat }).await?;
        Ok(true)
    }

    /// Forgets what is done, which the count that follows sees; `None` while a change is under way.
    fn begin_count(&self, ino: Ino) -> Option<u64> {
        let mut pages = self.pages.lock();
        let page = pages.entry(ino).or_default();
        if page.under_way > 0 {
            return None;
        }
        page.pending = DirStat::default();
        Some(page.begun)
    }

    /// Whether nothing changed since [`Self::begin_count`].
    fn end_count(&self, ino: Ino, begun: u64) -> bool {
        self.pages.lock().get(&ino).is_some_and(|page| page.under_way == 0 && page.begun == begun)
    }
}

impl Announced {
    /// The changes are done.
    pub(super) fn settle(mut self) {
        self.books.dir_stats.end(&std::mem::take(&mut self.deltas), true);
        self.books.dir_stats.forget(&self.gone);
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.books.dir_stats.end(&std::mem::take(&mut self.deltas), false);
    }
}

/// Statistics over the entries that a directory has now.
async fn count(transactor: &Transactor, ino: Ino) -> MetaResult<DirStat> {
    let mut sum = DirStat::default();
    let mut listing = Listing::of(ino).with_attrs();
    while let Some(entries) = listing.next(transactor).await? {
        entries.iter().for_each(|entry| sum += entry_stat(entry.attr.as_ref()));
    }
    Ok(sum)
}

/// Stores statistics that were counted, if the directory is still there.
#[derive(Debug)]
struct StoreDirStat {
    writer: Option<SessionId>,
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
        let mut effects = Effects { writer: self.writer, ..Effects::none() };
        if read.node(self.ino).is_some_and(juicefs_core::Attr::is_dir) {
            effects.push(Effect::Account(AccountEffect::PutDirStat(self.ino, self.stat)));
        }
        Decision::Done((), effects)
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::{
        attr::{Attr, FileType},
        ids::Name,
    };

    use super::*;
    use crate::{
        engine::{ApplyOutcome, Engine, Patience, mem::MemEngine},
        record::{AccountKey, Edge, Value},
        txn::{EdgeEffect, NodeEffect},
    };

    const DIR: Ino = Ino(2);
    const ONE: DirStat = DirStat { length: 0, space: 4096, inodes: 1 };

    fn books() -> Arc<Books> {
        Arc::new(Books::new(MemEngine::new().caps()))
    }

    async fn apply(engine: &MemEngine, list: Vec<Effect>) {
        let outcome = engine.apply(&ReadSet::default(), &Effects { list, ..Effects::none() }, Patience::Budget).await;
        assert!(matches!(outcome, Ok(ApplyOutcome::Applied(_))));
    }

    /// A file in the directory, as an operation makes it.
    async fn create(engine: &MemEngine, ino: u64) {
        let edge = Edge { ino: Ino(ino), kind: FileType::File };
        let attr = Attr { nlink: 1, parent: DIR, ..Attr::default() };
        let name = Name::from(format!("f{ino}").as_str());
        apply(
            engine,
            vec![Effect::Edge(DIR, name, EdgeEffect::Insert(edge)), Effect::Node(Ino(ino), NodeEffect::Insert(attr))],
        )
        .await;
    }

    async fn stored(engine: &MemEngine) -> Option<DirStat> {
        match engine
            .fetch(&[Key::Account(AccountKey::DirStat(DIR))])
            .await
            .expect("fetched")
            .get(&Key::Account(AccountKey::DirStat(DIR)))
        {
            Some(Value::DirStat(stat)) => Some(*stat),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_change_that_a_recount_may_have_seen_is_counted_once() {
        let (engine, books) = (Arc::new(MemEngine::new()), books());
        let transactor = Transactor::new(Arc::<MemEngine>::clone(&engine));
        apply(
            &engine,
            vec![Effect::Node(
                DIR,
                NodeEffect::Insert(Attr { kind: FileType::Directory, nlink: 2, ..Attr::default() }),
            )],
        )
        .await;
        create(&engine, 10).await;
        DirStatBook::announce(&books, vec![(DIR, ONE)], vec![]).settle();
        // The second one is in the store, and its operation has not heard of that yet.
        let second = DirStatBook::announce(&books, vec![(DIR, ONE)], vec![]);
        create(&engine, 11).await;
        books.dir_stats.flush(&transactor, None).await.expect("flushed");
        second.settle();
        for _ in 0..2 {
            books.dir_stats.flush(&transactor, None).await.expect("flushed");
        }
        assert_eq!(stored(&engine).await, Some(DirStat { space: 8192, inodes: 2, ..ONE }));
        assert!(books.dir_stats.pages.lock().is_empty(), "nothing is left to do");
    }

    #[tokio::test]
    async fn what_is_taken_back_counts_nowhere() {
        let (engine, books) = (Arc::new(MemEngine::new()), books());
        let transactor = Transactor::new(Arc::<MemEngine>::clone(&engine));
        apply(&engine, vec![Effect::Account(AccountEffect::PutDirStat(DIR, ONE))]).await;
        drop(DirStatBook::announce(&books, vec![(DIR, ONE)], vec![]));
        books.dir_stats.flush(&transactor, None).await.expect("flushed");
        assert_eq!(stored(&engine).await, Some(ONE));
        DirStatBook::announce(&books, vec![(DIR, ONE)], vec![]).settle();
        books.dir_stats.flush(&transactor, None).await.expect("flushed");
        assert_eq!(stored(&engine).await, Some(DirStat { space: 8192, inodes: 2, ..ONE }));
        assert!(books.dir_stats.pages.lock().is_empty());
    }
}
