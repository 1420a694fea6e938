//! Walks over directories on an engine that gives names twice and begins listings anew: their answers are those of an engine that
//! does not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use juicefs_core::{
    Caller, Clock, FileType, Format, Ino, Meta, Name, QuotaSubject,
    meta::Removed,
    tree::{Cloning, Progress, RemovalWatch, TreeDetail, TreeRemoval, TreeSummary},
};
use juicefs_meta::{
    Client, Engine, Restored,
    engine::mem::MemEngine,
    record::{AccountKey, Key},
};
use juicefs_testkit::unsteady::Unsteady;

use crate::{
    interleaving::Optimistic,
    invariants,
    snapshot::Snapshot,
    volume::{Volume, block_on, config, format, posix, root},
};

/// Directories of the tree have 7 and 9 entries: these are pages whose last one is full, or not, and new beginnings after the
/// first page, in the middle, before the last page, and before one that is empty.
const HOWS: [Unsteady; 8] = [
    Unsteady { page_len: 3, anew_after: 0 },
    Unsteady { page_len: 3, anew_after: 1 },
    Unsteady { page_len: 3, anew_after: 2 },
    Unsteady { page_len: 3, anew_after: 3 },
    Unsteady { page_len: 1, anew_after: 4 },
    Unsteady { page_len: 7, anew_after: 1 },
    Unsteady { page_len: 9, anew_after: 1 },
    Unsteady { page_len: 100, anew_after: 0 },
];

/// A volume, and the engine below its own.
struct Stage {
    v: Volume,
    below: Arc<MemEngine>,
}

impl Stage {
    async fn new(how: Option<Unsteady>, format: &Format) -> Self {
        let below = Arc::new(MemEngine::new());
        let engine: Arc<dyn Engine> = match how {
            Some(how) => Optimistic::unsteady(Arc::clone(&below), how),
            None => Arc::clone(&below) as Arc<dyn Engine>,
        };
        Self { v: Volume::on(engine, format).await, below }
    }

    /// Seven directories of nine files each, one of which has a second name in the directory above, and two files.
    async fn tree(&self) -> Ino {
        let top = self.v.mkdir(Ino::ROOT, "top").await;
        for n in 0..6 {
            let dir = self.v.mkdir(top, &format!("d{n}")).await;
            for m in 0..9 {
                let file = self.v.file(dir, &format!("f{m}")).await;
                self.v.write(file, 0, 5000 + n * 100 + m).await.expect("written");
            }
        }
        self.v.mkdir(top, "empty").await;
        let linked = self.v.find(top, "d0").await.expect("there");
        let linked = self.v.find(linked, "f4").await.expect("there");
        self.v.client.link(&root(), linked, top, b"again").await.expect("linked");
        self.v.file(top, "last").await;
        top
    }

    /// Everything that is stored, which has to fit.
    async fn stored(&self) -> Snapshot {
        self.v.client.flush_stats().await.expect("flushed");
        let all = Snapshot::take(self.below.as_ref()).await;
        invariants::check(&all);
        all
    }

    /// Names in a directory.
    async fn names(&self, dir: Ino) -> Vec<String> {
        let page = self.below.readdir(dir, None, false, usize::MAX).await.expect("listed");
        page.entries.into_iter().map(|entry| entry.name.to_string()).collect()
    }
}

/// Lets the same thing happen on a steady engine and on all others, and compares the answers.
fn alike<F: Future<Output = String>>(format: &Format, scenario: impl Fn(Stage) -> F) {
    let wanted = block_on(async { scenario(Stage::new(None, format).await).await });
    for how in HOWS {
        let found = block_on(async { scenario(Stage::new(Some(how), format).await).await });
        assert_eq!(found, wanted, "{how:?}");
    }
}

/// Removals by name.
#[derive(Default)]
struct Told(Mutex<BTreeMap<String, u32>>);

impl RemovalWatch for Told {
    fn removed(&self, parent: Ino, name: &Name, _removed: Removed) {
        *self.0.lock().expect("no panic").entry(format!("{parent}/{name}")).or_default() += 1;
    }
}

#[test]
fn sums_are_exact() {
    for kept in [true, false] {
        alike(&Format { dir_stats: kept, ..format(0) }, |stage| async move {
            let top = stage.tree().await;
            let client = &stage.v.client;
            let mut answer = String::new();
            for (recursive, strict) in [(true, true), (true, false), (false, true), (false, false)] {
                let progress = Progress::default();
                let sum = client.summarize(&Caller::root(), top, recursive, strict, &progress).await.expect("counted");
                answer += &format!("{sum:?} {:?}\n", progress.get());
            }
            for strict in [true, false] {
                let (detail, progress) = (TreeDetail { depth: 2, entries: 100, strict }, Progress::default());
                let mut tree = client.summarize_tree(&Caller::root(), top, detail, &progress).await.expect("counted");
                tree.children.sort_by(|a: &TreeSummary, b| a.path.cmp(&b.path));
                answer += &format!("{tree:?} {:?}\n", progress.get());
            }
            answer
        });
    }
}

#[test]
fn quotas_are_counted_exactly() {
    alike(&Format { user_group_quota: true, ..format(0) }, |stage| async move {
        let top = stage.tree().await;
        let client = &stage.v.client;
        // What is there already is counted when the quota is set.
        let set = client.set_quota(QuotaSubject::Dir(top), Some(1 << 40), Some(1000), false).await.expect("set");
        let check = client.check_quota(QuotaSubject::Dir(top), false).await.expect("checked");
        assert!(check.is_right(), "{check:?}");
        let owners = client.check_owners(false, None).await.expect("checked");
        format!("{set:?} {check:?} {owners:?}")
    });
}

