//! Where a mount keeps blocks: from `--cache-dir` to directories.

use std::path::{Path, PathBuf};

use crate::config::{args::DataCacheArgs, resolved::Surroundings, values};

/// Where blocks are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CachePlace {
    /// Nowhere.
    None,
    /// In memory.
    Memory,
    /// In directories, given without the volume's part.
    Dirs(Vec<PathBuf>),
}

/// Where `--cache-dir` says that blocks are kept. Patterns are expanded; a pattern that matches nothing stays as it is and
/// becomes a directory of that name.
pub(super) fn resolve(cache: &DataCacheArgs, here: &Surroundings) -> CachePlace {
    match cache.cache_dir.as_deref().filter(|list| !list.is_empty()) {
        None => CachePlace::Dirs(vec![here.place("/var/jfsCache", "cache")]),
        Some("memory") => CachePlace::Memory,
        Some(list) => {
            CachePlace::Dirs(values::directories(list).iter().flat_map(|dir| expand(&here.absolute(dir))).collect())
        }
    }
}

/// The existing directories that a path with `*` or `?` in its parts matches, in name order.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let is_pattern = |part: &str| part.contains(['*', '?']);
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        if !is_pattern(&text) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let matching = |parent: &PathBuf| {
            let mut names: Vec<PathBuf> = std::fs::read_dir(parent)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| matches(&text, &entry.file_name().to_string_lossy()) && entry.path().is_dir())
                .map(|entry| entry.path())
                .collect();
            names.sort();
            names
        };
        found = found.iter().flat_map(matching).collect();
    }
    if found.is_empty() { vec![pattern.to_owned()] } else { found }
}

/// Whether `name` matches a pattern in which `*` stands for any text and `?` for any character.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| matches(rest, &name[at..]))
        }
        Some(wanted) => name.chars().next().is_some_and(|first| {
            (wanted == '?' || wanted == first) && matches(&pattern[wanted.len_utf8()..], &name[first.len_utf8()..])
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_directories_expand() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["disk1", "disk2", "other"] {
            std::fs::create_dir_all(dir.path().join(name).join("jfs")).expect("made");
        }
        let pattern = dir.path().join("disk*/jfs");
        assert_eq!(expand(&pattern), [dir.path().join("disk1/jfs"), dir.path().join("disk2/jfs")]);
        assert_eq!(expand(&dir.path().join("none*")), [dir.path().join("none*")]);
        assert!(matches("a*?c", "abbc") && !matches("a?c", "ac") && matches("*", "") && !matches("é", "e"));
    }
}
