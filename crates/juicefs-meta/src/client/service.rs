//! [`Meta`] as this client answers it.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{
    Caller, Meta,
    acl::{AclKind, AclRule},
    attr::{Attr, SetAttr, Timestamp},
    errno::Errno,
    error::{MetaError, MetaResult},
    format::Format,
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    lock::{FileLocks, GiveUp, LockKind, LockRange, RangeLock},
    meta::{
        ChunkRecords, Compacted, Copied, DirCursor, DirPage, FallocateMode, Freed, Job, NewNode, NewSlice, OpenFlags,
        Removed, RenameFlags, Renamed, SessionInfo, SessionLoss, VolumeUsage, Written, XattrMode,
    },
    slice::CompactionPlan,
    tree::{Cloning, Progress, RemovalWatch, Summary, TreeDetail, TreeRemoval, TreeSummary},
};

use super::{Client, liveness::CALLS};

/// Makes a call that changes something, anew in a new session when its own was ended meanwhile. It must be one that has nothing to
/// do with what a session keeps.
macro_rules! lasting {
    ($client:ident, $call:expr) => {{
        let mut calls = 1;
        loop {
            match $call.await {
                Err(MetaError::Fenced) if calls < CALLS => {
                    calls += 1;
                    Self::come_back($client).await?;
                }
                done => break done,
            }
        }
    }};
}

#[async_trait]
impl Meta for Client {
    fn format(&self) -> Arc<Format> {
        self.setting()
    }

    fn describe(&self) -> String {
        self.engine.describe()
    }

    async fn new_session(&self, info: Bytes) -> MetaResult<SessionId> {
        self.register(info).await
    }

    async fn close_session(&self) -> MetaResult<Vec<Freed>> {
        self.unregister().await
    }

    async fn heartbeat(&self) -> MetaResult<()> {
        self.renew().await
    }

    fn session(&self) -> SessionId {
        self.sid()
    }

    fn on_loss(&self, tell: Box<dyn Fn(&SessionLoss) + Send + Sync>) {
        self.tell_loss(tell);
    }

    async fn come_back(&self) -> MetaResult<()> {
        Self::come_back(self).await
    }

    async fn refresh(&self) -> MetaResult<()> {
        self.take_up().await
    }

    async fn flush_stats(&self) -> MetaResult<()> {
        self.write_stats(false).await
    }

    async fn release_replaced(&self) -> Vec<Freed> {
        self.free_replaced().await
    }

    async fn sessions(&self) -> MetaResult<Vec<SessionInfo>> {
        self.list_sessions().await
    }

    async fn claim(&self, job: Job, interval_secs: u64) -> MetaResult<bool> {
        self.claim_job(job, interval_secs).await
    }

    async fn clean_stale_sessions(&self, limit: usize) -> MetaResult<Vec<Freed>> {
        self.clean_sessions(limit).await
    }

    async fn end_sessions(&self, dead: &[SessionId]) -> MetaResult<Vec<Freed>> {
        self.end_others(dead).await
    }

    async fn deleted_files(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>> {
        self.removed_files(before, limit).await
    }

    async fn delete_file_data(&self, file: Freed) -> MetaResult<Vec<SliceKey>> {
        self.drop_file_data(file).await
    }

    async fn dead_slices(&self, limit: usize) -> MetaResult<Vec<SliceKey>> {
        self.slices_without_use(limit).await
    }

    async fn forget_slice(&self, slice: SliceKey) -> MetaResult<()> {
        self.forget(slice).await
    }

    async fn clean_trash(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<Freed>, bool)> {
        self.empty_trash(before, limit).await
    }

    async fn release_delayed_slices(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<SliceKey>, bool)> {
        self.release_delayed(before, limit).await
    }

    async fn lookup(&self, cx: &Caller, parent: Ino, name: &[u8]) -> MetaResult<(Ino, Attr)> {
        self.look_up(cx, parent, name).await
    }

    fn recent_attr(&self, ino: Ino, most: Duration) -> Option<(Attr, Duration)> {
        self.looks.recall(self.real(ino), most)
    }

    async fn getattr(&self, ino: Ino) -> MetaResult<Attr> {
        self.attributes(self.real(ino)).await
    }

    async fn access(&self, cx: &Caller, ino: Ino, mask: u8) -> MetaResult<()> {
        self.check_access(cx, self.real(ino), mask).await
    }

    async fn readlink(&self, ino: Ino) -> MetaResult<Bytes> {
        self.read_link(self.real(ino)).await
    }

    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        self.read_directory(self.real(ino), from, with_attrs, limit).await
    }

