//! Files: what is written is read, when it is committed, and what goes wrong.

use std::time::Duration;

use crate::mount::{BLOCK, CHUNK, Mount, at_once, pattern};
use futures_util::FutureExt;
use juicefs_core::{ChunkError, ChunkStore, Errno, Ino, MetaError, SetAttr, SetTime, StorageError, Timestamp};
use juicefs_vfs::VfsConfig;

fn lost() -> ChunkError {
    ChunkError::Storage(StorageError::Transient("injected".into()))
}

#[tokio::test]
async fn a_small_file_costs_one_upload_and_one_commit_and_never_waits() {
    let m = Mount::new();
    let (ino, fh) = at_once(m.create("a")).expect("create");
    assert_eq!(at_once(m.write(ino, fh, 0, &[7; 4096])), Some(Ok(4096)));
    assert_eq!(m.meta.calls("write_slices"), 0);
    assert_eq!(at_once(m.flush(ino, fh)), Some(Ok(())));
    assert_eq!((m.chunks.puts(), m.meta.calls("write_slices"), m.meta.calls("new_slice_id")), (1, 1, 1));
    let before = m.meta.all_calls();
    assert_eq!(at_once(m.flush(ino, fh)), Some(Ok(())));
    assert_eq!(m.meta.all_calls(), before, "a clean flush asks nobody");
    assert_eq!(at_once(m.close(ino, fh)), Some(Ok(())));
    assert_eq!((m.chunks.puts(), m.meta.calls("write_slices")), (1, 1));
}

#[tokio::test]
async fn reads_see_writes_and_lengths_at_once() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 10, b"hello").await.expect("write");
    assert_eq!(m.length(ino).await, 15);
    assert_eq!(m.read(ino, fh, 0, 100).await, Ok([&[0; 10], b"hello".as_slice()].concat()));
    let other = m.open(ino, libc::O_RDONLY).await;
    assert!(!other.noflush, "locks go with a flush");
    assert!(other.fh % 2 == 1 && fh % 2 == 0);
    m.write(ino, fh, 12, b"LL").await.expect("write");
    assert_eq!(m.read(ino, other.fh, 10, 5).await, Ok(b"heLLo".to_vec()));
    assert_eq!(m.read(ino, other.fh, 15, 5).await, Ok(vec![]));
    assert_eq!(m.write(ino, other.fh, 0, b"x").await, Err(Errno::EBADF));
    assert_eq!(m.write(ino, 4711, 0, b"x").await, Err(Errno::EBADF));
    assert_eq!(m.write(ino, fh, 1 << 57, b"x").await, Err(Errno::EFBIG));
}

#[tokio::test]
async fn fsync_through_any_handle_makes_the_file_durable() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"data").await.expect("write");
    let reader = m.open(ino, libc::O_RDONLY).await.fh;
    assert_eq!(m.flush(ino, reader).await, Ok(()));
    assert_eq!(m.meta.calls("write_slices"), 0);
    assert_eq!(m.vfs.fsync(&m.cx, ino, reader, true).await, Ok(()));
    assert_eq!(m.meta.calls("write_slices"), 1);
}

#[tokio::test]
async fn a_read_elsewhere_leaves_dirty_data_alone() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &pattern(1, 3 * BLOCK)).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    m.write(ino, fh, 2 * BLOCK as u64, &[1; 10]).await.expect("write");
    m.read(ino, fh, 0, BLOCK).await.expect("read");
    assert_eq!(m.meta.calls("write_slices"), 1);
    m.read(ino, fh, 2 * BLOCK as u64, 1).await.expect("read");
    assert_eq!(m.meta.calls("write_slices"), 2);
}

