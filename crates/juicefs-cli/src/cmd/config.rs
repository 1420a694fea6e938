//! `juicefs config` shows or changes the setting of a volume (cli.md §5.2).

use std::{ffi::OsString, sync::Arc};

use anyhow::{Context, Result, bail};
use juicefs_core::{Format, Ino, Meta, QuotaSubject, SystemClock, format::REMOVED};
use juicefs_meta::{Client, Engine};

use crate::{
    cmd::{quota::count_owners, status::SessionRecord},
    config::{
        args::ConfigArgs,
        resolved::{
            Surroundings,
            volume::change::{Change, admits, admits_us, plan},
        },
    },
    terminal,
    volume::{UNFORMATTED, load_format, open_engine, open_reader, open_storage},
};

/// Shows the setting, or changes it after the checks that the change calls for.
///
/// # Errors
/// A sentence for the user. The setting is changed as a whole or not at all.
pub(crate) async fn run(args: &ConfigArgs, words: &[OsString], here: &Surroundings) -> Result<()> {
    let engine = open_engine(&args.meta_url, false).await?;
    if !changes_asked_for(words) {
        return terminal::print(&stored(&engine).await?.redacted().to_json_indented("  ")?).context("print");
    }
    let change = loop {
        let was = engine.load_setting().await.context("load setting")?.unwrap_or_default();
        let old = match load_format(&engine).await {
            Ok(format) => format,
            Err(error) => without_removed_secrets(&engine, args).await?.ok_or(error)?,
        };
        let change = plan(&old, args, here)?;
        if change.lines.is_empty() && !args.encrypt_secret {
            terminal::print("Nothing changed.")?;
            return Ok(());
        }
        if !args.force {
            check(&change, &engine, args.yes).await?;
        }
        let stored = Client::replace_format(&engine, &was, &change.format, &SystemClock).await;
        if stored.context("store the setting")? {
            break change;
        }
        tracing::info!("the setting was changed by another client meanwhile: the change is made to what is stored now");
    };
    if !change.lines.is_empty() {
        terminal::print(&change.lines.join("\n"))?;
    }
    if change.owners_on {
        count_owners(&engine).await?;
    }
    Ok(())
}

/// The setting as it is stored, in which secrets are encrypted or removed.
async fn stored(engine: &Arc<dyn Engine>) -> Result<Format> {
    match engine.load_setting().await.context("load setting")?.filter(|json| !json.is_empty()) {
        Some(json) => Format::from_json(&json).context("load setting"),
        None => bail!(UNFORMATTED),
    }
}

/// The setting of a volume whose secrets a dump has removed, if a new secret is being given. This is how they come back.
async fn without_removed_secrets(engine: &Arc<dyn Engine>, args: &ConfigArgs) -> Result<Option<Format>> {
    if args.storage.secret_key.is_none() && args.storage.session_token.is_none() {
        return Ok(None);
    }
    let mut format = stored(engine).await?;
    for secret in [&mut format.secret_key, &mut format.session_token] {
        if secret == REMOVED {
            tracing::warn!("a secret was removed from the setting: it stays empty unless it is given now");
            secret.clear();
        }
    }
    format.decrypt_secrets().context("load setting")?;
    Ok(Some(format))
}

/// Whether any flag of this command was given.
fn changes_asked_for(words: &[OsString]) -> bool {
    let global =
        ["--verbose", "--quiet", "--trace", "--no-agent", "--no-color", "--log-level", "--log-id", "--pyroscope"];
    words.iter().skip(2).take_while(|word| *word != "--").any(|word| {
        let word = word.to_string_lossy();
        let name = word.split_once('=').map_or(&*word, |(name, _)| name);
        !global.contains(&name)
    })
}

async fn check(change: &Change, engine: &Arc<dyn Engine>, yes: bool) -> Result<()> {
    if change.storage {
        let storage = open_storage(&change.format)?.objects;
        juicefs_chunk::selftest(storage.as_ref()).await.with_context(|| format!("Storage {}", storage.describe()))?;
    }
    if change.limits {
        check_limits(&change.format, engine, yes).await?;
    }
    if change.dir_stats_off {
        refuse_while_limited(engine).await?;
    }
    if change.trash_off {
        warn("The current trash will be emptied and future removed files will purged immediately.")?;
        proceed(yes)?;
    }
    if change.client_versions {
        check_clients(&change.format, engine, yes).await?;
    }
    if let Some(tier) = &change.replaced_tier {
        terminal::print(&format!(
            "existing tier will be overwritten:\ntier: {}\nstorage class: {}\ntag: {}",
            tier.id, tier.storage_class, tier.tag
        ))?;
        proceed(yes)?;
    }
    Ok(())
}

async fn check_limits(format: &Format, engine: &Arc<dyn Engine>, yes: bool) -> Result<()> {
    let usage = open_reader(engine).await?.statfs(Ino::ROOT).await.context("read the use of the volume")?;
    let used = usage.total_bytes.saturating_sub(usage.available_bytes);
    let (capacity, inodes) = (format.capacity, format.inodes);
    if (capacity > 0 && used >= capacity) || (inodes > 0 && usage.used_inodes >= inodes) {
        warn(&format!(
            "New quota is too small (used / quota): {used} / {capacity} bytes, {} / {inodes} inodes.",
            usage.used_inodes
        ))?;
        proceed(yes)?;
    }
    Ok(())
}

/// Refuses to turn statistics of directories off while quotas need them.
async fn refuse_while_limited(engine: &Arc<dyn Engine>) -> Result<()> {
    let client = open_reader(engine).await?;
    let mut limited = Vec::new();
    for subject in client.quotas().await.context("list the quotas")?.into_keys() {
        if let QuotaSubject::Dir(ino) = subject {
            limited.push(client.path_of(ino).await?.unwrap_or_else(|| format!("inode:{ino}")));
        }
    }
    if limited.is_empty() {
        return Ok(());
    }
    bail!("cannot disable dir stats when there are still {} dir quotas: {}", limited.len(), limited.join(", "));
}

async fn check_clients(format: &Format, engine: &Arc<dyn Engine>, yes: bool) -> Result<()> {
    let mut ask = !admits_us(format);
    if ask {
        warn(&format!(
            "This client will be rejected after modification (allowed: {} to {}).",
            format.min_client_version, format.max_client_version
        ))?;
    }
    for session in open_reader(engine).await?.sessions().await.context("list sessions")? {
        let record = SessionRecord::of(&session);
        if !admits(format, &record.version) {
            terminal::print(&format!(
                "host {} pid {}: client version {} will be rejected",
                record.host_name, record.process_id, record.version
            ))?;
            ask = true;
        }
    }
    if ask { proceed(yes) } else { Ok(()) }
}

fn warn(text: &str) -> std::io::Result<()> {
    let word = if terminal::shows_colors() { "\x1b[1;33mWARNING\x1b[0m" } else { "WARNING" };
    terminal::print(&format!("{word}: {text}"))
}

fn proceed(yes: bool) -> Result<()> {
    if yes || terminal::confirm("Proceed anyway?").context("ask")? { Ok(()) } else { bail!("Aborted.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_flags_ask_for_no_change() {
        let asked = |words: &[&str]| changes_asked_for(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(!asked(&["juicefs", "config", "--", "sqlite3://m.db"]));
        assert!(!asked(&["juicefs", "config", "--verbose", "--log-id=x", "--", "u"]));
        assert!(asked(&["juicefs", "config", "--yes", "--", "u"]));
        assert!(asked(&["juicefs", "config", "--capacity=1", "--", "u"]));
    }
}
