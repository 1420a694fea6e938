//! Turns command lines with the conventions that users of JuiceFS know (cli.md §1.1) into what clap takes: one or two
//! dashes mean the same, flags stand anywhere, `--flag=false` unsets a flag, and `mount.juicefs` is a command of its
//! own.
//!
//! All functions are pure: they take words and give words. Clap is asked for the shape of every command, so that there
//! is no second table of flags.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command};
use thiserror::Error;

use crate::config::values::{boolean, duration, interval};

/// Why a command line is not understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum UsageError {
    /// The command has no such flag.
    #[error("unknown option {given:?} for `juicefs {command}`{hint}")]
    UnknownOption {
        /// The word as given.
        given: String,
        /// The command it was given to.
        command: String,
        /// ` (did you mean ...?)` or nothing.
        hint: String,
    },
    /// A flag that needs a value is the last word.
    #[error("option {0:?} requires a value")]
    MissingValue(String),
    /// `--flag=value` is given where a boolean is expected.
    #[error("option --{0} is true or false, not {1:?}")]
    NotBoolean(String, String),
    /// There is no such command.
    #[error("unknown command {0:?}: see `juicefs --help`")]
    UnknownCommand(String),
    /// There are too few or too many positional words. The text has two lines, as users know it.
    #[error("{0}")]
    Positionals(String),
}

/// Reorders `argv` for clap: global and command flags in their long form, then `--` and the positional words.
///
/// # Errors
/// The sentence for the user.
pub(crate) fn normalise(app: &Command, argv: Vec<OsString>) -> Result<Vec<OsString>, UsageError> {
    let mut words = argv.into_iter();
    let program = words.next().unwrap_or_else(|| "juicefs".into());
    let words: Vec<OsString> = words.collect();
    let Some((at, name)) = command_word(app, &words) else {
        let (flags, rest) = sort_words(app, "", &words)?;
        let unknown = rest.first().map(|word| word.to_string_lossy().into_owned());
        return unknown.map_or(Ok([vec![program], flags].concat()), |word| Err(UsageError::UnknownCommand(word)));
    };
    let command = app.find_subcommand(&name).ok_or_else(|| UsageError::UnknownCommand(name.clone()))?;
    let others = [&words[..at], &words[at + 1..]].concat();
    let (flags, positionals) = sort_words(command, &name, &others)?;
    let asks_only = flags.iter().any(|flag| flag == "--help" || flag == "--version");
    if !asks_only {
        check_count(command, &name, &positionals)?;
    }
    let mut out = vec![program, name.into()];
    out.extend(flags);
    if !asks_only {
        out.push("--".into());
        out.extend(positionals);
    }
    Ok(out)
}

/// The first word that is no global flag and no value of one, with its index.
fn command_word(app: &Command, words: &[OsString]) -> Option<(usize, String)> {
    let mut at = 0;
    while at < words.len() {
        match flag_name(&words[at]) {
            None => return Some((at, words[at].to_string_lossy().into_owned())),
            Some((name, value)) => {
                let takes_next = value.is_none() && find_flag(app, &name).is_some_and(takes_value);
                at += if takes_next { 2 } else { 1 };
            }
        }
    }
    None
}

fn sort_words(command: &Command, name: &str, words: &[OsString]) -> Result<(Vec<OsString>, Vec<OsString>), UsageError> {
    let (mut flags, mut positionals) = (Vec::new(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            positionals.extend(words.cloned());
            break;
        }
        let Some((flag, value)) = flag_name(word) else {
            positionals.push(word.clone());
            continue;
        };
        let arg = find_flag(command, &flag).ok_or_else(|| UsageError::UnknownOption {
            given: word.to_string_lossy().into_owned(),
            command: name.to_owned(),
            hint: closest_flag(command, &flag),
        })?;
        if takes_value(arg) {
            let value = value.or_else(|| words.next().cloned());
            let value = value.ok_or_else(|| UsageError::MissingValue(word.to_string_lossy().into_owned()))?;
            flags.push(with_value(arg, &value));
        } else {
            set_boolean(arg, value.as_deref(), &mut flags)?;
        }
    }
    Ok((flags, positionals))
}

