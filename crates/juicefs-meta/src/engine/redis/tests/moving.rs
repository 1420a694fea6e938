//! In a cluster, while the slot of the volume is moving from one node to another.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use juicefs_core::lock::{LockKind, LockOwner};
use juicefs_testkit::redis::{RedisCluster, SlotMove};
use tokio::{task::JoinHandle, time::sleep};

use super::*;
use crate::txn::LockEffect;

/// Long enough for what can be done to be done.
const MOMENT: Duration = Duration::from_millis(300);

struct Moving {
    cluster: RedisCluster,
    engine: Arc<RedisEngine>,
}

impl Moving {
    fn new() -> Self {
        let cluster = RedisCluster::default();
        let url = cluster.url(7);
        let (driver, rest) = url.split_once("://").expect("a URL");
        let engine = Arc::new(RedisEngine::new(Address::parse(driver, rest).expect("an address"), false));
        Self { cluster, engine }
    }

    /// The node that has the volume, and another.
    fn nodes(&self) -> (usize, usize) {
        let owner = self.cluster.owner(self.cluster.slot_of("{7}"));
        (owner, (owner + 1) % 3)
    }

    fn begin(&self) -> SlotMove<'_> {
        self.cluster.begin_move(self.cluster.slot_of("{7}"), self.nodes().1)
    }

    /// Moves one key, as [`SlotMove::move_keys`] does those that come first.
    fn move_key(&self, key: &str) {
        let (from, to) = self.nodes();
        let port = self.cluster.nodes()[to].port().to_string();
        self.cluster.nodes()[from].wire(0).call(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    }

    /// Applies effects beside the test.
    fn change(&self, list: Vec<Effect>) -> JoinHandle<ApplyOutcome> {
        let engine = Arc::clone(&self.engine);
        tokio::spawn(async move {
            engine.apply(&ReadSet::default(), &effects(list), Patience::Budget).await.expect("applied in the end")
        })
    }
}

/// A node that is letting go of the slot ends a script in the middle when a command of it names a key that is not there any
/// more: that the script has just emptied, for example. What came before would stay.
#[tokio::test]
async fn a_change_is_not_torn() {
    let moving = Moving::new();
    let record = |id| SliceRecord { pos: 0, id: SliceId(id), size: 4096, off: 0, len: 4096 };
    put(
        &moving.engine,
        vec![
            Effect::Node(Ino(2), NodeEffect::Insert(directory(2))),
            Effect::Edge(Ino(2), Name::from("a"), EdgeEffect::Insert(edge(3))),
            Effect::Chunk(Ino(3), 0, ChunkEffect::Append(vec![record(1)])),
            Effect::Node(Ino(3), NodeEffect::AddParent(Ino(2), 1)),
        ],
    )
    .await;
    let slot = moving.begin();
    // Each takes the last of what there is, and puts something in its place.
    let changes = [
        moving.change(vec![
            Effect::Edge(Ino(2), Name::from("a"), EdgeEffect::Delete),
            Effect::Edge(Ino(2), Name::from("b"), EdgeEffect::Insert(edge(3))),
        ]),
        moving.change(vec![Effect::Chunk(Ino(3), 0, ChunkEffect::Put(vec![record(2)]))]),
        moving.change(vec![
            Effect::Node(Ino(3), NodeEffect::AddParent(Ino(2), -1)),
            Effect::Node(Ino(3), NodeEffect::AddParent(Ino(5), 1)),
        ]),
    ];
    sleep(MOMENT).await;
    assert!(changes.iter().all(|change| !change.is_finished()), "{changes:?}");
    // Reading goes on, and sees all or nothing of each.
    assert_eq!(get(&moving.engine, Key::Edge(Ino(2), Name::from("a"))).await, Some(Value::Edge(edge(3))));
    assert_eq!(get(&moving.engine, Key::Chunk(Ino(3), 0)).await, Some(Value::Chunk(vec![record(1)])));
    slot.finish();
    for change in changes {
        assert!(matches!(change.await.expect("no panic"), ApplyOutcome::Applied(_)));
    }
    assert_eq!(get(&moving.engine, Key::Edge(Ino(2), Name::from("a"))).await, None);
    assert_eq!(get(&moving.engine, Key::Edge(Ino(2), Name::from("b"))).await, Some(Value::Edge(edge(3))));
    assert_eq!(get(&moving.engine, Key::Chunk(Ino(3), 0)).await, Some(Value::Chunk(vec![record(2)])));
    let parents = BTreeMap::from([(Ino(5), 1)]);
    assert_eq!(get(&moving.engine, Key::Parents(Ino(3))).await, Some(Value::Parents(parents)));
}

