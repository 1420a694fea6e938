//! Quotas of directories, users and groups: what counts for them, and that they are never exceeded.

use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{
    Errno, FileType, Format, Ino, Meta, Name, QuotaSubject, SetAttr, SliceRecord,
    meta::{FallocateMode, NewNode, Removed, RenameFlags},
    quota::Quota,
    tree::{Cloning, Progress, RemovalWatch},
};
use juicefs_meta::{Client, engine::Scan};
use proptest::prelude::*;

use crate::volume::{KINDS, Kind, Volume, block_on, config, format, node, on_all, posix, root, user, write_slice};

const PAGE: i64 = 4096;

fn with_owners(trash_days: i64) -> Format {
    Format { user_group_quota: true, ..format(trash_days) }
}

async fn limit(client: &Client, subject: QuotaSubject, space: i64, inodes: i64) {
    client.set_quota(subject, Some(space), Some(inodes), false).await.expect("set");
}

async fn limit_dir(v: &Volume, dir: Ino, space: i64, inodes: i64) {
    limit(&v.client, QuotaSubject::Dir(dir), space, inodes).await;
}

/// What is stored as used, bytes in pages.
async fn used(v: &Volume, subject: QuotaSubject) -> (i64, i64) {
    let quota = v.client.quota(subject).await.expect("read").expect("a quota");
    (quota.used_space / PAGE, quota.used_inodes)
}

/// Ends the session, which tells everything, and counts anew: what is stored is right.
async fn assert_right(v: &Volume) {
    v.client.close_session().await.expect("closed");
    for subject in v.client.quotas().await.expect("listed").into_keys() {
        if matches!(subject, QuotaSubject::Dir(_)) {
            let check = v.client.check_quota(subject, false).await.expect("checked");
            assert!(check.is_right(), "{subject:?}: {check:?}");
        }
    }
    if v.client.format().user_group_quota {
        for (subject, check) in v.client.check_owners(false, None).await.expect("checked") {
            assert!(check.is_right(), "{subject:?}: {check:?}");
        }
    }
}

async fn make(client: &Client, dir: Ino, name: &str) -> Result<(), Errno> {
    posix(client.mknod(&root(), dir, name.as_bytes(), node(FileType::File, 0o644)).await).map(drop)
}

#[test]
fn two_clients_fill_a_directory_exactly() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let top = v.mkdir(Ino::ROOT, "top").await;
        let below = v.mkdir(top, "below").await;
        limit_dir(&v, top, 0, 21).await;
        let other = v.second(config(&v.clock)).await;
        let mut tasks = Vec::new();
        for n in 0..60 {
            let client = Arc::clone(if n % 2 == 0 { &v.client } else { &other });
            let dir = if n % 3 == 0 { top } else { below };
            tasks.push(tokio::spawn(async move { make(&client, dir, &format!("f{n}")).await }));
        }
        let mut made = 0;
        for task in tasks {
            match task.await.expect("no panic") {
                Ok(()) => made += 1,
                Err(errno) => assert_eq!(errno, Errno::EDQUOT),
            }
        }
        assert_eq!((made, used(&v, QuotaSubject::Dir(top)).await), (20, (21, 21)));
        assert_eq!(make(&other, below, "more").await, Err(Errno::EDQUOT));
        assert_eq!(make(&other, Ino::ROOT, "beside").await, Ok(()));
        let page = other.readdir(below, None, false, 1).await.expect("listed");
        v.unlink(below, &page.entries[0].name.to_string()).await.expect("unlinked");
        assert_eq!(make(&other, top, "again").await, Ok(()), "room is there for everybody at once");
        assert_right(&v).await;
    });
}

