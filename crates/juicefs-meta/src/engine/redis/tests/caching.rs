//! With `client-cache`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::time::{Duration, Instant, sleep};

use super::*;

/// An engine to which the server tells of changes.
async fn caching(server: &RedisServer, more: &str) -> Arc<RedisEngine> {
    let url = format!("{}?client-cache=true{more}", server.url(0));
    let (driver, rest) = url.split_once("://").expect("a URL");
    let engine = Arc::new(RedisEngine::new(Address::parse(driver, rest).expect("an address"), false));
    engine.keys().await.expect("connected");
    let cache = Arc::clone(engine.cache.get().expect("a cache"));
    soon(|| async { cache.is_told() }).await;
    engine
}

/// Waits until something is so.
async fn soon<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "it does not get so");
        sleep(Duration::from_millis(1)).await;
    }
}

/// A length as a client reads it: asked for only when it is not known.
async fn length(engine: &RedisEngine, ino: Ino) -> u64 {
    let key = [Key::Node(ino)];
    let read = match engine.cached(&key) {
        Some(read) => read,
        None => engine.fetch(&key).await.expect("fetched"),
    };
    read.node(ino).expect("there").length
}

#[tokio::test]
async fn what_is_known_is_not_asked_for_again_until_it_changes() {
    let server = RedisServer::new();
    let (cached, other) = (caching(&server, "").await, engine(&server));
    let name = Name::from("a");
    put(
        &other,
        vec![Effect::Node(Ino(2), NodeEffect::Insert(directory(2))), Effect::Node(Ino(3), NodeEffect::Insert(file()))],
    )
    .await;
    // Of that, the server may tell a moment later, which would be a change of what is read next.
    put(&other, vec![Effect::Node(Ino(9), NodeEffect::Insert(file()))]).await;
    soon(|| async {
        get(&cached, Key::Node(Ino(9))).await.is_some()
            && cached.cache.get().is_some_and(|c| c.get(&Key::Node(Ino(9))).is_some())
    })
    .await;
    assert_eq!(length(&cached, Ino(3)).await, 0);
    assert!(cached.lookup(Ino(2), b"a").await.expect("looked up").is_none());
    let asked = || {
        server
            .cli(&["INFO", "commandstats"])
            .lines()
            .filter(|line| {
                ["cmdstat_get:", "cmdstat_hget:", "cmdstat_evalsha:"].iter().any(|command| line.starts_with(command))
            })
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };
    let before = asked();
    for _ in 0..10 {
        assert_eq!(length(&cached, Ino(3)).await, 0);
        assert!(cached.lookup(Ino(2), b"a").await.expect("looked up").is_none());
    }
    assert_eq!(asked(), before);
    put(&other, vec![Effect::Node(Ino(3), NodeEffect::Update(Attr { length: 7, ..file() }))]).await;
    soon(|| async { length(&cached, Ino(3)).await == 7 }).await;
    put(&other, vec![Effect::Edge(Ino(2), name.clone(), EdgeEffect::Insert(edge(3)))]).await;
    soon(|| async { cached.lookup(Ino(2), b"a").await.expect("looked up").is_some() }).await;
    // Its own changes show at once.
    put(
        &cached,
        vec![
            Effect::Edge(Ino(2), name, EdgeEffect::Delete),
            Effect::Node(Ino(3), NodeEffect::Update(Attr { length: 8, ..file() })),
        ],
    )
    .await;
    assert!(cached.lookup(Ino(2), b"a").await.expect("looked up").is_none());
    assert_eq!(length(&cached, Ino(3)).await, 8);
    cached.close().await;
}

/// Readings that cross with changes, and with what the server tells of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_missed() {
    const CHANGES: u64 = 3000;
    let server = RedisServer::new();
    let (cached, other) = (caching(&server, "").await, Arc::new(engine(&server)));
    let node = Ino(3);
    put(&other, vec![Effect::Node(node, NodeEffect::Insert(file()))]).await;
    let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (cached, done, reads) = (Arc::clone(&cached), Arc::clone(&done), Arc::clone(&reads));
        readers.push(tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                length(&cached, node).await;
                reads.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }));
    }
    for length in 1..=CHANGES {
        put(&other, vec![Effect::Node(node, NodeEffect::Update(Attr { length, ..file() }))]).await;
        if length % 64 == 0 {
            soon(|| async { self::length(&cached, node).await == length }).await;
        }
    }
    soon(|| async { length(&cached, node).await == CHANGES }).await;
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.expect("no panic");
    }
    assert!(reads.load(Ordering::SeqCst) > CHANGES, "some were answered from the cache");
    cached.close().await;
}

#[tokio::test]
async fn nothing_is_believed_of_a_server_that_is_gone() {
    let server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (cached, other) = (caching(&server, "").await, engine(&server));
    put(&other, vec![Effect::Node(Ino(3), NodeEffect::Insert(file()))]).await;
    assert_eq!(length(&cached, Ino(3)).await, 0);
    server.kill();
    server.restart();
    put(&other, vec![Effect::Node(Ino(3), NodeEffect::Update(Attr { length: 7, ..file() }))]).await;
    assert_eq!(length(&cached, Ino(3)).await, 7);
    cached.close().await;
}

#[tokio::test]
async fn the_first_nodes_are_read_ahead() {
    let server = RedisServer::new();
    let other = engine(&server);
    let mut tree = vec![
        Effect::Node(Ino::ROOT, NodeEffect::Insert(directory(3))),
        Effect::Node(Ino(2), NodeEffect::Insert(directory(2))),
    ];
    let below = Edge { ino: Ino(2), kind: FileType::Directory };
    tree.push(Effect::Edge(Ino::ROOT, Name::from("below"), EdgeEffect::Insert(below)));
    for ino in 10..20 {
        tree.push(Effect::Node(Ino(ino), NodeEffect::Insert(file())));
        tree.push(Effect::Edge(Ino(2), Name::from(format!("f{ino}").as_str()), EdgeEffect::Insert(edge(ino))));
    }
    put(&other, tree).await;
    let cached = caching(&server, "&client-cache-preload=1000").await;
    cached.warm_up(Ino::ROOT).await.expect("read ahead");
    let cache = cached.cache.get().expect("a cache");
    assert!((10..20).all(|ino| cache.get(&Key::Node(Ino(ino))).is_some()));
    assert_eq!(cache.get(&Key::Edge(Ino::ROOT, Name::from("below"))), Some(Some(Value::Edge(below))));
    cached.close().await;
}
