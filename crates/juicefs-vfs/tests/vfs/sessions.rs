//! A session that another client has ended: what goes with it, and what goes on.

use std::time::Duration;

use juicefs_core::{Errno, Ino, LockKind, LockRange, Meta};
use juicefs_vfs::VfsConfig;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::mount::{BLOCK, Mount, at_once, pattern};

use LockKind::{Read, Write};

impl Mount {
    async fn locked(&self, ino: Ino, fh: u64, owner: u64, kind: LockKind) {
        self.vfs.flock(&self.cx, ino, fh, owner, Some(kind), None).await.expect("locked");
    }

    async fn range_locked(&self, ino: Ino, fh: u64, owner: u64) {
        let range = LockRange { start: owner * 10, end: owner * 10 + 9 };
        self.vfs.setlk(&self.cx, ino, fh, owner, range, Some(Write), 7, None).await.expect("locked");
    }

    async fn fsync(&self, ino: Ino, fh: u64) -> Result<(), Errno> {
        self.vfs.fsync(&self.cx, ino, fh, false).await
    }

    /// Everything that can be done with a handle fails.
    async fn assert_lost(&self, ino: Ino, fh: u64) {
        assert_eq!(self.read(ino, fh, 0, 1).await, Err(Errno::EIO));
        assert_eq!(self.write(ino, fh, 0, b"x").await, Err(Errno::EIO));
        assert_eq!(self.fsync(ino, fh).await, Err(Errno::EIO));
        assert_eq!(self.flush(ino, fh).await, Err(Errno::EIO));
        assert_eq!(self.truncate(ino, fh, 0).await, Err(Errno::EIO));
        assert_eq!(self.vfs.fallocate(&self.cx, ino, fh, 0, 0, 1 << 20).await, Err(Errno::EIO));
        assert_eq!(self.vfs.flock(&self.cx, ino, fh, 1, Some(Read), None).await, Err(Errno::EIO));
        assert_eq!(self.vfs.lseek(&self.cx, ino, fh, 0, libc::SEEK_DATA as u32).await, Err(Errno::EIO));
    }
}

#[tokio::test]
async fn what_a_session_kept_is_lost_with_it_and_everything_else_goes_on() {
    let m = Mount::new();
    let (locked, holder) = m.create("locked").await;
    m.write(locked, holder, 0, b"before").await.expect("written");
    m.fsync(locked, holder).await.expect("synced");
    m.locked(locked, holder, 1, Write).await;
    m.write(locked, holder, 0, &pattern(1, 3 * BLOCK)).await.expect("written under the lock");
    let (free, writer) = m.create("free").await;
    m.write(free, writer, 0, &pattern(2, 3 * BLOCK)).await.expect("written");
    let (unnamed, keeper) = m.create("unnamed").await;
    m.write(unnamed, keeper, 0, b"gone").await.expect("written");
    m.vfs.unlink(&m.cx, Ino::ROOT, b"unnamed").await.expect("unlinked");

    m.meta.end_session();
    assert_eq!(m.fsync(free, writer).await, Ok(()), "dirty data is kept");
    for (ino, fh) in [(locked, holder), (unnamed, keeper)] {
        m.assert_lost(ino, fh).await;
    }
    assert_eq!(m.read(free, writer, 0, 3 * BLOCK).await.expect("read"), pattern(2, 3 * BLOCK));
    m.write(free, writer, 0, b"more").await.expect("written");
    m.create("new").await;

    // Whoever opens the file anew finds what was committed, and can change it beside the lost handle.
    assert_eq!(m.length(locked).await, 6);
    let fresh = m.open(locked, libc::O_RDWR).await.fh;
    assert_eq!(m.read(locked, fresh, 0, 100).await.expect("read"), b"before");
    m.locked(locked, fresh, 2, Write).await;
    m.write(locked, fresh, 6, b" and after").await.expect("written");
    m.fsync(locked, fresh).await.expect("synced");
    m.assert_lost(locked, holder).await;
    assert_eq!(m.close(locked, holder).await, Err(Errno::EIO), "which nobody hears");
    assert_eq!(m.read(locked, fresh, 0, 100).await.expect("read"), b"before and after");
    let _ = m.close(unnamed, keeper).await;
    for (ino, fh) in [(locked, fresh), (free, writer)] {
        m.close(ino, fh).await.expect("closed");
    }
    m.vfs.shutdown().await.expect("shutdown");
    assert_eq!(m.chunks.slices(), m.meta.live_slices(), "nothing is left of what was lost");
    assert_eq!(m.meta.claimed_bytes(), 0);
}

