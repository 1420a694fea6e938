//! Locks through handles: who holds them, what releases them, and what that costs.

use std::{sync::Arc, time::Duration};

use juicefs_core::{Errno, Ino, LockKind, LockRange, MetaError, RangeLock, lock::GiveUp};
use juicefs_vfs::VfsConfig;

use crate::mount::{Mount, at_once};

use LockKind::{Read, Write};

const SOME: LockRange = LockRange { start: 10, end: 19 };
/// A call that should end does so long before.
const LIMIT: Duration = Duration::from_secs(60);

impl Mount {
    async fn flock(&self, ino: Ino, fh: u64, owner: u64, kind: Option<LockKind>) -> Result<(), Errno> {
        self.vfs.flock(&self.cx, ino, fh, owner, kind, None).await
    }

    async fn setlk(&self, ino: Ino, fh: u64, owner: u64, kind: Option<LockKind>) -> Result<(), Errno> {
        self.vfs.setlk(&self.cx, ino, fh, owner, SOME, kind, 7, None).await
    }

    /// What keeps somebody else from writing.
    async fn obstacle(&self, ino: Ino, fh: u64) -> Option<RangeLock> {
        let lock = RangeLock { kind: Write, range: LockRange::ALL, pid: 8 };
        self.vfs.getlk(&self.cx, ino, fh, 4711, lock).await.expect("asked")
    }
}

#[tokio::test]
async fn who_never_locked_pays_nothing() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let before = m.meta.all_calls();
    assert_eq!(at_once(m.vfs.flush(&m.cx, ino, fh, 5)), Some(Ok(())));
    assert_eq!(at_once(m.flock(ino, fh, 5, None)), Some(Ok(())), "there is nothing to unlock");
    assert_eq!(at_once(m.setlk(ino, fh, 5, None)), Some(Ok(())));
    assert_eq!(m.meta.all_calls(), before);
    m.close(ino, fh).await.expect("closed");
    assert_eq!(m.meta.calls("funlock") + m.meta.calls("unlk"), 0);
}

#[tokio::test]
async fn a_process_loses_its_ranges_with_any_close_and_others_keep_theirs() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let second = m.open(ino, libc::O_RDONLY).await.fh;
    assert_eq!(m.setlk(ino, fh, 5, Some(Write)).await, Ok(()));
    assert_eq!(m.setlk(ino, second, 6, Some(Read)).await, Err(Errno::EAGAIN));
    m.vfs.flush(&m.cx, ino, second, 6).await.expect("flushed");
    assert!(m.obstacle(ino, fh).await.is_some(), "another one closed it");
    m.vfs.flush(&m.cx, ino, second, 5).await.expect("flushed");
    assert_eq!(m.obstacle(ino, fh).await, None);
    assert_eq!(m.meta.calls("unlk"), 2, "the other one had asked, so that it had to be told too");
    m.vfs.flush(&m.cx, ino, second, 5).await.expect("flushed");
    assert_eq!(m.meta.calls("unlk"), 2, "and only once");
}

#[tokio::test]
async fn an_open_file_loses_its_locks_with_its_last_close() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let other = m.open(ino, libc::O_RDWR).await.fh;
    assert_eq!(m.setlk(ino, fh, 5, Some(Write)).await, Ok(()));
    assert_eq!(m.flock(ino, fh, 9, Some(Write)).await, Ok(()));
    assert_eq!(m.flock(ino, other, 9, Some(Read)).await, Err(Errno::EAGAIN), "the same number, but another open file");
    // Closing is not the end of an open file: a process that inherited it may have it.
    m.vfs.flush(&m.cx, ino, fh, 77).await.expect("flushed");
    assert!(m.obstacle(ino, other).await.is_some());
    m.close(ino, fh).await.expect("closed");
    assert_eq!(m.obstacle(ino, other).await, None);
    assert_eq!(m.flock(ino, other, 9, Some(Read)).await, Ok(()));
    // What it has goes with the end of the mount at the latest.
    m.vfs.shutdown().await.expect("ended");
    assert_eq!(m.meta.calls("funlock"), 2);
}

