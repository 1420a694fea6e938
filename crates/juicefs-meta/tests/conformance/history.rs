//! Random histories through the client, checked step by step against the model and at the end against the invariants.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use juicefs_core::{
    Caller, ChunkIndex, Errno, FileType, Ino, Meta, SetAttr, SetTime, SliceKey, SliceRecord, Timestamp,
    limits::CHUNK_SIZE,
    meta::{FallocateMode, Freed, NewNode, NewSlice, OpenFlags, RenameFlags, XattrMode},
    slice::resolve,
};
use juicefs_meta::{
    Engine,
    engine::{Caps, mem::MemEngine},
};
use proptest::prelude::*;

use crate::{
    invariants, leaks,
    model::{Body, Id, Model, Outcome, ROOT, UNIT, Who},
    snapshot::Snapshot,
    volume::{Kind, Volume, block_on, format, node, posix, user, write_slice},
};

/// Units in a chunk.
const CHUNK_UNITS: usize = (CHUNK_SIZE / UNIT) as usize;

/// One of the inodes made so far.
type Slot = usize;

/// A name in a directory: one that exists, or any.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// One of all entries.
    Taken(usize),
    /// A name in one of the directories.
    InDir(Slot, u8),
    /// A name in whatever inode.
    Any(Slot, u8),
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Make {
        at: Place,
        kind: u8,
        mode: u16,
    },
    Create {
        at: Place,
        mode: u16,
        exclusive: bool,
    },
    Open {
        ino: Slot,
    },
    Close {
        handle: Slot,
    },
    Lookup {
        at: Place,
    },
    Unlink {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
        flags: u8,
    },
    Link {
        ino: Slot,
        at: Place,
    },
    Chmod {
        ino: Slot,
        mode: u16,
    },
    Chown {
        ino: Slot,
        uid: u32,
        gid: u32,
    },
    Utimes {
        ino: Slot,
        secs: Option<i64>,
    },
    Truncate {
        ino: Slot,
        length: usize,
    },
    Write {
        ino: Slot,
        at: usize,
        len: usize,
    },
    /// At the end, in one call with the write before.
    Append {
        ino: Slot,
        at: usize,
        len: usize,
    },
    Fallocate {
        ino: Slot,
        at: usize,
        len: usize,
        mode: u8,
    },
    Copy {
        from: Slot,
        from_at: usize,
        to: Slot,
        to_at: usize,
        len: usize,
    },
    SetXattr {
        ino: Slot,
        name: u8,
        value: Option<u8>,
    },
    DeleteData,
    Compact {
        ino: Slot,
        index: ChunkIndex,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..96usize;
    let name = || 0..4u8;
    let unit = || prop_oneof![3 => 0..6usize, 1 => 60..70usize, 1 => 0..140usize];
    let len = || prop_oneof![3 => 1..5usize, 1 => 1..80usize];
    let mode = || prop_oneof![5 => Just(0o777u16), 3 => Just(0o1777), 1 => Just(0o2777), 1 => 0..0o10000u16];
    let at = || {
        prop_oneof![
            5 => any::<usize>().prop_map(Place::Taken),
            4 => (slot(), name()).prop_map(|(dir, name)| Place::InDir(dir, name)),
            1 => (slot(), name()).prop_map(|(dir, name)| Place::Any(dir, name)),
        ]
    };
    let free = || {
        prop_oneof![
            6 => (slot(), name()).prop_map(|(dir, name)| Place::InDir(dir, name)),
            1 => (slot(), name()).prop_map(|(dir, name)| Place::Any(dir, name)),
        ]
    };
    prop_oneof![
        8 => (free(), 0..4u8, mode()).prop_map(|(at, kind, mode)| Step::Make { at, kind, mode }),
        4 => (at(), mode(), any::<bool>()).prop_map(|(at, mode, exclusive)| Step::Create { at, mode, exclusive }),
        2 => slot().prop_map(|ino| Step::Open { ino }),
        4 => slot().prop_map(|handle| Step::Close { handle }),
        1 => at().prop_map(|at| Step::Lookup { at }),
        3 => at().prop_map(|at| Step::Unlink { at }),
        2 => at().prop_map(|at| Step::Rmdir { at }),
        6 => (at(), at(), 0..5u8).prop_map(|(from, to, flags)| Step::Rename { from, to, flags }),
        4 => (slot(), free()).prop_map(|(ino, at)| Step::Link { ino, at }),
        1 => (slot(), mode()).prop_map(|(ino, mode)| Step::Chmod { ino, mode }),
        1 => (slot(), 0..3u32, 0..3u32).prop_map(|(ino, uid, gid)| Step::Chown { ino, uid, gid }),
        1 => (slot(), prop::option::of(-5..5i64)).prop_map(|(ino, secs)| Step::Utimes { ino, secs }),
        2 => (slot(), unit()).prop_map(|(ino, length)| Step::Truncate { ino, length }),
        4 => (slot(), unit(), len()).prop_map(|(ino, at, len)| Step::Write { ino, at, len }),
        2 => (slot(), unit(), len()).prop_map(|(ino, at, len)| Step::Append { ino, at, len }),
        2 => (slot(), unit(), len(), 0..5u8).prop_map(|(ino, at, len, mode)| Step::Fallocate { ino, at, len, mode }),
        2 => (slot(), unit(), slot(), unit(), len())
            .prop_map(|(from, from_at, to, to_at, len)| Step::Copy { from, from_at, to, to_at, len }),
        2 => (slot(), name(), prop::option::of(any::<u8>()))
            .prop_map(|(ino, name, value)| Step::SetXattr { ino, name, value }),
        1 => Just(Step::DeleteData),
        2 => (slot(), 0..2u32).prop_map(|(ino, index)| Step::Compact { ino, index }),
    ]
}

