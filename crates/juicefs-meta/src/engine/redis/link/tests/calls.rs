//! Requests on a connection that stays.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::*;

#[tokio::test]
async fn a_request_gets_its_replies_in_order() {
    let server = RedisServer::new();
    let link = link(&server.url(3));
    let told = link.ready().await.expect("connected").clone();
    assert!(told.version >= (4, 0, 0), "{told:?}");
    assert!(!told.cluster && told.key_prefix.is_empty());

    let mut request = Request::new();
    request.command(&["SET", "k", "v\r\n"]);
    request.command(&["GET", "k"]);
    request.command(&["HGET", "k", "x"]);
    request.command(&["MULTI"]);
    request.command(&["INCR", "n"]);
    request.command(&["INCR", "n"]);
    request.command(&["EXEC"]);
    for lane in [Lane::Small, Lane::Bulk] {
        let replies = link.call(lane, &request).await.expect("replies");
        assert_eq!(replies[..2], [Value::Okay, bulk("v\r\n")]);
        assert!(matches!(&replies[2], Value::ServerError(error) if error.code() == "WRONGTYPE"), "{:?}", replies[2]);
        assert_eq!(replies[6], Value::Array(vec![Value::Int(1), Value::Int(2)]));
        call(&link, &["DEL", "n"]).await;
    }
    assert_eq!(server.wire(3).call(&["EXISTS", "k"]).int(), 1, "it is in the database of the URL");
    assert!(link.call(Lane::Small, &Request::new()).await.expect("nothing to do").is_empty());
    link.close().await;
    assert!(matches!(link.call(Lane::Small, &request).await, Err(LinkError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_many_tasks_share_a_connection() {
    const TASKS: usize = 16;
    const CALLS: usize = 2000;
    let server = RedisServer::new();
    let link = link(&server.url(0));
    link.ready().await.expect("connected");
    let before = reads(&server);
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let link = Arc::clone(&link);
            tokio::spawn(async move {
                for number in 0..CALLS {
                    let text = format!("{task}-{number}");
                    let mut request = Request::of(&["ECHO", &text]);
                    // Not all have one reply.
                    if number % 3 == 0 {
                        request.command(&["INCR", &format!("n{task}")]);
                    }
                    let replies = link.call(Lane::Small, &request).await.expect("replies");
                    assert_eq!(replies[0], bulk(&text));
                    if number % 3 == 0 {
                        assert_eq!(replies[1], Value::Int(number as i64 / 3 + 1));
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let reads = reads(&server) - before;
    println!("{} calls, {reads} reads of the server", TASKS * CALLS);
    assert!(reads < (TASKS * CALLS / 2) as u64, "{reads} reads: requests do not leave together");
    link.close().await;
}

/// How often the server has read from clients: what came in one write is read at once.
fn reads(server: &RedisServer) -> u64 {
    let stats = server.cli(&["INFO", "stats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:")).expect("a count");
    line.trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_do_not_shift_the_replies_of_others() {
    let server = RedisServer::new();
    let link = link(&server.url(0));
    link.ready().await.expect("connected");
    let done = Arc::new(AtomicBool::new(false));
    let quitter = tokio::spawn({
        let (link, done) = (Arc::clone(&link), Arc::clone(&done));
        async move {
            let mut cancelled = 0;
            while !done.load(Ordering::Relaxed) {
                let request = Request::of(&["ECHO", "nobody waits for this"]);
                tokio::select! {
                    biased;
                    _ = link.call(Lane::Small, &request) => {}
                    () = tokio::task::yield_now() => cancelled += 1,
                }
            }
            cancelled
        }
    });
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let link = Arc::clone(&link);
            tokio::spawn(async move {
                for number in 0..1000 {
                    let text = format!("{task}-{number}");
                    assert_eq!(call(&link, &["ECHO", &text]).await, bulk(&text));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    done.store(true, Ordering::Relaxed);
    assert!(quitter.await.expect("the task") > 0, "nothing was cancelled");
    assert_eq!(server.wire(0).call(&["INFO", "clients"]).text().matches("connected_clients:2").count(), 1);
    link.close().await;
}

#[tokio::test]
async fn what_is_large_passes_in_both_directions() {
    let server = RedisServer::new();
    let link = link(&server.url(0));
    let large = "x".repeat(20 << 20);
    // More than may be queued at once, so that some wait.
    let calls = (0..3).map(|n| {
        let (link, large) = (Arc::clone(&link), large.clone());
        tokio::spawn(async move {
            let key = format!("k{n}");
            assert_eq!(call(&link, &["SET", &key, &large]).await, Value::Okay);
            let replies = link.call(Lane::Bulk, &Request::of(&["GET", &key])).await.expect("a reply");
            assert!(replies == [bulk(&large)], "another value");
        })
    });
    for task in calls.collect::<Vec<_>>() {
        task.await.expect("a task");
    }
    let mut many = Request::new();
    for n in 0..100_000 {
        many.command(&["RPUSH", "list", &n.to_string()]);
    }
    link.call(Lane::Small, &many).await.expect("replies");
    let replies = link.call(Lane::Bulk, &Request::of(&["LRANGE", "list", "0", "-1"])).await.expect("a reply");
    let expected = (0..100_000).map(|n| bulk(&n.to_string())).collect();
    assert!(replies == [Value::Array(expected)], "another list");
    link.close().await;
}

#[tokio::test]
async fn closing_waits_for_what_is_in_flight() {
    let server = RedisServer::new();
    let link = link(&server.url(0));
    link.ready().await.expect("connected");
    let slow = tokio::spawn({
        let link = Arc::clone(&link);
        async move { call(&link, &["DEBUG", "SLEEP", "0.5"]).await }
    });
    while server.wire(0).call(&["CLIENT", "LIST"]).text().lines().all(|line| !line.contains("cmd=debug")) {
        tokio::task::yield_now().await;
    }
    link.close().await;
    assert_eq!(slow.await.expect("the task"), Value::Okay);
}
