//! Whole trees: removed, copied, and counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, Clock, Errno, FileType, Format, Ino, Meta, Name, SliceRecord, Timestamp,
    attr::{SetAttr, flags},
    meta::{Freed, NewNode, Removed, XattrMode},
    tree::{Cloning, Progress, RemovalWatch, Summary, TreeDetail, TreeRemoval},
};
use juicefs_meta::{ClientConfig, record::Key};

use super::liveness::outlive;
use crate::{
    invariants, leaks,
    snapshot::Snapshot,
    volume::{Kind, StandingClock, Volume, config, format, node, on_all, posix, root, user},
};

const SKIP: TreeRemoval = TreeRemoval { skip_trash: true, threads: 8 };
const PRESERVE: Cloning = Cloning { preserve: true, umask: 0o22, threads: 4 };

/// What a removal told.
#[derive(Default)]
struct Told(Mutex<Vec<(Name, Removed)>>);

impl RemovalWatch for Told {
    fn removed(&self, _parent: Ino, name: &Name, removed: Removed) {
        self.0.lock().expect("no panic").push((name.clone(), removed));
    }
}

impl Told {
    fn freed(&self) -> Vec<Freed> {
        self.0.lock().expect("no panic").iter().filter_map(|(_, removed)| removed.freed).collect()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.lock().expect("no panic").iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        names
    }
}

/// Deletes the data of what was freed, makes sure that everything fits, and returns all that is left.
async fn settled(v: &Volume, freed: Vec<Freed>) -> Snapshot {
    for file in freed {
        for slice in v.client.delete_file_data(file).await.expect("deleted") {
            v.client.forget_slice(slice).await.expect("forgotten");
        }
    }
    v.client.flush_stats().await.expect("flushed");
    let all = Snapshot::take(v.engine.as_ref()).await;
    invariants::check(&all);
    leaks::check(&v.home, &all);
    all
}

async fn remove(v: &Volume, cx: &Caller, name: &str, how: TreeRemoval) -> (Result<(), Errno>, Told, u64) {
    let (told, progress) = (Told::default(), Progress::default());
    let outcome = posix(v.client.remove_tree(cx, Ino::ROOT, name.as_bytes(), how, &told, &progress).await);
    (outcome, told, progress.get().0)
}

async fn clone(v: &Volume, cx: &Caller, source: Ino, name: &str, how: Cloning) -> Result<Ino, Errno> {
    let (told, progress) = (Told::default(), Progress::default());
    posix(v.client.clone_tree(cx, source, (Ino::ROOT, name.as_bytes()), how, &told, &progress).await)
}

/// A tree of every kind of node: `top/{file,hole,empty,link -> file,fifo,device,deep/{file2,file2-again,deeper/}}`.
async fn make_tree(v: &Volume) -> Ino {
    let cx = root();
    let top = v.mkdir(Ino::ROOT, "top").await;
    let file = v.file(top, "file").await;
    v.write(file, 0, 5000).await.expect("written");
    v.write(file, 1000, 10).await.expect("written");
    v.write(file, 70 << 20, 4096).await.expect("written");
    v.client.setxattr(&cx, file, b"user.x", Bytes::from_static(b"one"), XattrMode::Any).await.expect("set");
    v.client.setxattr(&cx, top, b"user.y", Bytes::from_static(b"two"), XattrMode::Any).await.expect("set");
    let hole = v.file(top, "hole").await;
    v.client.truncate(&cx, hole, 1 << 20, true).await.expect("grown");
    v.file(top, "empty").await;
    let link = NewNode { target: Bytes::from_static(b"file"), ..node(FileType::Symlink, 0o777) };
    v.client.mknod(&cx, top, b"link", link).await.expect("linked");
    v.make(top, "fifo", FileType::Fifo).await;
    let device = NewNode { rdev: 0x102, ..node(FileType::CharDevice, 0o600) };
    v.client.mknod(&cx, top, b"device", device).await.expect("made");
    let deep = v.mkdir(top, "deep").await;
    let second = v.file(deep, "file2").await;
    v.write(second, 0, 100).await.expect("written");
    v.client.link(&cx, second, deep, b"file2-again").await.expect("linked");
    v.mkdir(deep, "deeper").await;
    top
}

