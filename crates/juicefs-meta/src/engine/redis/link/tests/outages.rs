//! Servers that answer, and cannot serve: each is waited for, and named when it takes too long.

use std::time::Instant;

use super::*;

/// How long the trouble lasts.
const LASTS: Duration = Duration::from_millis(400);

/// What changes something: a command, a script, and a transaction.
fn changes() -> [Request; 3] {
    let script = Request::of(&["EVAL", "return redis.call('INCRBY', KEYS[1], ARGV[1])", "1", "n", "1"]);
    let mut transaction = Request::of(&["MULTI"]);
    transaction.command(&["INCRBY", "n", "1"]);
    transaction.command(&["EXEC"]);
    [Request::of(&["INCRBY", "n", "1"]), script, transaction]
}

/// Changes wait until `end` has put `server` right, and are made once; a client without the patience says `about`.
async fn wait_it_out(server: &RedisServer, begin: impl Fn(), end: impl Fn(), about: &str) {
    for (n, request) in changes().into_iter().enumerate() {
        let (patient, hasty) = (link(&server.url(0)), hasty(&server.url(0), LASTS / 2));
        call(&patient, &["SET", "n", "5"]).await;
        call(&hasty, &["PING"]).await;
        begin();
        let begun = Instant::now();
        let change = async {
            patient.call(Lane::Small, &request).await.unwrap_or_else(|error| panic!("{about}, request {n}: {error}"))
        };
        let trouble = async {
            match hasty.call(Lane::Small, &request).await {
                Err(LinkError::Unavailable(why)) => assert!(why.contains(about), "request {n}: {why}"),
                other => panic!("{about}, request {n}: {other:?}"),
            }
            tokio::time::sleep(LASTS.saturating_sub(begun.elapsed())).await;
            end();
        };
        let (replies, ()) = tokio::join!(change, trouble);
        let last = replies.into_iter().next_back().expect("a reply");
        assert!(matches!(&last, Value::Int(6)) || last == Value::Array(vec![Value::Int(6)]), "request {n}: {last:?}");
        assert!(begun.elapsed() >= LASTS, "{about}, request {n}: it took {:?}", begun.elapsed());
        assert_eq!(call(&patient, &["GET", "n"]).await, bulk("6"), "{about}, request {n}");
        patient.close().await;
        hasty.close().await;
    }
}

#[tokio::test]
async fn no_memory_left() {
    let server = RedisServer::new();
    let set = |bytes: &str| drop(server.cli(&["CONFIG", "SET", "maxmemory", bytes]));
    wait_it_out(&server, || set("1"), || set("0"), "OOM").await;
}