#[tokio::test]
async fn what_was_written_under_a_lock_is_committed_before_it_is_released() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    for (at, unlock) in ["funlock", "unlk"].into_iter().enumerate() {
        assert_eq!(m.flock(ino, fh, 5, Some(Write)).await, Ok(()));
        assert_eq!(m.setlk(ino, fh, 5, Some(Write)).await, Ok(()));
        m.write(ino, fh, 0, b"under lock").await.expect("written");
        let committed = Arc::clone(&m.meta);
        let wanted = at as u64 + 1;
        m.meta.fail(move |call, _| {
            let early = call == unlock && committed.calls("write_slices") < wanted;
            early.then_some(MetaError::Posix(Errno::ENOTTY))
        });
        let released = if at == 0 { m.flock(ino, fh, 5, None).await } else { m.setlk(ino, fh, 5, None).await };
        assert_eq!(released, Ok(()));
        m.meta.heal();
    }
}

#[tokio::test]
async fn whoever_gets_a_lock_sees_what_others_committed() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"old").await.expect("written");
    m.flush(ino, fh).await.expect("flushed");
    assert_eq!(m.read(ino, fh, 0, 9).await, Ok(b"old".to_vec()));
    // Another mount, of which nobody tells.
    let cx = juicefs_core::Caller::root();
    juicefs_core::Meta::truncate(m.meta.as_ref(), &cx, ino, 7, true).await.expect("truncated");
    assert_eq!(m.read(ino, fh, 0, 9).await, Ok(b"old".to_vec()));
    assert_eq!(m.flock(ino, fh, 5, Some(Read)).await, Ok(()));
    assert_eq!(m.read(ino, fh, 0, 9).await, Ok(b"old\0\0\0\0".to_vec()));
    juicefs_core::Meta::truncate(m.meta.as_ref(), &cx, ino, 1, true).await.expect("truncated");
    assert_eq!(m.setlk(ino, fh, 5, Some(Read)).await, Ok(()));
    assert_eq!(m.read(ino, fh, 0, 9).await, Ok(b"o".to_vec()));
}

#[tokio::test]
async fn what_is_not_an_open_file_is_not_locked() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    assert_eq!(m.flock(ino, fh + 100, 5, Some(Read)).await, Err(Errno::EBADF));
    assert_eq!(m.setlk(Ino(4711), fh, 5, Some(Read)).await, Err(Errno::EBADF));
    let (stats, _) =
        m.vfs.lookup(&m.cx, Ino::ROOT, b".stats").await.map(|entry| (entry.ino, entry.attr)).expect("found");
    let fh = m.open(stats, libc::O_RDONLY).await.fh;
    assert_eq!(m.flock(stats, fh, 5, Some(Read)).await, Err(Errno::EPERM));
}

#[tokio::test]
async fn a_release_that_failed_is_made_up_for() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, fh) = m.create("a").await;
    let other = m.open(ino, libc::O_RDWR).await.fh;
    assert_eq!(m.setlk(ino, fh, 5, Some(Write)).await, Ok(()));
    assert_eq!(m.flock(ino, fh, 9, Some(Write)).await, Ok(()));
    let away = |call, _| matches!(call, "unlk" | "funlock").then(|| MetaError::Unavailable("gone".to_owned()));
    m.meta.fail(away);
    m.close(ino, fh).await.expect("closed");
    assert!(m.obstacle(ino, other).await.is_some());
    m.meta.heal();
    let free = async {
        let wait: GiveUp = Box::pin(std::future::pending());
        m.vfs.flock(&m.cx, ino, other, 9, Some(Write), Some(wait)).await.expect("granted");
        let wait: GiveUp = Box::pin(std::future::pending());
        m.vfs.setlk(&m.cx, ino, other, 6, SOME, Some(Write), 7, Some(wait)).await.expect("granted");
    };
    tokio::time::timeout(LIMIT, free).await.expect("it is released later");
    m.vfs.shutdown().await.expect("ended");
}