#[test]
fn two_clients_fill_space_to_the_page() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let dir = v.mkdir(Ino::ROOT, "d").await;
        limit_dir(&v, dir, 50 * PAGE, 0).await;
        let other = v.second(config(&v.clock)).await;
        let mut tasks = Vec::new();
        for n in 0..4 {
            let f = v.file(dir, &format!("f{n}")).await;
            let client = Arc::clone(if n % 2 == 0 { &v.client } else { &other });
            tasks.push(tokio::spawn(async move {
                let mut pages = 0_u32;
                loop {
                    let id = client.new_slice_id().await.expect("an id");
                    let record = SliceRecord { pos: pages * 4096, id, size: 4096, off: 0, len: 4096 };
                    match posix(write_slice(&client, f, 0, record, Default::default()).await) {
                        Ok(_) => pages += 1,
                        Err(errno) => {
                            assert_eq!(errno, Errno::EDQUOT);
                            return pages.max(1);
                        }
                    }
                    tokio::task::yield_now().await;
                }
            }));
        }
        let mut pages = 0;
        for task in tasks {
            pages += task.await.expect("no panic");
        }
        assert_eq!((pages, used(&v, QuotaSubject::Dir(dir)).await), (50, (50, 4)));
        assert_right(&v).await;
    });
}

#[test]
fn everything_that_grows_is_checked() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        let outside = v.file(Ino::ROOT, "outside").await;
        v.write(outside, 2 * 4096, 4096).await.expect("written");
        limit_dir(&v, d, 3 * PAGE, 2).await;
        let full = Err(Errno::EDQUOT);
        let truncate = async |length| posix(v.client.truncate(&root(), f, length, true).await).map(drop);
        assert_eq!(v.write(f, 3 * 4096, 1).await.map(drop), full);
        assert_eq!(v.write(f, 4096, 4096).await.map(drop), Ok(()));
        assert_eq!((truncate(3 * 4096 + 1).await, truncate(3 * 4096).await), (full, Ok(())));
        let reserve = FallocateMode::Allocate { keep_size: false };
        assert_eq!(posix(v.client.fallocate(&root(), f, reserve, 0, 4 * 4096).await).map(drop), full);
        assert_eq!(posix(v.client.copy_file_range(&root(), outside, 0, f, 3 * 4096, 4096).await).map(drop), full);
        assert_eq!(posix(v.client.link(&root(), outside, d, b"l").await).map(drop), full, "a name counts whole");
        assert_eq!(v.rename((Ino::ROOT, "outside"), (d, "o")).await.map(drop), full);
        let flags = RenameFlags { whiteout: true, ..RenameFlags::default() };
        assert_eq!(v.rename_with((d, "f"), (d, "g"), flags).await.map(drop), full);
        assert_eq!(make(&v.client, d, "f").await, Err(Errno::EEXIST), "a taken name is told first");
        assert_eq!(truncate(4096).await, Ok(()));
        v.mkdir(d, "sub").await;
        assert_eq!(make(&v.client, d, "third").await, full);
        assert_eq!(used(&v, QuotaSubject::Dir(d)).await, (2, 2));
        // What takes the place of something counts for the difference.
        v.client.link(&root(), f, Ino::ROOT, b"f2").await.expect("linked");
        v.rename((Ino::ROOT, "f2"), (d, "f")).await.expect("two names of one file");
        let small = v.file(Ino::ROOT, "small").await;
        v.rename((Ino::ROOT, "small"), (d, "f")).await.expect("one goes as the other comes");
        assert_eq!(v.find(d, "f").await, Ok(small));
        assert_right(&v).await;
    });
}

