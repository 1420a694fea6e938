//! Many callers, other clients, and ops that fail among others.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Barrier},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::*;

fn foreign(dir: &TempDir) -> Connection {
    Connection::open(dir.path().join("meta.db")).expect("a second client")
}

/// Polls once: the outcome, or `None` when it would wait.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

/// A op that creates a file unless the name is there, as operations do.
fn create_once(ino: u64, name: &str) -> TestOp {
    let (key, list) = (Key::Edge(Ino(1), name.into()), create(ino, name));
    TestOp::new(vec![key.clone()], move |read| match read.get(&key) {
        Some(_) => Step::Stop,
        None => Step::Apply(Effects { list: list.clone(), ..Effects::none() }),
    })
}

#[test]
fn a_lone_caller_is_answered_at_the_first_poll() {
    let (_dir, engine) = fresh();
    assert!(poll_once(&mut run(&engine, create_once(2, "a"))).expect("ready").is_ok());
    assert!(poll_once(&mut engine.fetch(&[Key::Node(Ino(2))])).expect("ready").is_ok());
    assert!(poll_once(&mut engine.lookup(Ino(1), b"a")).expect("ready").is_ok());
    assert!(poll_once(&mut engine.readdir(Ino(1), None, true, 5)).expect("ready").is_ok());
}

#[test]
fn many_threads_create_each_name_once() {
    const THREADS: u64 = 8;
    const NAMES: u64 = 150;
    let (_dir, engine) = fresh();
    let engine = Arc::new(engine);
    let start = Arc::new(Barrier::new(THREADS as usize));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (engine, start) = (Arc::clone(&engine), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                let mut won = 0;
                for name in 0..NAMES {
                    let op = create_once(2 + name * THREADS + thread, &format!("n{name}"));
                    let op = wait(run(&engine, op)).expect("ran");
                    won += u64::from(op.applied.is_some());
                    wait(engine.counter_add(Counter::NextChunk, 1)).expect("added");
                    let page = wait(engine.readdir(Ino(1), None, true, 10)).expect("listed");
                    assert!(!page.entries.is_empty());
                }
                won
            })
        })
        .collect();
    let won: u64 = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    assert_eq!(won, NAMES);
    assert_eq!(
        get(&engine, Key::Account(AccountKey::Counter(Counter::NextChunk))),
        Some(Value::Counter((THREADS * NAMES).cast_signed()))
    );
    let page = wait(engine.readdir(Ino(1), None, true, 10_000)).expect("listed");
    assert_eq!(page.entries.len() as u64, NAMES);
    wait(engine.close());
}

#[test]
fn each_operation_of_a_shared_transaction_fares_alone() {
    let (dir, engine) = fresh();
    apply(&engine, create(500, "taken")).expect("applied");
    let other = foreign(&dir);
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let panicking = || TestOp::new(vec![], |_| panic!("a bug in an operation"));
    let mut ops: Vec<TestOp> = Vec::new();
    for at in 0..40 {
        ops.push(match at % 8 {
            // The inode is taken: applying fails after the entry was written.
            3 => {
                let mut list = create(500, &format!("bad{at}"));
                list.reverse();
                TestOp::write(list)
            }
            5 => panicking(),
            6 => create_once(600, "taken"),
            _ => create_once(10 + at, &format!("good{at}")),
        });
    }
    let mut waiting: Vec<_> = ops.into_iter().map(|op| run(&engine, op)).collect();
    for future in &mut waiting {
        assert!(poll_once(future).is_none(), "the lock is held");
    }
    other.execute_batch("COMMIT").expect("let go");
    for (at, future) in waiting.into_iter().enumerate() {
        let outcome = wait(future);
        match at % 8 {
            3 => assert!(matches!(outcome.map(drop), Err(MetaError::Corrupt { .. })), "{at}"),
            5 => assert!(matches!(outcome.map(drop), Err(MetaError::Unavailable(_))), "{at}"),
            6 => assert!(outcome.expect("judged").applied.is_none(), "{at}"),
            _ => assert!(outcome.expect("ran").applied.is_some(), "{at}"),
        }
    }
    let names: Vec<_> = wait(engine.readdir(Ino(1), None, true, 100)).expect("listed").entries;
    assert_eq!(names.len(), 25 + 1);
    assert!(names.iter().all(|entry| !entry.name.as_bytes().starts_with(b"bad")));
}

#[test]
fn a_panic_in_a_lone_operation_is_an_error() {
    let (_dir, engine) = fresh();
    let op = TestOp::new(vec![Key::Node(Ino(1))], |read| {
        let _ = read.get(&Key::Node(Ino(2)));
        Step::Stop
    });
    let error = wait(run(&engine, op)).map(drop).expect_err("it looked at what it did not fetch");
    assert!(error.to_string().contains("which it did not fetch"), "{error}");
    apply(&engine, create(2, "a")).expect("the engine goes on");
}

