mod caching;
mod moving;

use std::collections::BTreeMap;

use bytes::Bytes;
use juicefs_core::{
    attr::{Attr, FileType, Timestamp},
    ids::{Name, SliceId, SliceKey},
    quota::{Quota, QuotaSubject},
    slice::SliceRecord,
};
use juicefs_testkit::redis::{RedisServer, Wire};

use super::*;
use crate::{
    engine::optimistic::Transactor,
    layout::binary::{decode_attr, encode_attr},
    record::{AccountKey, DelFile, DelaySlices, Edge, HolderKey, NoteKey, Session},
    txn::{
        AccountEffect, Applied, ChunkEffect, EdgeEffect, Effect, NodeEffect, NodeGuard, NodePatch, PendingOp,
        SessionEffect, SliceEffect, Step, Usage,
    },
};

fn engine(server: &RedisServer) -> RedisEngine {
    let url = server.url(0);
    let (driver, rest) = url.split_once("://").expect("a URL");
    RedisEngine::new(Address::parse(driver, rest).expect("an address"), false)
}

fn directory(nlink: u32) -> Attr {
    let at = Timestamp::from_secs(100);
    Attr {
        kind: FileType::Directory,
        mode: 0o755,
        nlink,
        length: 4096,
        parent: Ino::ROOT,
        atime: at,
        mtime: at,
        ctime: at,
        ..Attr::default()
    }
}

fn file() -> Attr {
    Attr { mode: 0o644, nlink: 1, parent: Ino::ROOT, ..Attr::default() }
}

fn edge(ino: u64) -> Edge {
    Edge { ino: Ino(ino), kind: FileType::File }
}

/// An operation that reads `keys` and then wants what `step` makes of it.
struct TestOp<F> {
    keys: Vec<Key>,
    needs_outcome: bool,
    step: F,
    applied: Option<Applied>,
    steps: u32,
}

impl<F: FnMut(&ReadSet) -> Step + Send + 'static> TestOp<F> {
    fn new(keys: Vec<Key>, step: F) -> Self {
        Self { keys, needs_outcome: false, step, applied: None, steps: 0 }
    }
}

impl<F: FnMut(&ReadSet) -> Step + Send + 'static> PendingOp for TestOp<F> {
    fn name(&self) -> &'static str {
        "test"
    }

    fn needs_outcome(&self) -> bool {
        self.needs_outcome
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.clone()
    }

    fn step(&mut self, read: &ReadSet) -> Step {
        self.steps += 1;
        (self.step)(read)
    }

    fn applied(&mut self, applied: &Applied) {
        self.applied = Some(applied.clone());
    }
}

fn effects(list: Vec<Effect>) -> Effects {
    Effects { list, ..Effects::none() }
}

async fn put(engine: &RedisEngine, list: Vec<Effect>) {
    let outcome = engine.apply(&ReadSet::default(), &effects(list), Patience::Budget).await.expect("applied");
    assert!(matches!(outcome, ApplyOutcome::Applied(_)));
}

async fn get(engine: &RedisEngine, key: Key) -> Option<Value> {
    engine.fetch(std::slice::from_ref(&key)).await.expect("fetched").get(&key).cloned()
}

/// How often the server has read from a client so far, this question included.
fn reads(wire: &mut Wire) -> u64 {
    let info = wire.call(&["INFO", "stats"]).text();
    let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:")).expect("a count");
    line.trim().parse().expect("a number")
}

