//! Who is taken for dead, and who is not.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{Clock, Errno, Ino, Meta, meta::Freed, meta::OpenFlags};
use juicefs_meta::{Client, ClientConfig};

use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Home, Kind, START_SECS, StandingClock, Volume, config, on_all, posix, root},
};

/// Between two heartbeats, as [`config`] has it.
const BEAT: Duration = Duration::from_secs(12);

/// A heartbeat, and what is done beside it.
async fn beat(client: &Client) -> Vec<Freed> {
    client.heartbeat().await.expect("renewed");
    client.clean_stale_sessions(10).await.expect("looked")
}

/// Lets time pass in which `by` sends its heartbeats and nobody else does: long enough for it to end the sessions of all
/// others.
pub(super) async fn outlive(clock: &StandingClock, by: &Client) -> Vec<Freed> {
    let mut freed = Vec::new();
    for _ in 0..14 {
        clock.advance(BEAT);
        freed.extend(beat(by).await);
    }
    freed
}

async fn sessions(v: &Volume) -> usize {
    v.client.sessions().await.expect("listed").len()
}

/// The engine was away for everybody: whoever comes back first finds the sessions of all others expired.
#[test]
fn an_outage_ends_no_session() {
    on_all(|kind: Kind| async move {
        for lifetimes in [1, 2, 5, 20] {
            let v = Volume::new(kind, 0).await;
            let mut others = Vec::new();
            for _ in 0..4 {
                others.push(v.second(config(&v.clock)).await);
            }
            let f = v.file(Ino::ROOT, "f").await;
            v.open_rw(f).await;
            v.unlink(Ino::ROOT, "f").await.expect("unlinked");
            for _ in 0..2 {
                v.clock.advance(BEAT);
                beat(&v.client).await;
                for other in &others {
                    beat(other).await;
                }
            }
            v.clock.advance(lifetimes * 5 * BEAT + Duration::from_secs(3));
            // They come back one after the other; the last one takes nearly as long as is allowed.
            let (first, late) = others.split_first().expect("four");
            for other in late {
                assert!(beat(first).await.is_empty());
                v.clock.advance(BEAT);
                beat(other).await;
            }
            assert_eq!(sessions(&v).await, 5);
            beat(&v.client).await;
            for _ in 0..20 {
                v.clock.advance(BEAT);
                for client in others.iter().chain([&v.client]) {
                    assert!(beat(client).await.is_empty());
                }
            }
            assert_eq!(sessions(&v).await, 5);
            assert!(v.client.close(f).await.expect("closed").is_none(), "it was empty");
            v.client.flush_stats().await.expect("flushed");
            invariants::check(&Snapshot::take(v.engine.as_ref()).await);
        }
    });
}

/// Clients whose clocks do not agree, or are set while they run.
#[test]
fn a_clock_that_is_wrong_makes_nobody_dead() {
    on_all(|kind: Kind| async move {
        for step_secs in [-600, -61, 61, 600] {
            let v = Volume::new(kind, 0).await;
            let clock = StandingClock::at(START_SECS + step_secs);
            let other = v.second(config(&clock)).await;
            let round = async || {
                for each in [&v.clock, &clock] {
                    each.advance(BEAT);
                }
                for client in [&v.client, &other] {
                    assert!(beat(client).await.is_empty());
                }
                assert_eq!(sessions(&v).await, 2, "{step_secs}");
            };
            for _ in 0..15 {
                round().await;
            }
            // The clock is put right while it runs, and then wrong the other way.
            for _ in 0..2 {
                clock.step(-step_secs);
                for _ in 0..15 {
                    round().await;
                }
            }
            // One is stopped alone: the other one ends its session, however its clock goes, at the latest when its own clock
            // says that it has expired.
            for _ in 0..80 {
                for each in [&v.clock, &clock] {
                    each.advance(BEAT);
                }
                beat(&other).await;
            }
            assert_eq!(sessions(&v).await, 1, "{step_secs}");
        }
    });
}

/// `--heartbeat` may differ: who sends few heartbeats is not measured by who sends many.
#[test]
fn a_slow_heart_is_no_dead_one() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        // Its clock makes all others look expired.
        let clock = StandingClock::at(START_SECS + 600);
        let hasty = v.second(ClientConfig { heartbeat: Duration::from_secs(1), ..config(&clock) }).await;
        let slow = Client::open(Arc::clone(&v.engine), ClientConfig { heartbeat: BEAT * 4, ..config(&v.clock) }).await;
        let slow = slow.expect("opened");
        slow.new_session(Bytes::from_static(b"{\"Heartbeat\": 48}")).await.expect("a session");
        for second in 1..=600 {
            for each in [&v.clock, &clock] {
                each.advance(Duration::from_secs(1));
            }
            assert!(beat(&hasty).await.is_empty());
            if second % 12 == 0 {
                v.client.heartbeat().await.expect("renewed");
            }
            if second % 48 == 0 {
                slow.heartbeat().await.expect("renewed");
            }
            assert_eq!(sessions(&v).await, 3);
        }
    });
}

