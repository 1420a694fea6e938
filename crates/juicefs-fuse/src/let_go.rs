//! Changes that go on although their caller was killed and let go.
//!
//! To everybody else that caller is gone, so that what it asked for either has happened or never will: it must not
//! happen after something that was asked for later and has been answered. Therefore whatever would change one of the
//! same nodes waits for it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    abi::{CopyFileRangeIn, InHeader, LinkIn, Rename2In, RenameIn, opcode},
    request::Args,
};

/// The nodes that a request may change: files and, where names change, their directories. 0 stands for no node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Nodes([u64; 2]);

impl Nodes {
    /// The nodes of a request that changes something, `None` for any other request.
    pub(crate) fn changed_by(header: &InHeader, mut args: Args<'_>) -> Option<Self> {
        let second = match header.opcode {
            // A request that does not decode is refused elsewhere.
            opcode::RENAME => args.fixed::<RenameIn>().map_or(0, |rename| rename.newdir),
            opcode::RENAME2 => args.fixed::<Rename2In>().map_or(0, |rename| rename.newdir),
            opcode::LINK => args.fixed::<LinkIn>().map_or(0, |link| link.oldnodeid),
            opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
                args.fixed::<CopyFileRangeIn>().map_or(0, |copy| copy.nodeid_out)
            }
            opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::CREATE
            | opcode::TMPFILE
            | opcode::WRITE
            | opcode::FALLOCATE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::IOCTL => 0,
            _ => return None,
        };
        Some(Self([header.nodeid, second]))
    }

    fn meets(self, other: Self) -> bool {
        self.0.iter().any(|node| *node != 0 && other.0.contains(node))
    }
}

/// All changes of one mount that go on without their callers.
#[derive(Debug, Default)]
pub(crate) struct LetGo {
    count: AtomicUsize,
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    under_way: Vec<(u64, Nodes)>,
}

impl State {
    fn meets(&self, nodes: Nodes, upto: u64) -> bool {
        self.under_way.iter().any(|(number, held)| *number < upto && held.meets(nodes))
    }
}

/// The changes that something has to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    nodes: Nodes,
    upto: u64,
}

impl LetGo {
    /// Notes that a change of these nodes goes on without its caller, until the result is dropped.
    pub(crate) fn hold(self: &Arc<Self>, nodes: Nodes) -> Held {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.under_way.push((number, nodes));
        self.count.fetch_add(1, Ordering::AcqRel);
        Held { of: Arc::clone(self), number }
    }

    /// Whether there is any such change. Every request asks, and hardly ever is the answer yes.
    pub(crate) fn is_any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// What a change of these nodes has to wait for.
    pub(crate) fn before(&self, nodes: Nodes) -> Option<Before> {
        let state = self.state.lock();
        let upto = state.next;
        state.meets(nodes, upto).then_some(Before { nodes, upto })
    }

    /// Waits until the changes of `before` have ended, not for those that are let go later. Cancel safe.
    pub(crate) async fn ended(&self, before: Before) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if !self.state.lock().meets(before.nodes, before.upto) {
                return;
            }
            ended.await;
        }
    }
}

/// One change that goes on; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    of: Arc<LetGo>,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.state.lock().under_way.retain(|(number, _)| *number != self.number);
        self.of.count.fetch_sub(1, Ordering::AcqRel);
        self.of.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    #[test]
    fn only_what_came_before_and_changes_the_same_is_waited_for() {
        let let_go = Arc::new(LetGo::default());
        let (one, two) = (Nodes([1, 2]), Nodes([2, 0]));
        assert!(!let_go.is_any() && let_go.before(one).is_none());
        let first = let_go.hold(one);
        assert!(let_go.is_any() && let_go.before(Nodes([3, 0])).is_none(), "no node is no common node");
        let before = let_go.before(two).expect("both change 2");
        let mut waiting = pin!(let_go.ended(before));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        let second = let_go.hold(two);
        drop(first);
        assert!(waiting.as_mut().poll(&mut cx).is_ready(), "it may be that one itself");
        assert!(let_go.before(one).is_some());
        drop(second);
        assert!(!let_go.is_any());
    }
}