#[test]
fn usage_follows_directories_between_nested_quotas() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (a, b) = (v.mkdir(Ino::ROOT, "a").await, v.mkdir(Ino::ROOT, "b").await);
        let inner = v.mkdir(a, "inner").await;
        let tree = v.mkdir(inner, "tree").await;
        let deep = v.mkdir(tree, "deep").await;
        let f = v.file(deep, "f").await;
        v.write(f, 0, 9 * 4096).await.expect("written");
        for (dir, inodes) in [(a, 100), (inner, 0), (b, 2)] {
            limit_dir(&v, dir, 0, inodes).await;
        }
        let dir = QuotaSubject::Dir;
        let all = async || (used(&v, dir(a)).await, used(&v, dir(inner)).await, used(&v, dir(b)).await);
        assert_eq!(all().await, ((12, 4), (11, 3), (0, 0)));
        assert_eq!(v.rename((inner, "tree"), (b, "tree")).await.map(drop), Err(Errno::EDQUOT));
        assert_eq!(all().await, ((12, 4), (11, 3), (0, 0)));
        limit_dir(&v, b, 0, 3).await;
        v.rename((inner, "tree"), (b, "tree")).await.expect("moved");
        v.client.flush_stats().await.expect("flushed");
        v.file(a, "g").await;
        v.rename((a, "g"), (a, "h")).await.expect("moved");
        // The inner one has a quota of its own, which tells how much it holds.
        v.rename_with((a, "inner"), (b, "tree"), RenameFlags { exchange: true, ..RenameFlags::default() })
            .await
            .expect("swapped");
        assert_eq!((used(&v, dir(a)).await, used(&v, dir(b)).await), ((12, 4), (1, 1)));
        v.file(deep, "x").await;
        v.unlink(deep, "f").await.expect("unlinked");
        assert_right(&v).await;
        assert_eq!(used(&v, dir(a)).await, (4, 4));
    });
}

#[test]
fn another_client_moves_the_directory_under_ones_feet() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (a, b) = (v.mkdir(Ino::ROOT, "a").await, v.mkdir(Ino::ROOT, "b").await);
        let moving = v.mkdir(a, "moving").await;
        let deep = v.mkdir(moving, "deep").await;
        limit_dir(&v, a, 0, 3).await;
        limit_dir(&v, b, 0, 4).await;
        let other = v.second(config(&v.clock)).await;
        assert_eq!(make(&v.client, deep, "f0").await, Ok(()));
        let to_b = other.rename(&root(), a, b"moving", b, b"moving", RenameFlags::default()).await;
        assert_eq!(posix(to_b).map(drop), Ok(()));
        assert_eq!(make(&v.client, deep, "f1").await, Ok(()), "nothing is full any more");
        assert_eq!(make(&v.client, deep, "f2").await, Err(Errno::EDQUOT));
        assert_eq!(used(&v, QuotaSubject::Dir(a)).await, (0, 0));
        assert_eq!(used(&v, QuotaSubject::Dir(b)).await, (4, 4));
        assert_right(&v).await;
    });
}

#[test]
fn names_count_for_directories_and_nodes_for_owners() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &with_owners(0)).await;
        let (a, b) = (v.mkdir(Ino::ROOT, "a").await, v.mkdir(Ino::ROOT, "b").await);
        limit_dir(&v, a, 0, 100).await;
        limit_dir(&v, b, 0, 0).await;
        v.client.setattr(&root(), a, SetAttr { mode: Some(0o777), ..SetAttr::default() }).await.expect("opened");
        let f = v.file(a, "f").await;
        v.client.link(&root(), f, b, b"l1").await.expect("linked");
        v.client.link(&root(), f, b, b"l2").await.expect("linked");
        v.write(f, 4096, 4096).await.expect("written");
        v.client.truncate(&root(), f, 5 * 4096, true).await.expect("grown");
        v.unlink(b, "l1").await.expect("unlinked");
        let owner = SetAttr { uid: Some(7), gid: Some(8), ..SetAttr::default() };
        v.client.setattr(&root(), f, owner.clone()).await.expect("given away");
        let link = NewNode { target: Bytes::from_static(b"t"), ..node(FileType::Symlink, 0) };
        let (symlink, _) = v.client.mknod(&user(9), a, b"s", link).await.expect("made");
        v.client.setattr(&root(), symlink, owner).await.expect("given away");
        // Open and without a name: its owner has it still.
        v.open_rw(f).await;
        v.unlink(b, "l2").await.expect("unlinked");
        v.unlink(a, "f").await.expect("unlinked");
        v.write(f, 6 * 4096, 4096).await.expect("written");
        v.client.flush_stats().await.expect("flushed");
        let mid = v.client.check_owners(false, None).await.expect("checked");
        assert_eq!((mid[&QuotaSubject::User(7)].space / PAGE, mid[&QuotaSubject::User(7)].inodes), (8, 2));
        v.client.close(f).await.expect("closed");
        assert_right(&v).await;
        assert_eq!(used(&v, QuotaSubject::Dir(a)).await, (1, 1));
        assert_eq!(used(&v, QuotaSubject::Dir(b)).await, (0, 0));
        assert_eq!((used(&v, QuotaSubject::User(7)).await, used(&v, QuotaSubject::Group(8)).await), ((1, 1), (1, 1)));
        assert_eq!((used(&v, QuotaSubject::User(9)).await, used(&v, QuotaSubject::Group(9)).await), ((0, 0), (0, 0)));
    });
}

