//! The versions of clients, and how they compare (format: metadata.md §1.4).

use std::cmp::Ordering;

/// The version that this client shows to other clients of a volume, in checks of the format and in session records.
pub const CLIENT_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+rust");

/// A parsed version text: up to three numbers and a pre-release part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    numbers: [u64; 3],
    pre_release: String,
}

impl Version {
    /// Parses `1.4.1-beta1+build`; `None` when a number is missing or no number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split('+').next().unwrap_or_default();
        let (numbers, pre_release) = text.split_once('-').unwrap_or((text, ""));
        let mut out = [0; 3];
        for (at, part) in numbers.split('.').enumerate() {
            *out.get_mut(at)? = part.parse().ok()?;
        }
        Some(Self { numbers: out, pre_release: pre_release.to_owned() })
    }
}

impl Ord for Version {
    /// Compares the numbers first. If they are equal, a version without pre-release is the newest, and others compare
    /// as text.
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre_release.is_empty(), other.pre_release.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.pre_release.cmp(&other.pre_release),
            }
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_the_format() {
        let parse = |text| Version::parse(text).expect("a good version");
        let ascending = ["1.0.4", "1.1.0-A", "1.1.0-beta1", "1.1.0", "1.2.0-A", "1.4.1+rust", "1.5.0-dev"];
        assert!(ascending.windows(2).all(|pair| parse(pair[0]) < parse(pair[1])));
        assert_eq!(parse("1.4.1+a"), parse("1.4.1+b"));
        assert_eq!(Version::parse("one"), None);
    }
}
