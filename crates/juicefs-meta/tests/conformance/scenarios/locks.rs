//! Locks within one client and between clients.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{Attr, Errno, Ino, LockKind, LockOwner, LockRange, Meta, RangeLock, SessionId, lock::GiveUp};
use juicefs_meta::{
    Client,
    engine::Patience,
    record::Plock,
    txn::{Effect, Effects, LockEffect, ReadSet},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::liveness::outlive;
use crate::volume::{Home, Kind, Volume, config, on_all, posix};

use LockKind::{Read, Write};

/// Long enough for a call that can go on to have done so, on any machine, where a test can only wait for nothing to happen.
const MOMENT: Duration = Duration::from_millis(50);
/// A call that should end does so long before.
const LIMIT: Duration = Duration::from_secs(60);

/// Another client of the volume, with connections of its own.
async fn other(v: &Volume) -> Arc<Client> {
    let client = Client::open(v.home.engine(), config(&v.clock)).await.expect("opened");
    client.new_session(Bytes::from_static(b"{}")).await.expect("a session");
    client
}

fn range(kind: LockKind, start: u64, end: u64, pid: u32) -> RangeLock {
    RangeLock { kind, range: LockRange { start, end }, pid }
}

async fn try_flock(client: &Client, ino: Ino, owner: u64, kind: LockKind) -> Result<(), Errno> {
    posix(client.flock(ino, owner, kind, None).await).map(drop)
}

async fn try_setlk(client: &Client, ino: Ino, owner: u64, lock: RangeLock) -> Result<(), Errno> {
    posix(client.setlk(ino, owner, lock, None).await).map(drop)
}

fn for_ever() -> Option<GiveUp> {
    Some(Box::pin(std::future::pending()))
}

type Waiter = JoinHandle<Result<Attr, Errno>>;

fn wait_flock(client: &Arc<Client>, ino: Ino, owner: u64, kind: LockKind) -> Waiter {
    let client = Arc::clone(client);
    tokio::spawn(async move { posix(client.flock(ino, owner, kind, for_ever()).await) })
}

fn wait_setlk(client: &Arc<Client>, ino: Ino, owner: u64, lock: RangeLock) -> Waiter {
    let client = Arc::clone(client);
    tokio::spawn(async move { posix(client.setlk(ino, owner, lock, for_ever()).await) })
}

async fn ended(waiter: Waiter) -> Result<Attr, Errno> {
    tokio::time::timeout(LIMIT, waiter).await.expect("it ends").expect("no panic")
}

async fn still_waits(waiter: &Waiter) {
    tokio::time::sleep(MOMENT).await;
    assert!(!waiter.is_finished());
}

/// Members of the set that tells where a session holds locks; only Redis has one.
fn listed(v: &Volume, sid: u64) -> Option<Vec<String>> {
    let Home::Redis(database) = &v.home else { return None };
    let reply = database.wire().call(&["SMEMBERS", &format!("{}locked{sid}", database.prefix())]);
    let mut members: Vec<_> =
        reply.items().into_iter().map(|member| member.text().replacen(database.prefix(), "", 1)).collect();
    members.sort();
    Some(members)
}

#[test]
fn flocks_are_shared_or_exclusive_among_all_clients() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (one, two, f) = (Arc::clone(&v.client), other(&v).await, v.file(Ino::ROOT, "f").await);
        assert_eq!(try_flock(&one, f, 1, Read).await, Ok(()));
        assert_eq!(try_flock(&two, f, 1, Read).await, Ok(()));
        assert_eq!(try_flock(&two, f, 1, Read).await, Ok(()), "again");
        assert_eq!(try_flock(&two, f, 2, Write).await, Err(Errno::EAGAIN));
        let locks = one.locks(f).await.expect("listed");
        assert_eq!(locks.flocks, [1, 2].map(|sid| (LockOwner { sid: SessionId(sid), number: 1 }, Read)));
        assert_eq!(listed(&v, 1), kind.is_redis().then(|| vec![format!("lockf{f}")]));
        one.funlock(f, 1).await.expect("unlocked");
        one.funlock(f, 1).await.expect("there is nothing to unlock");
        assert_eq!(listed(&v, 1), kind.is_redis().then(Vec::new));
        assert_eq!(listed(&v, 2), kind.is_redis().then(|| vec![format!("lockf{f}")]));
        assert_eq!(try_flock(&two, f, 1, Write).await, Ok(()), "an upgrade");
        assert_eq!(try_flock(&one, f, 1, Read).await, Err(Errno::EAGAIN));
        assert_eq!(try_flock(&two, f, 1, Read).await, Ok(()), "a downgrade");
        assert_eq!(try_flock(&one, f, 1, Read).await, Ok(()));
        // As on Linux, an upgrade that fails has lost what was held.
        assert_eq!(try_flock(&one, f, 1, Write).await, Err(Errno::EAGAIN));
        assert_eq!(try_flock(&two, f, 1, Write).await, Ok(()));
        two.funlock(f, 1).await.expect("unlocked");
        assert_eq!(one.locks(f).await.expect("listed"), Default::default());
        assert_eq!(posix(one.flock(Ino(4711), 1, Read, None).await).map(drop), Err(Errno::ENOENT));
    });
}

