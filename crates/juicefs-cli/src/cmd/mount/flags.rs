//! The flags that a mount was made with, as its `.config` shows them, and how they differ from those of another one.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::{Value, json};

use crate::config::{
    args::{Cli, Command},
    resolved::{MountConfig, Surroundings, mount::resolve},
};

/// The flags that say how the process runs and nothing about the mount.
const OF_PROCESS: [&str; 9] = [
    "--background",
    "--foreground",
    "--via-mount",
    "--remount",
    "--force",
    "--update-fstab",
    "--no-syslog",
    "--log",
    "--disable-transparent-hugepage",
];
/// The key under which `.config` has the flags.
const KEY: &str = "Options";
/// The key under which `.config` has the directory from which relative paths among the flags start.
const CWD_KEY: &str = "WorkDir";

/// The flags of `juicefs mount`. Each item of `-o` is a flag of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    words: Vec<String>,
    cwd: PathBuf,
}

impl Flags {
    /// The flags of a normalised command line.
    pub(super) fn of_words(words: &[OsString], here: &Surroundings) -> Self {
        let flags = words.iter().skip(2).take_while(|word| *word != "--").map(|word| word.to_string_lossy());
        let words = flags
            .flat_map(|word| match word.strip_prefix("-o=") {
                Some(list) => list.split(',').map(|item| format!("-o={}", item.trim())).collect(),
                None => vec![word.into_owned()],
            })
            .filter(|word| !OF_PROCESS.contains(&name(word)))
            .collect();
        Self { words, cwd: here.cwd.clone() }
    }

    /// The flags that `.config` of a mount shows. `None` for a mount of another client.
    pub(super) fn of_config(told: &Value) -> Option<Self> {
        let words = told[KEY].as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<_>>()?;
        Some(Self { words, cwd: told[CWD_KEY].as_str()?.into() })
    }

    /// Adds the flags to what `.config` is to show.
    pub(super) fn show_in(&self, config: &mut Value) {
        config[KEY] = json!(self.words);
        config[CWD_KEY] = json!(self.cwd);
    }

    /// The flags one by one.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// Whether a flag of this name is there.
    pub(super) fn has(&self, wanted: &str) -> bool {
        self.iter().any(|word| name(word) == wanted)
    }

    /// The settings of a mount with these flags.
    ///
    /// # Errors
    /// When they are not flags of a mount, or do not fit together.
    pub(super) fn resolved(&self) -> Result<MountConfig> {
        let line = ["juicefs", "mount"].into_iter().chain(self.iter()).chain(["--", "-", "/-"]);
        let here = Surroundings { cwd: self.cwd.clone(), ..Surroundings::of_process() };
        match Cli::try_parse_from(line)?.command {
            Command::Mount(args) => Ok(resolve(&args, &here)?.value),
            _ => bail!("these are no flags of a mount"),
        }
    }

    /// These flags with another one, which takes the place of one with its name.
    pub(super) fn with(&self, word: &str, cwd: &Self) -> Self {
        let mut words = self.without(name(word)).words;
        words.push(word.to_owned());
        // A relative path is one of whoever gives it.
        let cwd = if word.starts_with("--cache-dir=") || word.starts_with("--bucket=") { &cwd.cwd } else { &self.cwd };
        Self { words, cwd: cwd.clone() }
    }

    fn without(&self, gone: &str) -> Self {
        Self {
            words: self.iter().filter(|word| name(word) != gone).map(str::to_owned).collect(),
            cwd: self.cwd.clone(),
        }
    }

    /// The names of the flags by which a mount with these flags differs from one with `other`. There is none when both
    /// are alike.
    ///
    /// # Errors
    /// As [`Flags::resolved`].
    pub(super) fn differences(&self, other: &Self) -> Result<Vec<String>> {
        let present = self.resolved()?;
        if present.is_like(&other.resolved()?) {
            return Ok(Vec::new());
        }
        let differs = |flags: Self| flags.resolved().map_or(true, |changed| !present.is_like(&changed));
        let more = other.iter().filter(|word| !self.words.iter().any(|known| known == word));
        let more = more.filter(|word| differs(self.with(word, other))).map(shown);
        let fewer = self.iter().filter(|word| !other.has(name(word)));
        let fewer = fewer.filter(|word| differs(self.without(name(word)))).map(shown);
        let mut names: Vec<String> = more.chain(fewer).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            names.push("options".to_owned());
        }
        Ok(names)
    }
}

/// The flag that a word gives; for an item of `-o` the name of that.
fn name(word: &str) -> &str {
    let from = if word.starts_with("-o=") { 3 } else { 0 };
    word[from..].find('=').map_or(word, |at| &word[..from + at])
}

/// A word's name as the user knows it.
pub(super) fn shown(word: &str) -> String {
    let name = name(word);
    name.strip_prefix("-o=").map_or_else(|| name.to_owned(), |item| format!("-o {item}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Flags {
        let words: Vec<OsString> =
            format!("juicefs mount {line} -- u m").split_whitespace().map(OsString::from).collect();
        Flags::of_words(&words, &Surroundings::of_tests())
    }

    #[test]
    fn flags_are_kept_without_those_of_the_process() {
        let given = flags("--background --log=x --cache-size=1G -o=ro,nodev --via-mount --enable-xattr");
        assert_eq!(given.iter().collect::<Vec<_>>(), ["--cache-size=1G", "-o=ro", "-o=nodev", "--enable-xattr"]);
        let mut told = json!({});
        given.show_in(&mut told);
        assert_eq!(Flags::of_config(&told), Some(given));
        assert_eq!(Flags::of_config(&json!({ "Format": {} })), None);
    }

    #[test]
    fn what_differs_is_named_by_its_meaning() {
        let differ = |one: &str, other: &str| flags(one).differences(&flags(other)).expect("good flags");
        let none: [&str; 0] = [];
        assert_eq!(differ("--cache-size=1G", "--cache-size=1024M --cache-dir=/var/jfsCache"), none);
        assert_eq!(differ("-o=ro,nodev", "-o=nodev -o=ro"), none);
        assert_eq!(differ("--cache-size=1G --enable-xattr", "--cache-size=2G"), ["--cache-size", "--enable-xattr"]);
        assert_eq!(differ("-o=ro", "-o=writeback_cache"), ["-o ro", "-o writeback_cache"]);
        assert_eq!(differ("", "--cache-dir=rel"), ["--cache-dir"]);
        assert_eq!(differ("--subdir=a", "--subdir=b"), ["--subdir"]);
    }
}
