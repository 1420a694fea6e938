//! The hourly directories of the trash: their names, and how one comes to be (format: metadata.md §6.14).

use juicefs_core::{
    attr::{FileType, Timestamp},
    civil::{date_of, day_of},
    ids::{Ino, Name},
};

use super::{
    Verdict,
    account::count_new,
    decision,
    setting::{TRASH_MODE, directory},
};
use crate::{
    record::{DirStat, Edge, Key},
    txn::{AccountEffect, Decision, EdgeEffect, Effect, Effects, NodeEffect, Operation, ReadSet},
};

/// Finds the hourly directory of a name, or makes it.
#[derive(Debug)]
pub(crate) struct MakeHourly {
    pub(crate) name: Name,
    /// A number from the counter of trash directories.
    pub(crate) ino: Ino,
    pub(crate) now: Timestamp,
}

impl Operation for MakeHourly {
    type Reply = Ino;
    const NAME: &'static str = "make_trash";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(Ino::TRASH_ROOT), Key::Edge(Ino::TRASH_ROOT, self.name.clone())]
    }

    fn decide(&self, read: &ReadSet) -> Decision<Ino> {
        decision(self.judge(read))
    }
}

impl MakeHourly {
    fn judge(&self, read: &ReadSet) -> Verdict<Ino> {
        if let Some(edge) = read.edge(Ino::TRASH_ROOT, &self.name) {
            return Ok((edge.ino, Effects::none()));
        }
        let mut effects = Effects::none();
        if read.node(Ino::TRASH_ROOT).is_none() {
            effects.push(Effect::Node(Ino::TRASH_ROOT, NodeEffect::Insert(directory(TRASH_MODE, Ino::ROOT, self.now))));
        }
        let attr = directory(TRASH_MODE, Ino::TRASH_ROOT, self.now);
        let edge = Edge { ino: self.ino, kind: FileType::Directory };
        effects.push(Effect::Edge(Ino::TRASH_ROOT, self.name.clone(), EdgeEffect::Insert(edge)));
        count_new(&mut effects, &attr);
        effects.push(Effect::Node(self.ino, NodeEffect::Insert(attr)));
        effects.push(Effect::Account(AccountEffect::PutDirStat(self.ino, DirStat::default())));
        Ok((self.ino, effects))
    }
}

/// The hour that a time lies in, counted from the epoch.
pub(crate) fn hour_of(time: Timestamp) -> i64 {
    time.secs.div_euclid(3600)
}

/// The name of the directory of an hour: `YYYY-MM-DD-HH` in UTC.
pub(crate) fn hourly_name(hour: i64) -> Name {
    let (year, month, day) = date_of(hour.div_euclid(24));
    Name::from(format!("{year:04}-{month:02}-{day:02}-{:02}", hour.rem_euclid(24)).into_bytes())
}

/// The hour that a directory of the trash is named after, `None` for any other name.
pub(crate) fn parse_hourly(name: &Name) -> Option<i64> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let mut parts = text.split('-').map(|part| {
        let digits = part.bytes().all(|b| b.is_ascii_digit());
        if digits { part.parse::<i64>().ok() } else { None }
    });
    let mut next = || parts.next().flatten();
    let (year, month, day, hour) = (next()?, next()?, next()?, next()?);
    let hour = day_of(year, month, day) * 24 + hour;
    (hourly_name(hour) == *name).then_some(hour)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_utc_hours() {
        let name = |secs| hourly_name(hour_of(Timestamp::from_secs(secs)));
        assert_eq!(name(0), Name::from("1970-01-01-00"));
        assert_eq!(name(951_826_500), Name::from("2000-02-29-12"));
        assert_eq!(name(1_795_150_799), Name::from("2026-11-20-04"));
        assert_eq!(parse_hourly(&Name::from("2023-02-29-00")), None);
        assert_eq!(parse_hourly(&Name::from("2023-02-28-24")), None);
        assert_eq!(parse_hourly(&Name::from("lost+found")), None);
        assert_eq!(parse_hourly(&Name::from("2023-02-28-+1")), None);
    }

    proptest! {
        #[test]
        fn names_parse_back(hour in -100_000i64..80_000_000) {
            prop_assume!(hour >= -17_000_000);
            prop_assert_eq!(parse_hourly(&hourly_name(hour)), Some(hour));
        }
    }
}
