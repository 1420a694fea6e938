//! Operations that overlap on an engine which reads first and applies optimistically, as Redis will: whatever the
//! schedule, answers and records are those of some serial order.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, ChunkIndex, Errno, FileType, Ino, Meta, MetaError, MetaResult, SetAttr, SliceRecord, Timestamp,
    meta::{DirCursor, DirPage, OpenFlags, RenameFlags},
};
use juicefs_meta::{
    Client, Engine,
    engine::{
        ApplyOutcome, Caps, Found, Patience, Scan,
        mem::MemEngine,
        optimistic::{SharedOp, Transactions},
    },
    record::{Counter, DirStat, Key, Value},
    txn::{Effects, ReadSet, Step},
};
use juicefs_testkit::unsteady::Unsteady;
use proptest::prelude::*;

use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Volume, block_on, format, node, posix, root, user, write_slice},
};

/// Gives the schedule a chance to run something else.
async fn pause() {
    tokio::task::yield_now().await;
}

/// The in-memory engine, used through `fetch` and `apply` only.
pub(crate) struct Optimistic {
    inner: Arc<MemEngine>,
    /// How it lists directories; `None`: by name, each once.
    listing: Option<Unsteady>,
    conflicts: AtomicUsize,
    /// It runs operations itself, so that they are booked before their answer is lost.
    losing: bool,
    /// Of a hundred operations or looks, so many end with "unavailable", whether or not they were done.
    lost: AtomicU32,
}

impl Optimistic {
    pub(crate) fn new(inner: Arc<MemEngine>) -> Arc<Self> {
        Self::with(inner, None)
    }

    /// Lists directories as an engine without order may.
    pub(crate) fn unsteady(inner: Arc<MemEngine>, listing: Unsteady) -> Arc<Self> {
        Self::with(inner, Some(listing))
    }

    /// Loses the answers of operations that were done, once [`Optimistic::lose`] says so.
    pub(crate) fn losing(inner: Arc<MemEngine>) -> Arc<Self> {
        Arc::new(Self { inner, listing: None, conflicts: AtomicUsize::new(0), losing: true, lost: AtomicU32::new(0) })
    }

    fn with(inner: Arc<MemEngine>, listing: Option<Unsteady>) -> Arc<Self> {
        Arc::new(Self { inner, listing, conflicts: AtomicUsize::new(0), losing: false, lost: AtomicU32::new(0) })
    }