/// Name and value of a word that starts with dashes. A lone `-` is positional.
fn flag_name(word: &OsStr) -> Option<(String, Option<OsString>)> {
    let bytes = word.as_encoded_bytes();
    let bare = bytes.strip_prefix(b"-").map(|b| b.strip_prefix(b"-").unwrap_or(b)).filter(|b| !b.is_empty())?;
    let split = bare.iter().position(|b| *b == b'=');
    let name = String::from_utf8_lossy(&bare[..split.unwrap_or(bare.len())]).into_owned();
    let value = split.map(|at| os_string(&bare[at + 1..]));
    Some((name, value))
}

fn os_string(bytes: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(bytes.to_vec())
}

fn names(arg: &Arg) -> Vec<String> {
    let long = arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten()).map(str::to_owned);
    let short = arg.get_short().into_iter().chain(arg.get_all_short_aliases().into_iter().flatten());
    long.chain(short.map(String::from)).collect()
}

fn find_flag<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| !arg.is_positional() && names(arg).iter().any(|n| n == name))
}

fn closest_flag(command: &Command, name: &str) -> String {
    let common = |other: &str| other.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    command
        .get_arguments()
        .filter_map(Arg::get_long)
        .max_by_key(|long| common(long))
        .filter(|long| common(long) >= 4)
        .map_or_else(String::new, |long| format!(" (did you mean --{long}?)"))
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !arg.is_require_equals_set()
}

fn with_value(arg: &Arg, value: &OsStr) -> OsString {
    let mut out = match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => OsString::from(format!("--{long}=")),
        (None, short) => OsString::from(format!("-{}=", short.unwrap_or('-'))),
    };
    out.push(value);
    out
}

/// Adds a boolean flag. A plain one is there or not, and one that may be unset explicitly keeps its value.
fn set_boolean(arg: &Arg, value: Option<&OsStr>, flags: &mut Vec<OsString>) -> Result<(), UsageError> {
    let long = arg.get_long().unwrap_or_default();
    let on = match value.map(OsStr::to_string_lossy) {
        None => true,
        Some(text) => boolean(&text).ok_or_else(|| UsageError::NotBoolean(long.to_owned(), text.into_owned()))?,
    };
    if arg.is_require_equals_set() {
        flags.push(format!("--{long}={on}").into());
        return Ok(());
    }
    let word = OsString::from(format!("--{long}"));
    flags.retain(|flag| *flag != word);
    if on {
        flags.push(word);
    }
    Ok(())
}

fn check_count(command: &Command, name: &str, given: &[OsString]) -> Result<(), UsageError> {
    let wanted: Vec<String> = command
        .get_positionals()
        .map(|arg| arg.get_value_names().and_then(|names| names.first()).map_or_else(String::new, ToString::to_string))
        .collect();
    let usage = format!("USAGE:\n   juicefs {name} [command options] {}", wanted.join(" "));
    let open_ended = |arg: &Arg| matches!(arg.get_action(), ArgAction::Append);
    let count = if command.get_positionals().any(open_ended) { usize::MAX } else { wanted.len() };
    let least = command.get_positionals().filter(|arg| arg.is_required_set()).count();
    if given.len() < least {
        let text = format!("ERROR: This command requires at least {least} arguments\n{usage}");
        return Err(UsageError::Positionals(text));
    }
    if given.len() > count {
        let words: Vec<_> = given.iter().map(|word| word.to_string_lossy()).collect();
        let text =
            format!("ERROR: This command accepts at most {count} arguments but got [{}]\n{usage}", words.join(" "));
        return Err(UsageError::Positionals(text));
    }
    Ok(())
}