#[tokio::test]
async fn only_handles_that_held_a_lock_are_lost() {
    let m = Mount::started(VfsConfig::standard(), 64 << 20);
    let (ino, holder) = m.create("log").await;
    let [waiting, reading] = [m.open(ino, libc::O_RDWR).await.fh, m.open(ino, libc::O_RDONLY).await.fh];
    m.locked(ino, holder, 1, Write).await;
    m.vfs.flock(&m.cx, ino, waiting, 2, Some(Write), None).await.expect_err("it is locked");
    m.write(ino, waiting, 4 * BLOCK as u64, &[2; BLOCK]).await.expect("written without a lock");
    m.write(ino, holder, 0, &[1; BLOCK]).await.expect("written under the lock");
    m.meta.end_session();
    assert_eq!(m.fsync(ino, waiting).await, Ok(()));
    m.assert_lost(ino, holder).await;
    let all = m.read(ino, reading, 0, 5 * BLOCK).await.expect("read");
    assert_eq!(all, [vec![0; 4 * BLOCK], vec![2; BLOCK]].concat(), "a hole is left");
    m.locked(ino, waiting, 2, Write).await;
    for fh in [holder, waiting, reading] {
        let _ = m.close(ino, fh).await;
    }
    // Objects of what was lost are deleted in the background.
    tokio::time::sleep(Duration::from_millis(100)).await;
    m.vfs.shutdown().await.expect("shutdown");
    assert_eq!(m.chunks.slices(), m.meta.live_slices());
}

/// A lock of a range belongs to a process, which may write through any handle that it has.
#[tokio::test]
async fn who_held_a_range_may_have_written_through_any_handle() {
    let m = Mount::new();
    let (ino, asked) = m.create("db").await;
    let (other, same) = (m.open(ino, libc::O_RDWR).await.fh, m.open(ino, libc::O_RDWR).await.fh);
    let reading = m.open(ino, libc::O_RDONLY).await.fh;
    m.range_locked(ino, asked, 1).await;
    m.range_locked(ino, other, 2).await;
    m.vfs.setlk(&m.cx, ino, other, 2, LockRange::ALL, None, 7, None).await.expect("unlocked");
    m.write(ino, same, 0, &[1; 10]).await.expect("written");
    m.meta.end_session();
    m.vfs.flush_all().await.expect("nothing is left that could fail");
    m.assert_lost(ino, asked).await;
    m.assert_lost(ino, same).await;
    assert_eq!(m.read(ino, reading, 0, 10).await.expect("read"), b"");
    for fh in [asked, other, same, reading] {
        let _ = m.close(ino, fh).await;
    }
}

/// What is under way when the session ends must not come into the next one.
#[tokio::test]
async fn a_change_that_was_begun_under_a_lock_does_not_outlive_it() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[1; 100]).await.expect("written");
    m.fsync(ino, fh).await.expect("synced");
    m.locked(ino, fh, 1, Write).await;
    m.meta.end_session();
    assert_eq!(m.truncate(ino, fh, 0).await, Err(Errno::EIO));
    assert_eq!(m.length(ino).await, 100);
    // Without a handle, and begun after: the caller holds nothing.
    m.vfs.setattr(&m.cx, ino, None, juicefs_core::SetAttr::default(), Some(50)).await.expect("truncated");
    assert_eq!(m.length(ino).await, 50);
    let _ = m.close(ino, fh).await;
}