#[test]
fn ranges_are_split_merged_and_told() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (one, two, f) = (Arc::clone(&v.client), other(&v).await, v.file(Ino::ROOT, "f").await);
        const HIGH: u64 = 0xF000_0000_0000_0001;
        one.unlk(f, HIGH, LockRange { start: 0, end: 9 }).await.expect("nothing to unlock");
        assert_eq!(try_setlk(&one, f, HIGH, range(Read, 0, 0xFFFF, 10)).await, Ok(()));
        assert_eq!(try_setlk(&two, f, HIGH, range(Read, 0, 0xFFFF, 10)).await, Ok(()));
        assert_eq!(try_setlk(&two, f, HIGH, range(Write, 0, 0xFFFF, 10)).await, Err(Errno::EAGAIN));
        assert_eq!(try_setlk(&two, f, HIGH, range(Write, 0x10000, 0x20000, 10)).await, Ok(()));
        one.unlk(f, HIGH, LockRange { start: 0, end: 0x1FFF }).await.expect("unlocked");
        two.unlk(f, HIGH, LockRange { start: 0, end: 0xFFFF }).await.expect("unlocked");
        assert_eq!(try_setlk(&one, f, HIGH, range(Write, 0x2000, 0xFFFF, 20)).await, Ok(()));
        assert_eq!(try_setlk(&two, f, HIGH, range(Write, 0, 0x1FFF, 30)).await, Ok(()));
        let of = |client: Arc<Client>, owner, lock| async move { client.getlk(f, owner, lock).await.expect("asked") };
        let seen = of(Arc::clone(&one), 7, range(Read, 0x1800, LockRange::LAST, 8)).await;
        assert_eq!(seen, Some(range(Write, 0, 0x1FFF, 0)), "a process of another client is not told");
        let seen = of(Arc::clone(&one), 7, range(Read, 0x2000, 0x2000, 8)).await;
        assert_eq!(seen, Some(range(Write, 0x2000, 0xFFFF, 20)));
        assert_eq!(of(Arc::clone(&one), HIGH, range(Write, 0x2000, 0xFFFF, 8)).await, None);
        let held: Vec<_> = one.locks(f).await.expect("listed").ranges;
        let owner = |sid| LockOwner { sid: SessionId(sid), number: HIGH };
        let expected = [
            (owner(1), range(Write, 0x2000, 0xFFFF, 20)),
            (owner(2), range(Write, 0, 0x1FFF, 30)),
            (owner(2), range(Write, 0x10000, 0x20000, 10)),
        ];
        assert_eq!(held, expected);
        assert_eq!(listed(&v, 2), kind.is_redis().then(|| vec![format!("lockp{f}")]));
        one.unlk(f, HIGH, LockRange::ALL).await.expect("unlocked");
        two.unlk(f, HIGH, LockRange::ALL).await.expect("unlocked");
        assert_eq!(of(one, 7, range(Write, 0, LockRange::LAST, 8)).await, None);
        assert_eq!(listed(&v, 2), kind.is_redis().then(Vec::new));
    });
}

