//! What operations do to names and directories.

use std::collections::BTreeMap;

use bytes::Bytes;
use juicefs_core::{
    Attr, Caller, ChunkIndex, Errno, FileType, Ino, SliceRecord, Timestamp,
    limits::CHUNK_SIZE,
    meta::{Copied, NewNode, Removed, RenameFlags, Renamed},
    slice::resolve,
};

use super::{Node, State};

fn check_new_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"." | b".." => Err(Errno::EEXIST),
        name if name.is_empty() || name.contains(&b'/') || name.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

impl State {
    pub(super) fn child(&self, parent: Ino, name: &[u8]) -> Result<Ino, Errno> {
        let node = self.dir(parent)?;
        match name {
            b"." => Ok(parent),
            b".." => Ok(node.attr.parent),
            name => node.entries.get(name).copied().ok_or(Errno::ENOENT),
        }
    }

    /// Makes a file and opens it; without `exclusive` an existing one is opened.
    pub(super) fn create(
        &mut self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        new: &NewNode,
        exclusive: bool,
        now: Timestamp,
    ) -> Result<(Ino, Attr), Errno> {
        let (ino, attr) = match self.insert(cx, parent, name, new, now) {
            Err(Errno::EEXIST) if !exclusive => {
                let ino = self.child(parent, name)?;
                let attr = self.node(ino)?.attr.clone();
                if !attr.is_file() {
                    return Err(Errno::EEXIST);
                }
                (ino, attr)
            }
            other => other?,
        };
        self.node_mut(ino)?.opens += 1;
        Ok((ino, attr))
    }

    /// Makes a file without a name and opens it.
    pub(super) fn create_unnamed(
        &mut self,
        cx: &Caller,
        dir: Ino,
        new: &NewNode,
        now: Timestamp,
    ) -> Result<(Ino, Attr), Errno> {
        let (ino, _) = self.insert(cx, dir, b"unnamed", new, now)?;
        self.node_mut(dir)?.entries.remove(&b"unnamed"[..]);
        let node = self.node_mut(ino)?;
        (node.attr.nlink, node.opens) = (0, 1);
        Ok((ino, node.attr.clone()))
    }