/// Takes flags out of a normalised line for `mount` whose value should be a duration and is none, so that their
/// defaults hold, and says so once for each. JuiceFS (Go) mounts with such flags too, and what is in /etc/fstab has to
/// mount.
pub(crate) fn without_bad_durations(app: &Command, words: Vec<OsString>) -> (Vec<OsString>, Vec<String>) {
    let Some(mount) = app.find_subcommand("mount").filter(|_| words.get(1).is_some_and(|word| word == "mount")) else {
        return (words, Vec::new());
    };
    let mut warnings = Vec::new();
    let mut is_flag = true;
    let mut bad = |word: &OsString| -> bool {
        is_flag &= word != "--";
        let Some((name, Some(value))) = flag_name(word).filter(|_| is_flag) else { return false };
        let Some(arg) = find_flag(mount, &name).filter(|arg| is_duration(arg)) else { return false };
        let text = value.to_string_lossy();
        let parsed = if name == "cache-scan-interval" { interval(&text).map(drop) } else { duration(&text).map(drop) };
        let Err(why) = parsed else { return false };
        let default = arg.get_default_values().first().map(|text| text.to_string_lossy());
        let used = default.map_or_else(|| "it is left out".to_owned(), |default| format!("using {default}"));
        warnings.push(format!("--{name} is {text:?}, but {why}: {used}"));
        true
    };
    let words = words.into_iter().filter(|word| !bad(word)).collect();
    (words, warnings)
}

/// Whether a flag takes a duration, which the name of its value tells.
fn is_duration(arg: &Arg) -> bool {
    arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "DURATION"))
}

/// Whether the program was started as mount(8)'s helper.
pub(crate) fn is_mount_helper(program: &OsStr) -> bool {
    program.as_encoded_bytes().ends_with(b"mount.juicefs") || std::env::var_os("CALL_VIA_MOUNT").is_some()
}

/// Turns `mount.juicefs META-URL MOUNTPOINT -o a,b=c` into a `mount -d` line.
///
/// # Errors
/// When an option that needs a value has none.
pub(crate) fn from_mount_helper(app: &Command, argv: &[OsString]) -> Result<Vec<OsString>, UsageError> {
    let mut out: Vec<OsString> = ["juicefs", "mount", "--background", "--via-mount"].map(OsString::from).into();
    let mut kernel = Vec::new();
    let mut positionals = Vec::new();
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-o") => {
                for option in words.next().map(|w| w.to_string_lossy()).unwrap_or_default().split(',') {
                    helper_option(app, option.trim(), &mut out, &mut kernel)?;
                }
            }
            Some("-t" | "-N") => drop(words.next()),
            Some(flag) if flag.len() > 1 && flag.starts_with('-') => {}
            _ => positionals.push(word.clone()),
        }
    }
    if !kernel.is_empty() {
        out.extend(["-o".into(), kernel.join(",").into()]);
    }
    out.extend(positionals);
    Ok(out)
}

fn helper_option(
    app: &Command,
    option: &str,
    out: &mut Vec<OsString>,
    kernel: &mut Vec<String>,
) -> Result<(), UsageError> {
    if matches!(option, "" | "background" | "_netdev" | "nofail" | "defaults") {
        return Ok(());
    }
    if option == "remount" {
        out.push("--remount".into());
        return Ok(());
    }
    let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
    let name = match name {
        "attrcacheto" => "attr-cache",
        "entrycacheto" => "entry-cache",
        "direntrycacheto" => "dir-entry-cache",
        other => other,
    };
    let mount = app.find_subcommand("mount");
    match mount.and_then(|mount| find_flag(mount, name)).filter(|_| name.len() > 1) {
        None => kernel.push(option.to_owned()),
        Some(arg) if takes_value(arg) && value.is_none() => return Err(UsageError::MissingValue(option.to_owned())),
        Some(_) => {
            out.push(value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}")).into());
            if option == "debug" {
                kernel.push(option.to_owned());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
