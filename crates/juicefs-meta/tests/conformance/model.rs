//! A file system after POSIX, as plainly as it can be written: a table of inodes, directories as maps, content as a list
//! of 1 MiB units. It shares no code with what it checks.

use std::collections::{BTreeMap, BTreeSet};

use juicefs_core::{Errno, Timestamp};

/// An inode of the model.
pub(crate) type Id = usize;
/// The root directory.
pub(crate) const ROOT: Id = 0;
/// Length of a unit of content.
pub(crate) const UNIT: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Dir {
        entries: BTreeMap<String, Id>,
        parent: Id,
    },
    /// Each unit is a hole, or the n-th unit of a slice.
    File {
        units: Vec<Option<(u64, u64)>>,
    },
    Link(String),
    Fifo,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    pub(crate) opens: u32,
    /// Names outside the trash.
    pub(crate) names: u32,
    /// Was ever given a second name: the trash does not protect it then.
    pub(crate) linked: bool,
}

impl Node {
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir { .. })
    }

    pub(crate) fn size(&self) -> u64 {
        match &self.body {
            Body::Dir { .. } => 4096,
            Body::File { units } => units.len() as u64 * UNIT,
            Body::Link(target) => target.len() as u64,
            Body::Fifo => 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The model, and whether removed names go to a trash.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<Id, Node>,
    pub(crate) now: Timestamp,
    trash: bool,
    /// Names that the trash holds.
    trashed: BTreeSet<(Id, Id, String)>,
    next: Id,
}

pub(crate) type Outcome<T = ()> = Result<T, Errno>;

fn fail<T>(condition: bool, errno: Errno) -> Outcome<Option<T>> {
    if condition { Err(errno) } else { Ok(None) }
}

impl Model {
    pub(crate) fn new(trash: bool, now: Timestamp) -> Self {
        let body = Body::Dir { entries: BTreeMap::new(), parent: ROOT };
        let root = Node {
            body,
            mode: 0o777,
            uid: 0,
            gid: 0,
            nlink: 2,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            opens: 0,
            names: 1,
            linked: false,
        };
        Self { nodes: BTreeMap::from([(ROOT, root)]), now, trash, trashed: BTreeSet::new(), next: 1 }
    }

    fn node(&self, id: Id) -> Outcome<&Node> {
        self.nodes.get(&id).ok_or(Errno::ENOENT)
    }

    fn edit(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node")
    }

    fn entries(&self, dir: Id) -> Outcome<&BTreeMap<String, Id>> {
        match &self.node(dir)?.body {
            Body::Dir { entries, .. } => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn entries_mut(&mut self, dir: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.edit(dir).body {
            Body::Dir { entries, .. } => entries,
            _ => panic!("no directory"),
        }
    }

    fn allowed(&self, who: Who, id: Id, mask: u16) -> Outcome {
        let node = self.node(id)?;
        let bits = if who.uid == node.uid {
            node.mode >> 6
        } else if who.gid == node.gid {
            node.mode >> 3
        } else {
            node.mode
        };
        if who.uid == 0 || bits & mask == mask { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// The directory was changed by an entry.
    fn touch(&mut self, dir: Id) {
        let now = self.now;
        let node = self.edit(dir);
        (node.mtime, node.ctime) = (now, now);
    }

    pub(crate) fn is_live(&self, id: Id) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.names > 0)
    }

    /// Whether an operation on the inode itself is within what the model knows: removed files that are open are, what
    /// lies in the trash is not.
    pub(crate) fn is_known(&self, id: Id) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.names > 0 || !self.trash)
    }

    pub(crate) fn is_dir(&self, id: Id) -> bool {
        self.is_live(id) && self.nodes[&id].is_dir()
    }

    pub(crate) fn is_file(&self, id: Id) -> bool {
        self.is_known(id) && matches!(self.nodes[&id].body, Body::File { .. })
    }

    /// All entries.
    pub(crate) fn taken(&self) -> impl Iterator<Item = (Id, String)> {
        self.nodes.iter().filter(|(id, _)| self.is_dir(**id)).flat_map(|(id, node)| match &node.body {
            Body::Dir { entries, .. } => entries.keys().map(|name| (*id, name.clone())).collect::<Vec<_>>(),
            _ => vec![],
        })
    }

    pub(crate) fn lookup(&self, who: Who, dir: Id, name: &str) -> Outcome<Id> {
        self.entries(dir)?;
        self.allowed(who, dir, 1)?;
        self.entries(dir)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(crate) fn create(&mut self, who: Who, dir: Id, name: &str, mode: u16, body: Body) -> Outcome<Id> {
        self.entries(dir)?;
        self.allowed(who, dir, 3)?;
        fail::<()>(self.entries(dir)?.contains_key(name), Errno::EEXIST)?;
        let id = self.next;
        self.next += 1;
        let parent = self.node(dir)?.clone();
        let inherits = parent.mode & 0o2000 != 0;
        let mut mode = if matches!(body, Body::Link(_)) { 0o777 } else { mode };
        let body = match body {
            Body::Dir { .. } => Body::Dir { entries: BTreeMap::new(), parent: dir },
            other => other,
        };
        let is_dir = matches!(body, Body::Dir { .. });
        let gid = if inherits { parent.gid } else { who.gid };
        if inherits && is_dir {
            mode |= 0o2000;
        } else if inherits && mode & 0o2010 == 0o2010 && who.uid != 0 && who.gid != parent.gid {
            mode &= !0o2000;
        }
        let node = Node {
            body,
            mode,
            uid: who.uid,
            gid,
            nlink: if is_dir { 2 } else { 1 },
            mtime: self.now,
            ctime: self.now,
            xattrs: BTreeMap::new(),
            opens: 0,
            names: 1,
            linked: false,
        };
        self.nodes.insert(id, node);
        self.entries_mut(dir).insert(name.to_owned(), id);
        self.edit(dir).nlink += u32::from(is_dir);
        self.touch(dir);
        Ok(id)
    }

    /// Opens or makes a regular file.
    pub(crate) fn create_open(&mut self, who: Who, dir: Id, name: &str, mode: u16, exclusive: bool) -> Outcome<Id> {
        let existing = self.entries(dir)?.get(name).copied();
        if let Some(id) = existing.filter(|_| !exclusive) {
            self.allowed(who, dir, 1)?;
            fail::<()>(!matches!(self.node(id)?.body, Body::File { .. }), Errno::EEXIST)?;
            self.open(who, id)?;
            return Ok(id);
        }
        let id = self.create(who, dir, name, mode, Body::File { units: vec![] })?;
        self.edit(id).opens += 1;
        Ok(id)
    }

    /// Opens for reading and writing.
    pub(crate) fn open(&mut self, who: Who, id: Id) -> Outcome {
        self.allowed(who, id, 6)?;
        self.edit(id).opens += 1;
        Ok(())
    }

    pub(crate) fn close(&mut self, id: Id) {
        self.edit(id).opens -= 1;
        self.reap(id);
    }

    /// A file without names and opens is gone.
    fn reap(&mut self, id: Id) {
        let node = &self.nodes[&id];
        if node.nlink == 0 && node.opens == 0 {
            self.nodes.remove(&id);
        }
    }

    /// Whether `who` may take the entry of `id` out of `dir`.
    fn removable(&self, who: Who, dir: Id, id: Id) -> Outcome {
        self.allowed(who, dir, 3)?;
        let (parent, node) = (self.node(dir)?, self.node(id)?);
        let sticky = parent.mode & 0o1000 != 0 && ![0, parent.uid, node.uid].contains(&who.uid);
        if sticky { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// The name is out of its directory: what becomes of the node.
    fn drop_name(&mut self, dir: Id, name: &str, id: Id) {
        let now = self.now;
        let (trash, place) = (self.trash, (dir, id, name.to_owned()));
        let is_dir = self.nodes[&id].is_dir();
        let taken = self.nodes[&id].nlink > 1 && !is_dir && self.trashed.contains(&place);
        let node = self.edit(id);
        node.ctime = now;
        node.names -= 1;
        if trash && !taken {
            self.trashed.insert(place);
            return;
        }
        if is_dir {
            self.nodes.remove(&id);
            return;
        }
        node.nlink -= 1;
        if node.nlink == 0 {
            node.xattrs.clear();
            if !matches!(node.body, Body::File { .. }) {
                node.opens = 0;
            }
        }
        self.reap(id);
    }

    pub(crate) fn unlink(&mut self, who: Who, dir: Id, name: &str) -> Outcome {
        let id = self.lookup(who, dir, name)?;
        self.removable(who, dir, id)?;
        fail::<()>(self.node(id)?.is_dir(), Errno::EPERM)?;
        self.entries_mut(dir).remove(name);
        self.touch(dir);
        self.drop_name(dir, name, id);
        Ok(())
    }

    pub(crate) fn rmdir(&mut self, who: Who, dir: Id, name: &str) -> Outcome {
        let id = self.lookup(who, dir, name)?;
        self.removable(who, dir, id)?;
        fail::<()>(!self.entries(id)?.is_empty(), Errno::ENOTEMPTY)?;
        self.entries_mut(dir).remove(name);
        self.edit(dir).nlink -= 1;
        self.touch(dir);
        self.drop_name(dir, name, id);
        Ok(())
    }

    /// Whether `id` is `below` or a directory above it.
    fn is_above(&self, id: Id, below: Id) -> bool {
        let mut at = below;
        loop {
            if at == id {
                return true;
            }
            match self.nodes.get(&at).map(|node| &node.body) {
                Some(Body::Dir { parent, .. }) if *parent != at => at = *parent,
                _ => return false,
            }
        }
    }

    pub(crate) fn rename(
        &mut self,
        who: Who,
        (from, name): (Id, &str),
        (to, new_name): (Id, &str),
        no_replace: bool,
        exchange: bool,
    ) -> Outcome {
        let source = self.lookup(who, from, name)?;
        self.entries(to)?;
        self.allowed(who, to, 1)?;
        let target = self.entries(to)?.get(new_name).copied();
        fail::<()>(no_replace && target.is_some(), Errno::EEXIST)?;
        fail::<()>(exchange && target.is_none(), Errno::ENOENT)?;
        if target == Some(source) {
            return Ok(());
        }
        fail::<()>(self.is_above(source, to), Errno::EINVAL)?;
        self.removable(who, from, source)?;
        let source_dir = self.node(source)?.is_dir();
        let Some(target) = target else {
            self.allowed(who, to, 3)?;
            self.movable(who, from, to, source)?;
            self.take(from, name, source_dir);
            self.place(to, new_name, source);
            return Ok(());
        };
        fail::<()>(exchange && self.is_above(target, from), Errno::EINVAL)?;
        self.removable(who, to, target)?;
        let target_dir = self.node(target)?.is_dir();
        if !exchange {
            fail::<()>(source_dir && !target_dir, Errno::ENOTDIR)?;
            fail::<()>(!source_dir && target_dir, Errno::EISDIR)?;
        }
        self.movable(who, from, to, source)?;
        if exchange {
            self.movable(who, from, to, target)?;
            self.take(from, name, source_dir);
            self.take(to, new_name, target_dir);
            self.place(to, new_name, source);
            self.place(from, name, target);
            return Ok(());
        }
        fail::<()>(target_dir && !self.entries(target)?.is_empty(), Errno::ENOTEMPTY)?;
        self.take(to, new_name, target_dir);
        self.drop_name(to, new_name, target);
        self.take(from, name, source_dir);
        self.place(to, new_name, source);
        Ok(())
    }

    /// A directory that goes to another one must be writable, for its `..` changes.
    fn movable(&self, who: Who, from: Id, to: Id, id: Id) -> Outcome {
        if from != to && self.node(id)?.is_dir() { self.allowed(who, id, 2) } else { Ok(()) }
    }

    fn take(&mut self, dir: Id, name: &str, is_dir: bool) {
        self.entries_mut(dir).remove(name);
        self.edit(dir).nlink -= u32::from(is_dir);
        self.touch(dir);
    }

    fn place(&mut self, dir: Id, name: &str, id: Id) {
        let now = self.now;
        let node = self.edit(id);
        node.ctime = now;
        let is_dir = node.is_dir();
        if let Body::Dir { parent, .. } = &mut node.body {
            *parent = dir;
        }
        self.entries_mut(dir).insert(name.to_owned(), id);
        self.edit(dir).nlink += u32::from(is_dir);
        self.touch(dir);
    }

    pub(crate) fn link(&mut self, who: Who, id: Id, dir: Id, name: &str) -> Outcome {
        fail::<()>(self.node(id)?.is_dir(), Errno::EPERM)?;
        self.entries(dir)?;
        self.allowed(who, dir, 1)?;
        fail::<()>(self.entries(dir)?.contains_key(name), Errno::EEXIST)?;
        let node = self.node(id)?;
        let plain = matches!(node.body, Body::File { .. }) && node.mode & 0o4000 == 0 && node.mode & 0o2010 != 0o2010;
        let foreign = ![0, node.uid].contains(&who.uid);
        fail::<()>(foreign && !(plain && self.allowed(who, id, 6).is_ok()), Errno::EPERM)?;
        self.allowed(who, dir, 3)?;
        let now = self.now;
        let node = self.edit(id);
        node.linked |= node.nlink > 0;
        node.nlink += 1;
        node.names += 1;
        node.ctime = now;
        self.entries_mut(dir).insert(name.to_owned(), id);
        self.touch(dir);
        Ok(())
    }

    pub(crate) fn chmod(&mut self, who: Who, id: Id, mode: u16) -> Outcome {
        let node = self.node(id)?;
        let mut mode = mode;
        if who.uid != 0 && who.gid != node.gid {
            mode &= !0o2000;
        }
        let drops = mode & 0o1777 == node.mode & 0o1777 && mode & !node.mode & 0o6000 == 0;
        let writer = drops && self.allowed(who, id, 2).is_ok();
        fail::<()>(![0, node.uid].contains(&who.uid) && !writer, Errno::EPERM)?;
        if mode == node.mode {
            return Ok(());
        }
        let now = self.now;
        let node = self.edit(id);
        (node.mode, node.ctime) = (mode, now);
        Ok(())
    }

    pub(crate) fn chown(&mut self, who: Who, id: Id, uid: u32, gid: u32) -> Outcome {
        let node = self.node(id)?;
        fail::<()>(![0, node.uid].contains(&who.uid), Errno::EPERM)?;
        fail::<()>(who.uid != 0 && (uid != node.uid || gid != node.gid && gid != who.gid), Errno::EPERM)?;
        let mut mode = node.mode;
        if mode & 0o6000 != 0 && !node.is_dir() {
            mode &= if who.uid != 0 || mode & 0o010 != 0 { 0o1777 } else { 0o3777 };
        }
        if (mode, uid, gid) != (node.mode, node.uid, node.gid) {
            let now = self.now;
            let node = self.edit(id);
            (node.mode, node.uid, node.gid, node.ctime) = (mode, uid, gid, now);
        }
        Ok(())
    }

    pub(crate) fn utimes(&mut self, who: Who, id: Id, mtime: Option<Timestamp>) -> Outcome {
        let node = self.node(id)?;
        let owner = [0, node.uid].contains(&who.uid);
        let now = self.now;
        let time = match mtime {
            None if owner => now,
            None => {
                self.allowed(who, id, 2)?;
                now
            }
            Some(time) if owner || time == node.mtime => time,
            Some(_) => return Err(Errno::EPERM),
        };
        let node = self.edit(id);
        if time != node.mtime {
            (node.mtime, node.ctime) = (time, now);
        }
        Ok(())
    }

    fn units_mut(&mut self, id: Id, wrong_kind: Errno) -> Outcome<&mut Vec<Option<(u64, u64)>>> {
        match &mut self.nodes.get_mut(&id).ok_or(Errno::ENOENT)?.body {
            Body::File { units } => Ok(units),
            _ => Err(wrong_kind),
        }
    }

    fn modified(&mut self, id: Id) {
        self.touch(id);
    }

    pub(crate) fn truncate(&mut self, who: Who, id: Id, length: usize) -> Outcome {
        self.units_mut(id, Errno::EPERM)?;
        self.allowed(who, id, 2)?;
        let units = self.units_mut(id, Errno::EPERM)?;
        if units.len() != length {
            units.resize(length, None);
            self.modified(id);
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, id: Id, at: usize, len: usize, slice: u64) -> Outcome {
        let units = self.units_mut(id, Errno::EPERM)?;
        let end = (at + len).max(units.len());
        units.resize(end, None);
        for n in 0..len {
            units[at + n] = Some((slice, n as u64));
        }
        self.modified(id);
        Ok(())
    }

    pub(crate) fn append(&mut self, id: Id, len: usize, slice: u64) -> Outcome {
        let at = self.units_mut(id, Errno::EPERM)?.len();
        self.write(id, at, len, slice)
    }

    /// Zeroes or reserves a range.
    pub(crate) fn fallocate(
        &mut self,
        who: Who,
        id: Id,
        at: usize,
        len: usize,
        zero: bool,
        keep_size: bool,
    ) -> Outcome {
        let fifo = matches!(self.node(id)?.body, Body::Fifo);
        let units = self.units_mut(id, if fifo { Errno::EPIPE } else { Errno::EPERM })?;
        if zero {
            let end = (at + len).min(units.len());
            units[at.min(end)..end].fill(None);
        }
        if !keep_size {
            let end = (at + len).max(units.len());
            units.resize(end, None);
        }
        if who.uid != 0
            && let Some(node) = self.nodes.get_mut(&id)
        {
            let keeps_gid = node.mode & 0o010 == 0 && who.gid == node.gid;
            node.mode &= if keeps_gid { !0o4000 } else { !0o6000 };
        }
        self.modified(id);
        Ok(())
    }

    pub(crate) fn copy(&mut self, from: Id, from_at: usize, to: Id, to_at: usize, len: usize) -> Outcome<usize> {
        self.node(from)?;
        self.node(to)?;
        let source = self.units_mut(from, Errno::EINVAL)?.clone();
        let target = self.units_mut(to, Errno::EINVAL)?;
        let end = (from_at + len).min(source.len());
        let len = end.saturating_sub(from_at);
        if len == 0 {
            return Ok(0);
        }
        fail::<()>(from == to && from_at < to_at + len && to_at < end, Errno::EINVAL)?;
        let size = target.len().max(to_at + len);
        target.resize(size, None);
        target[to_at..to_at + len].copy_from_slice(&source[from_at..end]);
        self.modified(to);
        Ok(len)
    }

    pub(crate) fn setxattr(&mut self, who: Who, id: Id, name: &str, value: Option<Vec<u8>>) -> Outcome {
        let node = self.node(id)?;
        let foreign = ![0, node.uid].contains(&who.uid);
        let kind = matches!(node.body, Body::File { .. } | Body::Dir { .. });
        fail::<()>(who.uid != 0 && !kind || node.is_dir() && node.mode & 0o1000 != 0 && foreign, Errno::EPERM)?;
        self.allowed(who, id, 2)?;
        let now = self.now;
        let node = self.edit(id);
        match value {
            Some(value) => {
                node.xattrs.insert(name.to_owned(), value);
            }
            None => {
                node.xattrs.remove(name).ok_or(Errno::ENODATA)?;
            }
        }
        node.ctime = now;
        Ok(())
    }
}
