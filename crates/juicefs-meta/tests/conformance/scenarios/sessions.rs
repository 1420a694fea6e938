//! Sessions, sustained files, whose turn a job is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{
    Clock, Errno, FileType, Format, Ino, Meta, MetaError, MetaResult, SessionId, SetAttr, SliceRecord,
    meta::{FallocateMode, Freed, Job, NewNode, NewSlice, OpenFlags, RenameFlags},
};
use juicefs_meta::{
    Client, ClientConfig,
    engine::{ApplyOutcome, Patience},
    record::Key,
    txn::{Effect, Effects, NodeEffect, NodePatch},
};

use super::liveness::outlive;
use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Kind, Volume, config, format, node, on_all, posix, root},
};

#[test]
fn a_session_is_listed_refreshed_and_ended() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let sessions = v.client.sessions().await.expect("listed");
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions[0].expire.secs, Clock::now(v.clock.as_ref()).secs + 60);
        v.clock.advance(Duration::from_secs(30));
        v.client.heartbeat().await.expect("beat");
        assert_eq!(v.client.sessions().await.expect("listed")[0].expire.secs, sessions[0].expire.secs + 30);
        v.client.close_session().await.expect("closed");
        assert!(v.client.sessions().await.expect("listed").is_empty());
        let next = v.client.new_session(Bytes::from_static(b"{}")).await.expect("a session");
        assert!(next > sessions[0].sid, "numbers are not used again");
    });
}

#[test]
fn what_a_session_kept_goes_with_it() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 10).await.expect("written");
        v.open_rw(f).await;
        assert_eq!(v.unlink(Ino::ROOT, "f").await, Ok(None));
        assert_eq!(v.client.sessions().await.expect("listed")[0].sustained, [f]);
        let freed = v.client.close_session().await.expect("closed");
        assert_eq!(freed.iter().map(|freed| freed.ino).collect::<Vec<_>>(), [f]);
        assert_eq!(posix(v.client.getattr(f).await), Err(Errno::ENOENT));
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

/// Its number may be that of a session of the volume that is there now.
#[test]
fn the_session_of_a_volume_that_was_replaced_is_left_alone() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let old = v.client.sessions().await.expect("listed");
        v.engine.reset().await.expect("reset");
        let other = Format { uuid: "00000000-25f1-4924-8b72-4e010fc6616a".into(), ..format(0) };
        Client::init(&v.engine, &other, false, v.clock.as_ref()).await.expect("formatted");
        let client = Client::open(Arc::clone(&v.engine), config(&v.clock)).await.expect("opened");
        let sid = client.new_session(Bytes::from_static(b"{}")).await.expect("a session");
        assert_eq!(sid, old[0].sid);
        assert!(v.client.close_session().await.expect("nothing to do").is_empty());
        client.heartbeat().await.expect("the session is alive");
        assert_eq!(client.sessions().await.expect("listed").len(), 1);
    });
}

/// Whoever looked a name up just before a rename took it over may still open what it found.
#[test]
fn a_replaced_file_can_be_opened_for_a_while() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let keeping = Duration::from_millis(50);
        let client = v.second(ClientConfig { keep_replaced: keeping, ..config(&v.clock) }).await;
        let replace = |name: &'static [u8]| {
            let client = &client;
            async move {
                client.rename(&root(), Ino::ROOT, name, Ino::ROOT, b"f", RenameFlags::default()).await.expect("renamed")
            }
        };
        let [f, opened] = [v.file(Ino::ROOT, "f").await, v.file(Ino::ROOT, "second").await];
        v.write(f, 0, 10).await.expect("written");
        v.write(opened, 0, 20).await.expect("written");
        v.file(Ino::ROOT, "third").await;
        v.client.flush_stats().await.expect("flushed");
        assert_eq!(replace(b"second").await.replaced.freed, None);
        assert_eq!(replace(b"third").await.replaced.freed, None);
        let found = client.open(&root(), opened, OpenFlags::default()).await.expect("opened");
        assert_eq!((found.nlink, found.length), (0, 20));
        tokio::time::sleep(keeping).await;
        assert_eq!(client.release_replaced().await, [Freed { ino: f, length: 10 }]);
        assert!(client.release_replaced().await.is_empty());
        assert_eq!(posix(client.open(&root(), f, OpenFlags::default()).await).map(|_| ()), Err(Errno::ENOENT));
        assert_eq!(client.close(opened).await.expect("closed"), Some(Freed { ino: opened, length: 20 }));
        client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

