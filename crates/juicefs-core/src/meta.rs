//! The metadata service, as the data path, the VFS and tools see it.

mod content;
pub(crate) mod names;
mod sessions;

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    acl::{AclKind, AclRule},
    attr::{Attr, SetAttr, Timestamp},
    caller::Caller,
    errno::Errno,
    error::MetaResult,
    format::Format,
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    lock::{FileLocks, GiveUp, LockKind, LockRange, RangeLock},
    slice::CompactionPlan,
    tree::{Cloning, Progress, RemovalWatch, Summary, TreeDetail, TreeRemoval, TreeSummary},
};

pub use self::{
    content::{ChunkRecords, Compacted, Copied, FallocateMode, NewSlice, OpenFlags, Written},
    names::{DirCursor, DirEntry, DirPage, Freed, NewNode, Removed, RenameFlags, Renamed},
    sessions::{Job, SessionInfo, SessionLoss},
};

/// The use and the limits of the volume, or of the innermost directory with a quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeUsage {
    /// Capacity in bytes. When there is no limit the number is made up (format: metadata.md §6.20).
    pub total_bytes: u64,
    /// Bytes still free.
    pub available_bytes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
    /// Inodes still free.
    pub available_inodes: u64,
}

/// Whether setxattr makes, replaces, or does both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XattrMode {
    /// Create or replace.
    #[default]
    Any,
    /// EEXIST when it is there.
    Create,
    /// ENODATA when it is not.
    Replace,
}

/// The metadata of one volume, for one client.
///
/// Every method is atomic and durable as the engine's commit is when it returns `Ok`. `Err(Posix)` means nothing
/// happened. `Err(Unavailable)` and `Err(Conflict)` on a changing method mean that the outcome was found out to be "not
/// applied", or could not be found out within the deadline. Methods are cancel safe in that a dropped future leaves the
/// operation either done or not done, never half done. Parents given as [`Ino::ROOT`] mean the root of the mount.
#[async_trait]
pub trait Meta: Send + Sync {
    /// The volume setting as last loaded.
    fn format(&self) -> Arc<Format>;
    /// The engine and its address without password, for logs.
    fn describe(&self) -> String;

    // ---- sessions and upkeep -------------------------------------------------------------------------------------

