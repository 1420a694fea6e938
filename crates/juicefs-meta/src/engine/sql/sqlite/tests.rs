use std::{collections::BTreeMap, path::Path, pin::Pin};

use juicefs_core::{
    acl::AclRule,
    attr::{Attr, FileType, Timestamp},
    errno::Errno,
    error::MetaError,
    ids::{Name, SessionId, SliceId, SliceKey},
    lock::{LockKind, LockOwner, LockRange},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::{
    record::{AccountKey, DelFile, DelaySlices, Edge, HolderKey, NoteKey, Plock, Session},
    txn::{
        AccountEffect, Applied, ChunkEffect, EdgeEffect, Effect, LockEffect, NodeEffect, NodeGuard, NodePatch,
        PendingOp, SessionEffect, SliceEffect, Step, Usage, VolumeEffect,
    },
};

mod concurrency;
mod failure;
mod golden;

/// Drives a future on this thread; the engine needs no runtime.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

pub(super) fn engine_at(path: &Path, options: &str) -> SqliteEngine {
    SqliteEngine::open(&format!("{}{options}", path.display())).expect("a valid address")
}

/// A prepared engine in a directory that goes with it.
pub(super) fn fresh() -> (TempDir, SqliteEngine) {
    fresh_with("")
}

pub(super) fn fresh_with(options: &str) -> (TempDir, SqliteEngine) {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = engine_at(&dir.path().join("meta.db"), options);
    wait(engine.prepare()).expect("prepared");
    (dir, engine)
}

type Judge = Box<dyn FnMut(&ReadSet) -> Step + Send>;

/// An operation of a closure.
pub(super) struct TestOp {
    keys: Vec<Key>,
    judge: Judge,
    pub(super) applied: Option<Applied>,
}

impl TestOp {
    pub(super) fn new(keys: Vec<Key>, judge: impl FnMut(&ReadSet) -> Step + Send + 'static) -> Self {
        Self { keys, judge: Box::new(judge), applied: None }
    }

    /// Writes effects whatever is there.
    pub(super) fn write(list: Vec<Effect>) -> Self {
        Self::new(Vec::new(), move |_| Step::Apply(Effects { list: list.clone(), ..Effects::none() }))
    }
}

impl PendingOp for TestOp {
    fn name(&self) -> &'static str {
        "test"
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.clone()
    }

    fn step(&mut self, read: &ReadSet) -> Step {
        (self.judge)(read)
    }

    fn applied(&mut self, applied: &Applied) {
        self.applied = Some(applied.clone());
    }
}

/// Runs an operation and gives it back.
pub(super) fn run(engine: &SqliteEngine, op: TestOp) -> Pin<Box<dyn Future<Output = MetaResult<TestOp>> + '_>> {
    Box::pin(hand_over(engine, op))
}

pub(super) fn apply(engine: &SqliteEngine, list: Vec<Effect>) -> MetaResult<Applied> {
    Ok(wait(run(engine, TestOp::write(list)))?.applied.expect("applied"))
}

pub(super) fn get(engine: &SqliteEngine, key: Key) -> Option<Value> {
    wait(engine.fetch(std::slice::from_ref(&key))).expect("fetched").get(&key).cloned()
}

pub(super) fn file(parent: u64) -> Attr {
    let at = Timestamp { secs: 1_700_000_000, nanos: 123_456_789 };
    Attr { mode: 0o644, nlink: 1, parent: Ino(parent), atime: at, mtime: at, ctime: at, ..Attr::default() }
}

pub(super) fn create(ino: u64, name: &str) -> Vec<Effect> {
    vec![
        Effect::Node(Ino(ino), NodeEffect::Insert(file(1))),
        Effect::Edge(Ino(1), name.into(), EdgeEffect::Insert(Edge { ino: Ino(ino), kind: FileType::File })),
    ]
}

#[test]
fn opening_creates_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("meta.db");
    let engine = engine_at(&path, "");
    assert_eq!(wait(engine.load_setting()).expect("no volume"), None);
    assert!(wait(engine.is_empty()).expect("empty"));
    wait(engine.reset()).expect("nothing to remove");
    let error = apply(&engine, create(2, "a")).expect_err("no volume");
    assert!(matches!(&error, MetaError::Setting(s) if s.contains("not formatted")), "{error}");
    let error = wait(engine.fetch(&[Key::Node(Ino(1))])).expect_err("no volume");
    assert!(matches!(error, MetaError::Setting(_)), "{error}");
    assert!(!path.exists());
    assert!(engine.describe().starts_with("sqlite3:///"));
}

