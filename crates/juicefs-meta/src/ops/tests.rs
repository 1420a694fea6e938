//! Errno precedence: everything is wrong at first, and mended one by one; each mending uncovers the next error.

use std::{collections::HashMap, sync::Arc};

use juicefs_core::{
    Attr, Caller, Errno, FileType, Ino, Name, SessionId, Timestamp,
    attr::flags,
    meta::{NewNode, RenameFlags},
};

use super::{Scope, link::Link, mknod::Mknod, remove::Removal, rename::Rename, rmdir::Rmdir, unlink::Unlink};
use crate::{
    opens::OpenTable,
    record::{Edge, Key, Value},
    txn::{Decision, NodeGuard, Operation, ReadSet},
};

const FROM: Ino = Ino(10);
const TO: Ino = Ino(11);
const SOURCE: Ino = Ino(20);
const TARGET: Ino = Ino(21);
const USER: u32 = 7;

/// Records that a test edits.
struct World(HashMap<Key, Value>);

impl World {
    fn new() -> Self {
        Self(HashMap::new())
    }

    fn node(&mut self, ino: Ino, attr: Attr) {
        self.0.insert(Key::Node(ino), Value::Node(attr));
    }

    fn edge(&mut self, dir: Ino, name: &str, ino: Ino, kind: FileType) {
        self.0.insert(Key::Edge(dir, Name::from(name)), Value::Edge(Edge { ino, kind }));
    }

    fn decide<O: Operation>(&self, op: &O) -> Result<(), Errno> {
        let mut read = ReadSet::default();
        let mut keys = op.keys();
        loop {
            for key in keys.drain(..) {
                let value = self.0.get(&key).cloned();
                read.insert(key, value);
            }
            match op.decide(&read) {
                Decision::Done(..) => return Ok(()),
                Decision::Fail(errno) => return Err(errno),
                Decision::NeedMore(more) => keys = more,
            }
        }
    }
}

fn scope() -> Scope {
    Scope {
        caller: Caller { uid: USER, gid: USER, check_permission: true, ..Caller::default() },
        now: Timestamp::from_secs(100),
        skip_dir_mtime: Default::default(),
        sid: SessionId(1),
        dir_stats: true,
    }
}

fn removal() -> Removal {
    Removal { trash: None, opens: Arc::new(OpenTable::default()).hold(), keep: false }
}

fn dir(mode: u16, bits: u8) -> Attr {
    Attr { kind: FileType::Directory, mode, flags: bits, uid: 1, nlink: 2, parent: Ino::ROOT, ..Attr::default() }
}

fn file(bits: u8, uid: u32) -> Attr {
    Attr { mode: 0o644, flags: bits, uid, nlink: 1, parent: FROM, ..Attr::default() }
}

/// The directory through everything that can be wrong about removing an entry from it, each with its errno. Between the
/// second and the third comes the entry itself.
fn bad_parents() -> [(Attr, Errno); 5] {
    [
        (Attr { kind: FileType::File, ..dir(0, flags::IMMUTABLE) }, Errno::ENOTDIR),
        (dir(0o776, flags::IMMUTABLE), Errno::EACCES),
        (dir(0o775, flags::IMMUTABLE), Errno::EPERM),
        (dir(0o1775, flags::APPEND), Errno::EACCES),
        (dir(0o1777, flags::APPEND), Errno::EPERM),
    ]
}

#[test]
fn making() {
    let kind = FileType::Directory;
    let node = NewNode { kind, mode: 0o755, umask: 0, rdev: 0, target: Default::default() };
    let (name, rules) = (Name::from("n"), Arc::default());
    let op = Mknod { scope: scope(), parent: FROM, name, ino: SOURCE, node, may_exist: false, rules };
    let mut world = World::new();
    world.edge(FROM, "n", TARGET, FileType::File);
    assert_eq!(world.decide(&op), Err(Errno::ENOENT), "no parent");
    let trashed = |mode, bits| Attr { parent: Ino(Ino::TRASH_ROOT.0 + 1), ..dir(mode, bits) };
    for (attr, errno) in [
        (Attr { kind: FileType::File, ..trashed(0, 0) }, Errno::ENOTDIR),
        (trashed(0, flags::IMMUTABLE), Errno::ENOENT),
        (dir(0, flags::IMMUTABLE), Errno::EPERM),
        (dir(0o775, flags::APPEND), Errno::EACCES),
        (dir(0o777, flags::APPEND), Errno::EEXIST),
    ] {
        world.node(FROM, attr);
        assert_eq!(world.decide(&op), Err(errno));
    }
    world.0.remove(&Key::Edge(FROM, Name::from("n")));
    assert_eq!(world.decide(&op), Ok(()));
}

