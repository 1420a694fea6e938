//! What goes on after its caller was killed or its handle was closed, and must not come over what others do later.

use std::{sync::Arc, time::Duration};

use juicefs_core::{ChunkError, ChunkStore, Errno, Share, StorageError};
use juicefs_vfs::VfsConfig;

use crate::mount::{BLOCK, Mount};

const BUDGET: usize = 64 << 10;

/// Lets everything that can go on do so.
async fn others() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_write_that_outlives_its_handle_comes_before_a_later_truncate() {
    let m = Arc::new(Mount::with(VfsConfig::standard(), BUDGET));
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"old").await.expect("write");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    // Others have all memory, and the writer is killed while it waits for some: its handle is closed.
    let all = m.chunks.budget().acquire(Share::Write, BUDGET).await;
    let (writer, closer, cutter) = (Arc::clone(&m), Arc::clone(&m), Arc::clone(&m));
    let write = tokio::spawn(async move { writer.write(ino, fh, 0, &[1; 3 * BLOCK]).await });
    others().await;
    assert_eq!(m.chunks.budget().waiting(), 1);
    let close = tokio::spawn(async move { closer.close(ino, fh).await });
    others().await;
    let other = m.open(ino, libc::O_RDWR).await.fh;
    let cut = tokio::spawn(async move { cutter.truncate(ino, other, 0).await });
    others().await;
    drop(all);
    assert_eq!(write.await.expect("no panic"), Ok(3 * BLOCK as u32));
    assert_eq!(close.await.expect("no panic"), Ok(()));
    assert_eq!(cut.await.expect("no panic"), Ok(()));
    assert_eq!(m.vfs.flush_all().await, Ok(()));
    assert_eq!(m.beside().length(ino).await, 0, "what was cut off has come back");
    assert_eq!(m.read(ino, other, 0, BLOCK).await, Ok(vec![]));
}

/// As a front end does with a caller that was killed.
#[tokio::test]
async fn a_write_that_is_dropped_while_it_waits_has_no_effect() {
    let m = Mount::with(VfsConfig::standard(), BUDGET);
    let (ino, fh) = m.create("a").await;
    let all = m.chunks.budget().acquire(Share::Write, BUDGET).await;
    let write = tokio::time::timeout(Duration::from_millis(20), m.write(ino, fh, 0, b"never")).await;
    assert!(write.is_err(), "{write:?}");
    assert_eq!(m.close(ino, fh).await, Ok(()), "nothing is waited for");
    drop(all);
    assert_eq!(m.vfs.flush_all().await, Ok(()));
    assert_eq!((m.length(ino).await, m.chunks.budget().used_bytes()), (0, 0));
}

#[tokio::test]
async fn a_close_waits_a_while_for_what_another_thread_writes_and_the_end_of_the_handle_always() {
    let m = Arc::new(Mount::with(VfsConfig::standard(), BUDGET));
    let (ino, fh) = m.create("a").await;
    let all = m.chunks.budget().acquire(Share::Write, BUDGET).await;
    let (writer, closer) = (Arc::clone(&m), Arc::clone(&m));
    let write = tokio::spawn(async move { writer.write(ino, fh, 0, b"late").await });
    others().await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    let close = tokio::spawn(async move { closer.close(ino, fh).await });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!close.is_finished());
    drop(all);
    assert_eq!((write.await.expect("no panic"), close.await.expect("no panic")), (Ok(4), Ok(())));
    assert_eq!(m.beside().length(ino).await, 4);
}

fn lost() -> ChunkError {
    ChunkError::Storage(StorageError::Transient("injected".into()))
}

/// Whichever handle is the last one, and whatever it may do.
#[tokio::test]
async fn nothing_is_dirty_of_a_file_that_nobody_has_open() {
    for together in [false, true] {
        let m = Mount::with(VfsConfig::standard(), BUDGET);
        let (ino, fh) = m.create("a").await;
        let flags = if together { libc::O_RDWR } else { libc::O_RDONLY };
        let other = m.open(ino, flags).await.fh;
        m.chunks.fail_puts(|_| Some(lost()));
        m.write(ino, fh, 0, b"never stored").await.expect("accepted");
        if together {
            m.chunks.set_put_latency(Duration::from_millis(5));
            let closed = tokio::join!(m.close(ino, fh), m.close(ino, other));
            assert_eq!(closed, (Err(Errno::EIO), Err(Errno::EIO)));
        } else {
            assert_eq!(m.close(ino, fh).await, Err(Errno::EIO));
            assert_eq!(m.close(ino, other).await, Ok(()), "it wrote nothing");
        }
        assert_eq!(m.chunks.budget().used_bytes(), 0, "together: {together}");
        m.chunks.heal();
        let again = m.open(ino, libc::O_RDWR).await.fh;
        assert_eq!(m.truncate(ino, again, 0).await, Ok(()));
        assert_eq!(m.vfs.flush_all().await, Ok(()));
        assert_eq!((m.meta.calls("write_slices"), m.length(ino).await), (0, 0));
    }
}
