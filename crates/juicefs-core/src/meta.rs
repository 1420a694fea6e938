//! The metadata service as the data path, the VFS and tools see it.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    acl::{AclKind, AclRule},
    attr::{Attr, FileType, SetAttr, Timestamp},
    caller::Caller,
    errno::Errno,
    error::MetaResult,
    format::Format,
    ids::{ChunkIndex, Ino, Name, SessionId, SliceId, SliceKey},
    lock::{FileLocks, GiveUp, LockKind, LockRange, RangeLock},
    slice::{CompactionPlan, SliceRecord},
    tree::{Cloning, Progress, RemovalWatch, Summary, TreeDetail, TreeRemoval, TreeSummary},
};

/// What a new node is to be.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Kind of the node.
    pub kind: FileType,
    /// Requested permission bits (0..=0o7777), before the umask.
    pub mode: u16,
    /// The caller's umask.
    pub umask: u16,
    /// Device number; only for device nodes.
    pub rdev: u32,
    /// Target; only for symlinks.
    pub target: Bytes,
}

/// A file whose last name is gone and whose data can be deleted (`Meta::delete_file_data`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freed {
    /// The former inode.
    pub ino: Ino,
    /// Its length when it was removed.
    pub length: u64,
}

/// What an operation that removes a name did besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// The inode whose name went; `None` when nothing was replaced (rename).
    pub ino: Option<Ino>,
    /// Data that nothing refers to any more.
    pub freed: Option<Freed>,
}

/// Answer to a rename.
#[derive(Clone, Debug)]
pub struct Renamed {
    /// The node that moved.
    pub ino: Ino,
    /// Its attributes afterwards.
    pub attr: Attr,
    /// What it replaced.
    pub replaced: Removed,
}

/// `renameat2` flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RenameFlags {
    /// Fail with EEXIST when the target exists.
    pub no_replace: bool,
    /// Swap source and target.
    pub exchange: bool,
    /// Leave a whiteout behind, the character device 0:0. EINVAL with `exchange`.
    pub whiteout: bool,
    /// Moves out of the trash into a directory that may itself be in the trash (`restore` only).
    pub restore: bool,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// Content will be read.
    pub read: bool,
    /// Content will be written.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// The file will be truncated by a setattr that follows.
    pub truncate: bool,
    /// The file is opened to be executed.
    pub exec: bool,
    /// Reading leaves the access time alone, which is for owners to ask for.
    pub no_atime: bool,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name within the directory; never `.` or `..`.
    pub name: Name,
    /// The inode it names.
    pub ino: Ino,
    /// Kind of the node as the entry records it.
    pub kind: FileType,
    /// Attributes, when they were asked for and the node exists.
    pub attr: Option<Attr>,
}

/// Where to go on reading a directory; opaque, valid for the engine that gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirCursor(pub Bytes);

/// Some entries of a directory.
#[derive(Clone, Debug, Default)]
pub struct DirPage {
    /// Entries in the engine's order. An entry present during the whole listing appears on one of the pages, and on more than one
    /// only while others are removed, or when the listing began anew.
    pub entries: Vec<DirEntry>,
    /// Where the next page starts, `None` at the end.
    pub next: Option<DirCursor>,
    /// The place that was asked for means nothing any more, since the directory is on another server now: this is the first page
    /// again.
    pub anew: bool,
    /// All entries of the listing come in the order of their names, so that none comes twice unless the listing begins anew.
    pub by_name: bool,
}

/// Use and limits of the volume (or of the innermost quota directory).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeUsage {
    /// Capacity in bytes, made up when there is no limit (format: metadata.md §6.20).
    pub total_bytes: u64,
    /// Bytes still free.
    pub available_bytes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
    /// Inodes still free.
    pub available_inodes: u64,
}

/// What a new size or allocation must not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FallocateMode {
    /// Reserve; `keep_size` leaves the length alone.
    Allocate {
        /// Do not extend the file.
        keep_size: bool,
    },
    /// Make a hole; never extends.
    PunchHole,
    /// Make a range read as zeros.
    ZeroRange {
        /// Do not extend the file.
        keep_size: bool,
    },
}

/// The raw list of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkRecords {
    /// Records, oldest first; see [`crate::slice::resolve`].
    pub records: Vec<SliceRecord>,
}

/// A slice to be committed, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSlice {
    /// Shows in this chunk as the record says.
    At(ChunkIndex, SliceRecord),
    /// Shows whole where the file ends at that moment, whoever made it longer.
    End(SliceKey),
}