#[test]
fn a_replaced_symlink_can_be_followed_for_a_while() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let client = v.second(ClientConfig { keep_replaced: Duration::from_millis(50), ..config(&v.clock) }).await;
        let link = |name: &'static [u8]| {
            let client = &client;
            let target = NewNode { target: Bytes::from_static(name), ..node(FileType::Symlink, 0o777) };
            async move { client.mknod(&root(), Ino::ROOT, name, target).await.expect("made").0 }
        };
        let (first, second) = (link(b"first").await, link(b"second").await);
        let replaced = client.rename(&root(), Ino::ROOT, b"second", Ino::ROOT, b"first", RenameFlags::default()).await;
        assert_eq!(replaced.expect("renamed").ino, second);
        assert_eq!(client.readlink(first).await.expect("read"), Bytes::from_static(b"first"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(client.release_replaced().await.is_empty());
        assert_eq!(posix(client.readlink(first).await), Err(Errno::ENOENT));
    });
}

#[test]
fn a_dead_session_is_cleaned_up_by_another_client() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let other = v.second(config(&v.clock)).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 10).await.expect("written");
        v.open_rw(f).await;
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        v.client.flush_stats().await.expect("flushed");
        assert!(other.clean_stale_sessions(10).await.expect("cleaned").is_empty(), "it is alive");
        let freed = outlive(&v.clock, &other).await;
        assert_eq!(freed.len(), 1);
        assert_eq!(other.sessions().await.expect("listed").len(), 1);
        // The frozen client is not what it was any more.
        let old = v.client.session();
        v.client.heartbeat().await.expect("it comes back");
        assert!(v.client.session() > old, "with another session");
        assert_eq!(other.sessions().await.expect("listed").len(), 2);
        assert_eq!(v.client.close(f).await.expect("closed"), None);
        v.client.new_slice_id().await.expect("an id");
        other.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

#[test]
fn a_session_of_a_client_that_is_known_to_be_dead_ends_at_once() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let other = v.second(config(&v.clock)).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 10).await.expect("written");
        v.open_rw(f).await;
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        v.client.flush_stats().await.expect("flushed");
        let sids = async || other.sessions().await.expect("listed").iter().map(|s| s.sid).collect::<Vec<_>>();
        let all = sids().await;
        assert_eq!(all.len(), 2);
        // Its own is not among the dead, whoever says so.
        let freed = other.end_sessions(&[all[0], all[1], SessionId(4711)]).await.expect("ended");
        assert_eq!(freed.len(), 1, "what only the dead one kept open goes");
        assert_eq!(sids().await.len(), 1);
        other.heartbeat().await.expect("the survivor is well");
        assert!(other.end_sessions(&all).await.expect("ended").is_empty());
        v.client.heartbeat().await.expect("it was alive after all");
        assert_eq!(sids().await.len(), 2);
        other.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

#[test]
fn one_client_gets_the_turn() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let other = v.second(config(&v.clock)).await;
        let claim = |client: &Arc<Client>, job| {
            let client = Arc::clone(client);
            async move { client.claim(job, 3600).await.expect("asked") }
        };
        for job in [Job::StaleSessions, Job::DeletedFiles, Job::Slices, Job::Trash] {
            assert!(claim(&v.client, job).await);
            assert!(!claim(&other, job).await);
        }
        v.clock.advance(Duration::from_secs(3600));
        assert!(claim(&other, Job::Trash).await);
        assert!(!claim(&v.client, Job::Trash).await);
    });
}

#[test]
fn a_read_only_client_leaves_no_trace() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.client.close_session().await.expect("closed");
        let before = Snapshot::take(v.engine.as_ref()).await;
        let reader = v.second(ClientConfig { read_only: true, ..config(&v.clock) }).await;
        assert!(reader.sessions().await.expect("listed").is_empty());
        let write = OpenFlags { write: true, ..Default::default() };
        assert_eq!(posix(reader.open(&root(), f, write).await).map(|_| ()), Err(Errno::EROFS));
        assert_eq!(posix(reader.unlink(&root(), Ino::ROOT, b"f", false).await).map(|_| ()), Err(Errno::EROFS));
        assert_eq!(posix(reader.truncate(&root(), f, 0, true).await).map(|_| ()), Err(Errno::EROFS));
        assert_eq!(posix(reader.new_slice_id().await), Err(Errno::EROFS));
        assert_eq!(posix(reader.claim(Job::Trash, 1).await), Err(Errno::EROFS));
        let read = OpenFlags { read: true, ..Default::default() };
        reader.open(&root(), f, read).await.expect("opened");
        reader.close(f).await.expect("closed");
        reader.heartbeat().await.expect("beat");
        reader.flush_stats().await.expect("nothing to flush");
        reader.close_session().await.expect("closed");
        assert_eq!(Snapshot::take(v.engine.as_ref()).await, before);
    });
}