    /// Registers this client with `info` (JSON of metadata.md §5.4) and returns its number.
    async fn new_session(&self, info: Bytes) -> MetaResult<SessionId>;
    /// Flushes statistics, releases sustained inodes and locks and removes the session. Returns data to delete.
    async fn close_session(&self) -> MetaResult<Vec<Freed>>;
    /// Renews the session, and does nothing else, because others must not take this client for dead when something else
    /// takes long or fails. However late this is, the session is renewed as long as nobody has ended it.
    async fn heartbeat(&self) -> MetaResult<()>;
    /// The session in which changes are made now, 0 without one.
    fn session(&self) -> SessionId;
    /// Says whom to tell what was lost with a session that another client has ended. `tell` is called before
    /// [`Meta::session`] answers with the new session, and must not wait. It is set once.
    fn on_loss(&self, tell: Box<dyn Fn(&SessionLoss) + Send + Sync>);
    /// Takes a new session if the present one was ended, which an answer `Fenced` tells. Calls that are bound to a session
    /// give that answer; other calls that change something take a new session by themselves, and then do what they were
    /// asked for.
    async fn come_back(&self) -> MetaResult<()>;
    /// Takes up what others may have changed: the setting, the volume counters, quotas. `Setting` when the volume is gone or
    /// replaced.
    async fn refresh(&self) -> MetaResult<()>;
    /// Writes pending usage counters and directory statistics.
    async fn flush_stats(&self) -> MetaResult<()>;
    /// Frees files that a rename replaced some time ago and that nobody opened since. Returns data to delete. Files that
    /// cannot be freed now are logged, and freed with the end of the session.
    async fn release_replaced(&self) -> Vec<Freed>;
    /// All sessions, live and stale.
    async fn sessions(&self) -> MetaResult<Vec<SessionInfo>>;
    /// Whether this client is to run `job` now: at most one client in `interval_secs` gets `true`.
    async fn claim(&self, job: Job, interval_secs: u64) -> MetaResult<bool>;
    /// Looks at the sessions of others, and ends up to `limit` sessions of dead clients with what they hold. A client is dead
    /// if its record stayed the same for five heartbeats while this client was watching and the engine answered. This is to
    /// be called with every heartbeat, beside it. Returns data to delete.
    async fn clean_stale_sessions(&self, limit: usize) -> MetaResult<Vec<Freed>>;
    /// Removes sessions with what they hold, expired or not, because their clients are known to be dead. A session that is
    /// not there is passed over, and so is that of this client. Returns data to delete.
    async fn end_sessions(&self, dead: &[SessionId]) -> MetaResult<Vec<Freed>>;
    /// Files removed before `before` whose data is still there.
    async fn deleted_files(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>>;
    /// Drops the chunk lists of a removed file and its delfile record. Returns slices that lost their last reference.
    /// It works chunk by chunk and removes the record last, so that it can be started again.
    async fn delete_file_data(&self, file: Freed) -> MetaResult<Vec<SliceKey>>;
    /// Slices whose references are gone but whose record is not.
    async fn dead_slices(&self, limit: usize) -> MetaResult<Vec<SliceKey>>;
    /// Removes the record of a slice. Its objects must be gone before.
    async fn forget_slice(&self, slice: SliceKey) -> MetaResult<()>;
    /// Removes entries of trash directories older than `before`, at most about `limit`. Returns data to delete, and whether
    /// more is left that can be removed. Entries that cannot be removed are logged and passed over.
    async fn clean_trash(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<Freed>, bool)>;
    /// Drops the references of delayed slices older than `before`, which compactions leave while the trash is on. It takes
    /// those of about `limit` compactions. Returns slices that lost their last reference, and whether more is left.
    async fn release_delayed_slices(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<SliceKey>, bool)>;

    // ---- looking -------------------------------------------------------------------------------------------------

    /// Finds `name` (also `.` and `..`) in `parent`. ENOENT, ENOTDIR; EACCES if the caller is checked and may not
    /// search `parent`.
    async fn lookup(&self, cx: &Caller, parent: Ino, name: &[u8]) -> MetaResult<(Ino, Attr)>;
    /// The attributes of `ino` if they were read less than `most` ago, and how long ago that was. They include all
    /// changes that this client made since, and are never older than an answer that was given before. `None` when they
    /// are not known, so that [`Meta::getattr`] must be asked. It never waits.
    fn recent_attr(&self, ino: Ino, most: Duration) -> Option<(Attr, Duration)> {
        let _ = (ino, most);
        None
    }
    /// The attributes of `ino`. ENOENT.
    async fn getattr(&self, ino: Ino) -> MetaResult<Attr>;
    /// Fails with EACCES unless the caller has all of `mask` (R 4, W 2, X 1).
    async fn access(&self, cx: &Caller, ino: Ino, mask: u8) -> MetaResult<()>;
    /// The target of a symlink. EINVAL for another kind of node.
    async fn readlink(&self, ino: Ino) -> MetaResult<Bytes>;
    /// Reads a page of entries after `from` (`None`: from the start), without `.` and `..`. Whoever wants each name
    /// once uses a [`crate::Listing`]. ENOENT, ENOTDIR.
    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage>;
    /// The use and the limits of the volume, as statfs shows them for the mount.
    async fn statfs(&self, ino: Ino) -> MetaResult<VolumeUsage>;

    // ---- changing names ------------------------------------------------------------------------------------------

    /// Creates a node. EEXIST, ENOENT, ENOTDIR, EACCES, EPERM (immutable parent), ENOSPC, EDQUOT, EROFS.
    async fn mknod(&self, cx: &Caller, parent: Ino, name: &[u8], node: NewNode) -> MetaResult<(Ino, Attr)>;
    /// Makes a regular file and opens it. Without `exclusive` an existing regular file is opened instead.
    async fn create(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        exclusive: bool,
        flags: OpenFlags,
    ) -> MetaResult<(Ino, Attr)>;
    /// Makes a regular file without a name and opens it. The file inherits from `dir`. [`Meta::link`] may give it a
    /// name; otherwise it is gone with its last close. Errors are those of `create`.
    async fn create_unnamed(&self, cx: &Caller, dir: Ino, node: NewNode) -> MetaResult<(Ino, Attr)>;
    /// Removes the name of a non-directory, into the trash when the volume has one and `skip_trash` is not set.
    async fn unlink(&self, cx: &Caller, parent: Ino, name: &[u8], skip_trash: bool) -> MetaResult<Removed>;
    /// Removes an empty directory, and puts it into the trash likewise. ENOTEMPTY, ENOTDIR.
    async fn rmdir(&self, cx: &Caller, parent: Ino, name: &[u8], skip_trash: bool) -> MetaResult<Removed>;
    /// Moves `(from, name)` to `(to, new_name)`.
    async fn rename(
        &self,
        cx: &Caller,
        from: Ino,
        name: &[u8],
        to: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> MetaResult<Renamed>;
    /// Gives `ino` one more name. EPERM for directories.
    async fn link(&self, cx: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> MetaResult<Attr>;

    // ---- changing nodes ------------------------------------------------------------------------------------------

    /// Changes attributes except the size. ctime becomes now if anything changed.
    async fn setattr(&self, cx: &Caller, ino: Ino, set: SetAttr) -> MetaResult<Attr>;
    /// Sets the length. With `opened` the caller holds the file open for writing and permission bits do not count.
    async fn truncate(&self, cx: &Caller, ino: Ino, length: u64, opened: bool) -> MetaResult<Attr>;
    /// Reserves, punches or zeroes a range of an open file, as fallocate(2) does.
    async fn fallocate(&self, cx: &Caller, ino: Ino, mode: FallocateMode, off: u64, size: u64) -> MetaResult<Attr>;
    /// The value of an extended attribute. ENODATA, EACCES when the caller is checked.
    async fn getxattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<Bytes>;
    /// The names of the extended attributes, without those that a caller who is checked may not know of.
    async fn listxattr(&self, cx: &Caller, ino: Ino) -> MetaResult<Vec<Name>>;
    /// Sets an extended attribute; ctime becomes now.
    async fn setxattr(&self, cx: &Caller, ino: Ino, name: &[u8], value: Bytes, mode: XattrMode) -> MetaResult<()>;
    /// Removes an extended attribute. ENODATA.
    async fn removexattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<()>;

    /// An ACL rule of a node. ENODATA when it has none of this kind, ENOENT.
    async fn acl(&self, ino: Ino, kind: AclKind) -> MetaResult<AclRule>;
    /// Makes `rule` the access or the default rule of a node; the empty rule removes it. An access rule changes the
    /// mode too, and one that says no more than a mode only changes the mode. With `kill_sgid` (the caller is not in
    /// the group of the file) the file loses set-gid. ctime becomes now if anything changed.
    ///
    /// EPERM for a caller who is not the owner and on immutable and append-only nodes, EACCES for a default rule of a
    /// node that is no directory, EOPNOTSUPP for symlinks and on a volume without ACLs, EROFS.
    async fn set_acl(&self, cx: &Caller, ino: Ino, kind: AclKind, rule: AclRule, kill_sgid: bool) -> MetaResult<()>;

    // ---- content -------------------------------------------------------------------------------------------------

    /// Checks that the file may be opened in this way, and counts it as open here. Each call is paired with one of
    /// [`Meta::close`].
    async fn open(&self, cx: &Caller, ino: Ino, flags: OpenFlags) -> MetaResult<Attr>;
    /// Ends one open. If it was the last one of a removed file, the node is removed and its data to delete is returned.
    async fn close(&self, ino: Ino) -> MetaResult<Option<Freed>>;
    /// The raw list of a chunk, which is empty if it was never written to. ENOENT when the file is gone, EPERM for
    /// another kind.
    async fn read_chunk(&self, ino: Ino, index: ChunkIndex) -> MetaResult<ChunkRecords>;
    /// The first `limit` chunks of a range that have a list, in ascending order. All others are holes. It costs as much
    /// as the file holds, not as it spans. There are none for a file that is gone.
    async fn stored_chunks(&self, ino: Ino, range: Range<ChunkIndex>, limit: usize) -> MetaResult<Vec<ChunkIndex>>;
    /// An unused slice id.
    async fn new_slice_id(&self) -> MetaResult<SliceId>;
    /// Commits slices in the order given, all or none of them, and grows the length. Their objects must be durable
    /// before this is called. `mtime` is when the application wrote last. `session` is the one within which the slices
    /// must be committed, because what was written under locks is lost with them; 0 stands for a client without a
    /// session.
    ///
    /// ENOENT, EPERM for another kind, ENOSPC, EDQUOT; EFBIG beyond the largest file, EINVAL for a record that leaves
    /// its chunk, or a slice that is larger than one; `Fenced` when `session` has ended.
    ///
    /// An error means for certain that none of them is committed; `Unavailable` and `Conflict` may be tried again. As
    /// long as the outcome cannot be found out the call does not end, and whoever drops it does not know the outcome.
    async fn write_slices(
        &self,
        session: SessionId,
        ino: Ino,
        slices: Vec<NewSlice>,
        mtime: Timestamp,
    ) -> MetaResult<Written>;
    /// Copies a range by reference. It does not check permissions, which the caller has to do. EINVAL unless both are
    /// regular files.
    async fn copy_file_range(
        &self,
        cx: &Caller,
        from: Ino,
        from_off: u64,
        to: Ino,
        to_off: u64,
        size: u64,
    ) -> MetaResult<Copied>;
    /// Puts `bytes` more of the volume aside for what `ino` grew by and is not committed yet. Only this client keeps
    /// account of them. When [`Meta::write_slices`] makes the file grow it takes from them first. ENOSPC beyond the
    /// capacity.
    fn claim_space(&self, ino: Ino, bytes: u64) -> Result<(), Errno>;
    /// Gives back what is claimed for `ino` beyond `bytes`.
    fn trim_claim(&self, ino: Ino, bytes: u64);
    /// What a compaction of the chunk would do, `None` when nothing is to be gained.
    async fn plan_compaction(&self, ino: Ino, index: ChunkIndex) -> MetaResult<Option<CompactionPlan>>;
    /// Puts `slice` in the place of what `plan` read, if the list still begins with exactly that.
    async fn commit_compaction(
        &self,
        ino: Ino,
        index: ChunkIndex,
        plan: &CompactionPlan,
        slice: SliceId,
    ) -> MetaResult<Compacted>;
    /// Parents of `ino` with the number of names in each.
    async fn parents(&self, ino: Ino) -> MetaResult<BTreeMap<Ino, u64>>;

    // ---- locks ---------------------------------------------------------------------------------------------------
    //
    // Locks hold among all clients of the volume, and go with the session of their client at the latest. `owner` is a number
    // of the caller's choice: the same one names the same owner. A lock of a session that does not exist any more counts
    // for nothing. ENOENT when the file is gone; ENOLCK for a client without a session.

    /// Gives `owner` a lock on the whole file, as flock(2) does. It takes the place of a lock of the other kind that
    /// `owner` has: as on Linux the old lock is given up first, and is lost if the new one is not granted. Returns the
    /// attributes of the file as they were when the lock was granted, so that whatever an earlier holder committed is
    /// in them.
    ///
    /// When another owner holds a lock, the answer without `wait` is EAGAIN. With `wait` this waits, without holding a
    /// thread, in the order of arrival among the owners of this client. When this client releases a lock, whoever waits
    /// here wakes at once; when another client does, that is seen within a tenth of a second. EINTR once `wait` ends,
    /// ENOLCK when too many wait.
    ///
    /// Not cancel safe: a dropped call may leave the lock granted. Let `wait` end instead.
    async fn flock(&self, ino: Ino, owner: u64, kind: LockKind, wait: Option<GiveUp>) -> MetaResult<Attr>;
    /// Releases what [`Meta::flock`] gave. It succeeds also when there is nothing. Cancel safe.
    async fn funlock(&self, ino: Ino, owner: u64) -> MetaResult<()>;
    /// The first lock that keeps `owner` from getting `lock`, `None` when it could have it.
    async fn getlk(&self, ino: Ino, owner: u64, lock: RangeLock) -> MetaResult<Option<RangeLock>>;
    /// Gives `owner` a lock on a range of bytes, as fcntl(2) does, in the place of what it has there. It waits, fails
    /// and answers as [`Meta::flock`] does, but `owner` keeps what it has until it gets the new lock. EDEADLK when it
    /// would wait for an owner of this client that itself waits, directly or through others, for `owner`.
    async fn setlk(&self, ino: Ino, owner: u64, lock: RangeLock, wait: Option<GiveUp>) -> MetaResult<Attr>;
    /// Releases what `owner` has locked in `range`. It succeeds also when there is nothing. ENOLCK when too many pieces
    /// would be left. Cancel safe.
    async fn unlk(&self, ino: Ino, owner: u64, range: LockRange) -> MetaResult<()>;
    /// All locks of a file, of all clients, as they are stored.
    async fn locks(&self, ino: Ino) -> MetaResult<FileLocks>;

    // ---- trees ---------------------------------------------------------------------------------------------------

    /// Removes `name` of `parent` and everything below it, each entry as [`Meta::unlink`] and [`Meta::rmdir`] do, so
    /// that what goes into the trash lies there side by side. What was removed before an error or a stop stays removed.
    /// `progress` counts the entries that are gone, and `watch` learns of each. EACCES and EPERM as for those two,
    /// EINTR.
    async fn remove_tree(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        how: TreeRemoval,
        watch: &dyn RemovalWatch,
        progress: &Progress,
    ) -> MetaResult<()>;
    /// Makes the name `to` in a directory a copy of `source` and everything below it, with the same slices. A directory
    /// appears at once when all of it is there; if the copy fails, or this client dies, nothing of it ever shows.
    /// Returns the new inode. `progress` counts the nodes that are done, and all nodes. If the copy is given up,
    /// `watch` learns of what is taken away again.
    ///
    /// EEXIST, ENOENT, EACCES without the right to read the source, EPERM for the trash, ENOSPC, EDQUOT, EROFS, EINTR.
    async fn clone_tree(
        &self,
        cx: &Caller,
        source: Ino,
        to: (Ino, &[u8]),
        how: Cloning,
        watch: &dyn RemovalWatch,
        progress: &Progress,
    ) -> MetaResult<Ino>;
    /// Removes what is left of copies of directories that were begun before `before` and not completed. Returns data to
    /// delete.
    async fn clean_detached(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>>;
    /// What `ino` holds. With `recursive` it includes everything below a directory, otherwise the directory and its own
    /// entries. With `strict` every node is counted; otherwise the statistics of directories are trusted. `progress`
    /// counts files and bytes. ENOENT, EINTR; EACCES when the caller is checked and may not read a node that is looked
    /// into.
    async fn summarize(
        &self,
        cx: &Caller,
        ino: Ino,
        recursive: bool,
        strict: bool,
        progress: &Progress,
    ) -> MetaResult<Summary>;
    /// What `ino` holds, entry by entry. `progress` counts nodes and bytes. Errors are those of [`Meta::summarize`].
    async fn summarize_tree(
        &self,
        cx: &Caller,
        ino: Ino,
        detail: TreeDetail,
        progress: &Progress,
    ) -> MetaResult<TreeSummary>;
    /// Fails with EACCES unless the caller can walk to `ino` from the root of the mount on one of its paths. This is
    /// for callers who name a node by its number, which anybody can guess. ENOENT.
    async fn reach(&self, cx: &Caller, ino: Ino) -> MetaResult<()>;
    /// The paths of `ino` from the root of the mount, at most `limit`. There is none for a node without a name.
    async fn paths(&self, ino: Ino, limit: usize) -> MetaResult<Vec<Vec<u8>>>;
}