#[test]
fn users_and_groups_end_exactly() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &with_owners(1)).await;
        let d = v.make(Ino::ROOT, "d", FileType::Directory).await;
        let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        v.client.setattr(&root(), d, open).await.expect("opened");
        limit(&v.client, QuotaSubject::User(5), 4 * PAGE, 3).await;
        limit(&v.client, QuotaSubject::Group(6), 0, 2).await;
        let other = v.second(config(&v.clock)).await;
        let by = async |client: &Client, uid: u32, name: &str| {
            posix(client.mknod(&user(uid), d, name.as_bytes(), node(FileType::File, 0o666)).await).map(|(ino, _)| ino)
        };
        let f = by(&v.client, 5, "f").await.expect("made");
        by(&other, 5, "g").await.expect("made");
        assert_eq!(v.write(f, 3 * 4096, 1).await.map(drop), Err(Errno::EDQUOT));
        assert_eq!(v.write(f, 2 * 4096, 1).await.map(drop), Ok(()));
        assert_eq!(by(&v.client, 5, "h").await, Err(Errno::EDQUOT), "no space for one more");
        v.client.truncate(&root(), f, 0, true).await.expect("cut");
        by(&v.client, 5, "h").await.expect("made");
        assert_eq!(by(&other, 5, "i").await, Err(Errno::EDQUOT));
        // In the trash it is still theirs.
        v.unlink(d, "h").await.expect("unlinked");
        assert_eq!(by(&other, 5, "i").await, Err(Errno::EDQUOT));
        let stranger = by(&v.client, 4, "stranger").await.expect("made");
        let give = SetAttr { uid: Some(5), ..SetAttr::default() };
        assert_eq!(posix(v.client.setattr(&root(), stranger, give).await).map(drop), Err(Errno::EDQUOT));
        let join = |ino| {
            let set = SetAttr { gid: Some(6), ..SetAttr::default() };
            let client = &v.client;
            async move { posix(client.setattr(&root(), ino, set).await).map(drop) }
        };
        assert_eq!((join(stranger).await, join(f).await, join(d).await), (Ok(()), Ok(()), Err(Errno::EDQUOT)));
        other.close_session().await.expect("closed");
        assert_right(&v).await;
    });
}

/// Nobody wants to know what is removed.
struct Unwatched;

impl RemovalWatch for Unwatched {
    fn removed(&self, _parent: Ino, _name: &Name, _removed: Removed) {}
}