#[test]
fn opening_and_removing_at_once_is_one_after_the_other() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        for n in 0..50 {
            let name = format!("f{n}");
            let f = v.file(Ino::ROOT, &name).await;
            v.write(f, 0, 10).await.expect("written");
            let (opener, remover) = (Arc::clone(&v.client), Arc::clone(&v.client));
            let read = OpenFlags { read: true, ..Default::default() };
            let open = tokio::spawn(async move { posix(opener.open(&root(), f, read).await).map(|_| ()) });
            let removed = remover.unlink(&root(), Ino::ROOT, name.as_bytes(), false).await.expect("unlinked");
            match open.await.expect("no panic") {
                Ok(()) => {
                    assert_eq!(removed.freed, None, "who has it open keeps it");
                    assert_eq!(v.client.read_chunk(f, 0).await.expect("still there").records.len(), 1);
                    assert!(v.client.close(f).await.expect("closed").is_some());
                }
                Err(errno) => assert_eq!((errno, removed.freed.is_some()), (Errno::ENOENT, true)),
            }
        }
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

/// Takes the session away as another client does that holds this one for dead.
async fn clean_up(v: &Volume) {
    let other = v.second(config(&v.clock)).await;
    outlive(&v.clock, &other).await;
    other.close_session().await.expect("closed");
}

fn assert_fenced<T: std::fmt::Debug>(result: MetaResult<T>) {
    assert!(matches!(result, Err(MetaError::Fenced)), "{result:?}");
}

/// Every call that changes something, each on a client that does not know yet that it is taken for dead.
#[test]
fn a_client_whose_session_was_ended_comes_back_with_whatever_it_does() {
    type Call = fn(Arc<Client>, Ino, Ino) -> std::pin::Pin<Box<dyn Future<Output = MetaResult<()>>>>;
    macro_rules! call {
        (|$client:ident, $dir:ident, $file:ident| $call:expr) => {
            (|$client, $dir, $file| {
                Box::pin(async move {
                    let _ = ($dir, $file);
                    $call.await.map(drop)
                })
            }) as Call
        };
    }
    let calls: [Call; 10] = [
        call!(|c, d, f| c.mknod(&root(), d, b"new", node(FileType::File, 0o644))),
        call!(|c, d, f| c.create(&root(), d, b"new", node(FileType::File, 0o644), true, Default::default())),
        call!(|c, d, f| c.create_unnamed(&root(), d, node(FileType::File, 0o644))),
        call!(|c, d, f| c.unlink(&root(), d, b"f", false)),
        call!(|c, d, f| c.rmdir(&root(), Ino::ROOT, b"empty", false)),
        call!(|c, d, f| c.rename(&root(), d, b"f", Ino::ROOT, b"g", Default::default())),
        call!(|c, d, f| c.link(&root(), f, d, b"g")),
        call!(|c, d, f| c.setattr(&root(), f, SetAttr { mode: Some(0o600), ..SetAttr::default() })),
        call!(|c, d, f| c.setxattr(&root(), f, b"user.a", Bytes::from_static(b"1"), Default::default())),
        call!(|c, d, f| c.flock(f, 1, juicefs_core::LockKind::Write, None)),
    ];
    on_all(|kind: Kind| async move {
        for call in calls {
            let v = Volume::new(kind, 0).await;
            let dir = v.mkdir(Ino::ROOT, "dir").await;
            v.mkdir(Ino::ROOT, "empty").await;
            let f = v.file(dir, "f").await;
            v.write(f, 0, 10).await.expect("written");
            v.client.flush_stats().await.expect("flushed");
            clean_up(&v).await;
            let (old, before) = (v.client.session(), Snapshot::take(v.engine.as_ref()).await);
            call(Arc::clone(&v.client), dir, f).await.expect("done");
            let listed = v.client.sessions().await.expect("listed");
            assert_eq!(listed.iter().map(|session| session.sid).collect::<Vec<_>>(), [v.client.session()]);
            assert!(v.client.session() > old);
            let after = Snapshot::take(v.engine.as_ref()).await;
            assert!(after != before || !v.client.locks(f).await.expect("listed").flocks.is_empty(), "it was done");
            v.client.close_session().await.expect("closed");
            v.client.flush_stats().await.expect("told");
            invariants::check(&Snapshot::take(v.engine.as_ref()).await);
        }
    });
}