#[tokio::test]
async fn every_record_reads_back() {
    let server = RedisServer::new();
    let engine = engine(&server);
    let slice = SliceKey { id: SliceId(7), size: 4096 };
    let record = SliceRecord { pos: 0, id: slice.id, size: slice.size, off: 0, len: slice.size };
    let held = DelaySlices { since_secs: 5, slices: vec![slice, slice] };
    let gone = DelFile { length: 1 << 57, removed_secs: 77 };
    let session = Session { expire_secs: 1_800_000_000, info: Bytes::from_static(b"{}") };
    let stat = DirStat { length: 1, space: 4096, inodes: -1 };
    put(
        &engine,
        vec![
            Effect::Node(Ino(2), NodeEffect::Insert(directory(2))),
            Effect::Edge(Ino(2), Name::from("a\r\n\u{fffd}"), EdgeEffect::Insert(edge(3))),
            Effect::Node(Ino(4), NodeEffect::PutSymlink(Bytes::from_static(b"target"))),
            Effect::Node(Ino(2), NodeEffect::PutXattr(Name::from("user.x"), Bytes::from_static(b"\0\xff"))),
            Effect::Chunk(Ino(3), 1, ChunkEffect::Append(vec![record, record])),
            Effect::Slice(SliceEffect::AddRef(slice, 2)),
            Effect::Node(Ino(3), NodeEffect::AddParent(Ino(2), 2)),
            Effect::Node(Ino(3), NodeEffect::AddParent(Ino(5), 1)),
            Effect::Node(Ino(3), NodeEffect::AddParent(Ino(5), -1)),
            Effect::Account(AccountEffect::PutDirStat(Ino(2), stat)),
            Effect::Session(SessionId(9), SessionEffect::Put(session.clone())),
            Effect::Session(SessionId(9), SessionEffect::Sustain(Ino(3))),
            Effect::Slice(SliceEffect::PutDelFile(Ino(6), gone)),
            Effect::Slice(SliceEffect::PutDelayed(SliceId(7), held.clone())),
            Effect::Account(AccountEffect::SetCounter(Counter::NextInode, 1000)),
            Effect::Account(AccountEffect::AddCounter(Counter::UsedSpace, -4096)),
        ],
    )
    .await;
    let stored = [
        (Key::Node(Ino(2)), Some(Value::Node(directory(2)))),
        (Key::Node(Ino(8)), None),
        (Key::Edge(Ino(2), Name::from("a\r\n\u{fffd}")), Some(Value::Edge(edge(3)))),
        (Key::Edge(Ino(2), Name::from("b")), None),
        (Key::HasEntries(Ino(2)), Some(Value::HasEntries(true))),
        (Key::HasEntries(Ino(3)), Some(Value::HasEntries(false))),
        (Key::Symlink(Ino(4)), Some(Value::Bytes(Bytes::from_static(b"target")))),
        (Key::Xattr(Ino(2), Name::from("user.x")), Some(Value::Bytes(Bytes::from_static(b"\0\xff")))),
        (Key::Chunk(Ino(3), 1), Some(Value::Chunk(vec![record, record]))),
        (Key::Chunk(Ino(3), 0), None),
        (Key::ChunkIndexes(Ino(3), 0, 5), Some(Value::ChunkIndexes(vec![1]))),
        (Key::ChunkIndexes(Ino(3), 0, 1 << 30), Some(Value::ChunkIndexes(vec![1]))),
        (Key::SliceRef(slice), Some(Value::SliceRef(3))),
        (Key::SliceRef(SliceKey { id: SliceId(8), size: 1 }), Some(Value::SliceRef(1))),
        (Key::Parents(Ino(3)), Some(Value::Parents(BTreeMap::from([(Ino(2), 2)])))),
        (Key::Account(AccountKey::DirStat(Ino(2))), Some(Value::DirStat(stat))),
        (Key::Account(AccountKey::DirStat(Ino(3))), None),
        (Key::Holder(HolderKey::Session(SessionId(9))), Some(Value::Session(session))),
        (Key::Holder(HolderKey::Sustained(SessionId(9), Ino(3))), Some(Value::Sustained)),
        (Key::Holder(HolderKey::Sustained(SessionId(9), Ino(4))), None),
        (Key::Note(NoteKey::DelFile(Ino(6), 1 << 57)), Some(Value::DelFile(gone))),
        (Key::Note(NoteKey::DelaySlices(SliceId(7), 5)), Some(Value::DelaySlices(held))),
        (Key::Account(AccountKey::Counter(Counter::NextInode)), Some(Value::Counter(1000))),
        (Key::Account(AccountKey::Counter(Counter::NextChunk)), Some(Value::Counter(1))),
        (Key::Account(AccountKey::Counter(Counter::UsedSpace)), Some(Value::Counter(-4096))),
    ];
    for (key, value) in &stored {
        assert_eq!(get(&engine, key.clone()).await, *value, "{key:?} alone");
    }
    let together = engine.fetch(&stored.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>()).await.expect("fetched");
    for (key, value) in &stored {
        assert_eq!(together.get(key), value.as_ref(), "{key:?} among others");
    }
    assert_eq!(server.cli(&["GET", "nextinode"]).trim(), "999", "the last number handed out");
    engine.reset().await.expect("reset");
    assert_eq!(server.cli(&["DBSIZE"]).trim(), "0");
    assert!(engine.is_empty().await.expect("looked"));
}