#[test]
fn two_owners_of_a_session_are_listed_until_the_last_is_gone() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        for owner in [1, 2] {
            assert_eq!(try_flock(&v.client, f, owner, Read).await, Ok(()));
            assert_eq!(try_setlk(&v.client, f, owner, range(Write, owner, owner, 1)).await, Ok(()));
        }
        let both = kind.is_redis().then(|| vec![format!("lockf{f}"), format!("lockp{f}")]);
        assert_eq!(listed(&v, 1), both);
        v.client.funlock(f, 1).await.expect("unlocked");
        v.client.unlk(f, 2, LockRange::ALL).await.expect("unlocked");
        assert_eq!(listed(&v, 1), both);
        v.client.funlock(f, 2).await.expect("unlocked");
        v.client.unlk(f, 1, LockRange::ALL).await.expect("unlocked");
        assert_eq!(listed(&v, 1), kind.is_redis().then(Vec::new));
    });
}

#[test]
fn locks_go_with_the_end_of_their_session() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (two, f) = (other(&v).await, v.file(Ino::ROOT, "f").await);
        assert_eq!(try_flock(&v.client, f, 1, Read).await, Ok(()));
        assert_eq!(try_setlk(&v.client, f, 1, range(Write, 0, 9, 1)).await, Ok(()));
        let (first, second) = (wait_flock(&two, f, 1, Write), wait_setlk(&two, f, 1, range(Read, 9, 9, 1)));
        still_waits(&first).await;
        still_waits(&second).await;
        v.client.close_session().await.expect("closed");
        assert!(ended(first).await.is_ok() && ended(second).await.is_ok());
        assert_eq!(two.locks(f).await.expect("listed").flocks.len(), 1);
        assert_eq!(posix(v.client.flock(f, 1, Read, None).await).map(drop), Err(Errno::ENOLCK), "it has no session");
    });
}

#[test]
fn locks_of_a_dead_client_go_when_it_is_cleaned_up() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (two, f) = (other(&v).await, v.file(Ino::ROOT, "f").await);
        assert_eq!(try_flock(&v.client, f, 1, Read).await, Ok(()));
        assert_eq!(try_setlk(&v.client, f, 1, range(Write, 0, 9, 1)).await, Ok(()));
        let (first, second) = (wait_flock(&two, f, 1, Write), wait_setlk(&two, f, 1, range(Read, 9, 9, 1)));
        still_waits(&first).await;
        still_waits(&second).await;
        outlive(&v.clock, &two).await;
        assert!(ended(first).await.is_ok() && ended(second).await.is_ok());
        // The dead one, should it come back, has nothing, and gets what is free.
        assert_eq!(posix(v.client.flock(f, 1, Read, None).await).map(drop), Err(Errno::EAGAIN));
        two.funlock(f, 1).await.expect("unlocked");
        v.client.funlock(f, 1).await.expect("there is nothing to unlock");
        assert_eq!(try_flock(&v.client, f, 1, Read).await, Ok(()));
        assert_eq!(listed(&v, 1), kind.is_redis().then(Vec::new));
    });
}

/// As JuiceFS (Go) up to 1.4.1 leaves shared flocks in Redis.
#[test]
fn a_lock_that_its_session_left_behind_does_not_count() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let gone = LockOwner { sid: SessionId(77), number: 5 };
        let held = vec![Plock { kind: 1, pid: 3, range: LockRange::ALL }];
        let mut effects = Effects::none();
        effects.push(Effect::Lock(f, gone, LockEffect::PutFlock(Read)));
        effects.push(Effect::Lock(f, gone, LockEffect::PutPlocks(held)));
        v.engine.apply(&ReadSet::default(), &effects, Patience::Budget).await.expect("applied");
        assert_eq!(v.client.getlk(f, 1, range(Read, 0, 0, 1)).await.expect("asked"), None);
        assert_eq!(try_flock(&v.client, f, 1, Write).await, Ok(()));
        assert_eq!(try_setlk(&v.client, f, 1, range(Read, 0, 0, 1)).await, Ok(()));
        let locks = v.client.locks(f).await.expect("listed");
        let own = LockOwner { sid: SessionId(1), number: 1 };
        assert_eq!((locks.flocks, locks.ranges), (vec![(own, Write)], vec![(own, range(Read, 0, 0, 1))]));
    });
}