#[test]
fn what_is_no_database_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("meta.db");
    std::fs::write(&path, "certainly no database, whatever its name says").expect("written");
    let engine = engine_at(&path, "");
    for error in [wait(engine.load_setting()).map(drop), wait(engine.prepare())] {
        let error = error.expect_err("no database");
        assert!(matches!(&error, MetaError::Setting(s) if s.contains("not a SQLite database")), "{error}");
    }
}

#[test]
fn an_immutable_file_is_read_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("odd %20?name.db");
    let plain = Options { path: path.clone(), ..Options::parse("x").expect("valid") };
    {
        let database = Arc::new(Database::new(plain.clone()).expect("a directory"));
        let writer = WriterQueue::new(Arc::clone(&database)).expect("threads");
        wait(writer.change_tables(Database::prepare, true)).expect("prepared");
        wait(writer.run(Arc::new(Mutex::new(TestOp::write(create(2, "a")))))).expect("ran");
        wait(writer.close());
    }
    let frozen = Options { immutable: true, read_only: true, ..plain };
    let database = Arc::new(Database::new(frozen).expect("a directory"));
    let read = wait(Readers::new(Arc::clone(&database)).read(|link| fetch::snapshot(link, &[Key::Node(Ino(2))])));
    assert!(read.expect("read").node(Ino(2)).is_some());
    let writer = WriterQueue::new(database).expect("threads");
    let error = wait(writer.run(Arc::new(Mutex::new(TestOp::write(create(3, "b")))))).map(drop).expect_err("read only");
    assert!(matches!(error, MetaError::Posix(Errno::EROFS)));
    let files = std::fs::read_dir(dir.path()).expect("listed").count();
    assert_eq!(files, 1);
}

#[test]
fn volumes_with_other_prefixes_do_not_meet() {
    let (dir, one) = fresh();
    let two = engine_at(&dir.path().join("meta.db"), "?table_prefix=two");
    assert_eq!(wait(two.load_setting()).expect("read"), None);
    wait(two.prepare()).expect("prepared");
    apply(&one, vec![Effect::Volume(VolumeEffect::PutSetting("{}".into()))]).expect("applied");
    assert!(wait(two.is_empty()).expect("read") && !wait(one.is_empty()).expect("read"));
    apply(&two, create(9, "x")).expect("applied");
    assert_eq!(get(&one, Key::Node(Ino(9))), None);
    wait(one.reset()).expect("reset");
    assert!(wait(one.is_empty()).expect("read") && get(&two, Key::Node(Ino(9))).is_some());
    assert_eq!(wait(one.load_setting()).expect("read"), None);
}

