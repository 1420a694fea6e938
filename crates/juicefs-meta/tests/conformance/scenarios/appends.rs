//! Data for the end of a file.

use std::sync::Arc;

use juicefs_core::{
    Errno, Ino, Meta, SliceKey, SliceRecord, Timestamp,
    limits::{CHUNK_SIZE, MAX_FILE_BYTES},
    meta::NewSlice,
    slice::resolve,
};
use juicefs_meta::Client;

use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Kind, Volume, config, on_all, posix, root},
};

async fn slice_of(client: &Client, size: u32) -> SliceKey {
    SliceKey { id: client.new_slice_id().await.expect("an id"), size }
}

async fn append(client: &Client, ino: Ino, slices: &[SliceKey]) -> Result<Vec<u64>, Errno> {
    let slices = slices.iter().copied().map(NewSlice::End).collect();
    posix(client.write_slices(client.session(), ino, slices, Timestamp::from_secs(1)).await)
        .map(|written| written.offsets)
}

#[test]
fn an_append_goes_where_the_file_ends_and_over_the_edge_of_a_chunk() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let (a, b, c) = (slice_of(&v.client, 10).await, slice_of(&v.client, 20).await, slice_of(&v.client, 30).await);
        assert_eq!(append(&v.client, f, &[a, b]).await, Ok(vec![0, 10]));
        posix(v.client.truncate(&root(), f, CHUNK_SIZE - 7, true).await).expect("grown");
        assert_eq!(append(&v.client, f, &[c]).await, Ok(vec![CHUNK_SIZE - 7]));
        let list = |index| {
            let client = &v.client;
            async move { client.read_chunk(f, index).await.expect("read").records }
        };
        let end = (CHUNK_SIZE - 7) as u32;
        assert_eq!(list(0).await.last(), Some(&SliceRecord { pos: end, id: c.id, size: 30, off: 0, len: 7 }));
        assert_eq!(list(1).await, [SliceRecord { pos: 0, id: c.id, size: 30, off: 7, len: 23 }]);
        v.client.flush_stats().await.expect("flushed");
        // Among others: as many references as records.
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
        let freed = v.unlink(Ino::ROOT, "f").await.expect("unlinked").expect("data");
        let mut dead = v.client.delete_file_data(freed).await.expect("deleted");
        dead.sort_by_key(|slice| slice.id);
        assert_eq!(dead, [a, b, c]);
    });
}

#[test]
fn what_does_not_fit_changes_nothing() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let (a, b) = (slice_of(&v.client, 10).await, slice_of(&v.client, 20).await);
        let beyond = SliceRecord { pos: CHUNK_SIZE as u32 - 1, id: b.id, size: 20, off: 0, len: 20 };
        let wrong = v.client.write_slices(
            v.client.session(),
            f,
            vec![NewSlice::End(a), NewSlice::At(0, beyond)],
            Timestamp::from_secs(1),
        );
        assert_eq!(posix(wrong.await).map(drop), Err(Errno::EINVAL));
        let large = slice_of(&v.client, CHUNK_SIZE as u32 + 1).await;
        assert_eq!(append(&v.client, f, &[large]).await, Err(Errno::EINVAL));
        assert!(v.client.read_chunk(f, 0).await.expect("read").records.is_empty());
        posix(v.client.truncate(&root(), f, MAX_FILE_BYTES - 5, true).await).expect("grown");
        assert_eq!(append(&v.client, f, &[a]).await, Err(Errno::EFBIG));
        assert_eq!(append(&v.client, Ino(999), &[a]).await, Err(Errno::ENOENT));
        let d = v.mkdir(Ino::ROOT, "d").await;
        assert_eq!(append(&v.client, d, &[a]).await, Err(Errno::EPERM));
    });
}

#[test]
fn appends_of_two_clients_never_overlap() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let clients = [Arc::clone(&v.client), v.second(config(&v.clock)).await];
        let mut tasks = Vec::new();
        for client in &clients {
            for _ in 0..3 {
                let client = Arc::clone(client);
                tasks.push(tokio::spawn(async move {
                    let mut placed = Vec::new();
                    for n in 0..20u32 {
                        let slices = [slice_of(&client, 1 + n % 5).await, slice_of(&client, 3).await];
                        let offsets = append(&client, f, &slices).await.expect("appended");
                        placed.extend(slices.into_iter().zip(offsets));
                    }
                    placed
                }));
            }
        }
        let mut placed = Vec::new();
        for task in tasks {
            placed.extend(task.await.expect("no panic"));
        }
        placed.sort_by_key(|(_, at)| *at);
        let pieces = resolve(&v.client.read_chunk(f, 0).await.expect("read").records);
        let shown: Vec<_> =
            pieces.iter().map(|piece| (SliceKey { id: piece.id, size: piece.len }, u64::from(piece.pos))).collect();
        assert_eq!(shown, placed);
        let end = placed.iter().fold(0, |end, (slice, at)| {
            assert_eq!(*at, end, "a gap");
            end + u64::from(slice.size)
        });
        assert_eq!(v.client.getattr(f).await.expect("attributes").length, end);
        for client in clients {
            client.flush_stats().await.expect("flushed");
        }
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}
