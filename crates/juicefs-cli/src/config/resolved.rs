//! Settings that are checked as a whole. Every field has a value, every correction is reported, and every refusal is
//! one sentence.
//!
//! What the machine adds comes through [`Surroundings`]. Nothing is written before these checks have passed.

use std::path::PathBuf;

pub(crate) mod mount;
pub(crate) mod volume;

pub(crate) use mount::MountConfig;

/// What settings depend on besides the command line.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Root may do more, and keeps its things elsewhere.
    pub(crate) is_root: bool,
    /// Home directory of the user.
    pub(crate) home: PathBuf,
    /// Directory that relative paths start from.
    pub(crate) cwd: PathBuf,
    /// Environment variables that have a meaning, when they are set and not empty.
    pub(crate) vars: std::collections::HashMap<String, String>,
}

impl Surroundings {
    /// The surroundings of this process.
    pub(crate) fn of_process() -> Self {
        Self {
            is_root: nix::unistd::geteuid().is_root(),
            home: std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from),
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            vars: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .filter(|(_, value)| !value.is_empty())
                .collect(),
        }
    }

    /// A variable that is set and not empty.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    /// `for_root` for root, `for_users` below `~/.juicefs` for others.
    pub(crate) fn place(&self, for_root: &str, for_users: &str) -> PathBuf {
        if self.is_root { PathBuf::from(for_root) } else { self.home.join(".juicefs").join(for_users) }
    }

    /// `path` from the root, without `.` and `..`.
    pub(crate) fn absolute(&self, path: &std::path::Path) -> PathBuf {
        crate::paths::absolute_from(&self.cwd, path)
    }

    #[cfg(test)]
    pub(crate) fn of_tests() -> Self {
        Self { is_root: true, home: "/home/u".into(), cwd: "/srv".into(), vars: std::collections::HashMap::new() }
    }
}

/// A setting together with the sentences to warn with.
#[derive(Clone, Debug)]
pub(crate) struct Warned<T> {
    /// The setting.
    pub(crate) value: T,
    /// What was corrected or will not have an effect.
    pub(crate) warnings: Vec<String>,
}
