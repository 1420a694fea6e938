//! The jobs that tell what is known of a node, and what the parts of a tree hold.

use std::fmt::Write as _;

use juicefs_core::{
    Caller, Errno, Ino, MetaError, SliceKey,
    format::Tier,
    lock::{FileLocks, LockKind, LockOwner, LockRange, RangeLock},
    slice::{Piece, resolve},
    tree::{Progress, Summary, TreeDetail, TreeSummary, long_bytes_text},
};
use serde_json::{Value, json};

use super::StoredChunks;
use crate::{Vfs, fault, internal::Reply};

/// How many slices or blocks of one file are told at most.
const MAX_PARTS: usize = 1 << 18;

/// A part of a file: a slice, or a block of one.
struct Part {
    chunk: u64,
    /// Id of the slice, or the key of the object; empty for a hole.
    what: Value,
    size: u32,
    off: u32,
    len: u32,
}

/// All that is known of a node, or why nothing is.
pub(super) struct Info {
    ino: Ino,
    failed: Option<Errno>,
    summary: Summary,
    paths: Vec<String>,
    raw: bool,
    parts: Vec<Part>,
    locks: FileLocks,
    tier: Tier,
}

impl Vfs {
    pub(super) async fn info(
        &self,
        cx: &Caller,
        ino: Ino,
        recursive: bool,
        raw: bool,
        strict: bool,
        progress: &Progress,
    ) -> Info {
        let mut info = Info { raw, ..Info::of(ino) };
        if let Err(error) = self.learn(cx, &mut info, recursive, strict, progress).await {
            info.failed = Some(fault::of_meta("info", ino, &error));
        }
        info
    }

    async fn learn(
        &self,
        cx: &Caller,
        info: &mut Info,
        recursive: bool,
        strict: bool,
        progress: &Progress,
    ) -> Result<(), MetaError> {
        let meta = &self.cx.meta;
        info.summary = meta.summarize(cx, info.ino, recursive, strict, progress).await?;
        let attr = meta.getattr(info.ino).await?;
        let tiers = meta.format().tiers.clone().unwrap_or_default();
        info.tier = tiers.get(&attr.tier.to_string()).cloned().unwrap_or(Tier { id: attr.tier, ..Tier::default() });
        let paths = self.reachable(cx, info.ino).await?;
        info.paths = paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        if attr.is_file() {
            info.locks = meta.locks(info.ino).await?;
            self.learn_parts(info, attr.length, progress).await?;
        }
        Ok(())
    }

    async fn learn_parts(&self, info: &mut Info, length: u64, progress: &Progress) -> Result<(), MetaError> {
        let mut stored = StoredChunks::new(info.ino, length);
        loop {
            let chunks = stored.next(self.cx.meta.as_ref()).await?;
            if chunks.is_empty() {
                return Ok(());
            }
            for index in chunks {
                progress.go_on()?;
                let records = self.cx.meta.read_chunk(info.ino, index).await?.records;
                for piece in resolve(&records) {
                    if info.parts.len() >= MAX_PARTS {
                        tracing::warn!(ino = %info.ino, "only the first {MAX_PARTS} parts of this file are told");
                        return Ok(());
                    }
                    self.add_parts(info, u64::from(index), piece);
                }
            }
        }
    }

    fn add_parts(&self, info: &mut Info, chunk: u64, piece: Piece) {
        let Some(SliceKey { id, size }) = piece.key() else {
            let what = if info.raw { json!(0) } else { json!("") };
            info.parts.push(Part { chunk, what, size: 0, off: 0, len: piece.len });
            return;
        };
        if info.raw {
            info.parts.push(Part { chunk, what: json!(id.0), size, off: piece.off, len: piece.len });
            return;
        }
        let volume = &self.cx.meta.format().name;
        for part in self.cx.chunks.objects(SliceKey { id, size }, piece.off, piece.len) {
            let what = json!(format!("{volume}/{}", part.key));
            info.parts.push(Part { chunk, what, size: part.size, off: part.off, len: part.len });
        }
    }

    pub(super) async fn tree_summary(&self, cx: &Caller, ino: Ino, detail: TreeDetail, progress: &Progress) -> Reply {
        match self.cx.meta.summarize_tree(cx, ino, detail, progress).await {
            Ok(tree) => summary_reply(0, &tree_json(&tree)),
            Err(error) => failed_summary(ino, fault::of_meta("summary", ino, &error)),
        }
    }
}

fn summary_reply(errno: i32, tree: &Value) -> Reply {
    Reply::Data(json!({ "Errno": errno, "Tree": tree }).to_string().into_bytes())
}

