//! Operations of the concurrent callers: what they are, how one is chosen, done, and noted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use juicefs_core::{
    Attr, Errno, FileType, Ino, Meta, MetaError, MetaResult, SetAttr, SliceId, SliceKey, SliceRecord,
    meta::{Compacted, FallocateMode, NewNode, NewSlice, OpenFlags, RenameFlags, XattrMode},
    slice::{Piece, resolve},
};
use juicefs_meta::Client;
use parking_lot::Mutex;

use crate::{
    model::UNIT,
    volume::{START_SECS, node, root},
};

/// The one extended attribute that is set.
pub(crate) const XATTR: &[u8] = b"user.x";

/// Each unit of a file: a hole, or the n-th unit of a slice.
pub(crate) type Units = Vec<Option<(u64, u64)>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RenameKind {
    Plain,
    NoReplace,
    Exchange,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Mkdir {
        dir: Ino,
        name: &'static str,
    },
    Create {
        dir: Ino,
        name: &'static str,
        exclusive: bool,
    },
    Unlink {
        dir: Ino,
        name: &'static str,
    },
    Rmdir {
        dir: Ino,
        name: &'static str,
    },
    Rename {
        from: (Ino, &'static str),
        to: (Ino, &'static str),
        kind: RenameKind,
    },
    Link {
        ino: Ino,
        dir: Ino,
        name: &'static str,
    },
    Chmod {
        ino: Ino,
        mode: u16,
    },
    SetXattr {
        ino: Ino,
        value: Option<u8>,
    },
    Truncate {
        ino: Ino,
        length: usize,
    },
    /// With a slice of its own.
    Write {
        ino: Ino,
        at: usize,
        len: usize,
        slice: u64,
    },
    /// A unit at the end, likewise.
    Append {
        ino: Ino,
        slice: u64,
    },
    Punch {
        ino: Ino,
        at: usize,
        len: usize,
    },
    Copy {
        from: Ino,
        from_at: usize,
        to: Ino,
        to_at: usize,
        len: usize,
    },
    Compact {
        ino: Ino,
    },
    Open {
        ino: Ino,
    },
    Close {
        ino: Ino,
    },
    /// Part of an open or a close that got no answer: the client counts the file as open, or no longer keeps it. Never asked for itself.
    Count {
        ino: Ino,
    },
    Release {
        ino: Ino,
    },
    Lookup {
        dir: Ino,
        name: &'static str,
    },
    Getattr {
        ino: Ino,
    },
    Readdir {
        dir: Ino,
    },
    Read {
        ino: Ino,
    },
}

/// What an operation shows of a node's attributes. Times are left out: they are the clients' own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Face {
    pub(crate) dir: bool,
    pub(crate) mode: u16,
    pub(crate) nlink: u32,
    pub(crate) length: u64,
}

impl From<&Attr> for Face {
    fn from(attr: &Attr) -> Self {
        Self { dir: attr.is_dir(), mode: attr.mode, nlink: attr.nlink, length: attr.length }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Done,
    /// A file opened or made; attributes may show what came right after.
    Ino(Ino),
    Found(Ino, Face),
    Face(Face),
    Removed {
        ino: Option<Ino>,
        freed: bool,
    },
    Renamed {
        ino: Ino,
        face: Face,
        replaced: Option<Ino>,
        freed: bool,
    },
    Entries(BTreeMap<String, Ino>),
    Units(Units),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Ok(Reply),
    Errno(Errno),
    /// The engine gave up: it may have happened, or still happen.
    Unknown(String),
}

/// An operation with its answer, and when it was asked and answered.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// One of the two clients.
    pub(crate) client: usize,
    /// Calls of one process follow one another.
    pub(crate) process: usize,
    pub(crate) op: Op,
    pub(crate) answer: Answer,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// The call that this one goes on with, by its place in the list.
    pub(crate) after: Option<usize>,
}

impl Call {
    /// It may have happened at any time since it was made, or never.
    pub(crate) fn is_optional(&self) -> bool {
        matches!(self.answer, Answer::Unknown(_)) && !matches!(self.op, Op::Close { .. } | Op::Count { .. })
    }
}

/// Takes calls without an answer apart where only a part of them may have happened: the client itself knows what it
/// counts as open, whatever became of its request.
pub(crate) fn take_apart(calls: Vec<Call>) -> Vec<Call> {
    let mut all: Vec<Call> = Vec::new();
    for call in calls {
        let unanswered = matches!(call.answer, Answer::Unknown(_));
        let parts = match call.op {
            Op::Open { ino } if unanswered => vec![Op::Count { ino }, Op::Close { ino }, Op::Release { ino }],
            Op::Close { ino } if unanswered => vec![Op::Close { ino }, Op::Release { ino }],
            ref whole => vec![whole.clone()],
        };
        let first = all.len();
        for (n, op) in parts.into_iter().enumerate() {
            let after = (n > 0).then(|| first + n - 1);
            all.push(Call { op, after, ..call.clone() });
        }
    }
    all
}

/// What slices show that compaction made of others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aliases(Arc<Mutex<HashMap<u64, Units>>>);

impl Aliases {
    /// The unit of a slice that an application wrote.
    fn written(&self, unit: (u64, u64)) -> Option<(u64, u64)> {
        let aliases = self.0.lock();
        let mut unit = unit;
        while let Some(made_of) = aliases.get(&unit.0) {
            unit = made_of[unit.1 as usize]?;
        }
        Some(unit)
    }

    /// What a list of records shows.
    pub(crate) fn shown(&self, records: &[SliceRecord]) -> Units {
        let shown = units_of(&resolve(records), 0);
        shown.into_iter().map(|unit| unit.and_then(|unit| self.written(unit))).collect()
    }
}

/// What shows at the first byte of each unit from `start` on. Not all pieces are whole units: what compaction makes of
/// zeros alone is one byte long.
fn units_of(pieces: &[Piece], start: u32) -> Units {
    let end = pieces.last().map_or(0, |piece| piece.pos + piece.len);
    let at = |byte: u32| {
        let piece = pieces.iter().find(|piece| (piece.pos..piece.pos + piece.len).contains(&byte))?;
        let off = u64::from(piece.off) + u64::from(byte - piece.pos);
        (!piece.id.is_hole()).then_some((piece.id.0, off / UNIT))
    };
    (start..end).step_by(UNIT as usize).map(at).collect()
}

fn file(mode: u16) -> NewNode {
    NewNode { umask: 0, ..node(FileType::File, mode) }
}

const READ_WRITE: OpenFlags =
    OpenFlags { read: true, write: true, append: false, truncate: false, exec: false, no_atime: false };

/// Does it and notes when and how it ended.
pub(crate) async fn perform(client: &Client, who: (usize, usize), op: Op, aliases: &Aliases) -> Call {
    let begun = Instant::now();
    let result = ask(client, &op, aliases).await;
    let ended = Instant::now();
    let answer = match result {
        Ok(reply) => Answer::Ok(reply),
        Err(MetaError::Posix(errno)) => Answer::Errno(errno),
        Err(error @ (MetaError::Unavailable(_) | MetaError::Conflict(_))) => Answer::Unknown(error.to_string()),
        Err(error) => panic!("{op:?}: {error:?}"),
    };
    Call { client: who.0, process: who.1, op, answer, begun, ended, after: None }
}

async fn ask(client: &Client, op: &Op, aliases: &Aliases) -> MetaResult<Reply> {
    match op {
        Op::Mkdir { .. }
        | Op::Create { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename { .. }
        | Op::Link { .. } => ask_names(client, op).await,
        Op::Open { .. } | Op::Close { .. } => ask_handles(client, op).await,
        Op::Lookup { .. } | Op::Getattr { .. } | Op::Readdir { .. } | Op::Read { .. } => {
            look(client, op, aliases).await
        }
        _ => ask_nodes(client, op, aliases).await,
    }
}

async fn ask_names(client: &Client, op: &Op) -> MetaResult<Reply> {
    let cx = root();
    Ok(match *op {
        Op::Mkdir { dir, name } => {
            let new = NewNode { umask: 0, ..node(FileType::Directory, 0o755) };
            let (ino, attr) = client.mknod(&cx, dir, name.as_bytes(), new).await?;
            Reply::Found(ino, Face::from(&attr))
        }
        Op::Create { dir, name, exclusive } => {
            Reply::Ino(client.create(&cx, dir, name.as_bytes(), file(0o644), exclusive, READ_WRITE).await?.0)
        }
        Op::Unlink { dir, name } => {
            let removed = client.unlink(&cx, dir, name.as_bytes(), false).await?;
            Reply::Removed { ino: removed.ino, freed: removed.freed.is_some() }
        }
        Op::Rmdir { dir, name } => {
            let removed = client.rmdir(&cx, dir, name.as_bytes(), false).await?;
            Reply::Removed { ino: removed.ino, freed: removed.freed.is_some() }
        }
        Op::Rename { from: (from, name), to: (to, new_name), kind } => {
            let flags = RenameFlags {
                no_replace: kind == RenameKind::NoReplace,
                exchange: kind == RenameKind::Exchange,
                ..RenameFlags::default()
            };
            let moved = client.rename(&cx, from, name.as_bytes(), to, new_name.as_bytes(), flags).await?;
            let (replaced, freed) = (moved.replaced.ino, moved.replaced.freed.is_some());
            Reply::Renamed { ino: moved.ino, face: Face::from(&moved.attr), replaced, freed }
        }
        Op::Link { ino, dir, name } => Reply::Face(Face::from(&client.link(&cx, ino, dir, name.as_bytes()).await?)),
        _ => unreachable!("another kind of operation"),
    })
}

async fn ask_handles(client: &Client, op: &Op) -> MetaResult<Reply> {
    match *op {
        Op::Open { ino } => client.open(&root(), ino, READ_WRITE).await.map(|_| Reply::Ino(ino)),
        Op::Close { ino } => client.close(ino).await.map(|_| Reply::Done),
        _ => unreachable!("another kind of operation"),
    }
}

async fn ask_nodes(client: &Client, op: &Op, aliases: &Aliases) -> MetaResult<Reply> {
    let (cx, bytes) = (root(), |units: usize| units as u64 * UNIT);
    let attr = match *op {
        Op::Chmod { ino, mode } => client.setattr(&cx, ino, SetAttr { mode: Some(mode), ..SetAttr::default() }).await?,
        Op::SetXattr { ino, value: Some(value) } => {
            client.setxattr(&cx, ino, XATTR, Bytes::from(vec![value]), XattrMode::Any).await?;
            return Ok(Reply::Done);
        }
        Op::SetXattr { ino, value: None } => {
            client.removexattr(&cx, ino, XATTR).await?;
            return Ok(Reply::Done);
        }
        Op::Truncate { ino, length } => client.truncate(&cx, ino, bytes(length), true).await?,
        Op::Write { ino, at, len, slice } => {
            let size = bytes(len) as u32;
            let record = SliceRecord { pos: bytes(at) as u32, id: SliceId(slice), size, off: 0, len: size };
            let slices = vec![NewSlice::At(0, record)];
            let mtime = juicefs_core::Timestamp::from_secs(START_SECS);
            let written = client.write_slices(client.session(), ino, slices, mtime).await?;
            assert!(written.attr.length >= bytes(at + len), "the length that it tells is the least that there is");
            return Ok(Reply::Done);
        }
        Op::Append { ino, slice } => {
            let slices = vec![NewSlice::End(SliceKey { id: SliceId(slice), size: bytes(1) as u32 })];
            client
                .write_slices(client.session(), ino, slices, juicefs_core::Timestamp::from_secs(START_SECS))
                .await?
                .attr
        }
        Op::Punch { ino, at, len } => {
            client.fallocate(&cx, ino, FallocateMode::PunchHole, bytes(at), bytes(len)).await?
        }
        Op::Copy { from, from_at, to, to_at, len } => {
            client.copy_file_range(&cx, from, bytes(from_at), to, bytes(to_at), bytes(len)).await?;
            return Ok(Reply::Done);
        }
        Op::Compact { ino } => {
            compact(client, ino, aliases).await?;
            return Ok(Reply::Done);
        }
        _ => unreachable!("another kind of operation"),
    };
    Ok(Reply::Face(Face::from(&attr)))
}

async fn compact(client: &Client, ino: Ino, aliases: &Aliases) -> MetaResult<()> {
    let Some(plan) = client.plan_compaction(ino, 0).await? else { return Ok(()) };
    let slice = client.new_slice_id().await?;
    // As if the data had been read and written anew: known before anybody can see the slice.
    let made_of = units_of(&plan.pieces, plan.pos);
    aliases.0.lock().insert(slice.0, made_of);
    if let Compacted::Done(dead) = client.commit_compaction(ino, 0, &plan, slice).await? {
        for slice in dead {
            client.forget_slice(slice).await?;
        }
    }
    Ok(())
}

async fn look(client: &Client, op: &Op, aliases: &Aliases) -> MetaResult<Reply> {
    Ok(match *op {
        Op::Lookup { dir, name } => {
            let (ino, attr) = client.lookup(&root(), dir, name.as_bytes()).await?;
            Reply::Found(ino, Face::from(&attr))
        }
        Op::Getattr { ino } => Reply::Face(Face::from(&client.getattr(ino).await?)),
        Op::Readdir { dir } => {
            let page = client.readdir(dir, None, false, 1000).await?;
            assert!(page.next.is_none(), "a small directory has one page");
            Reply::Entries(page.entries.into_iter().map(|entry| (entry.name.to_string(), entry.ino)).collect())
        }
        Op::Read { ino } => Reply::Units(aliases.shown(&client.read_chunk(ino, 0).await?.records)),
        _ => unreachable!("another kind of operation"),
    })
}
