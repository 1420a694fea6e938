//! Staging a block in time, or leaving the attempt behind.
//!
//! A thread that waits for a hung disk cannot be called back. Whoever waited goes on when his patience is at its end, and
//! the thread deletes the block that it has written in the end: nobody counts on it any more.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::Segments;
use tokio::{runtime::Handle, time::timeout};

use super::super::{dir::CacheDir, tier::StagedBlock};
use crate::{
    block::BlockId,
    counters::{Counters, OneMore},
};

/// The stages of writing one block: who gives up waiting and who writes agree on what became of it.
const WRITING: u8 = 0;
const STAGED: u8 = 1;
const ABANDONED: u8 = 2;

/// Stages a block in `dir`. `remove` deletes a block that is staged when nobody waits for it any more. Must be polled
/// within a runtime.
///
/// # Errors
/// As `LocalTier::stage`.
pub(super) async fn stage<R>(
    dir: Arc<CacheDir>,
    (id, body, tier): (BlockId, Segments, u8),
    patience: Duration,
    counters: Arc<Counters>,
    remove: impl FnOnce() -> R + Send + 'static,
) -> io::Result<()>
where
    R: Future<Output = ()>,
{
    // The slot goes with the write, which a hung disk may keep for longer than anybody waits.
    let Ok(Some(slot)) = timeout(patience, dir.gate.stage_slot()).await else {
        return Err(io::ErrorKind::WouldBlock.into());
    };
    let state = Arc::new(AtomicU8::new(WRITING));
    let written = Arc::clone(&state);
    let write = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        write(&dir, (id, &body, tier), &counters)?;
        if written.compare_exchange(WRITING, STAGED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // This thread waits for the disk in any case.
            Handle::current().block_on(remove());
        }
        Ok(())
    });
    match timeout(patience, write).await {
        Ok(done) => done.unwrap_or_else(|e| Err(io::Error::other(e))),
        Err(_elapsed) => match state.compare_exchange(WRITING, ABANDONED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Err(io::ErrorKind::TimedOut.into()),
            // It was staged at the last moment.
            Err(_) => Ok(()),
        },
    }
}

fn write(dir: &CacheDir, (id, body, tier): (BlockId, &[Bytes], u8), counters: &Counters) -> io::Result<()> {
    let _writing = OneMore::of(&counters.staging_writes);
    dir.gate.watch(|| dir.stage(id, body, tier))
}

/// The blocks that are staged in a directory, from now on in its index too. Must be polled within a runtime.
pub(super) async fn find(dir: Arc<CacheDir>) -> Vec<StagedBlock> {
    let look = move || {
        dir.find_staged().unwrap_or_else(|e| {
            tracing::warn!("cannot look for staged blocks in {}: {e}", dir.root().display());
            Vec::new()
        })
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_else(|e| {
        tracing::error!("looking for staged blocks ended early: {e}");
        Vec::new()
    })
}
