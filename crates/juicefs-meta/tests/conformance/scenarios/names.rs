//! Names: making, finding, moving, removing.

use std::collections::BTreeMap;

use juicefs_core::{
    Caller, Errno, FileType, Ino, Meta,
    attr::{SetAttr, flags},
    meta::{NewNode, OpenFlags, RenameFlags},
};

use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Kind, Volume, node, on_all, posix, root, user},
};

const EXCHANGE: RenameFlags = RenameFlags { no_replace: false, exchange: true, whiteout: false, restore: false };
const NO_REPLACE: RenameFlags = RenameFlags { no_replace: true, exchange: false, whiteout: false, restore: false };

#[test]
fn dots_and_kinds() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        assert_eq!(v.find(Ino::ROOT, "..").await, Ok(Ino::ROOT));
        assert_eq!(v.find(d, ".").await, Ok(d));
        assert_eq!(v.find(d, "..").await, Ok(Ino::ROOT));
        assert_eq!(v.attr(Ino::ROOT).await.nlink, 3);
        let plain = Caller::root();
        assert_eq!(posix(v.client.lookup(&plain, f, b".").await).map(|(ino, _)| ino), Ok(f));
        assert_eq!(posix(v.client.lookup(&plain, f, b"..").await).map(|_| ()), Err(Errno::ENOTDIR));
        assert_eq!(v.unlink(Ino::ROOT, "d").await, Err(Errno::EPERM));
        let rmdir = |dir, name: &'static str| {
            let client = &v.client;
            async move { posix(client.rmdir(&root(), dir, name.as_bytes(), false).await).map(|_| ()) }
        };
        assert_eq!(rmdir(Ino::ROOT, ".").await, Err(Errno::EINVAL));
        assert_eq!(rmdir(Ino::ROOT, "..").await, Err(Errno::ENOTEMPTY));
        assert_eq!(rmdir(d, "f").await, Err(Errno::ENOTDIR));
        assert_eq!(rmdir(Ino::ROOT, "d").await, Err(Errno::ENOTEMPTY));
        let make = |dir, name: &'static [u8]| {
            let client = &v.client;
            async move { posix(client.mknod(&root(), dir, name, node(FileType::File, 0o644)).await).map(|_| ()) }
        };
        assert_eq!(make(f, b"x").await, Err(Errno::ENOTDIR));
        assert_eq!(make(d, b"f").await, Err(Errno::EEXIST));
        assert_eq!(make(d, b"..").await, Err(Errno::EEXIST));
        assert_eq!(make(d, b"a/b").await, Err(Errno::EINVAL));
        assert_eq!(make(d, b"").await, Err(Errno::EINVAL));
        assert_eq!(make(d, &[b'n'; 256]).await, Err(Errno::ENAMETOOLONG));
        assert_eq!(make(d, &[0xff; 255]).await, Ok(()));
        assert_eq!(make(Ino(999), b"x").await, Err(Errno::ENOENT));
    });
}

#[test]
fn symlinks_keep_their_target() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let link = |target: &'static [u8]| NewNode {
            target: bytes::Bytes::from_static(target),
            ..node(FileType::Symlink, 0o600)
        };
        let made = v.client.mknod(&root(), Ino::ROOT, b"s", link(b"../\xff target")).await;
        let (ino, attr) = made.expect("made");
        assert_eq!((attr.mode, attr.length), (0o777, 11));
        assert_eq!(v.client.readlink(ino).await.expect("read").as_ref(), b"../\xff target");
        let bad = posix(v.client.mknod(&root(), Ino::ROOT, b"t", link(b"")).await).map(|_| ());
        assert_eq!(bad, Err(Errno::EINVAL));
        let long = NewNode { target: vec![b'x'; 4096].into(), ..node(FileType::Symlink, 0o777) };
        let long = posix(v.client.mknod(&root(), Ino::ROOT, b"t", long).await).map(|_| ());
        assert_eq!(long, Err(Errno::ENAMETOOLONG));
        assert_eq!(posix(v.client.readlink(Ino::ROOT).await), Err(Errno::EINVAL));
        assert_eq!(posix(v.client.readlink(Ino(999)).await), Err(Errno::ENOENT));
    });
}

