//! `juicefs restore` takes removed files out of the trash (cli.md §5.7).

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use juicefs_core::{Errno, MetaError, Name};
use juicefs_meta::{Client, Restored};

use crate::{
    config::args::RestoreArgs,
    terminal,
    volume::{load_format, open_engine, open_writer},
};

/// What became of the entries of one hour.
#[derive(Default)]
struct Counts {
    moved: AtomicU64,
    need_put_back: AtomicU64,
    conflicts: AtomicU64,
    failed: AtomicU64,
}

/// Takes what was removed in some hours out of the trash.
///
/// # Errors
/// When an hour is not in the trash, or some of what was to be moved was not moved. The rest is moved all the same.
pub(crate) async fn run(args: &RestoreArgs) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("only root can restore files from trash");
    }
    let engine = open_engine(&args.meta_url, false).await?;
    load_format(&engine).await?;
    let client = open_writer(&engine).await?;
    let mut left = 0;
    for hour in &args.hours {
        left += restore(&client, hour, args).await?;
    }
    match left {
        0 => Ok(()),
        1 => bail!("1 entry of the trash was not restored"),
        left => bail!("{left} entries of the trash were not restored"),
    }
}

/// Restores an hour and says what became of it; returns how many entries should have been moved and were not.
async fn restore(client: &Client, hour: &str, args: &RestoreArgs) -> Result<u64> {
    let (counts, bar) = (Counts::default(), terminal::counter("Restored entries"));
    let told = |name: &Name, restored: Restored| {
        let (count, why) = match restored {
            Restored::Moved => {
                bar.inc(1);
                (&counts.moved, None)
            }
            Restored::NeedsPutBack => (&counts.need_put_back, None),
            Restored::Conflict => (&counts.conflicts, Some("its old place is taken".to_owned())),
            // In the words that scripts look for: "disk quota exceeded", for instance.
            Restored::Refused(errno) => (&counts.failed, Some(errno.to_string().to_lowercase())),
            Restored::Nameless => (&counts.failed, Some("its name does not tell where it was".to_owned())),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(why) = why {
            tracing::warn!("restore {hour}/{name}: {why}");
        }
    };
    let done = client.restore(hour, args.put_back, usize::from(args.threads), &told).await;
    bar.finish_and_clear();
    match done {
        Err(MetaError::Posix(Errno::ENOENT)) => {
            bail!("there is no {hour:?} in the trash: hours are like 2023-05-10-01")
        }
        done => done.with_context(|| format!("restore {hour}"))?,
    }
    let [moved, need_put_back, conflicts, failed] =
        [&counts.moved, &counts.need_put_back, &counts.conflicts, &counts.failed].map(|n| n.load(Ordering::Relaxed));
    let summary = if args.put_back {
        format!("{hour}: {moved} restored, {conflicts} conflicts, {failed} failed")
    } else {
        format!("{hour}: {moved} rebuilt, {need_put_back} need --put-back, {conflicts} conflicts, {failed} failed")
    };
    terminal::print(&summary)?;
    Ok(conflicts + failed)
}
