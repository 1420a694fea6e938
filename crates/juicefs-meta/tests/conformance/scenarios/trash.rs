//! What the trash keeps, and for how long.

use std::time::Duration;

use juicefs_core::{
    Clock, Errno, FileType, Ino, Meta, Timestamp,
    attr::{SetAttr, flags},
    meta::{OpenFlags, RenameFlags},
};

use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Kind, START_SECS, Volume, config, node, on_all, posix, root, user},
};

const HOUR: Ino = Ino(Ino::TRASH_ROOT.0 + 1);

async fn settled(v: &Volume) -> Snapshot {
    v.client.flush_stats().await.expect("flushed");
    let all = Snapshot::take(v.engine.as_ref()).await;
    invariants::check(&all);
    all
}

async fn trashed(v: &Volume) -> Vec<String> {
    let page = v.client.readdir(HOUR, None, false, 1000).await.expect("listed");
    page.entries.iter().map(|entry| entry.name.to_string()).collect()
}

#[test]
fn removed_things_lie_in_the_hour_of_their_removal() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        v.write(f, 0, 5000).await.expect("written");
        assert_eq!(v.unlink(d, "f").await, Ok(None));
        assert_eq!(v.attr(f).await.parent, HOUR);
        v.client.rmdir(&root(), Ino::ROOT, b"d", false).await.expect("removed");
        assert_eq!(trashed(&v).await, [format!("1-{d}-d"), format!("{d}-{f}-f")]);
        assert_eq!(v.find(Ino::ROOT, ".trash").await, Ok(Ino::TRASH_ROOT));
        let hours = v.client.readdir(Ino::TRASH_ROOT, None, true, 10).await.expect("listed").entries;
        assert_eq!(hours.iter().map(|e| e.name.to_string()).collect::<Vec<_>>(), ["2023-11-14-22"]);
        assert_eq!(hours[0].attr.as_ref().map(|attr| (attr.mode, attr.nlink)), Some((0o555, 2)));
        let stat = settled(&v).await.dir_stats[&HOUR];
        assert_eq!((stat.length, stat.space, stat.inodes), (5000, 8192 + 4096, 2));
        v.clock.advance(Duration::from_secs(3600));
        let g = v.file(Ino::ROOT, "g").await;
        v.unlink(Ino::ROOT, "g").await.expect("unlinked");
        assert_eq!(v.attr(g).await.parent, Ino(HOUR.0 + 1));
        settled(&v).await;
    });
}

#[test]
fn nothing_in_the_trash_changes() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(Ino::ROOT, "f").await;
        let g = v.file(Ino::ROOT, "g").await;
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        v.client.rmdir(&root(), Ino::ROOT, b"d", false).await.expect("removed");
        assert_eq!(posix(v.client.truncate(&root(), f, 1, false).await).map(|_| ()), Err(Errno::EPERM));
        let chmod = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        assert_eq!(posix(v.client.setattr(&root(), f, chmod).await).map(|_| ()), Err(Errno::EPERM));
        let write = OpenFlags { read: true, write: true, ..OpenFlags::default() };
        assert_eq!(posix(v.client.open(&root(), f, write).await).map(|_| ()), Err(Errno::EPERM));
        let read = OpenFlags { read: true, ..OpenFlags::default() };
        v.client.open(&root(), f, read).await.expect("reading is fine");
        let make = |parent| {
            let client = &v.client;
            async move { posix(client.mknod(&root(), parent, b"x", node(FileType::File, 0o644)).await).map(|_| ()) }
        };
        assert_eq!(make(d).await, Err(Errno::ENOENT));
        assert_eq!(make(HOUR).await, Err(Errno::EPERM));
        assert_eq!(make(Ino::TRASH_ROOT).await, Err(Errno::EPERM));
        assert_eq!(posix(v.client.link(&root(), g, d, b"x").await).map(|_| ()), Err(Errno::ENOENT));
        assert_eq!(v.rename((Ino::ROOT, "g"), (d, "x")).await.map(|_| ()), Err(Errno::ENOENT));
        for to in [Ino::TRASH_ROOT, HOUR] {
            assert_eq!(v.rename((Ino::ROOT, "g"), (to, "x")).await.map(|_| ()), Err(Errno::EPERM));
        }
        assert_eq!(v.rename((Ino::ROOT, "g"), (Ino::ROOT, ".trash")).await.map(|_| ()), Err(Errno::EPERM));
        let entry = format!("1-{f}-f");
        let unlinked = posix(v.client.unlink(&user(1), HOUR, entry.as_bytes(), false).await).map(|_| ());
        assert_eq!(unlinked, Err(Errno::EPERM));
        let flags = RenameFlags::default();
        let moved = v.client.rename(&user(1), HOUR, entry.as_bytes(), Ino::ROOT, b"f", flags).await;
        assert_eq!(posix(moved).map(|_| ()), Err(Errno::EPERM));
        let hour = v.client.rmdir(&root(), Ino::TRASH_ROOT, b"2023-11-14-22", false).await;
        assert_eq!(posix(hour).map(|_| ()), Err(Errno::EPERM));
        settled(&v).await;
    });
}