#[test]
fn create_opens_what_is_there() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        let create = |name: &'static str, exclusive| {
            let (client, new) = (&v.client, node(FileType::File, 0o666));
            async move { posix(client.create(&root(), Ino::ROOT, name.as_bytes(), new, exclusive, flags).await) }
        };
        let (ino, attr) = create("f", true).await.expect("made");
        assert_eq!(attr.mode, 0o644, "the umask counts");
        assert_eq!(create("f", false).await.map(|(ino, _)| ino), Ok(ino));
        assert_eq!(create("f", true).await.map(|_| ()), Err(Errno::EEXIST));
        v.mkdir(Ino::ROOT, "d").await;
        assert_eq!(create("d", false).await.map(|_| ()), Err(Errno::EEXIST));
        // Opened twice: the first close leaves the removed file alone, the second frees it.
        v.write(ino, 0, 10).await.expect("written");
        assert_eq!(v.unlink(Ino::ROOT, "f").await, Ok(None));
        assert_eq!(v.client.close(ino).await.expect("closed"), None);
        assert_eq!(v.attr(ino).await.nlink, 0);
        assert_eq!(v.client.close(ino).await.expect("closed").map(|freed| freed.length), Some(10));
        assert_eq!(posix(v.client.getattr(ino).await), Err(Errno::ENOENT));
    });
}

#[test]
fn renames_replace_swap_and_refuse() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        let at = |name| (Ino::ROOT, name);
        let both = RenameFlags { whiteout: true, ..EXCHANGE };
        assert_eq!(v.rename_with((d, "f"), at("f2"), both).await.map(|_| ()), Err(Errno::EINVAL));
        v.rename((d, "f"), at("f2")).await.expect("moved");
        v.rename(at("f2"), at("f2")).await.expect("nothing to do");
        assert_eq!(v.rename_with(at("f2"), at("f2"), NO_REPLACE).await.map(|_| ()), Err(Errno::EEXIST));
        assert_eq!(v.rename_with(at("f2"), at("x"), EXCHANGE).await.map(|_| ()), Err(Errno::ENOENT));
        assert_eq!(v.rename(at("x"), at("y")).await.map(|_| ()), Err(Errno::ENOENT));
        v.file(Ino::ROOT, "f").await;
        assert_eq!(v.rename_with(at("f2"), at("f"), NO_REPLACE).await.map(|_| ()), Err(Errno::EEXIST));
        let replaced = v.rename(at("f2"), at("f")).await.expect("replaced").replaced;
        assert!(replaced.ino.is_some() && replaced.freed.is_none(), "an empty file has no data to delete");
        for _ in 0..2 {
            v.rename_with(at("f"), at("d"), EXCHANGE).await.expect("swapped");
        }
        assert_eq!((v.find(Ino::ROOT, "f").await, v.find(Ino::ROOT, "d").await), (Ok(f), Ok(d)));
        assert_eq!(v.rename(at("d"), at("f")).await.map(|_| ()), Err(Errno::ENOTDIR));
        assert_eq!(v.rename(at("f"), at("d")).await.map(|_| ()), Err(Errno::EISDIR));
        assert_eq!(v.rename(at("d"), (d, "inside")).await.map(|_| ()), Err(Errno::EINVAL));
        assert_eq!(v.attr(Ino::ROOT).await.nlink, 3);
    });
}

#[test]
fn directories_know_their_parents() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d4 = v.mkdir(Ino::ROOT, "d4").await;
        let d5 = v.mkdir(d4, "d5").await;
        v.rename((d4, "d5"), (Ino::ROOT, "d5")).await.expect("moved");
        assert_eq!(v.attr(d5).await.parent, Ino::ROOT);
        let f6 = v.file(d4, "f6").await;
        v.rename_with((Ino::ROOT, "d5"), (d4, "f6"), EXCHANGE).await.expect("swapped");
        assert_eq!((v.attr(d5).await.parent, v.attr(f6).await.parent), (d4, Ino::ROOT));
        assert_eq!((v.attr(d4).await.nlink, v.attr(Ino::ROOT).await.nlink), (3, 3));
        v.client.rmdir(&root(), d4, b"f6", false).await.expect("the directory goes by the file's name now");
        v.unlink(Ino::ROOT, "d5").await.expect("and the file by the directory's");
        v.client.rmdir(&root(), Ino::ROOT, b"d4", false).await.expect("empty");
        assert_eq!(v.attr(Ino::ROOT).await.nlink, 2);
    });
}

