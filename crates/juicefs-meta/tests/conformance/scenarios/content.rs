//! Slices, lengths, copies.

use juicefs_core::{
    Errno, FileType, Ino, Meta, SliceId, SliceRecord, Timestamp,
    limits::CHUNK_SIZE,
    meta::{Compacted, Copied, FallocateMode},
    slice::{Piece, resolve},
};

use crate::{
    invariants, leaks,
    snapshot::Snapshot,
    volume::{Kind, Volume, on_all, posix, root, write_slice},
};

const M: u64 = 1 << 20;

async fn view(v: &Volume, ino: Ino, index: u32) -> Vec<Piece> {
    resolve(&v.client.read_chunk(ino, index).await.expect("read").records)
}

/// Position and length of what shows, with whether it is a slice.
fn shape(pieces: &[Piece]) -> Vec<(u32, u32, bool)> {
    pieces.iter().map(|piece| (piece.pos, piece.len, !piece.id.is_hole())).collect()
}

#[test]
fn holes_are_made_and_punched() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        assert!(v.client.read_chunk(f, 0).await.expect("read").records.is_empty());
        let written = v.write(f, 100, 100).await.expect("written");
        assert_eq!((written.chunks, written.offsets, written.attr.length), (vec![(0, 1)], vec![100], 200));
        assert_eq!(shape(&view(&v, f, 0).await), [(0, 100, false), (100, 100, true)]);
        let punch = |off, size| {
            let client = &v.client;
            async move { posix(client.fallocate(&root(), f, FallocateMode::PunchHole, off, size).await) }
        };
        punch(100, 50).await.expect("punched");
        assert_eq!(shape(&view(&v, f, 0).await), [(0, 100, false), (100, 50, false), (150, 50, true)]);
        assert_eq!(punch(0, 0).await.map(|_| ()), Err(Errno::EINVAL));
        assert_eq!(punch(u64::MAX, 2).await.map(|_| ()), Err(Errno::EFBIG));
        let d = v.mkdir(Ino::ROOT, "d").await;
        let reserve = FallocateMode::Allocate { keep_size: true };
        assert_eq!(posix(v.client.fallocate(&root(), d, reserve, 0, 1).await).map(|_| ()), Err(Errno::EPERM));
        let p = v.make(Ino::ROOT, "p", FileType::Fifo).await;
        assert_eq!(posix(v.client.fallocate(&root(), p, reserve, 0, 1).await).map(|_| ()), Err(Errno::EPIPE));
        assert_eq!(posix(v.client.read_chunk(Ino(999), 0).await), Err(Errno::ENOENT));
        assert_eq!(posix(v.client.read_chunk(d, 0).await), Err(Errno::EPERM));
        assert_eq!(v.write(d, 0, 1).await.map(|_| ()), Err(Errno::EPERM));
        assert_eq!(v.write(Ino(999), 0, 1).await.map(|_| ()), Err(Errno::ENOENT));
    });
}

#[test]
fn lengths_jump_far_and_back() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 100, 100).await.expect("written");
        let truncate = |length| {
            let client = &v.client;
            async move { posix(client.truncate(&root(), f, length, true).await).map(|attr| attr.length) }
        };
        for length in [200 * M, (10 << 40) + 10, 300 * M + 10, 1 << 57] {
            assert_eq!(truncate(length).await, Ok(length));
        }
        assert_eq!(truncate((1 << 57) + 1).await, Err(Errno::EFBIG));
        truncate(300 * M).await.expect("shrunk");
        v.client.flush_stats().await.expect("flushed");
        let all = Snapshot::take(v.engine.as_ref()).await;
        let real = all.chunks.values().flatten().filter(|record| record.key().is_some());
        assert_eq!(real.count(), 1);
        invariants::check(&all);
        let freed = v.unlink(Ino::ROOT, "f").await.expect("unlinked").expect("data is left");
        assert_eq!(v.client.delete_file_data(freed).await.expect("deleted").len(), 1);
        assert!(Snapshot::take(v.engine.as_ref()).await.chunks.is_empty());
    });
}

/// The vectors of the format's behaviours, §11.
#[test]
fn copies_show_what_the_source_shows() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (from, to) = (v.file(Ino::ROOT, "from").await, v.file(Ino::ROOT, "to").await);
        let put = |ino, index, pos: u64, id, size: u64, off: u64, len: u64| {
            let client = &v.client;
            let record =
                SliceRecord { pos: pos as u32, id: SliceId(id), size: size as u32, off: off as u32, len: len as u32 };
            async move { write_slice(client, ino, index, record, Timestamp::from_secs(1)).await.expect("written") }
        };
        put(from, 0, 150, 110, 200, 50, 50).await;
        put(from, 1, 100 << 10, 111, 40 * M, 0, 40 * M).await;
        put(from, 3, 0, 112, 63 * M, 10 * M, 30 * M).await;
        put(to, 0, 10 << 20, 113, 40 * M, 0, 40 * M).await;
        v.client.truncate(&root(), from, 3 * CHUNK_SIZE + 63 * M, true).await.expect("grown");
        let copy = v.client.copy_file_range(&root(), from, 150, to, 30 * M, 200 * M).await;
        assert_eq!(posix(copy), Ok(Copied { bytes: 200 * M, length: 230 * M }));
        let slices = |pieces: Vec<Piece>| -> Vec<_> {
            let slices = pieces.into_iter().filter(|p| !p.id.is_hole());
            slices.map(|p| (p.id.0, u64::from(p.pos), u64::from(p.off), u64::from(p.len))).collect()
        };
        let k100 = 100 << 10;
        assert_eq!(slices(view(&v, to, 0).await), [(113, 10 * M, 0, 20 * M), (110, 30 * M, 50, 50)]);
        let first = 34 * M + 150 - k100;
        assert_eq!(slices(view(&v, to, 1).await), [(111, 30 * M - 150 + k100, 0, first)]);
        assert_eq!(slices(view(&v, to, 2).await), [(111, 0, first, 40 * M - first)]);
        assert_eq!(slices(view(&v, to, 3).await), [(112, 30 * M - 150, 10 * M, 8 * M + 150)]);
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
        let beyond = v.client.copy_file_range(&root(), from, 1 << 40, to, 0, 10).await;
        assert_eq!(posix(beyond).map(|copied| copied.bytes), Ok(0));
        let overlap = v.client.copy_file_range(&root(), to, 0, to, 5, 10).await;
        assert_eq!(posix(overlap), Err(Errno::EINVAL));
    });
}

