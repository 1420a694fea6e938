//! Capacity and inodes of the volume, statfs, and directory statistics that are missing.

use std::sync::Arc;

use juicefs_core::{Errno, FileType, Format, Ino, Meta, SliceRecord, meta::FallocateMode};
use juicefs_meta::{
    engine::optimistic::Transactor,
    record::{DirStat, Key},
    txn::{AccountEffect, Decision, Effect, Effects, Operation, ReadSet},
};

use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Kind, Volume, config, format, node, on_all, posix, root, write_slice},
};

#[test]
fn inodes_end_exactly() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &Format { inodes: 20, ..format(0) }).await;
        let mut tasks = Vec::new();
        for n in 0..40 {
            let client = Arc::clone(&v.client);
            tasks.push(tokio::spawn(async move {
                let name = format!("f{n}");
                posix(client.mknod(&root(), Ino::ROOT, name.as_bytes(), node(FileType::File, 0o644)).await).map(|_| ())
            }));
        }
        let mut made = 0;
        for task in tasks {
            match task.await.expect("no panic") {
                Ok(()) => made += 1,
                Err(errno) => assert_eq!(errno, Errno::ENOSPC),
            }
        }
        assert_eq!(made, 20);
        v.client.flush_stats().await.expect("flushed");
        let usage = v.client.statfs(Ino::ROOT).await.expect("statfs");
        assert_eq!((usage.used_inodes, usage.available_inodes), (20, 0));
        let name = v.client.readdir(Ino::ROOT, None, false, 1).await.expect("listed").entries[0].name.clone();
        let taken = v.client.mknod(&root(), Ino::ROOT, name.as_bytes(), node(FileType::File, 0o644)).await;
        assert_eq!(posix(taken).map(|_| ()), Err(Errno::EEXIST), "a taken name is told first");
        v.unlink(Ino::ROOT, &name.to_string()).await.expect("unlinked");
        v.file(Ino::ROOT, "again").await;
        assert!(v.client.mknod(&root(), Ino::ROOT, b"x", node(FileType::Directory, 0o755)).await.is_err());
    });
}

#[test]
fn space_ends_exactly() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &Format { capacity: 10 * 4096, ..format(0) }).await;
        let (f, g) = (v.file(Ino::ROOT, "f").await, v.file(Ino::ROOT, "g").await);
        // Two nodes take two of ten pages; one of them grows by seven.
        assert_eq!(v.write(f, 8 * 4096, 1).await.map(|_| ()), Ok(()));
        assert_eq!(v.write(g, 4096, 1).await.map(|_| ()), Err(Errno::ENOSPC));
        assert_eq!(v.write(f, 0, 4096).await.map(|_| ()), Ok(()), "what does not grow fits");
        assert_eq!(v.write(f, 9 * 4096 - 1, 1).await.map(|_| ()), Ok(()));
        assert_eq!(posix(v.client.truncate(&root(), f, 9 * 4096 + 1, true).await).map(|_| ()), Err(Errno::ENOSPC));
        let reserve = |keep_size| {
            let client = &v.client;
            async move {
                let mode = FallocateMode::Allocate { keep_size };
                posix(client.fallocate(&root(), g, mode, 0, 8192).await).map(|_| ())
            }
        };
        assert_eq!(
            [reserve(false).await, reserve(true).await],
            [Err(Errno::ENOSPC); 2],
            "no room, whatever the length"
        );
        let copy = posix(v.client.copy_file_range(&root(), f, 0, g, 0, 8192).await).map(|_| ());
        assert_eq!(copy, Err(Errno::ENOSPC));
        let usage = v.client.statfs(Ino::ROOT).await.expect("statfs");
        assert_eq!((usage.total_bytes, usage.available_bytes), (10 * 4096, 0));
        v.client.truncate(&root(), f, 7 * 4096, true).await.expect("shrunk");
        assert_eq!(v.write(g, 2 * 4096, 4096).await.map(|_| ()), Ok(()));
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

#[test]
fn many_writers_fill_the_volume_to_the_page() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &Format { capacity: 100 * 4096, ..format(0) }).await;
        let mut tasks = Vec::new();
        for n in 0..8 {
            let f = v.file(Ino::ROOT, &format!("f{n}")).await;
            let client = Arc::clone(&v.client);
            tasks.push(tokio::spawn(async move {
                let mut pages = 0;
                loop {
                    let id = client.new_slice_id().await.expect("an id");
                    let record = SliceRecord { pos: pages * 4096, id, size: 4096, off: 0, len: 4096 };
                    match posix(write_slice(&client, f, 0, record, Default::default()).await) {
                        Ok(_) => pages += 1,
                        Err(errno) => {
                            assert_eq!(errno, Errno::ENOSPC);
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
        assert_eq!(pages, 100);
        v.client.flush_stats().await.expect("flushed");
        let all = Snapshot::take(v.engine.as_ref()).await;
        assert_eq!(all.used_space, 100 * 4096);
        invariants::check(&all);
    });
}

#[test]
fn clients_see_what_others_use_after_a_beat() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &Format { inodes: 5, ..format(0) }).await;
        let other = v.second(config(&v.clock)).await;
        for n in 0..5 {
            v.file(Ino::ROOT, &format!("f{n}")).await;
        }
        v.client.flush_stats().await.expect("flushed");
        other.refresh().await.expect("beat");
        let full = other.mknod(&root(), Ino::ROOT, b"x", node(FileType::File, 0o644)).await;
        assert_eq!(posix(full).map(|_| ()), Err(Errno::ENOSPC));
    });
}

/// Removes a directory's statistics, as a volume of an old version never had them.
#[derive(Debug)]
struct ForgetStat(Ino);

impl Operation for ForgetStat {
    type Reply = ();
    const NAME: &'static str = "forget_stat";

    fn keys(&self) -> Vec<Key> {
        vec![]
    }

    fn decide(&self, _read: &ReadSet) -> Decision<()> {
        let mut effects = Effects::none();
        effects.push(Effect::Account(AccountEffect::DeleteDirStat(self.0)));
        Decision::Done((), effects)
    }
}

#[test]
fn missing_statistics_are_counted() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        v.write(f, 0, 4097).await.expect("written");
        v.client.flush_stats().await.expect("flushed");
        Transactor::new(Arc::clone(&v.engine)).run(ForgetStat(d)).await.expect("forgotten");
        v.client.link(&root(), f, d, b"g").await.expect("linked");
        v.mkdir(d, "sub").await;
        v.client.flush_stats().await.expect("flushed");
        let all = Snapshot::take(v.engine.as_ref()).await;
        assert_eq!(all.dir_stats[&d], DirStat { length: 2 * 4097, space: 4 * 4096 + 4096, inodes: 3 });
        invariants::check(&all);
    });
}