#[test]
fn hard_links_are_counted_by_directory() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(Ino::ROOT, "f").await;
        let parents = |ino| {
            let client = &v.client;
            async move { client.parents(ino).await.expect("parents") }
        };
        assert_eq!(parents(f).await, BTreeMap::from([(Ino::ROOT, 1)]));
        let link = |dir, name: &'static str| {
            let client = &v.client;
            async move { posix(client.link(&root(), f, dir, name.as_bytes()).await).map(|attr| attr.nlink) }
        };
        assert_eq!(link(Ino::ROOT, "F").await, Ok(2));
        assert_eq!(v.attr(f).await.parent, Ino(0));
        assert_eq!(parents(f).await, BTreeMap::from([(Ino::ROOT, 2)]));
        assert_eq!((link(d, "1").await, link(d, "2").await), (Ok(3), Ok(4)));
        assert_eq!(link(d, "2").await, Err(Errno::EEXIST));
        assert_eq!(parents(f).await, BTreeMap::from([(Ino::ROOT, 2), (d, 2)]));
        v.unlink(Ino::ROOT, "F").await.expect("unlinked");
        v.file(d, "x").await;
        v.rename((d, "x"), (d, "1")).await.expect("replaced");
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        assert_eq!(parents(f).await, BTreeMap::from([(d, 1)]));
        assert_eq!(v.attr(f).await.parent, Ino(0), "it stays unknown for ever");
        let to_dir = posix(v.client.link(&root(), d, Ino::ROOT, b"e").await).map(|_| ());
        assert_eq!(to_dir, Err(Errno::EPERM));
        // Two names of one file: moving one onto the other changes nothing.
        link(Ino::ROOT, "f").await.expect("linked");
        v.rename((Ino::ROOT, "f"), (d, "2")).await.expect("nothing");
        assert_eq!((v.find(Ino::ROOT, "f").await, v.find(d, "2").await), (Ok(f), Ok(f)));
    });
}

/// `open(O_TMPFILE)` and `linkat`: what got a name must not go with the last close (facts about other clients, 16).
#[test]
fn a_linked_temporary_file_lives_on() {
    for trash_days in [0, 1] {
        on_all(|kind: Kind| async move {
            let v = Volume::new(kind, trash_days).await;
            let f = v.file(Ino::ROOT, "tmp").await;
            v.open_rw(f).await;
            v.client.unlink(&root(), Ino::ROOT, b"tmp", true).await.expect("unlinked");
            v.write(f, 0, 100).await.expect("written");
            let linked = v.client.link(&root(), f, Ino::ROOT, b"kept").await.expect("linked");
            assert_eq!((linked.nlink, linked.parent), (1, Ino::ROOT));
            assert_eq!(v.client.close(f).await.expect("closed"), None);
            assert_eq!(v.find(Ino::ROOT, "kept").await, Ok(f));
            assert_eq!(v.client.read_chunk(f, 0).await.expect("read").records.len(), 1);
            assert!(v.client.close_session().await.expect("closed").is_empty());
            assert_eq!(v.attr(f).await.length, 100);
        });
    }
}

