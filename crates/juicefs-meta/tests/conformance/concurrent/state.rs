//! What the file system may be in: the model, with the numbers that the engine gave to its inodes and what each client
//! holds open.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use juicefs_core::{Errno, Ino};

use super::{
    observe::Observation,
    op::{Answer, Call, Face, Op, RenameKind, Reply, Units},
};
use crate::model::{Body, Id, Model, Outcome, ROOT, Who};

const WHO: Who = Who { uid: 0, gid: 0 };
/// Name of the extended attribute within the model.
const XATTR: &str = "user.x";

/// One possible state.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) model: Model,
    /// Numbers of inodes, also of those that are gone. An inode whose making got no answer has none at first.
    numbers: BTreeMap<Id, Ino>,
    ids: BTreeMap<Ino, Id>,
    /// Opens of each client: others do not keep a removed file alive.
    opens: [BTreeMap<Id, u32>; 2],
    /// Files without a name that a client's session keeps.
    sustained: BTreeSet<(usize, Id)>,
    /// Those of them whose last close could not free them: that is left to the end of the session.
    abandoned: BTreeSet<(usize, Id)>,
}

/// What the model answers.
enum Told {
    Nothing,
    Node(Id),
    Removed(Id),
    Renamed {
        id: Id,
        replaced: Option<Id>,
    },
    Entries(BTreeMap<String, Id>),
    Units(Units),
    /// It cannot be said: whatever was answered is right.
    Anything,
}

impl State {
    pub(crate) fn new() -> Self {
        let model = Model::new(false, juicefs_core::Timestamp::from_secs(crate::volume::START_SECS));
        let (numbers, ids) = (BTreeMap::from([(ROOT, Ino::ROOT)]), BTreeMap::from([(Ino::ROOT, ROOT)]));
        Self { model, numbers, ids, opens: Default::default(), sustained: BTreeSet::new(), abandoned: BTreeSet::new() }
    }

