//! Full disks, logs that grow, and processes that are killed.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{super::link::Fault, *};

fn log_bytes(dir: &TempDir) -> u64 {
    std::fs::metadata(dir.path().join("meta.db-wal")).map_or(0, |meta| meta.len())
}

#[test]
fn a_full_disk_fails_only_what_needs_space() {
    let (_dir, engine) = fresh();
    apply(&engine, create(2, "a")).expect("applied");
    engine.writer.with_connection(|conn| {
        conn.pragma_update(None, "max_page_count", 1).expect("as many pages as there are");
    });
    let big = Bytes::from(vec![7; 100_000]);
    let error = apply(&engine, vec![Effect::Node(Ino(2), NodeEffect::PutXattr("user.big".into(), big.clone()))])
        .expect_err("full");
    assert!(matches!(error, MetaError::Posix(Errno::ENOSPC)), "{error}");
    let removal = vec![Effect::Edge(Ino(1), "a".into(), EdgeEffect::Delete), Effect::Node(Ino(2), NodeEffect::Delete)];
    apply(&engine, removal).expect("what needs no space goes on");
    engine.writer.with_connection(|conn| {
        conn.pragma_update(None, "max_page_count", 1_000_000).expect("set");
    });
    apply(&engine, vec![Effect::Node(Ino(2), NodeEffect::PutXattr("user.big".into(), big))])
        .expect("there is space again");
}