#[tokio::test]
async fn a_request_that_comes_twice_is_done_once() {
    let server = RedisServer::new();
    let engine = engine(&server);
    let keys = engine.keys().await.expect("connected");
    let outcome = keys.outcome(engine.lanes.client());
    let plan = plan::plan(
        keys,
        &outcome,
        &ReadSet::default(),
        &plan::Locked::new(),
        &effects(vec![
            Effect::Account(AccountEffect::AddCounter(Counter::TotalInodes, 1)),
            Effect::Chunk(Ino(5), 0, ChunkEffect::Append(vec![SliceRecord::zeros(0, 1)])),
        ]),
    );
    let (script, args) = engine.scripts.script(&plan);
    let lane = engine.lanes.take().await;
    let first = run::packed(&script, true, &outcome, &lane, &plan, None, &args);
    assert_eq!(engine.call_one(&first).await.expect("sent"), redis::Value::Array(vec![redis::Value::Int(1)]));
    assert_eq!(engine.call_one(&first).await.expect("sent"), redis::Value::Int(2), "it is known to be done");
    drop(lane);
    assert!(
        matches!(engine.execute(keys, &outcome, &plan, Patience::Budget).await, Ok(Ended::Done(Some(lengths))) if lengths == [2])
    );
    assert_eq!(engine.call_one(&first).await.expect("sent"), redis::Value::Int(2), "a copy that comes late");
    assert_eq!(server.cli(&["GET", "totalInodes"]).trim(), "2");
    let ttl: i64 =
        server.cli(&["TTL", std::str::from_utf8(&outcome).expect("ascii")]).trim().parse().expect("a number");
    assert!(ttl > 80_000, "{ttl}");
    engine.close().await;
    assert_eq!(server.cli(&["EXISTS", std::str::from_utf8(&outcome).expect("ascii")]).trim(), "0");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = RedisServer::new();
    let engine = engine(&server);
    put(&engine, vec![Effect::Node(Ino(2), NodeEffect::Insert(directory(2)))]).await;
    server.cli(&["SCRIPT", "FLUSH"]);
    put(&engine, vec![Effect::Node(Ino(3), NodeEffect::Insert(directory(2)))]).await;
    assert!(engine.lookup(Ino(2), b"a").await.expect("looked up").is_none());
    server.cli(&["SCRIPT", "FLUSH"]);
    assert!(engine.lookup(Ino(2), b"a").await.expect("looked up").is_none());
}

