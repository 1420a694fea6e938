//! Requests whose first poll did not finish them: how their work goes on, and how it ends before its time.

use std::{pin::Pin, sync::Arc, time::Duration};

use juicefs_core::{Errno, Ino};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    abi::{EntryOut, InHeader, OpenOut, opcode, split},
    caller::is_dying,
    deferred::Slot,
    let_go::{LetGo, Nodes},
    ops::Operations,
    reply::{Reply, ReplyBody, ReplySink},
};

/// An operation under way.
pub(super) type Work = Pin<Box<dyn Future<Output = Result<ReplyBody, Errno>> + Send>>;

/// The age from which an interrupted request that only looks ends with EINTR. Timers and children that exit send
/// signals too, and few programs expect EINTR from `stat`, so short operations are better finished.
const INTERRUPT_AFTER: Duration = Duration::from_secs(1);

/// A request that waits for something.
pub(crate) struct Waiting {
    pub(super) header: InHeader,
    pub(super) work: Work,
    /// Ends the work soon when it is cancelled; the work says itself how. Only work that waits for others has it.
    pub(super) stop: Option<CancellationToken>,
    /// What the work may change.
    pub(super) changes: Option<Nodes>,
}

impl Waiting {
    /// Bytes of the request that its work holds in memory.
    pub(super) fn payload_bytes(&self) -> usize {
        if self.header.opcode == opcode::WRITE { self.header.len as usize } else { 0 }
    }
}

/// Runs deferred work to its end, and replies. When the request is interrupted, its caller is let go. Work that only
/// looks is dropped then, and so is a write, which may end anywhere. Other work that changes something is finished all
/// the same, so that nothing is torn in the middle, and what changes the same nodes waits for it from then on.
pub(super) async fn finish<O: Operations, S: ReplySink>(
    ops: O,
    waiting: Waiting,
    let_go: Arc<LetGo>,
    reply: Reply<S>,
    slot: Slot,
) {
    let Waiting { header, mut work, changes, .. } = waiting;
    let since = Instant::now();
    tokio::select! {
        biased;
        answer = &mut work => {
            reply.send(answer);
            return;
        }
        () = interrupted(&slot, &header, since) => {}
    }
    if only_looks(header.opcode) || header.opcode == opcode::WRITE {
        // Before the reply: what comes after that must not meet it any more.
        drop(work);
        reply.send(Err(Errno::EINTR));
        return;
    }
    let _held = changes.map(|nodes| let_go.hold(nodes));
    reply.send(Err(Errno::EINTR));
    let late = work.await;
    if let Some(fh) = opened(header.opcode, &late) {
        // Nobody knows the handle, so nobody will release it.
        if let Err(error) = ops.release(Ino(header.nodeid), fh).await {
            tracing::warn!(fh, ?error, "releasing a file whose opener was killed");
        }
    }
}

/// Runs work that waits for others to its end, and replies. Any signal ends the waiting at once; the work says whether
/// it got what it waited for all the same.
pub(super) async fn finish_stoppable<S: ReplySink>(
    mut work: Work,
    stop: CancellationToken,
    reply: Reply<S>,
    slot: Slot,
) {
    let answer = tokio::select! {
        biased;
        answer = &mut work => answer,
        () = slot.interrupted.cancelled() => {
            stop.cancel();
            work.await
        }
    };
    reply.send(answer);
}

/// Ends when the request is to be given up: at once if its caller was killed or the session is over. For any other
/// signal only work that looks is given up, and not before [`INTERRUPT_AFTER`]. The kernel does not announce a second
/// signal, so this looks for one once a second.
pub(crate) async fn interrupted(slot: &Slot, header: &InHeader, since: Instant) {
    // Whoever was killed closes his files on his way out, and need not have a signal any more that would be announced.
    while header.opcode == opcode::FLUSH
        && tokio::time::timeout(INTERRUPT_AFTER, slot.interrupted.cancelled()).await.is_err()
    {
        if is_dying(header.pid) {
            return;
        }
    }
    slot.interrupted.cancelled().await;
    loop {
        if slot.is_over() || is_dying(header.pid) || (only_looks(header.opcode) && since.elapsed() >= INTERRUPT_AFTER) {
            return;
        }
        tokio::time::sleep(INTERRUPT_AFTER.saturating_sub(since.elapsed()).max(Duration::from_millis(100))).await;
    }
}

/// Whether the operation changes nothing, so that it may be dropped half-way.
fn only_looks(code: u32) -> bool {
    matches!(
        code,
        opcode::LOOKUP
            | opcode::GETATTR
            | opcode::READLINK
            | opcode::READ
            | opcode::STATFS
            | opcode::GETXATTR
            | opcode::LISTXATTR
            | opcode::ACCESS
            | opcode::READDIR
            | opcode::READDIRPLUS
            | opcode::LSEEK
    )
}

/// The file handle that a reply hands out.
fn opened(code: u32, reply: &Result<ReplyBody, Errno>) -> Option<u64> {
    let Ok(ReplyBody::Fixed(fixed)) = reply else { return None };
    let out = match code {
        opcode::OPEN => fixed.as_bytes(),
        opcode::CREATE | opcode::TMPFILE => fixed.as_bytes().get(size_of::<EntryOut>()..)?,
        _ => return None,
    };
    split::<OpenOut>(out).map(|(out, _)| out.fh)
}