/// A copy that does not fit leaves nothing, and one that fits is charged to where it goes and to who makes it.
#[test]
fn copies_of_trees_are_charged() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &with_owners(0)).await;
        let source = v.mkdir(Ino::ROOT, "source").await;
        let deep = v.mkdir(source, "deep").await;
        for n in 0..5 {
            let file = v.file(deep, &format!("f{n}")).await;
            v.write(file, 0, 5000).await.expect("written");
        }
        let into = v.mkdir(Ino::ROOT, "into").await;
        let clone = |name: &'static str| {
            let (client, progress) = (Arc::clone(&v.client), Progress::default());
            async move {
                let to = (into, name.as_bytes());
                let how = Cloning { preserve: false, umask: 0o022, threads: 4 };
                posix(client.clone_tree(&root(), source, to, how, &Unwatched, &progress).await).map(drop)
            }
        };
        limit_dir(&v, into, 0, 10).await;
        assert_eq!(clone("one").await, Ok(()));
        assert_eq!(used(&v, QuotaSubject::Dir(into)).await, (2 + 5 * 2, 7));
        assert_eq!(clone("two").await, Err(Errno::EDQUOT));
        assert_eq!(used(&v, QuotaSubject::Dir(into)).await, (2 + 5 * 2, 7), "what was copied of it is gone again");
        let page = v.client.readdir(into, None, false, 10).await.expect("listed");
        assert_eq!(page.entries.len(), 1);
        limit_dir(&v, into, 23 * PAGE, 0).await;
        assert_eq!(clone("two").await, Err(Errno::EDQUOT));
        limit_dir(&v, into, 24 * PAGE, 0).await;
        assert_eq!(clone("two").await, Ok(()));
        assert_right(&v).await;
    });
}

#[test]
fn the_trash_counts_for_no_directory() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &with_owners(1)).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        limit_dir(&v, d, 0, 2).await;
        limit(&v.client, QuotaSubject::Group(0), 0, 3).await;
        v.file(d, "f").await;
        v.mkdir(d, "sub").await;
        let sub = v.find(d, "sub").await.expect("found");
        limit_dir(&v, sub, 0, 9).await;
        v.unlink(d, "f").await.expect("removing needs no room, though the hour of the trash is a directory of root");
        v.client.rmdir(&root(), d, b"sub", false).await.expect("removed");
        assert_eq!(v.client.quota(QuotaSubject::Dir(sub)).await.expect("read"), None, "its quota goes with it");
        assert_eq!(used(&v, QuotaSubject::Dir(d)).await, (0, 0));
        limit(&v.client, QuotaSubject::Group(0), 0, 0).await;
        v.file(d, "one").await;
        v.file(d, "two").await;
        let hours = v.client.readdir(Ino::TRASH_ROOT, None, false, 10).await.expect("listed");
        let hour = hours.entries[0].ino;
        let trashed = v.client.readdir(hour, None, false, 10).await.expect("listed");
        let name = trashed.entries.iter().find(|e| e.kind == FileType::File).expect("the file").name.to_string();
        let back = RenameFlags { no_replace: true, restore: true, ..RenameFlags::default() };
        assert_eq!(v.rename_with((hour, &name), (d, "f"), back).await.map(drop), Err(Errno::EDQUOT));
        v.unlink(d, "one").await.expect("unlinked");
        assert_eq!(v.rename_with((hour, &name), (d, "f"), back).await.map(drop), Ok(()));
        assert_right(&v).await;
    });
}