#[tokio::test]
async fn guards_hold_effects_back() {
    let server = RedisServer::new();
    let (ours, theirs) = (engine(&server), engine(&server));
    let name = Name::from("a");
    put(
        &ours,
        vec![Effect::Node(Ino(2), NodeEffect::Insert(directory(2))), Effect::Node(Ino(3), NodeEffect::Insert(file()))],
    )
    .await;
    let keys = vec![Key::Node(Ino(2)), Key::Node(Ino(3)), Key::Edge(Ino(2), name.clone()), Key::HasEntries(Ino(2))];
    let read = ours.fetch(&keys).await.expect("fetched");
    let mut wanted = effects(vec![Effect::Account(AccountEffect::SetCounter(Counter::AclMaxId, 5))]);
    wanted.narrowed = vec![(Ino(2), NodeGuard::Permissions)];
    // A change that the narrower guard allows.
    put(&theirs, vec![Effect::Node(Ino(2), NodeEffect::Patch(NodePatch::links(1, Some(Timestamp::from_secs(200)))))])
        .await;
    assert!(matches!(ours.apply(&read, &wanted, Patience::Budget).await, Ok(ApplyOutcome::Applied(_))));
    wanted.narrowed = vec![(Ino(2), NodeGuard::Place)];
    assert!(matches!(ours.apply(&read, &wanted, Patience::Budget).await, Ok(ApplyOutcome::Applied(_))));
    let conflicts = [
        (Effect::Node(Ino(2), NodeEffect::Update(Attr { uid: 1, ..directory(3) })), NodeGuard::Permissions),
        (Effect::Node(Ino(2), NodeEffect::Update(Attr { parent: Ino(9), ..directory(3) })), NodeGuard::Place),
        (Effect::Node(Ino(2), NodeEffect::Update(Attr { kind: FileType::File, ..directory(3) })), NodeGuard::Exists),
        (Effect::Node(Ino(2), NodeEffect::Delete), NodeGuard::Exists),
        (Effect::Node(Ino(3), NodeEffect::Update(Attr { length: 1, ..file() })), NodeGuard::Exists),
        (Effect::Edge(Ino(2), name.clone(), EdgeEffect::Insert(edge(3))), NodeGuard::Exists),
    ];
    for (theirs_effect, guard) in conflicts {
        put(
            &ours,
            vec![
                Effect::Node(Ino(2), NodeEffect::Update(directory(2))),
                Effect::Node(Ino(3), NodeEffect::Update(file())),
            ],
        )
        .await;
        wanted.narrowed = vec![(Ino(2), guard)];
        assert!(
            matches!(ours.apply(&read, &wanted, Patience::Budget).await, Ok(ApplyOutcome::Applied(_))),
            "{guard:?}"
        );
        put(&theirs, vec![theirs_effect.clone(), Effect::Account(AccountEffect::SetCounter(Counter::AclMaxId, 1))])
            .await;
        assert_eq!(
            ours.apply(&read, &wanted, Patience::Budget).await.expect("judged"),
            ApplyOutcome::Conflict,
            "{theirs_effect:?}"
        );
        assert_eq!(
            get(&ours, Key::Account(AccountKey::Counter(Counter::AclMaxId))).await,
            Some(Value::Counter(1)),
            "nothing was written"
        );
    }
}

/// The node does not tell: under a clock that stands, a name can move and leave its node as it was.
#[tokio::test]
async fn who_names_a_file_is_guarded() {
    let server = RedisServer::new();
    let (ours, theirs) = (engine(&server), engine(&server));
    let node = Ino(3);
    put(
        &ours,
        vec![Effect::Node(node, NodeEffect::Insert(file())), Effect::Node(node, NodeEffect::AddParent(Ino(2), 2))],
    )
    .await;
    let wanted = effects(vec![Effect::Account(AccountEffect::SetCounter(Counter::AclMaxId, 5))]);
    for change in [
        vec![
            Effect::Node(node, NodeEffect::AddParent(Ino(2), -1)),
            Effect::Node(node, NodeEffect::AddParent(Ino(4), 1)),
        ],
        vec![Effect::Node(node, NodeEffect::AddParent(Ino(5), 1))],
        vec![Effect::Node(node, NodeEffect::AddParent(Ino(4), -1))],
        vec![Effect::Node(node, NodeEffect::DeleteParents)],
        vec![Effect::Node(node, NodeEffect::AddParent(Ino(6), 1))],
    ] {
        let read = ours.fetch(&[Key::Node(node), Key::Parents(node)]).await.expect("fetched");
        assert!(matches!(ours.apply(&read, &wanted, Patience::Budget).await, Ok(ApplyOutcome::Applied(_))), "{read:?}");
        // What Go leaves behind of a directory that names the file no more.
        server.cli(&["HSET", "p3", "99", "0"]);
        assert!(matches!(ours.apply(&read, &wanted, Patience::Budget).await, Ok(ApplyOutcome::Applied(_))), "{read:?}");
        put(&theirs, change.clone()).await;
        assert_eq!(
            ours.apply(&read, &wanted, Patience::Budget).await.expect("judged"),
            ApplyOutcome::Conflict,
            "{change:?}"
        );
    }
}

