//! The words that `--atime-mode` and `-o` have for when reading moves access times.

use juicefs_meta::AtimeMode;

/// The mode that `word` names.
pub(crate) fn parse(word: &str) -> Option<AtimeMode> {
    [AtimeMode::NoAtime, AtimeMode::RelAtime, AtimeMode::StrictAtime].into_iter().find(|mode| name(*mode) == word)
}

/// The word for a mode.
pub(crate) fn name(mode: AtimeMode) -> &'static str {
    match mode {
        AtimeMode::NoAtime => "noatime",
        AtimeMode::RelAtime => "relatime",
        AtimeMode::StrictAtime => "strictatime",
    }
}