#[test]
fn every_record_comes_back() {
    let (_dir, engine) = fresh();
    let slice = SliceKey { id: SliceId(7), size: 4096 };
    let records = vec![SliceRecord { pos: 0, id: slice.id, size: 4096, off: 0, len: 4096 }, SliceRecord::zeros(5, 6)];
    let rule =
        AclRule { owner: 7, group: 5, mask: 0xFFFF, other: 4, users: vec![(1, 2)], groups: vec![(3, 4), (5, 6)] };
    let odd = Name::new(b"\xff\x00odd\n'");
    let stat = DirStat { length: -1, space: 4096, inodes: 2 };
    let session = Session { expire_secs: 99, info: "{}".into() };
    let held = DelaySlices { since_secs: 5, slices: vec![slice, slice] };
    let gone = DelFile { length: 1 << 57, removed_secs: 77 };
    let edge = Edge { ino: Ino(2), kind: FileType::Symlink };
    apply(
        &engine,
        vec![
            Effect::Volume(VolumeEffect::PutSetting("{\"Name\": \"vol\"}".into())),
            Effect::Node(
                Ino(2),
                NodeEffect::Insert(Attr { uid: u32::MAX, rdev: u32::MAX, access_acl: 3, tier: 9, ..file(1) }),
            ),
            Effect::Edge(Ino(1), odd.clone(), EdgeEffect::Insert(edge)),
            Effect::Node(Ino(2), NodeEffect::PutSymlink(Bytes::from_static(b"/t\xff"))),
            Effect::Node(Ino(2), NodeEffect::PutXattr("user.empty".into(), Bytes::new())),
            Effect::Node(Ino(2), NodeEffect::PutXattr(odd.clone(), Bytes::from_static(b"\x00v"))),
            Effect::Chunk(Ino(2), 3, ChunkEffect::Put(records.clone())),
            Effect::Slice(SliceEffect::InsertRef(slice)),
            Effect::Slice(SliceEffect::AddRef(slice, 2)),
            Effect::Slice(SliceEffect::PutGarbage(SliceKey { id: SliceId(8), size: 1 })),
            Effect::Account(AccountEffect::PutDirStat(Ino(1), stat)),
            Effect::Volume(VolumeEffect::PutAcl(3, rule.clone())),
            Effect::Session(SessionId(4), SessionEffect::Put(session.clone())),
            Effect::Session(SessionId(4), SessionEffect::Sustain(Ino(2))),
            Effect::Session(SessionId(4), SessionEffect::Sustain(Ino(2))),
            Effect::Slice(SliceEffect::PutDelFile(Ino(5), gone)),
            Effect::Slice(SliceEffect::PutDelayed(SliceId(7), held.clone())),
            Effect::Account(AccountEffect::SetCounter(Counter::NextInode, 2)),
            Effect::Account(AccountEffect::AddCounter(Counter::NextInode, 1024)),
            Effect::Account(AccountEffect::AddCounter(Counter::UsedSpace, -4096)),
        ],
    )
    .expect("applied");
    let node = Attr { uid: u32::MAX, rdev: u32::MAX, access_acl: 3, tier: 9, ..file(1) };
    let expected = [
        (Key::Node(Ino(2)), Some(Value::Node(node.clone()))),
        (Key::Node(Ino(3)), None),
        (Key::Edge(Ino(1), odd.clone()), Some(Value::Edge(edge))),
        (Key::HasEntries(Ino(1)), Some(Value::HasEntries(true))),
        (Key::HasEntries(Ino(2)), Some(Value::HasEntries(false))),
        (Key::Symlink(Ino(2)), Some(Value::Bytes(Bytes::from_static(b"/t\xff")))),
        (Key::Xattr(Ino(2), "user.empty".into()), Some(Value::Bytes(Bytes::new()))),
        (Key::Xattr(Ino(2), odd.clone()), Some(Value::Bytes(Bytes::from_static(b"\x00v")))),
        (Key::Chunk(Ino(2), 3), Some(Value::Chunk(records))),
        (Key::ChunkIndexes(Ino(2), 0, 3), Some(Value::ChunkIndexes(vec![]))),
        (Key::ChunkIndexes(Ino(2), 0, u32::MAX), Some(Value::ChunkIndexes(vec![3]))),
        (Key::SliceRef(slice), Some(Value::SliceRef(3))),
        (Key::SliceRef(SliceKey { id: SliceId(9), size: 1 }), None),
        (Key::Parents(Ino(2)), Some(Value::Parents(BTreeMap::from([(Ino(1), 1)])))),
        (Key::Account(AccountKey::DirStat(Ino(1))), Some(Value::DirStat(stat))),
        (Key::Acl(3), Some(Value::Acl(rule))),
        (Key::Holder(HolderKey::Session(SessionId(4))), Some(Value::Session(session))),
        (Key::Holder(HolderKey::Sustained(SessionId(4), Ino(2))), Some(Value::Sustained)),
        (Key::Holder(HolderKey::Sustained(SessionId(4), Ino(3))), None),
        (Key::Note(NoteKey::DelFile(Ino(5), 1 << 57)), Some(Value::DelFile(gone))),
        (Key::Note(NoteKey::DelaySlices(SliceId(7), 5)), Some(Value::DelaySlices(held))),
        (Key::Account(AccountKey::Counter(Counter::NextInode)), Some(Value::Counter(1026))),
        (Key::Account(AccountKey::Counter(Counter::UsedSpace)), Some(Value::Counter(-4096))),
        (Key::Account(AccountKey::Counter(Counter::NextChunk)), None),
        (Key::Account(AccountKey::Counter(Counter::AclMaxId)), Some(Value::Counter(3))),
    ];
    let read = wait(engine.fetch(&expected.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>())).expect("fetched");
    for (key, value) in expected {
        assert_eq!(read.get(&key), value.as_ref(), "{key:?}");
    }
    assert_eq!(
        wait(engine.lookup(Ino(1), odd.as_bytes())).expect("found"),
        Some(Found { edge, attr: Some(node), stored: None })
    );
    let dead = wait(engine.scan(Scan::DeadSlices, None, 10)).expect("scanned");
    assert_eq!(dead, [(Key::SliceRef(SliceKey { id: SliceId(8), size: 1 }), Value::SliceRef(0))]);
}

