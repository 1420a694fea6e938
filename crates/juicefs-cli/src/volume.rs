//! Reaching a volume: its metadata engine, its setting and its object storage, for all commands alike.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use juicefs_chunk::{Cipher, CipherError, Encrypted, KeyError};
use juicefs_core::{Format, ObjectStorage, SystemClock};
use juicefs_meta::{AtimeMode, Client, ClientConfig, Engine, Passwords, USUAL_RETRIES};

use crate::secrets::mask_url;

/// What users know to do when they read it.
pub(crate) const UNFORMATTED: &str = "load setting: database is not formatted, please run `juicefs format ...` first";

/// The variable with the passphrase of private keys.
const PASSPHRASE: &str = "JFS_RSA_PASSPHRASE";

/// Opens the metadata engine of `url`. What is `read_only` may be one that cannot be written to.
///
/// # Errors
/// With the address, without its password, when it is not supported or cannot be reached.
pub(crate) async fn open_engine(url: &str, read_only: bool) -> Result<Arc<dyn Engine>> {
    open_engine_with(url, read_only, USUAL_RETRIES).await
}

/// [`open_engine`] with `--io-retries`.
///
/// # Errors
/// As there.
pub(crate) async fn open_engine_with(url: &str, read_only: bool, retries: u32) -> Result<Arc<dyn Engine>> {
    tracing::info!("Meta address: {}", mask_url(url));
    let url = if url.contains("://") { url.to_owned() } else { format!("redis://{url}") };
    let passwords = Passwords::from_variables(|name| std::env::var(name).ok());
    juicefs_meta::open_with(&url, &passwords, read_only, retries)
        .with_context(|| format!("Meta {} is not available", mask_url(&url)))
}

/// The setting of the volume that is stored in `engine`.
///
/// # Errors
/// When there is none, with the hint to format.
pub(crate) async fn load_format(engine: &Arc<dyn Engine>) -> Result<Format> {
    match Client::load_format(engine).await.context("load setting")? {
        Some(format) => Ok(format),
        None => bail!(UNFORMATTED),
    }
}

/// A client that only looks: no session, no writes.
///
/// # Errors
/// When the volume cannot be opened.
pub(crate) async fn open_reader(engine: &Arc<dyn Engine>) -> Result<Arc<Client>> {
    open_client(engine, true).await
}

/// A client that changes something and is done: it needs no session.
///
/// # Errors
/// When the volume cannot be opened.
pub(crate) async fn open_writer(engine: &Arc<dyn Engine>) -> Result<Arc<Client>> {
    open_client(engine, false).await
}

async fn open_client(engine: &Arc<dyn Engine>, read_only: bool) -> Result<Arc<Client>> {
    let config = ClientConfig {
        read_only,
        skip_dir_mtime: Duration::ZERO,
        subdir: None,
        heartbeat: Duration::from_secs(12),
        keep_replaced: Duration::ZERO,
        atime_mode: AtimeMode::NoAtime,
        sort_dir: false,
        fast_statfs: false,
        clock: Arc::new(SystemClock),
    };
    Client::open(Arc::clone(engine), config).await.context("open the volume")
}

/// The object storage of a volume, as two users of it see it.
pub(crate) struct Storage {
    /// For all but blocks: encrypted on the way if the volume is.
    pub(crate) objects: Arc<dyn ObjectStorage>,
    /// For the data path, which encrypts with the cipher.
    pub(crate) blocks: Arc<dyn ObjectStorage>,
    /// Of an encrypted volume.
    pub(crate) cipher: Option<Arc<Cipher>>,
}

/// The object storage of a volume. Keys and regions that it does not name may come from the environment.
///
/// # Errors
/// With a sentence for the user when it is not supported, cannot be reached that way, or the volume is encrypted and its key cannot be used.
pub(crate) fn open_storage(format: &Format) -> Result<Storage> {
    let cipher = cipher(format).with_context(|| format!("volume {}", format.name))?;
    let blocks = open_blocks(format)?;
    let objects = match &cipher {
        Some(cipher) => Arc::new(Encrypted::new(Arc::clone(&blocks), Arc::clone(cipher))),
        None => Arc::clone(&blocks),
    };
    tracing::info!("Data use {}", objects.describe());
    Ok(Storage { objects, blocks, cipher })
}

/// The object storage of a volume as its data path uses it.
///
/// # Errors
/// With a sentence for the user when it is not supported or its address cannot be used.
pub(crate) fn open_blocks(format: &Format) -> Result<Arc<dyn ObjectStorage>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    juicefs_chunk::open_storage_with(format, &variable).context("object storage")
}

/// The cipher of a volume, if it is encrypted; the passphrase of its key comes from the environment.
///
/// # Errors
/// With a sentence for the user.
pub(crate) fn cipher(format: &Format) -> Result<Option<Arc<Cipher>>> {
    let passphrase = std::env::var_os(PASSPHRASE).map(std::ffi::OsString::into_encoded_bytes);
    Cipher::of_volume(format, passphrase.as_deref()).map_err(|error| match error {
        CipherError::Key(KeyError::PassphraseMissing) => anyhow!("{error}: set {PASSPHRASE}"),
        CipherError::Key(KeyError::PassphraseWrong) => anyhow!("{error}: {PASSPHRASE} must hold it"),
        other => other.into(),
    })
}

/// The setting as people may see it: with the secrets removed, otherwise as it is stored.
///
/// # Errors
/// When it cannot be written as JSON, which no setting is like.
pub(crate) fn shown(format: &Format) -> Result<Format> {
    let mut shown = format.clone();
    shown.encrypt_secrets()?;
    Ok(shown.redacted())
}