    /// How often an operation was judged anew.
    pub(crate) fn conflicts(&self) -> usize {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// From now on so many of a hundred are lost.
    pub(crate) fn lose(&self, percent: u32) {
        self.lost.store(percent, Ordering::Relaxed);
    }

    fn may_lose(&self) -> MetaResult<()> {
        if rand::random_range(0..100) < self.lost.load(Ordering::Relaxed) {
            return Err(MetaError::Unavailable("as the test wants it".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl Transactions for Optimistic {
    async fn run(&self, op: SharedOp) -> MetaResult<()> {
        self.may_lose()?;
        loop {
            let keys = op.lock().keys();
            let mut read = self.inner.fetch(&keys).await?;
            pause().await;
            let verdict = loop {
                let wanted = op.lock().step(&read);
                match wanted {
                    Step::Fetch(keys) => {
                        read.extend(self.inner.fetch(&keys).await?);
                        pause().await;
                    }
                    Step::Apply(effects) => break Some(effects),
                    Step::Stop => break None,
                }
            };
            // What was read in several steps was never true all at once, unless it still is: failures need the check too.
            let decided = verdict.is_some();
            match self.apply(&read, &verdict.unwrap_or_default(), Patience::Budget).await? {
                ApplyOutcome::Conflict => {}
                ApplyOutcome::Applied(applied) => {
                    if decided {
                        op.lock().applied(&applied);
                    }
                    return self.may_lose();
                }
            }
        }
    }
}

#[async_trait]
impl Engine for Optimistic {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn caps(&self) -> Caps {
        let caps = self.inner.caps();
        Caps { lists_by_name: caps.lists_by_name && self.listing.is_none(), ..caps }
    }
    fn patience(&self) -> Duration {
        self.inner.patience()
    }
    async fn load_setting(&self) -> MetaResult<Option<Bytes>> {
        self.inner.load_setting().await
    }
    async fn prepare(&self) -> MetaResult<()> {
        self.inner.prepare().await
    }
    async fn is_empty(&self) -> MetaResult<bool> {
        self.inner.is_empty().await
    }
    async fn reset(&self) -> MetaResult<()> {
        self.inner.reset().await
    }
    async fn fetch(&self, keys: &[Key]) -> MetaResult<ReadSet> {
        pause().await;
        self.may_lose()?;
        let read = self.inner.fetch(keys).await?;
        pause().await;
        Ok(read)
    }
    async fn apply(&self, read: &ReadSet, effects: &Effects, patience: Patience) -> MetaResult<ApplyOutcome> {
        pause().await;
        let outcome = self.inner.apply(read, effects, patience).await?;
        self.conflicts.fetch_add(usize::from(outcome == ApplyOutcome::Conflict), Ordering::Relaxed);
        Ok(outcome)
    }
    fn transactions(&self) -> Option<&dyn Transactions> {
        self.losing.then_some(self)
    }
    async fn lookup(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<Found>> {
        pause().await;
        self.inner.lookup(parent, name).await
    }
    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        let inner: &dyn Engine = self.inner.as_ref();
        match self.listing {
            Some(listing) => listing.page(inner, ino, from, with_attrs, limit).await,
            None => inner.readdir(ino, from, with_attrs, limit).await,
        }
    }
    async fn chunk_indexes(
        &self,
        ino: Ino,
        from: ChunkIndex,
        to: ChunkIndex,
        limit: usize,
    ) -> MetaResult<Vec<ChunkIndex>> {
        self.inner.chunk_indexes(ino, from, to, limit).await
    }
    async fn counter_add(&self, counter: Counter, delta: i64) -> MetaResult<i64> {
        self.inner.counter_add(counter, delta).await
    }
    async fn scan(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Vec<(Key, Value)>> {
        self.inner.scan(scan, after, limit).await
    }
    async fn add_dir_stats(&self, deltas: Vec<(Ino, DirStat)>) -> MetaResult<Vec<Ino>> {
        self.inner.add_dir_stats(deltas).await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Something that one of the concurrent callers does. Places are among those that [`stage`] sets up.
#[derive(Clone, Debug)]
enum Act {
    Make { dir: usize, name: &'static str, kind: FileType, uid: u32 },
    Create { dir: usize, name: &'static str },
    Unlink { dir: usize, name: &'static str },
    Rmdir { dir: usize, name: &'static str },
    Rename { from: (usize, &'static str), to: (usize, &'static str), exchange: bool },
    Link { dir: usize, name: &'static str },
    Chmod { ino: usize, mode: u16 },
    Truncate { length: u64 },
    Write,
    Open,
    Xattr,
}

/// Directories of the stage: the root, `/a`, `/b`, `/a/c`; the file `/a/f` (also `/b/g`) comes after them.
const DIRS: usize = 4;
const FILE: usize = DIRS;

async fn stage(volume: &Volume) -> Vec<Ino> {
    let a = volume.mkdir(Ino::ROOT, "a").await;
    let b = volume.mkdir(Ino::ROOT, "b").await;
    let c = volume.mkdir(a, "c").await;
    let f = volume.file(a, "f").await;
    volume.write(f, 0, 5000).await.expect("written");
    volume.client.link(&root(), f, b, b"g").await.expect("linked");
    let h = volume.file(a, "h").await;
    volume.write(h, 0, 100).await.expect("written");
    for dir in [a, b, c] {
        let set = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        volume.client.setattr(&root(), dir, set).await.expect("set");
    }
    vec![Ino::ROOT, a, b, c, f, h]
}

fn shown(attr: &Attr) -> String {
    format!("{:?} {:o} x{} {}", attr.kind, attr.mode, attr.nlink, attr.length)
}

/// Does it; the answer without inode numbers, which depend on who asked first.
async fn act(client: Arc<Client>, stage: Vec<Ino>, now: Timestamp, act: Act) -> Result<String, Errno> {
    let cx = root();
    match act {
        Act::Make { dir, name, kind, uid } => {
            let cx: Caller = user(uid);
            let made = client.mknod(&cx, stage[dir], name.as_bytes(), node(kind, 0o777)).await;
            posix(made).map(|(_, attr)| shown(&attr))
        }
        Act::Create { dir, name } => {
            let (new, flags) = (node(FileType::File, 0o644), OpenFlags { read: true, ..OpenFlags::default() });
            let made = posix(client.create(&cx, stage[dir], name.as_bytes(), new, false, flags).await);
            // It stays open. As with opening, attributes may show a removal that came between.
            made.map(|(_, attr)| format!("{:?} {:o} {}", attr.kind, attr.mode, attr.length))
        }
        Act::Unlink { dir, name } => {
            let removed = posix(client.unlink(&cx, stage[dir], name.as_bytes(), false).await);
            removed.map(|removed| format!("freed {}", removed.freed.is_some()))
        }
        Act::Rmdir { dir, name } => {
            posix(client.rmdir(&cx, stage[dir], name.as_bytes(), false).await).map(|_| String::new())
        }
        Act::Rename { from, to, exchange } => {
            let flags = RenameFlags { exchange, ..RenameFlags::default() };
            let ((from, name), (to, new_name)) = ((stage[from.0], from.1), (stage[to.0], to.1));
            let moved = client.rename(&cx, from, name.as_bytes(), to, new_name.as_bytes(), flags).await;
            posix(moved).map(|moved| format!("{} freed {}", shown(&moved.attr), moved.replaced.freed.is_some()))
        }
        Act::Link { dir, name } => {
            posix(client.link(&cx, stage[FILE], stage[dir], name.as_bytes()).await).map(|attr| shown(&attr))
        }
        Act::Chmod { ino, mode } => {
            let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
            posix(client.setattr(&cx, stage[ino], set).await).map(|attr| shown(&attr))
        }
        Act::Truncate { length } => {
            posix(client.truncate(&cx, stage[FILE], length, true).await).map(|attr| shown(&attr))
        }
        Act::Write => {
            let id = posix(client.new_slice_id().await)?;
            let record = SliceRecord { pos: 6000, id, size: 50, off: 0, len: 50 };
            let written = posix(write_slice(&client, stage[FILE], 0, record, now).await);
            // Of its length it only says what it is at least.
            let shown = |attr: &Attr| format!("{:?} {:o} x{}", attr.kind, attr.mode, attr.nlink);
            written.map(|written| format!("{} records {}", shown(&written.attr), written.chunks[0].1))
        }
        Act::Open => {
            let flags = OpenFlags { read: true, ..OpenFlags::default() };
            // Counted first and read after: attributes may show a removal that came between.
            posix(client.open(&cx, stage[FILE + 1], flags).await).map(|attr| format!("{:?}", attr.kind))
        }
        Act::Xattr => {
            let set = client.setxattr(&cx, stage[FILE], b"user.a", Bytes::from_static(b"1"), Default::default()).await;
            posix(set).map(|()| String::new())
        }
    }
}

/// The volume by path: what can be told apart without inode numbers.
fn canonical(all: &Snapshot, stage: &[Ino]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut first_path: BTreeMap<Ino, String> = BTreeMap::new();
    let mut todo = vec![(String::new(), Ino::ROOT), (".trash".to_owned(), Ino::TRASH_ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let Some(attr) = all.nodes.get(&ino) else { continue };
        let first = first_path.entry(ino).or_insert_with(|| path.clone()).clone();
        let chunks: Vec<_> = all.chunks.range((ino, 0)..=(ino, u32::MAX)).map(|(_, list)| list.len()).collect();
        let stat = all.dir_stats.get(&ino);
        let (mtime, ctime) = (attr.mtime, attr.ctime);
        out.insert(path.clone(), format!("{} ={first} {mtime:?} {ctime:?} {chunks:?} {stat:?}", shown(attr)));
        for ((_, name), edge) in all.edges.range((ino, Default::default())..).take_while(|((dir, _), _)| *dir == ino) {
            todo.push((format!("{path}/{name}"), edge.ino));
        }
    }
    let known = |ino: &Ino| stage.iter().position(|staged| staged == ino);
    for (_, ino) in &all.sustained {
        out.insert(format!("sustained {:?}", known(ino)), shown(&all.nodes[ino]));
    }
    out.extend(all.del_files.iter().map(|(ino, file)| (format!("removed {:?}", known(ino)), format!("{file:?}"))));
    out.insert("use".into(), format!("{} {}", all.used_space, all.total_inodes));
    out
}

type Outcome = (Vec<Result<String, Errno>>, BTreeMap<String, String>);

async fn settle(volume: &Volume, stage: &[Ino]) -> BTreeMap<String, String> {
    volume.client.flush_stats().await.expect("flushed");
    let all = Snapshot::take(volume.engine.as_ref()).await;
    invariants::check(&all);
    canonical(&all, stage)
}

/// One after the other, in this order.
fn serial(acts: &[Act], order: &[usize], trash: i64) -> Outcome {
    block_on(async {
        let volume = Volume::on(Arc::new(MemEngine::new()), &format(trash)).await;
        let stage = stage(&volume).await;
        let now = juicefs_core::Clock::now(volume.clock.as_ref());
        let mut answers = vec![Err(Errno::EIO); acts.len()];
        for at in order {
            answers[*at] = act(Arc::clone(&volume.client), stage.clone(), now, acts[*at].clone()).await;
        }
        (answers, settle(&volume, &stage).await)
    })
}

/// All at once, each step of the schedule letting one of them go on.
fn overlapped(acts: &[Act], schedule: &[usize], trash: i64) -> (Outcome, usize) {
    let engine = Optimistic::new(Arc::new(MemEngine::new()));
    block_on(async {
        let volume = Volume::on(Arc::clone(&engine) as Arc<dyn Engine>, &format(trash)).await;
        let stage = stage(&volume).await;
        let now = juicefs_core::Clock::now(volume.clock.as_ref());
        let client = &volume.client;
        type Running = Pin<Box<dyn Future<Output = Result<String, Errno>>>>;
        let mut running: Vec<Option<Running>> = Vec::new();
        for what in acts {
            running.push(Some(Box::pin(act(Arc::clone(client), stage.clone(), now, what.clone()))));
        }
        let mut answers = vec![Err(Errno::EIO); acts.len()];
        let turns = schedule.iter().copied().chain((0..10_000).map(|n| n % acts.len()));
        for at in turns.map(|n| n % acts.len()) {
            if let Some(future) = &mut running[at]
                && let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                answers[at] = answer;
                running[at] = None;
            }
        }
        assert!(running.iter().all(Option::is_none), "nobody waits for ever");
        ((answers, settle(&volume, &stage).await), engine.conflicts.load(Ordering::Relaxed))
    })
}

fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let shorter = orders(n - 1);
    shorter
        .iter()
        .flat_map(|order| {
            (0..n).map(|at| {
                let mut longer = order.clone();
                longer.insert(at, n - 1);
                longer
            })
        })
        .collect()
}

fn move_of_dir() -> impl Strategy<Value = (usize, &'static str)> {
    prop::sample::select(vec![(0, "a"), (0, "b"), (1, "c"), (2, "n"), (3, "n")])
}

fn acts() -> impl Strategy<Value = Act> {
    let name = || prop::sample::select(vec!["f", "g", "h", "c", "n"]);
    let dir = || 1..DIRS;
    prop_oneof![
        (dir(), name(), any::<bool>(), 0..2u32).prop_map(|(dir, name, is_dir, uid)| {
            let kind = if is_dir { FileType::Directory } else { FileType::Fifo };
            Act::Make { dir, name, kind, uid }
        }),
        (dir(), name()).prop_map(|(dir, name)| Act::Create { dir, name }),
        (dir(), name()).prop_map(|(dir, name)| Act::Unlink { dir, name }),
        Just(Act::Unlink { dir: 1, name: "h" }),
        (dir(), name()).prop_map(|(dir, name)| Act::Rmdir { dir, name }),
        Just(Act::Rmdir { dir: 0, name: "b" }),
        Just(Act::Rmdir { dir: 1, name: "c" }),
        (dir(), name(), dir(), name(), any::<bool>()).prop_map(|(from, name, to, new_name, exchange)| {
            Act::Rename { from: (from, name), to: (to, new_name), exchange }
        }),
        (move_of_dir(), 0..DIRS, any::<bool>()).prop_map(|(from, to, exchange)| {
            Act::Rename { from, to: (to, if exchange { "c" } else { "n" }), exchange }
        }),
        (dir(), name()).prop_map(|(dir, name)| Act::Link { dir, name }),
        (1..=FILE, prop::sample::select(vec![0o700u16, 0o777])).prop_map(|(ino, mode)| Act::Chmod { ino, mode }),
        prop::sample::select(vec![0u64, 5000, 9000]).prop_map(|length| Act::Truncate { length }),
        Just(Act::Write),
        Just(Act::Open),
        Just(Act::Xattr),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn overlapping_operations_have_a_serial_order(
        acts in prop::collection::vec(acts(), 2..4),
        schedule in prop::collection::vec(0..3usize, 0..24),
        trash in 0..2i64,
    ) {
        let (outcome, _) = overlapped(&acts, &schedule, trash);
        let serials: Vec<_> = orders(acts.len()).iter().map(|order| serial(&acts, order, trash)).collect();
        prop_assert!(serials.contains(&outcome), "{outcome:#?}\nis none of {serials:#?}");
    }
}

/// Stops the first act at each point in turn, runs the second to its end, then the rest of the first. The most conflicts
/// that this made.
fn conflicts_of(first: Act, second: Act) -> usize {
    let acts = [first, second];
    let serials: Vec<_> = orders(2).iter().map(|order| serial(&acts, order, 0)).collect();
    let stopped = (1..8).map(|at| {
        let (outcome, conflicts) = overlapped(&acts, &[vec![0; at], vec![1; 20]].concat(), 0);
        assert!(serials.contains(&outcome), "stopped at {at}: {outcome:#?}\nis none of {serials:#?}");
        conflicts
    });
    stopped.max().unwrap_or(0)
}

#[test]
fn a_file_is_not_opened_while_it_goes() {
    let unlink = Act::Unlink { dir: 1, name: "h" };
    let replace = Act::Rename { from: (1, "f"), to: (1, "h"), exchange: false };
    for removal in [unlink, replace] {
        conflicts_of(removal.clone(), Act::Open);
        conflicts_of(Act::Open, removal);
    }
}

#[test]
fn a_busy_directory_does_not_conflict_but_its_permissions_do() {
    let make = |name| Act::Make { dir: 1, name, kind: FileType::Directory, uid: 1 };
    assert_eq!(conflicts_of(make("x"), make("y")), 0);
    assert_eq!(conflicts_of(make("x"), Act::Create { dir: 1, name: "y" }), 0);
    assert_eq!(conflicts_of(make("x"), Act::Unlink { dir: 1, name: "f" }), 0);
    assert_eq!(conflicts_of(make("x"), make("x")), 1);
    assert_eq!(conflicts_of(make("x"), Act::Chmod { ino: 1, mode: 0o700 }), 1);
    assert_eq!(conflicts_of(Act::Write, Act::Write), 1);
}

/// Two directories moved into each other: whoever comes second finds what the first has done, however deep.
#[test]
fn directories_do_not_vanish_into_each_other() {
    let moved = |from, to, exchange| Act::Rename { from, to, exchange };
    let pairs = [
        // `/b` into `/a/c` and `/a` into `/b`: neither sees the other from where it moves.
        (moved((0, "b"), (3, "x"), false), moved((0, "a"), (2, "y"), false)),
        (moved((0, "b"), (3, "x"), false), moved((1, "c"), (2, "y"), false)),
        // `/b` changes places with what is below `/a`.
        (moved((0, "b"), (1, "c"), true), moved((0, "a"), (2, "y"), false)),
        (moved((0, "b"), (1, "f"), true), moved((0, "a"), (2, "y"), false)),
        (moved((1, "f"), (0, "b"), true), moved((0, "a"), (2, "y"), false)),
    ];
    for (one, other) in pairs {
        conflicts_of(one.clone(), other.clone());
        conflicts_of(other, one);
    }
}

/// A caller that goes away in the middle leaves the operation done or not done, and nothing counted that is not there.
#[test]
fn a_dropped_call_leaves_nothing_half_done() {
    let create = Act::Create { dir: 1, name: "n" };
    let removals = [Act::Unlink { dir: 1, name: "h" }, Act::Rename { from: (1, "f"), to: (1, "h"), exchange: false }];
    for what in removals.into_iter().chain([create, Act::Open, Act::Write, Act::Truncate { length: 9000 }]) {
        for polls in 0..8 {
            let engine = Optimistic::new(Arc::new(MemEngine::new()));
            block_on(async {
                let volume = Volume::on(engine, &format(0)).await;
                let stage = stage(&volume).await;
                let now = juicefs_core::Clock::now(volume.clock.as_ref());
                let mut call = Box::pin(act(Arc::clone(&volume.client), stage.clone(), now, what.clone()));
                let mut cx = Context::from_waker(Waker::noop());
                let done = (0..polls).any(|_| call.as_mut().poll(&mut cx).is_ready());
                drop(call);
                let opened = match what {
                    Act::Open if done => Some(stage[FILE + 1]),
                    Act::Create { dir, name } if done => volume.find(stage[dir], name).await.ok(),
                    _ => None,
                };
                if let Some(ino) = opened {
                    volume.client.close(ino).await.expect("closed");
                }
                settle(&volume, &stage).await;
                // Nothing counts as open any more, and nothing is held: what is removed now goes at once.
                for name in ["f", "h", "n"] {
                    if volume.find(stage[1], name).await.is_ok() {
                        volume.unlink(stage[1], name).await.expect("unlinked");
                    }
                }
                volume.client.flush_stats().await.expect("flushed");
                let all = Snapshot::take(volume.engine.as_ref()).await;
                assert!(all.sustained.is_empty(), "{what:?} dropped after {polls} polls");
                invariants::check(&all);
            });
        }
    }
}
