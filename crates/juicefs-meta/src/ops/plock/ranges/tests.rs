use proptest::prelude::*;

use super::*;

/// Places of the model; the last one stands for everything from there on.
const PLACES: usize = 24;

/// Kind and process that each place is locked with.
type Places = [Option<(u32, u32)>; PLACES];

#[derive(Clone, Debug)]
struct Change {
    first: usize,
    last: usize,
    with: Option<(u32, u32)>,
}

impl Change {
    fn range(&self) -> LockRange {
        let end = if self.last == PLACES - 1 { LockRange::LAST } else { self.last as u64 };
        LockRange { start: self.first as u64, end }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let with = prop_oneof![3 => (0..2u32, 1..3u32).prop_map(Some), 2 => Just(None)];
    (0..PLACES, 0..PLACES, with).prop_map(|(a, b, with)| Change { first: a.min(b), last: a.max(b), with })
}

fn places(held: &[Plock]) -> Places {
    let mut places = [None; PLACES];
    for record in held {
        let last = record.range.end.min(PLACES as u64 - 1) as usize;
        for place in &mut places[record.range.start as usize..=last] {
            assert_eq!(*place, None, "two records over one place");
            *place = Some((record.kind, record.pid));
        }
    }
    places
}

proptest! {
    #[test]
    fn every_byte_has_what_was_last_set_there(changes in prop::collection::vec(change(), 1..24)) {
        let (mut held, mut model) = (Vec::new(), [None; PLACES]);
        for change in changes {
            let range = change.range();
            held = replace(&held, range, change.with.map(|(kind, pid)| Plock { kind, pid, range }));
            model[change.first..=change.last].fill(change.with);
            prop_assert_eq!(places(&held), model);
            // In order, and nothing that could be one record is two.
            for pair in held.windows(2) {
                prop_assert!(pair[0].range.end < pair[1].range.start);
                let alike = (pair[0].kind, pair[0].pid) == (pair[1].kind, pair[1].pid);
                prop_assert!(!alike || pair[0].range.end + 1 < pair[1].range.start, "{:?}", pair);
            }
            let whole = model.last().copied().flatten().is_none_or(|_| held.last().is_some_and(|l| l.range.end == LockRange::LAST));
            prop_assert!(whole, "a range without end keeps none: {:?}", held);
        }
    }

    #[test]
    fn setting_the_same_again_changes_nothing(changes in prop::collection::vec(change(), 1..12)) {
        let mut held = Vec::new();
        for change in &changes {
            let range = change.range();
            held = replace(&held, range, change.with.map(|(kind, pid)| Plock { kind, pid, range }));
        }
        for record in &held {
            prop_assert_eq!(&replace(&held, record.range, Some(*record)), &held);
        }
    }
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let range = LockRange { start: u64::MAX, end: u64::MAX };
    let held = [Plock { kind: 1, pid: 1, range: LockRange { start: 0, end: u64::MAX } }];
    assert_eq!(replace(&held, range, None)[0].range, LockRange { start: 0, end: u64::MAX - 1 });
    let again = replace(&held, range, Some(Plock { kind: 1, pid: 1, range }));
    assert_eq!(again, held);
}
