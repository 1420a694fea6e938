//! That the search for an explanation finds those that there are, and no others.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use juicefs_core::{Errno, Ino};

use super::{
    observe::{Observation, Seen},
    op::{Answer, Call, Face, Op, Reply, Units, take_apart},
    search::explain,
    state::State,
};

/// Calls by who made them and when, in milliseconds.
#[derive(Default)]
struct Story(Vec<Call>);

impl Story {
    fn call(mut self, process: usize, (begun, ended): (u64, u64), op: Op, answer: Answer) -> Self {
        let start = self.0.first().map_or_else(Instant::now, |first| first.begun);
        let at = |ms| start + Duration::from_millis(ms);
        self.0.push(Call { client: process, process, op, answer, begun: at(begun), ended: at(ended), after: None });
        self
    }

    fn explains(self, seen: &Observation) -> bool {
        explain(&State::new(), &take_apart(self.0), seen).is_ok()
    }
}

/// Files in the root, with their number of names and content.
fn seen(entries: &[(&str, u64)], files: &[(u64, u32, Units)]) -> Observation {
    let entries: BTreeMap<_, _> = entries.iter().map(|(name, ino)| ((*name).to_owned(), Ino(*ino))).collect();
    let root = Face { dir: true, mode: 0o777, nlink: 2, length: 4096 };
    let mut all = Observation { dirs: BTreeMap::from([(Ino::ROOT, entries)]), ..Observation::default() };
    all.nodes.insert(Ino::ROOT, Seen { face: root, units: vec![], xattr: None });
    for (ino, nlink, units) in files {
        let face = Face { dir: false, mode: 0o644, nlink: *nlink, length: (units.len() as u64) << 20 };
        all.nodes.insert(Ino(*ino), Seen { face, units: units.clone(), xattr: None });
    }
    all
}

fn create(exclusive: bool) -> Op {
    Op::Create { dir: Ino::ROOT, name: "f", exclusive }
}

fn made(ino: u64) -> Answer {
    Answer::Ok(Reply::Ino(Ino(ino)))
}

fn lost() -> Answer {
    Answer::Unknown("lost".to_owned())
}

fn write(at: usize, slice: u64) -> Op {
    Op::Write { ino: Ino(9), at, len: 1, slice }
}

fn wrote() -> Answer {
    Answer::Ok(Reply::Done)
}

#[test]
fn one_name_is_made_once() {
    let seen = seen(&[("f", 9)], &[(9, 1, vec![])]);
    let first = || Story::default().call(0, (0, 5), create(true), made(9));
    assert!(first().call(1, (1, 4), create(true), Answer::Errno(Errno::EEXIST)).explains(&seen));
    assert!(first().call(1, (1, 4), create(false), made(9)).explains(&seen));
    assert!(!first().call(1, (1, 4), create(true), made(9)).explains(&seen));
    assert!(!first().call(1, (1, 4), create(true), made(10)).explains(&seen));
    assert!(!first().call(1, (1, 4), create(false), made(10)).explains(&seen));
}

#[test]
fn answers_that_are_older_than_the_question_are_refused() {
    let seen = seen(&[("f", 9)], &[(9, 1, vec![])]);
    let lookup = |at| {
        let first = Story::default().call(0, (0, 5), create(true), made(9));
        first.call(1, at, Op::Lookup { dir: Ino::ROOT, name: "f" }, Answer::Errno(Errno::ENOENT)).explains(&seen)
    };
    assert!(lookup((1, 9)), "they overlap");
    assert!(!lookup((6, 9)), "the file had been made before");
}

#[test]
fn an_acknowledged_write_is_not_lost_nor_hidden_by_an_earlier_one() {
    let writes = |second: (u64, u64), units: Units| {
        let file = Story::default().call(0, (0, 1), create(true), made(9));
        let story = file.call(0, (2, 5), write(0, 1), wrote()).call(1, second, write(0, 2), wrote());
        story.explains(&seen(&[("f", 9)], &[(9, 1, units)]))
    };
    assert!(writes((3, 4), vec![Some((2, 0))]));
    assert!(writes((3, 4), vec![Some((1, 0))]));
    assert!(!writes((3, 4), vec![None]));
    assert!(writes((6, 7), vec![Some((2, 0))]));
    assert!(!writes((6, 7), vec![Some((1, 0))]));
    let length = |units: u64| {
        let face = Face { dir: false, mode: 0o644, nlink: 1, length: units << 20 };
        let append = Op::Append { ino: Ino(9), slice: 1 };
        let file = Story::default().call(0, (0, 1), create(true), made(9));
        file.call(0, (2, 3), append, Answer::Ok(Reply::Face(face)))
    };
    let content = seen(&[("f", 9)], &[(9, 1, vec![Some((1, 0))])]);
    assert!(length(1).explains(&content));
    assert!(!length(3).explains(&content));
}

#[test]
fn what_got_no_answer_happens_once_or_never_but_not_by_half() {
    let link = |names: &[(&str, u64)], nlink| {
        let file = Story::default().call(0, (0, 1), create(true), made(9));
        let story = file.call(0, (2, 3), Op::Link { ino: Ino(9), dir: Ino::ROOT, name: "g" }, lost());
        // Long after it was given up, it may still arrive.
        let later = story.call(0, (4, 5), Op::Lookup { dir: Ino::ROOT, name: "g" }, Answer::Errno(Errno::ENOENT));
        later.explains(&seen(names, &[(9, nlink, vec![])]))
    };
    assert!(link(&[("f", 9)], 1));
    assert!(link(&[("f", 9), ("g", 9)], 2));
    assert!(!link(&[("f", 9), ("g", 9)], 1));
    assert!(!link(&[("f", 9)], 2));
    assert!(!link(&[("f", 9), ("g", 9)], 3));
}

#[test]
fn an_unanswered_creation_shows_with_whatever_number() {
    let story = || Story::default().call(0, (0, 1), create(true), lost());
    assert!(story().explains(&seen(&[("f", 12)], &[(12, 1, vec![])])));
    assert!(story().explains(&seen(&[], &[])));
    assert!(!story().explains(&seen(&[], &[(12, 1, vec![])])));
}

#[test]
fn an_open_file_lives_until_its_own_client_closes_it() {
    let unlink = || Op::Unlink { dir: Ino::ROOT, name: "f" };
    let removed = |freed| Answer::Ok(Reply::Removed { ino: Some(Ino(9)), freed });
    let file = || Story::default().call(0, (0, 1), create(true), made(9));
    let mut kept = seen(&[], &[(9, 0, vec![])]);
    kept.sustained.insert((0, Ino(9)));
    let close = || Op::Close { ino: Ino(9) };
    let done = || Answer::Ok(Reply::Done);
    assert!(file().call(0, (2, 3), unlink(), removed(false)).explains(&kept));
    assert!(!file().call(0, (2, 3), unlink(), removed(true)).explains(&kept));
    assert!(
        file().call(0, (2, 3), unlink(), removed(false)).call(0, (4, 5), close(), done()).explains(&seen(&[], &[]))
    );
    // The other client does not know that it is open here.
    assert!(!file().call(1, (2, 3), unlink(), removed(false)).explains(&kept));
    assert!(file().call(1, (2, 3), unlink(), removed(false)).explains(&seen(&[], &[])));
    // A close whose freeing got no answer: done, or left to the end of the session.
    let closed = || file().call(0, (2, 3), unlink(), removed(false)).call(0, (4, 5), close(), lost());
    assert!(closed().explains(&kept) && closed().explains(&seen(&[], &[])));
}