/// Steps with the user who does each.
pub(crate) fn histories(steps: usize) -> impl Strategy<Value = Vec<(u32, Step)>> {
    let user = prop_oneof![1 => Just(0u32), 1 => 1..3u32];
    prop::collection::vec((user, step()), 1..steps)
}

fn name_of(n: u8) -> String {
    char::from(b'a' + n).to_string()
}

/// What both sides answered.
pub(crate) type Answer = Result<u64, Errno>;

pub(crate) struct Player {
    pub(crate) volume: Volume,
    model: Model,
    inodes: Vec<(Id, Ino)>,
    handles: Vec<(Id, Ino)>,
    freed: Vec<Freed>,
    trash: bool,
}

impl Player {
    pub(crate) async fn new(kind: Kind, trash: bool) -> Self {
        Self::on(Volume::new(kind, i64::from(trash)).await, trash)
    }

    pub(crate) fn on(volume: Volume, trash: bool) -> Self {
        let model = Model::new(trash, juicefs_core::Clock::now(volume.clock.as_ref()));
        Self { volume, model, inodes: vec![(ROOT, Ino::ROOT)], handles: vec![], freed: vec![], trash }
    }

    fn at(&self, slot: Slot) -> (Id, Ino) {
        self.inodes[slot % self.inodes.len()]
    }

    /// Plays a step on both sides; the common answer, `None` for a step that the model does not know.
    pub(crate) async fn play(&mut self, uid: u32, step: &Step) -> Option<Answer> {
        self.volume.tick();
        self.model.now = juicefs_core::Clock::now(self.volume.clock.as_ref());
        let (cx, who) = (user(uid), Who { uid, gid: uid });
        let (real, model) = match step {
            Step::Make { .. } | Step::Create { .. } => self.play_new(&cx, who, step).await?,
            Step::Open { .. } | Step::Close { .. } => self.play_handle(&cx, who, step).await?,
            Step::Lookup { .. }
            | Step::Unlink { .. }
            | Step::Rmdir { .. }
            | Step::Rename { .. }
            | Step::Link { .. } => self.play_name(&cx, who, step).await?,
            Step::Chmod { .. } | Step::Chown { .. } | Step::Utimes { .. } | Step::SetXattr { .. } => {
                self.play_attr(&cx, who, step).await?
            }
            Step::DeleteData => (self.delete_data().await, Ok(0)),
            Step::Compact { ino, index } => (self.compact(self.file(*ino)?.1, *index).await, Ok(0)),
            _ => self.play_content(&cx, who, step).await?,
        };
        assert_eq!(real, model, "{step:?} by {uid}");
        Some(real)
    }