/// The answer for a tree of which nothing is told.
pub(super) fn failed_summary(ino: Ino, errno: Errno) -> Reply {
    let nothing = json!({ "Inode": ino.0, "Path": "", "Type": 2, "Size": 0, "Files": 0, "Dirs": 0 });
    summary_reply(errno.0, &nothing)
}

fn tree_json(tree: &TreeSummary) -> Value {
    let mut value = json!({
        "Inode": tree.ino.0,
        "Path": String::from_utf8_lossy(&tree.path),
        "Type": tree.kind as u8,
        "Size": tree.summary.size_bytes,
        "Files": tree.summary.files,
        "Dirs": tree.summary.dirs,
    });
    if !tree.children.is_empty() {
        value["Children"] = tree.children.iter().map(tree_json).collect();
    }
    value
}

fn range_lock((owner, lock): &(LockOwner, RangeLock)) -> Value {
    let kind = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
    };
    let LockRange { start, end } = lock.range;
    json!({ "Sid": owner.sid.0, "Owner": owner.number, "Type": kind, "Pid": lock.pid, "Start": start, "End": end })
}

fn flock((owner, kind): &(LockOwner, LockKind)) -> Value {
    let kind = match kind {
        LockKind::Read => "R",
        LockKind::Write => "W",
    };
    json!({ "Sid": owner.sid.0, "Owner": owner.number, "Type": kind })
}

/// The list in this format, in which an empty one is `null`.
fn list(values: Vec<Value>) -> Value {
    if values.is_empty() { Value::Null } else { values.into() }
}

impl Info {
    /// Nothing is known yet.
    fn of(ino: Ino) -> Self {
        Self {
            ino,
            failed: None,
            summary: Summary::default(),
            paths: Vec::new(),
            raw: false,
            parts: Vec::new(),
            locks: FileLocks::default(),
            tier: Tier::default(),
        }
    }

    /// The answer that says why nothing is told.
    pub(super) fn failed(ino: Ino, errno: Errno) -> Self {
        Self { failed: Some(errno), ..Self::of(ino) }
    }

    pub(super) fn json(&self) -> Reply {
        let Summary { length_bytes, size_bytes, files, dirs } = self.summary;
        let label = if self.raw { "Id" } else { "Key" };
        let part = |part: &Part| json!({ "ChunkIndex": part.chunk, label: part.what, "Size": part.size, "Off": part.off, "Len": part.len });
        let parts = list(self.parts.iter().map(part).collect());
        let (chunks, objects) = if self.raw { (parts, Value::Null) } else { (Value::Null, parts) };
        let info = json!({
            "Ino": self.ino.0,
            "Failed": self.failed.is_some(),
            "Reason": self.failed.map_or_else(String::new, |errno| errno.to_string()),
            "Summary": { "Length": length_bytes, "Size": size_bytes, "Files": files, "Dirs": dirs },
            "Paths": list(self.paths.iter().map(|path| json!(path)).collect()),
            "Chunks": chunks,
            "Objects": objects,
            "PLocks": list(self.locks.ranges.iter().map(range_lock).collect()),
            "FLocks": list(self.locks.flocks.iter().map(flock).collect()),
            "Tier": { "ID": self.tier.id, "StorageClass": self.tier.storage_class, "Tag": self.tier.tag },
            "RestoreStatus": "",
        });
        Reply::Data(info.to_string().into_bytes())
    }

    /// The answer as a text, for clients of long ago.
    pub(super) fn text(&self) -> Vec<u8> {
        if let Some(errno) = self.failed {
            return errno.to_string().into_bytes();
        }
        let Summary { length_bytes, size_bytes, files, dirs } = self.summary;
        let mut text = format!(
            "  inode: {}\n  files: {files}\n   dirs: {dirs}\n length: {}\n   size: {}\n",
            self.ino,
            long_bytes_text(length_bytes),
            long_bytes_text(size_bytes)
        );
        // Writing to a String cannot fail.
        let _ = match self.paths.as_slice() {
            [] => writeln!(text, "   path: unknown"),
            [path] => writeln!(text, "   path: {path}"),
            paths => writeln!(text, "  paths:\n\t{}", paths.join("\n\t")),
        };
        if !self.parts.is_empty() {
            text.push_str(if self.raw { " chunks:\n" } else { "objects:\n" });
        }
        for part in &self.parts {
            let what = part.what.as_str().map_or_else(|| part.what.to_string(), str::to_owned);
            let _ = writeln!(text, "\t{}:\t{what}\t{}\t{}\t{}", part.chunk, part.size, part.off, part.len);
        }
        text.into_bytes()
    }
}