/// Everything below a directory by path: attributes, and what belongs to the node.
async fn content(v: &Volume, top: Ino) -> BTreeMap<String, (Attr, Vec<u8>, Vec<Vec<SliceRecord>>, Vec<String>)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(String::new(), top)];
    while let Some((path, ino)) = todo.pop() {
        let attr = v.attr(ino).await;
        let target = v.client.readlink(ino).await.map(|target| target.to_vec()).unwrap_or_default();
        let mut chunks = Vec::new();
        for index in 0..if attr.is_file() { attr.length.div_ceil(64 << 20) as u32 } else { 0 } {
            chunks.push(v.client.read_chunk(ino, index).await.expect("read").records);
        }
        let mut xattrs = Vec::new();
        for name in v.client.listxattr(&Caller::root(), ino).await.expect("listed") {
            let value = v.client.getxattr(&Caller::root(), ino, name.as_bytes()).await.expect("there");
            xattrs.push(format!("{name}={}", value.escape_ascii()));
        }
        if attr.is_dir() {
            let page = v.client.readdir(ino, None, false, 1000).await.expect("listed");
            todo.extend(page.entries.into_iter().map(|entry| (format!("{path}/{}", entry.name), entry.ino)));
        }
        found.insert(path, (attr, target, chunks, xattrs));
    }
    found
}

#[test]
fn a_removed_tree_leaves_nothing() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        make_tree(&v).await;
        let (outcome, told, count) = remove(&v, &root(), "top", SKIP).await;
        assert_eq!((outcome, count), (Ok(()), 11));
        let names =
            ["deep", "deeper", "device", "empty", "fifo", "file", "file2", "file2-again", "hole", "link", "top"];
        assert_eq!(told.names(), names);
        assert_eq!(v.find(Ino::ROOT, "top").await, Err(Errno::ENOENT));
        let all = settled(&v, told.freed()).await;
        assert_eq!((all.nodes.len(), all.slice_refs.len()), (1, 0), "the root alone is left");
        let (outcome, _, _) = remove(&v, &root(), "top", SKIP).await;
        assert_eq!(outcome, Err(Errno::ENOENT));
        v.file(Ino::ROOT, "file").await;
        assert_eq!(remove(&v, &root(), "file", SKIP).await.0, Ok(()));
        settled(&v, Vec::new()).await;
    });
}

#[test]
fn many_entries_go_whatever_the_width() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        for threads in [1, 3, 64] {
            let top = v.mkdir(Ino::ROOT, "top").await;
            for n in 0..40 {
                let dir = v.mkdir(top, &format!("d{n}")).await;
                for m in 0..n % 7 {
                    v.file(dir, &format!("f{m}")).await;
                }
            }
            let (outcome, _, count) = remove(&v, &root(), "top", TreeRemoval { skip_trash: true, threads }).await;
            assert_eq!((outcome, count), (Ok(()), 1 + 40 + (0..40).map(|n| n % 7).sum::<u64>()));
            settled(&v, Vec::new()).await;
        }
    });
}

#[test]
fn a_tree_goes_into_the_trash_entry_by_entry() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let top = make_tree(&v).await;
        let (outcome, told, _) = remove(&v, &root(), "top", TreeRemoval { skip_trash: false, threads: 4 }).await;
        assert_eq!((outcome, told.freed()), (Ok(()), Vec::new()));
        let hour = Ino(Ino::TRASH_ROOT.0 + 1);
        let trashed = v.client.readdir(hour, None, false, 100).await.expect("listed").entries;
        assert_eq!(trashed.len(), 11);
        assert!(trashed.iter().any(|entry| entry.name.to_string() == format!("1-{top}-top")));
        settled(&v, Vec::new()).await;
        // The trash itself is emptied by root alone, and nothing is put into it twice.
        let hours = v.client.readdir(Ino::TRASH_ROOT, None, false, 10).await.expect("listed").entries;
        let (told, progress) = (Told::default(), Progress::default());
        let empty = |cx: Caller| {
            let (v, told, progress, name) = (&v, &told, &progress, hours[0].name.clone());
            async move {
                let how = TreeRemoval { skip_trash: false, threads: 4 };
                let done = v.client.remove_tree(&cx, Ino::TRASH_ROOT, name.as_bytes(), how, told, progress).await;
                posix(done)
            }
        };
        assert_eq!(empty(user(7)).await, Err(Errno::EACCES));
        assert_eq!(empty(root()).await, Ok(()));
        let all = settled(&v, told.freed()).await;
        assert_eq!(all.nodes.len(), 3, "the roots and the hour");
    });
}