    async fn play_new(&mut self, cx: &Caller, who: Who, step: &Step) -> Option<(Answer, Answer)> {
        let (real, model) = match step {
            Step::Make { at, kind, mode } => {
                let (id, ino, name) = self.place(at)?;
                let (kind, body) = match kind {
                    0 => (FileType::Directory, Body::Dir { entries: BTreeMap::new(), parent: id }),
                    1 => (FileType::File, Body::File { units: vec![] }),
                    2 => (FileType::Symlink, Body::Link("target".into())),
                    _ => (FileType::Fifo, Body::Fifo),
                };
                let target = Bytes::from_static(if kind == FileType::Symlink { b"target" } else { b"" });
                let new = NewNode { target, umask: 0, ..node(kind, *mode) };
                let real = posix(self.volume.client.mknod(cx, ino, name.as_bytes(), new).await);
                (real, self.model.create(who, id, &name, *mode, body))
            }
            Step::Create { at, mode, exclusive } => {
                let ((id, ino, name), new) = (self.place(at)?, NewNode { umask: 0, ..node(FileType::File, *mode) });
                let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
                let client = &self.volume.client;
                let real = posix(client.create(cx, ino, name.as_bytes(), new, *exclusive, flags).await);
                let model = self.model.create_open(who, id, &name, *mode, *exclusive);
                if let (Ok((ino, _)), Ok(id)) = (&real, &model) {
                    self.handles.push((*id, *ino));
                }
                (real, model)
            }
            _ => unreachable!("another kind of step"),
        };
        if let (Ok((ino, _)), Ok(id)) = (&real, &model) {
            if !self.inodes.iter().any(|(known, _)| known == id) {
                self.inodes.push((*id, *ino));
            }
            self.compare_attr(*id, *ino).await;
        }
        // Numbers differ between the two sides; that both made something is what counts.
        Some((real.map(|_| 0), model.map(|_| 0)))
    }

    async fn play_handle(&mut self, cx: &Caller, who: Who, step: &Step) -> Option<(Answer, Answer)> {
        match step {
            Step::Open { ino } => {
                let (id, ino) = self.file(*ino)?;
                let is_file = self.model.nodes.get(&id).is_none_or(|node| matches!(node.body, Body::File { .. }));
                if !is_file {
                    return None;
                }
                let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
                let real = posix(self.volume.client.open(cx, ino, flags).await).map(|_| 0);
                let model = self.model.open(who, id).map(|()| 0);
                if real.is_ok() {
                    self.handles.push((id, ino));
                }
                Some((real, model))
            }
            Step::Close { handle } => {
                if self.handles.is_empty() {
                    return None;
                }
                let (id, ino) = self.handles.swap_remove(handle % self.handles.len());
                self.close(id, ino).await;
                Some((Ok(0), Ok(0)))
            }
            _ => unreachable!("another kind of step"),
        }
    }

    async fn close(&mut self, id: Id, ino: Ino) {
        self.freed.extend(posix(self.volume.client.close(ino).await).expect("closed"));
        self.model.close(id);
    }

