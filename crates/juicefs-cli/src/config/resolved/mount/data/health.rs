//! What takes a cache disk for one in trouble: variables of the environment, as other clients of such volumes know them.

use std::time::Duration;

use juicefs_chunk::HealthRules;

use crate::config::{resolved::Surroundings, values};

/// The rules, with what the environment says otherwise. What is not understood there leaves the default, with a warning.
pub(super) fn resolve(here: &Surroundings, warnings: &mut Vec<String>) -> HealthRules {
    let mut rules = HealthRules::default();
    let mut read = Reader { here, warnings };
    if let Some(longest) = read.duration("JFS_MAX_IO_DURATION") {
        rules.max_operation = longest;
        rules.read_deadline = rules.read_deadline.min(longest);
    }
    if let Some(down_after) = read.duration("JFS_MAX_DURATION_TO_DOWN") {
        rules.down_after = down_after;
    }
    let percent = |text: &str| text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    if let Some(percent) = read.value::<f64>("JFS_MAX_IO_ERR_PERCENTAGE", "a percentage from 0 to 100", percent) {
        rules.max_failed_part = percent / 100.0;
    }
    let count = |text: &str| text.parse().ok();
    if let Some(count) = read.value("JFS_MAX_CONCURRENCY_FOR_UNSTABLE", "a number of operations", count) {
        rules.unstable_operations = count;
    }
    rules
}

/// Variables, and what is wrong with them.
struct Reader<'a> {
    here: &'a Surroundings,
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn duration(&mut self, name: &str) -> Option<Duration> {
        let longer = |text: &str| values::duration(text).ok().filter(|duration| !duration.is_zero());
        self.value(name, "a duration above zero", longer)
    }

    fn value<T>(&mut self, name: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.here.var(name)?;
        let value = parse(text);
        if value.is_none() {
            self.warnings.push(format!("{name} is {text:?}, which is not {wanted}: it is ignored"));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(vars: &[(&str, &str)]) -> (HealthRules, Vec<String>) {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut warnings = Vec::new();
        let here = Surroundings { is_root: true, home: "/".into(), cwd: "/".into(), vars };
        (resolve(&here, &mut warnings), warnings)
    }

    #[test]
    fn variables_change_the_rules() {
        assert_eq!(rules(&[]), (HealthRules::default(), Vec::new()));
        let (changed, warnings) = rules(&[
            ("JFS_MAX_IO_DURATION", "2s"),
            ("JFS_MAX_DURATION_TO_DOWN", "1m"),
            ("JFS_MAX_IO_ERR_PERCENTAGE", "5"),
            ("JFS_MAX_CONCURRENCY_FOR_UNSTABLE", "3"),
        ]);
        assert_eq!(warnings, Vec::<String>::new());
        let seconds = Duration::from_secs;
        assert_eq!((changed.max_operation, changed.read_deadline), (seconds(2), seconds(2)));
        assert_eq!((changed.down_after, changed.max_failed_part, changed.unstable_operations), (seconds(60), 0.05, 3));
    }

    #[test]
    fn bad_values_are_named_and_ignored() {
        for (name, value) in [
            ("JFS_MAX_IO_DURATION", "0"),
            ("JFS_MAX_IO_DURATION", "soon"),
            ("JFS_MAX_IO_ERR_PERCENTAGE", "101"),
            ("JFS_MAX_CONCURRENCY_FOR_UNSTABLE", "-1"),
        ] {
            let (rules, warnings) = rules(&[(name, value)]);
            assert_eq!(rules, HealthRules::default());
            assert!(matches!(&warnings[..], [text] if text.contains(name) && text.contains(value)), "{warnings:?}");
        }
    }
}
