//! Operations on attributes.

use std::{
    fmt::{self, Write as _},
    pin::pin,
    time::Duration,
};

use juicefs_core::{Attr, Caller, Errno, Ino, SetAttr, SetTime, limits::MAX_NAME_BYTES, stamps::Moment};

use crate::{
    AttrReply, StatFs, Vfs,
    internal::{EntryText, is_special},
    metrics::{MetaOp, Op},
    reply::VfsResult,
    table::Handle,
};

/// How long front ends may trust what never changes.
pub(super) const INTERNAL_TTL: Duration = Duration::from_secs(3600);
/// Bytes of a block in statfs.
const STATFS_BLOCK: u32 = 4096;

impl Vfs {
    /// The attributes of `ino`, which include data that is accepted and not yet committed. For a directory that was
    /// removed while it is open they are the last known ones. ENOENT.
    pub async fn getattr(&self, cx: &Caller, ino: Ino, fh: Option<u64>) -> VfsResult<AttrReply> {
        let _ = fh;
        if let Some(attr) = self.internal.attr(ino) {
            return Ok(AttrReply { attr, ino, attr_ttl: INTERNAL_TTL });
        }
        let work = pin!(self.node_attr_reply(ino));
        self.operation(Op::Getattr, cx, work, |line, answer| write!(line, "({ino}):{}", attr_text(answer))).await
    }

    async fn node_attr_reply(&self, ino: Ino) -> VfsResult<AttrReply> {
        let since = self.cx.stamps.now();
        let ttl = self.cx.config.attr_ttl;
        if let Some((attr, age)) = self.cx.meta.recent_attr(ino, ttl) {
            // The kernel dropped what it knew because of a change of ours, and could have kept it for this long.
            let mut reply = self.attr_reply(ino, attr, since).await;
            reply.attr_ttl = reply.attr_ttl.saturating_sub(age);
            return Ok(reply);
        }
        match self.ask(MetaOp::GetAttr, ino, self.cx.meta.getattr(ino)).await {
            Ok(attr) => Ok(self.attr_reply(ino, attr, since).await),
            Err(Errno::ENOENT) => {
                // What went with a session is an error for whoever has it open, not a name that is missing.
                let lost = self.files.get(ino).is_some_and(|file| file.losses() > 0);
                let removed = self.dirs.removed_attr(ino).ok_or(if lost { Errno::EIO } else { Errno::ENOENT });
                removed.map(|attr| AttrReply { attr, ino, attr_ttl: ttl })
            }
            Err(errno) => Err(errno),
        }
    }

    async fn attr_reply(&self, ino: Ino, mut attr: Attr, since: Moment) -> AttrReply {
        let fresh = self.refresh(ino, &mut attr, since).await;
        AttrReply { attr, ino, attr_ttl: if fresh { self.cx.config.attr_ttl } else { Duration::ZERO } }
    }

    /// Changes attributes; `size` truncates or extends first. Internal files stay as they are and answer success.
    ///
    /// EBADF when `fh` is unknown, EACCES when it cannot write, EFBIG for a size beyond the largest file, and what
    /// chmod(2), chown(2), utimensat(2) and truncate(2) say.
    pub async fn setattr(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: Option<u64>,
        set: SetAttr,
        size: Option<u64>,
    ) -> VfsResult<AttrReply> {
        if let Some(attr) = self.internal.attr(ino) {
            return Ok(AttrReply { attr, ino, attr_ttl: INTERNAL_TTL });
        }
        let wanted = set.clone();
        let work = pin!(self.change_attr(cx, ino, fh, set, size));
        self.operation(Op::Setattr, cx, work, |line, answer| {
            write!(line, "({ino}[{}],0x{:X},[", fh.unwrap_or(0), set_mask(&wanted, size))?;
            write_set(line, &wanted, size)?;
            write!(line, "]):{}", attr_text(answer))
        })
        .await
    }

