//! The metadata service: each call is noted, may fail as a test wants, and then does its work under the one lock.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, ChunkIndex, Errno, FileType, Format, Ino, Meta, MetaError, MetaResult, Name, SessionId, SetAttr,
    SliceId, SliceKey, Timestamp,
    acl::{AclKind, AclRule},
    listing::Directories,
    lock::{FileLocks, GiveUp, LockKind, LockRange, RangeLock},
    meta::{
        ChunkRecords, Compacted, Copied, DirCursor, DirPage, FallocateMode, Freed, Job, NewNode, NewSlice, OpenFlags,
        Removed, RenameFlags, Renamed, SessionInfo, SessionLoss, VolumeUsage, Written, XattrMode,
    },
    slice::{CompactionPlan, plan_compaction},
    tree::{Cloning, Progress, RemovalWatch, Summary, TreeDetail, TreeRemoval, TreeSummary},
};

use super::{MemMeta, Waiting, listing::Plain, locks::whole};

#[async_trait]
impl Meta for MemMeta {
    fn format(&self) -> Arc<Format> {
        Self::setting()
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    async fn new_session(&self, _info: Bytes) -> MetaResult<SessionId> {
        Ok(SessionId(1))
    }

    async fn close_session(&self) -> MetaResult<Vec<Freed>> {
        self.note("close_session", Ino::ROOT)?;
        Ok(Vec::new())
    }

    async fn heartbeat(&self) -> MetaResult<()> {
        self.note("heartbeat", Ino::ROOT)?;
        self.next_session()
    }

    fn session(&self) -> SessionId {
        self.lives.session()
    }

    fn on_loss(&self, tell: Box<dyn Fn(&SessionLoss) + Send + Sync>) {
        self.lives.on_loss(tell);
    }

    async fn come_back(&self) -> MetaResult<()> {
        self.next_session()
    }

    async fn refresh(&self) -> MetaResult<()> {
        self.note("refresh", Ino::ROOT)
    }

    async fn release_replaced(&self) -> Vec<Freed> {
        Vec::new()
    }

    async fn flush_stats(&self) -> MetaResult<()> {
        Ok(())
    }

    async fn sessions(&self) -> MetaResult<Vec<SessionInfo>> {
        Ok(Vec::new())
    }

    async fn claim(&self, _job: Job, _interval_secs: u64) -> MetaResult<bool> {
        Ok(true)
    }

    async fn clean_stale_sessions(&self, _limit: usize) -> MetaResult<Vec<Freed>> {
        self.note("clean_stale_sessions", Ino::ROOT)?;
        Ok(Vec::new())
    }

    async fn end_sessions(&self, _dead: &[SessionId]) -> MetaResult<Vec<Freed>> {
        Ok(Vec::new())
    }

    async fn deleted_files(&self, _before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>> {
        let state = self.state.lock();
        Ok(state.deleted.keys().take(limit).map(|ino| Freed { ino: *ino, length: 0 }).collect())
    }

    async fn delete_file_data(&self, file: Freed) -> MetaResult<Vec<SliceKey>> {
        self.note("delete_file_data", file.ino)?;
        let mut state = self.state.lock();
        let chunks = state.deleted.remove(&file.ino).unwrap_or_default();
        Ok(chunks.into_values().flatten().filter_map(|record| state.unrefer(&record)).collect())
    }

    async fn dead_slices(&self, _limit: usize) -> MetaResult<Vec<SliceKey>> {
        Ok(Vec::new())
    }

    async fn forget_slice(&self, _slice: SliceKey) -> MetaResult<()> {
        self.note("forget_slice", Ino::ROOT)
    }

    async fn clean_trash(&self, _before: Timestamp, _limit: usize) -> MetaResult<(Vec<Freed>, bool)> {
        Ok((Vec::new(), false))
    }

    async fn release_delayed_slices(&self, _before: Timestamp, _limit: usize) -> MetaResult<(Vec<SliceKey>, bool)> {
        Ok((Vec::new(), false))
    }

    async fn lookup(&self, _cx: &Caller, parent: Ino, name: &[u8]) -> MetaResult<(Ino, Attr)> {
        self.note("lookup", parent)?;
        let state = self.state.lock();
        let ino = state.child(parent, name)?;
        Ok((ino, state.node(ino)?.attr.clone()))
    }

    async fn getattr(&self, ino: Ino) -> MetaResult<Attr> {
        self.note("getattr", ino)?;
        Ok(self.state.lock().node(ino)?.attr.clone())
    }

    async fn access(&self, cx: &Caller, ino: Ino, mask: u8) -> MetaResult<()> {
        self.note("access", ino)?;
        Ok(self.state.lock().access(cx, ino, mask)?)
    }

    async fn readlink(&self, ino: Ino) -> MetaResult<Bytes> {
        self.note("readlink", ino)?;
        let state = self.state.lock();
        let node = state.node(ino)?;
        if node.attr.kind == FileType::Symlink { Ok(node.target.clone()) } else { Err(Errno::EINVAL.into()) }
    }

    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        self.note("readdir", ino)?;
        let how = *self.listings.lock();
        match how {
            Some(how) => how.page(&Plain(self), ino, from, with_attrs, limit).await,
            None => Plain(self).page(ino, from, with_attrs, limit).await,
        }
    }

    async fn statfs(&self, _ino: Ino) -> MetaResult<VolumeUsage> {
        let state = self.state.lock();
        let total = state.capacity_bytes.unwrap_or(1 << 50);
        Ok(VolumeUsage {
            total_bytes: total,
            available_bytes: total.saturating_sub(state.used_bytes()),
            used_inodes: state.nodes.len() as u64,
            available_inodes: 10 << 20,
        })
    }

    async fn mknod(&self, cx: &Caller, parent: Ino, name: &[u8], node: NewNode) -> MetaResult<(Ino, Attr)> {
        self.note("mknod", parent)?;
        Ok(self.state.lock().insert(cx, parent, name, &node, self.clock.now())?)
    }

    async fn create(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        exclusive: bool,
        _flags: OpenFlags,
    ) -> MetaResult<(Ino, Attr)> {
        self.note("create", parent)?;
        Ok(self.state.lock().create(cx, parent, name, &node, exclusive, self.clock.now())?)
    }

    async fn create_unnamed(&self, cx: &Caller, dir: Ino, node: NewNode) -> MetaResult<(Ino, Attr)> {
        self.note("create_unnamed", dir)?;
        Ok(self.state.lock().create_unnamed(cx, dir, &node, self.clock.now())?)
    }

    async fn unlink(&self, _cx: &Caller, parent: Ino, name: &[u8], _skip_trash: bool) -> MetaResult<Removed> {
        self.note("unlink", parent)?;
        Ok(self.state.lock().unlink(parent, name, self.clock.now())?)
    }

    async fn rmdir(&self, _cx: &Caller, parent: Ino, name: &[u8], _skip_trash: bool) -> MetaResult<Removed> {
        self.note("rmdir", parent)?;
        match name {
            b"." => Err(Errno::EINVAL.into()),
            b".." => Err(Errno::ENOTEMPTY.into()),
            name => Ok(self.state.lock().remove_dir(parent, name, self.clock.now())?),
        }
    }

    async fn rename(
        &self,
        _cx: &Caller,
        from: Ino,
        name: &[u8],
        to: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> MetaResult<Renamed> {
        self.note("rename", from)?;
        Ok(self.state.lock().rename((from, name), (to, new_name), flags, self.clock.now())?)
    }

    async fn link(&self, _cx: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> MetaResult<Attr> {
        self.note("link", ino)?;
        Ok(self.state.lock().link(ino, parent, name, self.clock.now())?)
    }

    async fn setattr(&self, _cx: &Caller, ino: Ino, set: SetAttr) -> MetaResult<Attr> {
        self.note("setattr", ino)?;
        Ok(self.state.lock().set_attr(ino, &set, self.clock.now())?)
    }

    async fn truncate(&self, cx: &Caller, ino: Ino, length: u64, _opened: bool) -> MetaResult<Attr> {
        self.note("truncate", ino)?;
        self.check_session(cx.session)?;
        Ok(self.state.lock().truncate(ino, length, self.clock.now())?)
    }

    async fn fallocate(&self, cx: &Caller, ino: Ino, mode: FallocateMode, off: u64, size: u64) -> MetaResult<Attr> {
        self.note("fallocate", ino)?;
        self.check_session(cx.session)?;
        Ok(self.state.lock().fallocate(ino, mode, off, size, self.clock.now())?)
    }

    async fn getxattr(&self, _cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<Bytes> {
        self.note("getxattr", ino)?;
        Ok(self.state.lock().node(ino)?.xattrs.get(name).cloned().ok_or(Errno::ENODATA)?)
    }

    async fn listxattr(&self, _cx: &Caller, ino: Ino) -> MetaResult<Vec<Name>> {
        self.note("listxattr", ino)?;
        Ok(self.state.lock().node(ino)?.xattrs.keys().cloned().map(Name).collect())
    }

    async fn setxattr(&self, _cx: &Caller, ino: Ino, name: &[u8], value: Bytes, mode: XattrMode) -> MetaResult<()> {
        self.note("setxattr", ino)?;
        Ok(self.state.lock().set_xattr(ino, name, value, mode)?)
    }

    async fn removexattr(&self, _cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<()> {
        self.note("removexattr", ino)?;
        self.state.lock().node_mut(ino)?.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        Ok(())
    }

    async fn acl(&self, ino: Ino, kind: AclKind) -> MetaResult<AclRule> {
        self.note("acl", ino)?;
        let rule = self.state.lock().node(ino)?.rules.iter().find(|(known, _)| *known == kind).cloned();
        Ok(rule.map(|(_, rule)| rule).ok_or(Errno::ENODATA)?)
    }

    async fn set_acl(&self, _cx: &Caller, ino: Ino, kind: AclKind, rule: AclRule, _kill_sgid: bool) -> MetaResult<()> {
        self.note("set_acl", ino)?;
        Ok(self.state.lock().set_rule(ino, kind, rule)?)
    }

    async fn open(&self, _cx: &Caller, ino: Ino, _flags: OpenFlags) -> MetaResult<Attr> {
        self.note("open", ino)?;
        let mut state = self.state.lock();
        let node = state.node_mut(ino)?;
        node.opens += 1;
        Ok(node.attr.clone())
    }

    async fn close(&self, ino: Ino) -> MetaResult<Option<Freed>> {
        self.note("close", ino)?;
        let mut state = self.state.lock();
        state.node_mut(ino)?.opens -= 1;
        Ok(state.reap(ino))
    }

    async fn read_chunk(&self, ino: Ino, index: ChunkIndex) -> MetaResult<ChunkRecords> {
        self.note("read_chunk", ino)?;
        let waiting = Waiting::in_line(&self.waiting);
        while self.held.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        drop(waiting);
        let mut state = self.state.lock();
        Ok(ChunkRecords { records: state.file_mut(ino)?.chunks.get(&index).cloned().unwrap_or_default() })
    }

    async fn stored_chunks(&self, ino: Ino, range: Range<ChunkIndex>, limit: usize) -> MetaResult<Vec<ChunkIndex>> {
        self.note("stored_chunks", ino)?;
        let mut state = self.state.lock();
        let Ok(node) = state.file_mut(ino) else { return Ok(Vec::new()) };
        Ok(node.chunks.range(range).map(|(index, _)| *index).take(limit).collect())
    }

    async fn new_slice_id(&self) -> MetaResult<SliceId> {
        self.note("new_slice_id", Ino::ROOT)?;
        let mut state = self.state.lock();
        state.next_slice += 1;
        Ok(SliceId(state.next_slice - 1))
    }

    async fn write_slices(
        &self,
        session: SessionId,
        ino: Ino,
        slices: Vec<NewSlice>,
        mtime: Timestamp,
    ) -> MetaResult<Written> {
        self.note("write_slices", ino)?;
        let mut held = self.commits_held.subscribe();
        // The sender lives as long as self, so waiting cannot fail.
        let _ = held.wait_for(|held| !held).await;
        self.check_session(session)?;
        Ok(self.state.lock().write(ino, slices, mtime, self.clock.now())?)
    }

    fn claim_space(&self, ino: Ino, bytes: u64) -> Result<(), Errno> {
        self.state.lock().claim(ino, bytes)
    }

    fn trim_claim(&self, ino: Ino, bytes: u64) {
        self.state.lock().trim_claim(ino, bytes);
    }

    async fn copy_file_range(
        &self,
        cx: &Caller,
        from: Ino,
        from_off: u64,
        to: Ino,
        to_off: u64,
        size: u64,
    ) -> MetaResult<Copied> {
        self.note("copy_file_range", to)?;
        self.check_session(cx.session)?;
        Ok(self.state.lock().copy(from, from_off, to, to_off, size)?)
    }

    async fn plan_compaction(&self, ino: Ino, index: ChunkIndex) -> MetaResult<Option<CompactionPlan>> {
        self.note("plan_compaction", ino)?;
        Ok(plan_compaction(&self.chunk(ino, index), 1000))
    }

    async fn commit_compaction(
        &self,
        ino: Ino,
        index: ChunkIndex,
        plan: &CompactionPlan,
        slice: SliceId,
    ) -> MetaResult<Compacted> {
        self.note("commit_compaction", ino)?;
        Ok(self.state.lock().compact(ino, index, plan, slice))
    }

    async fn parents(&self, ino: Ino) -> MetaResult<BTreeMap<Ino, u64>> {
        let parents = self.state.lock().parents(ino);
        if parents.is_empty() { Err(MetaError::Posix(Errno::ENOENT)) } else { Ok(parents) }
    }

    async fn flock(&self, ino: Ino, owner: u64, kind: LockKind, wait: Option<GiveUp>) -> MetaResult<Attr> {
        self.note("flock", ino)?;
        self.take_lock(true, ino, owner, whole(kind), wait).await
    }

    async fn funlock(&self, ino: Ino, owner: u64) -> MetaResult<()> {
        self.note("funlock", ino)?;
        self.drop_lock(true, ino, owner, LockRange::ALL);
        Ok(())
    }

    async fn getlk(&self, ino: Ino, owner: u64, lock: RangeLock) -> MetaResult<Option<RangeLock>> {
        self.note("getlk", ino)?;
        Ok(self.lock_obstacle(ino, owner, lock))
    }

    async fn setlk(&self, ino: Ino, owner: u64, lock: RangeLock, wait: Option<GiveUp>) -> MetaResult<Attr> {
        self.note("setlk", ino)?;
        self.take_lock(false, ino, owner, lock, wait).await
    }

    async fn unlk(&self, ino: Ino, owner: u64, range: LockRange) -> MetaResult<()> {
        self.note("unlk", ino)?;
        self.drop_lock(false, ino, owner, range);
        Ok(())
    }

    async fn locks(&self, ino: Ino) -> MetaResult<FileLocks> {
        Ok(self.all_locks(ino))
    }

    async fn remove_tree(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        how: TreeRemoval,
        watch: &dyn RemovalWatch,
        progress: &Progress,
    ) -> MetaResult<()> {
        self.note("remove_tree", parent)?;
        self.remove_all(cx, (parent, name), how, watch, progress).await
    }

    async fn clone_tree(
        &self,
        _cx: &Caller,
        _source: Ino,
        _to: (Ino, &[u8]),
        _how: Cloning,
        _watch: &dyn RemovalWatch,
        _progress: &Progress,
    ) -> MetaResult<Ino> {
        Err(MetaError::Unsupported("copies of trees in memory"))
    }

    async fn clean_detached(&self, _before: Timestamp, _limit: usize) -> MetaResult<Vec<Freed>> {
        Ok(Vec::new())
    }

    async fn summarize(
        &self,
        _cx: &Caller,
        ino: Ino,
        _recursive: bool,
        _strict: bool,
        progress: &Progress,
    ) -> MetaResult<Summary> {
        self.count(ino, progress).await
    }

    async fn summarize_tree(
        &self,
        cx: &Caller,
        ino: Ino,
        detail: TreeDetail,
        progress: &Progress,
    ) -> MetaResult<TreeSummary> {
        let summary = self.summarize(cx, ino, true, detail.strict, progress).await?;
        let kind = self.getattr(ino).await?.kind;
        Ok(TreeSummary { ino, path: Vec::new(), kind, summary, children: Vec::new() })
    }

    async fn reach(&self, _cx: &Caller, ino: Ino) -> MetaResult<()> {
        self.getattr(ino).await.map(drop)
    }

    async fn paths(&self, ino: Ino, _limit: usize) -> MetaResult<Vec<Vec<u8>>> {
        self.note("paths", ino)?;
        Ok(Vec::new())
    }
}