/// What must not outlive the session in which it was begun.
#[test]
fn what_is_bound_to_a_session_ends_with_it() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 10).await.expect("written");
        v.client.flush_stats().await.expect("flushed");
        let old = v.client.session();
        let id = v.client.new_slice_id().await.expect("an id");
        clean_up(&v).await;
        for _ in 0..2 {
            let before = Snapshot::take(v.engine.as_ref()).await;
            let slice = NewSlice::At(0, SliceRecord { pos: 0, id, size: 5, off: 0, len: 5 });
            assert_fenced(v.client.write_slices(old, f, vec![slice], v.clock.now()).await);
            let within = root().within(old);
            assert_fenced(v.client.truncate(&within, f, 0, true).await);
            assert_fenced(v.client.fallocate(&within, f, FallocateMode::PunchHole, 0, 5).await);
            assert_fenced(v.client.copy_file_range(&within, f, 0, f, 20, 5).await);
            assert_eq!(Snapshot::take(v.engine.as_ref()).await, before);
            // Neither when there is another one.
            v.client.come_back().await.expect("back");
            v.client.come_back().await.expect("nothing to do");
        }
        v.client.truncate(&root(), f, 0, true).await.expect("truncated");
        v.client.close_session().await.expect("closed");
    });
}

#[test]
fn a_client_that_comes_back_says_what_is_lost() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let gone = v.file(Ino::ROOT, "gone").await;
        let locked = v.file(Ino::ROOT, "locked").await;
        v.write(f, 0, 10).await.expect("written");
        v.open_rw(f).await;
        v.open_rw(gone).await;
        v.client.flock(locked, 7, juicefs_core::LockKind::Read, None).await.expect("locked");
        v.unlink(Ino::ROOT, "gone").await.expect("unlinked");
        v.client.flush_stats().await.expect("flushed");
        let losses = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (told, old) = (Arc::clone(&losses), v.client.session());
        v.client.on_loss(Box::new(move |loss| told.lock().push(loss.clone())));
        clean_up(&v).await;
        v.client.heartbeat().await.expect("back");
        let loss = losses.lock().clone();
        assert_eq!(loss.len(), 1);
        assert_eq!((loss[0].old, loss[0].new), (old, v.client.session()));
        assert_eq!(
            (&loss[0].flocks[..], &loss[0].ranges[..], &loss[0].unnamed[..]),
            (&[(locked, 7)][..], &[][..], &[gone][..])
        );
        assert_eq!(v.find(Ino::ROOT, "f").await, Ok(f));
        let write = OpenFlags { write: true, ..Default::default() };
        v.client.open(&root(), f, write).await.expect("opened");
        for ino in [f, f, gone] {
            assert_eq!(v.client.close(ino).await.expect("closed"), None);
        }
        v.write(f, 20, 10).await.expect("written");
        v.client.flush_stats().await.expect("told");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

/// What is under way when the session ends fails too: the engine looks in the same step as it applies.
#[test]
fn an_engine_applies_only_what_a_living_session_wants() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let sid = v.client.sessions().await.expect("listed")[0].sid;
        let f = v.file(Ino::ROOT, "f").await;
        let read = v.engine.fetch(&[Key::Node(f)]).await.expect("fetched");
        let patch = |writer| {
            let list = vec![Effect::Node(f, NodeEffect::Patch(NodePatch::links(1, None)))];
            Effects { list, writer, narrowed: vec![(f, juicefs_meta::txn::NodeGuard::Exists)], ..Effects::none() }
        };
        let alive = v.engine.apply(&read, &patch(Some(sid)), Patience::Budget).await.expect("applied");
        assert!(matches!(alive, ApplyOutcome::Applied(_)));
        v.client.close_session().await.expect("closed");
        assert_fenced(v.engine.apply(&read, &patch(Some(sid)), Patience::Budget).await);
        assert_eq!(v.attr(f).await.nlink, 2, "nothing of it was done");
        v.engine
            .apply(&read, &Effects { writer: Some(sid), ..Effects::none() }, Patience::Budget)
            .await
            .expect("no change needs no session");
        v.engine.apply(&read, &patch(None), Patience::Budget).await.expect("tools have no session");
        assert_eq!(v.attr(f).await.nlink, 3);
    });
}

#[test]
fn ending_the_own_session_fences_nobody() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.open_rw(f).await;
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        v.client.close_session().await.expect("closed");
        v.client.new_session(Bytes::from_static(b"{}")).await.expect("a session");
        v.file(Ino::ROOT, "g").await;
        v.client.close_session().await.expect("closed");
        v.file(Ino::ROOT, "h").await;
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}