    async fn change_attr(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: Option<u64>,
        set: SetAttr,
        size: Option<u64>,
    ) -> VfsResult<AttrReply> {
        let since = self.cx.stamps.now();
        let mut attr = None;
        if let Some(size) = size {
            let through = match fh.filter(|fh| *fh != 0).map(|fh| self.handles.get(ino, fh)) {
                None => None,
                Some(Some(Handle::File(handle))) if handle.write => Some(handle),
                Some(Some(Handle::File(_))) => return Err(Errno::EACCES),
                Some(_) => return Err(Errno::EBADF),
            };
            let _pass = through.as_ref().map(|handle| handle.in_flight.begin());
            if through.is_none() {
                self.drop_set_id(cx, ino).await?;
            }
            attr = Some(self.set_length(cx, ino, size, through.as_deref()).await?);
        }
        if let (Some(attr), true) = (&attr, set.is_empty()) {
            // What a truncate returns includes everything: nothing is dirty after it.
            return Ok(AttrReply { attr: attr.clone(), ino, attr_ttl: self.cx.config.attr_ttl });
        }
        let file = self.files.get(ino);
        let guard = match &file {
            // A later commit must not undo a time that is set now.
            Some(file) if set.mtime.is_some() && file.is_dirty() => {
                let guard = file.exclude().await;
                // Lost data is reported by the write, fsync or close that it belongs to.
                let _ = file.flush().await;
                Some(guard)
            }
            _ => None,
        };
        let attr = self.ask(MetaOp::SetAttr, ino, self.cx.meta.setattr(cx, ino, set)).await?;
        drop(guard);
        // A truncate above was ours and is part of the answer.
        let since = if size.is_some() { self.cx.stamps.now() } else { since };
        let reply = self.attr_reply(ino, attr, since).await;
        self.cx.stamps.touch(ino);
        Ok(reply)
    }

    /// Fails with EACCES unless the caller has all of `mask` (R 4, W 2, X 1).
    pub async fn access(&self, cx: &Caller, ino: Ino, mask: u8) -> VfsResult<()> {
        let work = pin!(async {
            match self.internal.attr(ino) {
                Some(attr) => self.internal.access(cx, &attr, mask),
                None => self.ask(MetaOp::Access, ino, self.cx.meta.access(cx, ino, mask)).await,
            }
        });
        self.operation(Op::Access, cx, work, |line, _| write!(line, "({ino},0x{mask:X})")).await
    }

    /// The space and the inodes of the volume, or of what is mounted of it.
    pub async fn statfs(&self, cx: &Caller, ino: Ino) -> VfsResult<StatFs> {
        let ino = if is_special(ino) { Ino::ROOT } else { ino };
        let work = pin!(self.ask(MetaOp::StatFS, ino, self.cx.meta.statfs(ino)));
        let counted = self.operation(Op::Statfs, cx, work, |line, usage| {
            let usage = usage.unwrap_or_default();
            let used = usage.total_bytes.saturating_sub(usage.available_bytes);
            let (free, inodes) = (usage.available_bytes, usage.used_inodes);
            write!(line, "({ino}): ({used},{free},{inodes},{})", usage.available_inodes)
        });
        let usage = counted.await?;
        let block = u64::from(STATFS_BLOCK);
        Ok(StatFs {
            blocks: (usage.total_bytes / block).max(1),
            bfree: usage.available_bytes / block,
            bavail: usage.available_bytes / block,
            files: usage.used_inodes.saturating_add(usage.available_inodes),
            ffree: usage.available_inodes,
            bsize: STATFS_BLOCK,
            frsize: STATFS_BLOCK,
            namelen: MAX_NAME_BYTES as u32,
        })
    }
}

fn attr_text(answer: &VfsResult<AttrReply>) -> EntryText<'_> {
    EntryText(answer.as_ref().ok().map(|reply| (reply.ino, &reply.attr)))
}

/// The bits that the access log shows for what is set.
fn set_mask(set: &SetAttr, size: Option<u64>) -> u32 {
    let time = |time: Option<SetTime>, at: u32, now: u32| match time {
        None => 0,
        Some(SetTime::At(_)) => at,
        Some(SetTime::Now) => at | now,
    };
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    bit(set.mode.is_some(), 0x1)
        | bit(set.uid.is_some(), 0x2)
        | bit(set.gid.is_some(), 0x4)
        | bit(size.is_some(), 0x8)
        | time(set.atime, 0x10, 0x80)
        | time(set.mtime, 0x20, 0x100)
        | bit(set.tier.is_some(), 0x400)
        | bit(set.flags.is_some(), 0x8000)
}

fn write_set(line: &mut String, set: &SetAttr, size: Option<u64>) -> fmt::Result {
    let mut comma = "";
    let mut put = |name: &str, value: Option<String>| match value {
        None => Ok(()),
        Some(value) => write!(line, "{}{name}={value}", std::mem::replace(&mut comma, ",")),
    };
    let time = |time: SetTime| match time {
        SetTime::Now => "NOW".to_owned(),
        SetTime::At(at) => at.secs.to_string(),
    };
    put("mode", set.mode.map(|mode| format!("{}:0{mode:04o}", crate::internal::Mode(mode.into()))))?;
    put("uid", set.uid.map(|uid| uid.to_string()))?;
    put("gid", set.gid.map(|gid| gid.to_string()))?;
    put("atime", set.atime.map(time))?;
    put("mtime", set.mtime.map(time))?;
    put("size", size.map(|size| size.to_string()))
}