#[tokio::test]
async fn reads_beside_each_other_ask_once_for_a_list() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &pattern(1, 8 * BLOCK)).await.expect("write");
    m.close(ino, fh).await.expect("close");
    let fh = m.open(ino, libc::O_RDONLY).await.fh;
    m.meta.hold(true);
    let reads = (0..8).map(|n| m.read(ino, fh, n * BLOCK as u64, BLOCK));
    let let_go = async {
        while m.meta.calls("read_chunk") == 0 {
            tokio::task::yield_now().await;
        }
        m.meta.hold(false);
    };
    let (seen, ()) = futures_util::join!(futures_util::future::join_all(reads), let_go);
    let seen: Vec<u8> = seen.into_iter().flat_map(|read| read.expect("read")).collect();
    assert!(seen == pattern(1, 8 * BLOCK));
    assert_eq!(m.meta.calls("read_chunk"), 1);
}

/// Neither the read nor what it fetches ahead asks more than once, however many blocks that is.
#[tokio::test]
async fn reading_ahead_asks_once_for_a_list() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    let content = pattern(1, 200 * BLOCK);
    m.write(ino, fh, 0, &content).await.expect("write");
    m.close(ino, fh).await.expect("close");
    let fh = m.open(ino, libc::O_RDONLY).await.fh;
    m.meta.hold(true);
    let reads = (0..4).map(|n| m.read(ino, fh, n * 20 * BLOCK as u64, 20 * BLOCK));
    let let_go = async {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        m.meta.hold(false);
    };
    let (seen, ()) = futures_util::join!(futures_util::future::join_all(reads), let_go);
    let seen: Vec<u8> = seen.into_iter().flat_map(|read| read.expect("read")).collect();
    assert!(seen == content[..80 * BLOCK]);
    assert_eq!(m.meta.calls("read_chunk"), 1);
    m.vfs.shutdown().await.expect("shutdown");
}

/// Whoever asked may go away; the question goes with the last of them, and the next reader asks anew.
#[tokio::test]
async fn a_reader_that_goes_away_leaves_no_question_behind() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &pattern(1, BLOCK)).await.expect("write");
    m.close(ino, fh).await.expect("close");
    let fh = m.open(ino, libc::O_RDONLY).await.fh;
    m.meta.hold(true);
    assert_eq!(at_once(m.read(ino, fh, 0, BLOCK)), None);
    assert_eq!((m.meta.calls("read_chunk"), m.meta.held()), (1, 0), "it waits no more");
    m.meta.hold(false);
    assert_eq!(m.read(ino, fh, 0, BLOCK).await, Ok(pattern(1, BLOCK)));
    assert_eq!(m.meta.calls("read_chunk"), 2);
}

/// What a database writes all over a file between two syncs.
#[tokio::test]
async fn scattered_writes_are_committed_by_one_call() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let offsets: Vec<u64> = (0..60).map(|n| n % 3 * CHUNK + (n * 37 % 60) * 2 * BLOCK as u64).collect();
    for off in &offsets {
        m.write(ino, fh, *off, &pattern(*off, BLOCK)).await.expect("write");
    }
    m.flush(ino, fh).await.expect("flush");
    assert_eq!((m.chunks.puts(), m.meta.calls("write_slices")), (60, 1));
    for off in offsets {
        assert_eq!(m.read(ino, fh, off, BLOCK).await, Ok(pattern(off, BLOCK)));
    }
}

#[tokio::test]
async fn full_blocks_go_up_while_the_file_is_written() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    for at in 0..8 {
        m.write(ino, fh, at * BLOCK as u64, &pattern(at, BLOCK)).await.expect("write");
    }
    assert_eq!((m.chunks.puts(), m.meta.calls("write_slices")), (8, 0));
    m.flush(ino, fh).await.expect("flush");
    assert_eq!((m.chunks.puts(), m.meta.calls("write_slices")), (8, 1));
}