#[test]
fn unlinking_and_removing_directories() {
    for is_dir in [false, true] {
        let decide = |world: &World| {
            let (scope, name, removal) = (scope(), Name::from("n"), removal());
            if is_dir {
                world.decide(&Rmdir { scope, parent: FROM, name, removal })
            } else {
                world.decide(&Unlink { scope, parent: FROM, name, removal })
            }
        };
        let (kind, wrong, refused) = if is_dir {
            (FileType::Directory, FileType::File, Errno::ENOTDIR)
        } else {
            (FileType::File, FileType::Directory, Errno::EPERM)
        };
        let mut world = World::new();
        assert_eq!(decide(&world), Err(Errno::ENOENT), "no parent");
        world.0.insert(Key::HasEntries(SOURCE), Value::HasEntries(true));
        world.node(SOURCE, file(flags::IMMUTABLE, 1));
        for (at, (attr, errno)) in bad_parents().into_iter().enumerate() {
            world.node(FROM, attr);
            if at == 2 {
                assert_eq!(decide(&world), Err(Errno::ENOENT), "no entry");
                world.edge(FROM, "n", SOURCE, wrong);
            }
            assert_eq!(decide(&world), Err(errno), "parent {at}");
        }
        world.node(FROM, dir(0o1777, 0));
        assert_eq!(decide(&world), Err(Errno::EACCES), "sticky");
        world.node(SOURCE, file(flags::IMMUTABLE, USER));
        assert_eq!(decide(&world), Err(Errno::EPERM), "immutable");
        world.node(SOURCE, file(0, USER));
        assert_eq!(decide(&world), Err(refused), "the wrong kind");
        world.edge(FROM, "n", SOURCE, kind);
        world.node(SOURCE, Attr { kind, ..file(0, USER) });
        if is_dir {
            assert_eq!(decide(&world), Err(Errno::ENOTEMPTY));
            world.0.insert(Key::HasEntries(SOURCE), Value::HasEntries(false));
        }
        assert_eq!(decide(&world), Ok(()));
    }
}

#[test]
fn renaming() {
    let decide = |world: &World| {
        let (name, new_name, flags) = (Name::from("n"), Name::from("m"), RenameFlags::default());
        world.decide(&Rename {
            scope: scope(),
            from: FROM,
            name,
            to: TO,
            new_name,
            flags,
            whiteout: None,
            removal: removal(),
        })
    };
    let mut world = World::new();
    world.edge(TO, "m", TARGET, FileType::Directory);
    world.0.insert(Key::HasEntries(TARGET), Value::HasEntries(true));
    world.node(TARGET, Attr { kind: FileType::Directory, ..file(flags::IMMUTABLE, 1) });
    assert_eq!(decide(&world), Err(Errno::ENOENT), "no source directory");
    world.node(FROM, Attr { kind: FileType::File, ..dir(0, 0) });
    assert_eq!(decide(&world), Err(Errno::ENOTDIR), "the source directory is none");
    world.node(FROM, dir(0o776, flags::IMMUTABLE));
    assert_eq!(decide(&world), Err(Errno::EACCES), "the source directory cannot be searched");
    world.node(FROM, dir(0o1775, flags::APPEND));
    assert_eq!(decide(&world), Err(Errno::ENOENT), "no source");
    world.edge(FROM, "n", SOURCE, FileType::File);
    assert_eq!(decide(&world), Err(Errno::ENOENT), "no target directory");
    world.node(TO, Attr { kind: FileType::File, ..dir(0, 0) });
    assert_eq!(decide(&world), Err(Errno::ENOTDIR), "the target directory is none");
    world.node(TO, dir(0o776, flags::IMMUTABLE));
    assert_eq!(decide(&world), Err(Errno::EACCES), "the target directory cannot be searched");
    world.node(TO, dir(0o775, flags::IMMUTABLE));
    assert_eq!(decide(&world), Err(Errno::ENOENT), "the source has no node");
    world.node(SOURCE, file(flags::IMMUTABLE, 1));
    for (attr, errno) in [
        (dir(0o1775, flags::APPEND), Errno::EACCES),
        (dir(0o1777, flags::APPEND), Errno::EPERM),
        (dir(0o1777, 0), Errno::EACCES),
    ] {
        world.node(FROM, attr);
        assert_eq!(decide(&world), Err(errno), "the source directory");
    }
    world.node(SOURCE, file(flags::IMMUTABLE, USER));
    assert_eq!(decide(&world), Err(Errno::EPERM), "the source is immutable");
    world.node(SOURCE, file(0, USER));
    for (attr, errno) in [
        (dir(0o775, flags::IMMUTABLE), Errno::EPERM),
        (dir(0o1775, flags::APPEND), Errno::EACCES),
        (dir(0o1777, flags::APPEND), Errno::EPERM),
        (dir(0o1777, 0), Errno::EACCES),
        (dir(0o777, 0), Errno::EPERM),
    ] {
        world.node(TO, attr);
        assert_eq!(decide(&world), Err(errno), "the target directory");
    }
    let target = Attr { kind: FileType::Directory, ..file(0, 1) };
    world.node(TARGET, target);
    assert_eq!(decide(&world), Err(Errno::EISDIR));
    world.edge(FROM, "n", SOURCE, FileType::Directory);
    world.node(SOURCE, Attr { mode: 0o555, kind: FileType::Directory, ..file(0, USER) });
    assert_eq!(decide(&world), Err(Errno::EACCES), "its `..` would change");
    world.node(SOURCE, Attr { mode: 0o755, kind: FileType::Directory, ..file(0, USER) });
    assert_eq!(decide(&world), Err(Errno::ENOTEMPTY));
    world.0.insert(Key::HasEntries(TARGET), Value::HasEntries(false));
    assert_eq!(decide(&world), Ok(()));
    world.edge(TO, "m", TARGET, FileType::File);
    assert_eq!(decide(&world), Err(Errno::ENOTDIR));
}

