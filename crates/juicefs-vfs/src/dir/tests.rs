//! Listings of directories that change while they are read.

use std::collections::BTreeSet;

use juicefs_core::{
    Caller, FileType, Meta,
    meta::{NewNode, RenameFlags},
};
use juicefs_testkit::{clock::TestClock, mem_chunks::MemChunks, mem_meta::MemMeta};
use proptest::prelude::*;

use super::{pages::PAGES_KEPT, *};
use crate::{VfsConfig, open_dirs::OpenDirs, table::FileTable};

struct Run {
    cx: Arc<Context>,
    meta: Arc<MemMeta>,
    dir: Arc<DirHandle>,
    open: OpenDirs,
    names: BTreeSet<String>,
}

fn node() -> NewNode {
    NewNode { kind: FileType::File, mode: 0o644, umask: 0, rdev: 0, target: Bytes::new() }
}

impl Run {
    async fn new(page_len: usize, names: impl IntoIterator<Item = String>) -> Self {
        let clock = TestClock::at(1_700_000_000);
        let meta = MemMeta::new(clock.clone());
        let cx = Context::new(
            meta.clone(),
            MemChunks::new(4096, 1 << 20),
            clock,
            VfsConfig::standard(),
            Arc::new(FileTable::new()),
        );
        let dir = DirHandle::with_pages(Ino::ROOT, page_len);
        let run = Self { cx, meta, dir, open: OpenDirs::default(), names: BTreeSet::new() };
        run.open.add(&run.dir);
        let mut run = run;
        for name in names {
            run.make(&name, true).await;
        }
        run
    }

    /// Makes a name, here (`told`) or as another client does.
    async fn make(&mut self, name: &str, told: bool) {
        if self.names.insert(name.to_owned()) {
            let made = self.meta.mknod(&Caller::root(), Ino::ROOT, name.as_bytes(), node()).await;
            let (ino, _) = made.expect("mknod");
            if told {
                self.open.changed(Ino::ROOT, name.as_bytes(), Change::Is(ino, FileType::File));
            }
        }
    }

    async fn remove(&mut self, name: &str, told: bool) {
        if self.names.remove(name) {
            self.meta.unlink(&Caller::root(), Ino::ROOT, name.as_bytes(), false).await.expect("unlink");
            if told {
                self.open.changed(Ino::ROOT, name.as_bytes(), Change::Gone);
            }
        }
    }

    async fn read(&self, index: u64, limit: usize) -> Vec<(u64, String)> {
        let listed = self.dir.read(&self.cx, index, limit, false).await.expect("readdir");
        listed
            .into_iter()
            .map(|listed| {
                let name = String::from_utf8(listed.entry.name.as_bytes().to_vec()).expect("text");
                (listed.index, name)
            })
            .collect()
    }

    /// Lets what goes on in the background come to its end.
    async fn settle(&self) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    async fn read_all(&self, limit: usize) -> Vec<(u64, String)> {
        let (mut all, mut index) = (Vec::new(), 0);
        loop {
            let part = self.read(index, limit).await;
            let Some((last, _)) = part.last() else { return all };
            index = last + 1;
            all.extend(part);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize),
    /// Goes back to what was read this many entries ago.
    Back(usize),
    Make(u8, bool),
    Remove(u8, bool),
    Swap(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..9_usize).prop_map(Step::Read),
        1 => (1..60_usize).prop_map(Step::Back),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(name, told)| Step::Make(name, told)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(name, told)| Step::Remove(name, told)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Step::Swap(a, b)),
    ]
}

proptest! {
    #[test]
    fn what_stays_is_listed_once_and_keeps_its_place(
        first in prop::collection::btree_set(any::<u8>(), 0..80),
        steps in prop::collection::vec(step(), 1..60),
        page_len in 1..12_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let name = |number: u8| format!("name {number:03}");
            let mut run = Run::new(page_len, first.iter().map(|number| name(*number))).await;
            // Names that were there from the beginning and never touched.
            let mut steady: BTreeSet<String> = run.names.clone();
            let mut places: HashMap<String, u64> = HashMap::new();
            let mut index = 0;
            for step in steps.into_iter().chain(std::iter::repeat_n(Step::Read(5), 200)) {
                match step {
                    Step::Read(limit) => {
                        for (at, name) in run.read(index, limit).await {
                            assert!(at >= index);
                            index = at + 1;
                            let place = *places.entry(name.clone()).or_insert(at);
                            assert_eq!(place, at, "{name} has moved");
                        }
                    }
                    Step::Back(entries) => index = index.saturating_sub(entries as u64),
                    Step::Make(number, told) => {
                        run.make(&name(number), told).await;
                    }
                    Step::Remove(number, told) => {
                        steady.remove(&name(number));
                        run.remove(&name(number), told).await;
                    }
                    Step::Swap(a, b) => {
                        let (a, b) = (name(a), name(b));
                        if run.names.contains(&a) && !run.names.contains(&b) {
                            steady.remove(&a);
                            run.remove(&a, true).await;
                            run.make(&b, true).await;
                        }
                    }
                }
            }
            let listed: BTreeSet<_> = places.keys().cloned().collect();
            assert!(steady.is_subset(&listed), "missing: {:?}", steady.difference(&listed).collect::<Vec<_>>());
            // The same places again, from the start and without what is gone. A name that was away whenever the reader
            // came by, and is back in its old place, is seen now for the first time.
            let again = run.read_all(7).await;
            let names: BTreeSet<_> = again.iter().map(|(_, name)| name.clone()).collect();
            assert_eq!(names.len(), again.len(), "listed twice");
            assert!(steady.is_subset(&names), "missing: {:?}", steady.difference(&names).collect::<Vec<_>>());
            for (at, name) in again {
                assert_eq!(*places.entry(name.clone()).or_insert(at), at, "{name} has moved");
            }
            let taken: BTreeSet<_> = places.values().collect();
            assert_eq!(taken.len(), places.len(), "two names in one place");
        });
    }
}