#[tokio::test]
async fn what_the_store_did_not_take_is_kept_until_it_does() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let other = m.open(ino, libc::O_RDWR).await.fh;
    m.write(ino, fh, 0, b"before").await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    m.chunks.fail_puts(|_| Some(lost()));
    m.write(ino, fh, 0, b"during").await.expect("accepted");
    assert_eq!(m.flush(ino, fh).await, Err(Errno::EIO));
    assert_eq!(m.write(ino, fh, 0, b"x").await, Err(Errno::EIO));
    assert_eq!(m.read(ino, fh, 0, 6).await, Err(Errno::EIO), "old bytes are not the answer");
    assert_eq!(m.truncate(ino, other, 3).await, Err(Errno::EIO), "it would come over the new length");
    // It is the file that fsync is about, but the trouble is that of one handle.
    assert_eq!(m.flush(ino, other).await, Err(Errno::EIO));
    m.write(ino, other, BLOCK as u64, b"other").await.expect("accepted");
    m.chunks.heal();
    assert_eq!(m.write(ino, fh, 0, b"x").await, Err(Errno::EIO), "until it is flushed");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    m.write(ino, fh, 6, b"after").await.expect("write");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!(m.read(ino, fh, 0, 11).await.expect("read"), b"duringafter");
    assert_eq!(m.read(ino, fh, BLOCK as u64, 5).await.expect("read"), b"other");
    assert_eq!((m.close(ino, fh).await, m.close(ino, other).await), (Ok(()), Ok(())));
    assert_eq!(m.chunks.budget().used_bytes(), 0);
}

/// Somebody mends the store and then calls fsync: how a try ended that began before is no answer.
#[tokio::test(start_paused = true)]
async fn a_flush_is_not_told_how_a_try_ended_that_began_before_it() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    // After a long time it is one: nobody waits twice for a store that stays away.
    for (latency_secs, told) in [(2, Ok(())), (60, Err(Errno::EIO))] {
        let mut left = 1;
        m.chunks.fail_puts(move |_| {
            left -= 1;
            (left >= 0).then(lost)
        });
        m.chunks.set_put_latency(Duration::from_secs(latency_secs));
        m.write(ino, fh, 0, b"data").await.expect("accepted");
        let mut before = Box::pin(m.flush(ino, fh));
        assert!(before.as_mut().now_or_never().is_none(), "the upload has begun");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (before, after) = tokio::join!(before, m.flush(ino, fh));
        assert_eq!((before, after), (Err(Errno::EIO), told), "{latency_secs} s");
    }
}

#[tokio::test]
async fn what_the_store_does_not_take_goes_with_the_last_handle() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let other = m.open(ino, libc::O_RDWR).await.fh;
    m.chunks.fail_puts(|_| Some(lost()));
    m.write(ino, fh, 0, b"x").await.expect("accepted");
    assert_eq!(m.flush(ino, fh).await, Err(Errno::EIO));
    assert_eq!(m.close(ino, fh).await, Err(Errno::EIO));
    assert_eq!(m.chunks.budget().used_bytes(), 1, "the other handle may save it");
    assert_eq!(m.close(ino, other).await, Err(Errno::EIO));
    assert_eq!(m.chunks.budget().used_bytes(), 0);
    m.chunks.heal();
    let again = m.open(ino, libc::O_RDWR).await;
    m.write(ino, again.fh, 0, b"y").await.expect("write");
    assert_eq!(m.flush(ino, again.fh).await, Ok(()));
    assert_eq!(m.chunks.slices(), m.meta.live_slices());
}

#[tokio::test(start_paused = true)]
async fn what_the_store_did_not_take_goes_up_again_by_itself() {
    let m = Mount::started(VfsConfig::standard(), 4 * BLOCK);
    let (ino, fh) = m.create("a").await;
    let (next, next_fh) = m.create("b").await;
    m.chunks.fail_puts(|_| Some(lost()));
    m.write(ino, fh, 0, &[1; 4 * BLOCK]).await.expect("accepted");
    assert_eq!(m.flush(ino, fh).await, Err(Errno::EIO));
    // All memory is taken: the next writer waits, and does not wait for ever.
    let waits = tokio::time::timeout(Duration::from_secs(60), m.write(next, next_fh, 0, &[2; BLOCK])).await;
    assert!(waits.is_err(), "{waits:?}");
    m.chunks.heal();
    let write = tokio::time::timeout(Duration::from_secs(10), m.write(next, next_fh, 0, &[2; BLOCK])).await;
    assert_eq!(write, Ok(Ok(BLOCK as u32)));
    assert_eq!(m.write(ino, fh, 0, b"x").await, Err(Errno::EIO), "until it is flushed");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!(m.read(ino, fh, 0, 4 * BLOCK).await.expect("read"), [1; 4 * BLOCK]);
    m.vfs.shutdown().await.expect("shutdown");
}