/// A rename of the directory `(FROM, n)` to `(TO, m)`, both in the root unless a test says otherwise.
fn moving_a_directory() -> World {
    let mut world = World::new();
    world.node(FROM, dir(0o777, 0));
    world.node(TO, dir(0o777, 0));
    world.edge(FROM, "n", SOURCE, FileType::Directory);
    world.node(SOURCE, Attr { kind: FileType::Directory, ..file(0, USER) });
    world
}

fn rename(exchange: bool) -> Rename {
    let (name, new_name) = (Name::from("n"), Name::from("m"));
    let flags = RenameFlags { exchange, ..RenameFlags::default() };
    Rename { scope: scope(), from: FROM, name, to: TO, new_name, flags, whiteout: None, removal: removal() }
}

/// `TO` below a chain of directories that ends at `top`.
fn chain(world: &mut World, top: Ino) {
    let above = [Ino(100), Ino(101), Ino(102)];
    world.node(TO, Attr { parent: above[0], ..dir(0o777, 0) });
    for (at, ino) in above.into_iter().enumerate() {
        let parent = above.get(at + 1).copied().unwrap_or(top);
        world.node(ino, Attr { parent, ..dir(0o777, 0) });
    }
}

#[test]
fn a_directory_does_not_move_below_itself() {
    let mut world = moving_a_directory();
    assert_eq!(world.decide(&rename(false)), Ok(()));
    chain(&mut world, Ino::ROOT);
    assert_eq!(world.decide(&rename(false)), Ok(()));
    chain(&mut world, SOURCE);
    assert_eq!(world.decide(&rename(false)), Err(Errno::EINVAL));
    world.edge(TO, "m", TARGET, FileType::File);
    world.node(TARGET, file(0, USER));
    assert_eq!(world.decide(&rename(true)), Err(Errno::EINVAL));
    // The other way round: what comes to FROM lies above it.
    let mut world = moving_a_directory();
    world.edge(FROM, "n", SOURCE, FileType::File);
    world.node(SOURCE, file(0, USER));
    world.edge(TO, "m", TARGET, FileType::Directory);
    world.node(TARGET, Attr { parent: TO, ..dir(0o777, 0) });
    assert_eq!(world.decide(&rename(true)), Ok(()));
    world.node(FROM, Attr { parent: Ino(100), ..dir(0o777, 0) });
    world.node(Ino(100), Attr { parent: TARGET, ..dir(0o777, 0) });
    assert_eq!(world.decide(&rename(true)), Err(Errno::EINVAL));
}

