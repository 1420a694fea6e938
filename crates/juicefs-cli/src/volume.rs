//! Opens a volume for all commands: its metadata engine, its setting and its object storage.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use juicefs_chunk::{Cipher, CipherError, Encrypted, KeyError};
use juicefs_core::{Format, ObjectStorage, SystemClock};
use juicefs_meta::{AtimeMode, Client, ClientConfig, Engine, Passwords, USUAL_RETRIES};

use crate::secrets::mask_url;

/// The error for a database without a volume. Users know from it what to do.
pub(crate) const UNFORMATTED: &str = "load setting: database is not formatted, please run `juicefs format ...` first";

/// The variable with the passphrase of private keys.
const PASSPHRASE: &str = "JFS_RSA_PASSPHRASE";

/// Opens the metadata engine of `url`. With `read_only` it may be one that cannot be written to.
///
/// # Errors
/// With the address, without its password, when it is not supported or cannot be reached.
pub(crate) async fn open_engine(url: &str, read_only: bool) -> Result<Arc<dyn Engine>> {
    open_engine_with(url, read_only, USUAL_RETRIES).await
}

/// Does what [`open_engine`] does, with the number of `--io-retries`.
///
/// # Errors
/// Those of [`open_engine`].
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

/// A client that only looks. It has no session and writes nothing.
///
/// # Errors
/// When the volume cannot be opened.
pub(crate) async fn open_reader(engine: &Arc<dyn Engine>) -> Result<Arc<Client>> {
    open_client(engine, true).await
}

/// A client that changes something and is done, so that it needs no session.
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
    /// The storage for everything but blocks. It encrypts if the volume is encrypted.
    pub(crate) objects: Arc<dyn ObjectStorage>,
    /// The storage for the data path, which itself encrypts with the cipher.
    pub(crate) blocks: Arc<dyn ObjectStorage>,
    /// The cipher of an encrypted volume.
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

/// The cipher of a volume, if it is encrypted. The passphrase of its key comes from the environment.
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
/// When it cannot be written as JSON, which happens for no setting.
pub(crate) fn shown(format: &Format) -> Result<Format> {
    let mut shown = format.clone();
    shown.encrypt_secrets()?;
    Ok(shown.redacted())
}
