//! `juicefs mount` makes a process of checked flags, which serves until it is unmounted (cli.md §7.1).
//!
//! One process serves a mount. A supervisor that restarts it would stand between [`daemon::detach`] and
//! [`service::serve`]; nothing here assumes that there is none.

mod config_json;
mod flags;
mod follow;
mod mountpoint;
mod predecessors;
mod present;
mod ready;
mod remount;
mod service;
mod session;
mod settings;
mod shutdown;
mod updatedb;

use std::{ffi::OsString, path::Path};

use anyhow::{Result, bail};

use self::flags::Flags;
use crate::{
    config::{
        args::MountArgs,
        resolved::{MountConfig, Surroundings, Warned, mount::resolve},
    },
    daemon::{self, Outcome, Reporter, Side},
    fstab, process,
};

/// Mounts and, in the foreground, serves until the end. Returns the exit code.
///
/// # Errors
/// Why there is no mount, for the user.
pub(crate) fn run(args: &MountArgs, words: &[OsString], here: &Surroundings) -> Result<u8> {
    let flags = Flags::of_words(words, here);
    if args.process.remount {
        remount::run(&args.mountpoint, &flags)?;
        return Ok(0);
    }
    let Warned { value: config, warnings } = resolve(args, here)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let options = config.process.update_fstab.then(|| fstab::options(&words[2.min(words.len())..]));
    if !config.process.background {
        return serve(&config, &flags, None, options.as_deref());
    }
    match daemon::detach(&config.process.log)? {
        Side::Background(reporter) => serve(&config, &flags, Some(reporter), None),
        Side::Starter(waiter) => {
            report(&config, waiter.wait(config.process.ready_timeout)?)?;
            after_mount(&config, options.as_deref());
            Ok(0)
        }
    }
}

/// Serves the mount in this process. A reporter gets either the good news or the reason for the failure.
fn serve(config: &MountConfig, flags: &Flags, reporter: Option<Reporter>, fstab_options: Option<&str>) -> Result<u8> {
    process::prepare(config.process.disable_huge_pages);
    let mut reporter = reporter;
    let outcome = service::serve(config, flags, |ready| {
        tracing::info!("{ready}");
        match reporter.take() {
            Some(reporter) => reporter.ready(ready),
            None => after_mount(config, fstab_options),
        }
    });
    if let (Err(error), Some(reporter)) = (&outcome, reporter) {
        reporter.failed(&format!("{error:#}"));
    }
    outcome
}

/// What the starter tells the user.
fn report(config: &MountConfig, outcome: Outcome) -> Result<()> {
    let log = config.process.log.display();
    match outcome {
        Outcome::Ready(text) => tracing::info!("{text}"),
        Outcome::Failed(reason) => bail!("{reason}"),
        Outcome::Died => bail!("the mount process ended without a word: see the log {log}"),
        Outcome::TimedOut => bail!(
            "the mount point is not ready in {:?}, so the mount was given up (JFS_MOUNT_TIMEOUT allows more): see \
             the log {log}",
            config.process.ready_timeout
        ),
    }
    Ok(())
}

/// Leaves on the machine what a mount leaves there. When that fails the mount stays.
fn after_mount(config: &MountConfig, fstab_options: Option<&str>) {
    let is_root = nix::unistd::geteuid().is_root();
    let in_container = std::env::var_os("JFS_INSIDE_CONTAINER").is_some() || Path::new("/.dockerenv").exists();
    if let Some(options) = fstab_options {
        if !is_root || in_container {
            tracing::warn!("--update-fstab is for root on a machine of its own: /etc/fstab is left alone");
        } else if let Err(error) = fstab::update(&config.meta_url, &config.mountpoint, options) {
            tracing::warn!("cannot update /etc/fstab: {error:#}");
        }
    }
    if is_root && !in_container {
        updatedb::prune();
    }
}