    async fn play_name(&mut self, cx: &Caller, who: Who, step: &Step) -> Option<(Answer, Answer)> {
        let client = &self.volume.client;
        let (real, model) = match step {
            Step::Lookup { at } => {
                let (id, ino, name) = self.place(at)?;
                let real = posix(client.lookup(cx, ino, name.as_bytes()).await).map(|_| 0);
                // Without an entry, only a caller whose permission is checked learns that the parent is none.
                (real, self.model.lookup(who, id, &name).map(|_| 0))
            }
            Step::Unlink { at } => {
                let (id, ino, name) = self.place(at)?;
                let real = posix(client.unlink(cx, ino, name.as_bytes(), false).await);
                self.freed.extend(real.as_ref().ok().and_then(|removed| removed.freed));
                (real.map(|_| 0), self.model.unlink(who, id, &name).map(|()| 0))
            }
            Step::Rmdir { at } => {
                let (id, ino, name) = self.place(at)?;
                let real = posix(client.rmdir(cx, ino, name.as_bytes(), false).await);
                (real.map(|_| 0), self.model.rmdir(who, id, &name).map(|()| 0))
            }
            Step::Link { ino, at } => {
                let ((id, ino), (dir_id, dir, name)) = (self.file(*ino)?, self.place(at)?);
                let real = posix(client.link(cx, ino, dir, name.as_bytes()).await).map(|_| 0);
                let answers = (real, self.model.link(who, id, dir_id, &name).map(|()| 0));
                self.compare_attr(id, ino).await;
                answers
            }
            Step::Rename { from, to, flags } => {
                let ((from_id, from, name), (to_id, to, new_name)) = (self.place(from)?, self.place(to)?);
                let (no_replace, exchange) = (*flags == 1, *flags == 2);
                let flags = RenameFlags { no_replace, exchange, ..RenameFlags::default() };
                let real = client.rename(cx, from, name.as_bytes(), to, new_name.as_bytes(), flags).await;
                let real = posix(real);
                self.freed.extend(real.as_ref().ok().and_then(|renamed| renamed.replaced.freed));
                let model = self.model.rename(who, (from_id, &name), (to_id, &new_name), no_replace, exchange);
                (real.map(|_| 0), model.map(|()| 0))
            }
            _ => unreachable!("another kind of step"),
        };
        Some((real, model))
    }

