//! Memory is short, and many write at once.

use std::{sync::Arc, time::Duration};

use juicefs_core::ChunkStore;
use juicefs_vfs::VfsConfig;

use crate::mount::{BLOCK, Mount, pattern};

/// Each writer leaves partial slices behind that together fill the budget; nobody's slice is ever full.
async fn partial_slices_make_room(started: bool) {
    let mut m = Mount::with(VfsConfig::standard(), 64 << 10);
    if started {
        m = Mount::started(VfsConfig::standard(), 64 << 10);
    }
    m.chunks.set_put_latency(Duration::from_millis(1));
    let m = Arc::new(m);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..200_u64 {
        let m = Arc::clone(&m);
        writers.spawn(async move {
            let (ino, fh) = m.create(&format!("file {writer}")).await;
            let data = pattern(writer, 20 * 1000);
            for (at, part) in data.chunks(1000).enumerate() {
                m.write(ino, fh, at as u64 * 1000, part).await.expect("write");
                tokio::task::yield_now().await;
            }
            m.flush(ino, fh).await.expect("flush");
            assert_eq!(m.read(ino, fh, 0, 30_000).await.expect("read"), data);
            m.close(ino, fh).await.expect("close");
        });
    }
    let all = async { while writers.join_next().await.is_some_and(|done| done.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("nobody waits for ever");
    assert!(writers.is_empty(), "a writer failed");
    // Compactions that the reads have set off may still be under way.
    let idle = async {
        while m.chunks.budget().used_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), idle).await.expect("all memory is given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_share_a_budget_of_sixteen_blocks() {
    partial_slices_make_room(true).await;
}

#[tokio::test]
async fn even_without_background_tasks() {
    partial_slices_make_room(false).await;
}

#[tokio::test]
async fn one_writer_that_is_faster_than_the_store_still_fills_its_blocks() {
    let m = Mount::started(VfsConfig::standard(), 16 * BLOCK);
    m.chunks.set_put_latency(Duration::from_millis(2));
    let (ino, fh) = m.create("file").await;
    let data = pattern(1, 200 * BLOCK);
    for (at, part) in data.chunks(BLOCK / 2).enumerate() {
        m.write(ino, fh, (at * BLOCK / 2) as u64, part).await.expect("write");
    }
    m.flush(ino, fh).await.expect("flush");
    assert_eq!(m.meta.calls("write_slices"), 1, "waiting for uploads is no reason to cut slices");
    assert_eq!(m.read(ino, fh, 0, data.len()).await.expect("read"), data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_write_and_read_one_file() {
    let m = Arc::new(Mount::started(VfsConfig::standard(), 1 << 20));
    let (ino, _) = m.create("file").await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8_u64 {
        let m = Arc::clone(&m);
        tasks.spawn(async move {
            let fh = m.open(ino, libc::O_RDWR).await.fh;
            // Everybody owns every eighth piece of 777 bytes.
            for round in 0..40_u64 {
                let off = (round * 8 + task) * 777;
                let data = pattern(off, 777);
                m.write(ino, fh, off, &data).await.expect("write");
                let seen = m.read(ino, fh, off, 777).await.expect("read");
                assert_eq!(seen, data, "own write at {off}");
                if round % 7 == task % 7 {
                    m.flush(ino, fh).await.expect("flush");
                }
            }
            m.close(ino, fh).await.expect("close");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("task");
    }
    let fh = m.open(ino, libc::O_RDONLY).await.fh;
    for piece in 0..320 {
        let off = piece * 777;
        assert_eq!(m.read(ino, fh, off, 777).await.expect("read"), pattern(off, 777));
    }
}