/// As overlayfs does it: what it moves away is known to be gone.
#[test]
fn a_rename_can_leave_a_whiteout() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let whiteout = RenameFlags { whiteout: true, ..RenameFlags::default() };
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        let g = v.file(Ino::ROOT, "g").await;
        assert_eq!(v.rename_with((d, "f"), (Ino::ROOT, "g"), whiteout).await.expect("moved").ino, f);
        assert_eq!(v.find(Ino::ROOT, "g").await, Ok(f));
        assert_eq!(posix(v.client.getattr(g).await).map(|_| ()), Err(Errno::ENOENT));
        let left = v.find(d, "f").await.expect("a whiteout");
        let attr = v.attr(left).await;
        assert_eq!((attr.kind, attr.mode, attr.rdev, attr.nlink), (FileType::CharDevice, 0, 0, 1));
        assert_eq!((attr.parent, v.attr(f).await.parent), (d, Ino::ROOT));
        v.unlink(d, "f").await.expect("an ordinary node");
        // A directory leaves one too, and the links of its parent follow.
        let e = v.mkdir(d, "e").await;
        v.rename_with((d, "e"), (Ino::ROOT, "e"), whiteout).await.expect("moved");
        assert_eq!((v.attr(d).await.nlink, v.attr(Ino::ROOT).await.nlink), (2, 4));
        assert_eq!((v.find(Ino::ROOT, "e").await, v.attr(e).await.parent), (Ok(e), Ino::ROOT));
        v.client.close_session().await.expect("closed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

/// A file without a name from the beginning: nobody sees it, and it goes with its last close or with its session.
#[test]
fn an_unnamed_file_goes_or_gets_a_name() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let make = || async { v.client.create_unnamed(&root(), d, node(FileType::File, 0o640)).await.expect("made") };
        let (gone, attr) = make().await;
        assert_eq!((attr.nlink, attr.mode, attr.kind), (0, 0o640, FileType::File));
        v.write(gone, 0, 100).await.expect("written");
        assert_eq!(v.client.close(gone).await.expect("closed").map(|freed| freed.length), Some(100));
        assert_eq!(posix(v.client.getattr(gone).await).map(|_| ()), Err(Errno::ENOENT));
        let (kept, _) = make().await;
        v.write(kept, 0, 100).await.expect("written");
        assert_eq!(v.client.link(&root(), kept, d, b"kept").await.expect("linked").nlink, 1);
        assert_eq!(v.client.close(kept).await.expect("closed"), None);
        assert_eq!((v.find(d, "kept").await, v.attr(kept).await.length), (Ok(kept), 100));
        let (left, _) = make().await;
        v.write(left, 0, 100).await.expect("written");
        let freed = v.client.close_session().await.expect("closed");
        assert_eq!(
            freed.iter().map(|freed| freed.ino).collect::<Vec<_>>(),
            [left],
            "what is open goes with the session"
        );
    });
}

#[test]
fn a_removed_file_of_nobody_gets_no_name() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.open_rw(f).await;
        let other = v.second(crate::volume::config(&v.clock)).await;
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        // Another session cannot see whose file it is, so it must not revive it.
        assert_eq!(posix(other.link(&root(), f, Ino::ROOT, b"g").await).map(|_| ()), Err(Errno::ENOENT));
    });
}

#[test]
fn sticky_directories_protect_their_entries() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (a, b) = (user(1), user(2));
        let open_dir = |name: &'static str, mode| {
            let client = &v.client;
            async move {
                let made = client.mknod(&root(), Ino::ROOT, name.as_bytes(), node(FileType::Directory, 0o777)).await;
                let ino = made.expect("made").0;
                let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
                client.setattr(&root(), ino, set).await.expect("chmod");
                ino
            }
        };
        let (sticky, normal) = (open_dir("sticky", 0o1777).await, open_dir("normal", 0o777).await);
        for (cx, name) in [(&a, "fa"), (&b, "fb")] {
            for dir in [sticky, normal] {
                v.client.mknod(cx, dir, name.as_bytes(), node(FileType::File, 0o644)).await.expect("made");
            }
        }
        let unlink = |cx: Caller, dir, name: &'static str| {
            let client = &v.client;
            async move { posix(client.unlink(&cx, dir, name.as_bytes(), false).await).map(|_| ()) }
        };
        let rename = |cx: Caller, from: (Ino, &'static str), to: (Ino, &'static str)| {
            let client = &v.client;
            let flags = RenameFlags::default();
            async move {
                let moved = client.rename(&cx, from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), flags).await;
                posix(moved).map(|_| ())
            }
        };
        assert_eq!(unlink(b.clone(), sticky, "fa").await, Err(Errno::EACCES));
        assert_eq!(rename(b.clone(), (sticky, "fa"), (sticky, "x")).await, Err(Errno::EACCES));
        assert_eq!(rename(b.clone(), (sticky, "fa"), (normal, "x")).await, Err(Errno::EACCES));
        assert_eq!(rename(b.clone(), (sticky, "fb"), (sticky, "fa")).await, Err(Errno::EACCES));
        assert_eq!(rename(a.clone(), (sticky, "fa"), (sticky, "fb")).await, Err(Errno::EACCES));
        assert_eq!(rename(b.clone(), (normal, "fa"), (sticky, "fa2")).await, Ok(()));
        assert_eq!(rename(a.clone(), (sticky, "fa"), (sticky, "own")).await, Ok(()));
        assert_eq!(unlink(a, sticky, "own").await, Ok(()));
    });
}