    async fn play_attr(&mut self, cx: &Caller, who: Who, step: &Step) -> Option<(Answer, Answer)> {
        let client = &self.volume.client;
        let (slot, set, model): (Slot, SetAttr, Outcome) = match step {
            Step::Chmod { ino, mode } => {
                let model = self.model.chmod(who, self.known(*ino)?.0, *mode);
                (*ino, SetAttr { mode: Some(*mode), ..SetAttr::default() }, model)
            }
            Step::Chown { ino, uid, gid } => {
                let model = self.model.chown(who, self.known(*ino)?.0, *uid, *gid);
                (*ino, SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() }, model)
            }
            Step::Utimes { ino, secs } => {
                let time = secs.map(Timestamp::from_secs);
                let model = self.model.utimes(who, self.known(*ino)?.0, time);
                let set = SetAttr { mtime: Some(time.map_or(SetTime::Now, SetTime::At)), ..SetAttr::default() };
                (*ino, set, model)
            }
            Step::SetXattr { ino, name, value } => {
                let ((id, ino), name) = (self.file(*ino)?, format!("user.{}", name_of(*name)));
                let model = self.model.setxattr(who, id, &name, value.map(|value| vec![value])).map(|()| 0);
                let real = match value {
                    Some(value) => {
                        let value = Bytes::from(vec![*value]);
                        client.setxattr(cx, ino, name.as_bytes(), value, XattrMode::Any).await
                    }
                    None => client.removexattr(cx, ino, name.as_bytes()).await,
                };
                return Some((posix(real).map(|()| 0), model));
            }
            _ => unreachable!("another kind of step"),
        };
        let (id, ino) = self.known(slot)?;
        let real = posix(client.setattr(cx, ino, set).await).map(|_| 0);
        self.compare_attr(id, ino).await;
        Some((real, model.map(|()| 0)))
    }

    async fn play_content(&mut self, cx: &Caller, who: Who, step: &Step) -> Option<(Answer, Answer)> {
        let client = &self.volume.client;
        let bytes = |units: usize| units as u64 * UNIT;
        Some(match step {
            Step::Truncate { ino, length } => {
                let (id, ino) = self.file(*ino)?;
                let real = posix(client.truncate(cx, ino, bytes(*length), false).await).map(|_| 0);
                (real, self.model.truncate(who, id, *length).map(|()| 0))
            }
            Step::Write { ino, at, len } => {
                let ((id, ino), len) = (self.file(*ino)?, (*len).min(CHUNK_UNITS - at % CHUNK_UNITS));
                let slice = client.new_slice_id().await.expect("an id");
                let size = bytes(len) as u32;
                let record = SliceRecord { pos: bytes(at % CHUNK_UNITS) as u32, id: slice, size, off: 0, len: size };
                let index = (at / CHUNK_UNITS) as ChunkIndex;
                let real = posix(write_slice(client, ino, index, record, self.model.now).await);
                if let Ok(written) = &real {
                    let stored = client.read_chunk(ino, index).await.expect("read").records.len();
                    assert_eq!(written.chunks, [(index, stored)]);
                }
                (real.map(|_| 0), self.model.write(id, *at, len, slice.0).map(|()| 0))
            }
            Step::Append { ino, at, len } => {
                let ((id, ino), len) = (self.file(*ino)?, (*len).min(CHUNK_UNITS));
                let size = bytes(len) as u32;
                let (first, second) =
                    (client.new_slice_id().await.expect("an id"), client.new_slice_id().await.expect("an id"));
                let record = SliceRecord {
                    pos: bytes(at % CHUNK_UNITS) as u32,
                    id: first,
                    size: UNIT as u32,
                    off: 0,
                    len: UNIT as u32,
                };
                let index = (at / CHUNK_UNITS) as ChunkIndex;
                let slices = vec![NewSlice::At(index, record), NewSlice::End(SliceKey { id: second, size })];
                let real = posix(client.write_slices(client.session(), ino, slices, self.model.now).await);
                if let Ok(written) = &real {
                    for (index, records) in &written.chunks {
                        let stored = client.read_chunk(ino, *index).await.expect("read").records.len();
                        assert_eq!(*records, stored);
                    }
                    assert_eq!(written.offsets, [bytes(*at), written.attr.length - u64::from(size)]);
                }
                let model = self.model.write(id, *at, 1, first.0);
                (real.map(|_| 0), model.and_then(|()| self.model.append(id, len, second.0)).map(|()| 0))
            }
            Step::Fallocate { ino, at, len, mode } => {
                let (id, ino) = self.file(*ino)?;
                let (mode, zero, keep) = match mode {
                    0 => (FallocateMode::Allocate { keep_size: false }, false, false),
                    1 => (FallocateMode::Allocate { keep_size: true }, false, true),
                    2 => (FallocateMode::PunchHole, true, true),
                    3 => (FallocateMode::ZeroRange { keep_size: true }, true, true),
                    _ => (FallocateMode::ZeroRange { keep_size: false }, true, false),
                };
                let real = posix(client.fallocate(cx, ino, mode, bytes(*at), bytes(*len)).await).map(|_| 0);
                (real, self.model.fallocate(who, id, *at, *len, zero, keep).map(|()| 0))
            }
            Step::Copy { from, from_at, to, to_at, len } => {
                let ((from_id, from), (to_id, to)) = (self.file(*from)?, self.file(*to)?);
                let (from_off, to_off) = (bytes(*from_at), bytes(*to_at));
                let real = client.copy_file_range(cx, from, from_off, to, to_off, bytes(*len)).await;
                let real = posix(real).map(|copied| copied.bytes / UNIT);
                let model = self.model.copy(from_id, *from_at, to_id, *to_at, *len).map(|units| units as u64);
                (real, model)
            }
            _ => unreachable!("another kind of step"),
        })
    }

    /// An inode that the model can speak about.
    fn known(&self, slot: Slot) -> Option<(Id, Ino)> {
        self.known_at(self.at(slot))
    }

    /// Mostly a file that is there, sometimes anything.
    fn file(&self, slot: Slot) -> Option<(Id, Ino)> {
        let is_file = |(id, _): &&(Id, Ino)| self.model.is_file(*id);
        let files: Vec<_> = self.inodes.iter().filter(is_file).collect();
        if slot.is_multiple_of(8) || files.is_empty() {
            self.known(slot / 8)
        } else {
            self.known_at(*files[slot % files.len()])
        }
    }

    fn known_at(&self, (id, ino): (Id, Ino)) -> Option<(Id, Ino)> {
        (!self.model.nodes.contains_key(&id) || self.model.is_known(id)).then_some((id, ino))
    }

    fn place(&self, place: &Place) -> Option<(Id, Ino, String)> {
        let (slot, name) = match place {
            Place::Taken(n) => {
                let taken: Vec<_> = self.model.taken().collect();
                let (dir, name) = taken.get(n % taken.len().max(1))?;
                let slot = self.inodes.iter().position(|(id, _)| id == dir)?;
                (slot, name.clone())
            }
            Place::InDir(n, name) => {
                let dirs = self.inodes.iter().enumerate().filter(|(_, (id, _))| self.model.is_dir(*id));
                let dirs: Vec<_> = dirs.map(|(slot, _)| slot).collect();
                (dirs[n % dirs.len()], name_of(*name))
            }
            Place::Any(slot, name) => (*slot, name_of(*name)),
        };
        let (id, ino) = self.known(slot)?;
        Some((id, ino, name))
    }

    async fn delete_data(&mut self) -> Answer {
        for file in std::mem::take(&mut self.freed) {
            for slice in posix(self.volume.client.delete_file_data(file).await)? {
                posix(self.volume.client.forget_slice(slice).await)?;
            }
        }
        Ok(0)
    }

    async fn compact(&mut self, ino: Ino, index: ChunkIndex) -> Answer {
        use juicefs_core::meta::Compacted;
        let client = &self.volume.client;
        // Compaction makes a slice of its own, of which the model knows nothing: it is only played where nothing but
        // holes shows, and elsewhere planned without effect.
        let Some(plan) = posix(client.plan_compaction(ino, index).await)? else { return Ok(0) };
        if plan.pieces.iter().any(|piece| !piece.id.is_hole()) {
            return Ok(0);
        }
        let slice = client.new_slice_id().await.expect("an id");
        if let Compacted::Done(dead) = posix(client.commit_compaction(ino, index, &plan, slice).await)? {
            for slice in dead {
                posix(client.forget_slice(slice).await)?;
            }
        }
        Ok(0)
    }

    async fn compare_attr(&self, id: Id, ino: Ino) {
        let Some(model) = self.model.nodes.get(&id) else { return };
        let attr = self.volume.attr(ino).await;
        let real = (attr.mode, attr.uid, attr.gid, attr.nlink, attr.length, attr.mtime, attr.ctime);
        let wanted = (model.mode, model.uid, model.gid, model.nlink, model.size(), model.mtime, model.ctime);
        assert_eq!(real, wanted, "mode, uid, gid, nlink, length, mtime, ctime of {id} ({ino})");
        let kind = match model.body {
            Body::Dir { .. } => FileType::Directory,
            Body::File { .. } => FileType::File,
            Body::Link(_) => FileType::Symlink,
            Body::Fifo => FileType::Fifo,
        };
        assert_eq!(attr.kind, kind);
    }

    /// Compares everything that the model knows.
    pub(crate) async fn compare(&self) {
        for (id, ino) in &self.inodes {
            if !self.model.nodes.contains_key(id) {
                let gone = posix(self.volume.client.getattr(*ino).await).map(|_| ());
                assert_eq!(gone, Err(Errno::ENOENT), "{id} ({ino}) is gone");
            } else if self.model.is_known(*id) {
                self.compare_attr(*id, *ino).await;
                self.compare_body(*id, *ino).await;
            }
        }
    }

    async fn compare_body(&self, id: Id, ino: Ino) {
        let (client, model) = (&self.volume.client, &self.model.nodes[&id]);
        match &model.body {
            Body::Dir { entries, .. } => {
                let page = client.readdir(ino, None, true, 1000).await.expect("listed");
                let real: Vec<_> = page.entries.iter().map(|entry| (entry.name.to_string(), entry.ino)).collect();
                let ino_of = |id: &Id| self.inodes.iter().find(|(known, _)| known == id).expect("known").1;
                let wanted: Vec<_> = entries.iter().map(|(name, id)| (name.clone(), ino_of(id))).collect();
                assert_eq!(real, wanted, "entries of {ino}");
                assert!(page.entries.iter().all(|entry| entry.attr.is_some()));
            }
            Body::File { units } => assert_eq!(self.content(ino, units.len()).await, *units, "content of {ino}"),
            Body::Link(target) => assert_eq!(client.readlink(ino).await.expect("read"), target.as_bytes()),
            Body::Fifo => {}
        }
        let mut xattrs = BTreeMap::new();
        for name in client.listxattr(&Caller::root(), ino).await.expect("listed") {
            let value = client.getxattr(&Caller::root(), ino, name.as_bytes()).await.expect("there");
            xattrs.insert(name.to_string(), value.to_vec());
        }
        assert_eq!(xattrs, model.xattrs, "xattrs of {ino}");
    }

    async fn content(&self, ino: Ino, length: usize) -> Vec<Option<(u64, u64)>> {
        let mut units = vec![None; length];
        for index in 0..length.div_ceil(CHUNK_UNITS) {
            let chunk = self.volume.client.read_chunk(ino, index as ChunkIndex).await.expect("read");
            for piece in resolve(&chunk.records).iter().filter(|piece| !piece.id.is_hole()) {
                for n in 0..u64::from(piece.len) / UNIT {
                    let at = index * CHUNK_UNITS + (u64::from(piece.pos) / UNIT + n) as usize;
                    if let Some(unit) = units.get_mut(at) {
                        *unit = Some((piece.id.0, u64::from(piece.off) / UNIT + n));
                    }
                }
            }
        }
        // A slice that compaction made of holes shows zeros.
        units
    }

    /// Closes everything, deletes what is to be deleted, and checks all records.
    pub(crate) async fn finish(mut self) -> (Volume, Snapshot) {
        self.volume.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(self.volume.engine.as_ref()).await);
        for (id, ino) in std::mem::take(&mut self.handles) {
            self.close(id, ino).await;
        }
        self.delete_data().await.expect("deleted");
        self.compare().await;
        self.volume.client.flush_stats().await.expect("flushed");
        let all = Snapshot::take(self.volume.engine.as_ref()).await;
        invariants::check(&all);
        leaks::check(&self.volume.home, &all);
        assert!(all.sustained.is_empty() && all.del_files.is_empty(), "everything was closed and deleted");
        assert!(self.trash || all.delayed.is_empty());
        assert!(all.slice_refs.values().all(|count| *count > 0), "every dead slice was reported and forgotten");
        (self.volume, all)
    }
}

fn play_all(trash: bool, usage_in_transaction: bool, steps: &[(u32, Step)]) {
    block_on(async {
        let caps = Caps { usage_in_transaction, ..MemEngine::new().caps() };
        let engine = Arc::new(MemEngine::with_caps(caps));
        let volume = Volume::on(Arc::clone(&engine) as Arc<dyn Engine>, &format(i64::from(trash))).await;
        let mut player = Player::on(volume, trash);
        for (uid, step) in steps {
            player.play(*uid, step).await;
        }
        player.compare().await;
        let (_volume, all) = player.finish().await;
        leaks::check_mem(&engine, &all);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_are_those_of_posix(steps in histories(120)) {
        play_all(false, false, &steps);
    }

    /// Also with usage counted by the engine, as Redis does.
    #[test]
    fn histories_with_trash_are_those_of_posix(steps in histories(120)) {
        play_all(true, true, &steps);
    }
}