#[tokio::test]
async fn shutdown_gives_up_what_the_store_does_not_take() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    m.chunks.fail_puts(|_| Some(lost()));
    m.write(ino, fh, 0, b"data").await.expect("accepted");
    assert_eq!(m.vfs.shutdown().await, Err(Errno::EIO));
    assert_eq!((m.chunks.budget().used_bytes(), m.meta.calls("write_slices")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refused_commit_deletes_the_slice() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[1; 2 * BLOCK]).await.expect("accepted");
    m.meta.fail(|method, _| (method == "write_slices").then_some(MetaError::Posix(Errno::EDQUOT)));
    assert_eq!(m.flush(ino, fh).await, Err(Errno::EDQUOT));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(m.chunks.slices().is_empty());
    m.close(ino, fh).await.expect_err("the same error");
}

#[tokio::test]
async fn a_write_for_which_there_is_no_room_is_refused_at_once() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (a, fa) = m.create("a").await;
    let (b, fb) = m.create("b").await;
    // A page for each of the two and for the root, and three more.
    m.meta.set_capacity(4096 * 6);
    m.write(a, fa, 0, &[1; 4096 * 3]).await.expect("two pages more");
    assert_eq!(m.write(b, fb, 0, &[2; 4096 * 3]).await, Err(Errno::ENOSPC), "though nothing is committed");
    m.write(b, fb, 0, &[2; 4096 * 2]).await.expect("the last page");
    m.write(a, fa, 4096, &[3; 4096 * 2]).await.expect("over what is there already");
    assert_eq!(m.write(a, fa, 4096 * 3, b"x").await, Err(Errno::ENOSPC));
    assert_eq!(m.meta.claimed_bytes(), 4096 * 3);
    for (ino, fh, length) in [(a, fa, 4096 * 3), (b, fb, 4096 * 2)] {
        assert_eq!(m.flush(ino, fh).await, Ok(()), "nothing that was accepted is lost");
        let meta: &dyn juicefs_core::Meta = m.meta.as_ref();
        assert_eq!(meta.getattr(ino).await.expect("getattr").length, length);
    }
    assert_eq!(m.meta.claimed_bytes(), 0);
    assert_eq!(m.write(b, fb, 4096 * 2, b"x").await, Err(Errno::ENOSPC), "what was claimed is used now");
}

#[tokio::test]
async fn a_file_never_grows_over_what_was_not_committed() {
    for healed in [true, false] {
        let m = Mount::sized(VfsConfig::standard(), 4 << 20, 256 << 20);
        let (ino, fh) = m.create("a").await;
        let first = juicefs_core::SliceId(1);
        let writes = [(CHUNK - 10, 1, 10), (CHUNK, 2, 10), (2 * CHUNK, 3, 10), (5, 4, 5)];
        for (off, byte, len) in writes {
            m.write(ino, fh, off, &vec![byte; len]).await.expect("write");
        }
        m.chunks.fail_puts(move |(id, ..)| (id == first).then(lost));
        assert_eq!(m.flush(ino, fh).await, Err(Errno::EIO));
        // Whichever slice is not there: nothing that grew the file later is there.
        let meta: &dyn juicefs_core::Meta = m.meta.as_ref();
        let length = meta.getattr(ino).await.expect("getattr").length;
        let missing = [CHUNK - 10, CHUNK, 2 * CHUNK].into_iter().find(|at| {
            !m.meta.chunk(ino, (at / CHUNK) as u32).iter().any(|record| u64::from(record.pos) == at % CHUNK)
        });
        assert!(length <= missing.map_or(u64::MAX, |at| at.max(10)), "{length} {missing:?}");
        if healed {
            m.chunks.heal();
            assert_eq!(m.flush(ino, fh).await, Ok(()));
            for (off, byte, len) in writes {
                assert_eq!(m.read(ino, fh, off, len).await.expect("read"), vec![byte; len], "at {off}");
            }
        } else {
            assert_eq!(m.close(ino, fh).await, Err(Errno::EIO));
            let length = m.length(ino).await;
            assert!(length <= missing.map_or(u64::MAX, |at| at.max(10)), "{length} {missing:?}");
            assert_eq!(m.meta.chunk(ino, 0).iter().filter(|record| record.pos == 5).count(), 1);
        }
    }
}

