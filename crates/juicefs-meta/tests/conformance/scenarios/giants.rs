//! Files that span far more than they hold, and files that hold so much that they are changed in steps.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use juicefs_core::{
    Caller, Errno, Ino, Meta, SliceRecord, Timestamp,
    limits::CHUNK_SIZE,
    meta::{FallocateMode, Freed, NewSlice, Removed},
    slice::resolve,
    tree::{Cloning, Progress, RemovalWatch},
};
use juicefs_meta::engine::mem::MemEngine;
use parking_lot::Mutex;

use crate::{
    interleaving::Optimistic,
    invariants, leaks,
    snapshot::Snapshot,
    volume::{Kind, Volume, block_on, format, on_all, posix, root},
};

const PEBIBYTE: u64 = 1 << 50;
/// Several times as many chunks as one operation changes.
const CHUNKS: u64 = 3000;
const ZERO: FallocateMode = FallocateMode::ZeroRange { keep_size: true };
const PRESERVE: Cloning = Cloning { preserve: true, umask: 0o22, threads: 4 };
/// Each call on such a file. What goes through its 16 million chunks one by one takes longer on every engine.
const BOUND: Duration = Duration::from_secs(4);

#[derive(Default)]
struct Watch(Mutex<Vec<Freed>>);

impl RemovalWatch for Watch {
    fn removed(&self, _parent: Ino, _name: &juicefs_core::Name, removed: Removed) {
        self.0.lock().extend(removed.freed);
    }
}

/// Panics when a call takes longer than it may.
async fn timed<T>(what: &str, call: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let answer = call.await;
    let took = begun.elapsed();
    println!("{what}: {took:?}");
    assert!(took < BOUND, "{what} took {took:?}");
    answer
}

/// The bytes of data that each chunk shows within the file, those that show some.
async fn shown(v: &Volume, ino: Ino) -> Vec<(u32, u64)> {
    let length = v.attr(ino).await.length;
    let mut shown = Vec::new();
    for index in v.client.stored_chunks(ino, 0..u32::MAX, usize::MAX).await.expect("listed") {
        let left = length.saturating_sub(u64::from(index) * CHUNK_SIZE).min(CHUNK_SIZE) as u32;
        let pieces = resolve(&v.client.read_chunk(ino, index).await.expect("read").records);
        let data = pieces.iter().filter_map(|piece| piece.clip(0, left)).filter(|piece| !piece.id.is_hole());
        let bytes = data.map(|piece| u64::from(piece.len)).sum();
        if bytes > 0 {
            shown.push((index, bytes));
        }
    }
    shown
}

/// Ten bytes at the start of each of so many chunks, with `gap` chunks between them.
async fn fill(v: &Volume, ino: Ino, chunks: u64, gap: u32) {
    let mut index = 0;
    for _ in 0..chunks.div_ceil(100) {
        let mut slices = Vec::new();
        for _ in 0..100.min(chunks - u64::from(index / (gap + 1))) {
            let id = v.client.new_slice_id().await.expect("an id");
            slices.push(NewSlice::At(index, SliceRecord { pos: 0, id, size: 10, off: 0, len: 10 }));
            index += gap + 1;
        }
        v.client.write_slices(v.client.session(), ino, slices, Timestamp::from_secs(1)).await.expect("written");
    }
}

async fn deleted(v: &Volume, freed: impl IntoIterator<Item = Freed>) {
    for file in freed {
        for slice in v.client.delete_file_data(file).await.expect("deleted") {
            v.client.forget_slice(slice).await.expect("forgotten");
        }
    }
}

async fn settled(v: &Volume, freed: impl IntoIterator<Item = Freed>) {
    deleted(v, freed).await;
    v.client.flush_stats().await.expect("flushed");
    let all = Snapshot::take(v.engine.as_ref()).await;
    invariants::check(&all);
    leaks::check(&v.home, &all);
}

