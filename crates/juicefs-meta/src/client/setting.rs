//! Loading, checking and storing the volume setting (format: metadata.md §1.4–§1.6).

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{
    Clock,
    error::{MetaError, MetaResult},
    format::{Format, META_VERSION},
};

use crate::{
    engine::{Engine, optimistic::Transactor},
    ops::setting::StoreSetting,
};

/// How often a change is begun anew because the setting was changed by somebody else.
const TRIES: u32 = 16;

/// The stored setting as it is, secrets encrypted, and its text.
async fn load_stored(engine: &dyn Engine) -> MetaResult<(Option<Bytes>, Option<Format>)> {
    let text = engine.load_setting().await?;
    let format =
        text.as_ref().filter(|json| !json.is_empty()).map(|json| Format::from_json(json).map_err(setting_error));
    let format = format.transpose()?;
    Ok((text, format))
}

pub(super) async fn load(engine: &dyn Engine) -> MetaResult<Option<Format>> {
    let (_, mut format) = load_stored(engine).await?;
    if let Some(format) = &mut format {
        format.decrypt_secrets().map_err(setting_error)?;
    }
    Ok(format)
}

pub(super) async fn init(
    engine: &Arc<dyn Engine>,
    format: &Format,
    force: bool,
    clock: &dyn Clock,
) -> MetaResult<Format> {
    for _ in 0..TRIES {
        let (was, old) = load_stored(engine.as_ref()).await?;
        let mut format = format.clone();
        if let Some(old) = &old
            && !force
        {
            check_change(old, &format)?;
            // A volume's identity never changes by itself; the object store bears it too.
            format.decrypt_secrets().map_err(setting_error)?;
            format.uuid.clone_from(&old.uuid);
        }
        engine.prepare().await?;
        if store(engine, was, old.as_ref(), &format, clock).await? {
            format.decrypt_secrets().map_err(setting_error)?;
            return Ok(format);
        }
    }
    Err(MetaError::Conflict(TRIES))
}

pub(super) async fn save(engine: &Arc<dyn Engine>, format: &Format, clock: &dyn Clock) -> MetaResult<()> {
    for _ in 0..TRIES {
        let (was, _) = load_stored(engine.as_ref()).await?;
        if replace(engine, &was.unwrap_or_default(), format, clock).await? {
            return Ok(());
        }
    }
    Err(MetaError::Conflict(TRIES))
}

/// Stores a setting that was made from the text `was`; false when that is not what is stored.
pub(super) async fn replace(
    engine: &Arc<dyn Engine>,
    was: &Bytes,
    format: &Format,
    clock: &dyn Clock,
) -> MetaResult<bool> {
    if was.is_empty() {
        return Err(unformatted());
    }
    let old = Format::from_json(was).map_err(setting_error)?;
    engine.prepare().await?;
    store(engine, Some(was.clone()), Some(&old), format, clock).await
}

async fn store(
    engine: &Arc<dyn Engine>,
    was: Option<Bytes>,
    old: Option<&Format>,
    format: &Format,
    clock: &dyn Clock,
) -> MetaResult<bool> {
    let mut stored = format.clone();
    stored.encrypt_secrets().map_err(setting_error)?;
    let turned_on = |of: fn(&Format) -> bool| old.is_some_and(|old| !of(old)) && of(format);
    let op = StoreSetting {
        was,
        json: Bytes::from(stored.to_json().map_err(setting_error)?),
        fresh: old.is_none(),
        trash: format.has_trash(),
        drop_dir_stats: turned_on(|f| f.dir_stats),
        drop_user_group_quotas: turned_on(|f| f.user_group_quota),
        now: clock.now(),
    };
    Transactor::new(Arc::clone(engine)).run(op).await
}

/// What an existing volume cannot change.
fn check_change(old: &Format, new: &Format) -> MetaResult<()> {
    let refuse = |field: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
        setting_error(format_args!("cannot update volume {field} from {from} to {to}"))
    };
    if old.name != new.name {
        Err(refuse("name", &old.name, &new.name))
    } else if old.block_size != new.block_size {
        Err(refuse("block size", &old.block_size, &new.block_size))
    } else if old.compression != new.compression {
        Err(refuse("compression", &old.compression, &new.compression))
    } else if old.shards != new.shards {
        Err(refuse("shards", &old.shards, &new.shards))
    } else if old.hash_prefix != new.hash_prefix {
        Err(refuse("hash prefix", &old.hash_prefix, &new.hash_prefix))
    } else if old.meta_version != new.meta_version {
        Err(refuse("meta version", &old.meta_version, &new.meta_version))
    } else {
        Ok(())
    }
}

/// Whether this client can use a volume of this setting.
pub(super) fn check_usable(format: &Format, read_only: bool) -> MetaResult<()> {
    format.check_version().map_err(setting_error)?;
    if format.change_log && !read_only { Err(setting_error(CHANGE_LOG)) } else { Ok(()) }
}

/// Why nothing may be written to a volume that records a change log.
const CHANGE_LOG: &str = "the volume records a change log, which this client does not write; mount it read-only or turn the \
    change log off with `juicefs config`";

/// Whether a client that is at work may go on writing. `Unavailable` when the change log was turned on meanwhile: what it
/// wrote would be missing there. What waits to be written keeps its place until the log is turned off.
pub(super) fn check_writable(format: &Format) -> MetaResult<()> {
    if format.change_log { Err(MetaError::Unavailable(CHANGE_LOG.to_owned())) } else { Ok(()) }
}

/// Says what a setting that was taken up changes for this client.
pub(super) fn tell_change(old: &Format, new: &Format, read_only: bool) {
    match (old.change_log, new.change_log) {
        (false, true) if !read_only => tracing::error!("nothing is written any more: {CHANGE_LOG}"),
        (true, false) if !read_only => tracing::info!("the change log was turned off: writing goes on"),
        _ => {}
    }
}

/// Whether a setting that was just read again still belongs to the volume that was opened.
pub(super) fn check_same_volume(old: &Format, new: &Format) -> MetaResult<()> {
    if new.meta_version > META_VERSION {
        return Err(setting_error(format_args!(
            "metadata version {} is newer than the highest supported {META_VERSION}",
            new.meta_version
        )));
    }
    if new.uuid != old.uuid {
        return Err(setting_error(format_args!("the UUID of the volume changed from {} to {}", old.uuid, new.uuid)));
    }
    Ok(())
}

pub(super) fn unformatted() -> MetaError {
    setting_error("database is not formatted, please run `juicefs format ...` first")
}

/// A failure about the setting, with the sentence for the user.
fn setting_error(error: impl std::fmt::Display) -> MetaError {
    MetaError::Setting(error.to_string())
}
