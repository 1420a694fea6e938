//! Watching keys.

use std::sync::Arc;

use juicefs_testkit::redis::RedisServer;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Duration, Instant, timeout},
};

use super::{super::Witness, link};

/// Writes down what it is told.
#[derive(Default)]
struct Notes {
    told: Mutex<Vec<String>>,
    more: Notify,
}

impl Notes {
    fn note(&self, what: &str) {
        self.told.lock().push(what.to_owned());
        self.more.notify_one();
    }

    /// Waits until `what` is told, and forgets what came up to it.
    async fn wait(&self, what: &str) {
        let told = async {
            loop {
                {
                    let mut told = self.told.lock();
                    if let Some(at) = told.iter().position(|line| line == what) {
                        told.drain(..=at);
                        return;
                    }
                }
                self.more.notified().await;
            }
        };
        if timeout(Duration::from_secs(10), told).await.is_err() {
            panic!("{what} was not told, only {:?}", self.told.lock());
        }
    }
}

impl Witness for Notes {
    fn begin(&self, _now: Instant) {
        self.note("begin");
    }

    fn heard(&self, _asked: Instant) {
        self.note("heard");
    }

    fn changed(&self, key: &[u8]) {
        self.note(&key.escape_ascii().to_string());
    }

    fn end(&self) {
        self.note("end");
    }
}

#[tokio::test]
async fn changes_are_told_until_the_server_is_gone_and_again_when_it_is_back() {
    let server = RedisServer::new();
    let link = link(&server.url(0));
    let notes = Arc::new(Notes::default());
    link.ready().await.expect("connected");
    link.watch(vec![b"i".to_vec(), b"d".to_vec()], b"setting".to_vec(), Arc::clone(&notes) as _);
    notes.wait("begin").await;
    for (write, told) in [(["SET", "i7", "x"], "i7"), (["APPEND", "i\n", "x"], "i\\n"), (["SADD", "d1", "x"], "d1")] {
        server.cli(&write);
        notes.wait(told).await;
    }
    server.cli(&["SET", "c7_0", "x"]);
    server.cli(&["DEL", "i7"]);
    notes.wait("i7").await;
    assert!(!notes.told.lock().iter().any(|told| told == "c7_0"), "nobody asked for that");
    notes.wait("heard").await;
    server.cli(&["FLUSHALL"]);
    notes.wait("end").await;
    notes.wait("begin").await;
    server.kill();
    notes.wait("end").await;
    server.restart();
    notes.wait("begin").await;
    server.cli(&["SET", "i8", "x"]);
    notes.wait("i8").await;
    link.close().await;
}