#[test]
fn a_pebibyte_of_nothing_costs_nothing() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (cx, client) = (root(), &v.client);
        let f = v.file(Ino::ROOT, "f").await;
        timed("growth", client.truncate(&cx, f, PEBIBYTE, true)).await.expect("grown");
        let places = [0, PEBIBYTE / 3, PEBIBYTE - 100];
        for at in places {
            v.write(f, at, 100).await.expect("written");
        }
        let chunks = places.map(|at| ((at / CHUNK_SIZE) as u32, 100));
        assert_eq!(shown(&v, f).await, chunks);
        let (watch, progress) = (Watch::default(), Progress::default());
        let copying = client.clone_tree(&cx, f, (Ino::ROOT, b"copy"), PRESERVE, &watch, &progress);
        let copy = timed("clone", copying).await.expect("copied");
        assert_eq!(shown(&v, copy).await, chunks);
        let sum =
            timed("summary", client.summarize(&Caller::root(), copy, true, true, &progress)).await.expect("counted");
        assert_eq!(sum.length_bytes, PEBIBYTE);
        timed("zeroing", client.fallocate(&cx, copy, ZERO, CHUNK_SIZE, PEBIBYTE - CHUNK_SIZE)).await.expect("zeroed");
        assert_eq!(shown(&v, copy).await, chunks[..1]);
        let punched = client.fallocate(&cx, copy, FallocateMode::PunchHole, 0, PEBIBYTE);
        assert_eq!(timed("punching", punched).await.expect("punched").length, PEBIBYTE);
        assert_eq!(shown(&v, copy).await, []);
        let stored = client.stored_chunks(copy, 0..u32::MAX, usize::MAX).await.expect("listed").len();
        assert!(stored <= 6, "{stored} chunks hold a record of a hole");
        for length in [10, PEBIBYTE, 3 * CHUNK_SIZE] {
            timed("cut and growth", client.truncate(&cx, f, length, true)).await.expect("set");
        }
        assert_eq!(shown(&v, f).await, [(0, 10)]);
        let mut freed = Vec::new();
        for name in ["f", "copy"] {
            freed.extend(v.unlink(Ino::ROOT, name).await.expect("unlinked"));
        }
        timed("deletion", deleted(&v, freed)).await;
        settled(&v, []).await;
    });
}

#[test]
fn a_hole_of_many_chunks_is_copied_as_a_hole() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (cx, client) = (root(), &v.client);
        let (from, to) = (v.file(Ino::ROOT, "from").await, v.file(Ino::ROOT, "to").await);
        client.truncate(&cx, from, 900 * CHUNK_SIZE, true).await.expect("grown");
        v.write(from, 70 * CHUNK_SIZE + 5, 10).await.expect("written");
        v.write(to, 0, 50).await.expect("written");
        v.write(to, 400 * CHUNK_SIZE, 20).await.expect("written");
        let copied = client.copy_file_range(&cx, from, 0, to, 100, 900 * CHUNK_SIZE).await.expect("copied");
        assert_eq!((copied.bytes, copied.length), (900 * CHUNK_SIZE, 900 * CHUNK_SIZE + 100));
        assert_eq!(shown(&v, to).await, [(0, 50), (70, 10)], "the hole hides what it covers, which begins at 100");
        let again = client.copy_file_range(&cx, from, 0, to, 0, 900 * CHUNK_SIZE).await.expect("copied");
        assert_eq!(again.bytes, 900 * CHUNK_SIZE);
        assert_eq!(shown(&v, to).await, [(70, 10)]);
        let stored = client.stored_chunks(to, 0..u32::MAX, usize::MAX).await.expect("listed").len();
        assert!(stored <= 6, "{stored} chunks hold something");
        settled(&v, []).await;
    });
}

#[test]
fn what_many_chunks_hold_is_hidden_in_steps() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (cx, client) = (root(), &v.client);
        for gap in [0, 5000] {
            let f = v.file(Ino::ROOT, "f").await;
            fill(&v, f, CHUNKS, gap).await;
            let length = v.attr(f).await.length;
            assert_eq!(shown(&v, f).await.len() as u64, CHUNKS);
            client.fallocate(&cx, f, FallocateMode::PunchHole, 5, length).await.expect("punched");
            assert_eq!(shown(&v, f).await, [(0, 5)]);
            assert_eq!(v.attr(f).await.length, length);
            let g = v.file(Ino::ROOT, "g").await;
            fill(&v, g, CHUNKS, gap).await;
            client.truncate(&cx, g, 7, true).await.expect("cut");
            assert_eq!(v.attr(g).await.length, 7);
            // What was beyond the end is hidden however the file grows.
            v.write(g, length - 1, 1).await.expect("written");
            assert_eq!(shown(&v, g).await, [(0, 7), ((length / CHUNK_SIZE) as u32, 1)]);
            client.truncate(&cx, g, length / 2, true).await.expect("cut");
            client.truncate(&cx, g, length, true).await.expect("grown");
            assert_eq!(shown(&v, g).await, [(0, 7)]);
            let mut freed = Vec::new();
            for name in ["f", "g"] {
                freed.extend(v.unlink(Ino::ROOT, name).await.expect("unlinked"));
            }
            settled(&v, freed).await;
        }
    });
}