/// The new node would say of what has not come yet that it does not exist.
#[tokio::test]
async fn what_is_on_either_node_is_found() {
    let moving = Moving::new();
    let record = SliceRecord { pos: 0, id: SliceId(7), size: 4096, off: 0, len: 4096 };
    let mut list =
        vec![Effect::Node(Ino(2), NodeEffect::Insert(directory(2))), Effect::Node(Ino(3), NodeEffect::Insert(file()))];
    list.push(Effect::Edge(Ino(2), Name::from("a"), EdgeEffect::Insert(edge(3))));
    list.extend((0..20).map(|index| Effect::Chunk(Ino(3), 2 * index, ChunkEffect::Append(vec![record]))));
    put(&moving.engine, list).await;
    let slot = moving.begin();
    // The entry is on the new node, the inode still on the old one; likewise half of the chunks.
    moving.move_key("{7}d2");
    (0..10).for_each(|index| moving.move_key(&format!("{{7}}c3_{}", 2 * index)));
    let found = moving.engine.lookup(Ino(2), b"a").await.expect("looked up");
    assert_eq!(found, Some(Found { edge: edge(3), attr: Some(file()), stored: None }));
    assert_eq!(moving.engine.lookup(Ino(2), b"b").await.expect("looked up"), None);
    let there = get(&moving.engine, Key::ChunkIndexes(Ino(3), 0, 100)).await;
    assert_eq!(there, Some(Value::ChunkIndexes((0..20).map(|index| 2 * index).collect())));
    let of_file = Scan::Chunks { ino: Ino(3), from: 0, to: 41 };
    assert_eq!(moving.engine.scan(of_file, None, 100).await.expect("scanned").len(), 20);
    let page = moving.engine.readdir(Ino(2), None, false, 100).await.expect("listed");
    assert_eq!(page.entries.len(), 1);
    // A walk through all keys of a node waits until they are in one place.
    let engine = Arc::clone(&moving.engine);
    let all = tokio::spawn(async move { get(&engine, Key::ChunkIndexes(Ino(3), 0, 1 << 30)).await });
    sleep(MOMENT).await;
    assert!(!all.is_finished());
    slot.finish();
    assert_eq!(all.await.expect("no panic"), there);
}

#[tokio::test]
async fn the_locks_of_a_session_are_removed_wherever_they_are() {
    let moving = Moving::new();
    let owner = |sid| LockOwner { sid: SessionId(sid), number: 1 };
    let session = Session { expire_secs: 10, info: Bytes::new() };
    let mut list = vec![Effect::Session(SessionId(4), SessionEffect::Put(session))];
    for ino in 10..15 {
        list.push(Effect::Lock(Ino(ino), owner(4), LockEffect::PutFlock(LockKind::Read)));
        list.push(Effect::Lock(Ino(ino), owner(5), LockEffect::PutFlock(LockKind::Read)));
    }
    put(&moving.engine, list).await;
    let (at, _) = moving.nodes();
    // What others put there is no reason to fail, or to touch it.
    let mut wire = moving.cluster.nodes()[at].wire(0);
    wire.call(&["SADD", "{7}locked4", "{7}nextinode", "elsewhere"]);
    wire.call(&["SET", "{7}nextinode", "100"]);
    let slot = moving.begin();
    moving.move_key("{7}lockf11");
    let change = moving.change(vec![
        Effect::Session(SessionId(4), SessionEffect::Delete),
        Effect::Session(SessionId(4), SessionEffect::DeleteLocks),
    ]);
    sleep(MOMENT).await;
    assert!(!change.is_finished());
    slot.finish();
    assert!(matches!(change.await.expect("no panic"), ApplyOutcome::Applied(_)));
    for ino in 10..15 {
        let held = Value::Flocks(BTreeMap::from([(owner(5), LockKind::Read)]));
        assert_eq!(get(&moving.engine, Key::Holder(HolderKey::Flocks(Ino(ino)))).await, Some(held), "{ino}");
    }
    let mut wire = moving.cluster.nodes()[moving.nodes().0].wire(0);
    assert_eq!(wire.call(&["EXISTS", "{7}locked4"]).int(), 0);
    assert_eq!(wire.call(&["GET", "{7}nextinode"]).text(), "100");
}

/// Another node gives the entries in another order: the same place in it is another one.
#[tokio::test]
async fn a_listing_goes_on_where_the_directory_has_gone() {
    const COUNT: u64 = 20_000;
    let moving = Moving::new();
    for from in (0..COUNT).step_by(1000) {
        let entry =
            |n| Effect::Edge(Ino(2), Name::new(format!("name-{n}").as_bytes()), EdgeEffect::Insert(edge(n + 10)));
        put(&moving.engine, (from..from + 1000).map(entry).collect()).await;
    }
    let mut names = BTreeSet::new();
    let (mut from, mut pages) = (None, 0);
    loop {
        let page = moving.engine.readdir(Ino(2), from, false, 3000).await.expect("listed");
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        pages += 1;
        if pages == 2 {
            moving.begin().finish();
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(names.len() as u64, COUNT);
    assert!((5..20).contains(&pages), "{pages} pages");
}
