//! `juicefs info` shows what a mount knows of files and directories (cli.md §6.4).

use std::path::Path;

use anyhow::{Context, Result, bail};
use juicefs_core::tree::long_bytes_text;
use serde::Deserialize;

use crate::{
    cmd::each_path,
    config::args::InfoArgs,
    control::{Command, Control, subject},
    paths::Dir,
    table::{self, Cell},
    terminal,
};

/// Bytes of a chunk.
const CHUNK_BYTES: u64 = 64 << 20;

/// What the mount answers; lists may be `null`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    ino: u64,
    failed: bool,
    reason: String,
    summary: Summary,
    paths: Option<Vec<String>>,
    chunks: Option<Vec<Part>>,
    objects: Option<Vec<Part>>,
    #[serde(rename = "PLocks")]
    posix_locks: Option<Vec<Lock>>,
    #[serde(rename = "FLocks")]
    flocks: Option<Vec<Lock>>,
    #[serde(default)]
    tier: Tier,
    #[serde(default)]
    restore_status: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    length: u64,
    size: u64,
    files: u64,
    dirs: u64,
}

/// A slice of a chunk, or a block.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Part {
    chunk_index: u64,
    #[serde(default)]
    id: u64,
    #[serde(default)]
    key: String,
    size: u64,
    off: u64,
    len: u64,
}

/// A lock of either kind; the type of a POSIX lock is a number.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Lock {
    sid: u64,
    owner: u64,
    r#type: serde_json::Value,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    start: u64,
    #[serde(default)]
    end: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tier {
    #[serde(rename = "ID")]
    id: u8,
    storage_class: String,
    tag: String,
}

/// Shows inode, size, paths and the layout of what the paths, or inodes, name.
///
/// # Errors
/// When one of them could not be shown; the others are.
pub(crate) fn run(args: &InfoArgs) -> Result<()> {
    each_path("info", &args.paths, |path| {
        let (ino, mut control) = if args.inode {
            let text = path.to_string_lossy();
            let ino = text.parse().ok().filter(|ino| *ino > 0);
            let ino: u64 = ino.with_context(|| format!("{text:?} is no inode number: 1 and more are"))?;
            (ino, Control::open(&Dir::open(Path::new("."))?)?)
        } else {
            subject(path)?
        };
        let flags = [args.recursive, args.raw, args.strict].map(u8::from);
        let bar = terminal::counter("Counted files");
        let body = [&ino.to_be_bytes()[..], &flags].concat();
        let reply = control.ask(Command::Info, &body, |files, _| bar.set_position(files));
        bar.finish_and_clear();
        let info: Info = serde_json::from_slice(&reply?).context("the mount's answer is not understood")?;
        if info.failed {
            bail!("{}", info.reason);
        }
        terminal::print(shown(path, &info).trim_end_matches('\n'))?;
        Ok(())
    })
}