#[tokio::test]
async fn commits_keep_their_order_whatever_uploads_do() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.chunks.set_put_latency(Duration::from_millis(5));
    let mut model = vec![0; 40 * BLOCK];
    for at in 0..200_usize {
        let off = at * 7919 % (39 * BLOCK);
        let data = pattern(at as u64, 1 + at % BLOCK);
        model[off..off + data.len()].copy_from_slice(&data);
        m.write(ino, fh, off as u64, &data).await.expect("write");
    }
    m.flush(ino, fh).await.expect("flush");
    let length = m.length(ino).await as usize;
    assert_eq!(m.read(ino, fh, 0, length).await.expect("read"), model[..length]);
}

#[tokio::test]
async fn a_cancelled_flush_loses_nothing() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"data").await.expect("write");
    m.chunks.hold_puts(true);
    assert_eq!(at_once(m.flush(ino, fh)), None);
    m.chunks.hold_puts(false);
    // Nobody waits for it: the background pass goes on.
    tokio::time::timeout(Duration::from_secs(5), async {
        while m.meta.calls("write_slices") == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the commit comes");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!(m.meta.calls("write_slices"), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_and_old_data_is_committed_by_itself() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"data").await.expect("write");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(m.meta.calls("write_slices"), 1, "idle");
    for at in 0..16 {
        m.write(ino, fh, at, b"x").await.expect("write");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(m.meta.calls("write_slices") >= 2, "never idle, but old");
    m.vfs.shutdown().await.expect("shutdown");
}

#[tokio::test]
async fn truncate_cuts_what_is_still_on_its_way() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[1; 100]).await.expect("write");
    m.truncate(ino, fh, 10).await.expect("truncate");
    assert_eq!(m.length(ino).await, 10);
    m.truncate(ino, fh, 30).await.expect("truncate");
    m.flush(ino, fh).await.expect("flush");
    assert_eq!(m.read(ino, fh, 0, 100).await, Ok([[1; 10].as_slice(), &[0; 20]].concat()));
    let reader = m.open(ino, libc::O_RDONLY).await.fh;
    assert_eq!(m.truncate(ino, reader, 0).await, Err(Errno::EACCES));
    assert_eq!(m.truncate(ino, 999, 0).await, Err(Errno::EBADF));
    assert_eq!(m.truncate(ino, fh, 1 << 57).await, Err(Errno::EFBIG));
}

#[tokio::test]
async fn a_time_that_is_set_survives_later_commits() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"data").await.expect("write");
    let then = Timestamp::from_secs(1000);
    let set = SetAttr { mtime: Some(SetTime::At(then)), ..SetAttr::default() };
    let reply = m.vfs.setattr(&m.cx, ino, Some(fh), set, None).await.expect("setattr");
    assert_eq!(reply.attr.mtime, then);
    m.close(ino, fh).await.expect("close");
    assert_eq!(m.vfs.getattr(&m.cx, ino, None).await.expect("getattr").attr.mtime, then);
}

#[tokio::test]
async fn a_write_shows_in_mtime_before_it_is_committed() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let before = m.vfs.getattr(&m.cx, ino, None).await.expect("getattr").attr.mtime;
    m.clock.advance_secs(5);
    m.write(ino, fh, 0, b"x").await.expect("write");
    let dirty = m.vfs.getattr(&m.cx, ino, None).await.expect("getattr").attr.mtime;
    assert!(dirty > before);
    m.flush(ino, fh).await.expect("flush");
    assert_eq!(m.vfs.getattr(&m.cx, ino, None).await.expect("getattr").attr.mtime, dirty);
}