#[test]
fn a_removal_stops_where_the_caller_may_not_go_on() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let top = v.mkdir(Ino::ROOT, "top").await;
        let mine = SetAttr { uid: Some(7), gid: Some(7), mode: Some(0o777), ..SetAttr::default() };
        v.client.setattr(&root(), top, mine).await.expect("given");
        let foreign = v.mkdir(top, "foreign").await;
        v.file(foreign, "kept").await;
        let keep = TreeRemoval { skip_trash: false, threads: 4 };
        let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        v.client.setattr(&root(), Ino::ROOT, open.clone()).await.expect("opened");
        assert_eq!(remove(&v, &user(7), "top", keep).await.0, Err(Errno::EACCES));
        assert!(v.find(foreign, "kept").await.is_ok());
        assert_eq!(remove(&v, &user(7), "top", SKIP).await.0, Err(Errno::EPERM), "the trash is skipped by root alone");
        let protect = SetAttr { flags: Some(flags::IMMUTABLE), ..SetAttr::default() };
        v.client.setattr(&root(), foreign, protect).await.expect("protected");
        assert_eq!(remove(&v, &root(), "top", SKIP).await.0, Err(Errno::EPERM));
        let bare = SetAttr { flags: Some(0), ..SetAttr::default() };
        v.client.setattr(&root(), foreign, bare).await.expect("unprotected");
        v.client.setattr(&root(), foreign, open).await.expect("opened");
        assert_eq!(remove(&v, &user(7), "top", keep).await.0, Ok(()));
        assert_eq!(remove(&v, &root(), ".trash", keep).await.0, Err(Errno::EPERM));
        assert_eq!(remove(&v, &root(), "..", keep).await.0, Err(Errno::EINVAL));
        settled(&v, Vec::new()).await;
    });
}

#[test]
fn a_stopped_job_ends() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let top = make_tree(&v).await;
        let (told, progress) = (Told::default(), Progress::default());
        progress.stop();
        let removed = v.client.remove_tree(&root(), Ino::ROOT, b"top", SKIP, &told, &progress).await;
        assert_eq!(posix(removed), Err(Errno::EINTR));
        let cloned = v.client.clone_tree(&root(), top, (Ino::ROOT, b"copy"), PRESERVE, &told, &progress).await;
        assert_eq!(posix(cloned), Err(Errno::EINTR));
        let counted = v.client.summarize(&Caller::root(), top, true, true, &progress).await;
        assert_eq!(posix(counted), Err(Errno::EINTR));
        assert_eq!(v.find(Ino::ROOT, "copy").await, Err(Errno::ENOENT));
        let before = content(&v, top).await.len();
        settled(&v, told.freed()).await;
        assert_eq!(before, 11);
    });
}

#[test]
fn a_copy_is_like_its_source() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let top = make_tree(&v).await;
        let given = SetAttr { uid: Some(5), gid: Some(6), mode: Some(0o4755), ..SetAttr::default() };
        let file = v.find(top, "file").await.expect("there");
        v.client.setattr(&root(), file, given).await.expect("given");
        let protect = SetAttr { flags: Some(flags::IMMUTABLE), ..SetAttr::default() };
        v.client.setattr(&root(), v.find(top, "empty").await.expect("there"), protect).await.expect("protected");
        let links = v.attr(Ino::ROOT).await.nlink;
        v.clock.advance(Duration::from_secs(1000));
        let copy = clone(&v, &root(), top, "copy", PRESERVE).await.expect("cloned");
        assert_eq!(v.find(Ino::ROOT, "copy").await, Ok(copy));
        assert_eq!(v.attr(Ino::ROOT).await.nlink, links + 1);
        let (mut source, copied) = (content(&v, top).await, content(&v, copy).await);
        assert_eq!(copied.len(), 11);
        for (path, (attr, target, chunks, xattrs)) in &copied {
            let (was, was_target, was_chunks, was_xattrs) = source.remove(path).expect("in the source as well");
            assert_eq!((target, chunks, xattrs), (&was_target, &was_chunks, &was_xattrs), "{path}");
            let same = |a: &Attr| (a.kind, a.mode, a.uid, a.gid, a.atime, a.mtime, a.length, a.rdev, a.tier);
            assert_eq!(same(attr), same(&was), "{path}");
            assert_eq!(attr.flags & flags::IMMUTABLE, 0, "{path}");
            assert_eq!(attr.nlink, if attr.is_dir() { was.nlink } else { 1 }, "{path}");
        }
        settled(&v, Vec::new()).await;
        assert_eq!(clone(&v, &root(), top, "copy", PRESERVE).await, Err(Errno::EEXIST));
        // Slices live on until the last of both is gone.
        let unprotect = SetAttr { flags: Some(0), ..SetAttr::default() };
        v.client.setattr(&root(), v.find(top, "empty").await.expect("there"), unprotect).await.expect("unprotected");
        let (outcome, told, _) = remove(&v, &root(), "top", SKIP).await;
        assert_eq!(outcome, Ok(()));
        for file in told.freed() {
            assert_eq!(v.client.delete_file_data(file).await.expect("deleted"), [], "the copy still uses it");
        }
        settled(&v, Vec::new()).await;
        let (outcome, told, _) = remove(&v, &root(), "copy", SKIP).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(settled(&v, told.freed()).await.slice_refs.len(), 0);
    });
}