#[test]
fn removals_remove() {
    let (_dir, engine) = fresh();
    let slice = SliceKey { id: SliceId(7), size: 4096 };
    let mut list = create(2, "a");
    list.extend([
        Effect::Node(Ino(2), NodeEffect::PutXattr("user.a".into(), "1".into())),
        Effect::Node(Ino(2), NodeEffect::PutXattr("user.b".into(), "2".into())),
        Effect::Slice(SliceEffect::InsertRef(slice)),
        Effect::Account(AccountEffect::PutDirStat(Ino(2), DirStat::default())),
        Effect::Session(SessionId(4), SessionEffect::Put(Session { expire_secs: 1, info: Bytes::new() })),
        Effect::Session(SessionId(4), SessionEffect::Sustain(Ino(2))),
        Effect::Chunk(Ino(2), 0, ChunkEffect::Put(vec![SliceRecord::zeros(0, 1)])),
        Effect::Chunk(Ino(2), 1, ChunkEffect::Put(vec![SliceRecord::zeros(0, 1)])),
    ]);
    apply(&engine, list).expect("applied");
    apply(
        &engine,
        vec![
            Effect::Edge(Ino(1), "a".into(), EdgeEffect::Delete),
            Effect::Node(Ino(2), NodeEffect::Delete),
            Effect::Node(Ino(2), NodeEffect::DeleteXattr("user.a".into())),
            Effect::Node(Ino(2), NodeEffect::DeleteXattrs),
            Effect::Slice(SliceEffect::DeleteRef(slice)),
            Effect::Account(AccountEffect::DeleteDirStat(Ino(2))),
            Effect::Account(AccountEffect::DeleteDirQuota(Ino(2))),
            Effect::Session(SessionId(4), SessionEffect::DeleteLocks),
            Effect::Session(SessionId(4), SessionEffect::Delete),
            Effect::Session(SessionId(4), SessionEffect::Release(Ino(2))),
            Effect::Chunk(Ino(2), 0, ChunkEffect::Delete),
            Effect::Chunk(Ino(2), 1, ChunkEffect::Put(vec![])),
            Effect::Account(AccountEffect::DeleteAllDirStats),
            Effect::Account(AccountEffect::DeleteAllUserGroupQuotas),
        ],
    )
    .expect("applied");
    assert!(wait(engine.is_empty()).expect("read"));
}

#[test]
fn appending_reports_the_length_of_the_list() {
    let (_dir, engine) = fresh();
    let record = |at| SliceRecord { pos: at, id: SliceId(0), size: 0, off: 0, len: 1 };
    let append = |n: u32| Effect::Chunk(Ino(2), 0, ChunkEffect::Append((0..n).map(record).collect()));
    assert_eq!(apply(&engine, vec![append(1)]).expect("applied").appended, [1]);
    assert_eq!(apply(&engine, vec![append(2), append(1)]).expect("applied").appended, [3, 4]);
    let expected: Vec<_> = [0, 0, 1, 0].map(record).to_vec();
    assert_eq!(get(&engine, Key::Chunk(Ino(2), 0)), Some(Value::Chunk(expected)));
}

#[test]
fn patches_move_times_forward_only() {
    let (_dir, engine) = fresh();
    apply(&engine, create(2, "a")).expect("applied");
    let time = |secs, nanos| Timestamp { secs, nanos };
    let patch = |nlink, secs, nanos| {
        let patch = NodePatch::links(nlink, Some(time(secs, nanos)));
        apply(&engine, vec![Effect::Node(Ino(2), NodeEffect::Patch(patch))]).expect("applied");
        match get(&engine, Key::Node(Ino(2))) {
            Some(Value::Node(attr)) => (attr.nlink, attr.mtime, attr.ctime),
            other => panic!("{other:?}"),
        }
    };
    let base = time(1_700_000_000, 123_456_789);
    assert_eq!(patch(1, 1_600_000_000, 999_999_999), (2, base, base));
    assert_eq!(patch(0, 1_700_000_000, 123_456_788), (2, base, base));
    let later = time(1_700_000_000, 123_456_790);
    assert_eq!(patch(-1, later.secs, later.nanos), (1, later, later));
    let much_later = time(1_700_000_001, 0);
    assert_eq!(patch(0, much_later.secs, much_later.nanos), (1, much_later, much_later));
    let error =
        apply(&engine, vec![Effect::Node(Ino(3), NodeEffect::Patch(NodePatch::default()))]).expect_err("no node");
    assert!(matches!(error, MetaError::Corrupt { .. }));
}

