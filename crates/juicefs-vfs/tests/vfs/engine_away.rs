//! The metadata engine is away for longer than it is asked again, or does not answer.

use std::time::Duration;

use juicefs_core::{ChunkStore, Errno, MetaError};
use juicefs_vfs::VfsConfig;

use crate::mount::{BLOCK, CHUNK, Mount};

const PATIENCE: Duration = Duration::from_secs(20);

fn mount() -> Mount {
    Mount::with(VfsConfig { commit_patience: PATIENCE, ..VfsConfig::standard() }, 1 << 20)
}

fn take_the_engine_away(m: &Mount) {
    m.meta.fail(|method, _| (method == "write_slices").then(|| MetaError::Unavailable("injected".into())));
}

#[tokio::test]
async fn what_the_engine_did_not_take_is_kept_until_it_does() {
    let m = mount();
    let (ino, fh) = m.create("a").await;
    let other = m.open(ino, libc::O_RDWR).await.fh;
    m.write(ino, fh, 0, b"before").await.expect("write");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    take_the_engine_away(&m);
    m.write(ino, fh, 0, b"during").await.expect("accepted");
    assert_eq!(m.flush(ino, fh).await, Err(Errno::EIO));
    assert_eq!(m.write(ino, fh, 0, b"x").await, Err(Errno::EIO));
    assert_eq!(m.read(ino, fh, 0, 6).await, Err(Errno::EIO), "old bytes are not the answer");
    assert_eq!(m.truncate(ino, other, 3).await, Err(Errno::EIO), "it would come over the new length");
    // Over what is kept, and beyond it: both come after it.
    m.write(ino, other, 3, b"later").await.expect("accepted");
    m.write(ino, other, 2 * CHUNK, b"far").await.expect("accepted");
    assert_eq!(m.flush(ino, other).await, Err(Errno::EIO));
    assert_eq!(m.beside().length(ino).await, 6, "nothing overtakes");
    m.meta.heal();
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!(m.read(ino, fh, 0, 8).await, Ok(b"durlater".to_vec()));
    assert_eq!(m.read(ino, fh, 2 * CHUNK, 9).await, Ok(b"far".to_vec()));
    m.write(ino, fh, 0, b"D").await.expect("the trouble is over");
    assert_eq!(m.flush(ino, other).await, Ok(()));
    assert_eq!((m.close(ino, fh).await, m.close(ino, other).await), (Ok(()), Ok(())));
    assert_eq!((m.chunks.budget().used_bytes(), m.chunks.slices()), (0, m.meta.live_slices()));
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_did_not_take_is_offered_again_by_itself() {
    let m = Mount::started(VfsConfig::standard(), 1 << 20);
    let (ino, fh) = m.create("a").await;
    take_the_engine_away(&m);
    m.write(ino, fh, 0, b"data").await.expect("accepted");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tried = m.meta.calls("write_slices");
    assert!((5..20).contains(&tried), "tried {tried} times within a minute");
    m.meta.heal();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(m.beside().length(ino).await, 4);
    assert_eq!(m.write(ino, fh, 0, b"x").await, Err(Errno::EIO), "until it is flushed");
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!(m.meta.calls("write_slices"), tried + 1);
    m.vfs.shutdown().await.expect("shutdown");
}

/// It is not known whether it has happened, so it is not done again: whoever waits is told, and it goes on.
#[tokio::test(start_paused = true)]
async fn a_commit_without_an_answer_fails_who_waits_and_is_made_once() {
    let m = mount();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"one ").await.expect("accepted");
    m.write(ino, fh, CHUNK, b"far").await.expect("accepted");
    m.meta.hold_commits(true);
    let begun = tokio::time::Instant::now();
    assert_eq!(m.flush(ino, fh).await, Err(Errno::EIO));
    assert!((PATIENCE..2 * PATIENCE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(m.write(ino, fh, 0, b"x").await, Err(Errno::EIO));
    let other = m.open(ino, libc::O_RDWR).await.fh;
    m.write(ino, other, 4, b"two").await.expect("accepted");
    assert_eq!(m.flush(ino, other).await, Err(Errno::EIO));
    assert_eq!(m.truncate(ino, other, 0).await, Err(Errno::EIO), "what is on its way would come over it");
    m.meta.hold_commits(false);
    assert_eq!(m.flush(ino, fh).await, Ok(()));
    assert_eq!(m.read(ino, fh, 0, 7).await, Ok(b"one two".to_vec()));
    assert_eq!(m.length(ino).await, CHUNK + 3);
    assert_eq!(m.meta.calls("write_slices"), 2, "the one that had no answer, and one for what came later");
    assert_eq!((m.close(ino, fh).await, m.close(ino, other).await), (Ok(()), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_does_not_take_goes_with_the_last_handle() {
    for answers in [true, false] {
        let m = mount();
        m.vfs.start(&tokio::runtime::Handle::current());
        let (ino, fh) = m.create("a").await;
        m.write(ino, fh, 0, &[1; 2 * BLOCK]).await.expect("accepted");
        if answers {
            take_the_engine_away(&m);
        } else {
            m.meta.hold_commits(true);
        }
        assert_eq!(m.close(ino, fh).await, Err(Errno::EIO), "answers: {answers}");
        assert_eq!(m.chunks.budget().used_bytes(), 0);
        m.meta.heal();
        m.meta.hold_commits(false);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // What may have been committed is not deleted.
        assert_eq!(m.chunks.slices().is_empty(), answers);
        let again = m.open(ino, libc::O_RDWR).await.fh;
        assert_eq!((m.write(ino, again, 0, b"y").await, m.flush(ino, again).await), (Ok(1), Ok(())));
        assert_eq!(m.beside().length(ino).await, 1);
        m.vfs.shutdown().await.expect("shutdown");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_an_engine_that_does_not_answer() {
    let m = mount();
    m.vfs.start(&tokio::runtime::Handle::current());
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"data").await.expect("accepted");
    m.meta.hold_commits(true);
    let ended = tokio::time::timeout(4 * PATIENCE, m.vfs.shutdown()).await;
    assert_eq!(ended, Ok(Err(Errno::EIO)));
    assert_eq!(m.chunks.budget().used_bytes(), 0);
}
