//! Redis behind a network that loses what passes, servers that die, freeze and hand over: nothing that was acknowledged
//! is lost, nothing happens twice, and nobody notices outages that are shorter than the patience of the client.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use juicefs_core::{FileType, Ino, Meta, SetAttr, meta::RenameFlags};
use juicefs_meta::{Client, Engine};
use juicefs_testkit::{
    fault_proxy::{Fault, FaultProxy, Faults},
    redis::{RedisCluster, RedisSentinels, RedisServer},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    concurrent::{Arena, Options, Runtimes, full, seed},
    invariants, leaks,
    snapshot::Snapshot,
    volume::{Database, Home, Kind, Volume, block_on, config, format, node, root, write_slice},
};

/// A proxy before the server of this home, and an engine that goes through it.
fn through(home: &Home, seed: u64) -> (FaultProxy, impl Fn() -> Arc<dyn Engine> + use<>) {
    let Home::Redis(database) = home else { panic!("{home:?} has no server") };
    let proxy = FaultProxy::start(database.port(), seed);
    let url = database.url_through(proxy.port());
    (proxy, move || juicefs_meta::open(&url).expect("an engine"))
}

/// What goes wrong during one of the rounds.
fn weather(rng: &mut StdRng) -> Faults {
    let mut rate = |most: u32| if rng.random_bool(0.5) { rng.random_range(0..most) } else { 0 };
    Faults {
        latency: rate(300),
        latency_max: Duration::from_millis(3),
        reset_before: rate(40),
        reset_after: rate(40),
        reply_dropped: rate(80),
        reply_torn: rate(40),
        cut: rate(8),
        cut_for: Duration::from_millis(150),
        stall: rate(8),
        stall_for: Duration::from_millis(150),
    }
}

#[test]
fn a_storm_loses_nothing_and_doubles_nothing() {
    let options = Options { seed: seed(), looks_past: true, ..Options::default() };
    let mut rng = StdRng::seed_from_u64(options.seed);
    let runtimes = Runtimes::new(2);
    runtimes.block_on(async {
        let home = Home::new(Kind::Redis);
        let paths = [through(&home, options.seed), through(&home, options.seed.wrapping_add(1))];
        let mut arena = Arena::new(home, runtimes.handles(), |_, client| paths[client].1(), options).await;
        let counts = || paths.each_ref().map(|(proxy, _)| proxy.counts());
        let is_wild = || {
            let (faults, dropped) = (counts().map(|c| c.faults()), counts().map(|c| c.reply_dropped));
            faults.iter().sum::<u64>() > 50 && dropped.iter().sum::<u64>() > 10
        };
        let least = if full() { 500 } else { 12 };
        // Some storms are mild: this one goes on until it has lost enough.
        for round in 0..10 * least {
            if round >= least && is_wild() {
                break;
            }
            for (proxy, _) in &paths {
                proxy.faults(weather(&mut rng));
            }
            for _ in 0..12 {
                arena.round().await;
            }
            // Statistics are exact only if they are flushed in peace.
            paths.iter().for_each(|(proxy, _)| proxy.calm());
            arena.check_records().await;
        }
        let told = arena.finish().await;
        println!("{told:?} {:?}", counts());
        assert!(is_wild(), "a mild storm: {:?}", counts());
    });
}

#[test]
#[ignore = "an outage of more than a minute"]
fn an_outage_longer_than_the_patience_is_told_and_survived() {
    let options = Options { seed: seed(), may_fail: true, looks_past: true };
    let runtimes = Runtimes::new(2);
    runtimes.block_on(async {
        let home = Home::new(Kind::Redis);
        let paths = [through(&home, 1), through(&home, 2)];
        let mut arena = Arena::new(home, runtimes.handles(), |_, client| paths[client].1(), options).await;
        for _ in 0..20 {
            arena.round().await;
        }
        paths.iter().for_each(|(proxy, _)| proxy.cut(Duration::from_secs(62)));
        for _ in 0..20 {
            arena.round().await;
        }
        arena.check_records().await;
        let told = arena.finish().await;
        println!("{told:?}");
        assert!(told.unanswered > 0, "nobody gave up: {told:?}");
    });
}

/// Lets the reply to the next change be lost after it was made.
fn lose_reply(proxy: &FaultProxy) {
    // Only scripts that change something name the key where they note it.
    proxy.fail_next(b"outcome_", Fault::ReplyDropped);
}