    /// Whether the inode may have this number; notes it.
    fn unify(&mut self, id: Id, ino: Ino) -> bool {
        match (self.numbers.get(&id), self.ids.get(&ino)) {
            (Some(known), _) => *known == ino,
            (None, Some(_)) => false,
            (None, None) => {
                self.numbers.insert(id, ino);
                self.ids.insert(ino, id);
                true
            }
        }
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = Ino> {
        self.numbers.values().copied()
    }

    fn live(&self, wanted: impl Fn(&Body) -> bool) -> Vec<Ino> {
        let live = self.model.nodes.iter().filter(|(_, node)| wanted(&node.body));
        live.filter_map(|(id, _)| self.numbers.get(id).copied()).collect()
    }

    pub(crate) fn dirs(&self) -> Vec<Ino> {
        self.live(|body| matches!(body, Body::Dir { .. }))
    }

    /// Files that are there, those without a name included.
    pub(crate) fn files(&self) -> Vec<Ino> {
        self.live(|body| matches!(body, Body::File { .. }))
    }

    pub(crate) fn names_in_root(&self) -> BTreeSet<&str> {
        match &self.model.nodes[&ROOT].body {
            Body::Dir { entries, .. } => entries.keys().map(String::as_str).collect(),
            _ => BTreeSet::new(),
        }
    }

    fn face(&self, id: Id) -> Option<Face> {
        let node = self.model.nodes.get(&id)?;
        Some(Face { dir: node.is_dir(), mode: node.mode, nlink: node.nlink, length: node.size() })
    }

    /// Does what was asked; whether it may have been answered as it was.
    pub(crate) fn step(&mut self, call: &Call) -> bool {
        let client = call.client;
        for (id, node) in &mut self.model.nodes {
            node.opens = self.opens[client].get(id).copied().unwrap_or(0);
        }
        let Some(told) = self.tell(call) else { return false };
        let opens = self.model.nodes.iter().filter(|(_, node)| node.opens > 0);
        self.opens[client] = opens.map(|(id, node)| (*id, node.opens)).collect();
        match (&call.answer, told) {
            (Answer::Unknown(_), _) | (_, Ok(Told::Anything)) => true,
            (Answer::Errno(real), Err(model)) => *real == model,
            (Answer::Ok(reply), Ok(told)) => self.agree(reply, told),
            _ => false,
        }
    }

    /// The answer of the model; `None` when it cannot have been asked in this state.
    fn tell(&mut self, call: &Call) -> Option<Outcome<Told>> {
        let id = |ino: Ino| self.ids.get(&ino).copied();
        let unknown = matches!(call.answer, Answer::Unknown(_));
        Some(match &call.op {
            Op::Mkdir { dir, name } => {
                let body = Body::Dir { entries: BTreeMap::new(), parent: ROOT };
                self.model.create(WHO, id(*dir)?, name, 0o755, body).map(Told::Node)
            }
            // One that got no answer is not open here.
            Op::Create { dir, name, exclusive: _ } if unknown => {
                self.model.create(WHO, id(*dir)?, name, 0o644, Body::File { units: vec![] }).map(Told::Node)
            }
            Op::Create { dir, name, exclusive } => {
                self.model.create_open(WHO, id(*dir)?, name, 0o644, *exclusive).map(Told::Node)
            }
            Op::Unlink { dir, name } => self.remove(call.client, id(*dir)?, name, false),
            Op::Rmdir { dir, name } => self.remove(call.client, id(*dir)?, name, true),
            Op::Rename { from, to, kind } => {
                let (from, to) = ((id(from.0)?, from.1), (id(to.0)?, to.1));
                self.rename(call.client, from, to, *kind)
            }
            Op::Link { ino, dir, name } => self.link(call.client, id(*ino)?, id(*dir)?, name),
            Op::Open { ino } => {
                let id = id(*ino)?;
                self.model.open(WHO, id).map(|()| Told::Node(id))
            }
            Op::Close { ino } => {
                // A file that others removed may be forgotten before it is closed.
                if let Some(id) = id(*ino) {
                    self.close(call.client, id, unknown);
                }
                Ok(Told::Nothing)
            }
            Op::Count { ino } => {
                // Whether it found the file there does not matter: nobody was told.
                let _ = self.model.open(WHO, id(*ino)?);
                Ok(Told::Nothing)
            }
            Op::Release { ino } => {
                self.release(call.client, id(*ino)?);
                Ok(Told::Nothing)
            }
            Op::Lookup { dir, name } => self.model.lookup(WHO, id(*dir)?, name).map(Told::Node),
            Op::Getattr { ino } | Op::Readdir { dir: ino } | Op::Read { ino } => self.look(&call.op, id(*ino)?),
            _ => return self.tell_nodes(call),
        })
    }

    fn tell_nodes(&mut self, call: &Call) -> Option<Outcome<Told>> {
        let id = |ino: Ino| self.ids.get(&ino).copied();
        let (done, node) = match call.op {
            Op::Chmod { ino, mode } => (self.model.chmod(WHO, id(ino)?, mode), ino),
            Op::Truncate { ino, length } => (self.model.truncate(WHO, id(ino)?, length), ino),
            Op::Write { ino, at, len, slice } => {
                return Some(self.model.write(id(ino)?, at, len, slice).map(|()| Told::Nothing));
            }
            Op::Append { ino, slice } => (self.model.append(id(ino)?, 1, slice), ino),
            Op::Punch { ino, at, len } => (self.model.fallocate(WHO, id(ino)?, at, len, true, true), ino),
            Op::SetXattr { ino, value } => {
                let set = self.model.setxattr(WHO, id(ino)?, XATTR, value.map(|value| vec![value]));
                return Some(set.map(|()| Told::Nothing));
            }
            Op::Copy { from, from_at, to, to_at, len } => {
                let copied = self.model.copy(id(from)?, from_at, id(to)?, to_at, len);
                return Some(copied.map(|_| Told::Nothing));
            }
            // It changes nothing that shows; of a file that is gone it says so or not.
            Op::Compact { .. } => return Some(Ok(Told::Anything)),
            _ => unreachable!("another kind of operation"),
        };
        let id = id(node)?;
        Some(done.map(|()| Told::Node(id)))
    }

    /// A removal by this client left the node to those who have it open here.
    fn note_sustained(&mut self, client: usize, id: Id) {
        if self.model.nodes.get(&id).is_some_and(|node| node.nlink == 0) {
            self.sustained.insert((client, id));
            self.abandoned.remove(&(client, id));
        }
    }

    fn remove(&mut self, client: usize, dir: Id, name: &str, is_dir: bool) -> Outcome<Told> {
        let id = self.model.lookup(WHO, dir, name)?;
        if is_dir {
            self.model.rmdir(WHO, dir, name)?;
        } else {
            self.model.unlink(WHO, dir, name)?;
        }
        self.note_sustained(client, id);
        Ok(Told::Removed(id))
    }

    fn rename(&mut self, client: usize, from: (Id, &str), to: (Id, &str), kind: RenameKind) -> Outcome<Told> {
        let id = self.model.lookup(WHO, from.0, from.1)?;
        let target = self.model.lookup(WHO, to.0, to.1).ok();
        let (no_replace, exchange) = (kind == RenameKind::NoReplace, kind == RenameKind::Exchange);
        self.model.rename(WHO, from, to, no_replace, exchange)?;
        let replaced = target.filter(|target| !exchange && *target != id);
        if let Some(replaced) = replaced {
            self.note_sustained(client, replaced);
        }
        Ok(Told::Renamed { id, replaced })
    }

    /// Only the client whose session keeps a file without a name can give it one again.
    fn link(&mut self, client: usize, id: Id, dir: Id, name: &str) -> Outcome<Told> {
        let nameless = self.model.nodes.get(&id).is_some_and(|node| node.nlink == 0);
        if nameless && !self.sustained.contains(&(client, id)) {
            // What comes before that in the order of checks.
            let taken = self.model.clone().link(WHO, id, dir, name);
            return Err(taken.err().unwrap_or(Errno::ENOENT));
        }
        self.model.link(WHO, id, dir, name)?;
        self.sustained.remove(&(client, id));
        self.abandoned.remove(&(client, id));
        Ok(Told::Node(id))
    }

    /// The last close frees what the session kept, unless that is told apart.
    fn close(&mut self, client: usize, id: Id, unanswered: bool) {
        // The file may have gone although this client had it open: somebody else removed it.
        let Some(node) = self.model.nodes.get_mut(&id) else { return };
        node.opens = node.opens.saturating_sub(1);
        if node.opens > 0 || !self.sustained.contains(&(client, id)) {
            return;
        }
        if unanswered {
            self.abandoned.insert((client, id));
        } else if !self.abandoned.contains(&(client, id)) {
            self.release(client, id);
        }
    }

    fn release(&mut self, client: usize, id: Id) {
        self.abandoned.remove(&(client, id));
        let nameless = self.model.nodes.get(&id).is_some_and(|node| node.nlink == 0);
        if self.sustained.remove(&(client, id)) && nameless {
            self.model.nodes.remove(&id);
        }
    }

    fn look(&self, op: &Op, id: Id) -> Outcome<Told> {
        let node = self.model.nodes.get(&id);
        match (op, node.map(|node| &node.body)) {
            // What is left of the lists of a removed file may still show.
            (Op::Read { .. }, None) => Ok(Told::Anything),
            (_, None) => Err(Errno::ENOENT),
            (Op::Getattr { .. }, Some(_)) => Ok(Told::Node(id)),
            (Op::Readdir { .. }, Some(Body::Dir { entries, .. })) => Ok(Told::Entries(entries.clone())),
            (Op::Readdir { .. }, Some(_)) => Err(Errno::ENOTDIR),
            (_, Some(Body::File { units })) => Ok(Told::Units(units.clone())),
            (_, Some(_)) => Err(Errno::EPERM),
        }
    }

    fn agree(&mut self, reply: &Reply, told: Told) -> bool {
        match (reply, told) {
            (Reply::Done, _) => true,
            (Reply::Ino(ino), Told::Node(id)) => self.unify(id, *ino),
            (Reply::Found(ino, face), Told::Node(id)) => self.unify(id, *ino) && self.face(id) == Some(*face),
            (Reply::Face(face), Told::Node(id)) => self.face(id) == Some(*face),
            (Reply::Removed { ino, freed }, Told::Removed(id)) => {
                ino.is_some_and(|ino| self.unify(id, ino)) && self.may_free(id, *freed)
            }
            (Reply::Renamed { ino, face, replaced, freed }, Told::Renamed { id, replaced: other }) => {
                let same = match (replaced, other) {
                    (Some(ino), Some(id)) => self.unify(id, *ino) && self.may_free(id, *freed),
                    (None, None) => !freed,
                    _ => false,
                };
                same && self.unify(id, *ino) && self.face(id) == Some(*face)
            }
            (Reply::Entries(real), Told::Entries(entries)) => self.same_entries(real, &entries),
            (Reply::Units(real), Told::Units(units)) => same_units(real, &units),
            _ => false,
        }
    }

    /// Data to delete is handed out only when the node is gone.
    fn may_free(&self, id: Id, freed: bool) -> bool {
        !freed || !self.model.nodes.contains_key(&id)
    }

    fn same_entries(&mut self, real: &BTreeMap<String, Ino>, entries: &BTreeMap<String, Id>) -> bool {
        real.keys().eq(entries.keys()) && real.values().zip(entries.values()).all(|(ino, id)| self.unify(*id, *ino))
    }

    /// What of this is not as it was seen when all was done; numbers that were open are known then.
    pub(crate) fn differs(&mut self, seen: &Observation) -> Option<String> {
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            let Some(Body::Dir { entries, .. }) = self.model.nodes.get(&id).map(|node| &node.body) else { continue };
            let entries = entries.clone();
            let ino = self.numbers.get(&id).copied();
            let real = ino.and_then(|ino| seen.dirs.get(&ino));
            if !real.is_some_and(|real| self.same_entries(real, &entries)) {
                return Some(format!("entries of {ino:?} would be {entries:?}"));
            }
            todo.extend(entries.values());
        }
        let ino_of = |id: &Id| self.numbers.get(id).copied();
        let sustained: BTreeSet<_> = self.sustained.iter().map(|(client, id)| (*client, ino_of(id))).collect();
        if !sustained.iter().copied().eq(seen.sustained.iter().map(|(client, ino)| (*client, Some(*ino)))) {
            return Some(format!("sustained would be {sustained:?}"));
        }
        let there: BTreeSet<_> = self.model.nodes.keys().map(ino_of).collect();
        if !there.iter().copied().eq(seen.nodes.keys().copied().map(Some)) {
            return Some(format!("inodes would be {there:?}"));
        }
        self.model.nodes.iter().find_map(|(id, node)| {
            let (ino, face) = (self.numbers[id], self.face(*id));
            let real = &seen.nodes[&ino];
            let content = match &node.body {
                Body::File { units } => same_units(&real.units, units),
                _ => true,
            };
            let same = content && Some(real.face) == face && real.xattr.as_ref() == node.xattrs.get(XATTR);
            (!same).then(|| format!("{ino} would be {face:?} {:?} {:?}", node.body, node.xattrs))
        })
    }

    /// Forgets inodes that are gone but for the last few.
    pub(crate) fn forget_gone(&mut self) {
        let gone: Vec<Id> = self.numbers.keys().filter(|id| !self.model.nodes.contains_key(id)).copied().collect();
        let open = |id: &Id| self.opens.iter().any(|opens| opens.contains_key(id));
        for id in gone.iter().rev().skip(4).filter(|id| !open(id)) {
            if let Some(ino) = self.numbers.remove(id) {
                self.ids.remove(&ino);
            }
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, node) in &self.model.nodes {
            let opens = self.opens.each_ref().map(|opens| opens.get(id).copied().unwrap_or(0));
            let ino = self.numbers.get(id);
            writeln!(f, "  {ino:?}: {:o} nlink {} opens {opens:?} {:?}", node.mode, node.nlink, node.body)?;
        }
        writeln!(f, "  numbers {:?} sustained {:?}", self.numbers, self.sustained)
    }
}

/// Beyond the end of the file, lists may hold anything.
fn same_units(real: &Units, units: &Units) -> bool {
    units.iter().enumerate().all(|(n, unit)| real.get(n).copied().flatten() == *unit)
}