    async fn statfs(&self, ino: Ino) -> MetaResult<VolumeUsage> {
        self.usage_seen_from(self.real(ino)).await
    }

    async fn mknod(&self, cx: &Caller, parent: Ino, name: &[u8], node: NewNode) -> MetaResult<(Ino, Attr)> {
        lasting!(self, self.make_node(cx, self.real(parent), name, node.clone()))
    }

    async fn create(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        exclusive: bool,
        flags: OpenFlags,
    ) -> MetaResult<(Ino, Attr)> {
        lasting!(self, self.create_file(cx, self.real(parent), name, node.clone(), exclusive, flags))
    }

    async fn create_unnamed(&self, cx: &Caller, dir: Ino, node: NewNode) -> MetaResult<(Ino, Attr)> {
        lasting!(self, self.make_unnamed(cx, self.real(dir), node.clone()))
    }

    async fn unlink(&self, cx: &Caller, parent: Ino, name: &[u8], skip_trash: bool) -> MetaResult<Removed> {
        lasting!(self, self.unlink_name(cx, self.real(parent), name, skip_trash))
    }

    async fn rmdir(&self, cx: &Caller, parent: Ino, name: &[u8], skip_trash: bool) -> MetaResult<Removed> {
        lasting!(self, self.remove_directory(cx, self.real(parent), name, skip_trash))
    }