#[tokio::test]
async fn a_disk_that_takes_no_dump() {
    let server = RedisServer::start(&["--save", "3600", "1000", "--enable-protected-configs", "yes"]);
    let dump = |dir: &std::path::Path| {
        server.cli(&["BGSAVE"]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !server.cli(&["INFO", "persistence"]).contains("rdb_bgsave_in_progress:0") {
            assert!(Instant::now() < deadline, "the dump to {} does not end", dir.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let away = server.dir().join("away");
    let begin = || {
        // The server stays in a directory that is no more.
        std::fs::create_dir(&away).expect("made");
        server.cli(&["CONFIG", "SET", "dir", &away.display().to_string()]);
        std::fs::remove_dir(&away).expect("removed");
        dump(&away);
    };
    let end = || {
        server.cli(&["CONFIG", "SET", "dir", &server.dir().display().to_string()]);
        dump(server.dir());
    };
    wait_it_out(&server, begin, end, "MISCONF").await;
}

#[tokio::test]
async fn too_few_replicas() {
    let server = RedisServer::new();
    let set = |count: &str| drop(server.cli(&["CONFIG", "SET", "min-replicas-to-write", count]));
    wait_it_out(&server, || set("1"), || set("0"), "NOREPLICAS").await;
}

#[tokio::test]
async fn a_server_that_became_a_replica() {
    let server = RedisServer::new();
    let follow = || drop(server.cli(&["REPLICAOF", "127.0.0.1", "1"]));
    let lead = || drop(server.cli(&["REPLICAOF", "NO", "ONE"]));
    wait_it_out(&server, follow, lead, "READONLY").await;
}

#[tokio::test]
async fn a_script_of_somebody_else_that_does_not_end() {
    let server = Arc::new(RedisServer::start(&["--lua-time-limit", "50"]));
    let begin = || {
        let server = Arc::clone(&server);
        std::thread::spawn(move || server.wire(0).try_call(&["EVAL", "while true do end", "0"]));
        // From then on the server answers, if only that it is busy.
        std::thread::sleep(Duration::from_millis(150));
    };
    let end = || drop(server.cli(&["SCRIPT", "KILL"]));
    wait_it_out(&server, begin, end, "BUSY").await;
}

#[tokio::test]
async fn clients_that_are_paused() {
    let server = RedisServer::new();
    let link = link(&server.url(0));
    call(&link, &["SET", "n", "5"]).await;
    server.cli(&["CLIENT", "PAUSE", "400", "ALL"]);
    let begun = Instant::now();
    assert_eq!(call(&link, &["INCRBY", "n", "1"]).await, Value::Int(6));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    link.close().await;
}

#[tokio::test]
async fn connections_that_an_administrator_ends() {
    let server = RedisServer::new();
    let link = link(&server.url(0));
    for round in 0..5 {
        call(&link, &["SET", "n", "5"]).await;
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert_eq!(call(&link, &["INCRBY", "n", "1"]).await, Value::Int(6), "round {round}");
    }
    link.close().await;
}

#[tokio::test]
async fn no_room_for_another_client() {
    let server = RedisServer::new();
    let (patient, hasty) = (link(&server.url(0)), hasty(&server.url(0), LASTS / 2));
    let mut admin = server.wire(0);
    admin.call(&["CONFIG", "SET", "maxclients", "1"]);
    let connects = async { call(&patient, &["PING"]).await };
    let room = async {
        match hasty.call(Lane::Small, &Request::of(&["PING"])).await {
            Err(LinkError::Unavailable(why)) => assert!(why.contains("max number of clients reached"), "{why}"),
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(LASTS / 2).await;
        admin.call(&["CONFIG", "SET", "maxclients", "100"]);
    };
    let (reply, ()) = tokio::join!(connects, room);
    assert_eq!(reply, Value::SimpleString("PONG".to_owned()));
    patient.close().await;
    hasty.close().await;
}

/// A cluster of which a part is gone answers `CLUSTERDOWN` at every node.
#[tokio::test]
async fn a_cluster_that_is_down() {
    let cluster = juicefs_testkit::redis::RedisCluster::start(&[]);
    let slot = cluster.slot_of("{7}");
    let owner = cluster.owner(slot);
    let link = link(&cluster.url(7));
    let hasty = hasty(&cluster.url(7), Duration::from_secs(1));
    assert_eq!(call(&link, &["SET", "{7}n", "5"]).await, Value::Okay);
    call(&hasty, &["PING"]).await;
    let other = &cluster.nodes()[(owner + 1) % 3];
    other.stop();
    // Its fellows have to agree that it is gone.
    let down = || cluster.nodes()[owner].wire(0).call(&["CLUSTER", "INFO"]).text().contains("cluster_state:fail");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !down() {
        assert!(Instant::now() < deadline, "the cluster does not notice");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let change = async { call(&link, &["INCRBY", "{7}n", "1"]).await };
    let back = async {
        // The last it heard may be that the frozen node does not answer.
        let gave_up = hasty.call(Lane::Small, &Request::of(&["INCRBY", "{7}n", "100"])).await;
        assert!(matches!(gave_up, Err(LinkError::Unavailable(_))), "{gave_up:?}");
        other.cont();
    };
    let (reply, ()) = tokio::join!(change, back);
    assert_eq!(reply, Value::Int(6));
    link.close().await;
    hasty.close().await;
}
