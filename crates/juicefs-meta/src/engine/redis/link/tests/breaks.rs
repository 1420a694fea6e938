//! Connections that break, and servers that go away.

use std::time::Instant;

use juicefs_testkit::fault_proxy::{Fault, FaultProxy, Faults};

use super::*;

#[tokio::test]
async fn a_killed_server_is_found_again() {
    let server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let link = link(&server.url(1));
    assert_eq!(call(&link, &["SET", "k", "1"]).await, Value::Okay);
    server.kill();
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let link = Arc::clone(&link);
            tokio::spawn(async move { call(&link, &["GET", "k"]).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    server.restart();
    let back = Instant::now();
    for task in waiting {
        assert_eq!(task.await.expect("a task"), bulk("1"));
    }
    assert!(back.elapsed() < Duration::from_secs(3), "it took {:?}", back.elapsed());
    link.close().await;
}

#[tokio::test]
async fn a_frozen_server_is_waited_for() {
    let server = RedisServer::new();
    let link = link(&server.url(0));
    call(&link, &["SET", "k", "1"]).await;
    let connections = connections(&server);
    server.stop();
    let asked = Instant::now();
    // More than the socket takes, too: the rest waits here.
    let large = "x".repeat(16 << 20);
    let set = ["SET", "l", &large];
    let calls = async { tokio::join!(call(&link, &["GET", "k"]), call(&link, &set)) };
    let thaw = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.cont();
    };
    let (replies, ()) = tokio::join!(calls, thaw);
    assert_eq!(replies, (bulk("1"), Value::Okay));
    assert!(asked.elapsed() >= Duration::from_secs(3));
    assert_eq!(self::connections(&server), connections, "the connection was kept");
    link.close().await;
}

/// How many connections the server has accepted over TCP. (The test's own come by the socket file, and count too.)
fn connections(server: &RedisServer) -> usize {
    server.wire(0).call(&["CLIENT", "LIST"]).text().lines().filter(|line| !line.contains("redis.sock")).count()
}

#[tokio::test]
async fn silence_breaks_a_connection_that_owes_a_reply_and_no_other() {
    let server = RedisServer::new();
    let link = hasty(&format!("{}?read-timeout=400ms", server.url(0)), Duration::from_secs(20));
    call(&link, &["SET", "k", "1"]).await;
    let id = call(&link, &["CLIENT", "ID"]).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(call(&link, &["CLIENT", "ID"]).await, id, "idle connections stay");
    server.stop();
    let thaw = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        server.cont();
    };
    let (reply, ()) = tokio::join!(call(&link, &["CLIENT", "ID"]), thaw);
    assert_ne!(reply, id, "a silent connection is replaced");
    link.close().await;
}

#[tokio::test]
async fn a_server_that_takes_nothing_breaks_a_connection() {
    let server = RedisServer::new();
    let link = hasty(&format!("{}?write-timeout=300ms", server.url(0)), Duration::from_secs(20));
    let id = call(&link, &["CLIENT", "ID"]).await;
    server.stop();
    let large = "x".repeat(16 << 20);
    let thaw = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        server.cont();
    };
    let set = ["SET", "l", &large];
    let (reply, ()) = tokio::join!(call(&link, &set), thaw);
    assert_eq!(reply, Value::Okay);
    assert_ne!(call(&link, &["CLIENT", "ID"]).await, id, "the connection is replaced");
    link.close().await;
}

#[tokio::test]
async fn a_dead_server_is_given_up_when_the_budget_is_used_up() {
    let server = RedisServer::new();
    let link = hasty(&server.url(0), Duration::from_millis(700));
    call(&link, &["PING"]).await;
    server.kill();
    let asked = Instant::now();
    match link.call(Lane::Bulk, &Request::of(&["PING"])).await {
        Err(LinkError::Unavailable(why)) => assert!(why.contains("cannot connect to 127.0.0.1:"), "{why}"),
        other => panic!("{other:?}"),
    }
    let took = asked.elapsed();
    assert!((Duration::from_millis(600)..Duration::from_secs(2)).contains(&took), "it took {took:?}");
    server.restart();
    assert_eq!(call(&link, &["PING"]).await, Value::SimpleString("PONG".to_owned()));
    link.close().await;
}