#[test]
fn without_preserving_a_copy_is_its_makers() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 5000).await.expect("written");
        let shared = SetAttr { uid: Some(5), gid: Some(6), mode: Some(0o6755), ..SetAttr::default() };
        v.client.setattr(&root(), f, shared).await.expect("given");
        let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        v.client.setattr(&root(), Ino::ROOT, open).await.expect("opened");
        let before = v.attr(Ino::ROOT).await;
        v.clock.advance(Duration::from_secs(10));
        let fresh = Cloning { preserve: false, umask: 0o027, threads: 1 };
        let copy = clone(&v, &user(7), f, "copy", fresh).await.expect("cloned");
        let attr = v.attr(copy).await;
        assert_eq!((attr.uid, attr.gid, attr.mode), (7, 7, 0o750), "no set-id bits for another owner");
        assert_eq!((attr.mtime, attr.atime), (v.clock.now(), v.clock.now()));
        let after = v.attr(Ino::ROOT).await;
        assert_eq!((after.nlink, after.mtime), (before.nlink, v.clock.now()));
        // A user cannot give away what it copies, but keeps the rest.
        let kept = v.attr(clone(&v, &user(7), f, "kept", PRESERVE).await.expect("cloned")).await;
        assert_eq!((kept.uid, kept.gid, kept.mode), (7, 7, 0o755));
        assert_eq!(kept.mtime, v.attr(f).await.mtime);
        let owned = v.attr(clone(&v, &user(5), f, "owned", PRESERVE).await.expect("cloned")).await;
        assert_eq!((owned.uid, owned.gid, owned.mode), (5, 5, 0o4755));
        settled(&v, Vec::new()).await;
    });
}

#[test]
fn what_may_not_be_copied_is_not() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let top = make_tree(&v).await;
        let secret = v.find(top, "deep").await.expect("there");
        let closed = SetAttr { mode: Some(0o700), ..SetAttr::default() };
        v.client.setattr(&root(), secret, closed).await.expect("closed");
        let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        v.client.setattr(&root(), Ino::ROOT, open).await.expect("opened");
        // Devices are for root to make, and so to copy.
        let device = v.find(top, "device").await.expect("there");
        assert_eq!(clone(&v, &user(7), device, "copy", PRESERVE).await, Err(Errno::EPERM));
        v.unlink(top, "device").await.expect("unlinked");
        assert_eq!(clone(&v, &user(7), top, "copy", PRESERVE).await, Err(Errno::EACCES));
        assert_eq!(v.find(Ino::ROOT, "copy").await, Err(Errno::ENOENT));
        let cx = root();
        let told = Told::default();
        let into = |source, to: Ino, name: &'static [u8]| {
            let (v, cx, told) = (&v, &cx, &told);
            let progress = Progress::default();
            async move { posix(v.client.clone_tree(cx, source, (to, name), PRESERVE, told, &progress).await) }
        };
        assert_eq!(into(top, secret, b"x").await, Err(Errno::EINVAL), "into itself");
        assert_eq!(into(top, Ino::TRASH_ROOT, b"x").await, Err(Errno::EPERM));
        assert_eq!(into(top, Ino::ROOT, b".trash").await, Err(Errno::EPERM));
        assert_eq!(into(top, Ino::ROOT, b"").await, Err(Errno::ENOENT));
        assert_eq!(into(top, Ino(4711), b"x").await, Err(Errno::ENOENT));
        assert_eq!(into(Ino(4711), Ino::ROOT, b"x").await, Err(Errno::ENOENT));
        let gone = v.file(Ino::ROOT, "gone").await;
        v.unlink(Ino::ROOT, "gone").await.expect("unlinked");
        assert_eq!(into(gone, Ino::ROOT, b"x").await, Err(Errno::EPERM), "out of the trash");
        let protect = SetAttr { flags: Some(flags::IMMUTABLE), ..SetAttr::default() };
        let dir = v.mkdir(Ino::ROOT, "dir").await;
        v.client.setattr(&root(), dir, protect).await.expect("protected");
        assert_eq!(into(top, dir, b"x").await, Err(Errno::EPERM));
        settled(&v, told.freed()).await;
    });
}