#[tokio::test]
async fn an_open_file_outlives_its_name() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &pattern(1, 3 * BLOCK)).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    m.vfs.unlink(&m.cx, Ino::ROOT, b"a").await.expect("unlink");
    m.write(ino, fh, 0, b"late").await.expect("write");
    let data = m.read(ino, fh, 0, 3 * BLOCK).await.expect("read");
    assert_eq!((&data[..4], &data[4..]), (b"late".as_slice(), &pattern(1, 3 * BLOCK)[4..]));
    assert_eq!(m.vfs.getattr(&m.cx, ino, Some(fh)).await.expect("getattr").attr.nlink, 0);
    m.close(ino, fh).await.expect("close");
    tokio::time::timeout(Duration::from_secs(5), async {
        while !m.chunks.slices().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the data is deleted");
    assert!(m.vfs.getattr(&m.cx, ino, None).await.is_err());
}

#[tokio::test]
async fn unnamed_files_are_gone_after_close() {
    let m = Mount::new();
    let flags = libc::O_RDWR | libc::O_TMPFILE;
    let (entry, opened) = m.vfs.create(&m.cx, Ino::ROOT, b"", 0o600, 0, flags).await.expect("create");
    m.write(entry.ino, opened.fh, 0, b"x").await.expect("write");
    assert_eq!(m.read(entry.ino, opened.fh, 0, 9).await, Ok(b"x".to_vec()));
    m.close(entry.ino, opened.fh).await.expect("close");
    assert!(m.vfs.getattr(&m.cx, entry.ino, None).await.is_err());
}

#[tokio::test]
async fn create_of_an_existing_file_empties_it_when_asked() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"old").await.expect("write");
    m.close(ino, fh).await.expect("close");
    let flags = libc::O_RDWR | libc::O_TRUNC;
    let (entry, _) = m.vfs.create(&m.cx, Ino::ROOT, b"a", 0o644, 0, flags).await.expect("create");
    assert_eq!((entry.ino, entry.attr.length), (ino, 0));
    let exclusive = m.vfs.create(&m.cx, Ino::ROOT, b"a", 0o644, 0, flags | libc::O_EXCL).await;
    assert_eq!(exclusive.map(drop), Err(Errno::EEXIST));
}

#[tokio::test]
async fn pages_are_kept_only_while_nothing_changed() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.close(ino, fh).await.expect("close");
    let quiet = m.open(ino, libc::O_RDWR).await;
    assert!(quiet.keep_cache);
    m.write(ino, quiet.fh, 0, b"x").await.expect("write");
    m.close(ino, quiet.fh).await.expect("close");
    assert!(!m.open(ino, libc::O_RDONLY).await.keep_cache);
    assert!(m.open(ino, libc::O_RDONLY).await.keep_cache);
}

