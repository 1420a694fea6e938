//! `juicefs summary` shows what the parts of a directory hold (cli.md §6.5).

use anyhow::{Context, Result, bail};
use juicefs_core::Errno;
use serde::Deserialize;

use crate::{
    config::{args::SummaryArgs, values::bytes_text},
    control::{Command, subject_of_target},
    table::{self, Cell},
    terminal,
};

/// How many levels and entries can be asked for.
const MOST: (u8, u8) = (10, 100);
/// The type of directories.
const DIRECTORY: u8 = 2;

/// What the mount answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryReply {
    errno: i32,
    tree: Tree,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tree {
    path: String,
    r#type: u8,
    size: u64,
    files: u64,
    dirs: u64,
    #[serde(default)]
    children: Vec<Tree>,
}

/// Shows what a directory holds, the largest entries first.
///
/// # Errors
/// When the path lies in no mount, or the mount refuses.
pub(crate) fn run(args: &SummaryArgs) -> Result<()> {
    let at_most = |name: &str, wanted: u32, most: u8| {
        if wanted > u32::from(most) {
            tracing::warn!("--{name} {wanted} is more than can be asked for: {most} is taken");
        }
        u8::try_from(wanted).map_or(most, |wanted| wanted.min(most))
    };
    let (depth, entries) = (at_most("depth", args.depth, MOST.0), at_most("entries", args.entries, MOST.1));
    let (ino, mut control) = subject_of_target(&args.path)?;
    let body = [&ino.to_be_bytes()[..], &[depth, entries, u8::from(args.strict)]].concat();
    let bar = terminal::counter("Counted entries");
    let reply = control.ask(Command::Summary, &body, |count, _| bar.set_position(count));
    bar.finish_and_clear();
    let answer: SummaryReply = serde_json::from_slice(&reply?).context("the mount's answer is not understood")?;
    if answer.errno != 0 {
        bail!("{}: {}", args.path.display(), Errno(answer.errno));
    }
    let mut rows = Vec::new();
    flatten(&answer.tree, &mut rows);
    let text = if args.csv { csv(&rows) } else { grid(&rows) };
    terminal::print(text.trim_end_matches('\n'))?;
    Ok(())
}

/// Path, size, directories and files.
type Row = (String, u64, u64, u64);

fn flatten(tree: &Tree, rows: &mut Vec<Row>) {
    let slash = if tree.r#type == DIRECTORY && !tree.path.ends_with('/') { "/" } else { "" };
    rows.push((format!("{}{slash}", tree.path), tree.size, tree.dirs, tree.files));
    tree.children.iter().for_each(|child| flatten(child, rows));
}

fn grid(rows: &[Row]) -> String {
    let cell = |text: String| Cell::colored(text, None);
    let rows: Vec<Vec<Cell>> = rows
        .iter()
        .map(|(path, size, dirs, files)| {
            vec![cell(path.clone()), cell(bytes_text(*size)), cell(dirs.to_string()), cell(files.to_string())]
        })
        .collect();
    table::draw(&["PATH", "SIZE", "DIRS", "FILES"], &rows, Some(0))
}

fn csv(rows: &[Row]) -> String {
    let mut out = "PATH,SIZE,DIRS,FILES\n".to_owned();
    for (path, size, dirs, files) in rows {
        let quoted = if path.contains(['"', ',', '\n', '\r']) || path.starts_with(' ') {
            format!("\"{}\"", path.replace('"', "\"\""))
        } else {
            path.clone()
        };
        out += &format!("{quoted},{size},{dirs},{files}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let shown: Vec<_> = [0, 9, 512, 4096, 12_582_912, 1 << 40].into_iter().map(bytes_text).collect();
        assert_eq!(shown, ["0 B", "9 B", "512 B", "4.0 KiB", "12 MiB", "1.0 TiB"]);
    }

    #[test]
    fn a_tree_is_shown_from_the_top_down() {
        let text = r#"{"Errno":0,"Tree":{"Inode":1,"Path":"","Type":2,"Size":8192,"Files":1,"Dirs":1,
            "Children":[{"Inode":2,"Path":"a,b","Type":1,"Size":4096,"Files":1,"Dirs":0}]}}"#;
        let answer: SummaryReply = serde_json::from_str(text).expect("an answer");
        let mut rows = Vec::new();
        flatten(&answer.tree, &mut rows);
        assert_eq!(csv(&rows), "PATH,SIZE,DIRS,FILES\n/,8192,1,1\n\"a,b\",4096,0,1\n");
        assert!(grid(&rows).contains("| /    | 8.0 KiB |    1 |     1 |"), "{}", grid(&rows));
    }
}