/// Answer to a commit of slices.
#[derive(Clone, Debug)]
pub struct Written {
    /// Attributes of the file afterwards; when nothing made it longer here, its length is at least this.
    pub attr: Attr,
    /// Offset in the file of each slice, in the order in which they were given.
    pub offsets: Vec<u64>,
    /// The chunks that show them, ascending, with the number of records in their lists now; drives compaction.
    pub chunks: Vec<(ChunkIndex, usize)>,
}

/// Answer to copy_file_range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Bytes copied: less than asked at the end of the source.
    pub bytes: u64,
    /// Length of the target afterwards.
    pub length: u64,
}

/// Mode of setxattr.
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

/// Background work of which one client of a volume does each round (format: metadata.md §6.15).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Job {
    /// Sessions that stopped their heartbeat.
    StaleSessions,
    /// Data of files that were removed.
    DeletedFiles,
    /// Slices without a reference.
    Slices,
    /// Expired trash directories and delayed slices.
    Trash,
}

/// How a compaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compacted {
    /// The new slice is in place; these slices lost their last reference.
    Done(Vec<SliceKey>),
    /// The list changed underneath: the new slice is garbage and must be deleted.
    Lost,
}

/// What went with a session that another client has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLoss {
    /// That session.
    pub old: SessionId,
    /// The one that takes its place.
    pub new: SessionId,
    /// Locks of flock(2) that were held, by file and owner.
    pub flocks: Vec<(Ino, u64)>,
    /// Locks of ranges, likewise.
    pub ranges: Vec<(Ino, u64)>,
    /// Open files without a name.
    pub unnamed: Vec<Ino>,
}

/// A session as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its number.
    pub sid: SessionId,
    /// When it expires without a heartbeat.
    pub expire: Timestamp,
    /// The JSON text that the client stored (format: metadata.md §5.4).
    pub info: Bytes,
    /// Inodes that it keeps alive after their removal.
    pub sustained: Vec<Ino>,
}

/// Metadata of one volume, for one client.
///
/// Every method is atomic and durable as the engine's commit is when it returns `Ok`. `Err(Posix)` means nothing
/// happened. `Err(Unavailable)` and `Err(Conflict)` on a changing method mean that the outcome was found out to be "not
/// applied", or could not be found out within the deadline. Methods are cancel safe in that a dropped future leaves the
/// operation either done or not done, never half done. Parents given as [`Ino::ROOT`] mean the root of the mount.
#[async_trait]
pub trait Meta: Send + Sync {
    /// The volume setting as last loaded.
    fn format(&self) -> Arc<Format>;
    /// The engine and address, without password, for logs.
    fn describe(&self) -> String;

    // ---- sessions and upkeep -------------------------------------------------------------------------------------