#[test]
fn damage_above_does_not_keep_a_directory_from_moving() {
    let mut world = moving_a_directory();
    chain(&mut world, Ino(101));
    assert_eq!(world.decide(&rename(false)), Ok(()), "a circle that is there already");
    chain(&mut world, TO);
    assert_eq!(world.decide(&rename(false)), Ok(()), "a circle of the target itself");
    chain(&mut world, Ino(999));
    assert_eq!(world.decide(&rename(false)), Ok(()), "a directory that is missing");
    chain(&mut world, Ino(Ino::TRASH_ROOT.0 + 5));
    assert_eq!(world.decide(&rename(false)), Ok(()), "the trash is the end too");
}

#[test]
fn only_a_directory_that_changes_its_parent_looks_upwards() {
    let fetches = |world: &World, op: &Rename| {
        let (mut read, mut keys, mut rounds) = (ReadSet::default(), op.keys(), 1);
        loop {
            keys.drain(..).for_each(|key| read.insert(key.clone(), world.0.get(&key).cloned()));
            match op.decide(&read) {
                Decision::Done(_, effects) => {
                    let place = effects.narrowed.iter().filter(|(_, guard)| *guard == NodeGuard::Place).count();
                    return (rounds, place);
                }
                Decision::Fail(errno) => panic!("{errno}"),
                Decision::NeedMore(more) => keys = more,
            }
            rounds += 1;
        }
    };
    let mut world = moving_a_directory();
    chain(&mut world, Ino::ROOT);
    assert_eq!(fetches(&world, &rename(false)), (4, 3), "the first directory above comes with the source");
    world.node(FROM, Attr { parent: Ino(100), ..dir(0o777, 0) });
    world.edge(FROM, "m", TARGET, FileType::Directory);
    world.node(TARGET, Attr { parent: FROM, ..dir(0o777, 0) });
    assert_eq!(fetches(&world, &Rename { to: FROM, ..rename(false) }), (2, 0), "within one directory");
    world.edge(FROM, "n", SOURCE, FileType::File);
    world.node(SOURCE, file(0, USER));
    assert_eq!(fetches(&world, &rename(false)), (2, 0), "a file");
}

#[test]
fn linking() {
    let op = Link { scope: scope(), ino: SOURCE, parent: FROM, name: Name::from("n") };
    let mut world = World::new();
    world.edge(FROM, "n", TARGET, FileType::File);
    assert_eq!(world.decide(&op), Err(Errno::ENOENT), "no node");
    world.node(SOURCE, Attr { kind: FileType::Directory, ..file(flags::IMMUTABLE, 1) });
    assert_eq!(world.decide(&op), Err(Errno::EPERM), "a directory");
    let last = Attr { nlink: i32::MAX as u32, ..file(flags::IMMUTABLE, USER) };
    world.node(SOURCE, last.clone());
    assert_eq!(world.decide(&op), Err(Errno::ENOENT), "no parent");
    for (attr, errno) in [
        (Attr { kind: FileType::File, ..dir(0, 0) }, Errno::ENOTDIR),
        (dir(0o776, flags::IMMUTABLE), Errno::EACCES),
        (dir(0o775, flags::IMMUTABLE), Errno::EEXIST),
    ] {
        world.node(FROM, attr);
        assert_eq!(world.decide(&op), Err(errno));
    }
    world.0.remove(&Key::Edge(FROM, Name::from("n")));
    assert_eq!(world.decide(&op), Err(Errno::EPERM), "an immutable parent");
    world.node(FROM, dir(0o775, 0));
    assert_eq!(world.decide(&op), Err(Errno::EACCES));
    world.node(FROM, dir(0o777, 0));
    assert_eq!(world.decide(&op), Err(Errno::EPERM), "an immutable file");
    world.node(SOURCE, Attr { flags: 0, ..last });
    assert_eq!(world.decide(&op), Err(Errno::EMLINK));
    world.node(SOURCE, Attr { nlink: 0, ..file(0, USER) });
    assert_eq!(world.decide(&op), Err(Errno::ENOENT), "removed, and not kept by this session");
    world.node(SOURCE, file(0, USER));
    assert_eq!(world.decide(&op), Ok(()));
    let foreign = |mode| Attr { mode, ..file(0, 1) };
    for mode in [0o644, 0o606 | 0o4000, 0o676 | 0o2000, 0o600] {
        world.node(SOURCE, foreign(mode));
        assert_eq!(world.decide(&op), Err(Errno::EPERM), "a foreign file of mode {mode:o}");
    }
    world.node(SOURCE, foreign(0o666));
    assert_eq!(world.decide(&op), Ok(()));
}