    pub(super) fn unlink(&mut self, parent: Ino, name: &[u8], now: Timestamp) -> Result<Removed, Errno> {
        let ino = self.child(parent, name)?;
        if self.node(ino)?.attr.is_dir() {
            return Err(Errno::EPERM);
        }
        self.leave(parent, name, now);
        Ok(self.unname(ino, now))
    }

    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: &[u8], now: Timestamp) -> Result<Attr, Errno> {
        check_new_name(name)?;
        if self.node(ino)?.attr.is_dir() {
            return Err(Errno::EPERM);
        }
        if self.dir(parent)?.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.enter(parent, name, ino, now);
        let attr = &mut self.node_mut(ino)?.attr;
        (attr.nlink, attr.ctime, attr.parent) = (attr.nlink + 1, now, Ino(0));
        Ok(attr.clone())
    }

    /// The directories in which `ino` has names, and how many in each.
    pub(super) fn parents(&self, ino: Ino) -> BTreeMap<Ino, u64> {
        let mut parents = BTreeMap::new();
        for (parent, node) in &self.nodes {
            let names = node.entries.values().filter(|child| **child == ino).count() as u64;
            if names > 0 {
                parents.insert(*parent, names);
            }
        }
        parents
    }

    pub(super) fn insert(
        &mut self,
        cx: &Caller,
        parent: Ino,
        name: &[u8],
        new: &NewNode,
        now: Timestamp,
    ) -> Result<(Ino, Attr), Errno> {
        check_new_name(name)?;
        let dir = self.dir(parent)?;
        if dir.attr.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        if dir.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.check_space(4096)?;
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        let is_dir = new.kind == FileType::Directory;
        let attr = Attr {
            kind: new.kind,
            mode: if new.kind == FileType::Symlink { 0o777 } else { new.mode & !new.umask },
            uid: cx.uid,
            gid: cx.gid,
            atime: now,
            mtime: now,
            ctime: now,
            nlink: if is_dir { 2 } else { 1 },
            length: if is_dir { 4096 } else { new.target.len() as u64 },
            rdev: new.rdev,
            parent,
            ..Attr::default()
        };
        self.nodes.insert(ino, Node { attr: attr.clone(), target: new.target.clone(), ..Node::default() });
        self.enter(parent, name, ino, now);
        if is_dir {
            self.node_mut(parent)?.attr.nlink += 1;
        }
        Ok((ino, attr))
    }

    pub(super) fn enter(&mut self, parent: Ino, name: &[u8], ino: Ino, now: Timestamp) {
        let dir = self.nodes.get_mut(&parent).expect("a parent that was looked at");
        dir.entries.insert(Bytes::copy_from_slice(name), ino);
        (dir.attr.mtime, dir.attr.ctime) = (now, now);
    }

    pub(super) fn leave(&mut self, parent: Ino, name: &[u8], now: Timestamp) {
        let dir = self.nodes.get_mut(&parent).expect("a parent that was looked at");
        dir.entries.remove(name);
        (dir.attr.mtime, dir.attr.ctime) = (now, now);
    }

    /// Counts a name of a non-directory less, and removes the node with the last one.
    pub(super) fn unname(&mut self, ino: Ino, now: Timestamp) -> Removed {
        let node = self.nodes.get_mut(&ino).expect("a node that was looked at");
        node.attr.nlink -= 1;
        node.attr.ctime = now;
        Removed { ino: Some(ino), freed: self.reap(ino) }
    }

    pub(super) fn remove_dir(&mut self, parent: Ino, name: &[u8], now: Timestamp) -> Result<Removed, Errno> {
        let ino = self.child(parent, name)?;
        if !self.dir(ino)?.entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.leave(parent, name, now);
        self.node_mut(parent)?.attr.nlink -= 1;
        self.nodes.remove(&ino);
        Ok(Removed { ino: Some(ino), freed: None })
    }

    pub(super) fn rename(
        &mut self,
        (from, name): (Ino, &[u8]),
        (to, new_name): (Ino, &[u8]),
        flags: RenameFlags,
        now: Timestamp,
    ) -> Result<Renamed, Errno> {
        let ino = self.child(from, name)?;
        let target = match self.child(to, new_name) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) if self.nodes.contains_key(&to) => None,
            Err(errno) => return Err(errno),
        };
        let attr = self.node(ino)?.attr.clone();
        if (from == to && name == new_name) || (target == Some(ino) && !flags.exchange) {
            return Ok(Renamed { ino, attr, replaced: Removed::default() });
        }
        let mut replaced = Removed::default();
        match target {
            Some(_) if flags.no_replace => return Err(Errno::EEXIST),
            None if flags.exchange => return Err(Errno::ENOENT),
            Some(other) if flags.exchange => {
                self.enter(from, name, other, now);
                self.moved(other, to, from, now);
            }
            Some(other) => {
                match (attr.is_dir(), self.node(other)?.attr.is_dir()) {
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    (true, true) => replaced = self.remove_dir(to, new_name, now)?,
                    (false, false) => replaced = self.unname(other, now),
                }
                self.leave(from, name, now);
            }
            None => self.leave(from, name, now),
        }
        self.enter(to, new_name, ino, now);
        self.moved(ino, from, to, now);
        if flags.whiteout {
            let node = NewNode { kind: FileType::CharDevice, mode: 0, umask: 0, rdev: 0, target: Bytes::new() };
            self.insert(&Caller::root(), from, name, &node, now)?;
        }
        Ok(Renamed { ino, attr: self.node(ino)?.attr.clone(), replaced })
    }

    pub(super) fn moved(&mut self, ino: Ino, from: Ino, to: Ino, now: Timestamp) {
        let node = self.nodes.get_mut(&ino).expect("a node that was looked at");
        node.attr.ctime = now;
        if node.attr.parent != Ino(0) {
            node.attr.parent = to;
        }
        if node.attr.is_dir() && from != to {
            self.nodes.get_mut(&from).expect("a parent that was looked at").attr.nlink -= 1;
            self.nodes.get_mut(&to).expect("a parent that was looked at").attr.nlink += 1;
        }
    }

    pub(super) fn copy(&mut self, from: Ino, from_off: u64, to: Ino, to_off: u64, size: u64) -> Result<Copied, Errno> {
        let source = self.node(from)?;
        if !source.attr.is_file() || !self.node(to)?.attr.is_file() {
            return Err(Errno::EINVAL);
        }
        let size = size.min(source.attr.length.saturating_sub(from_off));
        if size == 0 {
            return Ok(Copied { bytes: 0, length: self.node(to)?.attr.length });
        }
        let mut pieces = Vec::new();
        let mut at = from_off;
        while at < from_off + size {
            let upto = (from_off + size).min((at / CHUNK_SIZE + 1) * CHUNK_SIZE);
            let index = ChunkIndex::try_from(at / CHUNK_SIZE).expect("an offset within the largest file");
            let base = u64::from(index) * CHUNK_SIZE;
            let records = source.chunks.get(&index).cloned().unwrap_or_default();
            let whole = [vec![SliceRecord::zeros(0, CHUNK_SIZE as u32)], records].concat();
            let part = resolve(&whole).into_iter().filter_map(|p| p.clip((at - base) as u32, (upto - base) as u32));
            pieces.extend(part.map(|piece| (base + u64::from(piece.pos) - from_off + to_off, piece)));
            at = upto;
        }
        for (mut at, mut piece) in pieces {
            while piece.len > 0 {
                let room = CHUNK_SIZE - at % CHUNK_SIZE;
                let len = piece.len.min(u32::try_from(room).unwrap_or(u32::MAX));
                let record = match piece.key() {
                    Some(key) => {
                        SliceRecord { pos: (at % CHUNK_SIZE) as u32, id: key.id, size: key.size, off: piece.off, len }
                    }
                    None => SliceRecord::zeros((at % CHUNK_SIZE) as u32, len),
                };
                self.refer(&record);
                let index = ChunkIndex::try_from(at / CHUNK_SIZE).map_err(|_| Errno::EFBIG)?;
                self.file_mut(to)?.chunks.entry(index).or_default().push(record);
                (at, piece.off, piece.len) = (at + u64::from(len), piece.off + len, piece.len - len);
            }
        }
        let target = self.file_mut(to)?;
        target.attr.length = target.attr.length.max(to_off + size);
        Ok(Copied { bytes: size, length: target.attr.length })
    }
}