#[test]
fn listing_goes_by_name_and_page() {
    let (_dir, engine) = fresh();
    let mut list: Vec<_> = (2..27).flat_map(|ino| create(ino, &format!("f{:02}", 100 - ino))).collect();
    list.push(Effect::Edge(Ino(1), "dangling".into(), EdgeEffect::Insert(Edge { ino: Ino(99), kind: FileType::File })));
    apply(&engine, list).expect("applied");
    for (attrs, count) in [(false, 26), (true, 25)] {
        let (mut seen, mut from) = (Vec::new(), None);
        loop {
            let page = wait(engine.readdir(Ino(1), from, attrs, 4)).expect("listed");
            assert!(page.entries.len() <= 4);
            assert!(page.entries.iter().all(|entry| entry.attr.is_some() == attrs));
            seen.extend(page.entries.into_iter().map(|entry| entry.name));
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        assert_eq!(seen.len(), count);
        assert!(seen.is_sorted());
    }
    assert_eq!(wait(engine.lookup(Ino(1), b"dangling")).expect("found").map(|found| found.attr), Some(None));
    assert!(wait(engine.readdir(Ino(5), None, true, 10)).expect("listed").entries.is_empty());
}

#[test]
fn scans_go_on_after_a_key() {
    let (_dir, engine) = fresh();
    let mut list = Vec::new();
    for n in 1..=5 {
        list.push(Effect::Session(SessionId(n), SessionEffect::Put(Session { expire_secs: 9, info: Bytes::new() })));
        list.push(Effect::Session(SessionId(1), SessionEffect::Sustain(Ino(n))));
        list.push(Effect::Slice(SliceEffect::PutDelFile(Ino(n), DelFile { length: n, removed_secs: n.cast_signed() })));
        list.push(Effect::Slice(SliceEffect::PutGarbage(SliceKey { id: SliceId(n), size: 1 })));
        let slices = vec![SliceKey { id: SliceId(n), size: 1 }];
        list.push(Effect::Slice(SliceEffect::PutDelayed(
            SliceId(n),
            DelaySlices { since_secs: n.cast_signed(), slices },
        )));
        list.push(Effect::Chunk(
            Ino(1),
            u32::try_from(n).expect("small") - 1,
            ChunkEffect::Put(vec![SliceRecord::zeros(0, 1)]),
        ));
        list.push(Effect::Node(Ino(1), NodeEffect::PutXattr(Name::from(format!("user.{n}").as_str()), Bytes::new())));
        let (id, bits) = (u32::try_from(n).expect("small"), 7);
        let rule = AclRule { owner: bits, group: bits, mask: bits, other: bits, users: vec![], groups: vec![] };
        list.push(Effect::Volume(VolumeEffect::PutAcl(id, rule)));
    }
    apply(&engine, list).expect("applied");
    let scans = [
        (Scan::Sessions, 5),
        (Scan::Sustained(SessionId(1)), 5),
        (Scan::Sustained(SessionId(2)), 0),
        (Scan::DelFiles { before_secs: 4 }, 3),
        (Scan::DeadSlices, 5),
        (Scan::DelaySlices { before_secs: 6 }, 5),
        (Scan::Chunks { ino: Ino(1), from: 0, to: 1000 }, 5),
        (Scan::Xattrs(Ino(1)), 5),
        (Scan::Acls, 5),
    ];
    for (scan, count) in scans {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let page = wait(engine.scan(scan, after.take(), 2)).expect("scanned");
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            keys.extend(page.into_iter().map(|(key, _)| key));
        }
        assert_eq!(keys.len(), count, "{scan:?}");
        assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]), "{scan:?}");
    }
}