#[test]
fn another_clients_lock_blocks_no_thread() {
    let (dir, engine) = fresh();
    let other = foreign(&dir);
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO jfs_counter VALUES ('x', 1)").expect("the lock");
    let started = Instant::now();
    let mut waiting: Vec<_> = (2..20).map(|ino| run(&engine, create_once(ino, &format!("f{ino}")))).collect();
    for future in &mut waiting {
        assert!(poll_once(future).is_none());
    }
    // Readers go on meanwhile.
    assert_eq!(get(&engine, Key::Node(Ino(2))), None);
    assert!(started.elapsed() < Duration::from_secs(2), "polling took {:?}", started.elapsed());
    let unlocker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        other.execute_batch("COMMIT").expect("let go");
        other
    });
    for future in waiting {
        wait(future).expect("ran after the other client");
    }
    let other = unlocker.join().expect("no panic");
    let count: i64 = other.query_row("SELECT count(*) FROM jfs_edge", [], |row| row.get(0)).expect("read");
    assert_eq!(count, 18);
}

#[test]
fn waiting_for_another_client_has_an_end() {
    let (dir, engine) = fresh_with("?_timeout=20");
    let other = foreign(&dir);
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let error = apply(&engine, create(2, "a")).expect_err("locked for too long");
    assert!(matches!(&error, MetaError::Unavailable(why) if why.contains("locked")), "{error}");
    let error = wait(engine.reset()).expect_err("locked for too long");
    assert!(matches!(error, MetaError::Unavailable(_)), "{error}");
    other.execute_batch("ROLLBACK").expect("let go");
    assert_eq!(get(&engine, Key::Node(Ino(2))), None);
    apply(&engine, create(2, "a")).expect("applied");
}

#[test]
fn another_client_gets_the_lock_under_load() {
    let (dir, engine) = fresh();
    let engine = Arc::new(engine);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let (engine, stop) = (Arc::clone(&engine), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut ino = 1000 + thread * 1_000_000;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    ino += 1;
                    apply(&engine, create(ino, &format!("f{ino}"))).expect("applied");
                }
                ino - 1000 - thread * 1_000_000
            })
        })
        .collect();
    let other = foreign(&dir);
    other.busy_timeout(Duration::from_secs(5)).expect("set");
    for round in 0..20 {
        other
            .execute("INSERT INTO jfs_counter VALUES (?1, 1)", [format!("round{round}")])
            .expect("the lock within the busy timeout of the Go client");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let made: u64 = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    let count: i64 = other.query_row("SELECT count(*) FROM jfs_edge", [], |row| row.get(0)).expect("read");
    assert_eq!(count, made.cast_signed());
}

#[test]
fn what_another_client_writes_is_seen_at_once() {
    let (dir, engine) = fresh();
    apply(&engine, create(2, "a")).expect("applied");
    let other = foreign(&dir);
    for uid in 1..50 {
        other.execute("UPDATE jfs_node SET uid=?1 WHERE inode=2", [uid]).expect("written");
        assert!(matches!(get(&engine, Key::Node(Ino(2))), Some(Value::Node(attr)) if attr.uid == uid));
        let op = TestOp::new(vec![Key::Node(Ino(2))], move |read| {
            assert_eq!(read.node(Ino(2)).map(|attr| attr.uid), Some(uid));
            Step::Stop
        });
        wait(run(&engine, op)).expect("the writer sees it too");
    }
}

#[test]
fn a_dropped_caller_harms_nobody() {
    let (dir, engine) = fresh();
    let other = foreign(&dir);
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let mut dropped = run(&engine, create_once(2, "dropped"));
    let mut kept = run(&engine, create_once(3, "kept"));
    assert!(poll_once(&mut dropped).is_none() && poll_once(&mut kept).is_none());
    drop(dropped);
    other.execute_batch("COMMIT").expect("let go");
    wait(kept).expect("ran");
    assert!(get(&engine, Key::Node(Ino(3))).is_some());
}

#[test]
fn closing_finishes_what_is_queued() {
    let (dir, engine) = fresh();
    let other = foreign(&dir);
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let mut queued = run(&engine, create_once(2, "a"));
    assert!(poll_once(&mut queued).is_none());
    let unlocker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        other.execute_batch("COMMIT").expect("let go");
    });
    wait(engine.close());
    unlocker.join().expect("no panic");
    wait(queued).expect("it was queued before");
    let error = apply(&engine, create(3, "b")).expect_err("closed");
    assert!(matches!(error, MetaError::Unavailable(_)));
    assert!(wait(engine.fetch(&[Key::Node(Ino(2))])).is_err());
    let again = engine_at(&dir.path().join("meta.db"), "");
    assert!(get(&again, Key::Node(Ino(2))).is_some() && get(&again, Key::Node(Ino(3))).is_none());
}
