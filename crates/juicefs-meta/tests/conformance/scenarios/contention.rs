//! Clients that change the same records at the same time.

use std::sync::Arc;

use juicefs_core::{
    Ino, Meta, SliceKey, SliceRecord, Timestamp,
    limits::CHUNK_SIZE,
    meta::{Compacted, NewSlice},
};
use juicefs_meta::{Client, engine::mem::MemEngine};

use crate::{
    interleaving::Optimistic,
    invariants,
    snapshot::Snapshot,
    volume::{Kind, Volume, block_on, config, format, on_all, root, write_slice},
};

/// Clients beside the first one, each with connections of its own.
const OTHERS: usize = 15;
/// What each of them does.
const WRITES: u64 = 25;

async fn record(client: &Client, pos: u32) -> SliceRecord {
    let id = client.new_slice_id().await.expect("an id");
    SliceRecord { pos, id, size: 10, off: 0, len: 10 }
}

async fn others(v: &Volume) -> Vec<Arc<Client>> {
    let mut clients = Vec::new();
    for _ in 0..OTHERS {
        let client = Client::open(v.home.engine(), config(&v.clock)).await.expect("opened");
        client.new_session("{}".into()).await.expect("a session");
        clients.push(client);
    }
    clients
}

async fn settled(v: &Volume) -> Snapshot {
    v.client.flush_stats().await.expect("flushed");
    let all = Snapshot::take(v.engine.as_ref()).await;
    invariants::check(&all);
    all
}

/// Each append depends on all before it: of all that are tried at the same time one succeeds.
#[test]
fn appends_of_many_clients_all_succeed() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let clients = others(&v).await;
        let each = clients.iter().map(|client| async move {
            for _ in 0..WRITES {
                let key = SliceKey { id: client.new_slice_id().await.expect("an id"), size: 10 };
                client
                    .write_slices(client.session(), f, vec![NewSlice::End(key)], Timestamp::from_secs(1))
                    .await
                    .expect("appended");
            }
        });
        futures_util::future::join_all(each).await;
        for client in &clients {
            client.flush_stats().await.expect("flushed");
        }
        assert_eq!(v.attr(f).await.length, OTHERS as u64 * WRITES * 10);
        assert_eq!(settled(&v).await.chunks[&(f, 0)].len() as u64, OTHERS as u64 * WRITES);
    });
}

/// How often somebody was in somebody's way while the calls that `begin` makes ran side by side on an engine that guards.
fn conflicts_of(begin: impl AsyncFn(&Volume, Ino)) -> usize {
    let engine = Optimistic::new(Arc::new(MemEngine::new()));
    block_on(async {
        let v = Volume::on(Arc::clone(&engine) as _, &format(0)).await;
        let f = v.file(Ino::ROOT, "f").await;
        for index in 0..4 {
            write_slice(&v.client, f, index, record(&v.client, 500).await, Timestamp::from_secs(1))
                .await
                .expect("written");
        }
        v.client.truncate(&root(), f, 8 * CHUNK_SIZE, true).await.expect("grown");
        begin(&v, f).await;
        settled(&v).await;
        engine.conflicts()
    })
}

#[test]
fn writers_within_a_file_are_not_in_each_others_way() {
    let conflicts = conflicts_of(async |v, f| {
        let each = (0..8).map(|n| async move {
            for _ in 0..5 {
                let record = record(&v.client, n * 100).await;
                write_slice(&v.client, f, n % 4, record, Timestamp::from_secs(i64::from(n))).await.expect("written");
            }
        });
        futures_util::future::join_all(each).await;
    });
    assert_eq!(conflicts, 0);
}

#[test]
fn writers_that_make_a_file_longer_are_not_in_the_way_of_those_within_it() {
    let conflicts = conflicts_of(async |v, f| {
        let within = async {
            for n in 0..20 {
                let record = record(&v.client, n * 100).await;
                write_slice(&v.client, f, 1, record, Timestamp::from_secs(2)).await.expect("written");
            }
        };
        let longer = async {
            for n in 0..20 {
                let record = record(&v.client, n * 100).await;
                write_slice(&v.client, f, 9, record, Timestamp::from_secs(2)).await.expect("written");
            }
        };
        tokio::join!(within, longer);
        assert_eq!(v.attr(f).await.length, 9 * CHUNK_SIZE + 1910);
    });
    assert_eq!(conflicts, 0);
}

#[test]
fn a_compaction_is_not_in_the_way_of_writers() {
    let conflicts = conflicts_of(async |v, f| {
        for n in 0..5 {
            let record = record(&v.client, 600 + n * 10).await;
            write_slice(&v.client, f, 0, record, Timestamp::from_secs(1)).await.expect("written");
        }
        let plan = v.client.plan_compaction(f, 0).await.expect("planned").expect("worth it");
        let writing = async {
            for n in 0..20 {
                let record = record(&v.client, n * 20).await;
                write_slice(&v.client, f, 0, record, Timestamp::from_secs(2)).await.expect("written");
            }
        };
        let compacting = async {
            let slice = v.client.new_slice_id().await.expect("an id");
            v.client.commit_compaction(f, 0, &plan, slice).await.expect("committed")
        };
        let (done, ()) = tokio::join!(compacting, writing);
        assert!(matches!(done, Compacted::Done(dead) if dead.len() == 6));
        assert_eq!(v.client.read_chunk(f, 0).await.expect("read").records.len(), 21);
    });
    assert_eq!(conflicts, 0);
}

/// What was written while a cut was being judged is cut too, or the cut is judged anew.
#[test]
fn a_cut_notices_a_write_into_a_hole_at_the_same_moment() {
    for polls in 0..12 {
        let engine = Optimistic::new(Arc::new(MemEngine::new()));
        block_on(async {
            let v = Volume::on(engine, &format(0)).await;
            let f = v.file(Ino::ROOT, "f").await;
            v.client.truncate(&root(), f, 8 * CHUNK_SIZE, true).await.expect("grown");
            let cx = root();
            let mut cut = Box::pin(v.client.truncate(&cx, f, 5, true));
            for _ in 0..polls {
                if futures_util::poll!(cut.as_mut()).is_ready() {
                    return;
                }
            }
            // The clock stands, so no time tells that something was written.
            let record = record(&v.client, 0).await;
            write_slice(&v.client, f, 5, record, v.attr(f).await.mtime).await.expect("written");
            cut.await.expect("cut");
            assert_eq!(v.attr(f).await.length, 5);
            v.write(f, 7 * CHUNK_SIZE, 1).await.expect("written");
            let records = v.client.read_chunk(f, 5).await.expect("read").records;
            let shown = juicefs_core::slice::resolve(&records);
            assert!(shown.iter().all(|piece| piece.id.is_hole()), "after {polls} polls: {shown:?}");
            settled(&v).await;
        });
    }
}