#[test]
fn limits_are_set_merged_and_deleted() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &with_owners(0)).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        v.file(d, "f").await;
        let (dir, uid) = (QuotaSubject::Dir(d), QuotaSubject::User(3));
        let set = async |subject, space, inodes| v.client.set_quota(subject, space, inodes, false).await.expect("set");
        let wanted = Quota { max_space: 1 << 30, max_inodes: -1, used_space: PAGE, used_inodes: 1 };
        assert_eq!(set(dir, Some(1 << 30), None).await, wanted);
        assert_eq!(set(dir, None, Some(5)).await, Quota { max_inodes: 5, ..wanted });
        assert_eq!(set(dir, Some(0), None).await, Quota { max_inodes: 5, max_space: 0, ..wanted });
        assert_eq!(v.client.quota(dir).await.expect("read"), Some(Quota { max_inodes: 5, max_space: 0, ..wanted }));
        assert!(v.client.delete_quota(dir).await.expect("deleted"));
        assert!(!v.client.delete_quota(dir).await.expect("nothing there"));
        assert_eq!(v.client.quota(dir).await.expect("read"), None);
        assert_eq!(posix(v.client.check_quota(dir, true).await).map(drop), Err(Errno::ENODATA));
        let gone = v.client.set_quota(QuotaSubject::Dir(Ino(999)), None, Some(1), false).await;
        assert_eq!(posix(gone).map(drop), Err(Errno::ENOENT));
        let file = v.find(d, "f").await.expect("found");
        let no_dir = v.client.set_quota(QuotaSubject::Dir(file), None, Some(1), false).await;
        assert_eq!(posix(no_dir).map(drop), Err(Errno::ENOTDIR));
        limit(&v.client, uid, 0, 9).await;
        v.client.setattr(&root(), file, SetAttr { uid: Some(3), ..SetAttr::default() }).await.expect("given");
        assert!(v.client.delete_quota(uid).await.expect("deleted"));
        let kept = Quota { used_space: PAGE, used_inodes: 1, ..Quota::UNSET };
        assert_eq!(v.client.quota(uid).await.expect("read"), Some(kept), "users are counted still");
        assert!(!kept.is_set());
        assert_right(&v).await;
    });
}

#[test]
fn a_wrong_count_is_found_and_mended() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &format(0)).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        limit_dir(&v, d, 0, 10).await;
        let blind = v.second(config(&v.clock)).await;
        // A client that has not heard of a quota does not count for it.
        let late = v.mkdir(d, "late").await;
        limit_dir(&v, late, 0, 10).await;
        make(&blind, late, "f").await.expect("made");
        let check = v.client.check_quota(QuotaSubject::Dir(late), false).await.expect("checked");
        assert_eq!((check.is_right(), check.inodes, used(&v, QuotaSubject::Dir(late)).await), (false, 1, (0, 0)));
        v.client.check_quota(QuotaSubject::Dir(late), true).await.expect("mended");
        blind.refresh().await.expect("beat");
        make(&blind, late, "g").await.expect("made");
        assert_right(&v).await;
        // Users are counted from the day on which that is turned on.
        let on = Format { user_group_quota: true, ..format(0) };
        Client::save_format(&v.engine, &on, v.clock.as_ref()).await.expect("stored");
        let fresh = v.second(config(&v.clock)).await;
        let checks = fresh.check_owners(true, None).await.expect("counted");
        assert_eq!(checks.values().map(|check| check.inodes).collect::<Vec<_>>(), [4, 4]);
        make(&fresh, d, "h").await.expect("made");
        fresh.close_session().await.expect("closed");
        assert_eq!(used(&v, QuotaSubject::User(0)).await, (5, 5));
    });
}

#[test]
fn statfs_shows_the_quotas_above() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &Format { capacity: 1000 * 4096, inodes: 1000, ..format(0) }).await;
        let a = v.mkdir(Ino::ROOT, "a").await;
        let b = v.mkdir(a, "b").await;
        let f = v.file(b, "f").await;
        v.write(f, 0, 3 * 4096).await.expect("written");
        limit_dir(&v, a, 10 * PAGE, 0).await;
        limit_dir(&v, b, 100 * PAGE, 5).await;
        let shown = async |client: &Client, ino| {
            let usage = client.statfs(ino).await.expect("statfs");
            (usage.total_bytes / 4096, usage.available_bytes / 4096, usage.used_inodes, usage.available_inodes)
        };
        assert_eq!(shown(&v.client, Ino::ROOT).await.0, 1000);
        assert_eq!(shown(&v.client, a).await, (10, 6, 2, 997));
        assert_eq!(shown(&v.client, b).await, (9, 6, 1, 4), "the innermost says what is used, all what is left");
        assert_eq!(shown(&v.client, f).await, (9, 6, 1, 4));
        let below = juicefs_meta::ClientConfig { subdir: Some("/a/b".into()), fast_statfs: true, ..config(&v.clock) };
        let mount = v.second(below).await;
        assert_eq!(shown(&mount, Ino::ROOT).await, (9, 6, 1, 4));
    });
}

