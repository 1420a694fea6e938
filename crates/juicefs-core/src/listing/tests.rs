use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::attr::FileType;

fn page(names: &[&str], next: bool, anew: bool, by_name: bool) -> DirPage {
    let entry = |name: &&str| DirEntry { name: Name::from(*name), ino: Ino(7), kind: FileType::File, attr: None };
    let next = next.then(|| DirCursor(Bytes::from_static(b"on")));
    DirPage { entries: names.iter().map(entry).collect(), next, anew, by_name }
}

fn names(entries: Vec<DirEntry>) -> Vec<String> {
    entries.into_iter().map(|entry| entry.name.to_string()).collect()
}

#[test]
fn what_a_page_repeats_is_left_out() {
    let mut listing = Listing::of(Ino(1));
    assert_eq!(names(listing.take(page(&["c", "a", "c"], true, false, false))), ["c", "a"]);
    assert_eq!(names(listing.take(page(&["a", "b"], true, false, false))), ["b"]);
    assert!(names(listing.take(page(&["c", "a"], true, false, false))).is_empty());
    assert!(matches!(listing.position, Position::At(_)), "an empty page is not the end");
    assert!(names(listing.take(page(&[], false, false, false))).is_empty());
    assert!(matches!(listing.position, Position::End));
}

#[test]
fn a_listing_that_begins_anew_goes_on_with_what_it_has_not_given() {
    for by_name in [false, true] {
        let mut listing = Listing::of(Ino(1)).with_attrs().by(3);
        assert!(listing.with_attrs && listing.page_len == 3);
        assert_eq!(names(listing.take(page(&["a", "b", "c"], true, false, by_name))), ["a", "b", "c"]);
        assert!(listing.take(page(&["a", "b"], true, true, by_name)).is_empty());
        assert_eq!(names(listing.take(page(&["c", "d"], false, false, by_name))), ["d"]);
        assert_eq!(listing.given.names.len(), if by_name { 0 } else { 4 }, "what is kept");
    }
}

/// One life of a directory's server: in which order it gives the names, how it cuts them, which of those before it
/// repeats on each page, and after how many pages it goes.
#[derive(Clone, Debug)]
struct Life {
    order: Vec<u8>,
    cuts: Vec<usize>,
    repeats: Vec<Vec<prop::sample::Index>>,
    pages: usize,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let order = Just((0..40).collect::<Vec<u8>>()).prop_shuffle();
    let repeats = vec(vec(any::<prop::sample::Index>(), 0..4), 42);
    let life = (order, vec(0..7_usize, 42), repeats, 0..12_usize);
    vec(life.prop_map(|(order, cuts, repeats, pages)| Life { order, cuts, repeats, pages }), 1..5)
}

/// When a name is in the directory: from one page on, and up to another.
type Stay = (usize, usize);

/// All pages of a listing through these lives, the last of which ends it. With each name goes when it was there.
fn pages(lives: &[Life], stays: &[Stay], by_name: bool) -> Vec<DirPage> {
    let mut out: Vec<DirPage> = Vec::new();
    for (turn, life) in lives.iter().enumerate() {
        let last_life = turn + 1 == lives.len();
        let mut order = life.order.clone();
        if by_name {
            order.sort_unstable();
        }
        let (mut at, mut number) = (0, 0);
        loop {
            let len = if number < 41 { life.cuts[number] } else { order.len() };
            let cut = &order[at..order.len().min(at + len)];
            let mut shown = cut.to_vec();
            if !by_name && at > 0 && number < 42 {
                shown.extend(life.repeats[number].iter().map(|index| order[index.index(at)]));
            }
            at += cut.len();
            number += 1;
            let there = |name: &u8| (stays[usize::from(*name)].0..stays[usize::from(*name)].1).contains(&out.len());
            let shown: Vec<_> = shown.iter().filter(|name| there(name)).map(|name| format!("{name:02}")).collect();
            let shown: Vec<_> = shown.iter().map(String::as_str).collect();
            let ends = at == order.len() && (last_life || number >= life.pages);
            let goes = !last_life && number >= life.pages;
            out.push(page(&shown, !(ends && last_life), turn > 0 && number == 1, by_name));
            if ends || goes {
                break;
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn each_name_is_given_once(
        lives in lives(),
        by_name: bool,
        came in vec(prop_oneof![3 => Just(0..usize::MAX), 1 => (0..20_usize).prop_map(|from| from..usize::MAX),
            1 => (0..20_usize).prop_map(|to| 0..to)], 40),
    ) {
        let stays: Vec<Stay> = came.iter().map(|stay| (stay.start, stay.end)).collect();
        let mut listing = Listing::of(Ino(1));
        let mut given = Vec::new();
        for page in pages(&lives, &stays, by_name) {
            prop_assert!(!matches!(listing.position, Position::End));
            given.extend(names(listing.take(page)));
        }
        prop_assert!(matches!(listing.position, Position::End));
        let once: BTreeSet<_> = given.iter().cloned().collect();
        prop_assert_eq!(once.len(), given.len(), "none twice");
        for (name, stay) in stays.iter().enumerate().filter(|(_, stay)| **stay == (0, usize::MAX)) {
            prop_assert!(once.contains(&format!("{name:02}")), "{} was there throughout: {:?}", name, stay);
        }
        prop_assert!(!by_name || listing.given.names.is_empty());
    }
}