#[test]
fn root_moves_things_back() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        v.unlink(d, "f").await.expect("unlinked");
        v.client.rmdir(&root(), Ino::ROOT, b"d", false).await.expect("removed");
        let restore = RenameFlags { no_replace: true, restore: true, ..RenameFlags::default() };
        let (file, dir) = (format!("{d}-{f}-f"), format!("1-{d}-d"));
        // A tree is put together within the trash first.
        v.rename_with((HOUR, &file), (d, "f"), restore).await.expect("back in its directory");
        v.rename_with((HOUR, &dir), (Ino::ROOT, "d"), restore).await.expect("back in the root");
        assert_eq!((v.find(Ino::ROOT, "d").await, v.find(d, "f").await), (Ok(d), Ok(f)));
        assert_eq!((v.attr(d).await.parent, v.attr(Ino::ROOT).await.nlink), (Ino::ROOT, 3));
        assert!(trashed(&v).await.is_empty());
        v.file(d, "new").await;
        settled(&v).await;
    });
}

/// What one client has not told of a directory goes with its record: whoever puts it back counts it anew, and sees all of that.
#[test]
fn what_another_client_puts_back_is_counted_once() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let files = [v.file(d, "f").await, v.file(d, "g").await];
        settled(&v).await;
        v.unlink(d, "f").await.expect("unlinked");
        v.unlink(d, "g").await.expect("unlinked");
        v.client.rmdir(&root(), Ino::ROOT, b"d", false).await.expect("removed");
        let other = v.second(config(&v.clock)).await;
        other.restore("2023-11-14-22", true, 1, &|_, _| ()).await.expect("put back");
        other.close_session().await.expect("closed");
        assert_eq!([v.find(d, "f").await, v.find(d, "g").await], files.map(Ok));
        assert_eq!(settled(&v).await.dir_stats[&d].inodes, 2);
    });
}

#[test]
fn a_second_name_goes_once() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.client.link(&root(), f, Ino::ROOT, b"g").await.expect("linked");
        v.unlink(Ino::ROOT, "g").await.expect("unlinked");
        assert_eq!(v.attr(f).await.nlink, 2);
        v.client.link(&root(), f, Ino::ROOT, b"g").await.expect("linked");
        assert_eq!(v.attr(f).await.nlink, 3);
        v.unlink(Ino::ROOT, "g").await.expect("unlinked");
        assert_eq!(v.attr(f).await.nlink, 2, "its place in the trash is taken");
        assert_eq!(trashed(&v).await, [format!("1-{f}-g")]);
        settled(&v).await;
    });
}

#[test]
fn long_names_are_cut() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let name = "n".repeat(255);
        let f = v.file(Ino::ROOT, &name).await;
        v.unlink(Ino::ROOT, &name).await.expect("unlinked");
        let kept = trashed(&v).await;
        assert_eq!(kept[0].len(), 255);
        assert!(kept[0].starts_with(&format!("1-{f}-nnn")));
    });
}

#[test]
fn what_skips_the_trash() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let set = SetAttr { flags: Some(flags::SKIP_TRASH), ..SetAttr::default() };
        v.client.setattr(&root(), d, set).await.expect("flagged");
        let f = v.file(d, "f").await;
        assert!(v.attr(f).await.has_flag(flags::SKIP_TRASH), "new files inherit it");
        let sub = v.mkdir(d, "sub").await;
        v.unlink(d, "f").await.expect("unlinked");
        v.client.rmdir(&root(), d, b"sub", false).await.expect("removed");
        v.file(d, "a").await;
        v.file(d, "b").await;
        v.rename((d, "a"), (d, "b")).await.expect("replaced");
        let g = v.file(Ino::ROOT, "g").await;
        v.client.unlink(&root(), Ino::ROOT, b"g", true).await.expect("asked to skip");
        for gone in [f, sub, g] {
            assert_eq!(posix(v.client.getattr(gone).await), Err(Errno::ENOENT));
        }
        assert!(trashed(&v).await.is_empty());
        settled(&v).await;
    });
}