/// Two writers of one file, one under a lock, in any order with flushes that are polled now and then, and the end of the
/// session somewhere between: the file has all of the one, and of the other what was committed before the end.
#[tokio::test]
async fn nothing_written_under_a_lost_lock_is_ever_committed() {
    const STEPS: usize = 40;
    /// Each write has a place of its own, so that none goes on with an older one.
    const SLOT: usize = 4 * BLOCK;
    const REGION: usize = STEPS * SLOT;
    let seed = std::env::var("JUICEFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    for round in 0..300_u64 {
        let seed: u64 = seed.unwrap_or_else(rand::random);
        println!("JUICEFS_TEST_SEED={seed} (round {round})");
        let mut rng = StdRng::seed_from_u64(seed);
        let m = Mount::new();
        let (ino, free) = m.create("a").await;
        let held = m.open(ino, libc::O_RDWR).await.fh;
        let reading = m.open(ino, libc::O_RDONLY).await.fh;
        m.locked(ino, held, 1, Write).await;
        let (mut expected, mut under_lock) = (vec![0; REGION], Vec::new());
        let end_at = rng.random_range(0..STEPS);
        let mut slots: Vec<usize> = (0..STEPS).collect();
        slots.shuffle(&mut rng);
        for (step, slot) in slots.into_iter().enumerate() {
            if step == end_at {
                m.meta.end_session();
                // Seen without asking this client, which does not know yet.
                under_lock = committed(&m, ino);
            }
            let len = rng.random_range(1..3 * BLOCK);
            let off = slot * SLOT;
            if rng.random_bool(0.4) {
                let data = vec![1 + step as u8; len];
                m.write(ino, free, off as u64, &data).await.expect("written");
                expected[off..off + len].copy_from_slice(&data);
            } else if rng.random_bool(0.7) {
                let _ = m.write(ino, held, (REGION + off) as u64, &vec![101 + step as u8; len]).await;
            } else {
                let fh = if rng.random() { free } else { held };
                let _ = at_once(m.fsync(ino, fh));
                tokio::task::yield_now().await;
            }
        }
        let _ = m.fsync(ino, free).await;
        let _ = m.fsync(ino, held).await;
        m.vfs.flush_all().await.expect("flushed");
        // It may have had nothing to commit since.
        m.meta.heartbeat().await.expect("renewed, or back");
        m.assert_lost(ino, held).await;
        let all = m.read(ino, reading, 0, 2 * REGION).await.expect("read");
        let whole = |bytes: &[u8]| [bytes, &vec![0; 2 * REGION - bytes.len()]].concat();
        let all = whole(&all);
        // A slice that both have written to is lost with the lock, and then the other one knows; here they never touch.
        assert!(all[..REGION] == expected[..], "seed {seed}: what was written without a lock is there");
        assert!(all[REGION..] == whole(&under_lock)[REGION..], "seed {seed}: the end was at {end_at}");
        for fh in [free, held, reading] {
            let _ = m.close(ino, fh).await;
        }
    }
}

/// What another client reads.
fn committed(m: &Mount, ino: Ino) -> Vec<u8> {
    futures_util::future::FutureExt::now_or_never(async {
        let other = m.beside();
        let fh = other.open(ino, libc::O_RDONLY).await.fh;
        let length = other.length(ino).await;
        let read = other.read(ino, fh, 0, length as usize).await.expect("read");
        other.close(ino, fh).await.expect("closed");
        read
    })
    .expect("stores in memory answer at once")
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_comes_back_with_its_heartbeat_and_its_jobs_go_on() {
    let m = Mount::started(VfsConfig::standard(), 1 << 20);
    let (locked, fh) = m.create("locked").await;
    m.locked(locked, fh, 1, Write).await;
    m.meta.end_session();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(m.meta.calls("come_back") > 0 || m.meta.calls("heartbeat") > 0);
    m.assert_lost(locked, fh).await;
    let fatal = tokio::time::timeout(Duration::from_secs(4 * 3600), m.vfs.fatal()).await;
    assert!(fatal.is_err(), "{fatal:?}");
    let _ = m.close(locked, fh).await;
    m.vfs.shutdown().await.expect("shutdown");
}
