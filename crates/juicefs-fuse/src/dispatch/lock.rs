//! Locks: flock(2) and fcntl(2), which the kernel sends in one form.

use juicefs_core::{
    Errno,
    lock::{GiveUp, LockKind, LockRange, RangeLock},
};
use tokio_util::sync::CancellationToken;

use super::{Call, Work};
use crate::{
    abi::{FileLock, LK_FLOCK, LkIn, LkOut},
    notify::Notifier,
    ops::Operations,
    reply::ReplyBody,
};

/// The kind of a lock, `None` for unlocking.
fn kind(number: u32) -> Result<Option<LockKind>, Errno> {
    match number.cast_signed() {
        libc::F_RDLCK => Ok(Some(LockKind::Read)),
        libc::F_WRLCK => Ok(Some(LockKind::Write)),
        libc::F_UNLCK => Ok(None),
        _ => Err(Errno::EINVAL),
    }
}

fn range(lock: &FileLock) -> Result<LockRange, Errno> {
    let range = LockRange { start: lock.start, end: lock.end };
    if range.start > range.end || range.start > LockRange::LAST {
        return Err(Errno::EINVAL);
    }
    Ok(LockRange { end: range.end.min(LockRange::LAST), ..range })
}

impl<O: Operations> Call<'_, O> {
    pub(super) fn getlk(mut self) -> Result<Work, Errno> {
        let LkIn { fh, owner, lk, .. } = self.args.fixed()?;
        let kind = kind(lk.type_)?.ok_or(Errno::EINVAL)?;
        let lock = RangeLock { kind, range: range(&lk)?, pid: lk.pid };
        let Call { ops, caller, node, .. } = self;
        Ok(Box::pin(async move {
            let held = ops.getlk(&caller, node, fh, owner, lock).await?;
            let free = FileLock { start: 0, end: 0, type_: libc::F_UNLCK.cast_unsigned(), pid: 0 };
            let lk = held.map_or(free, |held| FileLock {
                start: held.range.start,
                end: held.range.end.min(LockRange::LAST),
                type_: match held.kind {
                    LockKind::Read => libc::F_RDLCK.cast_unsigned(),
                    LockKind::Write => libc::F_WRLCK.cast_unsigned(),
                },
                pid: held.pid,
            });
            Ok(ReplyBody::fixed(&LkOut { lk }))
        }))
    }

    /// With `stop` the operation waits for the lock, until `stop` is cancelled.
    pub(super) fn setlk(mut self, notifier: &Notifier, stop: Option<CancellationToken>) -> Result<Work, Errno> {
        let LkIn { fh, owner, lk, lk_flags, .. } = self.args.fixed()?;
        let (kind, range) = (kind(lk.type_)?, range(&lk)?);
        let wait = stop.filter(|_| kind.is_some()).map(|stop| Box::pin(stop.cancelled_owned()) as GiveUp);
        let Call { ops, caller, node, .. } = self;
        let notifier = notifier.clone();
        Ok(Box::pin(async move {
            if lk_flags & LK_FLOCK != 0 {
                ops.flock(&caller, node, fh, owner, kind, wait).await?;
            } else {
                ops.setlk(&caller, node, fh, owner, range, kind, lk.pid, wait).await?;
            }
            if kind.is_some() {
                // Whoever held the lock before, in any mount, may have changed the file: the kernel asks for its
                // attributes before it reads, and drops its pages if they differ.
                notifier.inval_attr(node);
            }
            Ok(ReplyBody::Empty)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_ranges_are_checked() {
        assert_eq!(kind(0), Ok(Some(LockKind::Read)));
        assert_eq!(kind(2), Ok(None));
        assert_eq!(kind(3), Err(Errno::EINVAL));
        let of = |start, end| range(&FileLock { start, end, type_: 0, pid: 0 });
        assert_eq!(of(5, 5), Ok(LockRange { start: 5, end: 5 }));
        assert_eq!(of(0, u64::MAX), Ok(LockRange::ALL));
        assert_eq!(of(6, 5), Err(Errno::EINVAL));
        assert_eq!(of(1 << 63, u64::MAX), Err(Errno::EINVAL));
    }
}