#[test]
fn a_change_whose_reply_is_lost_is_made_once() {
    let home = Home::new(Kind::Redis);
    let (proxy, open) = through(&home, 1);
    block_on(async {
        let volume = Volume::at(home, &format(0)).await;
        let client = Client::open(open(), config(&volume.clock)).await.expect("opened");
        client.new_session("{}".into()).await.expect("a session");
        let (root, at) = (root(), Ino::ROOT);
        // The second time, the server knows the script and runs it with the request whose reply is lost.
        for (round, lose) in [("first", false), ("second", true)] {
            let next = || {
                if lose {
                    lose_reply(&proxy);
                }
            };
            let name = |what: &str| format!("{what} {round}").into_bytes();
            next();
            let (dir, _) = client.mknod(&root, at, &name("dir"), node(FileType::Directory, 0o755)).await.expect("made");
            next();
            let (file, _) = client.mknod(&root, dir, b"file", node(FileType::File, 0o644)).await.expect("made");
            next();
            let linked = client.link(&root, file, dir, b"link").await.expect("linked");
            assert_eq!(linked.nlink, 2);
            next();
            let no_replace = RenameFlags { no_replace: true, ..RenameFlags::default() };
            client.rename(&root, dir, b"link", dir, b"moved", no_replace).await.expect("moved");
            let id = client.new_slice_id().await.expect("an id");
            let record = juicefs_core::SliceRecord { pos: 0, id, size: 4096, off: 0, len: 4096 };
            next();
            let written =
                write_slice(&client, file, 0, record, juicefs_core::Timestamp::from_secs(1)).await.expect("written");
            assert_eq!((written.chunks[0].1, written.attr.length), (1, 4096));
            next();
            let copied = client.copy_file_range(&root, file, 0, file, 4096, 4096).await.expect("copied");
            assert_eq!(copied.length, 8192);
            next();
            let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
            client.setattr(&root, file, set).await.expect("set");
            next();
            client
                .setxattr(&root, file, b"user.a", "1".into(), juicefs_core::meta::XattrMode::Create)
                .await
                .expect("set");
            next();
            client.removexattr(&root, file, b"user.a").await.expect("removed");
            next();
            client.unlink(&root, dir, b"moved", false).await.expect("unlinked");
            next();
            let freed = client.unlink(&root, dir, b"file", false).await.expect("unlinked").freed.expect("data");
            next();
            let dead = client.delete_file_data(freed).await.expect("deleted");
            assert_eq!(dead.len(), 1);
            next();
            client.forget_slice(dead[0]).await.expect("forgotten");
            next();
            client.rmdir(&root, at, &name("dir"), false).await.expect("removed");
            assert_eq!(proxy.queued(), 0, "every change lost its reply");
        }
        assert_eq!(proxy.counts().reply_dropped, 14);
        client.flush_stats().await.expect("flushed");
        let all = Snapshot::take(volume.engine.as_ref()).await;
        assert_eq!((all.used_space, all.total_inodes), (0, 0));
        invariants::check(&all);
        leaks::check(&volume.home, &all);
    });
}

/// A database of a server of the test's own.
fn own(server: &Arc<RedisServer>) -> Home {
    let server = Arc::clone(server);
    Home::Redis(Database::own(server.url(0), "", move || server.wire(0)))
}

/// Plays rounds as long as `trouble` goes on beside them, and a few more.
fn play_during(home: Home, seed: u64, trouble: impl FnOnce() + Send) {
    let options = Options { seed, looks_past: true, ..Options::default() };
    let runtimes = Runtimes::new(2);
    thread::scope(|scope| {
        runtimes.block_on(async {
            let mut arena = Arena::new(home, runtimes.handles(), |home, _| home.engine(), options).await;
            for _ in 0..5 {
                arena.round().await;
            }
            let troubled = scope.spawn(trouble);
            while !troubled.is_finished() {
                arena.round().await;
            }
            troubled.join().expect("trouble that ends well");
            for _ in 0..20 {
                arena.round().await;
            }
            arena.check_records().await;
            let told = arena.finish().await;
            println!("{told:?}");
            assert!(told.rounds > 26, "nothing went on meanwhile: {told:?}");
        });
    });
}

#[test]
fn a_killed_server_comes_back_with_all_that_it_acknowledged() {
    let seed = seed();
    let server = Arc::new(RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]));
    let mut rng = StdRng::seed_from_u64(seed);
    play_during(own(&server), seed, || {
        for _ in 0..if full() { 40 } else { 4 } {
            thread::sleep(Duration::from_millis(rng.random_range(50..400)));
            server.kill();
            thread::sleep(Duration::from_millis(rng.random_range(0..300)));
            server.restart();
        }
    });
}

#[test]
fn a_frozen_server_is_waited_for() {
    let server = Arc::new(RedisServer::new());
    play_during(own(&server), seed(), || {
        thread::sleep(Duration::from_millis(50));
        server.stop();
        thread::sleep(Duration::from_secs(3));
        server.cont();
    });
}

/// Replication runs behind, so a fail-over may lose what was acknowledged just before: Redis promises no more. Here it
/// does not, for no change is let in from the moment on that is replicated last.
#[test]
fn a_fail_over_is_waited_for() {
    let sentinels = Arc::new(RedisSentinels::default());
    let looking = Arc::clone(&sentinels);
    let home = Home::Redis(Database::own(sentinels.url(0), "", move || looking.master().wire(0)));
    play_during(home, seed(), || {
        thread::sleep(Duration::from_millis(100));
        let old = sentinels.master();
        old.cli(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        let replica = sentinels.servers().iter().find(|server| server.port() != old.port()).expect("a replica");
        let offset = |server: &RedisServer| {
            let info = server.cli(&["INFO", "replication"]);
            info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).map(|n| n.trim().to_owned())
        };
        let begun = Instant::now();
        while offset(old) != offset(replica) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the replica does not catch up");
        }
        let port = old.port();
        old.kill();
        sentinels.wait_for_successor(port);
    });
}

#[test]
fn a_slot_that_moves_is_followed() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Arc::new(RedisCluster::default());
    let slot = cluster.slot_of("{1}");
    let looking = Arc::clone(&cluster);
    let wire = move || looking.nodes()[looking.owner(slot)].wire(0);
    let home = Home::Redis(Database::own(cluster.url(1), "{1}", wire));
    play_during(home, seed, || {
        for _ in 0..if full() { 40 } else { 4 } {
            thread::sleep(Duration::from_millis(rng.random_range(20..200)));
            let to = (cluster.owner(slot) + 1) % cluster.nodes().len();
            let mut moving = cluster.begin_move(slot, to);
            while moving.move_keys(rng.random_range(1..8)) > 0 {
                thread::sleep(Duration::from_millis(5));
            }
            moving.finish();
        }
    });
}