#[test]
fn who_waits_is_served_in_the_order_of_arrival() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        assert_eq!(try_flock(&v.client, f, 100, Write).await, Ok(()));
        assert_eq!(try_setlk(&v.client, f, 100, range(Write, 0, 9, 1)).await, Ok(()));
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for owner in 0..8 {
            for whole in [true, false] {
                let (client, order) = (Arc::clone(&v.client), Arc::clone(&order));
                waiters.push(tokio::spawn(async move {
                    let lock = range(Write, 0, 9, 1);
                    let granted = match whole {
                        true => client.flock(f, owner, Write, for_ever()).await,
                        false => client.setlk(f, owner, lock, for_ever()).await,
                    };
                    granted.expect("granted");
                    order.lock().push((whole, owner));
                    match whole {
                        true => client.funlock(f, owner).await.expect("unlocked"),
                        false => client.unlk(f, owner, lock.range).await.expect("unlocked"),
                    }
                }));
                // Tasks of this runtime begin in the order in which they were spawned, and queue before they wait.
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(MOMENT).await;
        v.client.funlock(f, 100).await.expect("unlocked");
        v.client.unlk(f, 100, LockRange::ALL).await.expect("unlocked");
        for waiter in waiters {
            tokio::time::timeout(LIMIT, waiter).await.expect("it ends").expect("no panic");
        }
        for whole in [true, false] {
            let served: Vec<_> = order.lock().iter().filter(|(w, _)| *w == whole).map(|(_, owner)| *owner).collect();
            assert_eq!(served, (0..8).collect::<Vec<_>>(), "whole file: {whole}");
        }
    });
}

#[test]
fn waiting_ends_when_another_client_lets_go() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (two, f) = (other(&v).await, v.file(Ino::ROOT, "f").await);
        for _ in 0..3 {
            assert_eq!(try_flock(&v.client, f, 1, Write).await, Ok(()));
            let (reader, writer) = (wait_flock(&two, f, 1, Read), wait_flock(&two, f, 2, Write));
            still_waits(&reader).await;
            v.client.funlock(f, 1).await.expect("unlocked");
            // Whichever of the two comes first lets the other follow.
            tokio::time::timeout(LIMIT, async {
                let (mut reader, mut writer) = (reader, writer);
                tokio::select! {
                    granted = &mut reader => {
                        granted.expect("no panic").expect("granted");
                        two.funlock(f, 1).await.expect("unlocked");
                        writer.await.expect("no panic").expect("granted");
                        two.funlock(f, 2).await.expect("unlocked");
                    }
                    granted = &mut writer => {
                        granted.expect("no panic").expect("granted");
                        two.funlock(f, 2).await.expect("unlocked");
                        reader.await.expect("no panic").expect("granted");
                        two.funlock(f, 1).await.expect("unlocked");
                    }
                }
            })
            .await
            .expect("both are served");
        }
    });
}

#[test]
fn waiting_can_be_given_up() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (two, f) = (other(&v).await, v.file(Ino::ROOT, "f").await);
        assert_eq!(try_flock(&v.client, f, 1, Write).await, Ok(()));
        // One waits for an owner of its own client, one for another client.
        for client in [Arc::clone(&v.client), two] {
            let (stop, stopped) = oneshot::channel::<()>();
            let wait: GiveUp = Box::pin(async move { drop(stopped.await) });
            let asking = Arc::clone(&client);
            let waiter = tokio::spawn(async move { posix(asking.flock(f, 2, Write, Some(wait)).await) });
            let behind = wait_flock(&client, f, 3, Write);
            still_waits(&waiter).await;
            stop.send(()).expect("it waits");
            assert_eq!(ended(waiter).await.map(drop), Err(Errno::EINTR));
            still_waits(&behind).await;
            behind.abort();
        }
        v.client.funlock(f, 1).await.expect("unlocked");
        assert_eq!(try_flock(&v.client, f, 9, Write).await, Ok(()), "who gave up holds nothing");
    });
}