fn shown(path: &Path, info: &Info) -> String {
    let Summary { length, size, files, dirs } = &info.summary;
    let mut out = format!("{} :\n  inode: {}\n  files: {files}\n   dirs: {dirs}\n", path.display(), info.ino);
    out += &format!(" length: {}\n   size: {}\n", long_bytes_text(*length), long_bytes_text(*size));
    out += &match info.paths.as_deref().unwrap_or_default() {
        [] => "   path: unknown\n".to_owned(),
        [path] => format!("   path: {path}\n"),
        paths => format!("  paths:\n\t{}\n", paths.join("\n\t")),
    };
    let tag = if info.tier.tag.is_empty() { String::new() } else { format!("tag: {}", info.tier.tag) };
    out += &format!("   tier: {}->{} {tag}\n", info.tier.id, info.tier.storage_class);
    if !info.restore_status.is_empty() {
        out += &format!("   restore status: {}\n", info.restore_status);
    }
    out += &grid(" chunks:", &["chunkIndex", "sliceId", "size", "offset", "length"], chunk_rows(info), None);
    let titles = ["chunkIndex", "objectName", "size", "offset", "length", "pos"];
    out += &grid(" objects:", &titles, object_rows(info), Some(1));
    let lock = |lock: &Lock| vec![lock.sid.to_string(), lock.owner.to_string(), kind_of_lock(&lock.r#type)];
    let flocks = info.flocks.iter().flatten().map(lock).collect();
    out += &grid(" flocks:", &["Sid", "Owner", "Type"], flocks, Some(0));
    let more = |l: &Lock| [l.pid.to_string(), l.start.to_string(), l.end.to_string()];
    let posix = info.posix_locks.iter().flatten().map(|l| lock(l).into_iter().chain(more(l)).collect()).collect();
    out + &grid(" plocks:", &["Sid", "Owner", "Type", "Pid", "Start", "End"], posix, Some(0))
}

fn chunk_rows(info: &Info) -> Vec<Vec<String>> {
    let chunks = info.chunks.iter().flatten();
    chunks.map(|c| [c.chunk_index, c.id, c.size, c.off, c.len].map(|n| n.to_string()).to_vec()).collect()
}

/// The rows of blocks, with the offset of each in the file. What lies beyond the end of the file is not shown.
fn object_rows(info: &Info) -> Vec<Vec<String>> {
    let (mut rows, mut chunk, mut within) = (Vec::new(), 0, 0);
    for part in info.objects.iter().flatten() {
        if part.chunk_index != chunk {
            (chunk, within) = (part.chunk_index, 0);
        }
        let pos = chunk * CHUNK_BYTES + within;
        if pos + part.len > info.summary.length {
            break;
        }
        within += part.len;
        let numbers = [part.size, part.off, part.len, pos].map(|n| n.to_string());
        rows.push([part.chunk_index.to_string(), part.key.clone()].into_iter().chain(numbers).collect());
    }
    rows
}

fn kind_of_lock(kind: &serde_json::Value) -> String {
    match kind {
        serde_json::Value::String(text) => text.clone(),
        other if other.as_i64() == Some(libc::F_RDLCK.into()) => "R".to_owned(),
        other if other.as_i64() == Some(libc::F_WRLCK.into()) => "W".to_owned(),
        _ => "UNKNOWN".to_owned(),
    }
}

/// A titled table, or nothing without rows.
fn grid(title: &str, header: &[&str], rows: Vec<Vec<String>>, left: Option<usize>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let cells = |row: Vec<String>| row.into_iter().map(|text| Cell::colored(text, None)).collect();
    let rows: Vec<Vec<Cell>> = rows.into_iter().map(cells).collect();
    format!("{title}\n{}", table::draw(header, &rows, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mount_says_is_shown() {
        let text = r#"{"Ino":2,"Failed":false,"Reason":"","Summary":{"Length":9000,"Size":12288,"Files":1,"Dirs":0},
            "Paths":["/a","/b"],"Chunks":null,"Objects":[
                {"ChunkIndex":0,"Key":"v/chunks/0/0/1_0_8192","Size":8192,"Off":0,"Len":8192},
                {"ChunkIndex":0,"Key":"v/chunks/0/0/2_0_808","Size":808,"Off":0,"Len":808},
                {"ChunkIndex":0,"Key":"","Size":9,"Off":0,"Len":9}],
            "PLocks":[{"Sid":1,"Owner":5,"Type":1,"Pid":7,"Start":0,"End":9}],"FLocks":null,
            "Tier":{"ID":0,"StorageClass":"","Tag":""},"RestoreStatus":""}"#;
        let info: Info = serde_json::from_str(text).expect("an answer");
        let text = shown(Path::new("a"), &info);
        assert!(
            text.starts_with("a :\n  inode: 2\n  files: 1\n   dirs: 0\n length: 8.79 KiB (9000 Bytes)\n"),
            "{text}"
        );
        assert!(text.contains("  paths:\n\t/a\n\t/b\n   tier: 0-> \n objects:\n"), "{text}");
        assert!(text.contains("|          0 | v/chunks/0/0/2_0_808  |  808 |      0 |    808 | 8192 |"), "{text}");
        assert_eq!(text.matches("_0_").count(), 2, "{text}");
        assert!(text.contains("|   W  |") || text.contains("|    W |"), "{text}");
    }
}