#[tokio::test]
async fn a_call_outlives_each_way_to_lose_a_connection() {
    let server = RedisServer::new();
    let proxy = FaultProxy::start(server.port(), 11);
    let link = link(&format!("redis://127.0.0.1:{}/2?read-timeout=1s", proxy.port()));
    let faults = [
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::ReplyDropped,
        Fault::ReplyTorn,
        Fault::Cut(Duration::from_millis(300)),
        Fault::Stall(Duration::from_millis(1500)),
        Fault::Latency(Duration::from_millis(100)),
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        call(&link, &["PING"]).await;
        let value = format!("value-{n}");
        proxy.fail_next(value.as_bytes(), fault);
        assert_eq!(call(&link, &["SET", "k", &value]).await, Value::Okay, "{fault:?}");
        assert_eq!(proxy.queued(), 0, "{fault:?} did not happen");
        assert_eq!(call(&link, &["GET", "k"]).await, bulk(&value), "{fault:?}");
    }
    link.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_get_their_own_replies_through_a_storm() {
    let server = RedisServer::new();
    let proxy = FaultProxy::start(server.port(), 12);
    let link = link(&format!("redis://127.0.0.1:{}/2?max-retry-backoff=50ms", proxy.port()));
    link.ready().await.expect("connected");
    proxy.faults(Faults { reset_before: 10, reset_after: 10, reply_dropped: 10, reply_torn: 10, ..Faults::default() });
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let link = Arc::clone(&link);
            let lane = if task % 4 == 0 { Lane::Bulk } else { Lane::Small };
            tokio::spawn(async move {
                for number in 0..400 {
                    let text = format!("{task}-{number}");
                    let mut request = Request::of(&["SET", &format!("k{task}"), &text]);
                    request.command(&["ECHO", &text]);
                    request.command(&["GET", &format!("k{task}")]);
                    let replies = link.call(lane, &request).await.expect("replies");
                    assert_eq!(replies, [Value::Okay, bulk(&text), bulk(&text)]);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let counts = proxy.counts();
    println!("{counts:?}");
    assert!(counts.faults() > 10, "{counts:?}");
    link.close().await;
}

#[tokio::test]
async fn a_server_that_only_reads_is_waited_for() {
    let server = RedisServer::new();
    let link = link(&server.url(0));
    call(&link, &["SET", "k", "1"]).await;
    // A replica of nobody: reads are served, writes refused.
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let promote = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.cli(&["REPLICAOF", "NO", "ONE"]);
    };
    let (reply, ()) = tokio::join!(call(&link, &["SET", "k", "2"]), promote);
    assert_eq!(reply, Value::Okay);

    // The same inside a script and inside a transaction.
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let promote = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.cli(&["REPLICAOF", "NO", "ONE"]);
    };
    let mut transaction = Request::of(&["MULTI"]);
    transaction.command(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", "n"]);
    transaction.command(&["EXEC"]);
    let (replies, ()) = tokio::join!(link.call(Lane::Small, &transaction), promote);
    assert_eq!(replies.expect("replies")[2], Value::Array(vec![Value::Int(1)]));
    link.close().await;
}

#[tokio::test]
async fn a_server_that_loads_is_waited_for() {
    // Slow to load, and answering meanwhile.
    let server = RedisServer::start(&["--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"]);
    let link = link(&server.url(3));
    call(&link, &["SET", "k", "1"]).await;
    server.cli(&["DEBUG", "POPULATE", "4000"]);
    server.cli(&["SAVE"]);
    server.kill();
    let server = Arc::new(server);
    let started = tokio::task::spawn_blocking({
        let server = Arc::clone(&server);
        move || server.restart()
    });
    assert_eq!(call(&link, &["GET", "k"]).await, bulk("1"));
    started.await.expect("started");
    let stats = server.cli(&["INFO", "commandstats"]);
    let of_get = stats.lines().find(|line| line.starts_with("cmdstat_get:")).expect("GET was called");
    assert!(!of_get.contains("rejected_calls=0"), "nothing was asked while it loaded: {of_get}");
    link.close().await;
}

#[tokio::test]
async fn a_password_that_changes_is_a_reason_to_wait_and_then_a_sentence() {
    let server = RedisServer::new();
    let link = hasty(&server.url(0), Duration::from_millis(800));
    call(&link, &["PING"]).await;
    server.cli(&["CONFIG", "SET", "requirepass", "secret"]);
    server.cli(&["-a", "secret", "CLIENT", "KILL", "TYPE", "normal"]);
    match link.call(Lane::Small, &Request::of(&["PING"])).await {
        Err(LinkError::Unavailable(why)) => assert!(why.contains("requires a password"), "{why}"),
        other => panic!("{other:?}"),
    }
    link.close().await;
}