#[test]
fn what_many_chunks_hold_is_copied_in_steps() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let (cx, client) = (root(), &v.client);
        let d = v.mkdir(Ino::ROOT, "d").await;
        let f = v.file(d, "f").await;
        fill(&v, f, CHUNKS, 1).await;
        let (watch, progress) = (Watch::default(), Progress::default());
        let clone = |source, name: &'static [u8]| {
            client.clone_tree(&cx, source, (Ino::ROOT, name), PRESERVE, &watch, &progress)
        };
        let file = clone(f, b"file").await.expect("copied");
        let (attr, copied) = (v.attr(f).await, v.attr(file).await);
        assert_eq!((copied.nlink, copied.length, copied.mode, copied.mtime), (1, attr.length, attr.mode, attr.mtime));
        assert_eq!(copied.parent, Ino::ROOT);
        let dir = clone(d, b"dir").await.expect("copied");
        let within = v.find(dir, "f").await.expect("there");
        let wanted = shown(&v, f).await;
        assert_eq!(wanted.len() as u64, CHUNKS);
        assert_eq!(shown(&v, file).await, wanted);
        assert_eq!(shown(&v, within).await, wanted);
        assert_eq!(posix(clone(f, b"file").await), Err(Errno::EEXIST));
        let freed: Vec<_> = watch.0.lock().drain(..).collect();
        settled(&v, freed).await;
        // One that is broken off leaves nothing.
        let (watch, progress) = (Watch::default(), Progress::default());
        progress.stop();
        let broken = client.clone_tree(&cx, f, (Ino::ROOT, b"broken"), PRESERVE, &watch, &progress).await;
        assert_eq!(posix(broken), Err(Errno::EINTR));
        assert_eq!(v.find(Ino::ROOT, "broken").await, Err(Errno::ENOENT));
        let freed = watch.0.lock().drain(..).collect::<Vec<_>>();
        assert_eq!(freed.len(), 1, "what was copied is to be deleted");
        settled(&v, freed).await;
    });
}

/// A cut of many chunks that is left after so many turns, with a write by somebody else now and then.
fn cut_while_others_write(turns: usize, write_each: usize) -> bool {
    block_on(async {
        let v = Volume::on(Optimistic::new(Arc::new(MemEngine::new())), &format(0)).await;
        let (cx, client) = (root(), Arc::clone(&v.client));
        let f = v.file(Ino::ROOT, "f").await;
        fill(&v, f, CHUNKS, 0).await;
        let mut cutting = Box::pin(client.truncate(&cx, f, 7, true));
        for turn in 1..=turns {
            if turn % write_each == 0 {
                // Some of it lies beyond the end by now and makes the file longer again.
                v.write(f, (turn as u64 * 37 % CHUNKS) * CHUNK_SIZE + 100, 10).await.expect("written");
            }
            if let Poll::Ready(cut) = cutting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                assert_eq!(cut.expect("cut").length, 7);
                v.write(f, CHUNKS * CHUNK_SIZE, 1).await.expect("written");
                assert_eq!(shown(&v, f).await, [(0, 7), (CHUNKS as u32, 1)], "after {turn} turns");
                settled(&v, []).await;
                return true;
            }
        }
        drop(cutting);
        // What is left is a file of some length that shows all that was in it.
        let length = v.attr(f).await.length;
        let whole = length / CHUNK_SIZE;
        let before = shown(&v, f).await.into_iter().filter(|(index, _)| u64::from(*index) < whole).count();
        assert!(write_each <= turns || before as u64 == whole, "{before} of {whole} chunks show something");
        settled(&v, []).await;
        false
    })
}

#[test]
fn a_cut_in_steps_is_right_at_every_moment() {
    for turns in 0..40 {
        if cut_while_others_write(turns, usize::MAX) {
            assert!(turns > 6, "it is done in steps");
            break;
        }
    }
    for write_each in [5, 7, 8, 11, 13] {
        assert!(cut_while_others_write(10_000, write_each), "with a write each {write_each} turns");
    }
}