#[test]
fn a_volume_without_quotas_has_no_record_of_them() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 1).await.expect("written");
        v.client.close_session().await.expect("closed");
        assert_eq!(v.engine.scan(Scan::Quotas, None, 10).await.expect("scanned"), []);
    });
}

/// One of the things that happen in [`after_anything_the_books_are_right`].
async fn step(v: &Volume, dirs: &[Ino], (what, a, b, n): (u8, u8, u8, u8)) {
    let dir = |n: u8| dirs[usize::from(n) % dirs.len()];
    let name = |n: u8| format!("n{}", n % 3);
    let (from, to) = (dir(a), dir(b));
    v.tick();
    let by = user(u32::from(b % 2));
    let found = v.find(from, &name(n)).await;
    // Refusals are part of it: what counts is that they leave nothing behind.
    match what % 9 {
        0 | 1 => drop(v.client.mknod(&by, from, name(n).as_bytes(), node(FileType::File, 0o666)).await),
        2 => drop(v.client.mknod(&by, from, name(n).as_bytes(), node(FileType::Directory, 0o777)).await),
        3 => drop(v.client.unlink(&root(), from, name(n).as_bytes(), a % 2 == 0).await),
        4 => drop(v.client.rmdir(&root(), from, name(n).as_bytes(), a % 2 == 0).await),
        5 => {
            let flags = RenameFlags { exchange: n % 4 == 0, ..RenameFlags::default() };
            drop(v.rename_with((from, &name(n)), (to, &name(b)), flags).await);
        }
        6 => {
            if let Ok(ino) = found {
                drop(v.client.link(&root(), ino, to, name(b).as_bytes()).await);
            }
        }
        7 => {
            if let Ok(ino) = found {
                drop(v.client.truncate(&root(), ino, u64::from(b) * 1000, true).await);
            }
        }
        _ => {
            if let Ok(ino) = found {
                let set = SetAttr { uid: Some(u32::from(b % 3)), gid: Some(u32::from(a % 3)), ..SetAttr::default() };
                drop(v.client.setattr(&root(), ino, set).await);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_anything_the_books_are_right(steps in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 1..80)) {
        for kind in KINDS {
            block_on(async {
                let v = Volume::with_format(kind, &with_owners(1)).await;
                let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
                let mut dirs = vec![Ino::ROOT];
                for (parent, name) in [(0, "a"), (1, "n0"), (2, "n1"), (0, "b"), (4, "n2")] {
                    let dir = v.mkdir(dirs[parent], name).await;
                    v.client.setattr(&root(), dir, open.clone()).await.expect("opened");
                    dirs.push(dir);
                }
                for (at, space, inodes) in [(1, 40, 12), (2, 0, 6), (3, 0, 0), (4, 30, 0)] {
                    limit_dir(&v, dirs[at], space * PAGE, inodes).await;
                }
                limit(&v.client, QuotaSubject::User(1), 0, 8).await;
                limit(&v.client, QuotaSubject::Group(2), 20 * PAGE, 0).await;
                let most = v.client.quotas().await.expect("listed");
                for one in &steps {
                    step(&v, &dirs, *one).await;
                }
                for (subject, quota) in v.client.quotas().await.expect("listed") {
                    let Some(most) = most.get(&subject) else { continue };
                    assert!(most.max_space <= 0 || quota.used_space <= most.max_space, "{subject:?}: {quota:?}");
                    assert!(most.max_inodes <= 0 || quota.used_inodes <= most.max_inodes, "{subject:?}: {quota:?}");
                }
                assert_right(&v).await;
            });
        }
    }
}