#[tokio::test]
async fn a_client_whose_session_is_gone_writes_nothing() {
    let server = RedisServer::new();
    let engine = engine(&server);
    let session = Session { expire_secs: 10, info: Bytes::new() };
    put(&engine, vec![Effect::Session(SessionId(4), SessionEffect::Put(session))]).await;
    let mut wanted = effects(vec![Effect::Node(Ino(2), NodeEffect::Insert(directory(2)))]);
    wanted.writer = Some(SessionId(4));
    assert!(matches!(engine.apply(&ReadSet::default(), &wanted, Patience::Budget).await, Ok(ApplyOutcome::Applied(_))));
    server.cli(&["ZREM", "allSessions", "4"]);
    wanted.list = vec![Effect::Node(Ino(2), NodeEffect::Delete)];
    assert!(matches!(engine.apply(&ReadSet::default(), &wanted, Patience::Budget).await, Err(MetaError::Fenced)));
    assert!(get(&engine, Key::Node(Ino(2))).await.is_some());
}

#[tokio::test]
async fn patches_move_times_on_and_never_back() {
    let server = RedisServer::new();
    let engine = engine(&server);
    let time = |secs, nanos| Timestamp { secs, nanos };
    // What was, what comes, what is to be.
    let cases = [
        (time(100, 5), time(100, 6), time(100, 6)),
        (time(100, 5), time(100, 4), time(100, 5)),
        (time(100, 5), time(101, 0), time(101, 0)),
        (time(1 << 33, 5), time(101, 0), time(1 << 33, 5)),
        (time(-5, 999_999_999), time(0, 1), time(0, 1)),
    ];
    for (was, comes, wanted) in cases {
        let attr = Attr { mtime: was, ctime: was, access_acl: 3, tier: 1, ..directory(2) };
        put(&engine, vec![Effect::Node(Ino(2), NodeEffect::Insert(attr.clone()))]).await;
        let patch = NodePatch::links(-1, Some(comes));
        put(&engine, vec![Effect::Node(Ino(2), NodeEffect::Patch(patch))]).await;
        let expected = Attr { mtime: wanted, ctime: wanted, nlink: 1, ..attr };
        assert_eq!(get(&engine, Key::Node(Ino(2))).await, Some(Value::Node(expected)), "{was:?} {comes:?}");
    }
}

#[tokio::test]
async fn nodes_of_older_clients_are_guarded_as_they_are_stored() {
    let server = RedisServer::new();
    let engine = Arc::new(engine(&server));
    // A client before 1.0 wrote no parent, and an odd end is possible as well.
    for cut in [63, 64, 71] {
        let stored = encode_attr(&file())[..cut].to_vec();
        server.wire(0).call(&[&b"SET"[..], b"i3", &stored]);
        let transactor = Transactor::new(Arc::<RedisEngine>::clone(&engine));
        let op = TestOp::new(vec![Key::Node(Ino(3))], |read: &ReadSet| {
            let attr = read.node(Ino(3)).expect("there").clone();
            Step::Apply(effects(vec![Effect::Node(Ino(3), NodeEffect::Update(Attr { length: 7, ..attr }))]))
        });
        transactor.finish(op).await.expect("done");
        let bytes = server.wire(0).call(&["GET", "i3"]).bytes();
        assert_eq!(decode_attr(&bytes).expect("a node").length, 7);
    }
}

