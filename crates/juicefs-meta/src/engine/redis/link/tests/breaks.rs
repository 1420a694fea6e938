//! Connections that break, and servers that go away.

use std::time::Instant;

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