#[test]
fn a_copy_that_does_not_fit_leaves_nothing() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &Format { inodes: 16, ..format(0) }).await;
        let top = make_tree(&v).await;
        assert_eq!(clone(&v, &root(), top, "copy", PRESERVE).await, Err(Errno::ENOSPC));
        assert_eq!(v.find(Ino::ROOT, "copy").await, Err(Errno::ENOENT));
        let all = settled(&v, Vec::new()).await;
        assert_eq!(all.total_inodes, 10);
    });
}

#[test]
fn of_a_copy_and_another_node_one_gets_the_name() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let top = make_tree(&v).await;
        let (told, progress) = (Told::default(), Progress::default());
        let cx = root();
        let copying = v.client.clone_tree(&cx, top, (Ino::ROOT, b"copy"), PRESERVE, &told, &progress);
        let taking = async {
            // The copy has begun once its top is counted.
            while progress.get().0 == 0 {
                tokio::task::yield_now().await;
            }
            posix(v.client.mknod(&cx, Ino::ROOT, b"copy", node(FileType::File, 0o644)).await)
        };
        let (copied, taken) = tokio::join!(copying, taking);
        let winner = match (posix(copied), taken) {
            (Ok(copy), Err(Errno::EEXIST)) => copy,
            (Err(Errno::EEXIST), Ok((taken, _))) => taken,
            other => panic!("{other:?}"),
        };
        assert_eq!(v.find(Ino::ROOT, "copy").await, Ok(winner));
        settled(&v, told.freed()).await;
    });
}

/// A clock at which a client dies when it has asked so often.
#[derive(Debug)]
struct LastHour {
    clock: Arc<StandingClock>,
    asked: AtomicU64,
    dies_at: AtomicU64,
}

impl Clock for LastHour {
    fn now(&self) -> Timestamp {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        assert_ne!(asked, self.dies_at.load(Ordering::Relaxed), "the client dies here");
        self.clock.now()
    }

    fn awake(&self) -> Duration {
        self.clock.awake()
    }
}

#[test]
fn what_a_dead_client_left_of_a_copy_goes_after_a_day() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let top = make_tree(&v).await;
        let (clock, never) = (Arc::clone(&v.clock), AtomicU64::new(u64::MAX));
        let last = Arc::new(LastHour { clock, asked: AtomicU64::default(), dies_at: never });
        let clock = Arc::clone(&last) as Arc<dyn Clock>;
        let client = v.second(ClientConfig { clock, ..config(&v.clock) }).await;
        // Each step asks for the time: this one is in the middle of the tree.
        last.dies_at.store(last.asked.load(Ordering::Relaxed) + 6, Ordering::Relaxed);
        let copying = tokio::spawn(async move {
            let (told, progress) = (Told::default(), Progress::default());
            client.clone_tree(&root(), top, (Ino::ROOT, b"copy"), PRESERVE, &told, &progress).await.map(drop)
        });
        assert!(copying.await.is_err_and(|error| error.is_panic()), "the client dies");
        assert_eq!(v.find(Ino::ROOT, "copy").await, Err(Errno::ENOENT), "no half tree is seen");
        let before = |v: &Volume| Timestamp::from_secs(v.clock.now().secs - 24 * 3600);
        assert_eq!(v.client.clean_detached(before(&v), 100).await.expect("cleaned"), []);
        v.clock.advance(Duration::from_secs(24 * 3600 + 1));
        let freed = v.client.clean_detached(before(&v), 100).await.expect("cleaned");
        outlive(&v.clock, &v.client).await;
        let read = v.engine.fetch(&[Key::Node(top)]).await.expect("fetched");
        assert!(read.node(top).is_some());
        for file in freed {
            for slice in v.client.delete_file_data(file).await.expect("deleted") {
                v.client.forget_slice(slice).await.expect("forgotten");
            }
        }
        // What the dead client had not told of used space stays untold, so the counters are not looked at.
        let all = Snapshot::take(v.engine.as_ref()).await;
        leaks::check(&v.home, &all);
        assert_eq!(all.nodes.len(), 11, "the root and the source");
    });
}