#[tokio::test]
async fn what_was_seen_saves_round_trips_and_a_wrong_guess_costs_one() {
    let server = RedisServer::new();
    let (our_engine, their_engine) = (Arc::new(engine(&server)), Arc::new(engine(&server)));
    let ours = Transactor::new(Arc::<RedisEngine>::clone(&our_engine));
    let theirs = Transactor::new(Arc::<RedisEngine>::clone(&their_engine));
    put(&our_engine, vec![Effect::Node(Ino(2), NodeEffect::Insert(directory(2)))]).await;
    let create = |ino: u64, name: &'static str| {
        TestOp::new(vec![Key::Node(Ino(2)), Key::Edge(Ino(2), Name::from(name))], move |read: &ReadSet| {
            if read.edge(Ino(2), &Name::from(name)).is_some() || read.node(Ino(2)).is_none() {
                return Step::Stop;
            }
            let mut wanted = effects(vec![
                Effect::Edge(Ino(2), Name::from(name), EdgeEffect::Insert(edge(ino))),
                Effect::Node(Ino(ino), NodeEffect::Insert(file())),
                Effect::Node(Ino(2), NodeEffect::Patch(NodePatch::links(0, Some(Timestamp::from_secs(300))))),
            ]);
            wanted.narrowed = vec![(Ino(2), NodeGuard::Permissions)];
            Step::Apply(wanted)
        })
    };
    assert!(ours.lookup(Ino(2), b"a").await.expect("looked up").is_none());
    ours.finish(create(10, "a")).await.expect("done");
    assert!(ours.lookup(Ino(2), b"b").await.expect("looked up").is_none());
    assert!(theirs.lookup(Ino(2), b"b").await.expect("looked up").is_none());
    theirs.finish(create(20, "c")).await.expect("done");
    // The directory was changed by the other, which does not matter.
    let mut wire = server.wire(0);
    let before = reads(&mut wire);
    ours.finish(create(11, "b")).await.expect("done");
    // The question for the count is one of the reads.
    assert_eq!(reads(&mut wire) - before, 2, "one round trip");
    let before = reads(&mut wire);
    theirs.finish(create(21, "b")).await.expect("done");
    assert!(reads(&mut wire) - before <= 3, "a conflict, and another look");
    assert!(get(&their_engine, Key::Node(Ino(21))).await.is_none(), "the name exists already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_of_one_node_all_get_their_turn() {
    let server = RedisServer::new();
    let (ours, theirs) = (Arc::new(engine(&server)), Arc::new(engine(&server)));
    let transactors = [&ours, &theirs].map(|engine| Arc::new(Transactor::new(Arc::<RedisEngine>::clone(engine))));
    put(&ours, vec![Effect::Node(Ino(3), NodeEffect::Insert(file()))]).await;
    let mut tasks = Vec::new();
    for n in 0..32 {
        let transactor = Arc::clone(&transactors[n % 2]);
        tasks.push(tokio::spawn(async move {
            for _ in 0..10 {
                let op = TestOp::new(vec![Key::Node(Ino(3))], |read: &ReadSet| {
                    let attr = read.node(Ino(3)).expect("there").clone();
                    Step::Apply(effects(vec![Effect::Node(
                        Ino(3),
                        NodeEffect::Update(Attr { length: attr.length + 1, ..attr }),
                    )]))
                });
                transactor.finish(op).await.expect("done");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    let Some(Value::Node(attr)) = get(&ours, Key::Node(Ino(3))).await else { panic!("the node is gone") };
    assert_eq!(attr.length, 320);
}

#[tokio::test]
async fn long_changes_share_a_script() {
    let server = RedisServer::new();
    let engine = engine(&server);
    let wanted = |n: u64| {
        let list =
            (0..n).map(|n| Effect::Slice(SliceEffect::AddRef(SliceKey { id: SliceId(n + 1), size: 4 }, 1))).collect();
        let mut read = ReadSet::default();
        for n in 0..n {
            read.insert(Key::SliceRef(SliceKey { id: SliceId(n + 1), size: 4 }), Some(Value::SliceRef(1)));
        }
        (read, effects(list))
    };
    for n in [5, 700, 1500] {
        let (read, wanted) = wanted(n);
        assert!(matches!(engine.apply(&read, &wanted, Patience::Budget).await, Ok(ApplyOutcome::Applied(_))));
        assert_eq!(engine.apply(&read, &wanted, Patience::Budget).await.expect("judged"), ApplyOutcome::Conflict);
        let undo = wanted.list.iter().map(|effect| match effect {
            Effect::Slice(SliceEffect::AddRef(slice, _)) => Effect::Slice(SliceEffect::AddRef(*slice, -1)),
            other => other.clone(),
        });
        put(&engine, undo.collect()).await;
        assert_eq!(server.cli(&["EXISTS", "sliceRef"]).trim(), "0", "one reference is not counted apart");
    }
    let scripts = server.cli(&["INFO", "memory"]);
    let cached = scripts.lines().find_map(|line| line.strip_prefix("number_of_cached_scripts:")).expect("a count");
    assert!(cached.trim().parse::<u32>().expect("a number") <= 3, "{cached}");
}

/// What the Go client stored of quotas is what its `quota list` showed, and is written again byte for byte.
#[tokio::test]
async fn quotas_of_the_go_client_are_written_again_byte_for_byte() {
    let beside = || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    let golden = std::env::var_os("JFS_GOLDEN").map_or_else(beside, std::path::PathBuf::from);
    let server = RedisServer::with_rdb(&golden.join("redis-acl/meta.rdb"));
    let theirs = engine(&server);
    let scanned = theirs.scan(Scan::Quotas, None, 1000).await.expect("scanned");
    let set: Vec<_> = scanned
        .iter()
        .filter_map(|(key, value)| match (key, value) {
            (Key::Account(AccountKey::Quota(subject)), Value::Quota(quota)) if quota.is_set() => {
                Some((*subject, *quota))
            }
            _ => None,
        })
        .collect();
    let space = [2 << 30, 3 << 30, 1 << 30, -1];
    assert_eq!(set.iter().map(|(_, quota)| quota.max_space).collect::<Vec<_>>(), space, "{set:?}");
    assert_eq!(set.iter().map(|(_, quota)| quota.used_inodes).collect::<Vec<_>>(), [9, 15, 14, 6]);
    assert_eq!((set[0].0, set[1].0), (QuotaSubject::User(1000), QuotaSubject::Group(1001)));
    let two = theirs.scan(Scan::Quotas, Some(scanned[0].0.clone()), 2).await.expect("scanned");
    assert_eq!(two, scanned[1..3]);
    let copy = RedisServer::new();
    let ours = engine(&copy);
    for (key, value) in &scanned {
        let (Key::Account(AccountKey::Quota(subject)), Value::Quota(quota)) = (key, value) else { panic!("{key:?}") };
        // In two steps, so that adding is seen to make the same fields.
        let used = Usage { space: quota.used_space, inodes: quota.used_inodes };
        let empty = Quota { used_space: 0, used_inodes: 0, ..*quota };
        put(
            &ours,
            vec![
                Effect::Account(AccountEffect::PutQuota(*subject, empty)),
                Effect::Account(AccountEffect::AddUsage(*subject, used)),
            ],
        )
        .await;
        assert_eq!(get(&theirs, key.clone()).await.as_ref(), Some(value));
    }
    for kind in ["dir", "user", "group"] {
        for hash in ["Quota", "QuotaUsedSpace", "QuotaUsedInodes"] {
            let fields = |server: &RedisServer| {
                let items = server.wire(0).call(&["HGETALL", &format!("{kind}{hash}")]).items();
                let items: Vec<Vec<u8>> = items.into_iter().map(|item| item.bytes()).collect();
                items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect::<BTreeMap<_, _>>()
            };
            assert_eq!(fields(&copy), fields(&server), "{kind}{hash}");
        }
    }
}

#[tokio::test]
async fn a_quota_guards_its_room_and_not_its_usage() {
    let server = RedisServer::new();
    let (ours, theirs) = (engine(&server), engine(&server));
    let subject = QuotaSubject::Dir(Ino(7));
    let quota = Quota { max_space: 100, max_inodes: 0, used_space: 10, used_inodes: 1 };
    put(&ours, vec![Effect::Account(AccountEffect::PutQuota(subject, quota))]).await;
    let read = ours.fetch(&[Key::Account(AccountKey::Quota(subject))]).await.expect("read");
    let mut wanted = effects(vec![Effect::Account(AccountEffect::AddUsage(subject, Usage { space: 50, inodes: 1 }))]);
    wanted.rooms.push((subject, Usage { space: 50, inodes: i64::MAX }));
    put(&theirs, vec![Effect::Account(AccountEffect::AddUsage(subject, Usage { space: 40, inodes: 5 }))]).await;
    assert!(
        matches!(ours.apply(&read, &wanted, Patience::Budget).await, Ok(ApplyOutcome::Applied(_))),
        "50 of 100 were used"
    );
    assert_eq!(
        ours.apply(&read, &wanted, Patience::Budget).await.expect("judged"),
        ApplyOutcome::Conflict,
        "now all are"
    );
    put(&theirs, vec![Effect::Account(AccountEffect::AddUsage(subject, Usage { space: -60, inodes: 0 }))]).await;
    put(
        &theirs,
        vec![Effect::Account(AccountEffect::PutQuota(
            subject,
            Quota { max_space: 99, used_space: 40, used_inodes: 7, ..quota },
        ))],
    )
    .await;
    assert_eq!(
        ours.apply(&read, &wanted, Patience::Budget).await.expect("judged"),
        ApplyOutcome::Conflict,
        "the limit is another"
    );
    put(&theirs, vec![Effect::Account(AccountEffect::DeleteDirQuota(Ino(7)))]).await;
    assert_eq!(
        ours.apply(&read, &wanted, Patience::Budget).await.expect("judged"),
        ApplyOutcome::Conflict,
        "it is gone"
    );
    put(&theirs, vec![Effect::Account(AccountEffect::AddUsage(subject, Usage { space: 1, inodes: 1 }))]).await;
    assert_eq!(
        get(&ours, Key::Account(AccountKey::Quota(subject))).await,
        None,
        "a directory without a quota gets none"
    );
}

/// An engine that soon gives up on `server`.
fn impatient(server: &RedisServer) -> Arc<RedisEngine> {
    let url = server.url(0);
    let (driver, rest) = url.split_once("://").expect("a URL");
    let options = "read-timeout=300ms&dial-timeout=300ms";
    let mut address = Address::parse(driver, &format!("{rest}?{options}")).expect("an address");
    address.options_mut().retry_budget = Duration::from_secs(1);
    Arc::new(RedisEngine::new(address, false))
}

/// Likewise what is added to statistics, which would be counted twice if it were added again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_are_added_once_however_long_the_server_is_away() {
    let server = RedisServer::new();
    let engine = impatient(&server);
    let stat = DirStat { length: 10, space: 4096, inodes: 1 };
    put(&engine, vec![Effect::Account(AccountEffect::PutDirStat(Ino(1), stat))]).await;
    let adding = {
        let engine = Arc::clone(&engine);
        server.stop();
        tokio::spawn(async move { engine.add_dir_stats(vec![(Ino(1), stat), (Ino(2), stat)]).await })
    };
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!adding.is_finished(), "its outcome is not known");
    server.cont();
    let missing = tokio::time::timeout(Duration::from_secs(20), adding).await;
    assert_eq!(missing.expect("in time").expect("no panic").expect("added"), [Ino(2)]);
    let twice = DirStat { length: 20, space: 8192, inodes: 2 };
    assert_eq!(get(&engine, Key::Account(AccountKey::DirStat(Ino(1)))).await, Some(Value::DirStat(twice)));
}

/// The server is frozen for longer than it is asked again: the one who has to know waits, and what it sent is done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_goes_on_until_its_outcome_is_known() {
    let server = RedisServer::new();
    let engine = impatient(&server);
    put(&engine, vec![Effect::Node(Ino(2), NodeEffect::Insert(file()))]).await;
    let record = SliceRecord { pos: 0, id: SliceId(7), size: 9, off: 0, len: 9 };
    let append =
        move |_: &ReadSet| Step::Apply(effects(vec![Effect::Chunk(Ino(2), 0, ChunkEffect::Append(vec![record]))]));
    let transactor = Arc::new(Transactor::new(Arc::<RedisEngine>::clone(&engine)));
    let run = |needs_outcome| {
        let mut op = TestOp::new(vec![Key::Node(Ino(2))], append);
        op.needs_outcome = needs_outcome;
        let transactor = Arc::clone(&transactor);
        tokio::spawn(async move { transactor.finish(op).await.map(drop) })
    };
    // What was seen before the server is gone can be judged without it.
    transactor.fetch(&[Key::Node(Ino(2))]).await.expect("read");
    server.stop();
    let (patient, other) = (run(true), run(false));
    let gave_up = other.await.expect("no panic");
    assert!(matches!(gave_up, Err(MetaError::Unavailable(_))), "{gave_up:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!patient.is_finished(), "its outcome is not known");
    server.cont();
    let outcome = tokio::time::timeout(Duration::from_secs(20), patient).await;
    assert!(matches!(outcome, Ok(Ok(Ok(())))), "{outcome:?}");
    let Some(Value::Chunk(records)) = get(&engine, Key::Chunk(Ino(2), 0)).await else { panic!("no list") };
    // The other one may have come through, too; nothing comes more than once.
    assert!((1..=2).contains(&records.len()), "{records:?}");
}