#[tokio::test]
async fn ranges_are_allocated_punched_copied_and_sought() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let data = pattern(3, 4 * BLOCK);
    m.write(ino, fh, 0, &data).await.expect("write");
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let block = BLOCK as u64;
    m.vfs.fallocate(&m.cx, ino, fh, punch, block, block).await.expect("punch");
    let mut model = data.clone();
    model[BLOCK..2 * BLOCK].fill(0);
    assert_eq!(m.read(ino, fh, 0, 9 * BLOCK).await.expect("read"), model);
    m.vfs.fallocate(&m.cx, ino, fh, 0, 4 * block, block).await.expect("allocate");
    assert_eq!(m.length(ino).await, 5 * block);
    let seek = |off, whence: i32| m.vfs.lseek(&m.cx, ino, fh, off, whence as u32);
    assert_eq!(seek(0, libc::SEEK_HOLE).await, Ok(block));
    assert_eq!(seek(block, libc::SEEK_DATA).await, Ok(2 * block));
    assert_eq!(seek(2 * block, libc::SEEK_HOLE).await, Ok(4 * block));
    assert_eq!(seek(4 * block, libc::SEEK_DATA).await, Err(Errno::ENXIO));
    assert_eq!(seek(5 * block, libc::SEEK_HOLE).await, Err(Errno::ENXIO));
    assert_eq!(seek(0, 9).await, Err(Errno::EINVAL));
    let (to, to_fh) = m.create("b").await;
    m.write(to, to_fh, 0, b"overwritten").await.expect("write");
    let copied = m.vfs.copy_file_range(&m.cx, ino, fh, 100, to, to_fh, 5, 1 << 40, 0).await;
    assert_eq!(copied, Ok(5 * block - 100));
    model.resize(5 * BLOCK, 0);
    let expected = [b"overw", &model[100..]].concat();
    assert_eq!(m.read(to, to_fh, 0, 6 * BLOCK).await.expect("read"), expected);
    let overlap = m.vfs.copy_file_range(&m.cx, ino, fh, 0, ino, fh, 10, 20, 0).await;
    assert_eq!(overlap, Err(Errno::EINVAL));
    let bad = |mode, off, len| m.vfs.fallocate(&m.cx, ino, fh, mode, off, len);
    assert_eq!(bad(0, 0, 0).await, Err(Errno::EINVAL));
    assert_eq!(bad(libc::FALLOC_FL_PUNCH_HOLE, 0, 1).await, Err(Errno::EINVAL));
    assert_eq!(bad(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 1).await, Err(Errno::EOPNOTSUPP));
    assert_eq!(bad(0, 1 << 57, 1).await, Err(Errno::EFBIG));
}

#[tokio::test]
async fn a_slice_that_was_compacted_away_is_looked_for_again() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[5; BLOCK]).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    assert_eq!(m.read(ino, fh, 0, 1).await, Ok(vec![5]));
    let mut first = true;
    m.chunks.fail_gets(move |_| {
        std::mem::take(&mut first).then(|| ChunkError::Storage(StorageError::NotFound("injected".into())))
    });
    let before = m.meta.calls("read_chunk");
    assert_eq!(m.read(ino, fh, 0, 1).await, Ok(vec![5]));
    assert!(m.meta.calls("read_chunk") > before);
    m.chunks.fail_gets(|_| Some(ChunkError::Storage(StorageError::NotFound("injected".into()))));
    tokio::time::pause();
    assert_eq!(m.read(ino, fh, 0, 1).await, Err(Errno::EIO));
}

#[tokio::test]
async fn changes_of_other_clients_show_once_attributes_are_asked_for() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[1; 100]).await.expect("write");
    assert_eq!(m.read(ino, fh, 0, 1).await, Ok(vec![1]));
    // Another client cuts the file and writes; this one has the old view.
    let meta: &dyn juicefs_core::Meta = m.meta.as_ref();
    meta.truncate(&m.cx, ino, 0, true).await.expect("truncate");
    meta.truncate(&m.cx, ino, 50, true).await.expect("truncate");
    assert_eq!(m.length(ino).await, 50);
    assert_eq!(m.read(ino, fh, 0, 100).await, Ok(vec![0; 50]));
}

#[tokio::test]
async fn commits_of_our_own_do_not_hide_those_of_others() {
    let m = Mount::sized(VfsConfig::standard(), 4 << 20, 256 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, CHUNK, &[1; 100]).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    assert_eq!(m.read(ino, fh, CHUNK, 1).await, Ok(vec![1]));
    let meta: &dyn juicefs_core::Meta = m.meta.as_ref();
    meta.fallocate(&m.cx, ino, juicefs_core::meta::FallocateMode::PunchHole, CHUNK, 50).await.expect("punch");
    m.write(ino, fh, 0, &[2; 100]).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    let again = m.open(ino, libc::O_RDONLY).await;
    assert!(!again.keep_cache);
    assert_eq!(m.read(ino, again.fh, CHUNK + 49, 2).await, Ok(vec![0, 1]));
}