    async fn rename(
        &self,
        cx: &Caller,
        from: Ino,
        name: &[u8],
        to: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> MetaResult<Renamed> {
        let (from, to) = (self.real(from), self.real(to));
        lasting!(self, self.move_name(cx, (from, name), (to, new_name), flags))
    }

    async fn link(&self, cx: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> MetaResult<Attr> {
        lasting!(self, self.link_name(cx, self.real(ino), self.real(parent), name))
    }

    async fn setattr(&self, cx: &Caller, ino: Ino, set: SetAttr) -> MetaResult<Attr> {
        lasting!(self, self.set_attributes(cx, self.real(ino), set.clone()))
    }

    async fn truncate(&self, cx: &Caller, ino: Ino, length: u64, opened: bool) -> MetaResult<Attr> {
        self.set_length(cx, self.real(ino), length, opened).await
    }

    async fn fallocate(&self, cx: &Caller, ino: Ino, mode: FallocateMode, off: u64, size: u64) -> MetaResult<Attr> {
        self.allocate(cx, self.real(ino), mode, off, size).await
    }

    async fn getxattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<Bytes> {
        self.read_xattr(cx, self.real(ino), name).await
    }

    async fn listxattr(&self, cx: &Caller, ino: Ino) -> MetaResult<Vec<Name>> {
        self.xattr_names(cx, self.real(ino)).await
    }

    async fn setxattr(&self, cx: &Caller, ino: Ino, name: &[u8], value: Bytes, mode: XattrMode) -> MetaResult<()> {
        lasting!(self, self.change_xattr(cx, self.real(ino), name, Some(value.clone()), mode))
    }

    async fn removexattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<()> {
        lasting!(self, self.change_xattr(cx, self.real(ino), name, None, XattrMode::Any))
    }

    async fn acl(&self, ino: Ino, kind: AclKind) -> MetaResult<AclRule> {
        self.read_acl(self.real(ino), kind).await
    }

    async fn set_acl(&self, cx: &Caller, ino: Ino, kind: AclKind, rule: AclRule, kill_sgid: bool) -> MetaResult<()> {
        lasting!(self, self.change_acl(cx, self.real(ino), kind, rule.clone(), kill_sgid))
    }

    async fn open(&self, cx: &Caller, ino: Ino, flags: OpenFlags) -> MetaResult<Attr> {
        self.open_file(cx, self.real(ino), flags).await
    }

    async fn close(&self, ino: Ino) -> MetaResult<Option<Freed>> {
        self.close_file(self.real(ino)).await
    }

    async fn read_chunk(&self, ino: Ino, index: ChunkIndex) -> MetaResult<ChunkRecords> {
        self.chunk_records(ino, index).await
    }

    async fn stored_chunks(&self, ino: Ino, range: Range<ChunkIndex>, limit: usize) -> MetaResult<Vec<ChunkIndex>> {
        self.engine.chunk_indexes(self.real(ino), range.start, range.end, limit).await
    }

    async fn new_slice_id(&self) -> MetaResult<SliceId> {
        self.take_slice_id().await
    }

    async fn write_slices(
        &self,
        session: SessionId,
        ino: Ino,
        slices: Vec<NewSlice>,
        mtime: Timestamp,
    ) -> MetaResult<Written> {
        self.commit_slices(session, ino, slices, mtime).await
    }

    fn claim_space(&self, ino: Ino, bytes: u64) -> Result<(), Errno> {
        self.books.usage.claim(&self.setting(), ino, bytes)
    }

    fn trim_claim(&self, ino: Ino, bytes: u64) {
        self.books.usage.trim_claim(ino, bytes);
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
        self.copy_range(cx, (from, from_off), (to, to_off), size).await
    }

    async fn plan_compaction(&self, ino: Ino, index: ChunkIndex) -> MetaResult<Option<CompactionPlan>> {
        self.compaction_plan(ino, index).await
    }

    async fn commit_compaction(
        &self,
        ino: Ino,
        index: ChunkIndex,
        plan: &CompactionPlan,
        slice: SliceId,
    ) -> MetaResult<Compacted> {
        self.compact(ino, index, plan, slice).await
    }

    async fn parents(&self, ino: Ino) -> MetaResult<BTreeMap<Ino, u64>> {
        self.parents_of(self.real(ino)).await
    }

    async fn flock(&self, ino: Ino, owner: u64, kind: LockKind, wait: Option<GiveUp>) -> MetaResult<Attr> {
        self.lock_file(self.real(ino), owner, kind, wait).await
    }

    async fn funlock(&self, ino: Ino, owner: u64) -> MetaResult<()> {
        self.unlock_file(self.real(ino), owner).await
    }

    async fn getlk(&self, ino: Ino, owner: u64, lock: RangeLock) -> MetaResult<Option<RangeLock>> {
        self.range_obstacle(self.real(ino), owner, lock).await
    }

    async fn setlk(&self, ino: Ino, owner: u64, lock: RangeLock, wait: Option<GiveUp>) -> MetaResult<Attr> {
        self.lock_range(self.real(ino), owner, lock, wait).await
    }

    async fn unlk(&self, ino: Ino, owner: u64, range: LockRange) -> MetaResult<()> {
        self.unlock_range(self.real(ino), owner, range).await
    }

    async fn locks(&self, ino: Ino) -> MetaResult<FileLocks> {
        self.list_locks(self.real(ino)).await
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
        lasting!(self, self.remove_whole(cx, (self.real(parent), name), how, watch, progress))
    }

    async fn clone_tree(
        &self,
        cx: &Caller,
        source: Ino,
        (to, name): (Ino, &[u8]),
        how: Cloning,
        watch: &dyn RemovalWatch,
        progress: &Progress,
    ) -> MetaResult<Ino> {
        let (source, to) = (self.real(source), self.real(to));
        lasting!(self, self.clone_whole(cx, source, (to, name), how, watch, progress))
    }

    async fn clean_detached(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>> {
        self.clean_unattached(before, limit).await
    }

    async fn summarize(
        &self,
        cx: &Caller,
        ino: Ino,
        recursive: bool,
        strict: bool,
        progress: &Progress,
    ) -> MetaResult<Summary> {
        self.summarize_whole(cx, self.real(ino), recursive, strict, progress).await
    }

    async fn summarize_tree(
        &self,
        cx: &Caller,
        ino: Ino,
        detail: TreeDetail,
        progress: &Progress,
    ) -> MetaResult<TreeSummary> {
        self.summarize_parts(cx, self.real(ino), detail, progress).await
    }

    async fn reach(&self, cx: &Caller, ino: Ino) -> MetaResult<()> {
        self.may_reach(cx, self.real(ino)).await
    }

    async fn paths(&self, ino: Ino, limit: usize) -> MetaResult<Vec<Vec<u8>>> {
        self.paths_of(self.real(ino), limit).await
    }
}
