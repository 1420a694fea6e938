//! What takes a cache disk for one in trouble: variables of the environment, as other clients of such volumes know them.

use std::{str::FromStr, time::Duration};

use anyhow::{Result, anyhow};
use juicefs_chunk::HealthRules;

use crate::config::{resolved::Surroundings, values};

/// The rules, with what the environment says otherwise.
///
/// # Errors
/// A sentence for the user.
pub(super) fn resolve(here: &Surroundings) -> Result<HealthRules> {
    let mut rules = HealthRules::default();
    if let Some(longest) = duration(here, "JFS_MAX_IO_DURATION")? {
        rules.max_operation = longest;
        rules.read_deadline = rules.read_deadline.min(longest);
    }
    if let Some(down_after) = duration(here, "JFS_MAX_DURATION_TO_DOWN")? {
        rules.down_after = down_after;
    }
    if let Some(percent) = number::<f64>(here, "JFS_MAX_IO_ERR_PERCENTAGE", "a percentage from 0 to 100")? {
        if !(0.0..=100.0).contains(&percent) {
            return Err(anyhow!("JFS_MAX_IO_ERR_PERCENTAGE {percent} is not a percentage from 0 to 100"));
        }
        rules.max_failed_part = percent / 100.0;
    }
    if let Some(count) = number(here, "JFS_MAX_CONCURRENCY_FOR_UNSTABLE", "a number of operations")? {
        rules.unstable_operations = count;
    }
    Ok(rules)
}

fn duration(here: &Surroundings, name: &str) -> Result<Option<Duration>> {
    let parse = |text: &str| match values::duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err(anyhow!("{name} {text} must be longer than zero")),
        Err(why) => Err(anyhow!("{name} {text}: {why}")),
    };
    here.var(name).map(parse).transpose()
}

fn number<T: FromStr>(here: &Surroundings, name: &str, wanted: &str) -> Result<Option<T>> {
    let parse = |text: &str| text.parse().map_err(|_| anyhow!("{name} {text} is not {wanted}"));
    here.var(name).map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(vars: &[(&str, &str)]) -> Result<HealthRules> {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        resolve(&Surroundings { is_root: true, home: "/".into(), cwd: "/".into(), vars })
    }

    #[test]
    fn variables_change_the_rules() {
        assert_eq!(rules(&[]).expect("the defaults"), HealthRules::default());
        let changed = rules(&[
            ("JFS_MAX_IO_DURATION", "2s"),
            ("JFS_MAX_DURATION_TO_DOWN", "1m"),
            ("JFS_MAX_IO_ERR_PERCENTAGE", "5"),
            ("JFS_MAX_CONCURRENCY_FOR_UNSTABLE", "3"),
        ])
        .expect("good values");
        let seconds = Duration::from_secs;
        assert_eq!((changed.max_operation, changed.read_deadline), (seconds(2), seconds(2)));
        assert_eq!((changed.down_after, changed.max_failed_part, changed.unstable_operations), (seconds(60), 0.05, 3));
    }

    #[test]
    fn bad_values_are_named() {
        for (name, value) in [
            ("JFS_MAX_IO_DURATION", "0"),
            ("JFS_MAX_IO_DURATION", "soon"),
            ("JFS_MAX_IO_ERR_PERCENTAGE", "101"),
            ("JFS_MAX_CONCURRENCY_FOR_UNSTABLE", "-1"),
        ] {
            let text = rules(&[(name, value)]).expect_err("refused").to_string();
            assert!(text.contains(name) && text.contains(value), "{text}");
        }
    }
}
