//! The end of a session, its renewal and what its client does, interleaved: on an engine that reads first and applies
//! optimistically, with every schedule that chance makes.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use juicefs_core::{
    Ino, LockKind, Meta, MetaError, SliceRecord, Timestamp,
    meta::{NewSlice, OpenFlags, SessionLoss},
};
use juicefs_meta::{Client, Engine, engine::mem::MemEngine};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    interleaving::Optimistic,
    invariants,
    snapshot::Snapshot,
    volume::{Volume, block_on, config, format, posix, root},
};

type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Polls these in an order that chance makes, until all have ended.
fn run(rng: &mut StdRng, running: Vec<Running<'_>>) {
    let mut running: Vec<_> = running.into_iter().map(Some).collect();
    let mut polls = 0;
    while running.iter().any(Option::is_some) {
        polls += 1;
        assert!(polls < 100_000, "somebody waits for ever");
        let at = rng.random_range(0..running.len());
        // Runs of one of them are as likely as turns.
        for _ in 0..rng.random_range(1..6) {
            let Some(future) = &mut running[at] else { break };
            if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                running[at] = None;
            }
        }
    }
}

fn rounds(what: impl Fn(&mut StdRng)) {
    let given = std::env::var("JUICEFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    for _ in 0..400 {
        let seed: u64 = given.unwrap_or_else(rand::random);
        println!("JUICEFS_TEST_SEED={seed}");
        what(&mut StdRng::seed_from_u64(seed));
    }
}

async fn volume() -> Volume {
    Volume::on(Optimistic::new(Arc::new(MemEngine::new())) as Arc<dyn Engine>, &format(0)).await
}

async fn open(client: &Client, ino: Ino) {
    let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    client.open(&root(), ino, flags).await.expect("opened");
}

/// Files that are unlinked while they are open, a heart that beats again, and somebody who takes the session for dead: either
/// it ends with everything that it kept, or it lives on with everything.
#[test]
fn a_session_ends_with_all_that_it_keeps_or_not_at_all() {
    let (ended, lived) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    rounds(|rng| {
        let (v, ender) = block_on(async {
            let v = volume().await;
            let ender = v.second(config(&v.clock)).await;
            for n in 0..4 {
                let f = v.file(Ino::ROOT, &format!("f{n}")).await;
                open(&v.client, f).await;
            }
            v.client.unlink(&root(), Ino::ROOT, b"f0", false).await.expect("unlinked");
            // The next look finds it dead.
            for _ in 0..12 {
                v.clock.advance(Duration::from_secs(12));
                ender.heartbeat().await.expect("renewed");
                ender.clean_stale_sessions(0).await.expect("looked");
            }
            v.clock.advance(Duration::from_secs(12));
            (v, ender)
        });
        let old = v.client.session();
        let lost = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&lost);
        v.client.on_loss(Box::new(move |loss: &SessionLoss| told.lock().expect("whole").extend(loss.unnamed.clone())));
        let unlinked = Mutex::new(Vec::new());
        let work = async {
            for n in 1..4 {
                let name = format!("f{n}");
                let (ino, _) = v.client.lookup(&root(), Ino::ROOT, name.as_bytes()).await.expect("found");
                let removed = v.client.unlink(&root(), Ino::ROOT, name.as_bytes(), false).await.expect("unlinked");
                assert!(removed.freed.is_none(), "it is open, and empty");
                unlinked.lock().expect("whole").push(ino);
            }
        };
        let beats = async { v.client.heartbeat().await.expect("renewed") };
        let ends = async { drop(ender.clean_stale_sessions(10).await.expect("cleaned")) };
        run(rng, vec![Box::pin(work), Box::pin(beats), Box::pin(ends)]);
        block_on(async {
            let came_back = v.client.session() != old;
            let counter = if came_back { &ended } else { &lived };
            counter.set(counter.get() + 1);
            assert_eq!(ender.sessions().await.expect("listed").len(), 2, "the old one or the new one");
            let unlinked = unlinked.lock().expect("whole").clone();
            for ino in &unlinked {
                let there = posix(v.client.getattr(*ino).await).is_ok();
                let was_lost = lost.lock().expect("whole").contains(ino);
                assert_eq!(there, !was_lost, "{ino}: who has it open knows whether it is there");
                assert!(came_back || there);
            }
            for client in [&v.client, &ender] {
                client.flush_stats().await.expect("flushed");
            }
            // Nothing is kept by a session that is gone.
            invariants::check(&Snapshot::take(v.engine.as_ref()).await);
        });
    });
    assert!(ended.get() > 20 && lived.get() > 20, "{ended:?} {lived:?}");
}

/// Somebody writes under a lock, loses it with the session, and somebody else gets it: what the first wrote lies below all that
/// the second writes.
#[test]
fn nothing_written_under_a_lost_lock_comes_after_it_is_had_by_another() {
    let met = std::cell::Cell::new(0);
    rounds(|rng| {
        let (v, next, f) = block_on(async {
            let v = volume().await;
            let next = v.second(config(&v.clock)).await;
            let f = v.file(Ino::ROOT, "f").await;
            v.client.flock(f, 1, LockKind::Write, None).await.expect("locked");
            (v, next, f)
        });
        let old = v.client.session();
        let lost = Arc::new(Mutex::new(false));
        let told = Arc::clone(&lost);
        v.client.on_loss(Box::new(move |loss: &SessionLoss| {
            assert_eq!(loss.flocks, [(f, 1)]);
            *told.lock().expect("whole") = true;
        }));
        let write = async |client: &Client, size: u32| {
            let id = client.new_slice_id().await.expect("an id");
            let record = SliceRecord { pos: 0, id, size, off: 0, len: size };
            let session = client.session();
            // Looked at after the session, as whoever puts a batch together does.
            if size == 1 && *lost.lock().expect("whole") {
                return Err(MetaError::Fenced);
            }
            let slices = vec![NewSlice::At(0, record)];
            client.write_slices(session, f, slices, Timestamp::from_secs(1)).await.map(drop)
        };
        let first = async {
            for _ in 0..4 {
                match write(&v.client, 1).await {
                    Ok(()) => {}
                    Err(MetaError::Fenced) => v.client.come_back().await.expect("back"),
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let other = async {
            next.end_sessions(&[old]).await.expect("ended");
            next.flock(f, 2, LockKind::Write, None).await.expect("it is free");
            for _ in 0..2 {
                write(&next, 2).await.expect("written");
            }
        };
        run(rng, vec![Box::pin(first), Box::pin(other)]);
        block_on(async {
            v.client.heartbeat().await.expect("it lives, in whichever session");
            assert!(*lost.lock().expect("whole") && v.client.session() != old);
            let sizes: Vec<_> = v.client.read_chunk(f, 0).await.expect("read").records.iter().map(|r| r.size).collect();
            assert!(sizes.is_sorted(), "{sizes:?}");
            assert_eq!(sizes.iter().filter(|size| **size == 2).count(), 2);
            met.set(met.get() + usize::from((3..6).contains(&sizes.len())));
        });
    });
    assert!(met.get() > 20, "they hardly met: {met:?}");
}
