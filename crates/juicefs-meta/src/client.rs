//! One client of one volume: runs operations on an engine and keeps what spans them: leases of numbers, usage, open
//! files, the session.

mod setting;

use std::{sync::Arc, time::Duration};

use juicefs_core::{
    Clock,
    error::{MetaError, MetaResult},
    format::Format,
    ids::Ino,
};
use parking_lot::RwLock;

use crate::{
    engine::Engine,
    txn::{Operation, OperationJob},
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
pub struct Client {
    engine: Arc<dyn Engine>,
    config: ClientConfig,
    format: RwLock<Arc<Format>>,
    root: Ino,
}

impl Client {
    /// Formats a volume, or changes the setting of one that exists; returns the setting as it is in force, secrets in
    /// the clear. An existing volume keeps its UUID. With `force` even what cannot change is overwritten.
    ///
    /// # Errors
    /// `Setting` with a sentence for the user when a field cannot change; nothing is written then.
    pub async fn init(engine: &Arc<dyn Engine>, format: &Format, force: bool, clock: &dyn Clock) -> MetaResult<Format> {
        setting::init(engine.as_ref(), format, force, clock).await
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
        setting::save(engine.as_ref(), format, clock).await
    }

    /// Opens a formatted volume.
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
        let client = Self { engine, config, format: RwLock::new(Arc::new(format)), root: Ino::ROOT };
        Ok(Arc::new(client))
    }

    /// Runs an operation to its end.
    async fn run<O: Operation>(&self, op: O) -> MetaResult<O::Reply> {
        let job = self.engine.run(OperationJob::new(op)).await?;
        Ok(OperationJob::<O>::outcome(job)?.reply)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("engine", &self.engine.describe()).field("root", &self.root).finish()
    }
}

/// A failure about the setting, with the sentence for the user.
fn setting_error(error: impl std::fmt::Display) -> MetaError {
    MetaError::Setting(error.to_string())
}
