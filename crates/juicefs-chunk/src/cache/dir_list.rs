//! The list of directories that a user gives with `--cache-dir` is read here (format: data.md §4.1).

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// Returns the directories that `list` names for the volume with this UUID, sorted. Returns `None` for the word `memory`.
///
/// `list` is separated by `:`, or by `,` if that leaves a single part. The UUID becomes a sub-directory of each. A part
/// with `*`, `?`, `[` or `\` stands for all directories that match; one that matches nothing stands for itself.
#[must_use]
pub fn cache_dirs(list: &str, uuid: &str) -> Option<Vec<PathBuf>> {
    let mut parts: Vec<_> = list.split(':').filter(|part| !part.is_empty()).collect();
    if let [only] = parts[..] {
        parts = only.split(',').filter(|part| !part.is_empty()).collect();
    }
    if parts.as_slice() == ["memory"] {
        return None;
    }
    let mut dirs: Vec<_> =
        parts.into_iter().flat_map(|part| expand(Path::new(part))).map(|dir| dir.join(uuid)).collect();
    dirs.sort();
    dirs.dedup();
    Some(dirs)
}

fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    let mut rest = pattern.components();
    while let Some(part) = rest.next() {
        let text = part.as_os_str().to_string_lossy();
        if !matches!(part, Component::Normal(_)) || !text.contains(['*', '?', '[', '\\']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        found = found.iter().flat_map(|dir| matching(dir, text.as_bytes())).collect();
        if rest.clone().next().is_none() && found.is_empty() {
            return vec![pattern.to_owned()];
        }
    }
    if found.is_empty() { vec![pattern.to_owned()] } else { found }
}

fn matching(dir: &Path, pattern: &[u8]) -> Vec<PathBuf> {
    let listed = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let names = fs::read_dir(listed).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut found: Vec<_> =
        names.filter(|name| matches(pattern, name.as_encoded_bytes())).map(|name| dir.join(name)).collect();
    found.sort();
    found
}

/// Whether a name matches a shell pattern of `*`, `?`, `[a-z]`, `[^a]` and `\x`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|skip| matches(rest, &name[skip..])),
        [b'?', rest @ ..] => name.split_first().is_some_and(|(_, tail)| matches(rest, tail)),
        [b'\\', literal, rest @ ..] => name.split_first().is_some_and(|(c, tail)| c == literal && matches(rest, tail)),
        [b'[', rest @ ..] => {
            let Some((first, tail)) = name.split_first() else { return false };
            in_class(rest, *first).is_some_and(|after| matches(after, tail))
        }
        [literal, rest @ ..] => name.split_first().is_some_and(|(c, tail)| c == literal && matches(rest, tail)),
    }
}

/// Returns what follows a class like `[a-z]` if `c` is in it. `class` begins after the bracket.
fn in_class(class: &[u8], c: u8) -> Option<&[u8]> {
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut hit = false;
    loop {
        class = match class {
            [b']', rest @ ..] => return (hit != negated).then_some(rest),
            [low, b'-', high, rest @ ..] if *high != b']' => {
                hit |= (*low..=*high).contains(&c);
                rest
            }
            [one, rest @ ..] => {
                hit |= *one == c;
                rest
            }
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_and_get_the_uuid() {
        let dirs = |list| cache_dirs(list, "U").expect("directories");
        assert_eq!(dirs("/b:/a"), [PathBuf::from("/a/U"), PathBuf::from("/b/U")]);
        assert_eq!(dirs("/b,/a,/a"), [PathBuf::from("/a/U"), PathBuf::from("/b/U")]);
        assert_eq!(dirs("/a,b:/c"), [PathBuf::from("/a,b/U"), PathBuf::from("/c/U")]);
        assert_eq!(cache_dirs("memory", "U"), None);
    }

    #[test]
    fn patterns_stand_for_what_matches() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |path: &str| root.path().join(path);
        for dir in ["d1/jfs", "d2/jfs", "e3"] {
            fs::create_dir_all(at(dir)).expect("made");
        }
        let text = |path: &str| at(path).display().to_string();
        assert_eq!(cache_dirs(&text("d*/jfs"), "U").expect("some"), [at("d1/jfs/U"), at("d2/jfs/U")]);
        assert_eq!(cache_dirs(&text("[a-d]?"), "U").expect("some"), [at("d1/U"), at("d2/U")]);
        assert_eq!(cache_dirs(&text("[^d]*"), "U").expect("some"), [at("e3/U")]);
        assert_eq!(cache_dirs(&text("none*"), "U").expect("itself"), [at("none*/U")]);
        assert_eq!(cache_dirs(&text("plain"), "U").expect("itself"), [at("plain/U")]);
    }
}