#[test]
fn the_log_stays_small_under_load() {
    let (dir, engine) = fresh();
    let engine = Arc::new(engine);
    let started = Instant::now();
    let threads: Vec<_> = (0..3u64)
        .map(|thread| {
            let engine = Arc::clone(&engine);
            std::thread::spawn(move || {
                for n in 0..6000 {
                    let ino = 10 + thread * 1_000_000 + n;
                    apply(&engine, create(ino, &format!("{:016x}", ino.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
                        .expect("applied");
                }
            })
        })
        .collect();
    let mut largest = 0;
    while threads.iter().any(|thread| !thread.is_finished()) {
        largest = largest.max(log_bytes(&dir));
        std::thread::sleep(Duration::from_millis(5));
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    // The limit is 32 MiB, and while a copy is under way commits go on.
    assert!(largest < 128 << 20, "the log grew to {largest} bytes in {:?}", started.elapsed());
    let count = wait(engine.readdir(Ino(1), None, false, 100_000)).expect("listed").entries.len();
    assert_eq!(count, 18_000);
    let deadline = Instant::now() + Duration::from_secs(30);
    while log_bytes(&dir) > 5 << 20 {
        assert!(Instant::now() < deadline, "an idle log was not cut: {} bytes", log_bytes(&dir));
        std::thread::sleep(Duration::from_millis(100));
    }
    wait(engine.close());
    assert!(!dir.path().join("meta.db-wal").exists(), "the last connection removes the log");
}

const CHILD: &str = "JUICEFS_TEST_SQLITE_CHILD";

/// Not a test by itself: what [`killed_processes_lose_nothing_acknowledged`] kills.
#[test]
fn child_that_writes_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let engine = Arc::new(engine_at(Path::new(&path), ""));
    let base = u64::from(std::process::id()) * 1_000_000;
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let engine = Arc::clone(&engine);
            std::thread::spawn(move || {
                for ino in base + thread * 100_000.. {
                    let name = format!("f{ino}");
                    let mut list = create(ino, &name);
                    list.push(Effect::Node(
                        Ino(ino),
                        NodeEffect::PutXattr("user.size".into(), Bytes::from(vec![1; 2000])),
                    ));
                    list.push(Effect::Account(AccountEffect::AddCounter(Counter::TotalInodes, 1)));
                    apply(&engine, list).expect("applied");
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {ino}").and_then(|()| out.flush()).expect("the parent listens");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("killed before"));
}

#[test]
fn killed_processes_lose_nothing_acknowledged() {
    let (dir, engine) = fresh();
    let path = dir.path().join("meta.db");
    apply(&engine, vec![Effect::Account(AccountEffect::SetCounter(Counter::TotalInodes, 0))]).expect("applied");
    wait(engine.close());
    drop(engine);
    let mut acknowledged = Vec::new();
    for round in 0..5u64 {
        let this = std::env::current_exe().expect("this test");
        let name = "engine::sql::sqlite::tests::failure::child_that_writes_until_killed";
        let mut child = Command::new(this)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let enough = acknowledged.len() + 150 + 70 * usize::try_from(round).expect("small");
        let mut line = String::new();
        while lines.read_line(&mut line).expect("read") > 0 {
            if let Some(ino) = line.trim().strip_prefix("ack ") {
                acknowledged.push(ino.parse::<u64>().expect("a number"));
            }
            line.clear();
            if acknowledged.len() == enough {
                child.kill().expect("killed");
            }
        }
        child.wait().expect("gone");
        assert!(acknowledged.len() >= enough, "the child ended by itself");
    }
    let engine = engine_at(&path, "");
    for ino in &acknowledged {
        let name = format!("f{ino}");
        let found = wait(engine.lookup(Ino(1), name.as_bytes())).expect("read");
        assert!(
            found.is_some_and(|found| found.edge.ino == Ino(*ino) && found.attr.is_some()),
            "{name} was acknowledged"
        );
    }
    // Whatever else was committed when the kill came is whole too.
    let page = wait(engine.readdir(Ino(1), None, false, 1_000_000)).expect("listed");
    for entry in &page.entries {
        let read = wait(engine.fetch(&[Key::Node(entry.ino), Key::Xattr(entry.ino, "user.size".into())]));
        let read = read.expect("fetched");
        assert!(read.node(entry.ino).is_some() && read.xattr(entry.ino, &"user.size".into()).is_some());
    }
    let count = i64::try_from(page.entries.len()).expect("small");
    assert_eq!(get(&engine, Key::Account(AccountKey::Counter(Counter::TotalInodes))), Some(Value::Counter(count)));
}

/// A log is looked at by others, and after a crash by a process that knows nothing but the files.
#[test]
fn every_commit_is_whole_in_the_files() {
    let (dir, engine) = fresh();
    let other = rusqlite::Connection::open(dir.path().join("meta.db")).expect("a second client");
    let copies = tempfile::tempdir().expect("a directory");
    // From less than a block to more than the connection's cache holds, so that pages go out before the commit.
    for (ino, bytes) in [(2, 1), (3, 3000), (4, 300_000), (5, 20_000_000), (6, 10), (7, 10)] {
        let value = Bytes::from(vec![u8::try_from(ino).expect("small"); bytes]);
        let mut list = create(ino, &format!("f{ino}"));
        list.push(Effect::Node(Ino(ino), NodeEffect::PutXattr("user.value".into(), value.clone())));
        if bytes > 10_000_000 {
            // Pages that already went out change again.
            list.extend(
                (0..200).map(|n| Effect::Node(Ino(n), NodeEffect::PutXattr("user.more".into(), value.slice(..50_000)))),
            );
            list.extend(
                (0..200)
                    .map(|n| Effect::Node(Ino(n), NodeEffect::PutXattr("user.more".into(), value.slice(..n as usize)))),
            );
        }
        apply(&engine, list).expect("applied");
        let files: Vec<_> =
            ["meta.db", "meta.db-wal"].map(|name| (dir.path().join(name), copies.path().join(name))).into();
        for (from, to) in &files {
            std::fs::copy(from, to).expect("copied");
        }
        let crashed = rusqlite::Connection::open(&files[0].1).expect("opened");
        for conn in [&other, &crashed] {
            let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
            assert_eq!(check, "ok", "after {bytes} bytes");
            let query = "SELECT value FROM jfs_xattr WHERE inode=?1 AND name='user.value'";
            let found: Vec<u8> = conn.query_row(query, [ino.cast_signed()], |row| row.get(0)).expect("there");
            assert!(found == value, "after {bytes} bytes");
        }
        drop(crashed);
        std::fs::remove_file(copies.path().join("meta.db-shm")).ok();
    }
    // The other way round: what another client appends to the same log.
    for n in 0..20 {
        other.execute("INSERT INTO jfs_counter VALUES (?1, 1)", [format!("other{n}")]).expect("written");
        apply(&engine, create(100 + n, &format!("g{n}"))).expect("applied");
    }
    let check: String = other.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(check, "ok");
    assert_eq!(wait(engine.readdir(Ino(1), None, true, 100)).expect("listed").entries.len(), 26);
}

#[test]
fn commits_sync_as_the_go_driver_does() {
    for (options, value) in [("", 1), ("?_sync=FULL", 2), ("?_sync=OFF", 0), ("?_journal=DELETE", 1)] {
        let (_dir, engine) = fresh_with(options);
        apply(&engine, create(2, "a")).expect("applied");
        engine.writer.with_connection(|conn| {
            let sync: i64 = conn.pragma_query_value(None, "synchronous", |row| row.get(0)).expect("read");
            let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("read");
            let expected = if options.contains("DELETE") { "delete" } else { "wal" };
            assert_eq!((sync, mode.as_str()), (value, expected), "{options}");
        });
        assert!(get(&engine, Key::Node(Ino(2))).is_some());
    }
}

/// Others have the file open in WAL mode: it stays in that mode, and nobody has to wait for them to end.
#[test]
fn another_journal_is_not_waited_for_while_the_file_is_in_use() {
    let (dir, first) = fresh_with("");
    apply(&first, create(2, "a")).expect("applied");
    let begun = Instant::now();
    let second = engine_at(&dir.path().join("meta.db"), "?_journal=DELETE");
    apply(&second, create(3, "b")).expect("applied");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    second.writer.with_connection(|conn| {
        let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("read");
        assert_eq!(mode, "wal");
    });
    assert!(get(&first, Key::Node(Ino(3))).is_some());
}

/// A database that cannot be looked for: its name leads round in a circle, as it may while a disk or a server hangs.
#[test]
fn a_database_that_cannot_be_reached_is_not_taken_for_missing() {
    let (dir, engine) = fresh();
    apply(&engine, vec![Effect::Volume(VolumeEffect::PutSetting(Bytes::from_static(b"{}")))]).expect("applied");
    let (path, away) = (dir.path().join("meta.db"), dir.path().join("away.db"));
    std::fs::rename(&path, &away).expect("renamed");
    std::os::unix::fs::symlink("meta.db", &path).expect("linked");
    let error = wait(engine.load_setting()).expect_err("unreachable");
    assert!(matches!(error, MetaError::Unavailable(_)), "{error:?}");
    assert!(matches!(wait(engine.is_empty()), Err(MetaError::Unavailable(_))));
    assert!(matches!(engine.database.open_reader(), Err(Fault::Store(MetaError::Unavailable(_)))));
    assert!(matches!(engine.database.open_writer(false), Err(Fault::Store(MetaError::Unavailable(_)))));
    // Who has never seen it gets a sentence about the address.
    let stranger = engine_at(&path, "");
    assert!(matches!(wait(stranger.load_setting()), Err(MetaError::Setting(why)) if why.contains("meta.db")));
    std::fs::remove_file(&path).expect("removed");
    std::fs::rename(&away, &path).expect("renamed");
    assert_eq!(wait(engine.load_setting()).expect("loaded"), Some(Bytes::from_static(b"{}")));
    std::fs::rename(&path, &away).expect("renamed");
    assert_eq!(wait(engine.load_setting()).expect("a name that is not there"), None);
}
