//! Reading: what is cached, what is fetched ahead.

use std::{sync::atomic::Ordering, time::Duration};

use juicefs_core::{ChunkError, ChunkStore, Share, StorageError};
use juicefs_vfs::VfsConfig;

use crate::mount::{BLOCK, Mount, at_once, pattern};

async fn file_of(m: &Mount, blocks: usize) -> (juicefs_core::Ino, u64, Vec<u8>) {
    let (ino, fh) = m.create("file").await;
    let data = pattern(9, blocks * BLOCK);
    m.write(ino, fh, 0, &data).await.expect("write");
    m.close(ino, fh).await.expect("close");
    (ino, m.open(ino, libc::O_RDONLY).await.fh, data)
}

#[tokio::test]
async fn warm_random_reads_are_answered_at_once_and_ask_no_metadata() {
    let m = Mount::new();
    let (ino, fh, data) = file_of(&m, 64).await;
    m.read(ino, fh, 5 * BLOCK as u64, 10).await.expect("read");
    let before = m.meta.all_calls();
    for at in [40_usize, 3, 17, 60, 22] {
        let got = at_once(m.read(ino, fh, (at * BLOCK) as u64, BLOCK)).expect("no waiting").expect("read");
        assert_eq!(got, data[at * BLOCK..(at + 1) * BLOCK]);
    }
    assert_eq!(m.meta.all_calls(), before);
}

