//! One client of one volume: runs operations on an engine and keeps what spans them: leases of numbers, usage, open
//! files, the session.

mod acls;
mod content;
mod dir_stats;
mod lease;
mod liveness;
mod locks;
mod looks;
mod names;
mod nodes;
mod quota_records;
mod quotas;
mod restore;
mod run;
mod service;
mod setting;
mod trash;
mod trees;
mod upkeep;
mod usage;

pub use self::{quota_records::QuotaCheck, restore::Restored};

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{
    Caller, Clock,
    attr::FileType,
    errno::Errno,
    error::{MetaError, MetaResult},
    format::Format,
    ids::Ino,
    limits::{INODE_BATCH, SLICE_ID_BATCH},
    meta::NewNode,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    engine::{Engine, optimistic::Transactor},
    opens::OpenTable,
    ops::acl::RuleIndex,
    record::Counter,
};

/// When reading moves the access time of a node (mount option `--atime-mode`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AtimeMode {
    /// Never.
    #[default]
    NoAtime,
    /// When it is not after mtime and ctime, or older than a day.
    RelAtime,
    /// Also when it is older than a second.
    StrictAtime,
}

/// How a client uses a volume. Every field matters to what others see, so there is no default.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Nothing is ever written, not even a session.
    pub read_only: bool,
    /// A parent whose mtime is younger than this is not touched again when nothing else about it changes.
    pub skip_dir_mtime: Duration,
    /// Directory of the volume that is the root of the mount, made when it is missing.
    pub subdir: Option<String>,
    /// Interval of [`juicefs_core::Meta::heartbeat`]; a session expires after five. Zero: sessions last a year.
    pub heartbeat: Duration,
    /// How long a file that a rename replaced can still be opened by those who looked its name up before. Whoever opens the
    /// client calls `release_replaced` every second. Zero: it goes at once unless it is open.
    pub keep_replaced: Duration,
    /// When reading moves access times.
    pub atime_mode: AtimeMode,
    /// Directories are listed by name on engines that list in another order.
    pub sort_dir: bool,
    /// statfs answers from the counters this client has, without asking the engine.
    pub fast_statfs: bool,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

/// One client of one volume; see [`juicefs_core::Meta`] for what it does.
///
/// It starts no timers: whoever opens it calls `flush_stats` every second and `heartbeat` every interval.
pub struct Client {
    engine: Arc<dyn Engine>,
    /// Runs operations on the engine.
    transactor: Transactor,
    config: ClientConfig,
    /// As last loaded; whoever watches hears of each change.
    format: watch::Sender<Arc<Format>>,
    /// Held while the setting is loaded, so that what was read before is not taken for what was read after.
    loading: tokio::sync::Mutex<()>,
    /// The directory that is the root of the mount.
    root: Ino,
    inodes: Arc<lease::Lease>,
    slices: Arc<lease::Lease>,
    opens: Arc<OpenTable>,
    books: Arc<run::Books>,
    rules: Arc<RuleIndex>,
    looks: Arc<looks::Looks>,
    locks: locks::Locks,
    /// Held while stored counters are read or added to, so that what is counted is counted once.
    counters: tokio::sync::Mutex<()>,
    /// The hour whose trash directory was used last, and that directory.
    hourly_trash: Mutex<Option<(i64, Ino)>>,
    /// Number of the session, 0 without one.
    sid: AtomicU64,
    liveness: liveness::Liveness,
}

impl Client {
    /// Formats a volume, or changes the setting of one that exists; returns the setting as it is in force, secrets in
    /// the clear. An existing volume keeps its UUID. With `force` even what cannot change is overwritten.
    ///
    /// # Errors
    /// `Setting` with a sentence for the user when a field cannot change; nothing is written then.
    pub async fn init(engine: &Arc<dyn Engine>, format: &Format, force: bool, clock: &dyn Clock) -> MetaResult<Format> {
        setting::init(engine, format, force, clock).await
    }

    /// The stored setting with its secrets decrypted, `None` on a store that was never formatted. Never writes. The
    /// version of this client is not checked against it: [`Client::open`] does that.
    ///
    /// # Errors
    /// `Setting` when it is no setting or its secrets do not decrypt.
    pub async fn load_format(engine: &Arc<dyn Engine>) -> MetaResult<Option<Format>> {
        setting::load(engine.as_ref()).await
    }

    /// Replaces the stored setting; secrets are stored encrypted. Makes the trash root when there is to be a trash, and
    /// forgets statistics that were not kept so far. Other clients take it up with their next heartbeat.
    ///
    /// # Errors
    /// `Setting` when the volume was never formatted.
    pub async fn save_format(engine: &Arc<dyn Engine>, format: &Format, clock: &dyn Clock) -> MetaResult<()> {
        setting::save(engine, format, clock).await
    }