#[test]
fn a_late_client_renews_its_session_and_lives_on() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let other = v.second(config(&v.clock)).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 10).await.expect("written");
        v.open_rw(f).await;
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        // Nobody was there to end it.
        v.clock.advance(100 * BEAT);
        v.client.heartbeat().await.expect("renewed");
        assert!(outlive_together(&v, &other).await.is_empty());
        assert_eq!(v.client.close(f).await.expect("closed").map(|freed| freed.ino), Some(f));
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

async fn outlive_together(v: &Volume, other: &Client) -> Vec<Freed> {
    let mut freed = Vec::new();
    for _ in 0..14 {
        v.clock.advance(BEAT);
        v.client.heartbeat().await.expect("renewed");
        freed.extend(beat(other).await);
    }
    freed
}

/// Whoever has the turn may be the one who has just come.
#[test]
fn a_dead_session_ends_though_others_take_the_turn() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let other = v.second(config(&v.clock)).await;
        for _ in 0..24 {
            v.clock.advance(BEAT);
            let turn = other.claim(juicefs_core::meta::Job::StaleSessions, 0).await;
            assert!(turn.expect("asked"), "somebody else is quicker");
            beat(&other).await;
        }
        assert_eq!(other.sessions().await.expect("listed").len(), 1);
    });
}

/// Replaces a counter by what no client can read.
fn damage_used_space(v: &Volume) -> bool {
    match &v.home {
        Home::Redis(database) => drop(database.wire().call(&["SET", &database.key("usedSpace"), "plenty"])),
        Home::Sqlite(dir) => {
            let sql = "pragma busy_timeout=10000; update jfs_counter set value='plenty' where name='usedSpace';";
            let done = std::process::Command::new("sqlite3").arg(dir.path().join("meta.db")).arg(sql).status();
            assert!(done.expect("sqlite3 runs").success());
        }
        Home::Mem(_) | Home::Foreign(_) => return false,
    }
    true
}

#[test]
fn a_malformed_counter_does_not_stop_the_heart() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let other = v.second(config(&v.clock)).await;
        if !damage_used_space(&v) {
            return;
        }
        assert!(v.client.refresh().await.is_err(), "it is noticed");
        assert!(outlive_together(&v, &other).await.is_empty());
        assert_eq!(sessions(&v).await, 2);
    });
}

/// A client with many open files without a name, one of which is damaged, and another one that is dead as well.
#[test]
fn one_bad_session_does_not_hide_the_next() {
    const FILES: usize = 600;
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let [dead, survivor] = [v.second(config(&v.clock)).await, v.second(config(&v.clock)).await];
        let read = OpenFlags { read: true, ..OpenFlags::default() };
        let mut files = Vec::new();
        for n in 0..FILES {
            let name = format!("f{n}");
            let f = v.file(Ino::ROOT, &name).await;
            if n % 2 == 0 {
                v.write(f, 0, 10).await.expect("written");
            }
            v.client.open(&root(), f, read).await.expect("opened");
            v.unlink(Ino::ROOT, &name).await.expect("unlinked");
            files.push(f);
        }
        v.client.flush_stats().await.expect("flushed");
        let bad = files[FILES / 2];
        let damaged = if let Home::Redis(database) = &v.home {
            database.wire().call(&["SET", &database.key(&format!("i{bad}")), "no node"]);
            true
        } else {
            false
        };
        drop(dead);
        let freed = outlive(&v.clock, &survivor).await;
        assert_eq!(freed.len(), FILES / 2 - usize::from(damaged));
        let left = survivor.sessions().await.expect("listed");
        assert_eq!(left.len(), 1 + usize::from(damaged), "the others are gone");
        for f in files.iter().filter(|f| **f != bad || !damaged) {
            assert_eq!(posix(survivor.getattr(*f).await), Err(Errno::ENOENT));
        }
        if damaged {
            let own = left.iter().map(|session| session.sustained.clone()).max().expect("some");
            assert_eq!(own, [bad], "what cannot be read is kept, and its session with it");
        } else {
            survivor.flush_stats().await.expect("flushed");
            invariants::check(&Snapshot::take(v.engine.as_ref()).await);
        }
        assert!(v.clock.now().secs > START_SECS);
    });
}