#[test]
fn flags_of_directories_and_files_are_enforced() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let flagged = |ino, bits| {
            let client = &v.client;
            async move {
                let set = SetAttr { flags: Some(bits), ..SetAttr::default() };
                client.setattr(&root(), ino, set).await.expect("flagged");
            }
        };
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        let make = |name: &'static str| {
            let client = &v.client;
            async move { posix(client.mknod(&root(), d, name.as_bytes(), node(FileType::File, 0o644)).await).map(|_| ()) }
        };
        flagged(d, flags::APPEND).await;
        assert_eq!(make("g").await, Ok(()));
        assert_eq!(v.unlink(d, "f").await, Err(Errno::EPERM));
        assert_eq!(v.rename((d, "f"), (Ino::ROOT, "f")).await.map(|_| ()), Err(Errno::EPERM));
        flagged(d, flags::IMMUTABLE).await;
        assert_eq!(make("h").await, Err(Errno::EPERM));
        assert_eq!(make("g").await, Err(Errno::EPERM));
        assert_eq!(v.rename((d, "f"), (Ino::ROOT, "f")).await.map(|_| ()), Err(Errno::EPERM));
        flagged(d, 0).await;
        flagged(f, flags::APPEND).await;
        assert_eq!(v.unlink(d, "f").await, Err(Errno::EPERM));
        assert_eq!(posix(v.client.link(&root(), f, d, b"l").await).map(|_| ()), Err(Errno::EPERM));
        assert_eq!(posix(v.client.truncate(&root(), f, 9, true).await).map(|_| ()), Err(Errno::EPERM));
        let open = |write, append| OpenFlags { write, append, ..OpenFlags::default() };
        assert_eq!(posix(v.client.open(&root(), f, open(true, false)).await).map(|_| ()), Err(Errno::EPERM));
        assert_eq!(posix(v.client.open(&root(), f, open(true, true)).await).map(|_| ()), Ok(()));
        flagged(f, flags::IMMUTABLE | flags::APPEND).await;
        assert_eq!(posix(v.client.open(&root(), f, open(true, true)).await).map(|_| ()), Err(Errno::EPERM));
    });
}

#[test]
fn pages_of_a_directory_hold_every_entry_once() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        for n in 0..25 {
            v.file(d, &format!("f{n:02}")).await;
        }
        let (mut names, mut from, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = v.client.readdir(d, from, pages % 2 == 0, 7).await.expect("listed");
            names.extend(page.entries.into_iter().map(|entry| entry.name.to_string()));
            from = page.next;
            pages += 1;
            if pages == 2 {
                // What the cursor stands on may go, and what is behind it may change.
                for n in [10, 13, 24] {
                    v.unlink(d, &format!("f{n}")).await.expect("unlinked");
                }
            }
            if from.is_none() {
                break;
            }
        }
        if !v.engine.caps().lists_by_name {
            // Whatever was removed meanwhile may have been listed before or not.
            names.sort();
            names.retain(|name| !["f10", "f13", "f24"].contains(&name.as_str()));
        }
        let lists_removed = v.engine.caps().lists_by_name;
        let stays = |n: &u32| lists_removed && *n < 24 || ![10, 13, 24].contains(n);
        let wanted: Vec<_> = (0..25).filter(stays).map(|n| format!("f{n:02}")).collect();
        assert_eq!(names, wanted);
        assert_eq!(posix(v.client.readdir(Ino(999), None, true, 10).await).map(|_| ()), Err(Errno::ENOENT));
        let f = v.find(d, "f00").await.expect("there");
        assert_eq!(posix(v.client.readdir(f, None, true, 10).await).map(|_| ()), Err(Errno::ENOTDIR));
    });
}