    /// Replaces the stored setting, as [`Client::save_format`] does, if it is still `was`, the text that
    /// [`Engine::load_setting`] gave when the new one was made. False, and nothing is changed, when somebody else has changed
    /// it since.
    ///
    /// # Errors
    /// `Setting` when the volume was never formatted.
    pub async fn replace_format(
        engine: &Arc<dyn Engine>,
        was: &Bytes,
        format: &Format,
        clock: &dyn Clock,
    ) -> MetaResult<bool> {
        setting::replace(engine, was, format, clock).await
    }

    /// Opens a formatted volume. A read-only client writes nothing at all, so that volumes of older versions and stores
    /// without write access can be read.
    ///
    /// # Errors
    /// `Setting` when there is no volume, this client's version is not allowed to use it, or it uses a feature that a
    /// writing client must serve and this one does not. `Posix` when the sub-directory cannot be used.
    pub async fn open(engine: Arc<dyn Engine>, config: ClientConfig) -> MetaResult<Arc<Self>> {
        let format = setting::load(engine.as_ref()).await?.ok_or_else(setting::unformatted)?;
        setting::check_usable(&format, config.read_only)?;
        if !config.read_only {
            engine.prepare().await?;
        }
        let mut client = Self {
            inodes: lease::Lease::new(Arc::clone(&engine), Counter::NextInode, INODE_BATCH),
            slices: lease::Lease::new(Arc::clone(&engine), Counter::NextChunk, SLICE_ID_BATCH),
            opens: Arc::default(),
            books: Arc::new(run::Books::new(engine.caps())),
            rules: Arc::default(),
            looks: Arc::default(),
            locks: locks::Locks::default(),
            counters: tokio::sync::Mutex::default(),
            hourly_trash: Mutex::default(),
            sid: AtomicU64::new(0),
            liveness: liveness::Liveness::default(),
            root: Ino::ROOT,
            format: watch::Sender::new(Arc::new(format)),
            loading: tokio::sync::Mutex::default(),
            config,
            transactor: Transactor::new(Arc::clone(&engine)),
            engine,
        };
        client.load_usage().await?;
        client.load_rules().await?;
        client.load_quotas().await?;
        client.root = client.enter_subdir().await?;
        client.engine.warm_up(client.root).await?;
        Ok(Arc::new(client))
    }

    /// The engine it runs on.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The volume setting as last loaded.
    fn setting(&self) -> Arc<Format> {
        Arc::clone(&self.format.borrow())
    }

    /// The volume setting, secrets in the clear: as last loaded, and each that takes its place. [`juicefs_core::Meta::heartbeat`]
    /// and [`Client::reload_setting`] load it.
    #[must_use]
    pub fn watch_setting(&self) -> watch::Receiver<Arc<Format>> {
        self.format.subscribe()
    }

    /// The inode that a caller means: the root of the mount may be a directory further down.
    fn real(&self, ino: Ino) -> Ino {
        if ino == Ino::ROOT { self.root } else { ino }
    }

    /// EROFS on a read-only client, `Unavailable` on a volume that asks for more than this client writes.
    fn writable(&self) -> MetaResult<()> {
        if self.config.read_only {
            return Err(Errno::EROFS.into());
        }
        setting::check_writable(&self.setting())
    }

    /// Finds the directory that is to be the root of the mount, making what is missing of its path.
    async fn enter_subdir(&self) -> MetaResult<Ino> {
        match &self.config.subdir {
            Some(path) => self.enter(path.as_bytes(), !self.config.read_only).await,
            None => Ok(Ino::ROOT),
        }
    }

    /// Finds the directory at a path from the root of the volume, making what is missing of it with `create`. `..` leads to
    /// where a directory lies, and nowhere from the root.
    async fn enter(&self, path: &[u8], create: bool) -> MetaResult<Ino> {
        let mut at = Ino::ROOT;
        let cx = Caller::root();
        for name in path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            if name == b".." {
                let above = self.node(at).await?.ok_or(Errno::ENOENT)?.parent;
                at = if at == Ino::ROOT { at } else { above };
                continue;
            }
            let (ino, attr) = match self.lookup_entry(&cx, at, name).await {
                Err(MetaError::Posix(Errno::ENOENT)) if create => {
                    let node =
                        NewNode { kind: FileType::Directory, mode: 0o777, umask: 0, rdev: 0, target: Bytes::new() };
                    self.make_node(&cx, at, name, node).await?
                }
                found => found?,
            };
            if !attr.is_dir() {
                return Err(Errno::ENOTDIR.into());
            }
            at = ino;
        }
        Ok(at)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("engine", &self.engine.describe()).field("root", &self.root).finish()
    }
}