#[test]
fn operations_read_what_they_ask_for() {
    let (_dir, engine) = fresh();
    apply(&engine, create(2, "a")).expect("applied");
    let edge = Key::Edge(Ino(1), "a".into());
    let asked = edge.clone();
    let op = TestOp::new(vec![edge], move |read| {
        let Some(Value::Edge(edge)) = read.get(&asked) else { return Step::Stop };
        if !read.contains(&Key::Node(edge.ino)) {
            return Step::Fetch(vec![Key::Node(edge.ino)]);
        }
        let attr = read.node(edge.ino).cloned().expect("the node");
        Step::Apply(Effects {
            list: vec![Effect::Node(edge.ino, NodeEffect::Update(Attr { uid: 5, ..attr }))],
            ..Effects::none()
        })
    });
    wait(run(&engine, op)).expect("ran");
    assert!(matches!(get(&engine, Key::Node(Ino(2))), Some(Value::Node(Attr { uid: 5, .. }))));
    let error = wait(run(&engine, TestOp::new(vec![], |_| Step::Fetch(vec![])))).map(drop).expect_err("never ends");
    assert!(matches!(error, MetaError::Corrupt { .. }), "{error}");
    let stopped = wait(run(&engine, TestOp::new(vec![], |_| Step::Stop))).expect("stopped");
    assert!(stopped.applied.is_none());
}

#[test]
fn guarded_effects_conflict_when_something_changed() {
    let (_dir, engine) = fresh();
    apply(&engine, create(2, "a")).expect("applied");
    let keys = vec![Key::Node(Ino(2)), Key::Edge(Ino(1), "b".into())];
    let read = wait(engine.fetch(&keys)).expect("fetched");
    let touched = Some(Timestamp::from_secs(1_800_000_000));
    apply(&engine, vec![Effect::Node(Ino(2), NodeEffect::Patch(NodePatch::links(0, touched)))]).expect("applied");
    let mut effects = Effects { list: create(3, "b"), ..Effects::none() };
    assert_eq!(wait(engine.apply(&read, &effects, Patience::Budget)).expect("judged"), ApplyOutcome::Conflict);
    effects.narrowed = vec![(Ino(2), NodeGuard::Permissions)];
    let outcome = wait(engine.apply(&read, &effects, Patience::Budget)).expect("judged");
    assert_eq!(outcome, ApplyOutcome::Applied(Applied::default()));
    assert_eq!(wait(engine.apply(&read, &effects, Patience::Budget)).expect("judged"), ApplyOutcome::Conflict);
}

#[test]
fn counters_and_statistics_add_up() {
    let (_dir, engine) = fresh();
    assert_eq!(wait(engine.counter_add(Counter::NextInode, 1024)).expect("added"), 1024);
    assert_eq!(wait(engine.counter_add(Counter::NextInode, 1024)).expect("added"), 2048);
    assert_eq!(wait(engine.counter_add(Counter::AclMaxId, 2)).expect("added"), 2);
    assert_eq!(wait(engine.counter_add(Counter::AclMaxId, 1)).expect("added"), 3);
    let one = DirStat { length: 1, space: 4096, inodes: 1 };
    apply(&engine, vec![Effect::Account(AccountEffect::PutDirStat(Ino(5), one))]).expect("applied");
    let missing = wait(engine.add_dir_stats(vec![(Ino(5), one), (Ino(6), one), (Ino(5), one)])).expect("added");
    assert_eq!(missing, [Ino(6)]);
    let sum = DirStat { length: 3, space: 3 * 4096, inodes: 3 };
    assert_eq!(get(&engine, Key::Account(AccountKey::DirStat(Ino(5)))), Some(Value::DirStat(sum)));
}

#[test]
fn damage_fails_the_job_that_meets_it() {
    let (dir, engine) = fresh();
    apply(&engine, create(2, "a")).expect("applied");
    let other = rusqlite::Connection::open(dir.path().join("meta.db")).expect("opened");
    other.execute("UPDATE jfs_node SET type=12 WHERE inode=2", []).expect("damaged");
    let error = wait(engine.fetch(&[Key::Node(Ino(2))])).expect_err("damaged");
    assert!(matches!(&error, MetaError::Corrupt { what, .. } if what == "node 2"), "{error}");
    let error = apply(&engine, create(2, "b")).expect_err("the inode is taken");
    assert!(matches!(error, MetaError::Corrupt { .. }), "{error}");
    assert_eq!(get(&engine, Key::Edge(Ino(1), "b".into())), None);
    apply(&engine, create(3, "b")).expect("others go on");
    assert_eq!(MetaError::Posix(Errno::ENOSPC).errno(), Errno::ENOSPC);
}