#[test]
fn old_hours_are_emptied_with_all_below() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        for n in 0..10 {
            let f = v.file(d, &format!("f{n}")).await;
            v.write(f, 0, 10).await.expect("written");
            v.unlink(d, &format!("f{n}")).await.expect("unlinked");
        }
        let (kept, other) = (v.file(d, "kept").await, v.file(d, "tree").await);
        v.client.link(&root(), kept, Ino::ROOT, b"kept").await.expect("linked");
        v.unlink(d, "kept").await.expect("unlinked");
        v.unlink(d, "tree").await.expect("unlinked");
        v.client.rmdir(&root(), Ino::ROOT, b"d", false).await.expect("removed");
        let restore = RenameFlags { no_replace: true, restore: true, ..RenameFlags::default() };
        v.rename_with((HOUR, &format!("{d}-{other}-tree")), (d, "tree"), restore).await.expect("a tree in the trash");
        let hour = |n: i64| Timestamp::from_secs(START_SECS.div_euclid(3600) * 3600 + n * 3600);
        let clean = |before, limit| {
            let client = &v.client;
            async move { client.clean_trash(before, limit).await.expect("cleaned") }
        };
        assert_eq!(clean(hour(0), 1000).await, (vec![], false), "it is too young");
        v.clock.advance(Duration::from_secs(3600));
        let young = v.file(Ino::ROOT, "young").await;
        v.unlink(Ino::ROOT, "young").await.expect("unlinked");
        let (freed, more) = clean(hour(1), 4).await;
        assert!(more && freed.len() <= 4);
        let mut freed = freed;
        while let (next, true) = clean(hour(1), 4).await {
            freed.extend(next);
        }
        freed.extend(clean(hour(1), 1000).await.0);
        assert_eq!(posix(v.client.getattr(HOUR).await), Err(Errno::ENOENT));
        assert_eq!(v.attr(kept).await.nlink, 1);
        assert_eq!(v.attr(young).await.parent, Ino(HOUR.0 + 1));
        v.clock.advance(Duration::from_secs(1));
        let removed = v.client.deleted_files(v.clock.now(), 100).await.expect("listed");
        assert_eq!(removed.len(), 10);
        for file in removed {
            let dead = v.client.delete_file_data(file).await.expect("deleted");
            assert_eq!(dead.len(), 1);
            v.client.forget_slice(dead[0]).await.expect("forgotten");
        }
        assert!(settled(&v).await.del_files.is_empty());
    });
}

#[test]
fn an_open_file_is_kept_by_the_trash_alone() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.open_rw(f).await;
        v.unlink(Ino::ROOT, "f").await.expect("unlinked");
        v.write(f, 0, 100).await.expect("written");
        assert_eq!(v.client.close(f).await.expect("closed"), None);
        assert_eq!(v.attr(f).await.length, 100);
        assert!(settled(&v).await.sustained.is_empty());
    });
}

/// What `ln a b; rm a; chattr +i b` leaves: an entry of the trash whose file may not be changed.
#[test]
fn an_entry_that_cannot_be_removed_keeps_nothing_else_in_the_trash() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let stuck = v.file(Ino::ROOT, "a").await;
        v.client.link(&root(), stuck, Ino::ROOT, b"b").await.expect("linked");
        v.unlink(Ino::ROOT, "a").await.expect("unlinked");
        for n in 0..300 {
            v.file(Ino::ROOT, &format!("f{n}")).await;
            v.unlink(Ino::ROOT, &format!("f{n}")).await.expect("unlinked");
        }
        v.clock.advance(Duration::from_secs(3600));
        v.file(Ino::ROOT, "later").await;
        v.unlink(Ino::ROOT, "later").await.expect("unlinked");
        let protect = |flags| SetAttr { flags: Some(flags), ..SetAttr::default() };
        v.client.setattr(&root(), stuck, protect(flags::IMMUTABLE)).await.expect("set");
        v.clock.advance(Duration::from_secs(3600));
        let now = v.clock.now();
        let mut rounds = 0;
        while v.client.clean_trash(now, 100).await.expect("cleaned").1 {
            rounds += 1;
            assert!(rounds < 10, "it comes to an end");
        }
        assert_eq!(trashed(&v).await.len(), 1);
        let hours = v.client.readdir(Ino::TRASH_ROOT, None, false, 10).await.expect("listed").entries;
        assert_eq!(hours.iter().map(|hour| hour.ino).collect::<Vec<_>>(), [HOUR]);
        settled(&v).await;
        v.client.setattr(&root(), stuck, protect(0)).await.expect("set");
        assert!(!v.client.clean_trash(now, 100).await.expect("cleaned").1);
        assert!(v.client.readdir(Ino::TRASH_ROOT, None, false, 10).await.expect("listed").entries.is_empty());
        settled(&v).await;
    });
}
