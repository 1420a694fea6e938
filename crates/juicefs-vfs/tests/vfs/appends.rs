//! Data for the end of a file that another client makes longer, too.

use std::sync::Arc;

use juicefs_core::{ChunkStore, Errno, Ino, Meta, MetaError, SliceKey, Timestamp, meta::NewSlice, store::WriteOptions};
use parking_lot::Mutex;

use crate::mount::{BLOCK, CHUNK, Mount, pattern};

/// What another client appends, committed at once.
async fn append_elsewhere(m: &Mount, ino: Ino, data: &[u8]) {
    let id = m.meta.new_slice_id().await.expect("an id");
    let mut sink = m.chunks.writer(WriteOptions { tier: 0, direct: false });
    sink.set_id(id);
    sink.write(0, bytes::Bytes::copy_from_slice(data), juicefs_core::Lease::default()).expect("taken");
    sink.finish().await.expect("uploaded");
    let slice = SliceKey { id, size: u32::try_from(data.len()).expect("small") };
    m.meta
        .write_slices(m.meta.session(), ino, vec![NewSlice::End(slice)], Timestamp::from_secs(5))
        .await
        .expect("appended");
}

fn hear_of_moves(m: &Mount) -> Arc<Mutex<Vec<(Ino, u64)>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    m.vfs.on_moved(move |ino, off| ear.lock().push((ino, off)));
    heard
}

#[tokio::test]
async fn appends_go_on_with_one_slice_and_move_nothing() {
    let m = Mount::new();
    let heard = hear_of_moves(&m);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"head").await.expect("write");
    m.append(ino, fh, 4, b"one").await.expect("append");
    m.append(ino, fh, 7, b"two").await.expect("append");
    assert_eq!(m.length(ino).await, 10);
    assert_eq!(m.meta.calls("write_slices"), 0);
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!((m.chunks.puts(), m.meta.calls("write_slices")), (2, 1), "one call commits both");
    assert_eq!(m.read(ino, fh, 0, 100).await, Ok(b"headonetwo".to_vec()));
    assert!(heard.lock().is_empty());
}

#[tokio::test]
async fn what_another_client_appended_meanwhile_is_not_overwritten() {
    let m = Mount::new();
    let heard = hear_of_moves(&m);
    let (ino, fh) = m.create("a").await;
    m.append(ino, fh, 0, b"ours-1 ").await.expect("append");
    append_elsewhere(&m, ino, b"theirs-1 ").await;
    assert_eq!(m.read(ino, fh, 0, 100).await, Ok(b"theirs-1 ours-1 ".to_vec()));
    assert_eq!(*heard.lock(), [(ino, 0)]);
    // The front end knows of nothing and takes 7 for the end.
    m.append(ino, fh, 7, b"ours-2 ").await.expect("append");
    assert_eq!(heard.lock().last(), Some(&(ino, 7)));
    assert_eq!(m.length(ino).await, 23);
    append_elsewhere(&m, ino, b"theirs-2 ").await;
    m.append(ino, fh, 23, b"ours-3 ").await.expect("append");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!(m.read(ino, fh, 0, 100).await, Ok(b"theirs-1 ours-1 theirs-2 ours-2 ours-3 ".to_vec()));
}

/// The length is right, and all of it is read, as soon as it is known that somebody else appended.
#[tokio::test]
async fn pending_appends_follow_the_end_that_others_move() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.append(ino, fh, 0, &pattern(1, 3 * BLOCK)).await.expect("append");
    append_elsewhere(&m, ino, &pattern(2, BLOCK)).await;
    assert_eq!(m.length(ino).await, 4 * BLOCK as u64);
    m.append(ino, fh, 3 * BLOCK as u64, b"more").await.expect("append");
    assert_eq!(m.length(ino).await, 4 * BLOCK as u64 + 4);
    let all = [pattern(2, BLOCK), pattern(1, 3 * BLOCK), b"more".to_vec()].concat();
    assert_eq!(m.read(ino, fh, 0, 5 * BLOCK).await, Ok(all));
}

#[tokio::test]
async fn a_write_to_what_was_appended_finds_it() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.append(ino, fh, 0, b"0123456789").await.expect("append");
    m.write(ino, fh, 3, b"ABC").await.expect("write");
    assert_eq!(m.read(ino, fh, 0, 100).await, Ok(b"012ABC6789".to_vec()));
    m.append(ino, fh, 10, b"-end").await.expect("append");
    m.write(ino, fh, 20, b"far").await.expect("write");
    assert_eq!(m.read(ino, fh, 0, 100).await, Ok(b"012ABC6789-end\0\0\0\0\0\0far".to_vec()));
}

#[tokio::test]
async fn appends_cross_the_edge_of_a_chunk() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let edge = CHUNK - 10;
    m.truncate(ino, fh, edge).await.expect("truncate");
    m.append(ino, fh, edge, &[1; 30]).await.expect("append");
    append_elsewhere(&m, ino, &[2; 5]).await;
    m.append(ino, fh, edge + 30, &[3; 10]).await.expect("append");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    let all = [vec![2; 5], vec![1; 30], vec![3; 10]].concat();
    assert_eq!(m.read(ino, fh, edge, 100).await, Ok(all));
    assert_eq!(m.length(ino).await, edge + 45);
}

#[tokio::test]
async fn a_file_that_others_cut_is_appended_to_where_it_ends() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[1; 100]).await.expect("write");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    m.append(ino, fh, 100, &[2; 10]).await.expect("append");
    m.meta.truncate(&m.cx, ino, 20, true).await.expect("cut");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!(m.read(ino, fh, 0, 200).await, Ok([vec![1; 20], vec![2; 10]].concat()));
    assert_eq!(m.length(ino).await, 30);
}

/// Of several slices that one call would commit, those that fit are committed.
#[tokio::test]
async fn a_refusal_loses_no_more_than_what_is_refused() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    for at in [0, 2, 4] {
        m.write(ino, fh, at * CHUNK, &[7; 10]).await.expect("write");
    }
    let mut left = 2;
    m.meta.fail(move |method, _| {
        // The call for all of them, and the second of those that follow.
        left -= i32::from(method == "write_slices");
        (method == "write_slices" && (left == 1 || left == -1)).then_some(MetaError::Posix(Errno::ENOSPC))
    });
    assert_eq!(m.flush(ino, fh).await, Err(Errno::ENOSPC));
    assert_eq!(m.meta.calls("write_slices"), 3, "what lies beyond the lost one is not committed");
    assert_eq!(m.meta.getattr(ino).await.expect("attributes").length, 10);
}