#[test]
fn what_other_clients_do_to_the_tables_is_taken_up() {
    let (dir, engine) = fresh();
    let path = dir.path().join("meta.db");
    let early = engine_at(&path, "?table_prefix=p");
    assert_eq!(wait(early.load_setting()).expect("read"), None);
    let late = engine_at(&path, "?table_prefix=p");
    wait(late.prepare()).expect("prepared");
    apply(&late, vec![Effect::Volume(VolumeEffect::PutSetting("{}".into()))]).expect("applied");
    assert_eq!(wait(early.load_setting()).expect("read"), Some("{}".into()));
    apply(&early, create(2, "a")).expect("it has the tables now");

    apply(&engine, vec![Effect::Volume(VolumeEffect::PutSetting("{}".into()))]).expect("applied");
    let destroyer = engine_at(&path, "");
    wait(destroyer.reset()).expect("reset");
    assert_eq!(wait(engine.load_setting()).expect("read"), None);
    let error = apply(&engine, create(2, "a")).expect_err("there is no volume any more");
    assert!(matches!(error, MetaError::Setting(_) | MetaError::Unavailable(_)), "{error}");
    let error = apply(&engine, create(2, "a")).expect_err("there is no volume any more");
    assert!(matches!(&error, MetaError::Setting(s) if s.contains("not formatted")), "{error}");
}

#[test]
fn locks_are_the_rows_of_the_format() {
    let (dir, engine) = fresh();
    let owner = |number| LockOwner { sid: SessionId(3), number };
    let plock = |kind, start, end| Plock { kind, pid: 25282, range: LockRange { start, end } };
    let high = 0xF000_0000_0000_0001;
    let held = vec![plock(1, 0, 9), plock(0, 200, LockRange::LAST)];
    let put = vec![
        Effect::Lock(Ino(7), owner(high), LockEffect::PutFlock(LockKind::Write)),
        Effect::Lock(Ino(7), owner(5), LockEffect::PutFlock(LockKind::Read)),
        Effect::Lock(Ino(7), owner(5), LockEffect::PutFlock(LockKind::Write)),
        Effect::Lock(Ino(7), owner(5), LockEffect::PutFlock(LockKind::Read)),
        Effect::Lock(Ino(7), owner(high), LockEffect::PutPlocks(held.clone())),
    ];
    apply(&engine, put).expect("applied");
    let flocks = [(owner(high), LockKind::Write), (owner(5), LockKind::Read)].into();
    assert_eq!(get(&engine, Key::Holder(HolderKey::Flocks(Ino(7)))), Some(Value::Flocks(flocks)));
    assert_eq!(get(&engine, Key::Holder(HolderKey::Plocks(Ino(7)))), Some(Value::Plocks([(owner(high), held)].into())));
    assert_eq!(get(&engine, Key::Holder(HolderKey::Flocks(Ino(8)))), None);
    let raw = rusqlite::Connection::open(dir.path().join("meta.db")).expect("opened");
    let row = |query: &str| raw.query_row(query, [], |row| row.get::<_, String>(0)).expect("a row");
    let flocks = "SELECT group_concat(inode||','||sid||','||owner||','||ltype, ' ') FROM (SELECT * FROM jfs_flock ORDER BY owner)";
    assert_eq!(row(flocks), format!("7,3,{},87 7,3,5,82", high as i64));
    let records = "00000001000062C200000000000000000000000000000009\
                   00000000000062C200000000000000C87FFFFFFFFFFFFFFF";
    assert_eq!(
        row("SELECT inode||','||sid||','||owner||','||hex(records) FROM jfs_plock"),
        format!("7,3,{},{records}", high as i64)
    );
    let delete = vec![
        Effect::Lock(Ino(7), owner(5), LockEffect::DeleteFlock),
        Effect::Lock(Ino(7), owner(high), LockEffect::DeletePlocks),
    ];
    apply(&engine, delete).expect("applied");
    assert_eq!(
        get(&engine, Key::Holder(HolderKey::Flocks(Ino(7)))),
        Some(Value::Flocks([(owner(high), LockKind::Write)].into()))
    );
    assert_eq!(get(&engine, Key::Holder(HolderKey::Plocks(Ino(7)))), None);
    apply(&engine, vec![Effect::Session(SessionId(3), SessionEffect::DeleteLocks)]).expect("applied");
    assert_eq!(get(&engine, Key::Holder(HolderKey::Flocks(Ino(7)))), None);
}
