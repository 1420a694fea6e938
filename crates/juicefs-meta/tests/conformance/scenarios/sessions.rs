//! Sessions, sustained files, whose turn a job is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{Errno, Ino, Meta, meta::Job};
use juicefs_meta::{Client, ClientConfig};

use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Kind, Volume, config, on_all, posix, root},
};

#[test]
fn a_session_is_listed_refreshed_and_ended() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let sessions = v.client.sessions().await.expect("listed");
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions[0].expire.secs, juicefs_core::Clock::now(v.clock.as_ref()).secs + 60);
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

#[test]
fn a_dead_session_is_cleaned_up_by_another_client() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let other = v.second(config(&v.clock)).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 10).await.expect("written");
        v.open_rw(f).await;
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        assert!(other.clean_stale_sessions(10).await.expect("cleaned").is_empty(), "it is alive");
        v.clock.advance(Duration::from_secs(61));
        other.heartbeat().await.expect("beat");
        let before = v.client.sessions().await.expect("listed")[0].clone();
        let freed = other.clean_stale_sessions(10).await.expect("cleaned");
        assert_eq!(freed.len(), 1);
        assert_eq!(other.sessions().await.expect("listed").len(), 1);
        // The frozen client comes back as what it was, without its files.
        v.client.heartbeat().await.expect("beat");
        let after = v.client.sessions().await.expect("listed");
        assert_eq!((after[0].sid, &after[0].info), (before.sid, &before.info));
        assert_eq!(v.client.close(f).await.expect("closed"), None);
        assert_eq!(v.write(f, 0, 10).await.map(|_| ()), Err(Errno::ENOENT));
        other.flush_stats().await.expect("flushed");
        v.client.flush_stats().await.expect("flushed");
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
        let write = juicefs_core::meta::OpenFlags { write: true, ..Default::default() };
        assert_eq!(posix(reader.open(&root(), f, write).await).map(|_| ()), Err(Errno::EROFS));
        assert_eq!(posix(reader.unlink(&root(), Ino::ROOT, b"f", false).await).map(|_| ()), Err(Errno::EROFS));
        assert_eq!(posix(reader.truncate(&root(), f, 0, true).await).map(|_| ()), Err(Errno::EROFS));
        assert_eq!(posix(reader.new_slice_id().await), Err(Errno::EROFS));
        assert_eq!(posix(reader.claim(Job::Trash, 1).await), Err(Errno::EROFS));
        let read = juicefs_core::meta::OpenFlags { read: true, ..Default::default() };
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
            let read = juicefs_core::meta::OpenFlags { read: true, ..Default::default() };
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
