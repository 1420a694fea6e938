//! The same history on every engine leaves the same answers and the same records.

use proptest::prelude::*;

use crate::{
    history::{Answer, Player, Step, histories},
    snapshot::Snapshot,
    volume::{KINDS, Kind, block_on},
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
