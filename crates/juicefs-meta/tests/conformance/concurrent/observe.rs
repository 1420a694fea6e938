//! What can be seen of a volume once all callers are done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use juicefs_core::{Ino, Meta, MetaResult, Name, SessionId};
use juicefs_meta::{
    Client,
    engine::Scan,
    record::{HolderKey, Key},
};

use super::op::{Aliases, Face, Units, XATTR};

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) face: Face,
    pub(crate) units: Units,
    pub(crate) xattr: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Observation {
    /// Directories with a path, and their entries.
    pub(crate) dirs: BTreeMap<Ino, BTreeMap<String, Ino>>,
    /// Everything in them, and every inode asked for that is there.
    pub(crate) nodes: BTreeMap<Ino, Seen>,
    /// What the session of each client keeps.
    pub(crate) sustained: BTreeSet<(usize, Ino)>,
}

fn xattr_name() -> Name {
    Name::from(XATTR.to_vec())
}

impl Observation {
    /// Looks at everything below the root, and at `known` inodes.
    pub(crate) async fn take(
        client: &Client,
        sessions: [SessionId; 2],
        known: impl Iterator<Item = Ino>,
        aliases: &Aliases,
    ) -> MetaResult<Self> {
        let mut all = Self::default();
        let mut todo = vec![Ino::ROOT];
        while let Some(dir) = todo.pop() {
            let page = client.readdir(dir, None, true, 1000).await?;
            for entry in &page.entries {
                let attr = entry.attr.as_ref().unwrap_or_else(|| panic!("{dir}/{} names nothing", entry.name));
                if attr.is_dir() {
                    todo.push(entry.ino);
                }
            }
            let entries = page.entries.into_iter().map(|entry| (entry.name.to_string(), entry.ino)).collect();
            all.dirs.insert(dir, entries);
        }
        let mut inodes: BTreeSet<Ino> = all.dirs.values().flat_map(|entries| entries.values().copied()).collect();
        inodes.extend(known);
        for (client_no, sid) in sessions.into_iter().enumerate() {
            for (key, _) in client.engine().scan(Scan::Sustained(sid), None, 1000).await? {
                let Key::Holder(HolderKey::Sustained(_, ino)) = key else { panic!("{key:?}") };
                all.sustained.insert((client_no, ino));
                inodes.insert(ino);
            }
        }
        let keys = |ino: &Ino| [Key::Node(*ino), Key::Chunk(*ino, 0), Key::Xattr(*ino, xattr_name())];
        let read = client.engine().fetch(&inodes.iter().flat_map(keys).collect::<Vec<_>>()).await?;
        for ino in inodes {
            let Some(attr) = read.node(ino) else { continue };
            let units = if attr.is_file() { aliases.shown(read.chunk(ino, 0)) } else { Units::new() };
            let xattr = read.xattr(ino, &xattr_name()).map(|value| value.to_vec());
            all.nodes.insert(ino, Seen { face: Face::from(attr), units, xattr });
        }
        Ok(all)
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (ino, seen) in &self.nodes {
            writeln!(f, "  {ino}: {:?} {:?} {:?}", seen.face, seen.units, seen.xattr)?;
        }
        writeln!(f, "  entries {:?} sustained {:?}", self.dirs, self.sustained)
    }
}
