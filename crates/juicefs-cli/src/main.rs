//! The `juicefs` command: formats, mounts and looks after volumes that it shares with other JuiceFS clients.
//!
//! This crate alone knows the concrete types of all others: it turns flags into settings (`config`), puts the layers
//! together (`cmd`), and deals with the process (`daemon`, `process`, `telemetry`).

mod allocator;
mod argv;
mod cmd;
mod config;
mod control;
mod daemon;
mod fstab;
mod local_time;
mod paths;
mod process;
mod running;
mod runtime;
mod secrets;
mod table;
mod telemetry;
mod terminal;
mod volume;

use std::{ffi::OsString, process::ExitCode};

use argv::UsageError;
use clap::{CommandFactory, FromArgMatches};
use config::args::{Cli, Command, GlobalArgs};

fn main() -> ExitCode {
    allocator::tune();
    let mut app = Cli::command();
    app.build();
    let words = understand(&app, std::env::args_os().collect());
    secrets::mask_command_line();
    let words = match words {
        Ok(words) => words,
        Err(UsageError::Positionals(text)) => {
            // Whether or not it could be shown, it is a failure.
            let _ = terminal::print(&text);
            return ExitCode::FAILURE;
        }
        Err(error) => return fail(&GlobalArgs::default(), &error.to_string()),
    };
    let (words, warnings) = argv::without_bad_durations(&app, words);
    if words.iter().take_while(|word| *word != "--").any(|word| word == "--version") {
        return terminal::print(&cmd::version::text()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let cli = match app.try_get_matches_from_mut(&words).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => return error.print().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Err(error) => return fail(&GlobalArgs::default(), &one_sentence(&error)),
    };
    let syslog = matches!(&cli.command, Command::Mount(mount) if mount.process.background && !mount.process.no_syslog);
    telemetry::start(&cli.global, syslog);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    match cmd::run(&cli, &words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            telemetry::fatal(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn understand(app: &clap::Command, mut argv: Vec<OsString>) -> Result<Vec<OsString>, UsageError> {
    if argv.first().is_some_and(|program| argv::is_mount_helper(program)) {
        argv = argv::from_mount_helper(app, &argv)?;
    }
    if argv.len() < 2 {
        argv.push("--help".into());
    }
    argv::normalise(app, argv)
}

/// What is wrong, without clap's advice on further lines.
fn one_sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}

fn fail(global: &GlobalArgs, reason: &str) -> ExitCode {
    telemetry::start(global, false);
    telemetry::fatal(reason);
    ExitCode::FAILURE
}
