//! `juicefs format` makes a volume, or changes the setting of one (cli.md §5.1).

use std::sync::Arc;

use anyhow::{Context, Result};
use juicefs_core::{Format, ObjectStorage, SystemClock};
use juicefs_meta::{Client, Engine};

use crate::{
    config::{
        args::FormatArgs,
        resolved::{Surroundings, Warned, volume},
    },
    volume::{cipher, open_engine, open_storage, shown},
};

/// Formats a volume.
///
/// # Errors
/// A sentence for the user. The metadata are written last, so a failed format leaves no volume.
pub(crate) async fn run(args: &FormatArgs, here: &Surroundings) -> Result<()> {
    // Flags are checked before anything is touched: even opening an engine may make a file.
    let Warned { value: fresh, mut warnings } = volume::new_format(args, here)?;
    if let Some(path) = &args.encrypt_rsa_key {
        cipher(&fresh).with_context(|| format!("--encrypt-rsa-key {}", path.display()))?;
    }
    let engine = open_engine(&args.meta_url, false).await?;
    let old = Client::load_format(&engine).await.context("load setting")?;
    let format = match &old {
        Some(_) if args.no_update => return Ok(()),
        Some(old) => {
            let changed = volume::changed_format(old, args, here)?;
            warnings = changed.warnings;
            changed.value
        }
        None => fresh,
    };
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if let Some(old) = old.as_ref().filter(|_| args.force) {
        tracing::warn!("Existing volume will be overwritten: {}", shown(old)?.to_json_indented("  ")?);
    }
    let storage = open_storage(&format)?.objects;
    if here.var("JFS_NO_CHECK_OBJECT_STORAGE").is_none() {
        check_storage(storage.as_ref(), &format, old.is_none()).await?;
    }
    let stored = store(&engine, &storage, &format, args.force, old.is_none()).await?;
    tracing::info!("Volume is formatted as {}", shown(&stored)?.to_json_indented("  ")?);
    Ok(())
}

async fn check_storage(storage: &dyn ObjectStorage, format: &Format, fresh: bool) -> Result<()> {
    let place = storage.describe();
    juicefs_chunk::selftest(storage).await.with_context(|| format!("Storage {place} is not configured correctly"))?;
    if fresh {
        juicefs_chunk::check_empty(storage).await.with_context(|| format!("Storage {place} cannot be used"))?;
        if let Err(error) = juicefs_chunk::write_uuid(storage, &format.uuid).await {
            tracing::warn!("Put uuid object: {error}");
        }
    }
    Ok(())
}

async fn store(
    engine: &Arc<dyn Engine>,
    storage: &Arc<dyn ObjectStorage>,
    format: &Format,
    force: bool,
    fresh: bool,
) -> Result<Format> {
    let stored = Client::init(engine, format, force, &SystemClock).await;
    if stored.is_err() && fresh {
        // Without a volume the object would keep the next format from taking this place.
        if let Err(error) = storage.delete("juicefs_uuid").await {
            tracing::warn!("cannot take back the uuid object: {error}");
        }
    }
    stored.context("format")
}