#[test]
fn trees_are_counted_from_statistics_and_one_by_one() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let top = make_tree(&v).await;
        let progress = Progress::default();
        let count = |ino, recursive, strict| {
            let (v, progress) = (&v, &progress);
            async move { v.client.summarize(&Caller::root(), ino, recursive, strict, progress).await.expect("counted") }
        };
        let length_bytes = (70 << 20) + 4096 + (1 << 20) + 100 + 100;
        let size_bytes = (70 << 20) + 4096 + (1 << 20) + 9 * 4096;
        let all = Summary { length_bytes, size_bytes, files: 8, dirs: 3 };
        assert_eq!(count(top, true, true).await, all);
        assert_eq!(count(top, true, false).await, all, "statistics say the same");
        let own = count(top, false, true).await;
        assert_eq!((own.files, own.dirs), (6, 2));
        assert_eq!(count(top, false, false).await, own);
        let empty = v.find(v.find(top, "deep").await.expect("there"), "deeper").await.expect("there");
        let one = Summary { length_bytes: 0, size_bytes: 4096, files: 0, dirs: 1 };
        assert_eq!((count(empty, true, false).await, count(empty, false, true).await), (one, one));
        let file = v.find(top, "file").await.expect("there");
        assert_eq!(count(file, true, false).await.length_bytes, (70 << 20) + 4096);
        assert!(posix(v.client.summarize(&Caller::root(), Ino(4711), true, true, &progress).await).is_err());
    });
}

#[test]
fn the_largest_parts_come_first_and_the_rest_is_folded() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let top = make_tree(&v).await;
        for strict in [false, true] {
            let progress = Progress::default();
            let detail = TreeDetail { depth: 2, entries: 3, strict };
            let tree = v.client.summarize_tree(&Caller::root(), top, detail, &progress).await.expect("counted");
            assert_eq!(
                tree.summary,
                v.client.summarize(&Caller::root(), top, true, strict, &Progress::default()).await.expect("counted")
            );
            let shown: Vec<_> =
                tree.children.iter().map(|c| (String::from_utf8_lossy(&c.path).into_owned(), c.kind)).collect();
            let (file, dir) = (FileType::File, FileType::Directory);
            let wanted = [("file", file), ("hole", file), ("deep", dir), ("...", file)];
            assert_eq!(shown, wanted.map(|(path, kind)| (path.to_owned(), kind)));
            assert_eq!(tree.children[3].summary.files, 4);
            let below: Vec<_> = tree.children[2].children.iter().map(|c| c.path.clone()).collect();
            assert_eq!(below, [&b"deep/deeper"[..], b"deep/file2", b"deep/file2-again"]);
            let flat = TreeDetail { depth: 0, ..detail };
            let flat = v.client.summarize_tree(&Caller::root(), top, flat, &progress).await.expect("counted");
            assert_eq!((flat.summary, flat.children.len()), (tree.summary, 0));
        }
    });
}

#[test]
fn every_path_of_a_node_is_found() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let top = make_tree(&v).await;
        let paths = |ino| {
            let v = &v;
            async move {
                let found = v.client.paths(ino, 100).await.expect("found");
                found.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>()
            }
        };
        assert_eq!(paths(Ino::ROOT).await, ["/"]);
        assert_eq!(paths(top).await, ["/top"]);
        let deep = v.find(top, "deep").await.expect("there");
        let file = v.find(deep, "file2").await.expect("there");
        v.client.link(&root(), file, Ino::ROOT, b"third").await.expect("linked");
        assert_eq!(paths(file).await, ["/third", "/top/deep/file2", "/top/deep/file2-again"]);
        assert_eq!(v.client.paths(file, 2).await.expect("found").len(), 2);
        let gone = v.file(top, "gone").await;
        v.unlink(top, "gone").await.expect("unlinked");
        assert_eq!(paths(gone).await, [format!("/.trash/2023-11-14-22/{top}-{gone}-gone")]);
        assert!(posix(v.client.paths(Ino(4711), 100).await).is_err());
    });
}