#[tokio::test]
async fn what_is_removed_here_is_not_listed_any_more() {
    let mut run = Run::new(4, (0..20).map(|number| format!("{number:02}"))).await;
    let first = run.read(0, 3).await;
    assert_eq!(first.len(), 3);
    run.remove("03", true).await;
    run.remove("05", true).await;
    let rest: Vec<_> = run.read_all(4).await.into_iter().map(|(_, name)| name).collect();
    assert!(!rest.contains(&"03".to_owned()) && !rest.contains(&"05".to_owned()));
    assert_eq!(rest.len(), 18);
    run.make("03", true).await;
    assert!(run.read_all(4).await.contains(&(3, "03".to_owned())), "back in its old place");
}

#[tokio::test]
async fn renaming_every_entry_while_reading_ends() {
    let mut run = Run::new(4, (0..50).map(|number| format!("{number:02}"))).await;
    let (mut index, mut seen) = (0, 0);
    loop {
        let part = run.read(index, 1).await;
        let Some((at, name)) = part.into_iter().next() else { break };
        (index, seen) = (at + 1, seen + 1);
        assert!(seen <= 50, "endless");
        let (temporary, root) = (b"TEMPFILE".as_slice(), Ino::ROOT);
        for (from, to) in [(name.as_bytes(), temporary), (temporary, name.as_bytes())] {
            let flags = RenameFlags::default();
            let moved = run.meta.rename(&Caller::root(), root, from, root, to, flags).await.expect("rename");
            run.open.changed(root, from, Change::Gone);
            run.open.changed(root, to, Change::Is(moved.ino, FileType::File));
        }
    }
    assert_eq!(seen, 50);
    run.names.clear();
}

#[tokio::test]
async fn a_long_directory_keeps_few_entries_in_memory() {
    let run = Run::new(100, (0..5000).map(|number| format!("{number:05}"))).await;
    assert_eq!(run.read(0, 50).await.len(), 50);
    run.settle().await;
    assert_eq!(run.meta.calls("readdir"), 2, "one page and the next");
    assert_eq!(run.read(50, 10).await.len(), 10);
    run.settle().await;
    assert_eq!(run.meta.calls("readdir"), 2, "no more of them than one");
    assert_eq!(run.read_all(1000).await.len(), 5000);
    let held = run.dir.pages.lock().pages.iter().filter(|page| page.body.is_some()).count();
    assert_eq!(held, PAGES_KEPT);
    assert_eq!(run.read(123, 2).await, [(123, "00123".to_owned()), (124, "00124".to_owned())]);
    run.dir.rewind();
    assert_eq!(run.read_all(1000).await.len(), 5000);
}

#[tokio::test]
async fn a_page_that_is_on_its_way_is_not_part_of_a_listing_begun_anew() {
    let mut run = Run::new(4, (0..20).map(|number| format!("{number:02}"))).await;
    assert_eq!(run.read(0, 3).await.len(), 3);
    // The next page was asked for and has not come yet.
    run.dir.rewind();
    run.settle().await;
    run.remove("01", true).await;
    let names: Vec<_> = run.read_all(4).await.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, run.names.iter().cloned().collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_removed_while_the_next_page_is_on_its_way_is_not_listed() {
    let mut run = Run::new(4, (0..20).map(|number| format!("{number:02}"))).await;
    assert_eq!(run.read(0, 4).await.len(), 4);
    assert!(run.dir.turn.try_lock().is_err(), "the next page is being fetched");
    run.remove("06", true).await;
    run.settle().await;
    assert!(run.dir.turn.try_lock().is_ok());
    let rest: Vec<_> = run.read(4, 4).await.into_iter().map(|(_, name)| name).collect();
    assert_eq!(rest, ["04", "05", "07", "08"]);
}