#[tokio::test]
async fn reads_between_commits_of_our_own_ask_no_metadata() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &pattern(0, 8 * BLOCK)).await.expect("write");
    assert_eq!(m.read(ino, fh, 0, 8 * BLOCK).await.expect("read"), pattern(0, 8 * BLOCK));
    let before = m.meta.calls("read_chunk");
    for at in 0..8 {
        let data = pattern(at + 1, BLOCK);
        m.write(ino, fh, at * BLOCK as u64, &data).await.expect("write");
        assert_eq!(m.read(ino, fh, at * BLOCK as u64, BLOCK).await.expect("read"), data);
    }
    assert_eq!(m.meta.calls("read_chunk"), before);
    // Another writer in the same chunk is noticed.
    let meta: &dyn juicefs_core::Meta = m.meta.as_ref();
    meta.fallocate(&m.cx, ino, juicefs_core::meta::FallocateMode::PunchHole, 0, 10).await.expect("punch");
    m.write(ino, fh, 100, &[1]).await.expect("write");
    assert_eq!(m.read(ino, fh, 100, 1).await, Ok(vec![1]));
    assert_eq!(m.read(ino, fh, 0, 10).await, Ok(vec![0; 10]));
}

#[tokio::test]
async fn many_small_slices_are_compacted_and_read_the_same() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    let mut model = Vec::new();
    for at in 0..120 {
        let data = pattern(at, 100);
        m.write(ino, fh, model.len() as u64, &data).await.expect("write");
        m.flush(ino, fh).await.expect("flush");
        model.extend(data);
    }
    assert_eq!(m.read(ino, fh, 0, 20_000).await.expect("read"), model);
    tokio::time::timeout(Duration::from_secs(5), async {
        while m.meta.chunk(ino, 0).len() > 30 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("compacted");
    assert_eq!(m.read(ino, fh, 0, 20_000).await.expect("read"), model);
    m.vfs.shutdown().await.expect("shutdown");
    assert_eq!(m.read(ino, fh, 0, 1).await, Err(Errno::EBADF));
}

#[tokio::test]
async fn shutdown_commits_what_is_dirty_and_ends_the_session() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"data").await.expect("write");
    m.vfs.shutdown().await.expect("shutdown");
    assert_eq!((m.meta.calls("write_slices"), m.meta.calls("close_session"), m.meta.calls("close")), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_gone_is_fatal() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    m.meta.fail(|method, _| (method == "refresh").then(|| MetaError::Setting("the volume was destroyed".into())));
    assert_eq!(m.vfs.fatal().await, "the volume was destroyed");
}

/// Close-to-open holds beside somebody who writes here whenever the file is looked at.
#[tokio::test]
async fn opening_beside_a_busy_writer_shows_what_another_client_closed() {
    let m = Mount::sized(VfsConfig::standard(), 4 << 20, 256 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[1; 100]).await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    assert_eq!(m.read(ino, fh, 0, 1).await, Ok(vec![1]));
    let busy = std::sync::Arc::clone(&m.vfs);
    m.meta.fail(move |method, _| {
        if method == "open" || method == "getattr" {
            let caller = juicefs_core::Caller::root();
            let write = busy.write(&caller, ino, fh, 50, bytes::Bytes::from_static(b"x"), false);
            assert_eq!(at_once(write), Some(Ok(1)));
        }
        None
    });
    m.write(ino, fh, 50, b"x").await.expect("write");
    let other = m.beside();
    let theirs = other.open(ino, libc::O_RDWR).await.fh;
    other.write(ino, theirs, 0, &[2; 10]).await.expect("write");
    other.write(ino, theirs, 200, &[3; 10]).await.expect("write");
    other.close(ino, theirs).await.expect("close");
    let reader = m.open(ino, libc::O_RDONLY).await.fh;
    assert_eq!(m.read(ino, reader, 0, 1).await, Ok(vec![2]), "an old view was kept");
    assert_eq!(m.read(ino, reader, 200, 100).await, Ok(vec![3; 10]), "an old length was kept");
    m.meta.heal();
}
