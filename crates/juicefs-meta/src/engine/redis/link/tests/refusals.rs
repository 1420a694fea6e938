//! What users read when something is not as it should be.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Instant,
};

use super::*;

/// A server that says this to the first who come, whatever they ask, and closes.
fn parrot(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(words);
        }
    });
    port
}

#[tokio::test]
async fn wrong_and_missing_passwords() {
    let server = RedisServer::setup().password("secret-word").start();
    let port = server.port();
    let missing = refusal(&format!("redis://127.0.0.1:{port}/1")).await;
    assert_eq!(missing, format!("127.0.0.1:{port} requires a password; give it in the URL or in META_PASSWORD"));
    for login in [":wrong-word", "nobody:secret-word"] {
        let wrong = refusal(&format!("redis://{login}@127.0.0.1:{port}/1")).await;
        assert!(wrong.starts_with(&format!("127.0.0.1:{port} does not accept the password: WRONGPASS")), "{wrong}");
        assert!(!wrong.contains("-word"), "{wrong}");
    }
    let right = link(&server.url(1));
    right.ready().await.expect("connected");
    assert!(!right.describe().contains("secret-word"));
    right.close().await;
    let user = link(&format!("redis://default:secret-word@127.0.0.1:{port}/1"));
    user.ready().await.expect("connected");
    user.close().await;
}

#[tokio::test]
async fn a_password_that_nobody_asked_for_does_no_harm() {
    let server = RedisServer::new();
    let link = link(&format!("redis://:unneeded@127.0.0.1:{}/1", server.port()));
    link.ready().await.expect("connected");
    assert_eq!(call(&link, &["SET", "k", "1"]).await, Value::Okay);
    link.close().await;
}

#[tokio::test]
async fn users_with_few_rights() {
    let server = RedisServer::new();
    server.cli(&["ACL", "SETUSER", "few", "on", ">p", "~*", "+@all", "-info", "-config", "-role"]);
    let link = link(&format!("redis://few:p@127.0.0.1:{}/1", server.port()));
    assert_eq!(link.ready().await.expect("connected").version, (4, 0, 0));
    assert_eq!(call(&link, &["SET", "k", "1"]).await, Value::Okay);
    link.close().await;
}

#[tokio::test]
async fn databases_that_are_not_there() {
    let server = RedisServer::start(&["--databases", "4"]);
    let why = refusal(&server.url(4)).await;
    assert!(why.contains("does not have the database 4") && why.contains("out of range"), "{why}");
    let link = link(&server.url(3));
    link.ready().await.expect("connected");
    link.close().await;
}

#[tokio::test]
async fn servers_that_are_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let asked = Instant::now();
    for url in [format!("redis://127.0.0.1:{port}/1"), "unix:///nowhere/redis.sock".to_owned()] {
        match hasty(&url, Duration::from_secs(1)).ready().await {
            Err(LinkError::Unavailable(why)) => {
                assert!(why.contains("cannot connect to ") && why.contains("(os error"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(asked.elapsed() < Duration::from_secs(4), "it took {:?}", asked.elapsed());
}

#[tokio::test]
async fn what_is_no_redis() {
    let web = refusal(&format!("redis://127.0.0.1:{}/1", parrot(b"HTTP/1.1 400 Bad Request\r\n\r\n"))).await;
    assert!(web.ends_with("is not a Redis: it says \"HTTP/1.1 400 Bad Req\""), "{web}");
    let shell = refusal(&format!("redis://127.0.0.1:{}/1", parrot(b"SSH-2.0-OpenSSH_9.2\r\n"))).await;
    assert!(shell.contains("is not a Redis"), "{shell}");
    let other = refusal(&format!("redis://127.0.0.1:{}/1", parrot(b":1\r\n:1\r\n"))).await;
    assert!(other.contains("is not a Redis"), "{other}");
}

#[tokio::test]
async fn versions_that_are_too_old() {
    const INFO: &[u8] = b"$38\r\n# Server\r\nredis_version:3.2.12\r\nos:x\r\n\r\n";
    let why = refusal(&format!("redis://127.0.0.1:{}/1", parrot(INFO))).await;
    assert!(why.ends_with("is Redis 3.2.12, which is too old: at least 4.0 is needed"), "{why}");
}

#[tokio::test]
async fn servers_that_turn_everybody_away() {
    let denied = parrot(b"-DENIED Redis is running in protected mode because ...\r\n");
    let why = refusal(&format!("redis://127.0.0.1:{denied}/1")).await;
    assert!(why.contains("turned the connection away: DENIED Redis is running in protected mode"), "{why}");

    let server = RedisServer::start(&["--maxclients", "1"]);
    let alone = server.wire(0);
    let link = hasty(&server.url(1), Duration::from_secs(10));
    let leave = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(alone);
    };
    let (ready, ()) = tokio::join!(link.ready(), leave);
    ready.expect("there was room in the end");
    link.close().await;

    let _alone = server.wire(0);
    match hasty(&server.url(1), Duration::from_millis(300)).ready().await {
        Err(LinkError::Unavailable(why)) => assert!(why.contains("max number of clients"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn eviction_is_turned_off() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let link = link(&server.url(1));
    link.ready().await.expect("connected");
    assert!(server.cli(&["CONFIG", "GET", "maxmemory-policy"]).ends_with("noeviction"));
    link.close().await;
}