#[test]
fn a_circle_of_waiting_owners_is_refused() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (f, g) = (v.file(Ino::ROOT, "f").await, v.file(Ino::ROOT, "g").await);
        assert_eq!(try_setlk(&v.client, f, 1, range(Write, 0, 0, 1)).await, Ok(()));
        assert_eq!(try_setlk(&v.client, g, 2, range(Read, 5, 9, 1)).await, Ok(()));
        let waiter = wait_setlk(&v.client, g, 1, range(Write, 9, 20, 1));
        still_waits(&waiter).await;
        assert_eq!(posix(v.client.setlk(f, 2, range(Read, 0, 9, 1), for_ever()).await).map(drop), Err(Errno::EDEADLK));
        // What was held is kept, and without waiting nothing is in danger.
        assert_eq!(try_setlk(&v.client, f, 2, range(Read, 0, 9, 1)).await, Err(Errno::EAGAIN));
        v.client.unlk(g, 2, LockRange::ALL).await.expect("unlocked");
        assert!(ended(waiter).await.is_ok());
    });
}

/// Two readers that both want to write would wait for each other for ever, if they kept what they have.
#[test]
fn two_upgrades_of_flock_follow_each_other() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        for second in [Arc::clone(&v.client), other(&v).await] {
            assert_eq!(try_flock(&v.client, f, 1, Read).await, Ok(()));
            assert_eq!(try_flock(&second, f, 2, Read).await, Ok(()));
            let mut waiters = [wait_flock(&v.client, f, 1, Write), wait_flock(&second, f, 2, Write)];
            let [one, two] = &mut waiters;
            tokio::time::timeout(LIMIT, async {
                tokio::select! {
                    granted = one => {
                        granted.expect("no panic").expect("granted");
                        v.client.funlock(f, 1).await.expect("unlocked");
                    }
                    granted = two => {
                        granted.expect("no panic").expect("granted");
                        second.funlock(f, 2).await.expect("unlocked");
                    }
                }
            })
            .await
            .expect("one gets it");
            for waiter in waiters.into_iter().filter(|waiter| !waiter.is_finished()) {
                ended(waiter).await.expect("then the other");
            }
            v.client.funlock(f, 1).await.expect("unlocked");
            second.funlock(f, 2).await.expect("unlocked");
        }
    });
}

/// A lock is never held by two, and whoever gets it sees the file as the one before left it.
#[test]
fn many_owners_of_two_clients_exclude_each_other() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (two, f) = (other(&v).await, v.file(Ino::ROOT, "f").await);
        let (inside, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let mut tasks = Vec::new();
        for owner in 0..50 {
            let client = if owner % 2 == 0 { Arc::clone(&v.client) } else { Arc::clone(&two) };
            let (inside, done) = (Arc::clone(&inside), Arc::clone(&done));
            tasks.push(tokio::spawn(async move {
                let lock = range(Write, 0, 0xFFFF, 1);
                let attr = client.setlk(f, owner, lock, for_ever()).await.expect("granted");
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                assert_eq!(attr.length, u64::from(done.load(Ordering::SeqCst)), "what the one before left is seen");
                let longer = attr.length + 1;
                client.truncate(&crate::volume::root(), f, longer, true).await.expect("truncated");
                done.fetch_add(1, Ordering::SeqCst);
                inside.fetch_sub(1, Ordering::SeqCst);
                client.unlk(f, owner, lock.range).await.expect("unlocked");
            }));
        }
        for task in tasks {
            tokio::time::timeout(LIMIT, task).await.expect("it ends").expect("no panic");
        }
        assert_eq!(done.load(Ordering::SeqCst), 50);
        assert_eq!(v.client.locks(f).await.expect("listed"), Default::default());
        for sid in [1, 2] {
            assert_eq!(listed(&v, sid), kind.is_redis().then(Vec::new));
        }
    });
}
