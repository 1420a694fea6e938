//! Many slices become one.

use std::time::Duration;

use juicefs_core::{Ino, Meta, SliceId, SliceRecord, Timestamp, meta::Compacted, slice::resolve};

use crate::{
    invariants,
    snapshot::Snapshot,
    volume::{Kind, Volume, on_all, root, write_slice},
};

/// Compacts as the data layer would; what the commit said.
async fn compact(v: &Volume, ino: Ino) -> Option<Compacted> {
    let plan = v.client.plan_compaction(ino, 0).await.expect("planned")?;
    let slice = v.client.new_slice_id().await.expect("an id");
    Some(v.client.commit_compaction(ino, 0, &plan, slice).await.expect("committed"))
}

#[test]
fn replaced_slices_die_at_once_without_trash() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        for n in 0..200u64 {
            v.write(f, n * 1000, 1000).await.expect("written");
        }
        let Some(Compacted::Done(dead)) = compact(&v, f).await else { panic!("it must be done") };
        assert_eq!(dead.len(), 200);
        let records = v.client.read_chunk(f, 0).await.expect("read").records;
        assert_eq!((records.len(), records[0].len), (1, 200_000));
        assert!(compact(&v, f).await.is_none(), "nothing is left to gain");
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

#[test]
fn the_trash_holds_replaced_slices_back() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let f = v.file(Ino::ROOT, "f").await;
        for n in 0..20u64 {
            v.write(f, n * 1000, 1000).await.expect("written");
        }
        assert_eq!(compact(&v, f).await, Some(Compacted::Done(vec![])));
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
        let now = juicefs_core::Clock::now(v.clock.as_ref());
        assert!(v.client.release_delayed_slices(now, 100).await.expect("released").0.is_empty(), "too young");
        v.clock.advance(Duration::from_secs(1));
        let now = juicefs_core::Clock::now(v.clock.as_ref());
        assert_eq!(v.client.release_delayed_slices(now, 100).await.expect("released").0.len(), 20);
        assert!(v.client.release_delayed_slices(now, 100).await.expect("released").0.is_empty());
        assert_eq!(v.client.dead_slices(100).await.expect("scanned").len(), 20);
    });
}

#[test]
fn a_list_that_changed_loses_the_new_slice_only() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        for n in 0..3u64 {
            v.write(f, n * 10, 10).await.expect("written");
        }
        let plan = v.client.plan_compaction(f, 0).await.expect("planned").expect("worth it");
        // A later write is kept; a compaction by somebody else is not overwritten.
        v.write(f, 5, 1).await.expect("written");
        let before = resolve(&v.client.read_chunk(f, 0).await.expect("read").records);
        let Some(Compacted::Done(_)) = compact(&v, f).await else { panic!("it must be done") };
        let slice = v.client.new_slice_id().await.expect("an id");
        let lost = v.client.commit_compaction(f, 0, &plan, slice).await.expect("committed");
        assert_eq!(lost, Compacted::Lost);
        let dead = v.client.dead_slices(100).await.expect("scanned");
        assert!(dead.iter().any(|dead| dead.id == slice && dead.size == plan.size));
        let after = resolve(&v.client.read_chunk(f, 0).await.expect("read").records);
        assert_eq!(after.iter().map(|p| p.len).sum::<u32>(), before.iter().map(|p| p.len).sum::<u32>());
    });
}

#[test]
fn a_removed_file_is_not_compacted() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 10).await.expect("written");
        v.write(f, 10, 10).await.expect("written");
        let plan = v.client.plan_compaction(f, 0).await.expect("planned").expect("worth it");
        let freed = v.unlink(Ino::ROOT, "f").await.expect("unlinked").expect("data");
        v.client.delete_file_data(freed).await.expect("deleted");
        let slice = v.client.new_slice_id().await.expect("an id");
        assert_eq!(v.client.commit_compaction(f, 0, &plan, slice).await.expect("committed"), Compacted::Lost);
        assert!(v.client.read_chunk(f, 0).await.is_err());
    });
}

#[test]
fn copies_of_the_head_are_not_mistaken_for_it() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let size = 2_338_508;
        let id = v.client.new_slice_id().await.expect("an id");
        let record = SliceRecord { pos: 0, id, size, off: 0, len: size };
        write_slice(&v.client, f, 0, record, Timestamp::from_secs(1)).await.expect("written");
        let g = v.file(Ino::ROOT, "g").await;
        let cx = root();
        let copy = || v.client.copy_file_range(&cx, f, 0, g, 0, u64::from(size));
        copy().await.expect("copied");
        let zeros = SliceRecord { id: SliceId(0), size: 0, ..record };
        write_slice(&v.client, g, 0, zeros, Timestamp::from_secs(1)).await.expect("zeroed");
        copy().await.expect("copied");
        while compact(&v, g).await.is_some() {}
        let records = v.client.read_chunk(g, 0).await.expect("read").records;
        assert_eq!((records.len(), records[0].len), (1, size));
        v.client.flush_stats().await.expect("flushed");
        invariants::check(&Snapshot::take(v.engine.as_ref()).await);
    });
}

#[test]
fn delayed_slices_that_are_in_use_do_not_hold_up_the_others() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let f = v.file(Ino::ROOT, "f").await;
        let copy = v.file(Ino::ROOT, "copy").await;
        let mut compacted = 0;
        for n in 0..12u64 {
            v.write(f, n * 10, 10).await.expect("written");
            v.write(f, n * 10, 5).await.expect("written");
            // Another file shows what is replaced, but for the last.
            if n < 11 {
                v.client.copy_file_range(&root(), f, 0, copy, 0, 1000).await.expect("copied");
            }
            compacted += usize::from(compact(&v, f).await.is_some());
            v.tick();
        }
        assert!(compacted > 10);
        v.clock.advance(Duration::from_secs(10));
        let now = juicefs_core::Clock::now(v.clock.as_ref());
        let (mut dead, mut calls) = (0, 0);
        loop {
            let (slices, more) = v.client.release_delayed_slices(now, 5).await.expect("released");
            dead += slices.len();
            calls += 1;
            if !more {
                break;
            }
        }
        assert!(calls > 2 && dead > 0, "{calls} calls, {dead} dead slices");
        assert_eq!(v.client.dead_slices(1000).await.expect("scanned").len(), dead);
        v.client.flush_stats().await.expect("flushed");
        let all = Snapshot::take(v.engine.as_ref()).await;
        assert!(all.delayed.is_empty());
        invariants::check(&all);
    });
}
