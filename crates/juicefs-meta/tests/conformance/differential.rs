//! The same history on every engine leaves the same answers and the same records.

use juicefs_core::{Attr, FileType, Ino, Timestamp};
use juicefs_meta::{
    Engine,
    engine::Patience,
    record::Key,
    txn::{Effect, Effects, NodeEffect, NodePatch, ReadSet, Wrote},
};
use proptest::prelude::*;

use crate::{
    history::{Answer, Player, Step, histories},
    snapshot::Snapshot,
    volume::{KINDS, Kind, Volume, block_on},
};

async fn play(kind: Kind, trash: bool, steps: &[(u32, Step)]) -> (Vec<Option<Answer>>, Snapshot) {
    let mut player = Player::new(kind, trash).await;
    let mut answers = Vec::new();
    for (uid, step) in steps {
        answers.push(player.play(*uid, step).await);
    }
    (answers, player.finish().await.1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engines_agree(steps in histories(80), trash in any::<bool>()) {
        block_on(async {
            let reference = play(Kind::Mem, trash, &steps).await;
            for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Mem) {
                let other = play(kind, trash, &steps).await;
                assert_eq!(other.0, reference.0, "answers of {kind:?}");
                assert_eq!(other.1, reference.1, "records of {kind:?}");
            }
        });
    }
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    let secs = prop_oneof![
        Just(0i64),
        Just(-1i64),
        1..2_000_000_000i64,
        2_000_000_000..1_000_000_000_000i64,
        -1_000_000..0i64
    ];
    let nanos = prop_oneof![0..1_000_000_000u32, Just(999_999_999), 1_000_000_000..=u32::MAX];
    (secs, nanos).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

fn sound_time() -> impl Strategy<Value = Timestamp> {
    (0..2_000_000_000i64, 0..1_000_000_000u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

fn any_node() -> impl Strategy<Value = Attr> {
    let links = prop_oneof![Just(0), Just(1), 0..10u32, Just(u32::MAX), Just(i32::MAX as u32), any::<u32>()];
    let length = prop_oneof![0..1u64 << 40, Just(1 << 57), (1u64 << 53)..(1 << 62), Just(i64::MAX as u64)];
    (links, length, any_time(), any_time(), any::<bool>()).prop_map(|(nlink, length, mtime, ctime, dir)| Attr {
        kind: if dir { FileType::Directory } else { FileType::File },
        mode: 0o644,
        nlink,
        length,
        mtime,
        ctime,
        parent: Ino::ROOT,
        ..Attr::default()
    })
}

fn any_patch() -> impl Strategy<Value = NodePatch> {
    let end = prop_oneof![0..1u64 << 40, (1u64 << 53)..(1 << 57)];
    let wrote = (sound_time(), sound_time(), end).prop_map(|(mtime, ctime, end)| Wrote { mtime, ctime, end });
    let (touched, wrote) = (prop::option::of(sound_time()), prop::option::of(wrote));
    (-3..=3i32, touched, wrote).prop_map(|(nlink, touched, wrote)| NodePatch { nlink, touched, wrote })
}

async fn patched(engine: &dyn Engine, ino: Ino, node: &Attr, patches: &[NodePatch]) {
    let apply = async |effect| {
        let effects = Effects { list: vec![effect], ..Effects::none() };
        engine.apply(&ReadSet::default(), &effects, Patience::Budget).await.expect("applied");
    };
    let stored = async || engine.fetch(&[Key::Node(ino)]).await.expect("fetched").node(ino).cloned().expect("there");
    apply(Effect::Node(ino, NodeEffect::Insert(node.clone()))).await;
    for patch in patches {
        let mut wanted = stored().await;
        patch.apply(&mut wanted);
        apply(Effect::Node(ino, NodeEffect::Patch(*patch))).await;
        assert_eq!(stored().await, wanted, "{patch:?} on {}", engine.describe());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    /// Also on nodes that nobody should ever have stored.
    #[test]
    fn a_patch_means_the_same_on_every_engine(
        nodes in prop::collection::vec((any_node(), prop::collection::vec(any_patch(), 1..5)), 10),
    ) {
        block_on(async {
            for kind in KINDS {
                let volume = Volume::new(kind, 0).await;
                for (nth, (node, patches)) in nodes.iter().enumerate() {
                    patched(volume.engine.as_ref(), Ino(1000 + nth as u64), node, patches).await;
                }
            }
        });
    }
}
