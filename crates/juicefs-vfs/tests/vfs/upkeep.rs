//! Upkeep: deletion, clean-up by the hour, compaction.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use juicefs_core::{Errno, Ino, Meta, MetaError};
use juicefs_vfs::VfsConfig;

use crate::mount::{BLOCK, Mount, pattern};

async fn removed_file(m: &Mount) {
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[1; 3 * BLOCK]).await.expect("write");
    m.close(ino, fh).await.expect("close");
    m.vfs.unlink(&m.cx, Ino::ROOT, b"a").await.expect("unlink");
}

#[tokio::test(start_paused = true)]
async fn a_failed_deletion_is_made_up_for_later() {
    let m = Mount::started(VfsConfig::standard(), 1 << 20);
    m.meta.fail(|method, _| (method == "delete_file_data").then(|| MetaError::Unavailable("injected".into())));
    removed_file(&m).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(m.chunks.slices().len(), 1);
    m.meta.heal();
    tokio::time::sleep(Duration::from_secs(180)).await;
    assert!(m.chunks.slices().is_empty(), "the hourly job of a young mount comes after two minutes");
    m.vfs.shutdown().await.expect("shutdown");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_where_deletion_is_off() {
    let off =
        [VfsConfig { max_deletes: 0, ..VfsConfig::standard() }, VfsConfig { read_only: true, ..VfsConfig::standard() }];
    for config in off {
        let m = Mount::started(config, 1 << 20);
        removed_file(&m).await;
        tokio::time::sleep(Duration::from_secs(8000)).await;
        assert_eq!(m.chunks.slices().len(), 1);
        m.vfs.shutdown().await.expect("shutdown");
    }
}

#[tokio::test]
async fn a_compaction_that_lost_the_race_leaves_nothing_behind() {
    let m = Mount::started(VfsConfig::standard(), 1 << 20);
    let (ino, fh) = m.create("a").await;
    let mut model = Vec::new();
    for at in 0..20 {
        let data = pattern(at, 500);
        m.write(ino, fh, model.len() as u64, &data).await.expect("write");
        m.flush(ino, fh).await.expect("flush");
        model.extend(data);
    }
    // While the copy is under way, another client compacts the chunk.
    m.chunks.set_put_latency(Duration::from_millis(50));
    assert_eq!(m.read(ino, fh, 0, 20_000).await.expect("read"), model);
    tokio::time::sleep(Duration::from_millis(10)).await;
    m.chunks.set_put_latency(Duration::ZERO);
    let meta: &dyn Meta = m.meta.as_ref();
    meta.truncate(&m.cx, ino, 7000, true).await.expect("truncate");
    let plan = meta.plan_compaction(ino, 0).await.expect("plan").expect("many records");
    let id = meta.new_slice_id().await.expect("id");
    let mut sink = juicefs_core::ChunkStore::writer(m.chunks.as_ref(), juicefs_core::store::WriteOptions::default());
    sink.set_id(id);
    sink.write(0, model[..plan.size as usize].to_vec().into(), juicefs_core::Lease::empty()).expect("write");
    sink.finish().await.expect("finish");
    let done = meta.commit_compaction(ino, 0, &plan, id).await.expect("commit");
    assert_ne!(done, juicefs_core::meta::Compacted::Lost);
    model.truncate(7000);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(m.length(ino).await, 7000);
    assert_eq!(m.read(ino, fh, 0, 20_000).await.expect("read"), model);
    assert!(m.meta.calls("commit_compaction") >= 2);
    // What is stored is what is referred to, and what the other client has not deleted yet.
    let live = m.meta.live_slices();
    let stored = m.chunks.slices();
    assert!(live.iter().all(|id| stored.contains(id)));
    assert!(stored.iter().all(|slice| live.contains(slice) || slice.0 <= 20), "{stored:?} {live:?}");
    m.vfs.shutdown().await.expect("shutdown");
}

/// Small writes all over a large chunk: joining them copies all of it, which is not done again and again meanwhile.
#[tokio::test(start_paused = true)]
async fn a_costly_compaction_waits_until_nobody_writes() {
    const WRITES: u64 = 450;
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    let mut model = pattern(0, 2 << 20);
    m.write(ino, fh, 0, &model).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    for at in 0..WRITES {
        let (off, data) = ((at * 7919 * 512 % (2 << 20)) as usize, pattern(at, 100));
        m.write(ino, fh, off as u64, &data).await.expect("write");
        m.flush(ino, fh).await.expect("flush");
        model[off..off + data.len()].copy_from_slice(&data);
        if at % 50 == 0 {
            assert_eq!(m.read(ino, fh, 0, 4096).await.expect("read"), model[..4096]);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    assert_eq!(m.meta.calls("commit_compaction"), 0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(m.meta.calls("commit_compaction"), 1);
    assert!(m.meta.chunk(ino, 0).len() < 5, "{}", m.meta.chunk(ino, 0).len());
    assert_eq!(m.read(ino, fh, 0, 4 << 20).await.expect("read"), model);
    m.vfs.shutdown().await.expect("shutdown");
}

/// Joining fills holes: a sparse chunk stays as it is while its list is short, however often it is read.
#[tokio::test(start_paused = true)]
async fn a_sparse_chunk_keeps_its_holes() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    for at in 0..200_u64 {
        m.write(ino, fh, at * 10_000, &[1; 100]).await.expect("write");
        m.flush(ino, fh).await.expect("flush");
        m.read(ino, fh, 0, 100).await.expect("read");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        m.read(ino, fh, 0, 100).await.expect("read");
    }
    assert_eq!(m.meta.calls("commit_compaction"), 0);
    for at in 0..1000_u64 {
        m.write(ino, fh, at * 10_000, &[2; 100]).await.expect("write");
        m.flush(ino, fh).await.expect("flush");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(m.meta.calls("commit_compaction") > 0, "a long list is joined in any case");
    m.vfs.shutdown().await.expect("shutdown");
}

/// A list that is as long as can be joined at once does not wait.
#[tokio::test(start_paused = true)]
async fn a_full_list_is_compacted_while_somebody_writes() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &pattern(0, 2 << 20)).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    for at in 0..1400_u64 {
        m.write(ino, fh, at * 7919 * 512 % (2 << 20), &[1; 10]).await.expect("write");
        m.flush(ino, fh).await.expect("flush");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!((1..=4).contains(&m.meta.calls("commit_compaction")), "{}", m.meta.calls("commit_compaction"));
    m.vfs.shutdown().await.expect("shutdown");
}

#[tokio::test]
async fn a_compaction_that_cannot_read_changes_nothing() {
    let m = Mount::started(VfsConfig::standard(), 1 << 20);
    let (ino, fh) = m.create("a").await;
    for at in 0..10_u64 {
        m.write(ino, fh, at * 100, &[1; 100]).await.expect("write");
        m.flush(ino, fh).await.expect("flush");
    }
    let broken = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&broken);
    m.chunks.fail_gets(move |(id, ..)| {
        (fails.load(Ordering::SeqCst) && id.0 == 5)
            .then(|| juicefs_core::ChunkError::Corrupt { key: "5".into(), why: "injected".into() })
    });
    assert_eq!(m.read(ino, fh, 0, 100).await.expect("the block of another slice").len(), 100);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(m.meta.chunk(ino, 0).len(), 10);
    assert_eq!(m.chunks.slices(), m.meta.live_slices());
    assert_eq!(m.read(ino, fh, 400, 100).await, Err(Errno::EIO));
    broken.store(false, Ordering::SeqCst);
    assert_eq!(m.read(ino, fh, 0, 1000).await.expect("read"), [1; 1000]);
    m.vfs.shutdown().await.expect("shutdown");
}