#[tokio::test]
async fn a_sequential_reader_finds_the_next_blocks_there() {
    let m = Mount::sized(VfsConfig::standard(), 64 << 10, 64 << 20);
    let (ino, fh) = m.create("file").await;
    let data = pattern(9, 4 << 20);
    m.write(ino, fh, 0, &data).await.expect("write");
    m.close(ino, fh).await.expect("close");
    let fh = m.open(ino, libc::O_RDONLY).await.fh;
    m.chunks.set_get_latency(Duration::from_millis(2));
    let mut instant = 0;
    for (at, expected) in data.chunks(32 << 10).enumerate() {
        let off = (at * (32 << 10)) as u64;
        let got = match at_once(m.read(ino, fh, off, 32 << 10)) {
            Some(got) => {
                instant += 1;
                got
            }
            None => m.read(ino, fh, off, 32 << 10).await,
        };
        assert_eq!(got.expect("read"), expected);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(instant > 100, "only {instant} of 128 reads were ready");
    // Every block was read about once: nothing is fetched twice.
    assert!(m.chunks.gets() < 64 + 20, "{} reads of blocks", m.chunks.gets());
}

/// What read-ahead waits for may be what the windows of other readers have, who wait likewise.
#[tokio::test(start_paused = true)]
async fn an_application_does_not_wait_for_memory_that_guesses_take() {
    let m = Mount::sized(VfsConfig::standard(), 64 << 10, 64 << 20);
    let (ino, fh) = m.create("file").await;
    let data = pattern(9, 1 << 20);
    m.write(ino, fh, 0, &data).await.expect("write");
    m.close(ino, fh).await.expect("close");
    let fh = m.open(ino, libc::O_RDONLY).await.fh;
    m.chunks.hold_ahead(true);
    let budget = m.chunks.budget().clone();
    let windows = budget.try_acquire(Share::Ahead, usize::MAX).expect("nobody has any");
    for (at, expected) in data.chunks(32 << 10).enumerate() {
        let read = m.read(ino, fh, (at * (32 << 10)) as u64, 32 << 10);
        let got = tokio::time::timeout(Duration::from_secs(5), read).await;
        assert_eq!(got.expect("it waits for read-ahead").expect("read"), expected);
    }
    // Where there is memory it is better to wait for what is on its way.
    drop(windows);
    let fh = m.open(ino, libc::O_RDONLY).await.fh;
    m.read(ino, fh, 0, 32 << 10).await.expect("read");
    let waits = m.read(ino, fh, 64 << 10, 32 << 10);
    let waits = tokio::time::timeout(Duration::from_secs(5), waits).await;
    assert!(waits.is_err());
    m.chunks.hold_ahead(false);
    assert_eq!(m.read(ino, fh, 64 << 10, 10).await.expect("read"), data[64 << 10..][..10]);
}

#[tokio::test]
async fn random_reads_fetch_nothing_ahead() {
    let m = Mount::sized(VfsConfig::standard(), 64 << 10, 64 << 20);
    let (ino, fh) = m.create("file").await;
    m.write(ino, fh, 0, &pattern(9, 16 << 20)).await.expect("write");
    m.close(ino, fh).await.expect("close");
    let fh = m.open(ino, libc::O_RDONLY).await.fh;
    for at in 0..50_u64 {
        m.read(ino, fh, at * 7_919_111 % (16 << 20), 100).await.expect("read");
        m.read(ino, fh, 0, 100).await.expect("read");
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(m.chunks.gets() <= 102, "{} reads of blocks", m.chunks.gets());
}

/// The store is told of random reads in a file that is small beside its cache, once there were a few through one descriptor.
#[tokio::test]
async fn the_store_is_told_of_random_reads_in_small_files() {
    let m = Mount::sized(VfsConfig::standard(), 64 << 10, 64 << 20);
    m.chunks.set_small_file_bytes(2 << 20);
    for (name, size, told) in [("small", 2 << 20, 7), ("large", (2 << 20) + 1, 0)] {
        let (ino, fh) = m.create(name).await;
        m.write(ino, fh, 0, &pattern(9, size)).await.expect("write");
        m.close(ino, fh).await.expect("close");
        let before = m.chunks.reads_in_small();
        let fh = m.open(ino, libc::O_RDONLY).await.fh;
        for at in [20_u64, 3, 17, 30, 9, 25, 1, 12, 28, 6] {
            m.read(ino, fh, at * (64 << 10) + 5000, 100).await.expect("read");
        }
        assert_eq!(m.chunks.reads_in_small() - before, told, "{name}");
    }
}

#[tokio::test]
async fn what_was_fetched_ahead_is_void_after_a_write() {
    let m = Mount::sized(VfsConfig::standard(), 64 << 10, 64 << 20);
    let (ino, fh) = m.create("file").await;
    m.write(ino, fh, 0, &pattern(9, 1 << 20)).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    let reader = m.open(ino, libc::O_RDONLY).await.fh;
    m.read(ino, reader, 0, 64 << 10).await.expect("read");
    tokio::time::sleep(Duration::from_millis(5)).await;
    m.write(ino, fh, 64 << 10, b"new").await.expect("write");
    assert_eq!(m.read(ino, reader, 64 << 10, 3).await, Ok(b"new".to_vec()));
    m.truncate(ino, fh, 100 << 10).await.expect("truncate");
    m.truncate(ino, fh, 200 << 10).await.expect("truncate");
    assert_eq!(m.read(ino, reader, 100 << 10, 10).await, Ok(vec![0; 10]));
}

#[tokio::test]
async fn failures_ahead_are_not_the_readers() {
    let m = Mount::sized(VfsConfig::standard(), 64 << 10, 64 << 20);
    let (ino, fh) = m.create("file").await;
    let data = pattern(9, 1 << 20);
    m.write(ino, fh, 0, &data).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let fails = broken.clone();
    m.chunks.fail_gets(move |(_, index, _)| {
        (index > 0 && fails.load(Ordering::SeqCst))
            .then(|| ChunkError::Storage(StorageError::Transient("injected".into())))
    });
    m.read(ino, fh, 0, 64 << 10).await.expect("read");
    tokio::time::sleep(Duration::from_millis(5)).await;
    broken.store(false, Ordering::SeqCst);
    assert_eq!(m.read(ino, fh, 64 << 10, 64 << 10).await.expect("read"), data[64 << 10..128 << 10]);
}

#[tokio::test]
async fn read_ahead_stays_within_its_part_of_the_budget() {
    let budget = 16 * BLOCK;
    let m = Mount::with(VfsConfig::standard(), budget);
    let (ino, _, data) = file_of(&m, 64).await;
    for _ in 0..20 {
        let fh = m.open(ino, libc::O_RDONLY).await.fh;
        for at in 0..8 {
            let got = m.read(ino, fh, (at * BLOCK) as u64, BLOCK).await.expect("read");
            assert_eq!(got, data[at * BLOCK..(at + 1) * BLOCK]);
        }
        assert!(m.chunks.budget().used_bytes() <= budget);
    }
}

#[tokio::test]
async fn holes_read_as_zeros_without_any_fetch() {
    let m = Mount::new();
    let (ino, fh) = m.create("file").await;
    m.write(ino, fh, 1 << 40, b"end").await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    let got = m.read(ino, fh, 1 << 30, 1 << 20).await.expect("read");
    assert!(got.len() == 1 << 20 && got.iter().all(|byte| *byte == 0));
    assert_eq!(m.chunks.gets(), 0);
    assert_eq!(m.read(ino, fh, (1 << 40) - 2, 10).await, Ok(b"\0\0end".to_vec()));
}
