//! Socket files, TLS, Sentinels and clusters.

use std::time::Instant;

use juicefs_testkit::redis::{RedisCluster, RedisSentinels};

use super::*;

#[tokio::test]
async fn a_socket_file() {
    let server = RedisServer::setup().password("p@ss").start();
    let link = link(&server.unix_url(2).replace("p@ss", "p%40ss"));
    assert_eq!(call(&link, &["SET", "k", "1"]).await, Value::Okay);
    assert_eq!(server.wire(2).call(&["EXISTS", "k"]).int(), 1);
    server.restart();
    assert_eq!(call(&link, &["PING"]).await, Value::SimpleString("PONG".to_owned()));
    link.close().await;
}

#[tokio::test]
async fn tls_with_an_authority_of_its_own() {
    let server = RedisServer::with_tls(&["--tls-auth-clients", "yes"]);
    let link = link(&server.url(2));
    let large = "x".repeat(3 << 20);
    assert_eq!(call(&link, &["SET", "k", &large]).await, Value::Okay);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (link, large) = (Arc::clone(&link), large.clone());
            tokio::spawn(async move {
                for number in 0..200 {
                    let text = format!("{task}-{number}");
                    assert_eq!(call(&link, &["ECHO", &text]).await, bulk(&text));
                }
                assert!(call(&link, &["GET", "k"]).await == bulk(&large));
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    server.restart();
    assert_eq!(call(&link, &["PING"]).await, Value::SimpleString("PONG".to_owned()));
    link.close().await;
}

#[tokio::test]
async fn tls_sentences() {
    let server = RedisServer::with_tls(&[]);
    let port = server.port();
    let ca = server.tls().expect("certificates").ca.display().to_string();
    let unknown = refusal(&format!("rediss://127.0.0.1:{port}/1")).await;
    assert!(unknown.contains("tls-ca-cert-file"), "{unknown}");
    let name =
        refusal(&format!("rediss://127.0.0.1:{port}/1?tls-ca-cert-file={ca}&tls-server-name=other.example")).await;
    assert!(name.contains("is not for \"other.example\""), "{name}");
    let missing = refusal(&format!("rediss://127.0.0.1:{port}/1?tls-ca-cert-file=/nowhere/ca.pem")).await;
    assert!(missing.contains("/nowhere/ca.pem cannot be read"), "{missing}");
    for options in [format!("tls-ca-cert-file={ca}&tls-server-name=localhost"), "insecure-skip-verify=true".to_owned()]
    {
        let link = link(&format!("rediss://127.0.0.1:{port}/1?{options}"));
        assert_eq!(call(&link, &["SET", "k", "1"]).await, Value::Okay);
        link.close().await;
    }

    // One side speaks TLS and the other does not.
    match hasty(&format!("redis://127.0.0.1:{port}/1"), Duration::from_secs(4)).ready().await {
        Err(LinkError::Unavailable(why) | LinkError::Refused(why)) => assert!(why.contains("rediss://"), "{why}"),
        Ok(server) => panic!("{server:?}"),
    }
    let plain = RedisServer::new();
    match hasty(&format!("rediss://127.0.0.1:{}/1", plain.port()), Duration::from_secs(4)).ready().await {
        Err(LinkError::Unavailable(why) | LinkError::Refused(why)) => assert!(why.contains("redis://"), "{why}"),
        Ok(server) => panic!("{server:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_next_master() {
    let group = RedisSentinels::start(&[]);
    let link = link(&group.url(1));
    let told = link.ready().await.expect("connected");
    assert!(!told.cluster && told.key_prefix.is_empty());
    assert_eq!(call(&link, &["SET", "k", "1"]).await, Value::Okay);
    assert_eq!(call(&link, &["WAIT", "1", "5000"]).await, Value::Int(1));
    let port = group.master().port();
    group.kill_master();
    let killed = Instant::now();
    assert_eq!(call(&link, &["SET", "k", "2"]).await, Value::Okay);
    println!("the call took {:?}", killed.elapsed());
    // Another Sentinel than the one asked here may have been the first to know.
    group.wait_for_successor(port);
    assert_eq!(group.master().wire(1).call(&["GET", "k"]).text(), "2");
    link.close().await;

    let why = refusal(&group.url(1).replace("mymaster", "nomaster")).await;
    assert!(why.contains("know no master with the name \"nomaster\""), "{why}");
    let why = refusal(&format!("redis://mymaster,127.0.0.1:{}/1", group.master().port())).await;
    assert!(why.contains("is not a Sentinel"), "{why}");
}

/// A link for who never writes.
fn reader(url: &str) -> Link {
    Link::new(address(url), true)
}

#[tokio::test]
async fn a_reader_may_be_given_a_replica_by_sentinels() {
    let group = RedisSentinels::start(&[]);
    let url = group.url(1);
    let writer = link(&format!("{url}?route-read=replica"));
    let (reader, plain) = (reader(&format!("{url}?route-read=replica")), reader(&url));
    assert_eq!(call(&writer, &["SET", "k", "1"]).await, Value::Okay);
    assert_eq!(call(&writer, &["WAIT", "1", "5000"]).await, Value::Int(1));
    assert_eq!(call(&reader, &["GET", "k"]).await, bulk("1"));
    for (link, expected) in [(&*writer, "master"), (&reader, "slave"), (&plain, "master")] {
        let Value::Array(role) = call(link, &["ROLE"]).await else { panic!("no role") };
        assert_eq!(role[0], bulk(expected));
        link.close().await;
    }
}

#[tokio::test]
async fn a_reader_may_be_given_a_replica_of_a_cluster() {
    let cluster = RedisCluster::start(&[]);
    let owner = cluster.owner(cluster.slot_of("{7}"));
    let writer = link(&cluster.url(7));
    assert_eq!(call(&writer, &["SET", "{7}k", "1"]).await, Value::Okay);
    let lonely = reader(&format!("{}?route-read=replica", cluster.url(7)));
    assert_eq!(call(&lonely, &["GET", "{7}k"]).await, bulk("1"), "the master will do where there is no replica");
    let replica = cluster.add_replica(owner);
    for (route, may) in
        [("replica", vec!["slave"]), ("random", vec!["slave", "master"]), ("latency", vec!["slave", "master"])]
    {
        let link = reader(&format!("{}?route-read={route}", cluster.url(7)));
        assert_eq!(call(&link, &["GET", "{7}k"]).await, bulk("1"), "{route}");
        let Value::Array(role) = call(&link, &["ROLE"]).await else { panic!("no role") };
        assert!(may.iter().any(|may| role[0] == bulk(may)), "{route}: {role:?}");
        link.close().await;
    }
    drop(replica);
    writer.close().await;
    lonely.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_followed_through_the_cluster() {
    const VOLUME: u32 = 7;
    let cluster = RedisCluster::start(&[]);
    let slot = cluster.slot_of("{7}");
    let owner = cluster.owner(slot);
    let others: Vec<usize> = (0..3).filter(|node| *node != owner).collect();

    // A single node that is not the owner tells as much as all of them.
    let single = link(&format!("redis://127.0.0.1:{}/{VOLUME}", cluster.nodes()[others[0]].port()));
    let link = link(&cluster.url(VOLUME));
    for link in [&link, &single] {
        let told = link.ready().await.expect("connected");
        assert!(told.cluster && told.key_prefix == "{7}", "{told:?}");
        assert_eq!(call(link, &["SET", "{7}setting", "x"]).await, Value::Okay);
    }
    for n in 0..50 {
        call(&link, &["SET", &format!("{{7}}k{n}"), &n.to_string()]).await;
    }

    // MOVED.
    cluster.move_slot(slot, others[0]);
    for lane in [Lane::Small, Lane::Bulk] {
        let replies = link.call(lane, &Request::of(&["GET", "{7}k7"])).await.expect("a reply");
        assert_eq!(replies, [bulk("7")]);
    }
    assert_eq!(call(&single, &["GET", "{7}k7"]).await, bulk("7"));

    // ASK for keys that have gone already, and for those that never were; the others are served as before.
    let mut moving = cluster.begin_move(slot, others[1]);
    moving.move_keys(30);
    for n in 0..50 {
        let mut request = Request::of(&["GET", &format!("{{7}}k{n}")]);
        request.command(&["MULTI"]);
        request.command(&["APPEND", &format!("{{7}}k{n}"), "!"]);
        request.command(&["EXEC"]);
        let replies = link.call(Lane::Small, &request).await.expect("replies");
        assert_eq!(replies.len(), 4);
        assert_eq!(replies[0], bulk(&n.to_string()));
        assert_eq!(replies[3], Value::Array(vec![Value::Int(n.to_string().len() as i64 + 1)]));
    }
    assert_eq!(call(&link, &["SET", "{7}new", "1"]).await, Value::Okay);

    // In one request with others, each from where it is: the new owner would say of half of them that they do not exist.
    let mut request = Request::new();
    (0..50).for_each(|n| request.command(&["GET", &format!("{{7}}k{n}")]));
    request.command(&["GET", "{7}never"]);
    let replies = link.call(Lane::Bulk, &request).await.expect("replies");
    let expected: Vec<_> = (0..50).map(|n| bulk(&format!("{n}!"))).chain([Value::Nil]).collect();
    assert_eq!(replies, expected);

    // What is to be served by one node only waits.
    let steady = tokio::spawn({
        let link = Arc::clone(&link);
        async move { link.call(Lane::Bulk, &Request::of(&["EXISTS", "{7}never"]).steady()).await }
    });

    // TRYAGAIN, until the slot is in one place.
    let both = tokio::spawn({
        let link = Arc::clone(&link);
        async move {
            let mut request = Request::new();
            request.begin(51);
            request.arg(b"MGET");
            for n in 0..50 {
                request.arg(format!("{{7}}k{n}").as_bytes());
            }
            link.call(Lane::Bulk, &request).await
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!both.is_finished() && !steady.is_finished());
    moving.finish();
    assert_eq!(steady.await.expect("the task").expect("a reply"), [Value::Int(0)]);
    let expected = (0..50).map(|n| bulk(&format!("{n}!"))).collect();
    assert_eq!(both.await.expect("the task").expect("a reply"), [Value::Array(expected)]);
    assert_eq!(call(&link, &["GET", "{7}new"]).await, bulk("1"));
    link.close().await;
    single.close().await;
}

/// Places in a walk mean something to one process only.
#[tokio::test]
async fn each_life_of_a_server_has_an_origin() {
    let cluster = RedisCluster::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let slot = cluster.slot_of("{7}");
    let owner = cluster.owner(slot);
    let link = link(&cluster.url(7));
    let origin = async |lane, key: &str| {
        let answer = link.ask_whom(lane, &Request::of(&["GET", key])).await.expect("an answer");
        answer.origin
    };
    assert_eq!(call(&link, &["SET", "{7}k", "1"]).await, Value::Okay);
    let first = origin(Lane::Small, "{7}k").await;
    assert_eq!(origin(Lane::Bulk, "{7}k").await, first, "two connections to one process");
    cluster.nodes()[owner].cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(origin(Lane::Bulk, "{7}k").await, first, "another connection to it");
    let mut moving = cluster.begin_move(slot, (owner + 1) % 3);
    assert_eq!(origin(Lane::Bulk, "{7}k").await, first);
    moving.move_keys(1);
    let second = origin(Lane::Bulk, "{7}k").await;
    assert_ne!(second, first, "the key has moved");
    moving.finish();
    assert_eq!(origin(Lane::Bulk, "{7}k").await, second, "the slot has followed");
    cluster.nodes()[(owner + 1) % 3].restart();
    assert_ne!(origin(Lane::Bulk, "{7}k").await, second, "the process is another");
    link.close().await;
}

#[tokio::test]
async fn several_servers_that_are_no_cluster() {
    let servers = [RedisServer::new(), RedisServer::new()];
    let [a, b] = servers.each_ref().map(RedisServer::port);
    let why = refusal(&format!("redis://127.0.0.1:{a},127.0.0.1:{b}/1")).await;
    assert!(why.contains("is not in cluster mode"), "{why}");
}
