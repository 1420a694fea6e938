//! What a suite of others found, compared with what is expected of it.
//!
//! Both are lists with a line for each test: `name kind reason`, divided by blanks, of the kinds `pass`, `fail` and
//! `notrun`. Blank lines and those that begin with `#` say nothing. `tests/expected/NAME.txt` lists the tests that do not
//! pass, each with its reason; whatever is not listed there has to pass.

use std::{collections::BTreeMap, fmt, fs};

use crate::environment::workspace_root;

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It ran and found nothing wrong.
    Pass,
    /// It ran and found something.
    Fail,
    /// It said that it cannot run here.
    NotRun,
}

impl Outcome {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "pass" => Some(Self::Pass),
            "fail" => Some(Self::Fail),
            "notrun" => Some(Self::NotRun),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::NotRun => "notrun",
        })
    }
}

/// Tests by name, with how they ended and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(BTreeMap<String, (Outcome, String)>);

impl Outcomes {
    /// Reads a list. An error names the line that is none, or that speaks of a test for the second time.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(3, char::is_whitespace);
            let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let reason = words.next().unwrap_or_default().trim();
            let Some(outcome) = Outcome::parse(kind) else {
                return Err(format!("line {}: {line:?} is not `name pass|fail|notrun reason`", number + 1));
            };
            if all.insert(name.to_owned(), (outcome, reason.to_owned())).is_some() {
                return Err(format!("line {}: {name} was there before", number + 1));
            }
        }
        Ok(Self(all))
    }

    /// The list `tests/expected/NAME.txt`.
    ///
    /// # Panics
    /// If it cannot be read, lists what passes, or gives no reason.
    pub fn expected(name: &str) -> Self {
        let path = workspace_root().join(format!("tests/expected/{name}.txt"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let list = Self::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (test, (outcome, reason)) in &list.0 {
            let said = *outcome != Outcome::Pass && !reason.is_empty();
            assert!(said, "{}: {test} needs a kind other than pass, and a reason", path.display());
        }
        list
    }

    /// Takes in the tests of another run.
    ///
    /// # Panics
    /// If a test is in both.
    pub fn extend(&mut self, other: Self) {
        for (name, found) in other.0 {
            assert!(!self.0.contains_key(&name), "{name} ran twice");
            self.0.insert(name, found);
        }
    }

    /// Takes tests out of a list of expectations, so that they have to pass: where the machine has what others lack.
    ///
    /// # Panics
    /// If one is not listed.
    pub fn must_pass(&mut self, names: &[&str]) {
        for name in names {
            assert!(self.0.remove(*name).is_some(), "{name} is not listed");
        }
    }

    /// How many tests ended so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.0.values().filter(|(found, _)| *found == outcome).count()
    }

    /// Fails unless every test ended as `expected` says, and every test that it lists was there.
    ///
    /// # Panics
    /// If one did not, with a line for each of them.
    pub fn assert_as(&self, expected: &Self) {
        let differences = differences(expected, self);
        assert!(differences.is_empty(), "not as expected:\n{}", differences.join("\n"));
    }
}

fn differences(expected: &Outcomes, found: &Outcomes) -> Vec<String> {
    let pass = (Outcome::Pass, String::new());
    let mut lines = Vec::new();
    for (name, (outcome, reason)) in &found.0 {
        let (wanted, why) = expected.0.get(name).unwrap_or(&pass);
        if outcome != wanted {
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            let colon = if reason.is_empty() { "" } else { ": " };
            lines.push(format!("{name}: expected {wanted}{why}, found {outcome}{colon}{reason}"));
        }
    }
    for (name, (wanted, why)) in &expected.0 {
        if !found.0.contains_key(name) {
            lines.push(format!("{name}: expected {wanted} ({why}), and it was not there"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Outcomes {
        Outcomes::parse(text).expect("a good list")
    }

    #[test]
    fn lines_are_read_and_bad_ones_named() {
        let read = list("# why\n\n a/1 fail  needs more\na/2 notrun no disk\na/3 pass\n");
        assert_eq!(read.0["a/1"], (Outcome::Fail, "needs more".to_owned()));
        assert_eq!(read.0["a/3"], (Outcome::Pass, String::new()));
        assert_eq!([Outcome::Pass, Outcome::Fail, Outcome::NotRun].map(|kind| read.count(kind)), [1, 1, 1]);
        assert!(Outcomes::parse("a pass\na/2 fails x").expect_err("another word").starts_with("line 2: "));
        assert!(Outcomes::parse("a/1").is_err());
        assert!(Outcomes::parse("a pass\na fail x").expect_err("twice").contains("before"));
    }

    #[test]
    fn whatever_ends_otherwise_is_told() {
        let expected = list("a fail limits\nb notrun no disk\nc fail slow\nd notrun no quota");
        let found = list("a fail other words\nb notrun\nc pass\nd fail EIO\ne pass\nf fail oops\ng notrun gone");
        assert_eq!(
            differences(&expected, &found),
            [
                "c: expected fail (slow), found pass",
                "d: expected notrun (no quota), found fail: EIO",
                "f: expected pass, found fail: oops",
                "g: expected pass, found notrun: gone",
            ]
        );
        assert_eq!(
            differences(&expected, &list("a fail\nb notrun\nc fail")),
            ["d: expected notrun (no quota), and it was not there"]
        );
        list("a fail\nb notrun\nc fail\nd notrun\nz pass").assert_as(&expected);
    }
}