#[test]
fn a_slice_lives_as_long_as_one_copy_of_it() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (a, b) = (v.file(Ino::ROOT, "a").await, v.file(Ino::ROOT, "b").await);
        v.write(a, 0, 1000).await.expect("written");
        v.client.copy_file_range(&root(), a, 0, b, 0, 1000).await.expect("copied");
        v.client.copy_file_range(&root(), a, 0, b, 5000, 500).await.expect("copied");
        let freed = v.unlink(Ino::ROOT, "a").await.expect("unlinked").expect("data");
        assert!(v.client.delete_file_data(freed).await.expect("deleted").is_empty());
        let freed = v.unlink(Ino::ROOT, "b").await.expect("unlinked").expect("data");
        let dead = v.client.delete_file_data(freed).await.expect("deleted");
        assert_eq!(dead.len(), 1);
        assert_eq!(v.client.dead_slices(10).await.expect("scanned"), dead);
        v.client.forget_slice(dead[0]).await.expect("forgotten");
        assert!(v.client.dead_slices(10).await.expect("scanned").is_empty());
    });
}

#[test]
fn concurrent_writers_lose_nothing() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let mut tasks = Vec::new();
        for n in 0..11u32 {
            let client = std::sync::Arc::clone(&v.client);
            tasks.push(tokio::spawn(async move {
                for i in 0..30u32 {
                    let id = client.new_slice_id().await.expect("an id");
                    let record = SliceRecord { pos: i * 11 + n, id, size: 1, off: 0, len: 1 };
                    write_slice(&client, f, 0, record, Timestamp::from_secs(9)).await.expect("written");
                    let hole = SliceRecord { id: SliceId::HOLE, size: 0, ..record };
                    write_slice(&client, f, n + 1, hole, Timestamp::from_secs(9)).await.expect("written");
                }
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(v.client.read_chunk(f, 0).await.expect("read").records.len(), 11 * 30);
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

/// Chunks beyond the end of a file that was cut hold slices, too.
#[test]
fn nothing_is_left_of_a_file_that_was_cut() {
    on_all(|kind: Kind| async move {
        for length in [0, 4096, 4 << 20, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE] {
            let v = Volume::new(kind, 0).await;
            let f = v.file(Ino::ROOT, "f").await;
            for index in [0, 1, 3, 5] {
                v.write(f, index * CHUNK_SIZE + 100, 1000).await.expect("written");
            }
            v.client.truncate(&root(), f, length, true).await.expect("cut");
            // Compaction drops zeros, and must not drop the memory of the cut with them.
            for index in 0..3 {
                let Some(plan) = v.client.plan_compaction(f, index).await.expect("planned") else { continue };
                let slice = v.client.new_slice_id().await.expect("an id");
                let done = v.client.commit_compaction(f, index, &plan, slice).await.expect("committed");
                let Compacted::Done(dead) = done else { panic!("nobody else writes") };
                for slice in dead {
                    v.client.forget_slice(slice).await.expect("forgotten");
                }
                assert!(v.client.plan_compaction(f, index).await.expect("planned").is_none(), "nothing left to gain");
            }
            let freed = v.unlink(Ino::ROOT, "f").await.expect("unlinked").expect("data");
            let dead = v.client.delete_file_data(freed).await.expect("deleted");
            assert!((2..=4).contains(&dead.len()), "cut to {length}: {dead:?}");
            for slice in dead {
                v.client.forget_slice(slice).await.expect("forgotten");
            }
            v.client.flush_stats().await.expect("flushed");
            let all = Snapshot::take(v.engine.as_ref()).await;
            invariants::check(&all);
            leaks::check(&v.home, &all);
        }
    });
}

/// More chunks than are looked at in one go.
#[test]
fn a_file_of_many_chunks_is_deleted_whole() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        for index in 0..600 {
            v.write(f, index * CHUNK_SIZE, 10).await.expect("written");
        }
        for (length, chunks) in [(599 * CHUNK_SIZE + 10, 600), (255 * CHUNK_SIZE + 7, 600), (300 * CHUNK_SIZE, 600)] {
            let copy = v.file(Ino::ROOT, "g").await;
            for index in 0..9 {
                let (at, size) = (index * 67 * CHUNK_SIZE, 67 * CHUNK_SIZE);
                v.client.copy_file_range(&root(), f, at, copy, at, size).await.expect("copied");
            }
            v.client.truncate(&root(), copy, length, true).await.expect("cut");
            let freed = v.unlink(Ino::ROOT, "g").await.expect("unlinked").expect("data");
            assert!(v.client.delete_file_data(freed).await.expect("deleted").is_empty());
            v.client.flush_stats().await.expect("flushed");
            let all = Snapshot::take(v.engine.as_ref()).await;
            assert_eq!(all.chunks.len(), chunks);
            invariants::check(&all);
            leaks::check(&v.home, &all);
        }
    });
}
