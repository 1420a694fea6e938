//! Keeps updatedb(8) from reading whole volumes every night, by adding `fuse.juicefs` to PRUNEFS in its configuration.

use std::{fs, path::Path};

const CONFIG: &str = "/etc/updatedb.conf";
const KIND: &str = "fuse.juicefs";

/// Adds us to PRUNEFS if the file exists and does not name us. It is no error when that fails.
pub(super) fn prune() {
    let path = Path::new(CONFIG);
    let Some(new) = fs::read_to_string(path).ok().and_then(|text| pruned(&text)) else {
        return;
    };
    let temporary = path.with_extension("conf.tmp");
    let written = fs::write(&temporary, new).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        tracing::debug!("cannot add {KIND} to {CONFIG}: {error}");
    }
}

/// The text with us in PRUNEFS, `None` when nothing is to be done.
fn pruned(text: &str) -> Option<String> {
    let at = text.lines().position(|line| line.trim_start().starts_with("PRUNEFS"))?;
    let line = text.lines().nth(at)?;
    let (name, value) = line.split_once('=')?;
    let inner = value.trim().strip_prefix('"')?.strip_suffix('"')?;
    if inner.split_whitespace().any(|kind| kind == KIND) {
        return None;
    }
    let new = format!("{name}=\"{}\"", format!("{inner} {KIND}").trim());
    let lines: Vec<&str> = text.lines().enumerate().map(|(i, old)| if i == at { new.as_str() } else { old }).collect();
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_added_once() {
        let text = "A=1\nPRUNEFS=\"NFS proc\"\nB=2\n";
        let new = pruned(text).expect("changed");
        assert_eq!(new, "A=1\nPRUNEFS=\"NFS proc fuse.juicefs\"\nB=2\n");
        assert_eq!(pruned(&new), None);
        assert_eq!(pruned("A=1\n"), None);
        assert_eq!(pruned("PRUNEFS=unquoted\n"), None);
    }
}