    /// Registers this client with `info` (JSON of metadata.md §5.4) and returns its number.
    async fn new_session(&self, info: Bytes) -> MetaResult<SessionId>;
    /// Flushes statistics, releases sustained inodes and locks and removes the session. Returns data to delete.
    async fn close_session(&self) -> MetaResult<Vec<Freed>>;
    /// Renews the session, and does nothing else: others must not take this client for dead because something else takes long
    /// or fails. It is renewed however late this is, as long as nobody has ended it.
    async fn heartbeat(&self) -> MetaResult<()>;
    /// The session in which changes are made now, 0 without one.
    fn session(&self) -> SessionId;
    /// Says who is told what went with a session that another client has ended. It is called before [`Meta::session`] answers
    /// with the new one, must not wait, and is set once.
    fn on_loss(&self, tell: Box<dyn Fn(&SessionLoss) + Send + Sync>);
    /// After an answer `Fenced`: takes a new session if the present one was ended. Other calls that change something do so by
    /// themselves, and then do what they were asked for; those that are bound to a session answer `Fenced`.
    async fn come_back(&self) -> MetaResult<()>;
    /// Takes up what others may have changed: the setting, the volume counters, quotas. `Setting` when the volume is gone or
    /// replaced.
    async fn refresh(&self) -> MetaResult<()>;
    /// Writes pending usage counters and directory statistics.
    async fn flush_stats(&self) -> MetaResult<()>;
    /// Frees files that a rename replaced some time ago and that nobody opened since. Returns data to delete. What cannot be
    /// freed now is logged, and goes with the session.
    async fn release_replaced(&self) -> Vec<Freed>;
    /// All sessions, live and stale.
    async fn sessions(&self) -> MetaResult<Vec<SessionInfo>>;
    /// Whether this client is to run `job` now: at most one client in `interval_secs` gets `true`.
    async fn claim(&self, job: Job, interval_secs: u64) -> MetaResult<bool>;
    /// Looks at the sessions of others, and ends up to `limit` of clients that are dead, with what they hold: those whose
    /// record stayed the same for five heartbeats while this client was watching and the engine answered. To be called with
    /// every heartbeat, beside it. Returns data to delete.
    async fn clean_stale_sessions(&self, limit: usize) -> MetaResult<Vec<Freed>>;
    /// Removes sessions with what they hold, expired or not, because their clients are known to be dead. Returns data to
    /// delete. One that is not there, and that of this client, is passed over.
    async fn end_sessions(&self, dead: &[SessionId]) -> MetaResult<Vec<Freed>>;
    /// Files removed before `before` whose data is still there.
    async fn deleted_files(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>>;
    /// Drops the chunk lists of a removed file and its delfile record. Returns slices that lost their last reference.
    /// Restartable: chunk by chunk, the record last.
    async fn delete_file_data(&self, file: Freed) -> MetaResult<Vec<SliceKey>>;
    /// Slices whose references are gone but whose record is not.
    async fn dead_slices(&self, limit: usize) -> MetaResult<Vec<SliceKey>>;
    /// Removes the record of a slice; only after its objects are gone.
    async fn forget_slice(&self, slice: SliceKey) -> MetaResult<()>;
    /// Removes entries of trash directories older than `before`, at most about `limit`. Returns data to delete and
    /// whether more is left that can be removed; what cannot is logged, and passed over.
    async fn clean_trash(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<Freed>, bool)>;
    /// Drops the references held by delayed slices (compaction with trash on) older than `before`, those of about `limit`
    /// compactions. Returns slices that lost their last one, and whether more is left.
    async fn release_delayed_slices(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<SliceKey>, bool)>;

    // ---- looking -------------------------------------------------------------------------------------------------

    /// Finds `name` (also `.` and `..`) in `parent`. ENOENT, ENOTDIR; EACCES without X when the caller is checked.
    async fn lookup(&self, cx: &Caller, parent: Ino, name: &[u8]) -> MetaResult<(Ino, Attr)>;
    /// Attributes of `ino` that were read less than `most` ago, with all changes of this client since, and how long ago
    /// that was; they are never older than an answer given before. `None` when nothing is known: ask
    /// [`Meta::getattr`]. Never waits.
    fn recent_attr(&self, ino: Ino, most: Duration) -> Option<(Attr, Duration)> {
        let _ = (ino, most);
        None
    }
    /// Attributes of `ino`. ENOENT.
    async fn getattr(&self, ino: Ino) -> MetaResult<Attr>;
    /// EACCES unless all bits of `mask` (R 4, W 2, X 1) are granted.
    async fn access(&self, cx: &Caller, ino: Ino, mask: u8) -> MetaResult<()>;
    /// Target of a symlink. EINVAL for another kind.
    async fn readlink(&self, ino: Ino) -> MetaResult<Bytes>;
    /// A page of entries after `from` (`None`: the start), without `.` and `..`. ENOENT, ENOTDIR. Who wants each name once reads
    /// by a [`crate::Listing`].
    async fn readdir(&self, ino: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage>;
    /// Volume use and limits as statfs shows them for the mount.
    async fn statfs(&self, ino: Ino) -> MetaResult<VolumeUsage>;

    // ---- changing names ------------------------------------------------------------------------------------------

    /// Creates a node. EEXIST, ENOENT, ENOTDIR, EACCES, EPERM (immutable parent), ENOSPC, EDQUOT, EROFS.
    async fn mknod(&self, cx: &Caller, parent: Ino, name: &[u8], node: NewNode) -> MetaResult<(Ino, Attr)>;
    /// mknod of a regular file and open in one. Without `exclusive` an existing regular file is opened instead.
    async fn create(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        node: NewNode,
        exclusive: bool,
        flags: OpenFlags,
    ) -> MetaResult<(Ino, Attr)>;
    /// Makes a regular file without a name and opens it; it inherits from `dir`. [`Meta::link`] may give it a name, else it
    /// goes with its last close. Errors as of `create`.
    async fn create_unnamed(&self, cx: &Caller, dir: Ino, node: NewNode) -> MetaResult<(Ino, Attr)>;
    /// Removes the name of a non-directory, into the trash when the volume has one and `skip_trash` is not set.
    async fn unlink(&self, cx: &Caller, parent: Ino, name: &[u8], skip_trash: bool) -> MetaResult<Removed>;
    /// Removes an empty directory, likewise. ENOTEMPTY, ENOTDIR.
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

    /// Changes attributes but the size; ctime becomes now when anything changed.
    async fn setattr(&self, cx: &Caller, ino: Ino, set: SetAttr) -> MetaResult<Attr>;
    /// Sets the length. With `opened` the caller holds the file open for writing and permission bits do not count.
    async fn truncate(&self, cx: &Caller, ino: Ino, length: u64, opened: bool) -> MetaResult<Attr>;
    /// fallocate(2) on an open file.
    async fn fallocate(&self, cx: &Caller, ino: Ino, mode: FallocateMode, off: u64, size: u64) -> MetaResult<Attr>;
    /// Value of an extended attribute. ENODATA, EACCES when the caller is checked.
    async fn getxattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<Bytes>;
    /// Names of the extended attributes, without those that a caller who is checked may not know of.
    async fn listxattr(&self, cx: &Caller, ino: Ino) -> MetaResult<Vec<Name>>;
    /// Sets an extended attribute; ctime becomes now.
    async fn setxattr(&self, cx: &Caller, ino: Ino, name: &[u8], value: Bytes, mode: XattrMode) -> MetaResult<()>;
    /// Removes an extended attribute. ENODATA.
    async fn removexattr(&self, cx: &Caller, ino: Ino, name: &[u8]) -> MetaResult<()>;

    /// A rule of a node. ENODATA when it has none of this kind, ENOENT.
    async fn acl(&self, ino: Ino, kind: AclKind) -> MetaResult<AclRule>;
    /// Makes `rule` the access or the default rule of a node; the empty rule removes it. An access rule shows in the mode,
    /// and one that says no more than a mode is no more than that. With `kill_sgid` (the caller is not in the group of the
    /// file) set-gid goes. ctime becomes now when anything changed.
    ///
    /// EPERM for who is not the owner and on immutable and append-only nodes, EACCES for a default rule of what is no
    /// directory, EOPNOTSUPP for symlinks and on a volume without ACLs, EROFS.
    async fn set_acl(&self, cx: &Caller, ino: Ino, kind: AclKind, rule: AclRule, kill_sgid: bool) -> MetaResult<()>;

    // ---- content -------------------------------------------------------------------------------------------------

    /// Checks that the file may be opened so and counts it as open here. Pairs with [`Meta::close`].
    async fn open(&self, cx: &Caller, ino: Ino, flags: OpenFlags) -> MetaResult<Attr>;
    /// Ends one open. When it was the last one of a removed file, the node goes: data to delete is returned.
    async fn close(&self, ino: Ino) -> MetaResult<Option<Freed>>;
    /// The raw list of a chunk; empty for one never written. ENOENT when the file is gone, EPERM for another kind.
    async fn read_chunk(&self, ino: Ino, index: ChunkIndex) -> MetaResult<ChunkRecords>;
    /// The first `limit` chunks of a range that have a list, ascending: all others are holes. Costs what the file holds, not
    /// what it spans. None for a file that is gone.
    async fn stored_chunks(&self, ino: Ino, range: Range<ChunkIndex>, limit: usize) -> MetaResult<Vec<ChunkIndex>>;
    /// An unused slice id.
    async fn new_slice_id(&self) -> MetaResult<SliceId>;
    /// Commits slices in the order given, all or none of them, and grows the length. Their objects must be durable before
    /// this is called. `mtime` is when the application wrote last. ENOENT, EPERM for another kind, ENOSPC, EDQUOT; EFBIG
    /// beyond the largest file, EINVAL for a record that leaves its chunk, or a slice that is larger than one. `Fenced` when
    /// `session` has ended, in which all that is to be committed may be: what was written under locks is lost with them. 0 for a
    /// client without one.
    ///
    /// An error means for certain that none of them is committed: `Unavailable` and `Conflict` may be tried again. As long
    /// as the outcome cannot be found out this does not end; whoever drops it does not know it.
    async fn write_slices(
        &self,
        session: SessionId,
        ino: Ino,
        slices: Vec<NewSlice>,
        mtime: Timestamp,
    ) -> MetaResult<Written>;
    /// Copies by reference. EINVAL unless both are regular files; permissions are the caller's job.
    async fn copy_file_range(
        &self,
        cx: &Caller,
        from: Ino,
        from_off: u64,
        to: Ino,
        to_off: u64,
        size: u64,
    ) -> MetaResult<Copied>;
    /// Puts so many bytes more of the volume aside for what `ino` grew by and is not committed yet, in the books of this client
    /// alone; what [`Meta::write_slices`] makes the file grow by is taken from them first. ENOSPC beyond the capacity.
    fn claim_space(&self, ino: Ino, bytes: u64) -> Result<(), Errno>;
    /// Gives back what is claimed for `ino` beyond `bytes`.
    fn trim_claim(&self, ino: Ino, bytes: u64);
    /// What compacting a chunk would do, `None` when nothing is to be gained.
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

    /// flock(2): gives `owner` a lock on the whole file, in the place of one of the other kind that it has. As on Linux that
    /// one is given up first, and is lost when the new one is not to be had. Returns the attributes of the file as they were
    /// when the lock was granted: whatever an earlier holder committed is in them.
    ///
    /// A lock that another owner holds is EAGAIN without `wait`. Otherwise it is waited for, without holding a thread, in
    /// the order of arrival among the owners of this client; the release of a lock of this client wakes who waits here at
    /// once, that of another client's is seen within a tenth of a second. EINTR once `wait` ends, ENOLCK when too many wait.
    ///
    /// Not cancel safe: a dropped call may leave the lock granted. Let `wait` end instead.
    async fn flock(&self, ino: Ino, owner: u64, kind: LockKind, wait: Option<GiveUp>) -> MetaResult<Attr>;
    /// Releases what [`Meta::flock`] gave; success when there is nothing. Cancel safe.
    async fn funlock(&self, ino: Ino, owner: u64) -> MetaResult<()>;
    /// The first lock that keeps `owner` from getting `lock`, `None` when it could have it.
    async fn getlk(&self, ino: Ino, owner: u64, lock: RangeLock) -> MetaResult<Option<RangeLock>>;
    /// fcntl(2): gives `owner` a lock on a range of bytes, in the place of what it has there. Waits, fails and answers as
    /// [`Meta::flock`], but what it has stays until it gets the other; and EDEADLK when it would wait for an owner of this
    /// client that waits, over however many, for it.
    async fn setlk(&self, ino: Ino, owner: u64, lock: RangeLock, wait: Option<GiveUp>) -> MetaResult<Attr>;
    /// Releases what `owner` has locked in `range`; success when there is nothing. ENOLCK when the rest were too many
    /// pieces. Cancel safe.
    async fn unlk(&self, ino: Ino, owner: u64, range: LockRange) -> MetaResult<()>;
    /// All locks of a file, of all clients, as they are stored.
    async fn locks(&self, ino: Ino) -> MetaResult<FileLocks>;

    // ---- trees ---------------------------------------------------------------------------------------------------

    /// Removes `name` of `parent` and everything below it, each entry as [`Meta::unlink`] and [`Meta::rmdir`] would: what
    /// goes into the trash lies there flat. What was removed by an error or a stop stays removed. `progress` counts the
    /// entries that are gone, `watch` learns of each. EACCES and EPERM as those two, EINTR.
    async fn remove_tree(
        &self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        how: TreeRemoval,
        watch: &dyn RemovalWatch,
        progress: &Progress,
    ) -> MetaResult<()>;
    /// Makes the name `to` in a directory a copy of `source` and everything below it, with the same slices. A directory appears at once
    /// when all of it is there; when that fails, or this client dies, nothing of it ever shows. Returns the new inode.
    /// `progress` counts the nodes that are done, and all; `watch` learns of what a copy given up takes away again.
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
    /// Removes what copies of directories left that nobody completed since `before`. Returns data to delete.
    async fn clean_detached(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>>;
    /// What `ino` holds: with `recursive` everything below a directory, else the directory and its own entries. With
    /// `strict` every node is counted instead of trusting the statistics of directories. `progress` counts files and
    /// bytes. ENOENT, EINTR; EACCES when the caller is checked and may not read a node that is looked into.
    async fn summarize(
        &self,
        cx: &Caller,
        ino: Ino,
        recursive: bool,
        strict: bool,
        progress: &Progress,
    ) -> MetaResult<Summary>;
    /// What `ino` holds, entry by entry. `progress` counts nodes and bytes. Errors as [`Meta::summarize`].
    async fn summarize_tree(
        &self,
        cx: &Caller,
        ino: Ino,
        detail: TreeDetail,
        progress: &Progress,
    ) -> MetaResult<TreeSummary>;
    /// EACCES unless the caller can walk to `ino` from the root of the mount on one of its paths: for whoever names a node by
    /// its number, which anybody can guess. ENOENT.
    async fn reach(&self, cx: &Caller, ino: Ino) -> MetaResult<()>;
    /// Every path of `ino` from the root of the mount; none for a node without name. At most `limit`.
    async fn paths(&self, ino: Ino, limit: usize) -> MetaResult<Vec<Vec<u8>>>;
}