#[test]
fn statistics_are_counted_exactly() {
    alike(&Format { dir_stats: false, ..format(0) }, |stage| async move {
        let top = stage.tree().await;
        let on = format(0);
        Client::save_format(&stage.v.engine, &on, stage.v.clock.as_ref()).await.expect("stored");
        let fresh = stage.v.second(config(&stage.v.clock)).await;
        let dir = stage.v.find(top, "d3").await.expect("there");
        for dir in [top, dir] {
            let node = crate::volume::node(FileType::File, 0o644);
            fresh.mknod(&root(), dir, b"one more", node).await.expect("made");
        }
        fresh.flush_stats().await.expect("flushed");
        let read = stage
            .below
            .fetch(&[Key::Account(AccountKey::DirStat(top)), Key::Account(AccountKey::DirStat(dir))])
            .await
            .expect("fetched");
        let (top, dir) = (
            read.get(&Key::Account(AccountKey::DirStat(top))).cloned(),
            read.get(&Key::Account(AccountKey::DirStat(dir))).cloned(),
        );
        assert!(top.is_some() && dir.is_some());
        format!("{top:?} {dir:?}")
    });
}

#[test]
fn a_copy_has_each_name() {
    alike(&format(0), |stage| async move {
        let top = stage.tree().await;
        let (told, progress) = (Told::default(), Progress::default());
        let how = Cloning { preserve: true, umask: 0o22, threads: 4 };
        let to = (Ino::ROOT, &b"copy"[..]);
        let copy = posix(stage.v.client.clone_tree(&root(), top, to, how, &told, &progress).await).expect("cloned");
        let mut answer = format!("{:?} {:?}", progress.get(), stage.names(copy).await);
        for n in 0..6 {
            let dir = stage.v.find(copy, &format!("d{n}")).await.expect("copied");
            answer += &format!(" {:?}", stage.names(dir).await);
        }
        let all = stage.stored().await;
        format!("{answer} {} {}", all.nodes.len(), all.used_space)
    });
}

#[test]
fn a_tree_is_removed_name_by_name() {
    for (trash_days, skip_trash) in [(0, false), (1, false), (1, true)] {
        alike(&format(trash_days), |stage| async move {
            stage.tree().await;
            let (told, progress) = (Told::default(), Progress::default());
            let how = TreeRemoval { skip_trash, threads: 4 };
            posix(stage.v.client.remove_tree(&root(), Ino::ROOT, b"top", how, &told, &progress).await)
                .expect("removed");
            let all = stage.stored().await;
            let told = told.0.lock().expect("no panic");
            assert!(told.values().all(|count| *count == 1), "{told:?}");
            // Which number the directory of the hour has is a matter of chance: several ask for one.
            let hour = |ino: &Ino| if ino.is_hourly_trash() { "the hour".to_owned() } else { ino.to_string() };
            let names: Vec<_> = all.edges.keys().map(|(parent, name)| (hour(parent), name)).collect();
            format!("{:?} {:?} {names:?}", progress.get(), told.keys())
        });
    }
}

#[test]
fn the_trash_gives_back_each_name_and_forgets_it() {
    alike(&format(1), |stage| async move {
        let (v, how) = (&stage.v, TreeRemoval { skip_trash: false, threads: 1 });
        stage.tree().await;
        let remove = async || {
            let (told, progress) = (Told::default(), Progress::default());
            posix(v.client.remove_tree(&root(), Ino::ROOT, b"top", how, &told, &progress).await).expect("removed");
        };
        remove().await;
        let hours = stage.names(Ino::TRASH_ROOT).await;
        let told: Mutex<BTreeMap<String, Vec<Restored>>> = Mutex::default();
        let tell = |name: &Name, restored| {
            told.lock().expect("no panic").entry(name.to_string()).or_default().push(restored);
        };
        v.client.restore(&hours[0], true, 3, &tell).await.expect("restored");
        let told = told.into_inner().expect("no panic");
        assert!(told.values().all(|told| *told == [Restored::Moved]), "{told:?}");
        let mut answer = format!("{told:?} {:?}", stage.stored().await.edges.keys());
        remove().await;
        // Some of it in an hour of its own.
        for hour in 0..9 {
            v.clock.advance(Duration::from_secs(3600));
            v.file(Ino::ROOT, &format!("later{hour}")).await;
            v.unlink(Ino::ROOT, &format!("later{hour}")).await.expect("unlinked");
        }
        v.clock.advance(Duration::from_secs(3600));
        let mut count = 0;
        loop {
            let (freed, more) = v.client.clean_trash(v.clock.now(), 10).await.expect("cleaned");
            count += freed.len();
            if !more {
                break;
            }
        }
        answer += &format!(" {count}");
        assert!(stage.names(Ino::TRASH_ROOT).await.is_empty());
        answer
    });
}

#[test]
fn each_path_is_shown_once() {
    alike(&format(0), |stage| async move {
        let top = stage.tree().await;
        let (one, two) = (stage.v.find(top, "again").await, stage.v.find(top, "empty").await);
        let mut answer = String::new();
        for ino in [one, two] {
            let mut paths = stage.v.client.paths(ino.expect("there"), 10).await.expect("paths");
            paths.sort();
            answer += &format!("{paths:?}");
        }
        answer
    });
}

#[test]
fn a_sorted_listing_has_each_name_once() {
    alike(&format(0), |stage| async move {
        let top = stage.tree().await;
        let mut answer = String::new();
        for with_attrs in [false, true] {
            let page = stage.v.client.readdir(top, None, with_attrs, 100).await.expect("listed");
            assert!(page.next.is_none() && page.by_name);
            answer += &format!("{:?}", page.entries);
        }
        answer
    });
}
